"""The trainer: carries out one phase after another and holds the whole state of a run."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from autoprog.effort import image_macs
from autoprog.errors import ResumableError
from autoprog.events import (
    CheckpointSaved,
    Evaluated,
    Event,
    Interrupted,
    Progressed,
    Warned,
)
from autoprog.recipe import Recipe
from autoprog.runs import RunFolder
from autoprog.settings import RunSettings
from autoprog.stage import Training
from autoprog.train.budget import look, reserve
from autoprog.train.checkpoint import publish, stage_as
from autoprog.train.data import Batch
from autoprog.train.device import Compute
from autoprog.train.entry import enter
from autoprog.train.evaluations import Best, evaluate_phase, is_due, is_due_on_the_way
from autoprog.train.feed import Feed
from autoprog.train.loop import Stepper, check_weights
from autoprog.train.meter import Meter
from autoprog.train.pace import Pace
from autoprog.train.phase import Choice, Phase, choice_of
from autoprog.train.ranks import Ranks
from autoprog.train.regularise import batch_size_of, cell_of
from autoprog.train.rollback import Rollbacks
from autoprog.train.state import restore_newest, snapshot
from autoprog.train.stop import InterruptedRunError, StopNow, StopRequest
from autoprog.train.timing import Ledger
from supernet.config import SubnetConfig

__all__ = ["InterruptedRunError", "StopRequest", "Trainer"]

_BUDGET_LOOK_STEPS = 20  # how often a run under a time budget looks at the clock at least
_STOP_STEPS = 5  # how often ranks ask for a signal: torchrun kills them half a minute after it
_UNBOUNDED_STEPS = 2**31


@dataclass
class Trainer:
    """The state of a run and the ways to move it on.

    ``step`` counts finished optimizer steps, ``samples`` the images they took, ``macs`` the
    multiply-accumulates, ``phase`` is the index of the phase entered last,
    ``evaluated_step`` the step of the last evaluation, ``evaluated_macs`` what had been spent by then and
    ``evaluated_position`` how far the run was; ``by_class`` holds its images and the right ones by class.
    ``best`` is the best evaluation so far, ``evaluations_since_best`` counts those of the full model that
    were not better. ``metadata`` is written into files of weights.
    ``notes`` is kept with checkpoints for whoever drives the trainer; plain containers only.
    """

    settings: RunSettings
    folder: RunFolder
    feed: Feed
    stepper: Stepper
    total_steps: int
    steps_per_epoch: int
    stop: StopRequest = field(default_factory=StopRequest)
    rollbacks: Rollbacks = field(default_factory=Rollbacks)
    clock: Callable[[], float] = time.perf_counter
    step: int = 0
    samples: int = 0
    macs: int = 0
    phase: int = -1
    evaluated_step: int = 0
    evaluated_macs: int = 0
    evaluated_position: float = 0.0
    best: Best | None = None
    evaluations_since_best: int = 0
    stopped_early: bool = False
    trains_plainly: bool = False
    by_class: dict[str, list[int]] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.clock)
        self.steps_by_subnet: Counter[SubnetConfig] = Counter()
        self.phase_seconds: dict[SubnetConfig, list[float]] = defaultdict(list)
        self.last_evaluation: Evaluated | None = None
        self.save_seconds = 0.0
        self._meter = Meter(self.compute.device, self.ledger, self.ranks, self.clock)
        self._saved_at = self.clock()
        self._saved_place: tuple[int, int, int] | None = None
        self._micro_batches = self.stepper.micro_batches

    @property
    def ranks(self) -> Ranks:
        """Return the processes that train together."""
        return self.stepper.ranks

    @property
    def pace(self) -> Pace:
        """Return how far the run is."""
        return self.stepper.pace

    @property
    def compute(self) -> Compute:
        """Return the device and precision."""
        return self.stepper.compute

    @property
    def recipe(self) -> Recipe:
        """Return the recipe."""
        return self.settings.recipe

    @property
    def epoch(self) -> float:
        """Return how many epochs have been trained: passes over as many images as fill whole batches."""
        return self.samples / (self.steps_per_epoch * self.recipe.batch_size)

    def run(self, phase: Phase) -> Iterator[Event]:
        """Carry out a phase, or what is left of it after a resume.

        Raises:
            DivergedError: If a loss or a weight is not finite.
            InterruptedRunError: If a stop was requested; a checkpoint has been written.
        """
        if self.phase > phase.index or self.stopped_early:
            return
        yield from enter(self, phase)
        self.trains_plainly = phase.kind == "plain" and phase.training == Training()
        yield from self._evaluate_on_the_way(phase)  # which a stop may have left to the resume
        if not self.is_over(phase):
            yield from self._train(phase)
            yield from self._progress(phase)
        # A stop after the last step of a stage leaves the evaluation to the resume.
        if phase.ends_stage and is_due(self, phase):
            yield from evaluate_phase(self, phase)
            yield from self.save(keep_as=f"stage-{phase.stage}-{phase.index}")
            reserve(self)

    def save(self, keep_as: str | None = None) -> Iterator[Event]:
        """Write a checkpoint; the event goes out before the file appears, so a log never lacks its mark."""
        start = self.clock()
        if self.ranks.is_main:
            with self.ledger.charge("checkpoint"):
                temporary = stage_as(self.folder.checkpoints, snapshot(self))
            yield CheckpointSaved(step=self.step, path="checkpoints/last.pt")
            publish(self.folder.checkpoints, temporary, keep_as)
        self._saved_at = self.clock()
        self._saved_place = (self.step, self.phase, self.evaluated_step)
        self.save_seconds = self._saved_at - start

    def is_saved(self) -> bool:
        """Tell whether the last checkpoint of this process is of this very place of the run."""
        return self._saved_place == (self.step, self.phase, self.evaluated_step)

    def resume(self) -> list[Warned]:
        """Go on from the newest readable checkpoint, or begin; see :func:`restore_newest`."""
        complaints = restore_newest(self)
        self.stepper.lr_scale = self.rollbacks.lr_scale
        self._micro_batches = self.stepper.micro_batches
        self._meter.restart()
        return [Warned(step=self.step, message=text) for text in complaints]

    def is_over(self, phase: Phase) -> bool:
        """Tell whether the run has passed the end of a phase, or of all."""
        return self.stopped_early or self.pace.position(self.step) >= phase.stop_step

    def _train(self, phase: Phase) -> Iterator[Event]:
        model, seed, start = self.stepper.model.train(), self.settings.seed, self.step
        assert model.training
        # Workers start here, or end what is not wanted any more.
        with self.ledger.charge("data_wait"):
            batches = self.feed.batches(
                first_sample=self.samples,
                batch_size=batch_size_of(phase, self.recipe),
                steps=phase.stop_step - start if self.pace.counts_steps else _UNBOUNDED_STEPS,
                cell_at=lambda k: cell_of(phase, self.recipe, self._full_px, seed, start + k),
                held_out=phase.held_out,
            )
        yield from self._evaluate_on_the_way(phase)  # a stop or a failure may have come before it
        while not self.is_over(phase):
            images, targets = yield from self._next(batches, phase)
            position = self.pace.position(self.step)
            self._take_step(phase, images, targets, choice_of(phase, seed, self.step, position))
            if self._is_time_to_look():
                yield from self._progress(phase)
                yield from self._pause(phase)

    def _next(self, batches: Iterator[Batch], phase: Phase) -> Generator[Event, None, Batch]:
        """Return the next batch, for which a signal ends the wait.

        Raises:
            InterruptedRunError: A stop was requested; a checkpoint has been written.
            ResumableError: A worker has died; a checkpoint has been written.
        """
        try:
            with self.ledger.charge("data_wait"), self.stop.at_once(self.ranks):
                return next(batches)
        except StopNow as request:
            yield from self._progress(phase)
            yield from self.halt(request.signal_name)
            raise
        except ResumableError:
            if self.ranks.alone:
                yield from self._progress(phase)
                yield from self.save()
            raise

    def _is_time_to_look(self) -> bool:
        every = self.settings.log_every_steps
        if self.pace.budget_seconds is not None:
            every = 1 if self.pace.is_settling else min(every, _BUDGET_LOOK_STEPS)
        if self.step % every == 0:
            return True
        if self.ranks.alone:
            return self.stop.signal_name is not None
        return self.step % _STOP_STEPS == 0 and self.stop.agreed(self.ranks) is not None

    def _take_step(self, phase: Phase, images: Tensor, targets: Tensor, choice: Choice) -> None:
        before = self.clock()
        start = self._meter.now()
        loss = self.stepper.step(images, targets, choice, phase.slots, self.step)
        self._meter.add(loss, choice.subnet, start)
        spent = self.clock() - before
        self.ledger.seconds["train"] += spent
        if phase.kind == "supernet":
            self.ledger.seconds["supernet"] += spent
        self.steps_by_subnet[choice.subnet] += 1
        self.samples += batch_size_of(phase, self.recipe)
        self.macs += self._step_macs(phase, choice)
        self.step += 1

    @property
    def _full_px(self) -> int:
        return self.stepper.model.spec.img_size

    def _step_macs(self, phase: Phase, choice: Choice) -> int:
        spec, classes = self.stepper.model.spec, self.feed.num_classes
        images = batch_size_of(phase, self.recipe)
        return images * image_macs(spec, choice.subnet, phase.training, classes)

    def _progress(self, phase: Phase) -> Iterator[Event]:
        """Read the losses since the last time; this is the only place that waits for the device."""
        spent, before = self.ledger.seconds, self.ledger.seconds["train"]
        reading = self._meter.read(self.step, self.epoch, phase.stage)
        if reading is None:
            return
        with self.ledger.charge("train"):
            check_weights(self.stepper.model, self.step, self.epoch, phase.stage)
        if phase.kind == "supernet":  # a device has still worked on steps that were asked for
            spent["supernet"] += spent["train"] - before
        for subnet, seconds in reading.timed:
            self.phase_seconds[subnet].append(seconds)
        look(self, reading.typical_seconds)
        share = self.pace.position(self.step) / self.total_steps
        yield Progressed(
            step=self.step,
            epoch=self.epoch,
            loss=reading.loss,
            lr=max(group["lr"] for group in self.stepper.optimizer.param_groups),
            subnet=reading.timed[-1][0],
            step_seconds=reading.step_seconds,
            images_per_second=batch_size_of(phase, self.recipe) / reading.step_seconds,
            data_wait_share=reading.wait_share,
            train_seconds=self.ledger.seconds["train"],
            budget_share=None if self.pace.counts_steps else share,
        )
        yield from self._complaints()

    def _complaints(self) -> Iterator[Warned]:
        """Tell what went wrong without stopping the run."""
        for text in self.feed.complaints():
            yield Warned(step=self.step, message=text)
        if self.stepper.micro_batches != self._micro_batches:
            self._micro_batches = self.stepper.micro_batches
            text = f"out of memory: batches are taken in {self._micro_batches} parts from now on"
            yield Warned(step=self.step, message=text)

    def _pause(self, phase: Phase) -> Iterator[Event]:
        """Save or stop, where the losses have just been found finite."""
        yield from self.halt_if_asked()
        if self._ends_with_evaluation(phase):
            return  # evaluated and saved there anyway
        yield from self._evaluate_on_the_way(phase)
        if self.clock() - self._saved_at >= 60 * self.settings.checkpoint_minutes:
            yield from self.save()

    def _ends_with_evaluation(self, phase: Phase) -> bool:
        return phase.ends_stage and self.is_over(phase) and is_due(self, phase)

    def _evaluate_on_the_way(self, phase: Phase) -> Iterator[Event]:
        """Evaluate within a stage where that is due; where it ends the run, a checkpoint says so."""
        if self._ends_with_evaluation(phase) or not is_due_on_the_way(self, phase):
            return
        yield from evaluate_phase(self, phase)
        look(self)
        if self.stopped_early:
            yield from self.save()

    def halt_if_asked(self) -> Iterator[Event]:
        """Write a checkpoint and stop where any rank has received a signal; collective.

        Raises:
            InterruptedRunError: If one has.
        """
        signal_name = self.stop.agreed(self.ranks)
        if signal_name is not None:
            yield from self.halt(signal_name)

    def halt(self, signal_name: str) -> Iterator[Event]:
        """Write a checkpoint and stop.

        Raises:
            InterruptedRunError: Always.
        """
        if not self.is_saved():
            yield from self.save()
        yield Interrupted(step=self.step, signal=signal_name)
        raise InterruptedRunError(signal_name, str(self.folder.path))
