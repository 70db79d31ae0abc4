"""Accuracy and loss over the epochs, or over wall time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autoprog.accuracy import is_unbalanced
from autoprog.events import Evaluated
from autoprog.ui.format import DIM, GREEN, MARK_GROWTH, ORANGE, SKY, duration, loss_text, number
from autoprog.ui.state import Clock, RunState, clock_of
from autoprog.ui.tables import Column, Fitted, panel

__all__ = [
    "TWO_PLOTS_WIDTH",
    "CurveAxis",
    "Ghost",
    "Series",
    "Span",
    "accuracy_series",
    "chart",
    "curves_view",
    "evaluation_columns",
    "evaluation_text",
]


# --------------------------------------------------------------------------------------------------
# A small chart in braille: four dots high and two wide in each cell.


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

    def fraction(self, x: float) -> float:
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
            round(span.fraction(x) * (2 * columns - 1)),
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
        ruler[round(span.fraction(mark) * (columns - 1))] = MARK_GROWTH
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


CurveAxis = Literal["epochs", "seconds"]
PLOT_ROWS = 7
TWO_PLOTS_WIDTH = 110


@dataclass(frozen=True)
class Ghost:
    """Another run whose top-1 is drawn beside that of the one that is shown."""

    name: str
    state: RunState


def curves_view(
    state: RunState,
    plot_rows: int = PLOT_ROWS,
    axis: CurveAxis = "epochs",
    ghost: Ghost | None = None,
) -> RenderableType | None:
    """Return the curves of a run, side by side where there is room; None before two points of any.

    Args:
        state: The run.
        plot_rows: Height of each plot without what is around it.
        axis: What they are drawn over: epochs, which count the images that were seen, or wall time.
        ghost: A run to compare with.
    """
    kinds = [
        kind for kind in (accuracy_series(state, axis, ghost), loss_series(state, axis)) if kind
    ]
    plots = Fitted(lambda width: _plots(state, kinds, axis, width, plot_rows))
    return panel(plots, "Curves") if kinds else None


def accuracy_series(
    state: RunState, axis: CurveAxis = "epochs", ghost: Ghost | None = None
) -> tuple[Series, ...]:
    """Return top-1 of the network as points and of its average as a line; empty below two points.

    That of a ghost lies under them, as a dotted line.
    """
    online = _points([(_place(one, axis), one.top1) for one in state.evaluations])
    averaged = _averaged(state, axis)
    if min(len(online), len(averaged)) < 2:
        return ()
    return (
        *_ghost_series(ghost, axis),
        Series(f"top-1 EMA {averaged[-1][1]:.2f} %", averaged, SKY),
        Series(f"online {online[-1][1]:.2f} %", online, ORANGE, line=False),
    )


def loss_series(state: RunState, axis: CurveAxis = "epochs") -> tuple[Series, ...]:
    """Return the training loss; empty below two points."""
    clock = clock_of(state)
    points = _points(
        [
            (
                point.epoch if axis == "epochs" else clock.wall_seconds(point.train_seconds),
                point.loss,
            )
            for point in state.points
        ]
    )
    if len(points) < 2:
        return ()
    return (Series(f"training loss {loss_text(points[-1][1])}", points, GREEN),)


def evaluation_text(event: Evaluated, num_classes: int) -> str:
    """Return an evaluation in one line of ASCII; balanced accuracy where classes differ in their images."""
    fraction, balanced = event.largest_class_fraction, event.balanced_top1_ema
    also = ""
    if fraction is not None and balanced is not None and is_unbalanced(fraction, num_classes):
        also = f" balanced EMA {balanced:.2f} %,"
    return (
        f"evaluated: top-1 {event.top1:.2f} %, EMA {event.top1_ema:.2f} %,{also}"
        f" loss {loss_text(event.loss)}, EMA {loss_text(event.loss_ema)}, in {duration(event.seconds)}"
    )


def evaluation_columns(evaluations: Sequence[Evaluated]) -> list[Column]:
    """Return the table of evaluations."""
    balanced = tuple(number(one.balanced_top1_ema) for one in evaluations)
    return [
        Column("epoch", tuple(number(one.epoch) for one in evaluations)),
        Column("top-1 %", tuple(f"{one.top1:.2f}" for one in evaluations)),
        Column("EMA %", tuple(f"{one.top1_ema:.2f}" for one in evaluations)),
        *([Column("balanced EMA %", balanced)] if any(text != "–" for text in balanced) else []),
        Column("loss", tuple(loss_text(one.loss) for one in evaluations)),
        Column("EMA loss", tuple(loss_text(one.loss_ema) for one in evaluations)),
        Column("train time", tuple(duration(one.train_seconds) for one in evaluations)),
    ]


def _place(event: Evaluated, axis: CurveAxis) -> float:
    return event.epoch if axis == "epochs" else event.wall_seconds


def _averaged(state: RunState, axis: CurveAxis) -> tuple[tuple[float, float], ...]:
    return _points([(_place(one, axis), one.top1_ema) for one in state.evaluations])


def _ghost_series(ghost: Ghost | None, axis: CurveAxis) -> tuple[Series, ...]:
    points = () if ghost is None else _averaged(ghost.state, axis)
    if ghost is None or len(points) < 2:
        return ()
    return (Series(f"{ghost.name} {points[-1][1]:.2f} %", points, DIM, dotted=True),)


def _points(points: list[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    return tuple((x, y) for x, y in points if math.isfinite(y))


def _plots(
    state: RunState, kinds: list[tuple[Series, ...]], axis: CurveAxis, width: int, rows: int
) -> RenderableType:
    marks = _growth_marks(state, axis, clock_of(state))
    right = max(x for kind in kinds for one in kind for x in [x for x, _ in one.points] + marks)
    span = Span.epochs(right) if axis == "epochs" else Span(0.0, right, "0", duration(right))
    if len(kinds) == 1 or width < TWO_PLOTS_WIDTH:
        return Group(*(_plot(kind, marks, span, width, rows) for kind in kinds))
    grid = Table.grid(padding=(0, 2, 0, 0))
    half = (width - 2) // 2
    grid.add_row(*(_plot(kind, marks, span, half, rows) for kind in kinds))
    return grid


def _growth_marks(state: RunState, axis: CurveAxis, clock: Clock) -> list[float]:
    if axis == "epochs":
        return [growth.step / max(1, state.steps_per_epoch) for growth in state.growths]
    return [clock.wall_seconds_at(growth.step) for growth in state.growths]


def _plot(
    series: tuple[Series, ...], marks: list[float], span: Span, width: int, rows: int
) -> RenderableType:
    legend = Text(no_wrap=True, overflow="ellipsis")
    for one in sorted(series, key=lambda one: one.dotted):
        legend.append(f"{one.mark} {one.name}   ", f"bold {one.style}")
    return Group(legend, chart(series, marks, span, width, rows))
