"""A study that many processes work on, without a server and without losing or doubling a trial."""

from __future__ import annotations

import math
import os
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeGuard

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from autoprog.errors import ConfigError, RunError
from autoprog.openfiles import open_for_appending
from autoprog.processes import FileLock, ProcessName, is_gone, is_here, process_in, this_process
from autoprog.search.controller.storage import STORAGE_ERRORS, open_storage, sync

__all__ = [
    "FINISHED",
    "LOST",
    "RELEASED",
    "RETRY_OF",
    "Lease",
    "LeaseKeeper",
    "LeaseTerms",
    "Plan",
    "SharedStudy",
    "attempt_of",
    "create_study",
    "folder_clock",
    "lease_in",
    "lease_state",
    "origin_of",
]

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
"""The states of trials that count: a failed one is no part of a search."""

JOURNAL = "search.journal"

# What this package writes into the user attributes of a trial. These keys and the two reasons are in
# the journals of finished runs: they stay as they are.
LEASE = "lease"
"""Who works on the trial and until when nobody else may."""
LOST = "lost"
"""Why a failed trial has no result: its worker died, or gave it back. Such a trial is tried again."""
RELEASED = "given back"
"""The reason of a worker that was asked to stop; it did not die over the trial."""
RETRY_OF = "retry_of"
"""The number of the lost trial that this one repeats."""
ORIGIN = "origin"
"""The number of the first trial of such a chain."""
ATTEMPT = "attempt"
"""How many workers have died over the parameters of this trial before it."""
ERROR = "error"
"""The message of the error that the trial failed by; it is not tried again."""

_MAX_ERROR_CHARACTERS = 500
_MAX_TERMS = 2  # leases of processes with other terms, and clocks that differ
_MAX_TICK_SECONDS = 5.0


@dataclass(frozen=True)
class Plan:
    """What a study is about: the same for all who join it.

    Attributes:
        name: Of the study.
        metrics: The name of each value of a trial; all are minimised.
        space: The distribution of each parameter of a trial.
        first: Parameters of the trials to begin with, such as the schedules that are known to be good;
            each may leave some out, and one that the study has already is not repeated unless it failed by
            an error.
    """

    name: str
    metrics: tuple[str, ...]
    space: Mapping[str, BaseDistribution]
    first: tuple[Mapping[str, Any], ...] = ()

    def fits(self, trial: FrozenTrial) -> bool:
        """Return whether a trial has these parameters and, if it is complete, these metrics.

        One from a journal of somebody else may hold anything: values of other types, 10**400, infinities.
        """
        if trial.params.keys() != self.space.keys():
            return False
        try:
            if trial.state is TrialState.COMPLETE and not (
                len(trial.values) == len(self.metrics) and all(map(math.isfinite, trial.values))
            ):
                return False
            # There and back, since "1" becomes the integer 1 on the way there.
            return all(
                one._contains(internal := one.to_internal_repr(trial.params[name]))
                and one.to_external_repr(internal) == trial.params[name]
                for name, one in self.space.items()
            )
        except (ValueError, TypeError, OverflowError):
            return False


@dataclass(frozen=True)
class LeaseTerms:
    """How long things may take, and how often a trial is tried.

    Attributes:
        seconds: How long a lease lasts unless it is renewed.
        grace_seconds: How long a trial may run without a lease, for workers that do not share a lock.
        second_look_seconds: After how long an expired lease of a living process is looked at again.
        max_attempts: Workers that may die over one trial before it is given up.
    """

    seconds: float = 90.0
    grace_seconds: float = 0.0
    second_look_seconds: float = 12.0
    max_attempts: int = 3


@dataclass
class SharedStudy:
    """A study as one worker holds it.

    Whoever asks for a trial holds a lock: so the number of trials is exact, a sampler sees the
    parameters of all trials under way, and one that runs without a lease has lost its worker.
    """

    study: Study
    storage: BaseStorage
    plan: Plan
    lock: FileLock
    clock: Callable[[], float]
    terms: LeaseTerms
    sleep: Callable[[float], None] = time.sleep
    _num_first: int = field(default=0, init=False)

    @classmethod
    def open(
        cls,
        folder: Path,
        plan: Plan,
        sampler: BaseSampler,
        where: Path | str | None = None,
        terms: LeaseTerms | None = None,
    ) -> SharedStudy:
        """Open a study, or make it.

        Args:
            folder: The run folder, which all workers share.
            plan: What the study is about.
            sampler: How to choose parameters.
            where: The journal or database; the folder's own journal if left out. For a database, workers
                that do not share the folder have a grace period instead of its lock.
            terms: Of leases.

        Raises:
            ConfigError: If the storage or the study in it does not fit.
            RunError: If there is no such folder, or the journal cannot be read.
        """
        where, terms = folder / JOURNAL if where is None else where, terms or LeaseTerms()
        if isinstance(where, Path):
            folder = where.parent  # the lock lies beside the journal, which run folders may share
        else:
            terms = replace(terms, grace_seconds=max(terms.grace_seconds, terms.seconds))
        if not folder.is_dir():
            raise RunError(f"{folder}: there is no such folder")
        lock = FileLock(folder / "study.lock", patience_seconds=terms.seconds)
        with lock:
            storage = open_storage(where)
            try:
                study = create_study(storage, plan.name, plan.metrics, sampler)
                numbers = [trial.number for trial in study.get_trials(deepcopy=False)]
                if numbers != list(range(len(numbers))):  # trials are looked up by their numbers
                    raise ValueError("some trials are missing")
            except ConfigError:
                raise
            except STORAGE_ERRORS as error:
                # Of an address, which may hold a password, the scheme alone.
                is_file = isinstance(where, Path)
                shown = str(where) if is_file else f"--storage {str(where).partition('://')[0]}://…"
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                problem = f"Optuna cannot read this study ({reason})"
                raise ConfigError(shown, plan.name, problem, hint="take another one") from None
        return cls(study, storage, plan, lock, folder_clock(folder), terms)

    def ask(self, max_trials: int | None, worker: int) -> tuple[Trial, Lease] | None:
        """Return a trial to evaluate under a lease, or None while those under way may be enough.

        Args:
            max_trials: How many finished trials the study is to have in the end; None for any number.
            worker: Who asks.
        """
        with self.lock:
            self.recover_lost()
            while max_trials is None or self._num_in(*FINISHED, TrialState.RUNNING) < max_trials:
                self._enqueue_first()
                trial = self.study.ask(dict(self.plan.space))
                if not _is_doubled(trial.number, self.study.get_trials(deepcopy=False)):
                    lease = Lease(this_process(), worker, self.clock() + self.terms.seconds)
                    self.write_lease(trial, lease)
                    return trial, lease
                # Of workers without a common lock both enqueue it; the later one gives way.
                trial.set_user_attr(ERROR, "another trial repeats the same lost one")
                self.study.tell(trial, state=TrialState.FAIL)
        return None

    def write_lease(self, trial: Trial, lease: Lease) -> None:
        """Write a lease into its trial."""
        trial.set_user_attr(LEASE, lease.attribute())

    def keeper(self, trial: Trial, lease: Lease, beat: Callable[[], None]) -> LeaseKeeper:
        """Return what renews the lease of a trial while it is evaluated."""

        def write(renewed: Lease) -> None:
            self.write_lease(trial, renewed)

        return LeaseKeeper(lease, write, self.clock, self.terms.seconds, beat)

    def tell(self, trial: Trial, values: float | Sequence[float]) -> bool:
        """Complete a trial; return False where it comes too late, since others have failed it."""
        return self._tell(trial, TrialState.COMPLETE, values)

    def prune(self, trial: Trial) -> bool:
        """End a trial early; return False where it comes too late."""
        return self._tell(trial, TrialState.PRUNED)

    def fail(self, trial: Trial, message: str) -> None:
        """Fail a trial by an error, which is not tried again."""
        with suppress(UpdateFinishedTrialError):
            trial.set_user_attr(ERROR, message[:_MAX_ERROR_CHARACTERS])
            self._tell(trial, TrialState.FAIL)

    def release(self, trial: Trial) -> None:
        """Give a trial back, so that the next worker goes on with it."""
        with self.lock:
            self.fail_lost(trial.number, RELEASED)
            self._enqueue_lost()
        sync(self.storage)

    def num_finished(self) -> int:
        """Count the trials that are complete or pruned."""
        return self._num_in(*FINISHED)

    def ended(self, *states: TrialState) -> list[FrozenTrial]:
        """Return the trials that ended so, with all the parameters and values that this study asks for.

        Raises:
            RunError: If one is none of this study's: the storage may come from somebody else.
        """
        trials = self.study.get_trials(deepcopy=False, states=states)
        for trial in trials:
            if not self.plan.fits(trial):
                what = f"trial {trial.number} is none of this search"
                raise RunError(f"{self.plan.name}: {what}; move its journal away, or begin anew")
        return trials

    def recover_lost(self) -> list[int]:
        """Fail the trials whose workers died and enqueue their parameters; return their numbers.

        For whoever holds the lock. This process may die itself at any point. What it does, in this order, is:
        say in the trial that it is lost, fail it, enqueue its parameters; the next one goes on from what is
        there. A worker that finishes a trial meanwhile wins, or its result comes too late: never both.
        """
        now, running = self.clock(), (TrialState.RUNNING,)
        trials = self.study.get_trials(deepcopy=False, states=running)
        losses = {trial.number: self._loss(trial, now) for trial in trials}
        if "doubtful" in losses.values():
            self.sleep(self.terms.second_look_seconds)
            again = {t.number: t for t in self.study.get_trials(deepcopy=False, states=running)}
            for trial in trials:
                if losses[trial.number] == "doubtful":
                    later, lease = again.get(trial.number), trial.user_attrs.get(LEASE)
                    is_same = later is not None and later.user_attrs.get(LEASE) == lease
                    why = "its worker lives but does not renew its lease"
                    losses[trial.number] = why if is_same else ""
        lost = [number for number, why in losses.items() if why and self.fail_lost(number, why)]
        self._enqueue_lost()
        return lost

    def fail_lost(self, number: int, why: str) -> bool:
        """Mark a trial as lost and fail it; return False where it is finished already."""
        study_id = self.storage.get_study_id_from_name(self.study.study_name)
        trial_id = self.storage.get_trial_id_from_study_id_trial_number(study_id, number)
        try:
            self.storage.set_trial_user_attr(trial_id, LOST, why)
            ended = self.study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
        except UpdateFinishedTrialError:
            return False
        return ended.state is TrialState.FAIL

    def _loss(self, trial: FrozenTrial, now: float) -> str:
        """Return why nobody works on a running trial, "doubtful", or an empty text."""
        lease = lease_in(trial.user_attrs.get(LEASE))
        if lease is None:
            age = datetime.now() - (trial.datetime_start or datetime.min)
            is_new = age < timedelta(seconds=self.terms.grace_seconds)
            return "" if is_new else "its worker died before it said who it was"
        if lease.expires > now + _MAX_TERMS * self.terms.seconds:
            return "no lease lasts as long as its own"  # nobody's who works here
        state = lease_state(lease, now)
        if state == "lost":
            return f"worker {lease.worker} ({lease.holder.pid} on {lease.holder.host}) died"
        return "" if state == "held" else state

    def _enqueue_lost(self) -> None:
        """Enqueue every lost trial that nobody has enqueued yet and that is not given up."""
        trials = self.study.get_trials(deepcopy=False)
        repeated = {_retried_by(trial) for trial in trials}
        for trial in trials:
            is_lost = trial.state is TrialState.FAIL and LOST in trial.user_attrs
            if not is_lost or trial.number in repeated:
                continue
            attempts = attempt_of(trial) + (trial.user_attrs[LOST] != RELEASED)
            if attempts >= self.terms.max_attempts:
                continue
            given = trial.system_attrs.get("fixed_params", {})
            given = given if isinstance(given, dict) else {}  # in a journal of somebody else
            chain = {RETRY_OF: trial.number, ORIGIN: origin_of(trial), ATTEMPT: attempts}
            self.study.enqueue_trial({**given, **trial.params}, user_attrs=chain)

    def _enqueue_first(self) -> None:
        """Enqueue the next trial to begin with, unless another one waits.

        One at a time: a repeated trial is then taken before them, as if nothing had happened.
        """
        while self._num_first < len(self.plan.first) and not self._num_in(TrialState.WAITING):
            params = dict(self.plan.first[self._num_first])
            # One that an error ended is begun again: its cause, such as a full disk, may be gone.
            if not any(
                trial.system_attrs.get("fixed_params") == params and ERROR not in trial.user_attrs
                for trial in self.study.get_trials(deepcopy=False)
            ):
                self.study.enqueue_trial(params)
            self._num_first += 1

    def _num_in(self, *states: TrialState) -> int:
        return len(self.study.get_trials(deepcopy=False, states=states))

    def _tell(
        self, trial: Trial, state: TrialState, values: float | Sequence[float] | None = None
    ) -> bool:
        try:
            ended = self.study.tell(trial, values, state, skip_if_finished=True)
        except UpdateFinishedTrialError:  # others failed it after Optuna looked whether it runs
            return False
        sync(self.storage)  # once a trial: Optuna does it at each of its lines
        return ended.state is state


def create_study(
    storage: BaseStorage, name: str, metrics: Sequence[str], sampler: BaseSampler
) -> Study:
    """Return the study of that name, which is made if it is not there.

    Raises:
        ConfigError: If it is there with another number of metrics.
    """
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        sampler=sampler,
        directions=["minimize"] * len(metrics),
        load_if_exists=True,
    )
    if len(study.directions) != len(metrics):
        problem = f"this study has {len(study.directions)} metrics instead of {len(metrics)}"
        raise ConfigError("--storage", name, problem, hint="give the new one another name")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        if study.metric_names != list(metrics):
            study.set_metric_names(list(metrics))
    return study


# Leases: who works on a trial, and how the others see that nobody does any more.


@dataclass(frozen=True)
class Lease:
    """A worker's hold on a trial until ``expires``, in seconds since 1970 by the clock of the study."""

    holder: ProcessName
    worker: int
    expires: float

    def attribute(self) -> dict[str, Any]:
        """Return the user attribute that says so."""
        return {**asdict(self.holder), "worker": self.worker, "expires": self.expires}


def lease_in(attribute: Any) -> Lease | None:
    """Return the lease that a user attribute holds, if it is one."""
    name = process_in(attribute)
    if name is None:
        return None
    worker, expires = attribute.get("worker"), attribute.get("expires")
    is_one = type(worker) is int and type(expires) in (int, float) and math.isfinite(expires)
    return Lease(name, worker, float(expires)) if is_one else None


def lease_state(lease: Lease, now: float) -> Literal["held", "doubtful", "lost"]:
    """Return whether a lease holds.

    A process of this machine that is gone has lost its lease at once. One that lives but has not renewed it
    is doubtful: a machine that slept finds all its leases expired when it wakes up.
    """
    if is_gone(lease.holder):
        return "lost"
    if lease.expires >= now:
        return "held"
    return "doubtful" if is_here(lease.holder) else "lost"


class LeaseKeeper:
    """Renews a lease in a thread of its own, as long as the block it guards runs.

    Args:
        lease: As it was written first.
        write: Writes one into the trial.
        clock: The clock of the study.
        seconds: How long a lease lasts; it is renewed when a third of that has gone by.
        beat: Called every few seconds.
    """

    def __init__(
        self,
        lease: Lease,
        write: Callable[[Lease], None],
        clock: Callable[[], float],
        seconds: float,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self._lease, self._write, self._clock, self._seconds = lease, write, clock, seconds
        self._beat = beat
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self.is_lost = False

    def __enter__(self) -> LeaseKeeper:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        self._thread.join()

    def _keep(self) -> None:
        # Short ticks: a machine that wakes up renews its leases before the second look of others, 12 s later.
        while not self._done.wait(min(_MAX_TICK_SECONDS, self._seconds / 6)):
            self._beat()
            if self._lease.expires - self._clock() >= 2 / 3 * self._seconds:
                continue
            renewed = replace(self._lease, expires=self._clock() + self._seconds)
            try:
                self._write(renewed)
            except UpdateFinishedTrialError:  # others took this worker for dead
                self.is_lost = True
                return
            except (OSError, StorageInternalError):
                continue  # a full disk or a database that restarts: the next tick tries again
            self._lease = renewed


def folder_clock(folder: Path) -> Callable[[], float]:
    """Return a clock that all who share a folder agree on: the one of the file system that holds it.

    The clocks of hosts may differ by more than a lease lasts.
    """
    probe = folder / ".clock"

    def now() -> float:
        try:
            with open_for_appending(probe) as file:
                os.utime(file.fileno())  # without times: a file server then takes its own clock
                return os.fstat(file.fileno()).st_mtime
        except OSError:  # made by another user, no file, or a full disk
            return time.time()

    return now


# What the user attributes of a trial say; a journal of somebody else may hold anything in their place.


def origin_of(trial: FrozenTrial | Trial) -> int:
    """Return the number of the trial that this one is, or repeats."""
    origin = trial.user_attrs.get(ORIGIN)
    return origin if _is_count(origin) and origin < trial.number else trial.number


def attempt_of(trial: FrozenTrial | Trial) -> int:
    """Return how many workers have died over the parameters of a trial."""
    attempt = trial.user_attrs.get(ATTEMPT)
    return attempt if _is_count(attempt) else 0


def _retried_by(trial: FrozenTrial) -> int | None:
    """Return the number of the lost trial that this one repeats, if it does."""
    number = trial.user_attrs.get(RETRY_OF)
    return number if _is_count(number) and number < trial.number else None


def _is_doubled(number: int, trials: Sequence[FrozenTrial]) -> bool:
    """Return whether an earlier trial repeats the same lost one, enqueued by one who shares no lock."""
    lost = _retried_by(trials[number])
    return lost is not None and any(_retried_by(other) == lost for other in trials[:number])


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and value >= 0
