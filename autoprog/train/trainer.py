"""The trainer: carries out one phase after another and holds the whole state of a run."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from autoprog.errors import AutoprogError, RunError
from autoprog.events import (
    CheckpointSaved,
    Evaluated,
    Event,
    Grown,
    Interrupted,
    Progressed,
    StageStarted,
    Warned,
)
from autoprog.recipe import Recipe
from autoprog.runs import RunFolder
from autoprog.settings import RunSettings
from autoprog.train.checkpoint import load_newest, publish, stage_as
from autoprog.train.device import Compute
from autoprog.train.evaluate import evaluate
from autoprog.train.feed import Feed
from autoprog.train.growth import apply_growth
from autoprog.train.loop import LossRing, Stepper, check_weights
from autoprog.train.phase import Choice, Compact, GrowTo, Phase, choice_of, plain_choice
from autoprog.train.regularise import cell_of, regularise
from autoprog.train.state import restore, snapshot
from autoprog.train.timing import Ledger, StepTimer
from supernet.config import SubnetConfig
from supernet.cost import macs
from supernet.grow import compact

__all__ = ["InterruptedRunError", "StopRequest", "Trainer"]


class InterruptedRunError(AutoprogError):
    """A run that stopped on a signal, after a checkpoint."""

    def __init__(self, signal_name: str, run: str) -> None:
        self.exit_code = {"SIGINT": 130, "SIGTERM": 143}.get(signal_name, 1)
        super().__init__(f"stopped by {signal_name} after a checkpoint; go on with --resume {run}")


@dataclass
class StopRequest:
    """A wish to stop, set by a signal handler and granted after the step under way."""

    signal_name: str | None = None


@dataclass
class Trainer:
    """The state of a run and the ways to move it on.

    ``step`` counts finished optimizer steps, ``phase`` is the index of the phase entered last,
    ``evaluated_step`` the step of the last evaluation. ``notes`` is kept with checkpoints for whoever drives
    the trainer; plain containers only.
    """

    settings: RunSettings
    folder: RunFolder
    feed: Feed
    stepper: Stepper
    total_steps: int
    steps_per_epoch: int
    stop: StopRequest = field(default_factory=StopRequest)
    clock: Callable[[], float] = time.perf_counter
    step: int = 0
    phase: int = -1
    evaluated_step: int = 0
    notes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.clock)
        self.steps_by_subnet: Counter[SubnetConfig] = Counter()
        self.phase_seconds: dict[SubnetConfig, list[float]] = defaultdict(list)
        self.last_evaluation: Evaluated | None = None
        self._ring = LossRing()
        self._timer = StepTimer(self.compute.device, self.clock)
        self._saved_at = self.clock()
        self._mark_seconds()

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
        """Return how many epochs have been trained."""
        return self.step / self.steps_per_epoch

    def run(self, phase: Phase) -> Iterator[Event]:
        """Carry out a phase, or what is left of it after a resume.

        Raises:
            DivergedError: If a loss or a weight is not finite.
            InterruptedRunError: If a stop was requested; a checkpoint has been written.
        """
        if self.phase > phase.index:
            return
        yield from self._enter(phase)
        if self.step < phase.stop_step:
            yield from self._train(phase)
            yield from self._progress(phase)
        # A stop after the last step of a stage leaves the evaluation to the resume.
        if phase.ends_stage and self.evaluated_step < phase.stop_step:
            yield from self._evaluate(phase)
            yield from self.save(keep_as=f"stage-{phase.stage}-{phase.index}")

    def save(self, keep_as: str | None = None) -> Iterator[Event]:
        """Write a checkpoint; the event goes out before the file appears, so a log never lacks its mark."""
        with self.ledger.charge("checkpoint"):
            temporary = stage_as(self.folder.checkpoints, snapshot(self))
        yield CheckpointSaved(step=self.step, path="checkpoints/last.pt")
        publish(self.folder.checkpoints, temporary, keep_as)
        self._saved_at = self.clock()

    def resume(self) -> list[Event]:
        """Go on from the newest readable checkpoint, if there is one; return what there is to warn of.

        Raises:
            RunError: If the checkpoint is of another network or optimizer.
        """
        state, complaints = load_newest(self.folder.checkpoints, self.compute.device)
        if state is not None:
            try:
                restore(self, state)
            except (KeyError, RuntimeError, ValueError) as error:
                reason = str(error).splitlines()[0]
                raise RunError(
                    f"{self.folder.checkpoints}: the checkpoint does not fit this run ({reason});"
                    " was it copied from another one?"
                ) from None
            self._mark_seconds()
        return [Warned(step=self.step, message=text) for text in complaints]

    def total_macs(self) -> float:
        """Return the multiply-accumulates of training: three forward passes' worth for each image."""
        spec, classes = self.stepper.model.spec, self.feed.num_classes
        images = self.recipe.batch_size
        return float(
            sum(
                3 * macs(spec, net, classes) * n * images for net, n in self.steps_by_subnet.items()
            )
        )

    def _enter(self, phase: Phase) -> Iterator[Event]:
        """Prepare the network for a phase; what changes weights happens only once."""
        if self.phase < phase.index:
            if isinstance(phase.enter, GrowTo):
                yield self._grow(phase.enter)
            elif isinstance(phase.enter, Compact):
                with self.ledger.charge("lost"):
                    stepper = self.stepper
                    averages = [ema.module for ema in stepper.emas]
                    compact(stepper.model, averages, stepper.optimizer, phase.enter.slots)
            self.phase = phase.index
            if phase.enter is not None or phase.kind == "plain":
                self.phase_seconds.clear()
        regularise(self.stepper, phase, self.recipe, self.feed.num_classes)
        if phase.starts_stage and phase.kind == "plain" and self.step < phase.stop_step:
            yield StageStarted(
                step=self.step,
                stage=phase.stage,
                subnet=phase.choices[0].subnet,
                stop_step=phase.stop_step,
                curriculum=phase.curriculum,
            )

    def _grow(self, change: GrowTo) -> Grown:
        with self.ledger.charge("lost"):
            return apply_growth(self.stepper, self.feed.probe(), change, self.step, self.clock)

    def _train(self, phase: Phase) -> Iterator[Event]:
        model, seed, start = self.stepper.model.train(), self.settings.seed, self.step
        assert model.training
        batches = self.feed.batches(
            first_step=start,
            steps=phase.stop_step - start,
            cell_at=lambda k: cell_of(
                phase.curriculum, self.recipe, choice_of(phase, seed, start + k).subnet.img_size
            ),
            held_out=phase.held_out,
        )
        for step in range(start, phase.stop_step):
            with self.ledger.charge("data_wait"):
                images, targets = next(batches)
            self._take_step(phase, images, targets, choice_of(phase, seed, step))
            if self.step % self.settings.log_every_steps == 0 or self.stop.signal_name:
                yield from self._progress(phase)
                yield from self._pause(phase)

    def _take_step(self, phase: Phase, images: Tensor, targets: Tensor, choice: Choice) -> None:
        before = self.clock()
        start = self._timer.now()
        loss = self.stepper.step(images, targets, choice, phase.slots, self.step)
        self._ring.add(loss)
        self._timer.add(choice.subnet, start)
        spent = self.clock() - before
        self.ledger.seconds["train"] += spent
        if phase.kind == "supernet":
            self.ledger.seconds["supernet"] += spent
        self.steps_by_subnet[choice.subnet] += 1
        self.step += 1

    def _progress(self, phase: Phase) -> Iterator[Event]:
        """Read the losses since the last time; this is the only place that waits for the device."""
        with self.ledger.charge("train"):
            loss = self._ring.read(self.step, self.epoch, phase.stage)
            if loss is None:
                return
            check_weights(self.stepper.model, self.step, self.epoch, phase.stage)
        timed = self._timer.drain()
        for subnet, seconds in timed:
            self.phase_seconds[subnet].append(seconds)
        mean_seconds = sum(seconds for _, seconds in timed) / len(timed)
        wait, train = self.ledger.seconds["data_wait"], self.ledger.seconds["train"]
        waited, trained = wait - self._marked_wait, train - self._marked_train
        self._mark_seconds()
        yield Progressed(
            step=self.step,
            epoch=self.epoch,
            loss=loss,
            lr=self.stepper.optimizer.param_groups[0]["lr"],
            subnet=timed[-1][0],
            step_seconds=mean_seconds,
            images_per_second=self.recipe.batch_size / mean_seconds,
            data_wait_share=waited / max(waited + trained, 1e-9),
            train_seconds=train,
        )

    def _pause(self, phase: Phase) -> Iterator[Event]:
        """Save or stop, where the losses have just been found finite."""
        if self.stop.signal_name is not None:
            yield from self.save()
            yield Interrupted(step=self.step, signal=self.stop.signal_name)
            raise InterruptedRunError(self.stop.signal_name, str(self.folder.path))
        if phase.ends_stage and self.step == phase.stop_step:
            return  # evaluated and saved there anyway
        every = self.settings.eval_every_epochs
        if every is not None:
            interval = max(1, round(every * self.steps_per_epoch))
            if self.step - self.evaluated_step >= interval:
                yield from self._evaluate(phase)
        if self.clock() - self._saved_at >= 60 * self.settings.checkpoint_minutes:
            yield from self.save()

    def _evaluate(self, phase: Phase) -> Iterator[Event]:
        """Evaluate the online and the averaged network at the full image size."""
        full = self.stepper.model.spec.img_size
        choice = plain_choice(SubnetConfig(phase.depth, full))
        start = self.clock()
        with self.ledger.charge("evaluate"):
            models = (self.stepper.model, self.stepper.emas[-1].module)
            (loss, top1), (loss_ema, top1_ema) = evaluate(
                models, self.feed.validation(), choice, self.compute
            )
        self.evaluated_step = self.step
        self.last_evaluation = Evaluated(
            step=self.step,
            epoch=self.epoch,
            subnet=choice.subnet,
            loss=loss,
            top1=top1,
            loss_ema=loss_ema,
            top1_ema=top1_ema,
            seconds=self.clock() - start,
            train_seconds=self.ledger.seconds["train"],
        )
        yield self.last_evaluation

    def _mark_seconds(self) -> None:
        """Begin a new stretch of the share of time spent waiting for data."""
        self._marked_wait = self.ledger.seconds["data_wait"]
        self._marked_train = self.ledger.seconds["train"]
