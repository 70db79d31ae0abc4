"""What a whole schedule will take on this machine, by measured costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean

from autoprog.costs.cells import cell_of_step
from autoprog.costs.model import CostModel
from autoprog.costs.table import together_seconds
from autoprog.stage import SandwichSizes
from autoprog.steptable import Segment, StepTable
from supernet.config import SubnetConfig

__all__ = ["Prediction", "predict_seconds"]


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
