"""What this package writes into the user attributes of a trial; each is one word for one thing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

from optuna.trial import FrozenTrial, Trial, TrialState

__all__ = [
    "ATTEMPT",
    "ERROR",
    "FINISHED",
    "LEASE",
    "LOST",
    "ORIGIN",
    "RELEASED",
    "RETRY_OF",
    "attempt_of",
    "index_of",
    "origin_of",
    "retried_by",
    "rung_name",
]

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
"""The states of trials that count: those that have told what they were asked for."""

LEASE = "lease"
"""Who works on the trial and until when nobody else may."""

LOST = "lost"
"""Why a failed trial has no result: its worker died, or gave it back. Such a trial is tried again."""

RELEASED = "given back"
"""Why a trial is lost whose worker was asked to stop; it did not die over the trial."""

RETRY_OF = "retry_of"
"""The number of the lost trial that this one repeats."""

ORIGIN = "origin"
"""The number of the first trial of such a chain."""

ATTEMPT = "attempt"
"""How many workers have died over the parameters of this trial before it."""

ERROR = "error"
"""The message of the error that the trial failed by; it is not tried again."""


def rung_name(rung: int) -> str:
    """Return the name of the attribute that holds the value at a rung."""
    return f"rung_{rung}"


def origin_of(trial: FrozenTrial | Trial) -> int:
    """Return the number of the trial that this one is, or repeats."""
    origin = trial.user_attrs.get(ORIGIN)
    return origin if _is_count(origin) and origin < trial.number else trial.number


def attempt_of(trial: FrozenTrial | Trial) -> int:
    """Return how many workers have died over the parameters of a trial."""
    attempt = trial.user_attrs.get(ATTEMPT)
    return attempt if _is_count(attempt) else 0


def retried_by(trial: FrozenTrial | Trial) -> int | None:
    """Return the number of the lost trial that this one repeats, if it does."""
    number = trial.user_attrs.get(RETRY_OF)
    return number if _is_count(number) and number < trial.number else None


def index_of(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> int:
    """Return which trial this would be had no worker ever died; `trials` are all of its study."""
    origin = origin_of(trial)
    return origin - sum(RETRY_OF in earlier.user_attrs for earlier in trials[:origin])


def _is_count(value: Any) -> TypeGuard[int]:
    """Tell whether an attribute, which may be of somebody else, is a count from 0."""
    return type(value) is int and value >= 0
