"""The trainer: carries out one phase after another and holds the whole state of a run."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from autoprog.errors import AutoprogError
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
from autoprog.recipe import Recipe, with_randaug_magnitude
from autoprog.runs import RunFolder
from autoprog.settings import RunSettings
from autoprog.train.checkpoint import load_newest, publish, stage_as
from autoprog.train.data import Cell
from autoprog.train.device import Compute
from autoprog.train.evaluate import evaluate
from autoprog.train.feed import Feed
from autoprog.train.growth import apply_growth
from autoprog.train.loop import LossRing, Stepper
from autoprog.train.optim import create_loss, create_mixup
from autoprog.train.phase import Choice, Compact, GrowTo, Phase, choice_of, plain_choice
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

    ``step`` counts finished optimizer steps, ``phase`` is the index of the phase entered last. ``notes`` is
    kept with checkpoints for whoever drives the trainer; plain containers only.
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
    notes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.clock)
        self.steps_by_subnet: Counter[SubnetConfig] = Counter()
        self.phase_seconds: dict[SubnetConfig, list[float]] = defaultdict(list)
        self.last_evaluation: Evaluated | None = None
        self._ring = LossRing()
        self._timer = StepTimer(self.compute.device, self.clock)
        self._saved_at = self.clock()
        self._marked_at = 0
        self._marked_wait = 0.0
        self._marked_train = 0.0

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
            DivergedError: If a loss is not finite.
            InterruptedRunError: If a stop was requested; a checkpoint has been written.
        """
        if self.phase > phase.index:
            return
        yield from self._enter(phase)
        if self.step < phase.stop_step:
            yield from self._train(phase)
            yield from self._progress(phase)
            if phase.ends_stage:
                yield from self._evaluate(phase)
                yield from self.save(keep_as=f"stage-{phase.stage}-{phase.index}")

    def save(self, keep_as: str | None = None) -> Iterator[Event]:
        """Write a checkpoint; the event goes out before the file appears, so a log never lacks its mark."""
        with self.ledger.charge("checkpoint"):
            temporary = stage_as(self.folder.checkpoints, self._state())
        yield CheckpointSaved(step=self.step, path="checkpoints/last.pt")
        publish(self.folder.checkpoints, temporary, keep_as)
        self._saved_at = self.clock()

    def resume(self) -> list[Event]:
        """Go on from the newest readable checkpoint, if there is one; return what there is to warn of."""
        state, complaints = load_newest(self.folder.checkpoints, self.compute.device)
        if state is not None:
            self._load(state)
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
        self._set_regularisation(phase)
        if phase.starts_stage and phase.kind == "plain":
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

    def _set_regularisation(self, phase: Phase) -> None:
        values, recipe = phase.curriculum, self.recipe
        drop_path = _given(values.drop_path, recipe.drop_path)
        self.stepper.model.set_drop_path(drop_path, phase.depth)
        mixup = create_mixup(
            _given(values.mixup, recipe.mixup),
            _given(values.cutmix, recipe.cutmix),
            recipe.smoothing,
            self.feed.num_classes,
        )
        self.stepper.mixup = mixup
        self.stepper.loss = create_loss(recipe.smoothing, mixed=mixup is not None)

    def _cell(self, phase: Phase, choice: Choice) -> Cell:
        values, recipe = phase.curriculum, self.recipe
        magnitude = None if values.randaug is None else _given(values.randaug, 0.0)
        return Cell(
            img_size=choice.subnet.img_size,
            aa=with_randaug_magnitude(recipe.aa, magnitude),
            reprob=_given(values.reprob, recipe.reprob),
        )

    def _train(self, phase: Phase) -> Iterator[Event]:
        model, seed, start = self.stepper.model.train(), self.settings.seed, self.step
        assert model.training
        batches = self.feed.batches(
            first_step=start,
            steps=phase.stop_step - start,
            cell_at=lambda k: self._cell(phase, choice_of(phase, seed, start + k)),
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
        timed = self._timer.drain()
        for subnet, seconds in timed:
            self.phase_seconds[subnet].append(seconds)
        mean_seconds = sum(seconds for _, seconds in timed) / len(timed)
        wait, train = self.ledger.seconds["data_wait"], self.ledger.seconds["train"]
        waited, trained = wait - self._marked_wait, train - self._marked_train
        self._marked_wait, self._marked_train = wait, train
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
        due = self.clock() - self._saved_at >= 60 * self.settings.checkpoint_minutes
        if self.stop.signal_name is not None:
            yield from self.save()
            yield Interrupted(step=self.step, signal=self.stop.signal_name)
            raise InterruptedRunError(self.stop.signal_name, str(self.folder.path))
        if due and self.step < phase.stop_step:
            yield from self.save()
        every = self.settings.eval_every_epochs
        if every is not None and self.step < phase.stop_step:
            interval = max(1, round(every * self.steps_per_epoch))
            if self.step - self._marked_at >= interval:
                yield from self._evaluate(phase)

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
        self._marked_at = self.step
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

    def _state(self) -> dict[str, Any]:
        stepper = self.stepper
        evaluation = self.last_evaluation
        return {
            "step": self.step,
            "phase": self.phase,
            "model": stepper.model.vit.state_dict(),
            "emas": [ema.module.vit.state_dict() for ema in stepper.emas],
            "optimizer": stepper.optimizer.state_dict(),
            "scaler": stepper.scaler.state_dict(),
            "seconds": dict(self.ledger.seconds),
            "steps_by_subnet": [
                [list(net.depth), net.img_size, steps]
                for net, steps in self.steps_by_subnet.items()
            ],
            "phase_seconds": [
                [list(net.depth), net.img_size, seconds]
                for net, seconds in self.phase_seconds.items()
            ],
            "last_evaluation": evaluation.model_dump(mode="json") if evaluation else None,
            "marked_at": self._marked_at,
            "notes": self.notes,
        }

    def _load(self, state: dict[str, Any]) -> None:
        stepper = self.stepper
        self.step, self.phase, self.notes = state["step"], state["phase"], state["notes"]
        stepper.model.vit.load_state_dict(state["model"], strict=True)
        for ema, weights in zip(stepper.emas, state["emas"], strict=True):
            ema.module.vit.load_state_dict(weights, strict=True)
        stepper.optimizer.load_state_dict(state["optimizer"])
        stepper.scaler.load_state_dict(state["scaler"])
        self.ledger.seconds.update(state["seconds"])
        for depth, img_size, steps in state["steps_by_subnet"]:
            self.steps_by_subnet[SubnetConfig(depth, img_size)] = steps
        for depth, img_size, seconds in state["phase_seconds"]:
            self.phase_seconds[SubnetConfig(depth, img_size)] = list(seconds)
        if state["last_evaluation"] is not None:
            self.last_evaluation = Evaluated(**state["last_evaluation"])
        self._marked_at = state["marked_at"]
        self._marked_wait = self.ledger.seconds["data_wait"]
        self._marked_train = self.ledger.seconds["train"]


def _given(value: object, default: float) -> float:
    """Return a curriculum's constant value, or the recipe's where it has none."""
    if value is None:
        return default
    assert isinstance(value, int | float), "a step table holds constants"
    return float(value)
