"""What happens where a phase begins: the network changes, then the steps get ready."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from autoprog.events import Event, Grown, StageStarted
from autoprog.train.budget import look
from autoprog.train.growth import apply_growth
from autoprog.train.phase import Compact, GrowTo, Phase
from autoprog.train.regularise import regularise
from supernet.grow import compact

if TYPE_CHECKING:
    from autoprog.train.trainer import Trainer

__all__ = ["enter"]


def enter(trainer: Trainer, phase: Phase) -> Iterator[Event]:
    """Prepare the network for a phase; what changes weights happens only once."""
    if trainer.phase < phase.index:
        yield from _change(trainer, phase)
        trainer.phase = phase.index
    regularise(trainer.stepper, phase, trainer.recipe, trainer.feed.num_classes)
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
            probe, step = trainer.feed.probe(), trainer.step
            grown = apply_growth(trainer.stepper, probe, phase.enter, step, trainer.clock)
        yield grown.model_copy(update={"opens_supernet": phase.kind == "supernet"})
    elif isinstance(phase.enter, Compact):
        with trainer.ledger.charge("lost"):
            averages = [ema.module for ema in trainer.stepper.emas]
            stepper = trainer.stepper
            compact(stepper.model, averages, stepper.optimizer, phase.enter.slots)
    if phase.enter is not None or phase.kind == "plain":
        trainer.phase_seconds.clear()
