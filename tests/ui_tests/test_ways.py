"""The chosen continuation and the front: drawn, in plain text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from autoprog.decisions import Continuation, Decision, FrontPoint
from autoprog.events import Decided
from autoprog.ui.live import event_lines
from autoprog.ui.render_rich import view
from autoprog.ui.search_sections import (
    continuation_text,
    decision_section,
    front_parts,
    front_section,
    then_text,
)
from autoprog.ui.section import Chart, Table
from autoprog.ui.show import show
from autoprog.ui.state import RunState
from supernet.config import SubnetConfig, TokenRule

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
