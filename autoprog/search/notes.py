"""What a search keeps with its checkpoints: training losses, and what the subnet of each time came to."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from autoprog.decisions import Shown
from autoprog.events import Event, Progressed
from autoprog.search.estimate import estimate_losses
from autoprog.train.phase import Phase, plain_choice
from autoprog.train.trainer import Trainer
from supernet.config import SubnetConfig

__all__ = ["note_shown", "noting_losses", "shown_at"]

_RECENT_POINTS = 4


def noting_losses(trainer: Trainer, phase: Phase, keeps_curve: bool) -> Iterator[Event]:
    """Run a plain phase and keep its training losses: the last ones, and the curve that the roll-out fits."""
    name = str(phase.choices[0].subnet)
    for event in trainer.run(phase):
        if isinstance(event, Progressed):
            recent = trainer.notes.setdefault("recent", {}).setdefault(name, [])
            _note(trainer, recent, phase, event)
            del recent[:-_RECENT_POINTS]
            if keeps_curve:
                _note(trainer, trainer.notes.setdefault("curve", []), phase, event)
        yield event


def note_shown(trainer: Trainer, index: int, current: SubnetConfig) -> None:
    """Keep what the current subnet has come to before decision `index`; once, and by rank 0 alone."""
    shown = trainer.notes.setdefault("shown", {})
    recent = trainer.notes.get("recent", {}).get(str(current), [])
    if not trainer.ranks.is_main or str(index) in shown or len(recent) < _RECENT_POINTS:
        return
    with trainer.ledger.charge("search"):
        held_out = fmean(estimate_losses(trainer, plain_choice(current)))
    # Rounded, since a point made of two is that of a straight run but for the last bits.
    training = round(fmean(loss for _, loss in recent), 6)
    found = Shown(subnet=current, held_out=held_out, training=training)
    shown[str(index)] = found.model_dump(mode="json")


def shown_at(trainer: Trainer, index: int) -> Shown | None:
    """Return what was kept before a decision, if anything was."""
    found = trainer.notes.get("shown", {}).get(str(index))
    return None if found is None else Shown.model_validate(found)


def _note(trainer: Trainer, curve: list[list[float]], phase: Phase, event: Progressed) -> None:
    """Append to a curve; what a stop had split in two becomes one point again."""
    loss, every = event.loss, trainer.settings.log_every_steps
    if curve and curve[-1][0] > phase.start_step and curve[-1][0] % every:
        step, earlier = curve.pop()
        begin = max(phase.start_step, step - step % every)
        loss = (earlier * (step - begin) + loss * (event.step - step)) / (event.step - begin)
    curve.append([event.step, loss])
