"""Accuracy and loss over the epochs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autoprog.events import Evaluated
from autoprog.ui.fitted import Fitted, panel
from autoprog.ui.palette import GREEN, ORANGE, SKY
from autoprog.ui.plot import Series, Span, chart
from autoprog.ui.state import RunState
from autoprog.ui.tables import Column
from autoprog.ui.units import duration, loss_text, number

__all__ = [
    "TWO_PLOTS_WIDTH",
    "accuracy_series",
    "curves_view",
    "evaluation_columns",
    "evaluation_text",
]

PLOT_ROWS = 7
TWO_PLOTS_WIDTH = 110


def curves_view(state: RunState, plot_rows: int = PLOT_ROWS) -> RenderableType | None:
    """Return the curves of a run, side by side where there is room; None before two points of any."""
    kinds = [kind for kind in (accuracy_series(state), loss_series(state)) if kind]
    plots = Fitted(lambda width: _plots(state, kinds, width, plot_rows))
    return panel(plots, "Curves") if kinds else None


def accuracy_series(state: RunState) -> tuple[Series, ...]:
    """Return top-1 of the network as points and of its average as a line; empty below two points."""
    online = _points([(one.epoch, one.top1) for one in state.evaluations])
    averaged = _points([(one.epoch, one.top1_ema) for one in state.evaluations])
    if min(len(online), len(averaged)) < 2:
        return ()
    return (
        Series(f"top-1 EMA {averaged[-1][1]:.2f} %", averaged, SKY),
        Series(f"online {online[-1][1]:.2f} %", online, ORANGE, line=False),
    )


def loss_series(state: RunState) -> tuple[Series, ...]:
    """Return the training loss; empty below two points."""
    points = _points([(point.epoch, point.loss) for point in state.points])
    if len(points) < 2:
        return ()
    return (Series(f"training loss {loss_text(points[-1][1])}", points, GREEN),)


def evaluation_text(event: Evaluated) -> str:
    """Return an evaluation in one line of ASCII."""
    return (
        f"evaluated: top-1 {event.top1:.2f} %, EMA {event.top1_ema:.2f} %, loss {loss_text(event.loss)},"
        f" EMA {loss_text(event.loss_ema)}, in {duration(event.seconds)}"
    )


def evaluation_columns(evaluations: Sequence[Evaluated]) -> list[Column]:
    """Return the table of evaluations."""
    return [
        Column("epoch", tuple(number(one.epoch) for one in evaluations)),
        Column("top-1 %", tuple(f"{one.top1:.2f}" for one in evaluations)),
        Column("EMA %", tuple(f"{one.top1_ema:.2f}" for one in evaluations)),
        Column("loss", tuple(loss_text(one.loss) for one in evaluations)),
        Column("EMA loss", tuple(loss_text(one.loss_ema) for one in evaluations)),
        Column("train time", tuple(duration(one.train_seconds) for one in evaluations)),
    ]


def _points(points: list[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    return tuple((x, y) for x, y in points if math.isfinite(y))


def _plots(
    state: RunState, kinds: list[tuple[Series, ...]], width: int, rows: int
) -> RenderableType:
    marks = [growth.step / max(1, state.steps_per_epoch) for growth in state.growths]
    right = max(x for kind in kinds for one in kind for x in [x for x, _ in one.points] + marks)
    if len(kinds) == 1 or width < TWO_PLOTS_WIDTH:
        return Group(*(_plot(kind, marks, right, width, rows) for kind in kinds))
    grid = Table.grid(padding=(0, 2, 0, 0))
    half = (width - 2) // 2
    grid.add_row(*(_plot(kind, marks, right, half, rows) for kind in kinds))
    return grid


def _plot(
    series: tuple[Series, ...], marks: list[float], right: float, width: int, rows: int
) -> RenderableType:
    legend = Text(no_wrap=True, overflow="ellipsis")
    for one in series:
        legend.append(("━ " if one.line else "⠂ ") + one.name + "   ", f"bold {one.style}")
    return Group(legend, chart(series, marks, Span.epochs(right), width, rows))
