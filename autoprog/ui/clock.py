"""When a run was where, by wall time: what is between evaluations is between their times."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from autoprog.ui.state import RunState

__all__ = ["Clock", "clock_of"]

Knots = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Clock:
    """Wall time by training time and by step, straight between knots that rise in both."""

    wall_by_train: tuple[tuple[float, float], ...]
    train_by_step: tuple[tuple[float, float], ...]

    def wall_seconds(self, train_seconds: float) -> float:
        """Return the wall time at which so much had been trained."""
        return _at(self.wall_by_train, train_seconds)

    def wall_seconds_at(self, step: float) -> float:
        """Return the wall time of a step."""
        return self.wall_seconds(_at(self.train_by_step, step))


def clock_of(state: RunState) -> Clock:
    """Return the clock of a run; after its last evaluation, wall time goes on as training does."""
    evaluations = [(one.train_seconds, one.wall_seconds) for one in state.evaluations]
    last_train, last_wall = evaluations[-1] if evaluations else (0.0, 0.0)
    after = max(last_train, state.train_seconds) + 1.0
    steps = [(point.step, point.train_seconds) for point in state.points]
    return Clock(
        ((0.0, 0.0), *evaluations, (after, last_wall + after - last_train)), ((0.0, 0.0), *steps)
    )


def _at(knots: Knots, x: float) -> float:
    """Return the value at `x`; before the first knot and after the last one that of the knot."""
    index = bisect_right(knots, x, key=lambda knot: knot[0])
    if index in (0, len(knots)):
        return knots[min(index, len(knots) - 1)][1]
    (x0, y0), (x1, y1) = knots[index - 1], knots[index]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
