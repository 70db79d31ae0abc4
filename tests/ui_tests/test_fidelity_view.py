"""The views of a report of fidelity: table, words, plain text, JSON and the line of each training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from autoprog.events import SubnetTrained
from autoprog.fidelity_report import Agreement, ComparedSubnet, FidelityReport, write_fidelity
from autoprog.ui.live import event_lines
from autoprog.ui.render_rich import view
from autoprog.ui.search_sections import (
    fidelity_columns,
    fidelity_lines,
    fidelity_section,
    training_text,
)
from autoprog.ui.show import show
from autoprog.ui.state import RunState
from supernet.config import SubnetConfig, TokenRule

NOTHING: dict[str, Any] = dict.fromkeys(Agreement.model_fields)


def agreement(**values: Any) -> Agreement:
    return Agreement(**{**NOTHING, "pairs": 3, **values})


def report(overall: Agreement | None = None, seeds: int = 2, **values: Any) -> FidelityReport:
    rows = (
        (SubnetConfig(6, 128), 0.16, 2.4, (2.30, 2.34)),
        (SubnetConfig(12, 128), 0.31, 2.2, (2.20, 2.22)),
        (SubnetConfig(12, 224), 1.0, 2.3, (2.10, None)),
    )
    judged = tuple(
        ComparedSubnet(subnet=s, relative_cost=c, estimate=e, losses=losses[:seeds])
        for s, c, e, losses in rows
    )
    told = agreement(
        tau=0.8123,
        low=0.5,
        high=0.95,
        null_tau=0.6,
        gain_low=0.01,
        gain_high=0.4,
        seeds_tau=0.9,
    )
    fixed = {
        "decision": 1,
        "step": 300,
        "begin": "start",
        "epochs": 2.0,
        "seeds": seeds,
        "subnets": judged,
        "overall": overall or told,
        "equal_cost": agreement(pairs=1, tau=1.0),
        "cost_ratio": 1.15,
        "seconds": 95.0,
    }
    return FidelityReport.model_validate({**fixed, **values})


def cells(fidelity: FidelityReport) -> dict[str, tuple[str, ...]]:
    return {column.header: column.cells for column in fidelity_columns(fidelity)}


def test_the_table_is_by_real_loss_with_what_diverged_last() -> None:
    table = cells(report())
    assert table["depth"] == ("12", "6", "12")
    assert table["px"] == ("128", "128", "224")
    assert table["estimated"] == ("1", "3", "2")
    assert table["trained"] == ("2.2100", "2.3200", "–")
    assert table["seed 1"] == ("2.2200", "2.3400", "–")
    assert table["MACs"] == ("31%", "16%", "100%")
    assert "tokens" not in table


def test_one_seed_and_tokens_change_the_columns() -> None:
    sparse = SubnetConfig(12, 224, TokenRule(0.5))
    rows = (
        *report(seeds=1).subnets,
        ComparedSubnet(subnet=sparse, relative_cost=0.5, estimate=2.0, losses=(2.0,)),
    )
    table = cells(report(seeds=1, subnets=rows))
    assert "seed 0" not in table
    assert table["tokens"] == ("k0.5", "k1", "k1", "k1")


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        ((0.01, 0.4), "the estimates say more than the cost does"),
        ((-0.4, -0.01), "the estimates say less than the cost does"),
        ((-0.1, 0.1), "not distinguished from cost alone"),
    ],
)
def test_the_words_say_whether_estimates_beat_cost(gain: tuple[float, float], words: str) -> None:
    told = report().overall.model_copy(update={"gain_low": gain[0], "gain_high": gain[1]})
    first, whole, near = fidelity_lines(report(told))
    assert first == (
        "3 subnets trained 2 times for 2 epochs from the network before the supernet phase, in 1:35"
    )
    assert whole == (
        "all 3 pairs: Kendall tau 0.81 (95 %: 0.50 to 0.95), by cost alone 0.6,"
        f" one training of another 0.9; {words}"
    )
    assert near == (
        "1 pair within 15% of cost: Kendall tau 1.00, by cost alone –, one training of another –"
    )


def test_pairs_that_trainings_tell_apart_have_a_line_of_their_own() -> None:
    *_, last = fidelity_lines(report(beyond_seed_noise=agreement(pairs=2, tau=0.5)))
    assert last.startswith("2 pairs that trainings distinguish: Kendall tau 0.50")


def test_too_few_subnets_are_said_to_be_too_few() -> None:
    lines = fidelity_lines(report(agreement(pairs=0), seeds=1, begin="scratch"))
    assert "trained once" in lines[0]
    assert "from the run's first weights" in lines[0]
    assert lines[1] == "all 0 pairs: too few that differ"


def test_a_view_fits_its_width(
    fixed_console: Callable[..., Console], shown: Callable[[Console], str]
) -> None:
    for width in (60, 100, 200):
        console = fixed_console(width)
        console.print(view(fidelity_section(report())))
        text = shown(console)
        assert "Fidelity · decision 1" in text
        assert "tau 0.81" in " ".join(text.split())
        assert max(map(len, text.splitlines())) <= width


def test_show_tells_of_it_in_all_forms(
    fixed_console: Callable[..., Console],
    shown: Callable[[Console], str],
    run_builder: Callable[[int], Path],
) -> None:
    run = run_builder(2300)
    forms: list[dict[str, bool]] = [{}, {"plain": True}, {"as_json": True}]
    texts = []
    for with_report in (False, True):
        if with_report:
            write_fidelity(run, report())
        for form in forms:
            console = fixed_console(100)
            show(str(run), console=console, clock=lambda: 0.0, **form)  # type: ignore[arg-type]
            texts.append(shown(console))
    assert not any("Kendall" in text for text in texts[:3])
    assert json.loads(texts[2])["fidelity"] is None
    assert "Kendall tau 0.81" in texts[3]
    assert "Kendall tau 0.81" in texts[4]
    assert texts[4].isascii()
    assert json.loads(texts[5])["fidelity"] == report().model_dump(mode="json", by_alias=True)


def test_each_training_is_a_line() -> None:
    event = SubnetTrained(
        step=300,
        decision=1,
        number=2,
        total=24,
        subnet=SubnetConfig(8, 160),
        loss=None,
        seconds=31.0,
    )
    assert training_text(event) == "real training 3/24: d8 r160, loss –, in 31.0 s"
    assert event_lines(event, RunState()) == [
        "decision 1, real training 3/24: d8 r160, loss -, in 31.0 s"
    ]
