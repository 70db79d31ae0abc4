"""The cost model: the measured seconds of a cell, or an estimate from those of other cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median
from typing import NamedTuple

from autoprog.costs.cells import CostCell
from autoprog.costs.law import SecondsLaw, data_terms, fit_law, step_terms
from autoprog.costs.table import CellCost, CostTable, together_seconds
from supernet.config import ModelSpec

__all__ = ["CostModel", "Price"]

_LEAST_DATA_SHARE = 1e-3


class Price(NamedTuple):
    """Seconds, and whether they are estimated from those of other cells."""

    seconds: float
    is_estimated: bool


@dataclass(frozen=True)
class CostModel:
    """What steps and batches cost: a pure function of the cost table of a run."""

    spec: ModelSpec
    table: CostTable

    def step(self, cell: CostCell) -> Price:
        """Return the seconds of a step on a batch that is there; needs at least one measured cell."""
        cost = self.table.cells.get(cell.name)
        if cost is not None:
            return Price(cost.seconds, is_estimated=False)
        guess = self._step_law.seconds(step_terms(self.spec, cell))
        return Price(_within_neighbours(cell, guess, self._measured), is_estimated=True)

    def data(self, cell: CostCell) -> Price | None:
        """Return the seconds in which the feed makes a batch; None if no batch has been measured."""
        if not self._loaded:
            return None
        found = self._loaded.get(self._batch_of(cell))
        if found is not None:
            return Price(found, is_estimated=False)
        guess = self._data_law.seconds(data_terms(*self._batch_of(cell)))
        return Price(guess, is_estimated=True)

    def wall(self, cell: CostCell) -> Price:
        """Return the seconds that a step adds to the run, with its data as far as that is known."""
        step, data = self.step(cell), self.data(cell)
        if data is None:
            return step
        seconds = together_seconds(step.seconds, data.seconds, self.table.overlap)
        return Price(seconds, step.is_estimated or data.is_estimated)

    @property
    def knows_data(self) -> bool:
        """Tell whether any batch has been measured."""
        return bool(self._loaded)

    @property
    def fixed_seconds(self) -> float:
        """Return what a step takes however small the network and its images are."""
        return self._step_law.coefficients[1]

    def left_out_errors(self) -> dict[str, float]:
        """Return the relative error of the estimate of each measured cell, had it not been measured.

        Empty below 3 cells, where a law of the others would be a guess.
        """
        measured = self._measured
        if len(measured) < 3:
            return {}
        return {
            cell.name: self._without(cell).step(cell).seconds / seconds - 1
            for cell, seconds in measured.items()
        }

    def _without(self, cell: CostCell) -> CostModel:
        """Return the model that would be there if `cell` had not been measured."""
        others = {name: cost for name, cost in self.table.cells.items() if name != cell.name}
        return replace(self, table=self.table.model_copy(update={"cells": others}))

    @cached_property
    def _costs(self) -> dict[CostCell, CellCost]:
        parsed = ((CostCell.parse(name), cost) for name, cost in self.table.cells.items())
        return {cell: cost for cell, cost in parsed if cell is not None}

    @cached_property
    def _measured(self) -> dict[CostCell, float]:
        return {cell: cost.seconds for cell, cost in self._costs.items()}

    @cached_property
    def _loaded(self) -> dict[tuple[int, int], float]:
        """Return the seconds of a batch by its size and that of its images; depth is nothing to it."""
        found: dict[tuple[int, int], list[float]] = {}
        for cell, cost in self._costs.items():
            if cost.data_seconds is not None:
                found.setdefault(self._batch_of(cell), []).append(cost.data_seconds)
        return {batch: median(seconds) for batch, seconds in found.items()}

    @cached_property
    def _step_law(self) -> SecondsLaw:
        rows = [step_terms(self.spec, cell) for cell in self._measured]
        return fit_law(rows, list(self._measured.values()))

    @cached_property
    def _data_law(self) -> SecondsLaw:
        # The fit is by relative error: a batch that takes next to nothing would be all that counts.
        least = _LEAST_DATA_SHARE * max(self._loaded.values())
        told = {
            batch: max(seconds, 1e-9) for batch, seconds in self._loaded.items() if seconds >= least
        }
        return fit_law([data_terms(*batch) for batch in told], list(told.values()))

    def _batch_of(self, cell: CostCell) -> tuple[int, int]:
        """Return the number and the size in px of the images that are loaded for a step."""
        return cell.batch_size, cell.loaded_px(self.spec.img_size)


def _within_neighbours(cell: CostCell, guess: float, measured: Mapping[CostCell, float]) -> float:
    """Return a guess between the slowest smaller and the fastest larger cell that were measured.

    Only cells of the same kind of step are compared; where noise has put the two the wrong way round, the
    guess stays.
    """
    alike = {one: s for one, s in measured.items() if _kind(one) == _kind(cell)}
    low = max((s for one, s in alike.items() if _is_within(one, cell)), default=0.0)
    high = min((s for one, s in alike.items() if _is_within(cell, one)), default=float("inf"))
    return min(max(guess, low), high) if low <= high else guess


def _kind(cell: CostCell) -> tuple[object, ...]:
    return cell.subnet.tokens, cell.shrink_by, cell.unfrozen, len(cell.subnet.depth)


def _is_within(one: CostCell, other: CostCell) -> bool:
    return one.batch_size <= other.batch_size and one.subnet.within(other.subnet)
