"""How rates are compared on a noisy machine: turns in one process, paired ratios, exact intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from statistics import median

__all__ = [
    "CONFIDENCE",
    "Arm",
    "Estimate",
    "estimate",
    "fraction_lost",
    "speed_ratio",
    "take_turns",
]


# --------------------------------------------------------------------------------------------------
# A median and how surely it is known: what every timing of a noisy machine comes to.


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


Arm = Callable[[int], float]
"""Takes that many timed steps; returns their seconds."""


def speed_ratio(seconds: Sequence[float], reference_seconds: Sequence[float]) -> Estimate:
    """Return how fast something is in units of a reference, from the seconds of paired blocks."""
    return estimate([ref / own for own, ref in zip(seconds, reference_seconds, strict=True)])


def fraction_lost(seconds: Sequence[float], reference_seconds: Sequence[float]) -> Estimate:
    """Return the fraction of the reference's speed that is lost: 1 - speed / speed of the reference."""
    return speed_ratio(seconds, reference_seconds).mirrored()


def take_turns(
    arms: Mapping[str, Arm], rounds: int, steps: int, tell: Callable[[int], None] = lambda _: None
) -> dict[str, list[float]]:
    """Return the seconds of a block of `steps` by each arm in each round.

    Blocks of one round are neighbours in time, so what slows the machine slows them alike. Each round
    starts with another arm. A first round, in which caches fill and graphs compile, is not counted.
    ``tell`` hears the number of each round before it begins; 0 is that first one.
    """
    tell(0)
    for arm in arms.values():
        arm(steps)
    names = list(arms)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        tell(number + 1)
        first = number % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(arms[name](steps))
    return seconds
