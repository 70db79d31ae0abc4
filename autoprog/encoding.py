"""Schedules as vectors of whole numbers, of which every one is a valid growing schedule.

Each axis has its values in the order in which a run goes through them, and for each value but the first the
date at which it comes into force. A vector holds the *increments* between dates, in cells of a grid that ends
where the full model is due at the latest. So dates rise, values may be skipped (an increment of 0) and the
end is always the full model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

__all__ = ["AxisRange", "Encoding", "Timeline"]

Timeline = tuple[tuple[float, tuple[int, ...]], ...]
"""Stretches of a run: from which share of it on, and the number of the value on each axis."""


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
        start_share: Where the part begins, as a share of the run.
        full_share: Where all axes have arrived at the latest.
        cells: The number of grid cells between the two; with none, everything arrives at the start.
    """

    axes: tuple[AxisRange, ...]
    start_share: float
    full_share: float
    cells: int

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return the least and greatest value of each increment."""
        return {key: (0, self.cells) for axis in self.axes for key in axis.keys}

    def decode(self, vector: Mapping[str, int]) -> Timeline:
        """Return the stretches of a vector; any vector within the bounds is valid."""
        dates = [self._dates(axis, vector) for axis in self.axes]
        cells = sorted({0}.union(*dates))
        return tuple(
            (
                self._share(cell),
                tuple(
                    axis.first + sum(date <= cell for date in own)
                    for axis, own in zip(self.axes, dates, strict=True)
                ),
            )
            for cell in cells
        )

    def encode(self, arrivals: Mapping[str, Sequence[float]]) -> dict[str, int]:
        """Return the vector whose values come into force at the grid cells nearest to the shares given.

        Args:
            arrivals: For each axis the share of the run at which each value but the first comes into
                force, rising; values that the part of the run begins with are left out.
        """
        vector: dict[str, int] = {}
        for axis in self.axes:
            before = 0
            for key, share in zip(axis.keys, arrivals[axis.name], strict=True):
                cell = max(before, min(self.cells, self._cell(share)))
                vector[key], before = cell - before, cell
        return vector

    def _dates(self, axis: AxisRange, vector: Mapping[str, int]) -> list[int]:
        increments = [vector[key] for key in axis.keys]
        return [min(self.cells, date) for date in accumulate(increments)]

    def _share(self, cell: int) -> float:
        part = cell / max(1, self.cells)
        return self.start_share * (1 - part) + self.full_share * part  # exact at both ends

    def _cell(self, share: float) -> int:
        span = self.full_share - self.start_share
        return round((share - self.start_share) / span * self.cells) if span > 0 else 0
