"""Timing things in turns: what slows the machine for a while slows all of them alike."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from statistics import median
from typing import Any, TypeVar

from autoprog.intervals import Estimate, estimate

__all__ = ["Arm", "Limits", "TimeIsUpError", "Turns", "outcome", "take_turns", "turn_seconds"]

Outcome = TypeVar("Outcome")

Arm = Callable[[int], float]
"""Does its work once untimed, then so many times; returns the seconds of one time.

May raise :class:`TimeIsUpError` between two times, where it is the only process that measures.
"""

Share = Callable[[str], str]
"""Returns rank 0's text on all ranks that measure together."""

BLOCK_SECONDS = 0.1
"""What a block lasts at least: a machine is not preempted for much less."""

MOST_IN_A_BLOCK = 20
SLOW_SHARE = 0.2
"""An arm whose block takes this share of the limit is not taken again."""

FEWEST_FOR_A_MEDIAN = 3
"""Below that the least of what was seen counts, since whatever disturbs a machine only adds."""

FEWEST_ROUNDS = 6
"""Below that an interval of 95 % does not exist; see :mod:`autoprog.intervals`."""


class TimeIsUpError(Exception):
    """The time for measuring is up in the middle of a block, which then does not count."""


def outcome(work: Generator[Any, None, Outcome]) -> Outcome:
    """Return what work comes to whose progress nobody watches."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            found: Outcome = end.value
            return found


@dataclass(frozen=True)
class Limits:
    """When measuring ends.

    Attributes:
        seconds: The time cap; nothing is begun that is not expected to fit in.
        tolerance: Half the width of the interval of a ratio, relative to it, that is good enough.
        most_rounds: So many rounds are enough of whatever is so noisy.
    """

    seconds: float
    tolerance: float = 0.02
    most_rounds: int = 60


@dataclass
class Turns:
    """What has been seen so far: the seconds of each arm that took part, round by round.

    ``first`` are those of the turn in which caches fill; an arm that is not there was left out.
    """

    reference: str
    first: dict[str, float] = field(default_factory=dict)
    rounds: list[dict[str, float]] = field(default_factory=list)

    def ratios(self, name: str) -> list[float]:
        """Return the seconds of an arm in units of the reference's in the same round."""
        return [one[name] / one[self.reference] for one in self.rounds if name in one]

    def estimate(self, name: str) -> Estimate:
        """Return the seconds of an arm: the median ratio times the reference's median.

        The interval is that of the ratio; the reference's own is that of its seconds. Of an arm that was
        taken but once or twice it is the least of its seconds, up to the most of them, its first turn
        included.
        """
        seen = [one[name] for one in self.rounds if name in one]
        if len(seen) < FEWEST_FOR_A_MEDIAN:
            seen += [self.first[name]] if name in self.first else []
            return Estimate(min(seen), min(seen), max(seen), confidence=0.0)
        own = [one[self.reference] for one in self.rounds]
        if name == self.reference:
            return estimate(own)
        unit, ratio = median(own), estimate(self.ratios(name))
        return Estimate(ratio.median * unit, ratio.low * unit, ratio.high * unit, ratio.confidence)

    def is_settled(self, name: str, limits: Limits) -> bool:
        """Tell whether the ratio of an arm to the reference is known well enough."""
        ratios = self.ratios(name)
        if len(ratios) < FEWEST_ROUNDS:
            return False
        found = estimate(ratios)
        return found.high - found.low <= 2 * limits.tolerance * found.median


def take_turns(
    arms: Mapping[str, Arm],
    reference: str,
    limits: Limits,
    clock: Callable[[], float],
    share: Share = str,
    *,
    first: Mapping[str, float] | None = None,
    price: Callable[[str], float] = lambda name: 0.0,
) -> Generator[Turns, None, Turns]:
    """Time arms in rounds until each ratio to the reference is known, or the time is up.

    In the first turn of each arm, which counts only if there is no time for three, caches fill and graphs
    compile. Each round starts with another arm; those that are settled sit out, but for the reference.
    Yields what is known so far after each block.

    Args:
        arms: By name, the most important first: where the time does not suffice the last are left out.
        reference: The arm that takes part in every round.
        limits: When to end.
        clock: Seconds.
        share: See :data:`Share`.
        first: The first turns of those that have had theirs; the reference's must be among them, or is
            taken whatever the time.
        price: Returns about the seconds of one time of an arm that has had no turn.
    """
    start = clock()
    turns = Turns(reference, dict(first or {}))

    def left() -> float:
        return limits.seconds - (clock() - start)

    try:
        for name in [name for name in arms if name not in turns.first]:
            fits = name == reference or 2 * price(name) <= left()
            if share("fits" if fits else ""):
                turns.first[name] = float(share(repr(arms[name](1))))
                yield turns
        blocks = {name: _block(seconds) for name, seconds in turns.first.items()}
        took = {name: turn_seconds(seconds) for name, seconds in turns.first.items()}
        while names := json.loads(share(json.dumps(_due(turns, took, limits, left())))):
            shift = len(turns.rounds) % len(names)
            turns.rounds.append({})
            for name in names[shift:] + names[:shift]:
                begin = clock()
                turns.rounds[-1][name] = arms[name](blocks[name])
                took[name] = clock() - begin
                yield turns
    except TimeIsUpError:
        pass
    if turns.rounds and reference not in turns.rounds[-1]:
        turns.rounds.pop()  # cut short, and nothing to compare with
    return turns


def turn_seconds(seconds: float) -> float:
    """Return what a turn of an arm takes, from the seconds of one time."""
    return seconds * (1 + _block(seconds))


def _block(seconds: float) -> int:
    return max(1, min(MOST_IN_A_BLOCK, ceil(BLOCK_SECONDS / max(seconds, 1e-9))))


def _due(
    turns: Turns, took: Mapping[str, float], limits: Limits, left_seconds: float
) -> Sequence[str]:
    """Return the arms of the next round; none if all are settled, or it does not fit into the time left.

    The first round takes those in that there is time for, so that no slow one keeps others from theirs.
    """
    if len(turns.rounds) >= limits.most_rounds:
        return []
    others = [
        name
        for name in took
        if name != turns.reference
        and not turns.is_settled(name, limits)
        and not (turns.ratios(name) and took[name] > SLOW_SHARE * limits.seconds)
    ]
    alone = len(took) == 1 and len(turns.rounds) < FEWEST_ROUNDS
    if not others and not alone:
        return []
    names = [turns.reference, *others]
    if turns.rounds:
        return names if sum(took[name] for name in names) <= left_seconds else []
    taken: list[str] = []
    for name in names:
        if took[name] <= left_seconds:
            left_seconds -= took[name]
            taken.append(name)
    return taken if turns.reference in taken else []
