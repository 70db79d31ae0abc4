"""What is timed: steps of a cell, batches of a kind, and both together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from autoprog.costs.cells import CostCell
from autoprog.curves import Curriculum
from autoprog.stage import Training
from autoprog.train.data import Batch
from autoprog.train.phase import Phase, plain_choice
from autoprog.train.regularise import augmented_cell, regularise
from autoprog.train.trainer import Trainer

__all__ = ["BatchArm", "StepArm", "both_seconds", "some_batch"]


@dataclass
class StepArm:
    """Steps of one cell by the runner's own loop, on a batch that the feed has delivered.

    It lies where the feed puts it, so that its way to the device is part of the step, as it is in a run.
    """

    trainer: Trainer
    cell: CostCell
    batch: Batch
    curriculum: Curriculum
    micro_batches: int

    def __post_init__(self) -> None:
        subnet, step = self.cell.subnet, self.trainer.step
        self._phase = Phase(
            index=0,
            kind="plain",
            stage=0,
            start_step=step,
            stop_step=step + 1,
            choices=(plain_choice(subnet),),
            depth=subnet.depth,
            curriculum=self.curriculum,
            training=Training(shrink_by=self.cell.shrink_by, unfrozen=self.cell.unfrozen),
        )

    def __call__(self, steps: int) -> float:
        """Take one step untimed, then some; return the seconds of one of them."""
        trainer = self.trainer
        self.enter()
        self._step()
        trainer.compute.synchronize()
        start = trainer.clock()
        for _ in range(steps):
            self._step()
        trainer.compute.synchronize()
        self.micro_batches = trainer.stepper.micro_batches
        return (trainer.clock() - start) / steps

    def enter(self) -> None:
        """Set the network up for this cell; a cell whose batch did not fit keeps its own micro-batches."""
        trainer, phase = self.trainer, self._phase
        trainer.stepper.model.train()
        trainer.stepper.micro_batches = self.micro_batches
        regularise(trainer.stepper, phase, trainer.recipe, trainer.feed.num_classes)
        trainer.stepper.enter(phase)

    def take(self, batch: Batch) -> None:
        """Take one step on `batch`."""
        phase = self._phase
        self.trainer.stepper.step(*batch, phase.choices[0], phase.slots, self.trainer.step)

    def _step(self) -> None:
        self.take(self.batch)


@dataclass
class BatchArm:
    """Batches of one number and size of images, from the run's own feed, with nothing else to do.

    Whatever is asked for is used up, so that no worker takes time from what is timed next.
    """

    trainer: Trainer
    num_images: int
    img_size: int
    curriculum: Curriculum
    sample: int = 0

    def __call__(self, batches: int) -> float:
        """Fetch some batches untimed, one of each worker, then others; return the seconds of one of them."""
        workers = self.trainer.feed.workers
        lead_in, timed = max(1, workers), max(batches, 2 * workers)
        found = self.batches(lead_in + timed)
        for _ in islice(found, lead_in):
            pass
        start = self.trainer.clock()
        for _ in found:
            pass
        return (self.trainer.clock() - start) / timed

    def batches(self, count: int) -> Iterator[Batch]:
        """Return the next batches of the feed; each call goes on where the last one ended."""
        trainer = self.trainer
        cell = augmented_cell(self.curriculum, trainer.recipe, self.img_size)
        first, self.sample = self.sample, self.sample + count * self.num_images
        return trainer.feed.batches(first, self.num_images, count, lambda _: cell, held_out=False)


def some_batch(arm: BatchArm) -> Batch:
    """Return one batch."""
    return next(arm.batches(1))


def both_seconds(step: StepArm, data: BatchArm, steps: int) -> float:
    """Return the seconds of `steps` steps, each on a batch of its own, from the first batch's arrival on."""
    trainer = step.trainer
    step.enter()
    found = data.batches(steps)
    batch = next(found)
    start = trainer.clock()
    step.take(batch)
    for batch in found:
        step.take(batch)
    trainer.compute.synchronize()
    return trainer.clock() - start
