"""A small chart in braille: four dots high and two wide in each cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from rich.text import Text

from autoprog.ui.palette import DIM, MARK_GROWTH
from autoprog.ui.units import number

__all__ = ["Series", "Span", "chart"]

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
LABEL_WIDTH = 8
DOTTED = 3  # of so many dots of a dotted line one is drawn


@dataclass(frozen=True)
class Series:
    """A curve. A ``line`` is joined up; otherwise its points stand alone, so shape tells them apart.

    A line that is ``dotted`` has gaps: it is there to be compared with. A ``label`` of one letter is
    written where a curve ends.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    style: str
    line: bool = True
    dotted: bool = False
    label: str = ""

    @property
    def mark(self) -> str:
        """Return what stands before its name in a legend."""
        return "┄" if self.dotted else "━" if self.line else "⠂"


@dataclass(frozen=True)
class Span:
    """What a chart is drawn over: two numbers, the second above the first, and how they are written."""

    left: float
    right: float
    left_text: str
    right_text: str

    @classmethod
    def epochs(cls, right: float) -> Span:
        """Return the span of the epochs from 0 to `right`."""
        return cls(0.0, right, "0", f"epoch {number(right)}")

    def share(self, x: float) -> float:
        """Return where `x` lies, from 0 at the left to 1 at the right, and that too if it is outside."""
        return min(1.0, max(0.0, (x - self.left) / ((self.right - self.left) or 1.0)))


def chart(
    series: Sequence[Series], marks: Sequence[float], span: Span, width: int, height: int
) -> Text:
    """Return the chart of some curves.

    Args:
        series: Curves with finite values; later ones are drawn over earlier ones.
        marks: What is marked on the axis, such as the epochs at which the network grew.
        span: What the chart is drawn over.
        width: Columns, axis labels included.
        height: Rows of the plot itself.
    """
    columns = max(10, width - LABEL_WIDTH - 1)
    values = [y for one in series for _, y in one.points]
    low, high = bounds = min(values), max(values)
    cells = _cells(series, span, bounds, columns, height)
    ends = {_end(one, span, bounds, columns, height): one for one in series if one.label}
    text = Text(no_wrap=True, overflow="crop")
    for row in range(height):
        value = {0: number(high, 3), height - 1: number(low, 3)}.get(row, "")
        text.append(f"{value.rjust(LABEL_WIDTH - 1)} {'┤' if value else '│'}", DIM)
        for column in range(columns):
            bits, style = cells.get((row, column), (0, ""))
            ending = ends.get((row, column))
            if ending is not None:
                text.append(ending.label, ending.style)
            else:
                text.append(chr(0x2800 + bits) if bits else " ", style)
        text.append("\n")
    text.append(" " * LABEL_WIDTH + "└" + _ruler(marks, span, columns) + "\n", DIM)
    room = columns - len(span.left_text)
    text.append(" " * (LABEL_WIDTH + 1) + span.left_text + span.right_text.rjust(room), DIM)
    return text


def _cells(
    series: Sequence[Series], span: Span, bounds: tuple[float, float], columns: int, height: int
) -> dict[tuple[int, int], tuple[int, str]]:
    """Return the dots and the style of each (row, column) that has any."""
    cells: dict[tuple[int, int], tuple[int, str]] = {}
    for one in series:
        dots = _dots(one, span, bounds, columns, height)
        for x, y in _joined(dots)[:: DOTTED if one.dotted else 1] if one.line else dots:
            bits, _ = cells.get((y // 4, x // 2), (0, ""))
            cells[y // 4, x // 2] = (bits | _DOTS[y % 4][x % 2], one.style)
    return cells


def _dots(
    one: Series, span: Span, bounds: tuple[float, float], columns: int, height: int
) -> list[tuple[int, int]]:
    """Return the (column, row) of each point in dots."""
    low, high = bounds
    return [
        (
            round(span.share(x) * (2 * columns - 1)),
            round((high - y) / ((high - low) or 1.0) * (4 * height - 1)),
        )
        for x, y in one.points
    ]


def _end(
    one: Series, span: Span, bounds: tuple[float, float], columns: int, height: int
) -> tuple[int, int]:
    """Return the (row, column) of the cell in which a curve ends; none where it has no points."""
    dots = _dots(one, span, bounds, columns, height)[-1:]
    return (dots[0][1] // 4, dots[0][0] // 2) if dots else (-1, -1)


def _ruler(marks: Sequence[float], span: Span, columns: int) -> str:
    ruler = ["─"] * columns
    for mark in marks:
        ruler[round(span.share(mark) * (columns - 1))] = MARK_GROWTH
    return "".join(ruler)


def _joined(dots: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return dots with straight lines between neighbours."""
    filled = list(dots[:1])
    for (x0, y0), (x1, y1) in pairwise(dots):
        count = max(abs(x1 - x0), abs(y1 - y0), 1)
        filled += [
            (round(x0 + (x1 - x0) * k / count), round(y0 + (y1 - y0) * k / count))
            for k in range(1, count + 1)
        ]
    return filled
