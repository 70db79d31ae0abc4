"""Accuracy and loss over the epochs, or over wall time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autoprog.accuracy import is_unbalanced
from autoprog.events import Evaluated
from autoprog.ui.clock import Clock, clock_of
from autoprog.ui.fitted import Fitted, panel
from autoprog.ui.palette import DIM, GREEN, ORANGE, SKY
from autoprog.ui.plot import Series, Span, chart
from autoprog.ui.state import RunState
from autoprog.ui.tables import Column
from autoprog.ui.units import duration, loss_text, number

__all__ = [
    "TWO_PLOTS_WIDTH",
    "CurveAxis",
    "Ghost",
    "accuracy_series",
    "curves_view",
    "evaluation_columns",
    "evaluation_text",
]

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
    share, balanced = event.largest_class_share, event.balanced_top1_ema
    also = ""
    if share is not None and balanced is not None and is_unbalanced(share, num_classes):
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
