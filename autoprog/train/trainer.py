"""The trainer: carries out one phase after another and holds the whole state of a run."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from autoprog.accuracy import largest_class_fraction
from autoprog.data.loader import Batch
from autoprog.data.run_data import RunData
from autoprog.errors import DivergedError, ResumableError, RunError
from autoprog.events import (
    CheckpointSaved,
    Evaluated,
    Event,
    Grown,
    Interrupted,
    StageStarted,
    StepLogged,
    WarningRaised,
)
from autoprog.recipe import Recipe
from autoprog.runs import RunFolder
from autoprog.settings import RunSettings
from autoprog.stage import Training, evaluation_macs, image_macs
from autoprog.train.checkpoint import check_state, load_newest, publish, stage_as
from autoprog.train.device import Compute
from autoprog.train.evaluate import Scores, evaluate
from autoprog.train.growth import apply_growth
from autoprog.train.initial_weights import load_initial
from autoprog.train.pace import Pace
from autoprog.train.phase import Choice, Compact, GrowTo, Phase, choice_of, plain_choice
from autoprog.train.ranks import Ranks
from autoprog.train.step import (
    Ledger,
    Meter,
    Rollbacks,
    Stepper,
    batch_size_of,
    check_weights,
    input_config_at,
    regularise,
)
from autoprog.train.stop import InterruptedRunError, StopNow, StopRequest
from autoprog.train.weights import metadata_of, saved_weights, write_files
from supernet.config import SubnetConfig, TokenRule
from supernet.grow import compact

__all__ = [
    "Best",
    "InterruptedRunError",
    "StopRequest",
    "Trainer",
    "enter",
    "evaluate_phase",
    "evaluate_run",
    "is_due",
    "is_due_on_the_way",
    "look",
    "measure_reserve",
    "reserve",
    "restore",
    "restore_newest",
    "snapshot",
]


# --------------------------------------------------------------------------------------------------
# The whole state of a trainer as plain containers and tensors, and back.


def snapshot(trainer: Trainer) -> dict[str, Any]:
    """Return what a checkpoint holds; its tensors are the trainer's own."""
    stepper, evaluation = trainer.stepper, trainer.last_evaluation
    return {
        "step": trainer.step,
        "samples": trainer.samples,
        "macs": trainer.macs,
        "phase": trainer.phase,
        "model": stepper.model.vit.state_dict(),
        "emas": [ema.module.vit.state_dict() for ema in stepper.emas],
        "optimizer": stepper.optimizer.state_dict(),
        "scaler": stepper.scaler.state_dict(),
        "seconds": dict(trainer.ledger.seconds),
        "steps_by_subnet": _rows(trainer.steps_by_subnet),
        "phase_seconds": _rows(trainer.phase_seconds),
        "last_evaluation": evaluation.model_dump(mode="json") if evaluation else None,
        "marked_at": trainer.evaluated_step,
        "evaluated_macs": trainer.evaluated_macs,
        "evaluated_position": trainer.evaluated_position,
        "best": asdict(trainer.best) if trainer.best else None,
        "evaluations_since_best": trainer.evaluations_since_best,
        "stopped_early": trainer.stopped_early,
        "by_class": trainer.by_class,
        "search_state": trainer.search_state,
        "micro_batches": stepper.micro_batches,
        "rollbacks": trainer.rollbacks.count,
    }


def restore_newest(trainer: Trainer) -> list[str]:
    """Restore the newest readable checkpoint; without one, load the weights that the run starts from.

    Returns a word on each checkpoint passed over, and on what initial weights did not fit as they were.

    Raises:
        ConfigError: If there are no initial weights any more, or other ones.
        RunError: If all that can be read are of another network or optimizer, or the ranks read different
            ones.
    """
    folder, rollbacks = trainer.folder.checkpoints, trainer.rollbacks
    state, complaints = load_newest(folder, partial(check_state, trainer))
    if state is None:
        misfits = [text for text in complaints if "does not fit this run" in text]
        if misfits:  # to begin anew would replace what may be the checkpoint of another run
            raise RunError(f"{folder}: {misfits[0]}; was it copied from another one?")
        complaints += _begin(trainer)
    else:
        try:
            restore(trainer, state)
        except (KeyError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise RunError(
                f"{folder}: the checkpoint does not fit this run ({reason});"
                " was it copied from another one?"
            ) from None
    if rollbacks.count > (state["rollbacks"] if state else 0):
        scale = f"learning rate x {rollbacks.lr_scale:g} from now on"
        complaints.append(f"the run diverged: rolled back to step {trainer.step}, {scale}")
    what = "the checkpoints they read; the run folder must be on a shared file system"
    trainer.ranks.check_equal(torch.tensor([trainer.step, trainer.phase]), what)
    return complaints


def _begin(trainer: Trainer) -> list[str]:
    """Load initial weights, if the settings name any."""
    stepper = trainer.stepper
    networks = (stepper.model, *(ema.module for ema in stepper.emas))
    notes = load_initial(networks, trainer.settings, trainer.data.class_names)
    return [f"initial weights: {note}" for note in notes]


def restore(trainer: Trainer, state: Mapping[str, Any]) -> None:
    """Put a trainer into the state that :func:`snapshot` returned.

    Raises:
        KeyError: If something is missing.
        RuntimeError: If the weights are of another network.
        ValueError: If the optimizer or the number of averages is another.
    """
    stepper = trainer.stepper
    stepper.model.vit.load_state_dict(state["model"], strict=True)
    for ema, weights in zip(stepper.emas, state["emas"], strict=True):
        ema.module.vit.load_state_dict(weights, strict=True)
    stepper.optimizer.load_state_dict(state["optimizer"])
    if state["scaler"]:  # empty where the precision needed none; a resume may choose another one
        stepper.scaler.load_state_dict(state["scaler"])
    trainer.step, trainer.phase, trainer.search_state = (
        state["step"],
        state["phase"],
        state["search_state"],
    )
    trainer.samples, trainer.macs = state["samples"], state["macs"]
    trainer.ledger.seconds.update(state["seconds"])
    for *subnet, steps in state["steps_by_subnet"]:
        trainer.steps_by_subnet[_subnet(*subnet)] = steps
    for *subnet, seconds in state["phase_seconds"]:
        trainer.phase_seconds[_subnet(*subnet)] = list(seconds)
    if state["last_evaluation"] is not None:
        trainer.last_evaluation = Evaluated(**state["last_evaluation"])
    trainer.evaluated_step = state["marked_at"]
    trainer.evaluated_macs = state.get("evaluated_macs", 0)  # older checkpoints have none
    trainer.evaluated_position = state.get("evaluated_position", 0.0)
    trainer.by_class = state.get("by_class", {})
    trainer.stopped_early = state.get("stopped_early", False)
    _restore_best(trainer, state)
    stepper.micro_batches = max(stepper.micro_batches, state["micro_batches"])
    trainer.rollbacks.count = max(trainer.rollbacks.count, state["rollbacks"])


def _restore_best(trainer: Trainer, state: Mapping[str, Any]) -> None:
    """Take over the best evaluation, unless its weights are gone.

    Better ones of a later evaluation replaced them then. A run that goes on as before finds these again.
    """
    best = state.get("best")
    path = trainer.folder.checkpoints / "best.safetensors"
    if best is not None and metadata_of(path).get("step") == str(best["step"]):
        trainer.best = Best(**best)
        trainer.evaluations_since_best = state["evaluations_since_best"]


def _rows(by_subnet: Mapping[SubnetConfig, Any]) -> list[list[Any]]:
    """Return a mapping in containers that are read back without unpickling classes."""
    return [
        [
            list(net.depth),
            net.img_size,
            [net.tokens.keep_rate, net.tokens.by, net.tokens.at_blocks],
            value,
        ]
        for net, value in by_subnet.items()
    ]


def _subnet(depth: list[int], img_size: int, tokens: list[Any]) -> SubnetConfig:
    return SubnetConfig(depth, img_size, TokenRule(*tokens))


# --------------------------------------------------------------------------------------------------
# How a run keeps to a time budget: it looks at the clock, and keeps time for its end.


def look(trainer: Trainer, step_seconds: float = 0.0) -> None:
    """Look at the clock where the run goes by it; all ranks go by that of rank 0.

    ``step_seconds`` are those of the steps just made, 0 if there were none.
    """
    pace, stepper = trainer.pace, trainer.stepper
    if pace.budget_seconds is None:
        return
    seen = trainer.ranks.broadcast(f"{trainer.ledger.wall_seconds()} {step_seconds}")
    used, of_a_step = map(float, seen.split())
    pace.look(trainer.step, used, of_a_step)
    if of_a_step:
        for ema in stepper.emas:
            ema.limit(pace.projected_step(trainer.step, trainer.total_steps))


def reserve(trainer: Trainer, is_start: bool = False) -> None:
    """Keep time for an evaluation and the writing of the last checkpoint and the final weights."""
    last = trainer.last_evaluation
    if trainer.pace.budget_seconds is None or last is None:
        return
    as_deep = trainer.stepper.model.spec.full.total_depth / last.subnet.total_depth
    seconds = 1.2 * last.seconds * as_deep + 3.0 * trainer.save_seconds
    trainer.pace.reserve(float(trainer.ranks.broadcast(str(seconds))), is_start)


def measure_reserve(trainer: Trainer) -> Iterator[Event]:
    """Find out how much of a time budget the last evaluation and checkpoint will take.

    Raises:
        RunError: If they take more than half of it.
    """
    if trainer.pace.budget_seconds is None:
        return
    if trainer.last_evaluation is None:
        yield from evaluate_run(trainer, trainer.stepper.model.spec.depth)
    yield from trainer.save()
    reserve(trainer, is_start=True)


# --------------------------------------------------------------------------------------------------
# When a run is evaluated, what it is told then, and which weights were best.


_FRACTION = 0.05  # of the training between two evaluations, in multiply-accumulates
_MAX = 20  # evaluations within the stages of a run; their ends come on top


@dataclass(frozen=True)
class Best:
    """The best evaluation of the full depth so far, by top-1 of the averaged network in per cent."""

    step: int
    epoch: float
    top1: float


def is_due(trainer: Trainer, phase: Phase) -> bool:
    """Tell whether the end of a stage is to be evaluated: where that is new, and cheap beside the training.

    A test set can be many times what a short stage trains on. The end of the run is always evaluated, and so
    is each stage with ``eval_every_epochs`` above 0, by which it has been said how often.
    """
    last, every = trainer.last_evaluation, trainer.settings.eval_every_epochs
    is_new = trainer.evaluated_step < trainer.step  # a budget may leave no steps
    if not is_new and last is not None and last.subnet.depth == phase.depth:
        return False
    if phase.stop_step >= trainer.total_steps or every:
        return True
    return every is None and _is_cheap(trainer, phase)


def is_due_on_the_way(trainer: Trainer, phase: Phase) -> bool:
    """Tell whether a run is to be evaluated within a stage: after a twentieth of it, where that is cheap.

    A pure function of steps, their costs and what a checkpoint holds, so that a run which was stopped is
    evaluated where a straight one is. Losses have been read there, so weights are known to be finite.
    """
    step, every = trainer.step, trainer.settings.eval_every_epochs
    if step <= trainer.evaluated_step or step % trainer.settings.log_every_steps:
        return False
    if every is not None:
        interval = max(1, round(every * trainer.steps_per_epoch / phase.training.batch_scale))
        return every > 0 and step - trainer.evaluated_step >= interval
    place, distance = trainer.pace.position(step), trainer.total_steps / _MAX
    if place - trainer.evaluated_position < distance:
        return False
    if phase.ends_stage and phase.stop_step - place < distance / 2:
        return False  # the end of the stage, of which a checkpoint is kept, is near
    return _is_cheap(trainer, phase)


def _is_cheap(trainer: Trainer, phase: Phase) -> bool:
    spec, run_data = trainer.stepper.model.spec, trainer.data
    subnet = SubnetConfig(phase.depth, spec.img_size)
    cost = evaluation_macs(spec, subnet, run_data.num_validation_images, run_data.num_classes)
    return cost <= _FRACTION * (trainer.macs - trainer.evaluated_macs)


def evaluate_phase(trainer: Trainer, phase: Phase) -> Iterator[Event]:
    """Evaluate where a phase stands; keep the weights if they are the best, stop the run where none will be.

    What has fewer blocks than the full model is not what the run hands over, so it is never the best one.

    Raises:
        InterruptedRunError: If a stop was requested meanwhile; the evaluation then counts for nothing.
        ResumableError: An image cannot be read, or a loader worker has died.
    """
    event = yield from _evaluate(trainer, phase.depth)
    spec = trainer.stepper.model.spec
    if phase.depth == spec.depth:
        is_full = phase.kind == "plain" and phase.choices[0].subnet.img_size == spec.img_size
        _judge(trainer, event, counts=is_full)
    yield event
    if trainer.stopped_early:
        best = trainer.best
        assert best is not None, "patience counts from the best evaluation"
        yield WarningRaised(
            step=trainer.step,
            message=f"stopped early: no evaluation was better than {best.top1:.2f} % (EMA) at epoch"
            f" {best.epoch:.4g} for {trainer.evaluations_since_best} times (--patience)",
        )


def evaluate_run(trainer: Trainer, depth: tuple[int, ...]) -> Iterator[Event]:
    """Evaluate the online and the averaged network at the full image size.

    Raises:
        InterruptedRunError: As :func:`evaluate_phase` does.
        ResumableError: So too.
    """
    yield (yield from _evaluate(trainer, depth))


def _evaluate(trainer: Trainer, depth: tuple[int, ...]) -> Generator[Event, None, Evaluated]:
    if not trainer.is_saved():  # what an unreadable image or a death must not cost
        yield from trainer.save()
    stepper, start = trainer.stepper, trainer.clock()
    choice = plain_choice(SubnetConfig(depth, stepper.model.spec.img_size))
    try:
        with trainer.ledger.charge("evaluate"), trainer.stop.at_once(trainer.ranks):
            models = (stepper.model, stepper.emas[-1].module)
            batches = trainer.stop.until_asked(trainer.data.validation())
            online, averaged = evaluate(models, batches, choice, trainer.compute, trainer.ranks)
    except StopNow as request:
        yield from trainer.halt(request.signal_name)
        raise
    yield from trainer.halt_if_asked()
    _check_finite(trainer, online, averaged)
    trainer.evaluated_step, trainer.evaluated_macs = trainer.step, trainer.macs
    trainer.evaluated_position = trainer.pace.position(trainer.step)
    trainer.by_class = _by_class(online, averaged)
    trainer.last_evaluation = Evaluated(
        step=trainer.step,
        epoch=trainer.epoch,
        subnet=choice.subnet,
        loss=online.loss,
        top1=online.top1,
        loss_ema=averaged.loss,
        top1_ema=averaged.top1,
        seconds=trainer.clock() - start,
        train_seconds=trainer.ledger.seconds["train"],
        wall_seconds=trainer.ledger.wall_seconds(),
        balanced_top1=online.balanced,
        balanced_top1_ema=averaged.balanced,
        num_images=sum(online.images),
        largest_class_fraction=largest_class_fraction(online.images),
    )
    return trainer.last_evaluation


def _check_finite(trainer: Trainer, online: Scores, averaged: Scores) -> None:
    """Look at the losses of an evaluation: finite weights can make logits that are not.

    Raises:
        DivergedError: If one is not finite.
    """
    for name, scores in (("online", online), ("averaged", averaged)):
        if not math.isfinite(scores.loss):
            raise DivergedError(
                f"the loss of the {name} network on the validation images is {scores.loss} at step"
                f" {trainer.step} (epoch {trainer.epoch:.2f}); checkpoints are from before; lower --lr"
            )


def _by_class(online: Scores, averaged: Scores) -> dict[str, list[int]]:
    """Return how many validation images each class has, and how many of them each network got right."""
    found = {"images": online.images, "correct": online.correct, "correct_ema": averaged.correct}
    return {name: list(counts) for name, counts in found.items()}


def _judge(trainer: Trainer, event: Evaluated, counts: bool) -> None:
    """Keep the averaged weights where they are the best so far; else count, if that `counts`.

    Of equals the first stays. The file is the best one's of what this run has evaluated, whatever a resume
    repeats: :func:`autoprog.train.trainer.restore` forgets a best evaluation whose weights were replaced.
    """
    best = trainer.best
    if event.top1_ema > (-1.0 if best is None else best.top1):
        trainer.best = Best(event.step, event.epoch, event.top1_ema)
        trainer.evaluations_since_best = 0
        if trainer.ranks.is_main:
            with trainer.ledger.charge("checkpoint"):
                networks = {"best": trainer.stepper.emas[-1].module}
                weights = saved_weights(networks, bool(trainer.settings.table_sizes))
                metadata = {**trainer.metadata, "step": str(event.step)}
                write_files(trainer.folder.checkpoints, weights, metadata)
        return
    trainer.evaluations_since_best += counts
    patience = trainer.settings.patience
    if patience is not None and counts:
        trainer.stopped_early = trainer.evaluations_since_best >= patience


# --------------------------------------------------------------------------------------------------
# What happens where a phase begins: the network changes, then the steps get ready.


def enter(trainer: Trainer, phase: Phase) -> Iterator[Event]:
    """Prepare the network for a phase; what changes weights happens only once."""
    if trainer.phase < phase.index:
        yield from _change(trainer, phase)
        trainer.phase = phase.index
    regularise(trainer.stepper, phase, trainer.recipe, trainer.data.num_classes)
    if trainer.is_over(phase):
        return
    with trainer.ledger.charge("lost"):
        trainer.stepper.enter(phase)
    look(trainer)
    if phase.starts_stage and phase.kind == "plain":
        yield StageStarted(
            step=trainer.step,
            stage=phase.stage,
            subnet=phase.choices[0].subnet,
            stop_step=trainer.pace.projected_step(trainer.step, phase.stop_step),
            curriculum=phase.curriculum,
        )


def _change(trainer: Trainer, phase: Phase) -> Iterator[Grown]:
    if isinstance(phase.enter, GrowTo):
        with trainer.ledger.charge("lost"):
            probe, step = trainer.data.probe, trainer.step
            grown = apply_growth(trainer.stepper, probe, phase.enter, step, trainer.clock)
        yield grown.model_copy(update={"opens_supernet": phase.kind == "supernet"})
    elif isinstance(phase.enter, Compact):
        with trainer.ledger.charge("lost"):
            averages = [ema.module for ema in trainer.stepper.emas]
            stepper = trainer.stepper
            compact(stepper.model, averages, stepper.optimizer, phase.enter.slots)
    if phase.enter is not None or phase.kind == "plain":
        trainer.phase_seconds.clear()


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
    ``search_state`` is kept with checkpoints for whoever drives the trainer; plain containers only.
    """

    settings: RunSettings
    folder: RunFolder
    data: RunData
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
    search_state: dict[str, Any] = field(default_factory=dict)

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

    def resume(self) -> list[WarningRaised]:
        """Go on from the newest readable checkpoint, or begin; see :func:`restore_newest`."""
        complaints = restore_newest(self)
        self.stepper.lr_scale = self.rollbacks.lr_scale
        self._micro_batches = self.stepper.micro_batches
        self._meter.restart()
        return [WarningRaised(step=self.step, message=text) for text in complaints]

    def is_over(self, phase: Phase) -> bool:
        """Tell whether the run has passed the end of a phase, or of all."""
        return self.stopped_early or self.pace.position(self.step) >= phase.stop_step

    def _train(self, phase: Phase) -> Iterator[Event]:
        model, seed, start = self.stepper.model.train(), self.settings.seed, self.step
        assert model.training
        # Workers start here, or end what is not wanted any more.
        with self.ledger.charge("data_wait"):
            batches = self.data.batches(
                first_sample=self.samples,
                batch_size=batch_size_of(phase, self.recipe),
                steps=phase.stop_step - start if self.pace.counts_steps else _UNBOUNDED_STEPS,
                config_at=lambda k: input_config_at(
                    phase, self.recipe, self._full_px, seed, start + k
                ),
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
        spec, classes = self.stepper.model.spec, self.data.num_classes
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
        fraction = self.pace.position(self.step) / self.total_steps
        yield StepLogged(
            step=self.step,
            epoch=self.epoch,
            loss=reading.loss,
            lr=max(group["lr"] for group in self.stepper.optimizer.param_groups),
            subnet=reading.timed[-1][0],
            step_seconds=reading.step_seconds,
            images_per_second=batch_size_of(phase, self.recipe) / reading.step_seconds,
            data_wait_fraction=reading.wait_fraction,
            train_seconds=self.ledger.seconds["train"],
            budget_fraction=None if self.pace.counts_steps else fraction,
        )
        yield from self._complaints()

    def _complaints(self) -> Iterator[WarningRaised]:
        """Tell what went wrong without stopping the run."""
        for text in self.data.complaints():
            yield WarningRaised(step=self.step, message=text)
        if self.stepper.micro_batches != self._micro_batches:
            self._micro_batches = self.stepper.micro_batches
            text = f"out of memory: batches are taken in {self._micro_batches} parts from now on"
            yield WarningRaised(step=self.step, message=text)

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
