"""What is timed: steps of a cell, batches of a kind, and both together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from autoprog.costs.cells import CostCell
from autoprog.curves import Curriculum
from autoprog.search.profile.turns import TimeIsUpError
from autoprog.stage import Training
from autoprog.train.data import Batch
from autoprog.train.phase import Phase, plain_choice
from autoprog.train.regularise import augmented_cell, regularise
from autoprog.train.stop import GaveUpError
from autoprog.train.trainer import Trainer

__all__ = ["BatchArm", "StepArm", "Watch", "both_seconds"]


@dataclass
class Watch:
    """Ends measuring between two steps: for a signal, or because the time is up.

    Processes that measure together must all take the same steps, so they look only between two blocks.
    """

    trainer: Trainer
    limit_seconds: float = math.inf

    def __post_init__(self) -> None:
        self._begin_seconds = self.trainer.clock()

    @property
    def spent_seconds(self) -> float:
        """Return the time since measuring began."""
        return self.trainer.clock() - self._begin_seconds

    @property
    def left_seconds(self) -> float:
        """Return the time that is left, below 0 where it is over."""
        return self.limit_seconds - self.spent_seconds

    def between_steps(self) -> None:
        """Look whether to go on; to be called between any two steps or batches.

        Raises:
            GaveUpError: If a signal has come.
            TimeIsUpError: If the time is up.
        """
        if self.trainer.stepper.ranks.alone:
            self.trainer.stop.check()
            if self.left_seconds < 0:
                raise TimeIsUpError

    def between_blocks(self) -> None:
        """Let all processes that measure together give up if one of them has got a signal.

        Raises:
            GaveUpError: On all of them.
        """
        ranks = self.trainer.stepper.ranks
        if ranks.most(int(self.trainer.stop.signal_name is not None)):
            raise GaveUpError


@dataclass
class StepArm:
    """Steps of one cell by the runner's own loop, on a batch that the feed has delivered.

    The batch lies where the feed puts it, so that its way to the device is part of the step, as in a run.
    """

    watch: Watch
    cell: CostCell
    batch: Callable[[], Batch]
    curriculum: Curriculum
    micro_batches: int

    def __post_init__(self) -> None:
        subnet, step = self.cell.subnet, self.watch.trainer.step
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
        trainer, batch = self.watch.trainer, self.batch()
        self.enter()
        self._take_watched(batch)
        return self._timed(batch, steps, trainer)

    def once(self) -> float:
        """Take one step and return its seconds, whatever caches have to be filled for it."""
        batch = self.batch()
        self.enter()
        return self._timed(batch, 1, self.watch.trainer)

    def enter(self) -> None:
        """Set the network up for this cell; a cell whose batch did not fit keeps its own micro-batches."""
        trainer, phase = self.watch.trainer, self._phase
        trainer.stepper.model.train()
        trainer.stepper.micro_batches = self.micro_batches
        regularise(trainer.stepper, phase, trainer.recipe, trainer.feed.num_classes)
        trainer.stepper.enter(phase)

    def take(self, batch: Batch) -> None:
        """Take one step on `batch`."""
        trainer, phase = self.watch.trainer, self._phase
        trainer.stepper.step(*batch, phase.choices[0], phase.slots, trainer.step)

    def _timed(self, batch: Batch, steps: int, trainer: Trainer) -> float:
        trainer.compute.synchronize()
        start = trainer.clock()
        for _ in range(steps):
            self._take_watched(batch)
        trainer.compute.synchronize()
        self.micro_batches = trainer.stepper.micro_batches
        return (trainer.clock() - start) / steps

    def _take_watched(self, batch: Batch) -> None:
        self.watch.between_steps()
        self.take(batch)


@dataclass
class BatchArm:
    """Batches of one number and size of images, from the run's own feed, with nothing else to do.

    Whatever is asked for is used up, so that no worker takes time from what is timed next.
    """

    watch: Watch
    num_images: int
    img_size: int
    curriculum: Curriculum
    sample: int = 0
    first_seconds: float | None = field(default=None, init=False)
    _some: Batch | None = field(default=None, init=False)

    def __call__(self, batches: int) -> float:
        """Fetch some batches untimed, one of each worker, then others; return the seconds of one of them."""
        trainer = self.watch.trainer
        lead_in, timed = max(1, trainer.feed.workers), max(batches, 2 * trainer.feed.workers)
        found = self.batches(lead_in + timed)
        for batch in islice(found, lead_in):
            self._some = batch
            self.watch.between_steps()
        start = trainer.clock()
        for _ in found:
            self.watch.between_steps()
        return (trainer.clock() - start) / timed

    @property
    def has_batch(self) -> bool:
        """Tell whether a batch has been fetched."""
        return self._some is not None

    def some(self) -> Batch:
        """Return a batch; what the first took is kept, a guess where there is no time for others."""
        if self._some is None:
            trainer = self.watch.trainer
            start = trainer.clock()
            self._some = next(self.batches(1))
            self.first_seconds = (trainer.clock() - start) / max(1, trainer.feed.workers)
        return self._some

    def price(self, workers: int) -> float:
        """Return about the seconds of each of the two halves of a first turn; a batch has been fetched."""
        assert self.first_seconds is not None
        return self.first_seconds * (1.5 * workers if workers else 1.0)

    def batches(self, count: int) -> Iterator[Batch]:
        """Return the next batches of the feed; each call goes on where the last one ended."""
        trainer = self.watch.trainer
        cell = augmented_cell(self.curriculum, trainer.recipe, self.img_size)
        first, self.sample = self.sample, self.sample + count * self.num_images
        return trainer.feed.batches(first, self.num_images, count, lambda _: cell, held_out=False)


def both_seconds(step: StepArm, data: BatchArm, steps: int) -> float:
    """Return the seconds of `steps` steps, each on a batch of its own, from the first batch's arrival on."""
    trainer = step.watch.trainer
    step.enter()
    found = data.batches(steps)
    batch = next(found)
    start = trainer.clock()
    step.take(batch)
    for batch in found:
        step.watch.between_steps()
        step.take(batch)
    trainer.compute.synchronize()
    return trainer.clock() - start
