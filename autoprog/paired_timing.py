"""How things are timed on a noisy machine: interleaved in one process, paired ratios, exact intervals.

Whatever slows the machine for a while slows all of them alike, as blocks of one round are neighbours in time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, comb
from statistics import median

__all__ = [
    "CONFIDENCE",
    "Estimate",
    "InterleavedTimes",
    "TimeIsUpError",
    "TimedBlock",
    "TimedWork",
    "TimingLimits",
    "estimate",
    "fraction_lost",
    "paired_blocks",
    "seconds_with_warmup",
    "speed_ratio",
    "time_interleaved",
]

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


def estimate(values: Sequence[float]) -> Estimate:
    """Return the median of values with its sign-test interval, which holds for any distribution.

    The interval runs from the k-th smallest to the k-th largest value, with the largest k that keeps
    :data:`CONFIDENCE`; of too few values it is the whole range, with the confidence that this has.
    """
    ordered = sorted(values)
    count, below = len(ordered), 0

    def confidence(below: int) -> float:
        """Return the chance that the median lies within all values but the outer `below` on each side."""
        return 1.0 - 2.0 * sum(comb(count, k) for k in range(below + 1)) / 2.0**count

    # The same ends as scipy.stats.quantile_test from 6 values on; below that scipy has none. This module
    # is loaded by commands that start in a tenth of a second, where scipy.stats takes 0.5 s to import.
    for k in range(1, (count + 1) // 2):
        if confidence(k) < CONFIDENCE:
            break
        below = k
    ends = ordered[below], ordered[count - 1 - below]
    return Estimate(median(ordered), *ends, confidence(below))


def speed_ratio(seconds: Sequence[float], reference_seconds: Sequence[float]) -> Estimate:
    """Return how fast something is in units of a reference, from the seconds of paired blocks."""
    return estimate([ref / own for own, ref in zip(seconds, reference_seconds, strict=True)])


def fraction_lost(seconds: Sequence[float], reference_seconds: Sequence[float]) -> Estimate:
    """Return the fraction of the reference's speed that is lost: 1 - speed / speed of the reference."""
    return speed_ratio(seconds, reference_seconds).mirrored()


def rotated(names: Sequence[str], number: int) -> list[str]:
    """Return the names in the order of a round: each round begins with another one."""
    first = number % len(names)
    return [*names[first:], *names[:first]]


TimedBlock = Callable[[int], float]
"""Takes that many timed steps; returns their seconds."""


def paired_blocks(
    timed: Mapping[str, TimedBlock],
    rounds: int,
    steps: int,
    on_round: Callable[[int], None] = lambda _: None,
) -> dict[str, list[float]]:
    """Return the seconds of a block of `steps` of each thing in each of a fixed number of rounds.

    A first round, in which caches fill and graphs compile, is not counted.

    Args:
        timed: What is timed, by name.
        rounds: Counted rounds.
        steps: Length of a block.
        on_round: Is called with the number of each round before it begins; 0 is the one not counted.
    """
    on_round(0)
    for block in timed.values():
        block(steps)
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for number in range(rounds):
        on_round(number + 1)
        for name in rotated(list(timed), number):
            seconds[name].append(timed[name](steps))
    return seconds


TimedWork = Callable[[int], float]
"""Does its work once untimed, then so many times; returns the seconds of one time.

May raise :class:`TimeIsUpError` between two times, where it is the only process that measures.
"""

Broadcast = Callable[[str], str]
"""Returns rank 0's text on all ranks that measure together."""

_BLOCK_SECONDS = 0.1  # a machine is not preempted for much less
_MAX_IN_A_BLOCK = 20
_MIN_ROUNDS = 6  # below that an interval of 95 % does not exist
_MIN_FOR_A_MEDIAN = 3  # below that the least counts, since whatever disturbs a machine only adds
_SLOW_FRACTION = 0.2  # of the limit: what takes this long is not taken again


class TimeIsUpError(Exception):
    """The time for measuring is up in the middle of a block, which then does not count."""


@dataclass(frozen=True)
class TimingLimits:
    """When measuring ends.

    Attributes:
        seconds: The time cap; nothing is begun that is not expected to fit in.
        tolerance: Half the width of the interval of a ratio, relative to it, that is good enough.
        max_rounds: So many rounds are enough of whatever is so noisy.
    """

    seconds: float
    tolerance: float = 0.02
    max_rounds: int = 60


@dataclass
class InterleavedTimes:
    """The seconds of each thing that has been timed so far, round by round.

    ``first`` are those of the first time, in which caches fill; what is not there was left out.
    """

    reference: str
    first: dict[str, float] = field(default_factory=dict)
    rounds: list[dict[str, float]] = field(default_factory=list)

    def ratios(self, name: str) -> list[float]:
        """Return the seconds of something in units of the reference's in the same round."""
        return [one[name] / one[self.reference] for one in self.rounds if name in one]

    def estimate(self, name: str) -> Estimate:
        """Return the seconds of something: the median ratio times the reference's median.

        The interval is that of the ratio; the reference's own is that of its seconds. What was timed but
        once or twice has the least of its seconds, up to the most of them, the first time included.
        """
        seen = [one[name] for one in self.rounds if name in one]
        if len(seen) < _MIN_FOR_A_MEDIAN:
            seen += [self.first[name]] if name in self.first else []
            return Estimate(min(seen), min(seen), max(seen), confidence=0.0)
        own = [one[self.reference] for one in self.rounds]
        if name == self.reference:
            return estimate(own)
        unit, ratio = median(own), estimate(self.ratios(name))
        return Estimate(ratio.median * unit, ratio.low * unit, ratio.high * unit, ratio.confidence)

    def is_settled(self, name: str, tolerance: float) -> bool:
        """Tell whether the ratio to the reference is known well enough."""
        ratios = self.ratios(name)
        if len(ratios) < _MIN_ROUNDS:
            return False
        found = estimate(ratios)
        return found.high - found.low <= 2 * tolerance * found.median

    def due(
        self, block_seconds: Mapping[str, float], limits: TimingLimits, left_seconds: float
    ) -> list[str]:
        """Return what the next round times; nothing if all is settled, or a round does not fit into the time.

        The first round takes what there is time for, so that nothing slow keeps others from theirs.
        """
        if len(self.rounds) >= limits.max_rounds:
            return []
        others = [
            name
            for name, seconds in block_seconds.items()
            if name != self.reference
            and not self.is_settled(name, limits.tolerance)
            and not (self.ratios(name) and seconds > _SLOW_FRACTION * limits.seconds)
        ]
        # The reference is compared with nothing where it is alone, but its own interval is wanted.
        alone = len(block_seconds) == 1 and len(self.rounds) < _MIN_ROUNDS
        if not others and not alone:
            return []
        names = [self.reference, *others]
        if self.rounds:
            fits = sum(block_seconds[name] for name in names) <= left_seconds
            return names if fits else []
        taken: list[str] = []
        for name in names:
            if block_seconds[name] <= left_seconds:
                left_seconds -= block_seconds[name]
                taken.append(name)
        return taken if self.reference in taken else []


def time_interleaved(
    timed: Mapping[str, TimedWork],
    reference: str,
    limits: TimingLimits,
    clock: Callable[[], float],
    broadcast: Broadcast = str,
    *,
    first: Mapping[str, float] | None = None,
    expected_seconds: Callable[[str], float] = lambda name: 0.0,
) -> Generator[InterleavedTimes, None, InterleavedTimes]:
    """Time things in rounds until each ratio to the reference is known, or the time is up.

    The number of rounds follows from the noise, unlike that of :func:`paired_blocks`. The first time, in
    which caches fill and graphs compile, counts only if there is no time for three. What is settled sits
    out, but for the reference. Yields what is known so far after each block.

    Args:
        timed: By name, the most important first: where the time does not suffice the last are left out.
        reference: What is timed in every round.
        limits: When to end.
        clock: Returns seconds.
        broadcast: Returns rank 0's text; all ranks that measure together make the same choices by it.
        first: The seconds of what has had its first time; the reference's must be among them, or is taken
            whatever the time.
        expected_seconds: Returns about the seconds of something that has not been timed.
    """
    start = clock()
    times = InterleavedTimes(reference, dict(first or {}))

    def left() -> float:
        return limits.seconds - (clock() - start)

    try:
        for name in [name for name in timed if name not in times.first]:
            fits = name == reference or 2 * expected_seconds(name) <= left()
            if broadcast("fits" if fits else ""):
                times.first[name] = float(broadcast(repr(timed[name](1))))
                yield times
        blocks = {name: _block_length(seconds) for name, seconds in times.first.items()}
        took = {name: seconds_with_warmup(seconds) for name, seconds in times.first.items()}
        while names := json.loads(broadcast(json.dumps(times.due(took, limits, left())))):
            order = rotated(names, len(times.rounds))
            times.rounds.append({})
            for name in order:
                begin = clock()
                times.rounds[-1][name] = timed[name](blocks[name])
                took[name] = clock() - begin
                yield times
    except TimeIsUpError:
        pass
    if times.rounds and reference not in times.rounds[-1]:
        times.rounds.pop()  # cut short, and nothing to compare with
    return times


def seconds_with_warmup(seconds: float) -> float:
    """Return what a block takes with the untimed work before it, from the seconds of one time."""
    return seconds * (1 + _block_length(seconds))


def _block_length(seconds: float) -> int:
    return max(1, min(_MAX_IN_A_BLOCK, ceil(_BLOCK_SECONDS / max(seconds, 1e-9))))
