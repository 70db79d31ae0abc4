"""The cost model: the measured seconds of a cell, or an estimate from those of other cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean, median
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

from autoprog.costs.table import CellCost, CostCell, CostTable, cell_of_step, together_seconds
from autoprog.stage import SandwichSizes, Training, image_macs
from autoprog.steptable import Segment, StepTable
from supernet.config import ModelSpec, SubnetConfig
from supernet.cost import block_tokens

__all__ = [
    "CostModel",
    "Prediction",
    "Price",
    "SecondsLaw",
    "data_terms",
    "fit_law",
    "predict_seconds",
    "step_terms",
]


# --------------------------------------------------------------------------------------------------
# Seconds as a sum of physical terms with coefficients that are not negative, fitted on relative
# error.


Terms = tuple[float, ...]


@dataclass(frozen=True)
class SecondsLaw:
    """Seconds = sum of coefficient · term."""

    coefficients: Terms

    def seconds(self, terms: Sequence[float]) -> float:
        """Return the seconds of a cell."""
        return sum(c * term for c, term in zip(self.coefficients, terms, strict=True))


def step_terms(spec: ModelSpec, cell: CostCell) -> Terms:
    """Return what the seconds of a step are made of, the most telling first.

    Multiply-accumulates of linear layers, forward and backward; 1 (the program itself); those of attention;
    blocks (launches, and what optimizer and averages do to their weights); pixels (transfer, mixing, stem);
    pixels of images that are cut on the device.
    """
    subnet, images = cell.subnet, cell.batch_size
    attention = _attention_macs(spec, subnet)
    everything = image_macs(spec, subnet, Training(unfrozen=cell.unfrozen))
    full_pixels = spec.img_size**2 * images if cell.shrink_by == "fourier" else 0
    return (
        float(images * max(0, everything - attention)),
        1.0,
        float(images * attention),
        float(subnet.total_depth),
        float(images * subnet.img_size**2),
        float(full_pixels),
    )


def data_terms(num_images: int, img_size: int) -> Terms:
    """Return what the seconds of making a batch are made of: images (to read, to decode), pixels, and 1."""
    return float(num_images), float(num_images * img_size**2), 1.0


def fit_law(rows: Sequence[Terms], seconds: Sequence[float]) -> SecondsLaw:
    """Return the law that fits the terms (rows) of some cells best, by relative error.

    With few cells only the first terms are used, so that all of the fit does not go into the noise: one a
    cell up to two cells, then one less than there are cells.
    """
    terms, wanted = np.array(rows), np.array(seconds)
    assert len(terms) > 0, "a law of nothing"
    told = [column for column in range(terms.shape[1]) if terms[:, column].any()]
    used = told[: len(terms) if len(terms) <= 2 else len(terms) - 1]
    relative = terms[:, used] / wanted[:, None]
    scale = relative.max(axis=0)
    found, _ = nnls(relative / scale, np.ones(len(wanted)))
    coefficients = np.zeros(terms.shape[1])
    coefficients[used] = found / scale
    return SecondsLaw(tuple(coefficients.tolist()))


def _attention_macs(spec: ModelSpec, subnet: SubnetConfig) -> int:
    """Return the multiply-accumulates between all tokens for one image, forward and backward.

    Only the last stage has such attention; an outlooker's window costs as much at every place.
    """
    tokens = (subnet.img_size // spec.patch_size) ** 2 + spec.num_prefix_tokens
    counts = block_tokens(tokens, spec.num_prefix_tokens, subnet.depth[-1], subnet.tokens)
    return 3 * sum(2 * count.attention**2 * spec.embed_dim for count in counts)


_MIN_DATA_FRACTION = 1e-3


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
        cost = self.table.step_costs.get(cell.name)
        if cost is not None:
            return Price(cost.seconds, is_estimated=False)
        guess = self._step_law.seconds(step_terms(self.spec, cell))
        return Price(_within_neighbours(cell, guess, self._measured), is_estimated=True)

    def data(self, cell: CostCell) -> Price | None:
        """Return the seconds in which the loader makes a batch; None if no batch has been measured."""
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
        others = {name: cost for name, cost in self.table.step_costs.items() if name != cell.name}
        return replace(self, table=self.table.model_copy(update={"step_costs": others}))

    @cached_property
    def _costs(self) -> dict[CostCell, CellCost]:
        parsed = ((CostCell.parse(name), cost) for name, cost in self.table.step_costs.items())
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
        least = _MIN_DATA_FRACTION * max(self._loaded.values())
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


# --------------------------------------------------------------------------------------------------
# What a whole schedule will take on this machine, by measured costs.


@dataclass(frozen=True)
class Prediction:
    """Predicted seconds of a run by purpose.

    Attributes:
        train: Steps on batches that are there.
        data: Waiting for batches.
    """

    train: float
    data: float

    @property
    def total(self) -> float:
        """Return all of it."""
        return self.train + self.data


def predict_seconds(table: StepTable, costs: CostModel, batch_size: int) -> Prediction:
    """Return what the steps of a schedule will take, without growth, evaluations and checkpoints.

    Args:
        table: The schedule in steps.
        costs: Of the run, or of one like it.
        batch_size: The recipe's, over all processes.
    """
    train = data = 0.0
    for segment in table.segments:
        step_seconds = _step_seconds(segment, costs, batch_size)
        train += segment.steps * step_seconds
        data += segment.steps * _waiting_seconds(segment, step_seconds, costs, batch_size)
    return Prediction(train, data)


def _step_seconds(segment: Segment, costs: CostModel, batch_size: int) -> float:
    """Return the seconds of a step; a sandwich is its passes, with what is no part of a pass counted once."""
    sandwich, training = segment.training.sandwich, segment.training
    if sandwich is None:
        return costs.step(cell_of_step(costs.spec, segment.subnet, training, batch_size)).seconds
    passes = [
        fmean(
            costs.step(cell_of_step(costs.spec, subnet, training, batch_size)).seconds
            for subnet in drawn
        )
        for drawn in _passes(segment, sandwich)
    ]
    seconds = sum(passes) - (len(passes) - 1) * costs.fixed_seconds
    return max(seconds, *passes)


def _passes(segment: Segment, smaller: SandwichSizes) -> Iterator[list[SubnetConfig]]:
    """Yield what each pass draws from: (full, 1), (full, k), (size, 1) and (size, k)."""
    depth = segment.subnet.depth
    rules = [segment.training.tokens.rule(rate) for rate in smaller.keep_rates]
    for sizes in ((segment.subnet.img_size,), smaller.sizes):
        yield [SubnetConfig(depth, size) for size in sizes]
        yield [SubnetConfig(depth, size, rule) for size in sizes for rule in rules]


def _waiting_seconds(
    segment: Segment, step_seconds: float, costs: CostModel, batch_size: int
) -> float:
    """Return the seconds that a step waits for its batch; none where no batch was measured."""
    data = costs.data(cell_of_step(costs.spec, segment.subnet, segment.training, batch_size))
    if data is None:
        return 0.0
    return together_seconds(step_seconds, data.seconds, costs.table.overlap) - step_seconds
