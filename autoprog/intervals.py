"""A median and how surely it is known: what every timing of a noisy machine comes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from statistics import median

__all__ = ["CONFIDENCE", "Estimate", "estimate"]

CONFIDENCE = 0.95
"""What intervals reach from 6 values on; fewer cannot."""


@dataclass(frozen=True)
class Estimate:
    """A median, an interval for it, and how surely the interval holds the true median."""

    median: float
    low: float
    high: float
    confidence: float

    def mirrored(self) -> Estimate:
        """Return the estimate of one minus this value."""
        return Estimate(1 - self.median, 1 - self.high, 1 - self.low, self.confidence)


def estimate(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """Return the median of values with its sign-test interval, which no distribution can break.

    The interval runs from the k-th smallest to the k-th largest value, with the largest k that keeps the
    confidence; of too few values it is the whole range, with the confidence that this has.
    """
    ordered = sorted(values)
    count, below = len(ordered), 0
    for k in range(1, (count + 1) // 2):
        if _sure(count, k) < confidence:
            break
        below = k
    return Estimate(
        median(ordered), ordered[below], ordered[count - 1 - below], _sure(count, below)
    )


def _sure(count: int, below: int) -> float:
    """Return the chance that the median lies within all values but the outer ``below`` on each side."""
    return 1.0 - 2.0 * sum(comb(count, k) for k in range(below + 1)) / 2.0**count
