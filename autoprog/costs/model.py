"""The cost model: measured seconds, estimates between them, and what a whole schedule will take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean, median
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

from autoprog.costs.table import CostKey, CostTable, StepCost, key_of_step, overlapped_seconds
from autoprog.stage import Training, image_macs
from autoprog.steptable import Segment, StepTable
from supernet.config import ModelSpec, SubnetConfig
from supernet.cost import block_tokens

__all__ = [
    "CostModel",
    "PredictedCost",
    "Prediction",
    "StepCostRegression",
    "data_terms",
    "fit_regression",
    "predict_seconds",
    "step_terms",
]


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
        batch = costs.data(key_of_step(costs.spec, segment.subnet, segment.training, batch_size))
        if batch is not None:
            both = overlapped_seconds(step_seconds, batch.seconds, costs.table.overlap)
            data += segment.steps * (both - step_seconds)
    return Prediction(train, data)


def _step_seconds(segment: Segment, costs: CostModel, batch_size: int) -> float:
    """Return the seconds of a step; a sandwich is its passes, with what is no part of a pass counted once."""
    sandwich, training = segment.training.sandwich, segment.training
    if sandwich is None:
        return costs.step(key_of_step(costs.spec, segment.subnet, training, batch_size)).seconds
    depth, full_px = segment.subnet.depth, segment.subnet.img_size
    rules = [training.tokens.rule(rate) for rate in sandwich.keep_rates]
    passes = []
    # The four passes of SuperViT: (full, 1), (full, k), (size, 1) and (size, k). Sizes and keep-rates are
    # drawn evenly for each step, so a pass takes the mean of those that it may draw.
    for sizes in ((full_px,), sandwich.sizes):
        whole = [SubnetConfig(depth, size) for size in sizes]
        sparse = [SubnetConfig(depth, size, rule) for size in sizes for rule in rules]
        for drawn in (whole, sparse):
            keys = [key_of_step(costs.spec, subnet, training, batch_size) for subnet in drawn]
            passes.append(fmean(costs.step(key).seconds for key in keys))
    # The optimizer and the averages are updated once, not once a pass.
    seconds = sum(passes) - (len(passes) - 1) * costs.fixed_seconds
    return max(seconds, *passes)  # where few steps were measured, the fixed part may be all of them


class PredictedCost(NamedTuple):
    """Seconds, and whether they are estimated from those of other steps."""

    seconds: float
    is_estimated: bool


@dataclass(frozen=True)
class CostModel:
    """What steps and batches cost: a pure function of the cost table of a run."""

    spec: ModelSpec
    table: CostTable

    def step(self, key: CostKey) -> PredictedCost:
        """Return the seconds of a step on a batch that is there; at least one must have been measured."""
        cost = self.table.step_costs.get(key.name)
        if cost is not None:
            return PredictedCost(cost.seconds, is_estimated=False)
        # The regression does not know that more work never takes less time; the neighbours do.
        guess = self._step_regression.seconds(step_terms(self.spec, key))
        return PredictedCost(_within_neighbours(key, guess, self._measured), is_estimated=True)

    def data(self, key: CostKey) -> PredictedCost | None:
        """Return the seconds in which the loader makes a batch; None if no batch has been measured."""
        if not self._loaded:
            return None
        batch = self._batch_of(key)
        if batch in self._loaded:
            return PredictedCost(self._loaded[batch], is_estimated=False)
        return PredictedCost(self._data_regression.seconds(data_terms(*batch)), is_estimated=True)

    def wall(self, key: CostKey) -> PredictedCost:
        """Return the seconds that a step adds to the run, with its data as far as that is known."""
        step, data = self.step(key), self.data(key)
        if data is None:
            return step
        seconds = overlapped_seconds(step.seconds, data.seconds, self.table.overlap)
        return PredictedCost(seconds, step.is_estimated or data.is_estimated)

    @property
    def fixed_seconds(self) -> float:
        """Return what a step takes however small the network and its images are."""
        return self._step_regression.coefficients[1]

    def left_out_errors(self) -> dict[str, float]:
        """Return the relative error of the estimate of each measured step, had it not been measured.

        Empty below 3 steps: a regression through the one or two others would be a guess.
        """
        errors: dict[str, float] = {}
        for key, seconds in self._measured.items() if len(self._measured) >= 3 else ():
            others = {
                name: cost for name, cost in self.table.step_costs.items() if name != key.name
            }
            without = replace(self, table=self.table.model_copy(update={"step_costs": others}))
            errors[key.name] = without.step(key).seconds / seconds - 1
        return errors

    @cached_property
    def _costs(self) -> dict[CostKey, StepCost]:
        parsed = ((CostKey.parse(name), cost) for name, cost in self.table.step_costs.items())
        return {key: cost for key, cost in parsed if key is not None}

    @cached_property
    def _measured(self) -> dict[CostKey, float]:
        return {key: cost.seconds for key, cost in self._costs.items()}

    @cached_property
    def _loaded(self) -> dict[tuple[int, int], float]:
        """Return the seconds of a batch by its size and that of its images, which do not depend on depth."""
        found: dict[tuple[int, int], list[float]] = {}
        for key, cost in self._costs.items():
            if cost.data_seconds is not None:
                found.setdefault(self._batch_of(key), []).append(cost.data_seconds)
        return {batch: median(seconds) for batch, seconds in found.items()}

    @cached_property
    def _step_regression(self) -> StepCostRegression:
        rows = [step_terms(self.spec, key) for key in self._measured]
        return fit_regression(rows, list(self._measured.values()))

    @cached_property
    def _data_regression(self) -> StepCostRegression:
        # The fit is by relative error, in which a batch that takes next to nothing, as one that a worker
        # had made before, would be all that counts: below a thousandth of the slowest it is left out.
        least = 1e-3 * max(self._loaded.values())
        used = {
            batch: max(seconds, 1e-9) for batch, seconds in self._loaded.items() if seconds >= least
        }
        return fit_regression([data_terms(*batch) for batch in used], list(used.values()))

    def _batch_of(self, key: CostKey) -> tuple[int, int]:
        """Return the number and the size in px of the images that are loaded for a step."""
        return key.batch_size, key.loaded_px(self.spec.img_size)


def _within_neighbours(key: CostKey, guess: float, measured: Mapping[CostKey, float]) -> float:
    """Return a guess, limited to between the slowest smaller and the fastest larger step measured.

    Only steps of the same kind are compared; where noise has put the two limits the wrong way round, the
    guess stays.
    """

    def kind(key: CostKey) -> tuple[object, ...]:
        return key.subnet.tokens, key.shrink_by, key.unfrozen, len(key.subnet.depth)

    def is_within(one: CostKey, other: CostKey) -> bool:
        return one.batch_size <= other.batch_size and one.subnet.within(other.subnet)

    alike = {one: s for one, s in measured.items() if kind(one) == kind(key)}
    low = max((s for one, s in alike.items() if is_within(one, key)), default=0.0)
    high = min((s for one, s in alike.items() if is_within(key, one)), default=float("inf"))
    return min(max(guess, low), high) if low <= high else guess


Terms = tuple[float, ...]


@dataclass(frozen=True)
class StepCostRegression:
    """Seconds as a sum of physical terms: sum of coefficient · term, no coefficient below 0."""

    coefficients: Terms

    def seconds(self, terms: Sequence[float]) -> float:
        """Return the seconds of a step, or of a batch, with these terms."""
        return sum(c * term for c, term in zip(self.coefficients, terms, strict=True))


def fit_regression(rows: Sequence[Terms], seconds: Sequence[float]) -> StepCostRegression:
    """Return the regression that fits the terms (rows) of some steps best, by relative error.

    With few steps only the first terms are used, so that not all of the fit goes into the noise: one a step
    up to two steps, then one less than there are steps.
    """
    terms, wanted = np.array(rows), np.array(seconds)
    assert len(terms) > 0, "a regression through nothing"
    # A term that is 0 everywhere has no coefficient that could be found.
    occurring = [column for column in range(terms.shape[1]) if terms[:, column].any()]
    used = occurring[: len(terms) if len(terms) <= 2 else len(terms) - 1]
    relative = terms[:, used] / wanted[:, None]  # (steps, terms): all steps count alike
    scale = relative.max(axis=0)  # terms differ by up to 1e12, which nnls would not survive
    found, _ = nnls(relative / scale, np.ones(len(wanted)))
    coefficients = np.zeros(terms.shape[1])
    coefficients[used] = found / scale
    return StepCostRegression(tuple(coefficients.tolist()))


def step_terms(spec: ModelSpec, key: CostKey) -> Terms:
    """Return what the seconds of a step are made of, the most important first.

    Multiply-accumulates of linear layers, forward and backward; 1 (the program itself); those of attention;
    blocks (launches, and what optimizer and averages do to their weights); pixels (transfer, mixing, stem);
    pixels of images that are cut on the device.
    """
    subnet, images = key.subnet, key.batch_size
    # Attention between all tokens is that of the last stage: an outlooker's window costs as much at every
    # place. Two products of d multiply-accumulates a pair of tokens, three times: forward, backward twice.
    tokens = (subnet.img_size // spec.patch_size) ** 2 + spec.num_prefix_tokens
    counts = block_tokens(tokens, spec.num_prefix_tokens, subnet.depth[-1], subnet.tokens)
    attention = 3 * sum(2 * count.attention**2 * spec.embed_dim for count in counts)
    everything = image_macs(spec, subnet, Training(unfrozen=key.unfrozen))
    full_pixels = spec.img_size**2 * images if key.shrink_by == "fourier" else 0
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
