"""Asynchronous successive halving: poor trials end early, with one or several objectives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Halving", "should_stop"]


@dataclass(frozen=True)
class Halving:
    """Where trials are compared: at ``first_step · reduction^k``, the rungs.

    Of those that have come to a rung, one in ``reduction`` goes on (ASHA, arXiv 1810.05934, in the variant
    that stops trials and never pauses them). Optuna's own pruners refuse several objectives.
    """

    first_step: int
    reduction: int = 3

    def __post_init__(self) -> None:
        if self.first_step < 1:
            raise ValueError(f"first_step must be >= 1, but got {self.first_step}")
        if self.reduction < 2:
            raise ValueError(f"reduction must be >= 2, but got {self.reduction}")

    def rung_of(self, step: int) -> int | None:
        """Return the highest rung that is not above `step`."""
        if step < self.first_step:
            return None
        rung = 0
        while self.first_step * self.reduction ** (rung + 1) <= step:
            rung += 1
        return rung


def should_stop(value: float, others: Sequence[float], reduction: int) -> bool:
    """Tell whether a trial ends at a rung: whether it is outside the best one in `reduction`.

    As long as fewer than `reduction` trials have come there, none is stopped. Ties go on.

    Args:
        value: Of the trial at this rung; lower is better.
        others: Of all other trials that have come to this rung so far.
        reduction: Of so many trials one goes on.
    """
    if math.isnan(value):
        return True
    count = len(others) + 1
    better = sum(other < value for other in others)
    return count >= reduction and better >= count // reduction
