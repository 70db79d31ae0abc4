"""How a run keeps to a time budget: it looks at the clock, and keeps time for its end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from autoprog.events import Event
from autoprog.train.evaluations import evaluate_run

if TYPE_CHECKING:
    from autoprog.train.trainer import Trainer

__all__ = ["look", "measure_reserve", "reserve"]


def look(trainer: Trainer, step_seconds: float = 0.0) -> None:
    """Look at the clock where the run goes by it; all ranks go by that of rank 0.

    ``step_seconds`` are those of the steps just made, 0 if there were none.
    """
    pace, stepper = trainer.pace, trainer.stepper
    if pace.budget_seconds is None:
        return
    seen = trainer.ranks.share(f"{trainer.ledger.wall_seconds()} {step_seconds}")
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
    trainer.pace.reserve(float(trainer.ranks.share(str(seconds))), is_start)


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
