"""When a run is evaluated, what it is told then, and which weights were best."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoprog.accuracy import largest_class_share
from autoprog.effort import evaluation_macs
from autoprog.errors import DivergedError
from autoprog.events import Evaluated, Event, Warned
from autoprog.train.evaluate import Scores, evaluate
from autoprog.train.phase import Phase, plain_choice
from autoprog.train.stop import StopNow
from autoprog.train.weights import saved_weights, write_files
from supernet.config import SubnetConfig

if TYPE_CHECKING:
    from autoprog.train.trainer import Trainer

__all__ = ["Best", "evaluate_phase", "evaluate_run", "is_due", "is_due_on_the_way"]

_SHARE = 0.05  # of the training between two evaluations, in multiply-accumulates
_MOST = 20  # evaluations within the stages of a run; their ends come on top


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
    place, distance = trainer.pace.position(step), trainer.total_steps / _MOST
    if place - trainer.evaluated_position < distance:
        return False
    if phase.ends_stage and phase.stop_step - place < distance / 2:
        return False  # the end of the stage, of which a checkpoint is kept, is near
    return _is_cheap(trainer, phase)


def _is_cheap(trainer: Trainer, phase: Phase) -> bool:
    spec, feed = trainer.stepper.model.spec, trainer.feed
    subnet = SubnetConfig(phase.depth, spec.img_size)
    cost = evaluation_macs(spec, subnet, feed.num_validation_images, feed.num_classes)
    return cost <= _SHARE * (trainer.macs - trainer.evaluated_macs)


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
        yield Warned(
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
            batches = trainer.stop.until_asked(trainer.feed.validation())
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
        largest_class_share=largest_class_share(online.images),
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
    repeats: :func:`autoprog.train.state.restore` forgets a best evaluation whose weights were replaced.
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
