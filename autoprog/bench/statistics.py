"""How rates are compared on a noisy machine: turns in one process, paired ratios, exact intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from autoprog.intervals import CONFIDENCE, Estimate, estimate

__all__ = ["CONFIDENCE", "Arm", "Estimate", "estimate", "share_lost", "speed_ratio", "take_turns"]

Arm = Callable[[int], float]
"""Takes that many timed steps; returns their seconds."""


def speed_ratio(seconds: Sequence[float], reference_seconds: Sequence[float]) -> Estimate:
    """Return how fast something is in units of a reference, from the seconds of paired blocks."""
    return estimate([ref / own for own, ref in zip(seconds, reference_seconds, strict=True)])


def share_lost(seconds: Sequence[float], reference_seconds: Sequence[float]) -> Estimate:
    """Return the share of the reference's speed that is lost: 1 - speed / speed of the reference."""
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
