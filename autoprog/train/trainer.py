"""The trainer: carries out one phase after another and holds the whole state of a run."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from autoprog.accuracy import largest_class_fraction
from autoprog.errors import DivergedError, ResumableError, RunError
from autoprog.events import (
    CheckpointSaved,
    Evaluated,
    Event,
    Interrupted,
    StageStarted,
    StepLogged,
    WarningRaised,
)
from autoprog.stage import Training, evaluation_macs, image_macs
from autoprog.train.checkpoint import check_state, load_newest, publish, write_pending
from autoprog.train.evaluate import evaluate
from autoprog.train.meter import Ledger, Meter, check_weights
from autoprog.train.optim import example_states
from autoprog.train.phase import Compact, GrowTo, Phase, choice_of, plain_choice
from autoprog.train.step import Stepper, input_config_at, scaled_batch_size
from autoprog.train.stop import InterruptedRunError, StopNow, StopRequest
from autoprog.train.weights import metadata_of, saved_weights, write_files
from supernet.config import SubnetConfig, TokenRule
from supernet.grow import compact
from supernet.network import ElasticViT

if TYPE_CHECKING:
    from autoprog.data.batches import Batch
    from autoprog.data.run_data import RunData
    from autoprog.recipe import Recipe
    from autoprog.runs import RunFolder
    from autoprog.settings import RunSettings
    from autoprog.train.device import Compute
    from autoprog.train.pace import Pace
    from autoprog.train.ranks import Ranks

__all__ = ["MAX_ROLLBACKS", "Best", "Rollbacks", "Trainer"]

MAX_ROLLBACKS = 3
"""In one process; after that it is not bad luck."""

_EVALUATION_FRACTION = 0.05
"""Of the multiply-accumulates of the training since the last evaluation, that one may cost by itself."""
_MAX_EVALUATIONS = 20
"""Within the stages of a run; their ends come on top."""
_BUDGET_LOOK_STEPS = 20
"""How often a run under a time budget looks at the clock at least."""
_STOP_STEPS = 5
"""How often ranks ask each other for a signal: torchrun kills them half a minute after it."""
_UNBOUNDED_STEPS = 2**31


@dataclass
class Rollbacks:
    """How often a run was rolled back, over all its attempts; checkpoints keep the count."""

    count: int = 0

    @property
    def lr_scale(self) -> float:
        """Return what multiplies the learning rate."""
        return 0.5**self.count


@dataclass(frozen=True)
class Best:
    """The best evaluation of the full depth so far, by top-1 of the averaged network in per cent."""

    step: int
    epoch: float
    top1: float


@dataclass
class Trainer:
    """The state of a run and the ways to move it on.

    Attributes:
        load_initial: Puts the weights that the run starts from into the network and its averages, where it
            draws none, and returns what did not fit as it was.
        step: Finished optimizer steps; ``samples`` are the images they took, ``macs`` their
            multiply-accumulates.
        phase: Index of the phase entered last.
        evaluated_step: The step of the last evaluation, ``evaluated_macs`` what had been spent by then,
            ``evaluated_position`` how far the run was.
        by_class: Images and right answers of the last evaluation, by class.
        evaluations_since_best: Those of the full model that were not better than ``best``.
        metadata: Is written into files of weights.
        search_state: What whoever drives the trainer keeps with its checkpoints; plain containers only.
    """

    settings: RunSettings
    folder: RunFolder
    data: RunData
    stepper: Stepper
    load_initial: Callable[[tuple[ElasticViT, ...]], tuple[str, ...]]
    total_steps: int
    steps_per_epoch: int
    stop: StopRequest = field(default_factory=StopRequest)
    rollbacks: Rollbacks = field(default_factory=Rollbacks)
    metadata: Mapping[str, str] = field(default_factory=dict)
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
    search_state: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.clock)
        self.steps_by_subnet: Counter[SubnetConfig] = Counter()
        self.phase_seconds: dict[SubnetConfig, list[float]] = defaultdict(list)
        self.last_evaluation: Evaluated | None = None
        self.save_seconds = 0.0
        self._meter = Meter(self.compute.device, self.ledger, self.ranks)
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

    # --- A phase

    def run(self, phase: Phase) -> Iterator[Event]:
        """Carry out a phase, or what is left of it after a resume.

        Raises:
            DivergedError: If a loss or a weight is not finite.
            InterruptedRunError: If a stop was requested; a checkpoint has been written.
        """
        if self.phase > phase.index or self.stopped_early:
            return
        yield from self.enter_phase(phase)
        self.trains_plainly = phase.kind == "plain" and phase.training == Training()
        yield from self._evaluate_within(phase)  # which a stop may have left to the resume
        if not self.is_over(phase):
            yield from self._train(phase)
            yield from self._log(phase)
        # A stop after the last step of a stage leaves the evaluation to the resume.
        if phase.ends_stage and self._end_is_due(phase):
            yield from self.evaluate_phase(phase)
            yield from self.save(keep_as=f"stage-{phase.stage}-{phase.index}")
            self._reserve_time()

    def is_over(self, phase: Phase) -> bool:
        """Return whether the run has passed the end of a phase, or of all."""
        return self.stopped_early or self.pace.position(self.step) >= phase.stop_step

    def enter_phase(self, phase: Phase) -> Iterator[Event]:
        """Prepare the network for a phase: it grows or is compacted, then the steps get ready.

        What changes weights happens once: a checkpoint says by ``phase`` that it has.
        """
        if self.phase < phase.index:
            stepper = self.stepper
            if isinstance(phase.change, GrowTo):
                with self.ledger.charge("lost"):
                    grown = stepper.grow(phase.change, self.data.probe, self.step, self.clock)
                yield grown.model_copy(update={"opens_supernet": phase.kind == "supernet"})
            elif isinstance(phase.change, Compact):  # the winner of a supernet moves to the front
                with self.ledger.charge("lost"):
                    averages = [ema.module for ema in stepper.emas]
                    compact(stepper.model, averages, stepper.optimizer, phase.change.slots)
            if phase.change is not None or phase.kind == "plain":
                # The seconds of other networks or sizes say nothing of the steps to come. Phases of one
                # supernet go on with theirs: they time the same candidates.
                self.phase_seconds.clear()
            self.phase = phase.index
        self.stepper.regularise(phase, self.recipe, self.data.num_classes)
        if self.is_over(phase):
            return
        with self.ledger.charge("lost"):
            self.stepper.enter(phase)
        self.update_budget()
        if phase.starts_stage and phase.kind == "plain":
            yield StageStarted(
                step=self.step,
                stage=phase.stage,
                subnet=phase.choices[0].subnet,
                stop_step=self.pace.projected_step(self.step, phase.stop_step),
                curriculum=phase.curriculum,
            )

    def _train(self, phase: Phase) -> Iterator[Event]:
        """Take steps until the phase is over."""
        self.stepper.model.train()
        spec, seed, start = self.stepper.model.spec, self.settings.seed, self.step
        batch_size = scaled_batch_size(self.recipe, phase.training)
        # Workers start here, or end what is not wanted any more.
        with self.ledger.charge("data_wait"):
            batches = self.data.batches(
                first_sample=self.samples,
                batch_size=batch_size,
                steps=phase.stop_step - start if self.pace.counts_steps else _UNBOUNDED_STEPS,
                config_at=lambda k: input_config_at(
                    phase, self.recipe, spec.img_size, seed, start + k
                ),
                held_out=phase.held_out,
            )
        while not self.is_over(phase):
            images, targets = yield from self._next_batch(batches, phase)
            choice = choice_of(phase, seed, self.step, self.pace.position(self.step))

            begin, mark = self.clock(), self._meter.now()
            loss = self.stepper.step(images, targets, choice, phase.slots, self.step)
            self._meter.add(loss, choice.subnet, mark)
            spent = self.clock() - begin
            self.ledger.seconds["train"] += spent
            if phase.kind == "supernet":
                self.ledger.seconds["supernet"] += spent

            self.steps_by_subnet[choice.subnet] += 1
            self.samples += batch_size
            image_cost = image_macs(spec, choice.subnet, phase.training, self.data.num_classes)
            self.macs += batch_size * image_cost
            self.step += 1

            if self._is_time_to_look():
                yield from self._log(phase)
                # Losses and weights have just been found finite: the only places to save or to stop.
                yield from self.halt_if_asked()
                if not self._ends_with_evaluation(phase):  # which evaluates and saves anyway
                    yield from self._evaluate_within(phase)
                    if self.clock() - self._saved_at >= 60 * self.settings.checkpoint_minutes:
                        yield from self.save()

    def _next_batch(self, batches: Iterator[Batch], phase: Phase) -> Generator[Event, None, Batch]:
        """Return the next batch, for which a signal ends the wait.

        Raises:
            InterruptedRunError: A stop was requested; a checkpoint has been written.
            ResumableError: A worker has died; a checkpoint has been written.
        """
        try:
            with self.ledger.charge("data_wait"), self.stop.at_once(self.ranks):
                return next(batches)
        except StopNow as request:
            yield from self._log(phase)
            yield from self.halt(request.signal_name)
            raise
        except ResumableError:
            if self.ranks.alone:  # reading losses is collective, and the other ranks are in a step
                yield from self._log(phase)
                yield from self.save()
            raise

    def _is_time_to_look(self) -> bool:
        """Return whether losses are read after this step; all ranks come to the same answer."""
        every = self.settings.log_every_steps
        if self.pace.budget_seconds is not None:
            every = 1 if self.pace.is_settling else min(every, _BUDGET_LOOK_STEPS)
        if self.step % every == 0:
            return True
        if self.ranks.alone:
            return self.stop.signal_name is not None
        return self.step % _STOP_STEPS == 0 and self.stop.agreed(self.ranks) is not None

    def _log(self, phase: Phase) -> Iterator[Event]:
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
        self.update_budget(reading.typical_seconds)
        fraction = self.pace.position(self.step) / self.total_steps
        batch_size = scaled_batch_size(self.recipe, phase.training)
        yield StepLogged(
            step=self.step,
            epoch=self.epoch,
            loss=reading.loss,
            lr=max(group["lr"] for group in self.stepper.optimizer.param_groups),
            subnet=reading.timed[-1][0],
            step_seconds=reading.step_seconds,
            images_per_second=batch_size / reading.step_seconds,
            data_wait_fraction=reading.wait_fraction,
            train_seconds=spent["train"],
            budget_fraction=None if self.pace.counts_steps else fraction,
        )
        for text in self.data.new_warnings():
            yield WarningRaised(step=self.step, message=text)
        if self.stepper.micro_batches != self._micro_batches:
            self._micro_batches = self.stepper.micro_batches
            text = f"out of memory: batches are taken in {self._micro_batches} parts from now on"
            yield WarningRaised(step=self.step, message=text)

    # --- Evaluations

    def _end_is_due(self, phase: Phase) -> bool:
        """Return whether the end of a stage is to be evaluated: where that is new, and cheap beside training.

        A test set can be many times what a short stage trains on. The end of the run is always evaluated, and
        so is each stage with ``eval_every_epochs`` above 0, by which it has been said how often.
        """
        last, every = self.last_evaluation, self.settings.eval_every_epochs
        is_new = self.evaluated_step < self.step  # a budget may leave no steps
        if not is_new and last is not None and last.subnet.depth == phase.depth:
            return False
        if phase.stop_step >= self.total_steps or every:
            return True
        return every is None and self._evaluation_is_cheap(phase)

    def _ends_with_evaluation(self, phase: Phase) -> bool:
        return phase.ends_stage and self.is_over(phase) and self._end_is_due(phase)

    def _is_due_within(self, phase: Phase) -> bool:
        """Return whether a run is evaluated within a stage: after a twentieth of it, where that is cheap.

        A pure function of steps, their costs and what a checkpoint holds, so that a run which was stopped is
        evaluated where a straight one is. Losses have been read there, so weights are known to be finite.
        """
        step, every = self.step, self.settings.eval_every_epochs
        if step <= self.evaluated_step or step % self.settings.log_every_steps:
            return False
        if every is not None:
            interval = max(1, round(every * self.steps_per_epoch / phase.training.batch_scale))
            return every > 0 and step - self.evaluated_step >= interval
        place, distance = self.pace.position(step), self.total_steps / _MAX_EVALUATIONS
        if place - self.evaluated_position < distance:
            return False
        if phase.ends_stage and phase.stop_step - place < distance / 2:
            return False  # the end of the stage, of which a checkpoint is kept, is near
        return self._evaluation_is_cheap(phase)

    def _evaluation_is_cheap(self, phase: Phase) -> bool:
        spec, data = self.stepper.model.spec, self.data
        subnet = SubnetConfig(phase.depth, spec.img_size)
        cost = evaluation_macs(spec, subnet, data.num_validation_images, data.num_classes)
        return cost <= _EVALUATION_FRACTION * (self.macs - self.evaluated_macs)

    def _evaluate_within(self, phase: Phase) -> Iterator[Event]:
        """Evaluate within a stage where that is due; where it ends the run, a checkpoint says so."""
        if self._ends_with_evaluation(phase) or not self._is_due_within(phase):
            return
        yield from self.evaluate_phase(phase)
        self.update_budget()
        if self.stopped_early:
            yield from self.save()

    def evaluate_phase(self, phase: Phase) -> Iterator[Event]:
        """Evaluate a phase; keep the weights if they are the best, stop the run where patience has run out.

        What has fewer blocks than the full model is not what the run hands over, so it is never the best one.
        Of equals the first stays. ``best.safetensors`` is the best of what this run has evaluated, whatever a
        resume repeats: :meth:`restore` forgets a best evaluation whose weights were replaced.

        Raises:
            InterruptedRunError: If a stop was requested meanwhile; the evaluation then counts for nothing.
            ResumableError: An image cannot be read, or a loader worker has died.
        """
        event = yield from self.evaluate(phase.depth)
        spec, patience = self.stepper.model.spec, self.settings.patience
        # Before the full size, and in a supernet, the network is not yet what it will be: such evaluations
        # may be the best so far, but do not count against the run's patience.
        is_full = phase.kind == "plain" and phase.choices[0].subnet.img_size == spec.img_size
        if phase.depth == spec.depth:
            if self.best is None or event.top1_ema > self.best.top1:
                self.best, self.evaluations_since_best = (
                    Best(event.step, event.epoch, event.top1_ema),
                    0,
                )
                if self.ranks.is_main:
                    with self.ledger.charge("checkpoint"):
                        networks = {"best": self.stepper.emas[-1].module}
                        weights = saved_weights(networks, bool(self.settings.table_sizes))
                        metadata = {**self.metadata, "step": str(event.step)}
                        write_files(self.folder.checkpoints, weights, metadata)
            elif is_full:
                self.evaluations_since_best += 1
                if patience is not None:
                    self.stopped_early = self.evaluations_since_best >= patience
        yield event
        if self.stopped_early:
            assert self.best is not None, "patience counts from the best evaluation"
            yield WarningRaised(
                step=self.step,
                message=f"stopped early: no evaluation was better than {self.best.top1:.2f} % (EMA) at epoch"
                f" {self.best.epoch:.4g} for {self.evaluations_since_best} times (--patience)",
            )

    def evaluate(self, depth: tuple[int, ...]) -> Generator[Event, None, Evaluated]:
        """Evaluate the online and the averaged network at the full image size.

        Yields what happens meanwhile; the event of the evaluation itself is returned, for the caller to send.

        Raises:
            DivergedError: If a loss is not finite.
            InterruptedRunError: If a stop was requested meanwhile; the evaluation then counts for nothing.
            ResumableError: An image cannot be read, or a loader worker has died.
        """
        if not self.is_saved():  # what an unreadable image or a death must not cost
            yield from self.save()
        stepper, begin = self.stepper, self.clock()
        choice = plain_choice(SubnetConfig(depth, stepper.model.spec.img_size))
        try:
            with self.ledger.charge("evaluate"), self.stop.at_once(self.ranks):
                models = (stepper.model, stepper.emas[-1].module)
                batches = self.stop.until_asked(self.data.validation())
                online, averaged = evaluate(models, batches, choice, self.compute, self.ranks)
        except StopNow as request:
            yield from self.halt(request.signal_name)
            raise
        yield from self.halt_if_asked()
        for name, scores in (("online", online), ("averaged", averaged)):
            if not math.isfinite(scores.loss):  # finite weights can make logits that are not
                raise DivergedError(
                    f"the loss of the {name} network on the validation images is {scores.loss} at step"
                    f" {self.step} (epoch {self.epoch:.2f}); checkpoints are from before; lower --lr"
                )
        # From here on the evaluation counts: a stop before this repeats it after the resume.
        self.evaluated_step, self.evaluated_macs = self.step, self.macs
        self.evaluated_position = self.pace.position(self.step)
        self.by_class = {
            "images": list(online.images),
            "correct": list(online.correct),
            "correct_ema": list(averaged.correct),
        }
        self.last_evaluation = Evaluated(
            step=self.step,
            epoch=self.epoch,
            subnet=choice.subnet,
            loss=online.loss,
            top1=online.top1,
            loss_ema=averaged.loss,
            top1_ema=averaged.top1,
            seconds=self.clock() - begin,
            train_seconds=self.ledger.seconds["train"],
            wall_seconds=self.ledger.wall_seconds(),
            balanced_top1=online.balanced,
            balanced_top1_ema=averaged.balanced,
            num_images=sum(online.images),
            largest_class_fraction=largest_class_fraction(online.images),
        )
        return self.last_evaluation

    # --- Time budgets

    def update_budget(self, step_seconds: float = 0.0) -> None:
        """Look at the clock where the run goes by it; all ranks go by that of rank 0.

        ``step_seconds`` are those of the steps just made, 0 if there were none.
        """
        if self.pace.budget_seconds is None:
            return
        seen = self.ranks.broadcast(f"{self.ledger.wall_seconds()} {step_seconds}")
        used, of_a_step = map(float, seen.split())
        self.pace.update(self.step, used, of_a_step)
        if of_a_step:
            for ema in self.stepper.emas:
                ema.limit(self.pace.projected_step(self.step, self.total_steps))

    def measure_reserve(self) -> Iterator[Event]:
        """Find out how much of a time budget the last evaluation and checkpoint will take.

        Raises:
            RunError: If they take more than half of it.
        """
        if self.pace.budget_seconds is None:
            return
        if self.last_evaluation is None:
            yield (yield from self.evaluate(self.stepper.model.spec.depth))
        yield from self.save()
        self._reserve_time(is_start=True)

    def _reserve_time(self, is_start: bool = False) -> None:
        """Keep time for an evaluation and the writing of the last checkpoint and the final weights."""
        last = self.last_evaluation
        if self.pace.budget_seconds is None or last is None:
            return
        # A fifth is margin; a checkpoint and both files of weights are still to be written at the end.
        as_deep = self.stepper.model.spec.full.total_depth / last.subnet.total_depth
        seconds = 1.2 * last.seconds * as_deep + 3.0 * self.save_seconds
        self.pace.reserve(float(self.ranks.broadcast(str(seconds))), is_start)

    # --- Stopping

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

    # --- Checkpoints

    def save(self, keep_as: str | None = None) -> Iterator[Event]:
        """Write a checkpoint; the event goes out before the file appears, so a log never lacks its mark."""
        start = self.clock()
        if self.ranks.is_main:
            with self.ledger.charge("checkpoint"):
                pending = write_pending(self.folder.checkpoints, self.snapshot())
            yield CheckpointSaved(step=self.step, path="checkpoints/last.pt")
            publish(self.folder.checkpoints, pending, keep_as)
        self._saved_at = self.clock()
        self._saved_place = (self.step, self.phase, self.evaluated_step)
        self.save_seconds = self._saved_at - start

    def is_saved(self) -> bool:
        """Return whether the last checkpoint of this process is of this very place of the run."""
        return self._saved_place == (self.step, self.phase, self.evaluated_step)

    def snapshot(self) -> dict[str, Any]:
        """Return what a checkpoint holds, as plain containers and tensors; these are the trainer's own."""
        stepper, evaluation = self.stepper, self.last_evaluation
        return {
            "step": self.step,
            "samples": self.samples,
            "macs": self.macs,
            "phase": self.phase,
            "model": stepper.model.vit.state_dict(),
            "emas": [ema.module.vit.state_dict() for ema in stepper.emas],
            "optimizer": stepper.optimizer.state_dict(),
            "scaler": stepper.scaler.state_dict(),
            "seconds": dict(self.ledger.seconds),
            "steps_by_subnet": _rows(self.steps_by_subnet),
            "phase_seconds": _rows(self.phase_seconds),
            "last_evaluation": evaluation.model_dump(mode="json") if evaluation else None,
            "marked_at": self.evaluated_step,
            "evaluated_macs": self.evaluated_macs,
            "evaluated_position": self.evaluated_position,
            "best": asdict(self.best) if self.best else None,
            "evaluations_since_best": self.evaluations_since_best,
            "stopped_early": self.stopped_early,
            "by_class": self.by_class,
            "search_state": self.search_state,
            "micro_batches": stepper.micro_batches,
            "rollbacks": self.rollbacks.count,
        }

    def resume(self) -> list[WarningRaised]:
        """Restore the newest readable checkpoint; without one, load the weights that the run starts from.

        Returns warnings: of checkpoints passed over, and of initial weights that did not fit as they were.

        Raises:
            ConfigError: If there are no initial weights any more, or other ones.
            RunError: If all that can be read are of another network or optimizer, or the ranks read different
                ones.
        """
        folder, stepper = self.folder.checkpoints, self.stepper
        state, complaints = load_newest(folder, self.check_state)
        if state is None:
            misfits = [text for text in complaints if "does not fit this run" in text]
            if misfits:  # to begin anew would replace what may be the checkpoint of another run
                raise RunError(f"{folder}: {misfits[0]}; was it copied from another one?")
            networks = (stepper.model, *(ema.module for ema in stepper.emas))
            notes = self.load_initial(networks)
            complaints += [f"initial weights: {note}" for note in notes]
        else:
            try:
                self.restore(state)
            except (KeyError, RuntimeError, ValueError) as error:
                reason = str(error).splitlines()[0]
                raise RunError(
                    f"{folder}: the checkpoint does not fit this run ({reason});"
                    " was it copied from another one?"
                ) from None
        if self.rollbacks.count > (state["rollbacks"] if state else 0):
            scale = f"learning rate x {self.rollbacks.lr_scale:g} from now on"
            complaints.append(f"the run diverged: rolled back to step {self.step}, {scale}")
        what = "the checkpoints they read; the run folder must be on a shared file system"
        self.ranks.check_equal(torch.tensor([self.step, self.phase]), what)
        stepper.lr_scale = self.rollbacks.lr_scale
        self._micro_batches = stepper.micro_batches
        self._meter.restart()
        return [WarningRaised(step=self.step, message=text) for text in complaints]

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Compare a loaded checkpoint with what :meth:`restore` would put it into.

        Raises:
            MisfitStateError: With the first value that does not fit.
        """
        networks = (self.stepper.model, *(ema.module for ema in self.stepper.emas))
        examples = example_states(self.recipe, self.compute.device)
        check_state(state, networks, self.stepper.optimizer, examples)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put the trainer into the state that :meth:`snapshot` returned.

        Raises:
            KeyError: If something is missing.
            RuntimeError: If the weights are of another network.
            ValueError: If the optimizer or the number of averages is another.
        """
        stepper = self.stepper
        stepper.model.vit.load_state_dict(state["model"], strict=True)
        for ema, weights in zip(stepper.emas, state["emas"], strict=True):
            ema.module.vit.load_state_dict(weights, strict=True)
        stepper.optimizer.load_state_dict(state["optimizer"])
        # Empty where the precision needed none; a resume may choose another one.
        if state["scaler"]:
            stepper.scaler.load_state_dict(state["scaler"])
        self.step, self.phase = state["step"], state["phase"]
        self.search_state = state["search_state"]
        self.samples, self.macs = state["samples"], state["macs"]
        self.ledger.seconds.update(state["seconds"])
        for *subnet, steps in state["steps_by_subnet"]:
            self.steps_by_subnet[_subnet(*subnet)] = steps
        for *subnet, seconds in state["phase_seconds"]:
            self.phase_seconds[_subnet(*subnet)] = list(seconds)
        if state["last_evaluation"] is not None:
            self.last_evaluation = Evaluated(**state["last_evaluation"])
        self.evaluated_step = state["marked_at"]
        self.evaluated_macs = state.get("evaluated_macs", 0)  # older checkpoints have none
        self.evaluated_position = state.get("evaluated_position", 0.0)
        self.by_class = state.get("by_class", {})
        self.stopped_early = state.get("stopped_early", False)
        # The best evaluation is taken over unless its weights are gone: better ones of a later evaluation
        # have replaced them then, and a run that goes on as before finds these again.
        best = state.get("best")
        path = self.folder.checkpoints / "best.safetensors"
        if best is not None and metadata_of(path).get("step") == str(best["step"]):
            self.best = Best(**best)
            self.evaluations_since_best = state["evaluations_since_best"]
        stepper.micro_batches = max(stepper.micro_batches, state["micro_batches"])
        self.rollbacks.count = max(self.rollbacks.count, state["rollbacks"])


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
