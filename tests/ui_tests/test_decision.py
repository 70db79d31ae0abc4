from __future__ import annotations

from collections.abc import Callable

import pytest
from rich.console import Console

from autoprog.decisions import Decision
from autoprog.ui.render_rich import draw_heat_map, view
from autoprog.ui.search_sections import (
    decision_columns,
    decision_section,
    heat_map,
    ranked,
    runner_up_text,
)
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
