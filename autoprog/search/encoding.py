"""Schedules as vectors of whole numbers, of which every one is a valid growing schedule.

Each axis has its values in the order in which a run goes through them, and for each value but the first the
date at which it comes into force. A vector holds the *increments* between dates, in intervals of a grid that
ends where the full model is due at the latest. So dates rise, values may be skipped (an increment of 0) and
the end is always the full model: a sampler cannot propose anything that has to be rejected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

__all__ = ["AxisRange", "Encoding", "Timeline"]

Timeline = tuple[tuple[float, tuple[int, ...]], ...]
"""Segments of a run: from which fraction of it on, and the number of the value on each axis."""


@dataclass(frozen=True)
class AxisRange:
    """An axis with the values that are left of it: numbers ``first`` to ``last``."""

    name: str
    first: int
    last: int

    @property
    def keys(self) -> list[str]:
        """Return the names of its increments."""
        return [f"{self.name}.{number}" for number in range(self.first + 1, self.last + 1)]


@dataclass(frozen=True)
class Encoding:
    """The vectors for a set of axes over a part of a run.

    Attributes:
        axes: What may grow.
        start_fraction: Where the part begins, as a fraction of the run.
        full_fraction: Where all axes have arrived at the latest.
        intervals: The number of equal intervals between the two; with none, everything arrives at the start.
    """

    axes: tuple[AxisRange, ...]
    start_fraction: float
    full_fraction: float
    intervals: int

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return the least and greatest value of each increment."""
        return {key: (0, self.intervals) for axis in self.axes for key in axis.keys}

    def decode(self, vector: Mapping[str, int]) -> Timeline:
        """Return the segments of a vector; any vector within the bounds is valid."""
        arrivals = [
            # Increments may add up to more than there is: what is left then arrives at the end.
            [min(self.intervals, date) for date in accumulate(vector[key] for key in axis.keys)]
            for axis in self.axes
        ]
        segments: list[tuple[float, tuple[int, ...]]] = []
        for date in sorted({0}.union(*arrivals)):
            part = date / max(1, self.intervals)
            # Exact at both ends, unlike start + part · (full - start).
            fraction = self.start_fraction * (1 - part) + self.full_fraction * part
            numbers = tuple(
                axis.first + sum(arrival <= date for arrival in own)
                for axis, own in zip(self.axes, arrivals, strict=True)
            )
            segments.append((fraction, numbers))
        return tuple(segments)

    def encode(self, arrivals: Mapping[str, Sequence[float]]) -> dict[str, int]:
        """Return the vector whose values come into force at the dates nearest to the fractions given.

        Args:
            arrivals: For each axis the fraction of the run at which each value but the first comes into
                force, rising; values that the part of the run begins with are left out.
        """
        span = self.full_fraction - self.start_fraction
        vector: dict[str, int] = {}
        for axis in self.axes:
            before = 0
            for key, fraction in zip(axis.keys, arrivals[axis.name], strict=True):
                place = (fraction - self.start_fraction) / span if span > 0 else 0.0
                date = max(before, min(self.intervals, round(place * self.intervals)))
                vector[key], before = date - before, date
        return vector
