"""What a whole schedule will take on this machine, by measured costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, inf
from statistics import fmean

from autoprog.costs.cells import cell_of_step
from autoprog.costs.model import CostModel, Price
from autoprog.costs.table import together_seconds
from autoprog.stage import SandwichSizes
from autoprog.steptable import Segment, StepTable
from supernet.config import SubnetConfig

__all__ = ["Pauses", "Prediction", "predict_seconds"]


@dataclass(frozen=True)
class Pauses:
    """Seconds for which training stands still, as far as they are known; 0 where they are not.

    Attributes:
        growth: Of one growth.
        evaluation: Of one evaluation of the online and the averaged network.
        checkpoint: Of writing one checkpoint.
        eval_every_epochs: Evaluations within stages; None for those at stage ends alone.
        checkpoint_minutes: Between checkpoints within stages.
    """

    growth: float = 0.0
    evaluation: float = 0.0
    checkpoint: float = 0.0
    eval_every_epochs: float | None = None
    checkpoint_minutes: float = inf


@dataclass(frozen=True)
class Prediction:
    """Predicted seconds of a run by purpose.

    Attributes:
        train: Steps on batches that are there.
        data: Waiting for batches.
        growth: Growing.
        evaluate: Evaluations at stage ends and within stages.
        checkpoint: Checkpoints.
        estimated_share: Share of ``train`` and ``data`` that rests on cells which were not measured.
        knows_data: Whether a batch has been measured at all; ``data`` is 0 otherwise.
    """

    train: float
    data: float
    growth: float
    evaluate: float
    checkpoint: float
    estimated_share: float
    knows_data: bool

    @property
    def total(self) -> float:
        """Return all of it."""
        return self.train + self.data + self.growth + self.evaluate + self.checkpoint


def predict_seconds(
    table: StepTable, costs: CostModel, batch_size: int, pauses: Pauses | None = None
) -> Prediction:
    """Return what a schedule will take.

    Args:
        table: The schedule in steps.
        costs: Of the run, or of one like it.
        batch_size: The recipe's, over all processes.
        pauses: What is known beside steps.
    """
    pauses = Pauses() if pauses is None else pauses
    train = data = estimated = 0.0
    for segment in table.segments:
        step = _step(segment, costs, batch_size)
        waiting = _waiting(segment, step.seconds, costs, batch_size)
        train += segment.steps * step.seconds
        data += segment.steps * waiting.seconds
        if step.is_estimated or waiting.is_estimated:
            estimated += segment.steps * (step.seconds + waiting.seconds)
    stages = [segment.start_step for segment in table.stage_starts()]
    saved = len(stages) + (train + data) / (60 * pauses.checkpoint_minutes)
    return Prediction(
        train=train,
        data=data,
        growth=_count_growths(table) * pauses.growth,
        evaluate=_count_evaluations(stages, table, pauses) * pauses.evaluation,
        checkpoint=saved * pauses.checkpoint,
        estimated_share=estimated / (train + data),
        knows_data=costs.knows_data,
    )


def _step(segment: Segment, costs: CostModel, batch_size: int) -> Price:
    """Return the seconds of a step; a sandwich is its passes, with what is no part of a pass counted once."""
    sandwich, training = segment.training.sandwich, segment.training
    if sandwich is None:
        return costs.step(cell_of_step(costs.spec, segment.subnet, training, batch_size))
    passes = [
        fmean(
            costs.step(cell_of_step(costs.spec, subnet, training, batch_size)).seconds
            for subnet in drawn
        )
        for drawn in _passes(segment, sandwich)
    ]
    seconds = sum(passes) - (len(passes) - 1) * costs.fixed_seconds
    return Price(max(seconds, *passes), is_estimated=True)


def _passes(segment: Segment, smaller: SandwichSizes) -> Iterator[list[SubnetConfig]]:
    """Yield what each pass draws from: (full, 1), (full, k), (size, 1) and (size, k)."""
    depth = segment.subnet.depth
    rules = [segment.training.tokens.rule(rate) for rate in smaller.keep_rates]
    for sizes in ((segment.subnet.img_size,), smaller.sizes):
        yield [SubnetConfig(depth, size) for size in sizes]
        yield [SubnetConfig(depth, size, rule) for size in sizes for rule in rules]


def _waiting(segment: Segment, step_seconds: float, costs: CostModel, batch_size: int) -> Price:
    """Return the seconds that a step waits for its batch."""
    data = costs.data(cell_of_step(costs.spec, segment.subnet, segment.training, batch_size))
    if data is None:
        return Price(0.0, is_estimated=False)
    both = together_seconds(step_seconds, data.seconds, costs.table.overlap)
    return Price(both - step_seconds, data.is_estimated)


def _count_growths(table: StepTable) -> int:
    """Count the changes after which some stage of the network is deeper than just before."""
    return sum(
        any(b > a for a, b in zip(before.subnet.depth, after.subnet.depth, strict=True))
        for before, after in pairwise(table.segments)
    )


def _count_evaluations(stage_starts: Sequence[int], table: StepTable, pauses: Pauses) -> int:
    if pauses.eval_every_epochs is None:
        return len(stage_starts)
    interval = max(1, round(pauses.eval_every_epochs * table.steps_per_epoch))
    stops = [*stage_starts[1:], table.total_steps]
    return sum(
        ceil((stop - start) / interval) for start, stop in zip(stage_starts, stops, strict=True)
    )
