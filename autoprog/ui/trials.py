"""The trials of a search: what each schedule came to, and which of them none beats."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType

from autoprog.events import TrialTold
from autoprog.ui.fitted import Fitted, panel
from autoprog.ui.tables import Column, rich_table
from autoprog.ui.units import duration, loss_text, per_cent

__all__ = ["on_front", "trial_columns", "trial_text", "trials_view"]

MOST_ROWS = 16


def on_front(trials: Sequence[TrialTold]) -> set[int]:
    """Return the numbers of the trials that none beats in both loss and seconds."""
    found: set[int] = set()
    best = float("inf")
    for trial in sorted(_complete(trials), key=lambda t: (t.seconds, t.loss)):
        if trial.loss is not None and trial.loss < best:
            best = trial.loss
            found.add(trial.number)
    return found


def trial_columns(trials: Sequence[TrialTold]) -> list[Column]:
    """Return the table of the best trials by loss, those of the front marked."""
    front = on_front(trials)
    rows = sorted(_complete(trials), key=lambda t: (t.loss or 0.0, t.number))
    shown = [row for i, row in enumerate(rows) if row.number in front or i < MOST_ROWS]
    return [
        Column("trial", tuple(str(row.number) for row in shown)),
        Column("front", tuple("*" if row.number in front else "" for row in shown), "left"),
        Column("loss", tuple(loss_text(row.loss) for row in shown)),
        Column("seconds", tuple(duration(row.seconds) for row in shown)),
        Column("schedule", tuple(_stages_text(row) for row in shown), "left", rank=1),
    ]


def trial_text(trial: TrialTold) -> str:
    """Return a trial in one line of ASCII."""
    if trial.pruned:
        return f"trial {trial.number}: others did better; {_stages_text(trial)}"
    came_to = f"loss {loss_text(trial.loss)} in {duration(trial.seconds)}"
    return f"trial {trial.number}: {came_to}; {_stages_text(trial)}"


def trials_view(trials: Sequence[TrialTold]) -> RenderableType:
    """Return the table of trials in its frame, with how many ended early."""
    pruned = sum(trial.pruned for trial in trials)
    title = f"Trials: {len(trials)}, {pruned} ended early; * is the front"
    return panel(Fitted(lambda width: rich_table(trial_columns(trials), width)), title)


def _complete(trials: Sequence[TrialTold]) -> list[TrialTold]:
    return [trial for trial in trials if trial.loss is not None and trial.seconds is not None]


def _stages_text(trial: TrialTold) -> str:
    """Return the subnets of a schedule and from which share of the run on each trains."""
    parts = [
        str(subnet) if share == 0 else f"{subnet} at {per_cent(share)}"
        for share, subnet in trial.stages
    ]
    return ", ".join(parts)
