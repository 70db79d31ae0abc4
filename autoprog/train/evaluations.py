"""When a run is evaluated, and what it is told then."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from autoprog.effort import evaluation_macs
from autoprog.events import Evaluated, Event
from autoprog.train.evaluate import evaluate
from autoprog.train.phase import Phase, plain_choice
from autoprog.train.stop import StopNow
from supernet.config import SubnetConfig

if TYPE_CHECKING:
    from autoprog.train.trainer import Trainer

__all__ = ["evaluate_run", "is_due"]

_SHARE = 0.1  # of the training between them, in multiply-accumulates


def is_due(trainer: Trainer, phase: Phase) -> bool:
    """Tell whether the end of a stage is to be evaluated: where that is new, and cheap beside the training.

    A test set can be many times what a short stage trains on. The end of the run is always evaluated, and so
    is each stage with ``eval_every_epochs``, by which it has been said how often.
    """
    last = trainer.last_evaluation
    is_new = trainer.evaluated_step < trainer.step  # a budget may leave no steps
    if not is_new and last is not None and last.subnet.depth == phase.depth:
        return False
    if phase.stop_step >= trainer.total_steps or trainer.settings.eval_every_epochs is not None:
        return True
    spec, feed = trainer.stepper.model.spec, trainer.feed
    subnet = SubnetConfig(phase.depth, spec.img_size)
    cost = evaluation_macs(spec, subnet, feed.num_validation_images, feed.num_classes)
    return cost <= _SHARE * (trainer.macs - trainer.evaluated_macs)


def evaluate_run(trainer: Trainer, depth: tuple[int, ...]) -> Iterator[Event]:
    """Evaluate the online and the averaged network at the full image size, after a checkpoint.

    Raises:
        InterruptedRunError: A stop was requested.
        ResumableError: An image cannot be read, or a loader worker has died.
    """
    if not trainer.is_saved():  # what an unreadable image or a death must not cost
        yield from trainer.save()
    stepper, start = trainer.stepper, trainer.clock()
    choice = plain_choice(SubnetConfig(depth, stepper.model.spec.img_size))
    try:
        with trainer.ledger.charge("evaluate"), trainer.stop.at_once(trainer.ranks):
            models = (stepper.model, stepper.emas[-1].module)
            (loss, top1), (loss_ema, top1_ema) = evaluate(
                models, trainer.feed.validation(), choice, trainer.compute, trainer.ranks
            )
    except StopNow as request:
        yield from trainer.halt(request.signal_name)
        raise
    trainer.evaluated_step, trainer.evaluated_macs = trainer.step, trainer.macs
    trainer.last_evaluation = Evaluated(
        step=trainer.step,
        epoch=trainer.epoch,
        subnet=choice.subnet,
        loss=loss,
        top1=top1,
        loss_ema=loss_ema,
        top1_ema=top1_ema,
        seconds=trainer.clock() - start,
        train_seconds=trainer.ledger.seconds["train"],
        wall_seconds=trainer.ledger.wall_seconds(),
    )
    yield trainer.last_evaluation
