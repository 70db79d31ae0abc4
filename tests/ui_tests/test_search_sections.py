"""What is shown of a search: decisions, the continuations they weighed, and how far estimates hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from autoprog.decisions import Continuation, Decision, FrontPoint
from autoprog.events import Decided, SubnetTrained
from autoprog.fidelity_report import Agreement, ComparedSubnet, FidelityReport, write_fidelity
from autoprog.ui.live import event_lines
from autoprog.ui.render_rich import draw_heat_map, view
from autoprog.ui.search_sections import (
    continuation_text,
    decision_columns,
    decision_section,
    fidelity_columns,
    fidelity_lines,
    fidelity_section,
    front_parts,
    front_section,
    heat_map,
    ranked,
    runner_up_text,
    then_text,
    training_text,
)
from autoprog.ui.section import Chart, Table
from autoprog.ui.show import show
from autoprog.ui.state import RunState
from autoprog.ui.tables import Column, fit_columns, plain_table
from supernet.config import SubnetConfig, TokenRule


def drawn(
    decision: Decision,
    width: int,
    fixed_console: Callable[..., Console],
    shown: Callable[[Console], str],
) -> list[str]:
    console = fixed_console(width)
    console.print(view(decision_section(decision)))
    return shown(console).splitlines()


@pytest.mark.parametrize("width", [60, 80, 160])
def test_the_table_fits_and_marks_the_winner_alone(
    width: int,
    decision: Decision,
    fixed_console: Callable[..., Console],
    shown: Callable[[Console], str],
) -> None:
    lines = drawn(decision, width, fixed_console, shown)
    assert {len(line) for line in lines} == {width}
    marked = [line for line in lines if "▶" in line and "2.2480" in line]
    assert len(marked) == 1
    assert "0.8000" in marked[0]
    text = "\n".join(lines)
    for candidate in decision.candidates:
        assert f"{candidate.loss:.4f}" in text
        assert f"{candidate.score:.4f}" in text
    assert "grow to depth 8, 160 px" in text
    assert "lowest predicted loss" in text


def test_candidates_are_ranked_by_score(decision: Decision) -> None:
    scores = [candidate.score for candidate in ranked(decision)]
    assert scores == sorted(scores)
    columns = {column.header: column.cells for column in decision_columns(decision)}
    assert columns["rank"] == tuple(str(place) for place in range(1, 10))
    assert columns["vs stay"].count("stay") == 1
    assert columns["vs stay"][0] == "-0.0345 ±0.0042"
    assert columns["ms/step"][0] == "64"


def test_a_winner_that_is_not_first_is_still_the_one_marked(decision: Decision) -> None:
    forced = decision.model_copy(update={"winner": 0})
    columns = {column.header: column.cells for column in decision_columns(forced)}
    place = ranked(forced).index(forced.chosen)
    assert columns[" "].index("▶") == place > 0
    assert "score 0.8000" in runner_up_text(forced)


def test_the_runner_up_is_named_with_its_margin(decision: Decision) -> None:
    assert (
        runner_up_text(decision) == "runner-up: d8 r128 (depth 8, 128 px), score 0.8096 (+1.20 %)"
    )


def test_a_sole_candidate_has_no_runner_up(decision: Decision) -> None:
    alone = decision.model_copy(update={"candidates": decision.candidates[:1], "winner": 0})
    assert runner_up_text(alone) == ""


def test_the_map_shades_the_best_darkest(decision: Decision) -> None:
    picture = heat_map(decision)
    assert picture is not None
    lines = draw_heat_map(picture).plain.splitlines()
    assert lines[0].split() == ["score", "128", "px", "160", "px", "192", "px"]
    assert "▶0.8000 ██" in lines[2]
    assert "0.8296 ░░" in lines[1]


def test_of_candidates_that_differ_in_their_keep_rates_the_map_shows_the_best(
    decision: Decision,
) -> None:
    pruned = tuple(
        candidate.model_copy(
            update={
                "subnet": SubnetConfig(
                    candidate.subnet.depth, candidate.subnet.img_size, TokenRule(0.5)
                ),
                "score": candidate.score + delta,
            }
        )
        for candidate, delta in zip(decision.candidates, [-0.01, *[0.5] * 8], strict=True)
    )
    both = decision.model_copy(update={"candidates": (*pruned, *decision.candidates)})
    whole, best = heat_map(decision), heat_map(both.model_copy(update={"winner": 9 + 4}))
    assert whole is not None
    assert best is not None
    changed = [
        (old, new)
        for old, new in zip(
            draw_heat_map(whole).plain.split(), draw_heat_map(best).plain.split(), strict=True
        )
        if old != new and old.startswith("0.")
    ]
    score = decision.candidates[0].score
    assert changed == [(f"{score:.4f}", f"{score - 0.01:.4f}")]


def test_there_is_no_map_of_one_axis(decision: Decision) -> None:
    one_axis = tuple(c for c in decision.candidates if c.subnet.img_size == 160)
    narrowed = decision.model_copy(update={"candidates": one_axis, "winner": 1})
    assert heat_map(narrowed) is None


def test_columns_leave_by_rank_until_the_rest_fits() -> None:
    columns = [Column("a", ("1",)), Column("bb", ("2",), rank=2), Column("cc", ("3",), rank=1)]
    assert [c.header for c in fit_columns(columns, 9)] == ["a", "bb", "cc"]
    assert [c.header for c in fit_columns(columns, 8)] == ["a", "cc"]
    assert [c.header for c in fit_columns(columns, 1)] == ["a"]


def test_plain_tables_are_aligned_ascii() -> None:
    columns = [Column("Δloss", ("+1 ±2", "±3")), Column("to", ("d8", "d12"), "left")]
    assert plain_table(columns) == [
        "change of loss  to",
        "        +1 +-2  d8",
        "           +-3  d12",
    ]


# The decision is taken at step 1000, epoch 10, for d8 r160; the run has 4000 steps.
WAY: Continuation = (
    (1000, SubnetConfig(8, 160)),
    (2250, SubnetConfig(8, 224)),
    (3400, SubnetConfig(12, 224)),
)


TEXT = "then d8 r224 from epoch 22.5, d12 r224 from epoch 34"


def with_front(decision: Decision, rule: str = "pareto", count: int = 12) -> Decision:
    """Return the decision with a front of so many ways, of which the fourth is the chosen one."""
    front = tuple(
        FrontPoint(
            predicted_loss=2.0 - 0.05 * place,
            remaining_seconds=1000.0 + 300 * place,
            continuation=WAY
            if place == 3
            else ((1000, SubnetConfig(8, 160)), (3400 - place, SubnetConfig(12, 224))),
        )
        for place in range(count)
    )
    return decision.model_copy(update={"rule": rule, "continuation": WAY, "front": front})


def front_table(decision: Decision) -> Table:
    (table,) = (part for part in front_parts(decision) if isinstance(part, Table))
    return table


def test_what_follows_is_told_with_its_epochs(decision: Decision) -> None:
    assert then_text(decision.model_copy(update={"continuation": WAY})) == TEXT
    assert (
        continuation_text(decision.model_copy(update={"continuation": WAY})) == f"d8 r160, {TEXT}"
    )


@pytest.mark.parametrize("continuation", [(), WAY[:1]], ids=["not on record", "nothing more"])
def test_where_nothing_follows_nothing_is_said(
    decision: Decision, continuation: Continuation
) -> None:
    alone = decision.model_copy(update={"continuation": continuation})
    assert then_text(alone) == ""
    assert continuation_text(alone) == "d8 r160"


def test_keep_rates_are_part_of_what_follows(decision: Decision) -> None:
    pruned = (WAY[0], (2000, SubnetConfig(12, 224, TokenRule(0.7))))
    assert (
        then_text(decision.model_copy(update={"continuation": pruned}))
        == "then d12 r224 k0.7 from epoch 20"
    )


def test_a_forced_decision_has_a_way_on(decision: Decision) -> None:
    forced = Decision(
        index=3,
        step=3000,
        epoch=30.0,
        rule="rollout",
        current=decision.current,
        forced=SubnetConfig(12, 224),
        reason="it is due",
    )
    assert continuation_text(forced) == "d12 r224"


def test_the_table_of_the_front_has_every_way_with_the_chosen_one_marked(
    decision: Decision,
) -> None:
    mark, left, loss, way = front_table(with_front(decision)).columns
    assert mark.cells == (" ",) * 3 + ("▶",) + (" ",) * 8
    assert left.cells[0] == "16:40"
    assert loss.cells[:2] == ("2.0000", "1.9500")
    assert way.cells[0] == "d8 r160, d12 r224 from epoch 34"
    assert way.cells[3] == "d8 r160, d8 r224 from epoch 22.5, d12 r224 from epoch 34"


def test_a_long_front_is_cut_to_some_rows_with_both_ends_and_the_chosen_way(
    decision: Decision,
) -> None:
    columns = replace(front_table(with_front(decision, count=40)), max_drawn=5).thinned().columns
    assert [len(column.cells) for column in columns] == [6] * 4
    losses = columns[2].cells
    assert (losses[0], losses[-1]) == ("2.0000", "0.0500")
    assert columns[0].cells.count("▶") == 1
    assert losses[columns[0].cells.index("▶")] == "1.8500"
    short = replace(front_table(with_front(decision, count=5)), max_drawn=5)
    assert short.thinned().num_rows == 5


@pytest.mark.parametrize("width", [60, 80, 160])
@pytest.mark.parametrize("rule", ["rollout", "pareto", "budget"])
def test_the_front_is_drawn_with_the_chosen_way_on_its_axis(
    rule: str,
    width: int,
    decision: Decision,
    fixed_console: Callable[..., Console],
    shown: Callable[[Console], str],
) -> None:
    lines = drawn(with_front(decision, rule), width, fixed_console, shown)
    assert {len(line) for line in lines} == {width}
    text = "\n".join(lines)
    assert "end loss over time left, on the front" in text
    for part in TEXT.split():
        assert part in text
    axis = next(line for line in lines if "└" in line)
    columns = axis.index("│", axis.index("└")) - axis.index("└") - 1
    place = axis.index("▲") - axis.index("└") - 1
    assert place / columns == pytest.approx(3 / 11, abs=0.06)
    below = lines[lines.index(axis) + 1]
    assert below.strip("│ ").split() == ["16:40", "1:11:40"]
    dots = sum(0x2800 < ord(letter) < 0x2900 for letter in text)
    assert dots >= 10
    has_table = "continuation" in text.split("▲ chosen")[1]
    assert has_table == (rule != "rollout")  # whose scores decide, not the front


def test_ways_that_are_too_long_for_the_table_are_cut(
    decision: Decision, fixed_console: Callable[..., Console], shown: Callable[[Console], str]
) -> None:
    wide, narrow = (
        "\n".join(drawn(with_front(decision), width, fixed_console, shown)) for width in (100, 60)
    )
    assert "d8 r160, d8 r224 from epoch 22.5, d12 r224 from epoch 34 " in wide
    assert "…" not in wide.split("▲ chosen")[1]
    assert "d8 r160, d8 r224 from epoch 22.5,…" in narrow.split("▲ chosen")[1]


def test_a_front_falls_from_the_upper_left_to_the_lower_right(
    decision: Decision, fixed_console: Callable[..., Console], shown: Callable[[Console], str]
) -> None:
    console = fixed_console(60)
    picture = front_section(with_front(decision, "rollout"))
    console.print(view(replace(picture, title="")))
    rows = [line for line in shown(console).splitlines() if "┤" in line or "│" in line]
    first, last = (rows[place].rstrip() for place in (0, -1))
    assert (first.split()[0], last.split()[0]) == ("2", "1.45")
    assert len(first) < len(last)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_ways_are_not_drawn(decision: Decision, count: int) -> None:
    found = with_front(decision, count=count)
    assert front_section(found).parts == ()
    assert not any(isinstance(part, Chart) for part in decision_section(found).parts)


def test_a_chosen_way_off_the_front_is_not_marked(decision: Decision) -> None:
    """A tie went to the plan so far, which others beat."""
    off = with_front(decision).model_copy(update={"continuation": WAY[:2]})
    assert "▶" not in front_table(off).columns[0].cells
    assert front_section(off).parts


def test_the_log_tells_the_way_on(decision: Decision) -> None:
    planned = with_front(decision)
    first = event_lines(Decided(step=1000, decision=planned), RunState())[0]
    assert f"grow to depth 8, 160 px, {TEXT}; lowest predicted loss" in first
    assert first.isascii()


def recorded(run: Path, decision: Decision) -> Path:
    (run / "decisions.jsonl").write_text(json.dumps(decision.model_dump(mode="json")) + "\n")
    return run


def test_plain_text_tells_the_way_on_and_lists_the_front(
    decision: Decision,
    run_builder: Callable[[int], Path],
    fixed_console: Callable[..., Console],
    shown: Callable[[Console], str],
) -> None:
    console = fixed_console(100)
    show(str(recorded(run_builder(1000), with_front(decision))), plain=True, console=console)
    text = shown(console)
    assert text.isascii()
    assert f"\ndecided: grow to depth 8, 160 px\n{TEXT}\n" in text
    table = text.split("continuations that none beats:\n")[1].splitlines()
    assert table[0].split() == ["left", "end", "loss", "continuation"]
    assert len([line for line in table[1:13] if "d12 r224 from epoch" in line]) == 12
    assert [line for line in table[1:13] if line.startswith("*")] == [table[4]]


def test_json_holds_the_way_on_and_the_front(
    decision: Decision,
    run_builder: Callable[[int], Path],
    fixed_console: Callable[..., Console],
    shown: Callable[[Console], str],
) -> None:
    planned, console = with_front(decision), fixed_console(100)
    show(str(recorded(run_builder(1000), planned)), as_json=True, console=console)
    (told,) = json.loads(shown(console))["decisions"]
    assert told == planned.model_dump(mode="json")
    assert len(told["front"]) == 12
    assert [step for step, _ in told["continuation"]] == [1000, 2250, 3400]


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
