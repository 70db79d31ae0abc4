from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from rich.console import Console

from autoprog.events import Event
from autoprog.ui.format import (
    amount,
    ascii_text,
    duration,
    mebibytes,
    milliseconds,
    number,
    per_cent,
)
from autoprog.ui.live import frame
from autoprog.ui.render_rich import draw_chart, view
from autoprog.ui.run_sections import (
    accuracy_series,
    curves_section,
    growth_section,
    result_rows,
)
from autoprog.ui.section import Series, Span
from autoprog.ui.state import fold


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (math.inf, "–"),
        (4.24, "4.2 s"),
        (61, "1:01"),
        (3 * 3600 + 309, "3:05:09"),
        (2 * 86_400 + 11_100, "2d 03:05"),
    ],
)
def test_durations_read_like_a_clock(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_large_numbers_have_prefixes() -> None:
    assert [amount(v) for v in (7, 1500, 4.6e9, 3.21e15)] == ["7", "1.5 k", "4.6 G", "3.21 P"]
    assert mebibytes(6 * 2**30) == "6.00 GiB"
    assert mebibytes(5 * 2**20) == "5 MiB"
    assert [per_cent(v) for v in (0, 0.005, 0.158, 1)] == ["0%", "0.5%", "16%", "100%"]
    assert ascii_text("▶ Δ ±1 → x") == "* change of  +-1 -> x"


def test_a_rising_line_goes_from_the_lower_left_to_the_upper_right() -> None:
    line = Series("top-1", ((0.0, 0.0), (10.0, 50.0)), "red")
    rows = draw_chart([line], [5.0], Span.epochs(10.0), width=29, height=4).plain.splitlines()
    assert rows[0].startswith("     50 ┤")
    assert rows[0][-1] != " "
    assert rows[3].startswith("      0 ┤")
    assert rows[3][9] != " "
    assert rows[4].index("▲") == 9 + round(0.5 * 19)
    assert rows[5].split() == ["0", "epoch", "10"]


def test_points_that_are_no_line_stand_alone() -> None:
    dots = Series("online", ((0.0, 0.0), (10.0, 1.0)), "red", line=False)
    text = draw_chart([dots], [], Span.epochs(10.0), width=40, height=4).plain
    assert sum(0x2800 < ord(letter) < 0x2900 for letter in text) == 2


def test_a_label_stands_where_its_curve_ends_and_a_dotted_line_has_gaps() -> None:
    points = ((0.0, 0.0), (10.0, 50.0))
    line = Series("top-1", points, "red", label="A")
    rows = draw_chart([line], [], Span.epochs(10.0), width=29, height=4).plain.splitlines()
    assert rows[0][-1] == "A"
    assert "".join(rows).count("A") == 1
    whole, dotted = (
        draw_chart([Series("x", points, "red", dotted=gaps)], [], Span.epochs(10.0), 29, 4).plain
        for gaps in (False, True)
    )
    dots = [
        sum(bin(ord(x) - 0x2800).count("1") for x in text if x >= "\u2800")
        for text in (whole, dotted)
    ]
    assert dots[1] == pytest.approx(dots[0] / 3, abs=1)


def test_curves_need_two_evaluations(events_until: Callable[[int], list[Event]]) -> None:
    assert accuracy_series(fold(events_until(200))) == ()
    averaged, online = accuracy_series(fold(events_until(400)))
    assert (averaged.name, online.name) == ("top-1 EMA 20.39 %", "online 21.64 %")
    assert (averaged.line, online.line) == (True, False)
    assert curves_section(fold([])).parts == ()


@pytest.mark.parametrize("width", [60, 80, 160])
def test_growth_events_fit_and_tell_before_and_after(
    width: int,
    events: list[Event],
    fixed_console: Callable[..., Console],
    shown: Callable[[Console], str],
) -> None:
    console = fixed_console(width)
    console.print(view(growth_section(fold(events).growths)))
    lines = shown(console).splitlines()
    assert {len(line) for line in lines} == {width}
    row = next(line for line in lines if "3,000" in line)
    for text in ("d8 r160", "d12 r224", "ema", "+0.1234", "1.9 s"):
        assert text in row


def test_a_result_reads_in_human_units(events: list[Event]) -> None:
    result = fold(events).result
    assert result is not None
    rows = dict(result_rows(result))
    assert rows["top-1 EMA"] == "74.50 %"
    assert rows["wall time"] == "8:40"
    assert rows["MACs"] == "3.21 P"
    assert rows["peak memory"] == "6.00 GiB"
    assert dict(result_rows({"top1": 1.0})) == {"top-1": "1.00 %"}


@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_number_of_the_bar_is_cut(
    width: int,
    events_until: Callable[[int], list[Event]],
    fixed_console: Callable[..., Console],
    shown: Callable[[Console], str],
) -> None:
    console = fixed_console(width)
    console.print(frame(fold(events_until(2300))))
    last = shown(console).splitlines()[2]
    assert len(last) <= width
    assert "…" not in last
    assert len(last.split()) % 2 == int("data wait" in last)  # names with their values


def test_large_numbers_are_not_powers_of_ten() -> None:
    assert (milliseconds(1.13), milliseconds(0.00628), milliseconds(0.1498)) == (
        "1,130",
        "6.28",
        "150",
    )
    assert (number(12345.6), number(1130, 3), number(0.0002071, 3), number(None)) == (
        "12,346", "1,130", "0.000207", "–",
    )  # fmt: skip
    assert number(float("inf")) == "inf"
