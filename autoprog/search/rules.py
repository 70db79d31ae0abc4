"""How a winner is chosen: scores and ties, as functions that a test calls with a few numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["autoprog_scores", "power_law_slope", "runner_up", "time_exponent", "winner_of"]


def power_law_slope(costs: Sequence[float], losses: Sequence[float]) -> float | None:
    """Return the least-squares slope of log loss over log cost; None below 3 points or 2 % of spread."""
    if len(costs) < 3 or max(costs) < 1.02 * min(costs) or min(losses) <= 0:
        return None
    x, y = [math.log(cost) for cost in costs], [math.log(loss) for loss in losses]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - mean_x) ** 2 for a in x)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread


def time_exponent(seconds: Sequence[float], losses: Sequence[float]) -> float:
    """Return AutoProg's α = max(-slope, 0) of loss ~ seconds^slope; 0 where no fit can be made."""
    slope = power_law_slope(seconds, losses)
    return max(-slope, 0.0) if slope is not None else 0.0


def autoprog_scores(losses: Sequence[float], seconds: Sequence[float]) -> tuple[list[float], float]:
    """Return AutoProg's scores loss · seconds^α, lower is better, and α (CVPR 2022)."""
    alpha = time_exponent(seconds, losses)
    return [loss * time**alpha for loss, time in zip(losses, seconds, strict=True)], alpha


def winner_of(scores: Sequence[float], seconds: Sequence[float]) -> int:
    """Return the index of the lowest score; exact ties go to the cheaper one."""
    return min(range(len(scores)), key=lambda i: (scores[i], seconds[i]))


def runner_up(scores: Sequence[float], winner: int) -> int | None:
    """Return the index of the best of the others."""
    others = [index for index in range(len(scores)) if index != winner]
    return min(others, key=lambda i: scores[i]) if others else None
