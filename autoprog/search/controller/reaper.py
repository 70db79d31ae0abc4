"""The reaper: trials that nobody works on any more are failed, and tried again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from autoprog.search.controller.attributes import (
    ATTEMPT,
    LEASE,
    LOST,
    ORIGIN,
    RELEASED,
    RETRY_OF,
    attempt_of,
    origin_of,
    retried_by,
)
from autoprog.search.controller.leases import Clock, lease_in, verdict_on

__all__ = ["LeaseTerms", "Reaper", "is_doubled", "retries_due"]


@dataclass(frozen=True)
class LeaseTerms:
    """How long things may take, and how often a trial is tried.

    Attributes:
        seconds: How long a lease lasts unless it is renewed.
        grace_seconds: How long a trial may run without a lease, for workers that do not share a lock.
        second_look_seconds: After how long an expired lease of a living process is looked at again.
        most_attempts: Workers that may die over one trial before it is given up.
    """

    seconds: float = 90.0
    grace_seconds: float = 0.0
    second_look_seconds: float = 12.0
    most_attempts: int = 3


class Reaper:
    """Goes over a study, under the lock that those share who ask for trials.

    It may die itself at any point. What it does, in this order, is: say in the trial that it is lost,
    fail it, enqueue its parameters; and the next one goes on from what is there. A worker that finishes
    a trial meanwhile wins, or its result comes too late: never both.
    """

    def __init__(
        self,
        study: Study,
        storage: BaseStorage,
        clock: Clock,
        terms: LeaseTerms,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._study, self._storage, self._clock, self._terms = study, storage, clock, terms
        self._sleep = sleep
        self._study_id = storage.get_study_id_from_name(study.study_name)

    def reap(self) -> list[int]:
        """Fail and repeat what is lost; return the numbers of the trials that were failed."""
        now = self._clock()
        running = self._trials((TrialState.RUNNING,))
        why = {trial.number: self._loss(trial, now) for trial in running}
        if "doubtful" in why.values():
            self._sleep(self._terms.second_look_seconds)
            again = {t.number: t for t in self._trials((TrialState.RUNNING,))}
            for trial in running:
                if why[trial.number] == "doubtful":
                    why[trial.number] = _second_look(trial, again.get(trial.number))
        lost = [number for number, loss in why.items() if loss and self.fail(number, loss)]
        self.repeat()
        return lost

    def fail(self, number: int, why: str) -> bool:
        """Mark a trial as lost and fail it; return False where it is finished already."""
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
        try:
            self._storage.set_trial_user_attr(trial_id, LOST, why)
            told = self._study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
        except UpdateFinishedTrialError:
            return False
        return told.state is TrialState.FAIL

    def repeat(self) -> None:
        """Enqueue every lost trial that nobody has enqueued yet."""
        for trial in retries_due(self._trials(None), self._terms.most_attempts):
            given = trial.system_attrs.get("fixed_params", {})
            given = given if isinstance(given, dict) else {}  # in a journal of somebody else
            self._study.enqueue_trial({**given, **trial.params}, user_attrs=_retry_of(trial))

    def _trials(self, states: tuple[TrialState, ...] | None) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states)

    def _loss(self, trial: FrozenTrial, now: float) -> str:
        """Return why nobody works on a running trial, "doubtful", or nothing."""
        lease = lease_in(trial.user_attrs.get(LEASE))
        if lease is None:
            age = datetime.now() - (trial.datetime_start or datetime.min)
            is_new = age < timedelta(seconds=self._terms.grace_seconds)
            return "" if is_new else "its worker died before it said who it was"
        if lease.expires > now + _MOST_TERMS * self._terms.seconds:
            return "no lease lasts as long as its own"  # nobody's who works here
        verdict = verdict_on(lease, now)
        if verdict == "lost":
            return f"worker {lease.worker} ({lease.holder.pid} on {lease.holder.host}) died"
        return "" if verdict == "held" else verdict


_MOST_TERMS = 2  # leases of other terms of this program, and clocks that differ


def _second_look(before: FrozenTrial, after: FrozenTrial | None) -> str:
    if after is None or after.user_attrs.get(LEASE) != before.user_attrs.get(LEASE):
        return ""
    return "its worker lives but does not renew its lease"


def retries_due(trials: Sequence[FrozenTrial], most_attempts: int) -> list[FrozenTrial]:
    """Return the lost trials that nobody has repeated and that are not given up."""
    repeated = {retried_by(trial) for trial in trials}
    return [
        trial
        for trial in trials
        if trial.state is TrialState.FAIL
        and LOST in trial.user_attrs
        and trial.number not in repeated
        and _attempts_after(trial) < most_attempts
    ]


def is_doubled(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> bool:
    """Tell whether an earlier trial repeats the same lost one: of reapers that shared no lock."""
    mine = retried_by(trial)
    earlier = trials[: trial.number]
    return mine is not None and any(retried_by(other) == mine for other in earlier)


def _attempts_after(lost: FrozenTrial) -> int:
    return attempt_of(lost) + (lost.user_attrs[LOST] != RELEASED)


def _retry_of(lost: FrozenTrial) -> dict[str, Any]:
    return {
        RETRY_OF: lost.number,
        ORIGIN: origin_of(lost),
        ATTEMPT: _attempts_after(lost),
    }
