"""A worker: asks for trials, evaluates them and tells, until there are enough."""

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
from types import TracebackType
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from autoprog.errors import AutoprogError, ConfigError, RunError
from autoprog.openfiles import open_for_appending
from autoprog.processes import (
    FileLock,
    ProcessName,
    WorkerFile,
    is_gone,
    is_here,
    process_in,
    this_process,
)
from autoprog.search.controller.samplers import (
    ATTEMPT,
    ERROR,
    FINISHED,
    LEASE,
    LOST,
    ORIGIN,
    RELEASED,
    RETRY_OF,
    Halving,
    attempt_of,
    origin_of,
    retried_by,
)
from autoprog.search.controller.storage import STORAGE_ERRORS, open_storage, sync
from autoprog.search.controller.trials import OpenTrial, PrunedTrial, ReleasedTrial
from autoprog.train.stop import StopRequest

__all__ = [
    "EXPECTED_ERRORS",
    "JOURNAL",
    "Clock",
    "Evaluate",
    "Lease",
    "LeaseKeeper",
    "LeaseTerms",
    "Plan",
    "Reaper",
    "SharedStudy",
    "StopRule",
    "Verdict",
    "WorkerEnd",
    "create_study",
    "folder_clock",
    "is_doubled",
    "lease_in",
    "retries_due",
    "run_worker",
    "verdict_on",
]


# --------------------------------------------------------------------------------------------------
# Leases: who works on a trial, and how the others tell that nobody does any more.


Clock = Callable[[], float]
Verdict = Literal["held", "doubtful", "lost"]

_MAX_TICK_SECONDS = 5.0


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


def verdict_on(lease: Lease, now: float) -> Verdict:
    """Tell whether a lease holds.

    A process of this machine that is gone has lost its lease at once. One that lives but has not renewed it
    is doubtful: a machine that slept finds all its leases expired when it wakes up.
    """
    if is_gone(lease.holder):
        return "lost"
    if lease.expires >= now:
        return "held"
    return "doubtful" if is_here(lease.holder) else "lost"


def folder_clock(folder: Path) -> Clock:
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
        clock: Clock,
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()

    def _keep(self) -> None:
        # Ticks are short, so that a machine that wakes up renews its leases before others look
        # twice.
        while not self._done.wait(min(_MAX_TICK_SECONDS, self._seconds / 6)):
            self._beat()
            if self._lease.expires - self._clock() < 2 / 3 * self._seconds and not self._renew():
                return

    def _renew(self) -> bool:
        """Write a later end; return whether the trial is still ours."""
        renewed = replace(self._lease, expires=self._clock() + self._seconds)
        try:
            self._write(renewed)
        except UpdateFinishedTrialError:
            self.is_lost = True
            return False
        except (OSError, StorageInternalError):
            return True  # a full disk or a database that restarts: the next tick tries again
        self._lease = renewed
        return True


# --------------------------------------------------------------------------------------------------
# The reaper: trials that nobody works on any more are failed, and tried again.


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
        for trial in retries_due(self._trials(None), self._terms.max_attempts):
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
        if lease.expires > now + _MAX_TERMS * self._terms.seconds:
            return "no lease lasts as long as its own"  # nobody's who works here
        verdict = verdict_on(lease, now)
        if verdict == "lost":
            return f"worker {lease.worker} ({lease.holder.pid} on {lease.holder.host}) died"
        return "" if verdict == "held" else verdict


_MAX_TERMS = 2  # leases of other terms of this program, and clocks that differ


def _second_look(before: FrozenTrial, after: FrozenTrial | None) -> str:
    if after is None or after.user_attrs.get(LEASE) != before.user_attrs.get(LEASE):
        return ""
    return "its worker lives but does not renew its lease"


def retries_due(trials: Sequence[FrozenTrial], max_attempts: int) -> list[FrozenTrial]:
    """Return the lost trials that nobody has repeated and that are not given up."""
    repeated = {retried_by(trial) for trial in trials}
    return [
        trial
        for trial in trials
        if trial.state is TrialState.FAIL
        and LOST in trial.user_attrs
        and trial.number not in repeated
        and _attempts_after(trial) < max_attempts
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


# --------------------------------------------------------------------------------------------------
# A study that many processes work on, without a server and without losing or doubling a trial.


JOURNAL = "search.journal"

_LONGEST_ERROR = 500


@dataclass(frozen=True)
class Plan:
    """What a study is about: the same for all who join it.

    Attributes:
        name: Of the study.
        metrics: The name of each value that a trial tells; all are minimised.
        space: What every trial is asked for.
        first: Parameters of the trials to begin with, such as the schedules that are known to be good;
            each may leave some out, and one that the study has already is not repeated unless it failed by
            an error.
    """

    name: str
    metrics: tuple[str, ...]
    space: Mapping[str, BaseDistribution]
    first: tuple[Mapping[str, Any], ...] = ()


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
        problem = f"must be a study of {len(metrics)} metrics"
        raise ConfigError(
            "--storage", name, problem, len(study.directions), "give the study another name"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        if study.metric_names != list(metrics):
            study.set_metric_names(list(metrics))
    return study


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
        if isinstance(
            where, Path
        ):  # beside the journal, whose workers may have different run folders
            folder = where.parent
        else:
            terms = replace(terms, grace_seconds=max(terms.grace_seconds, terms.seconds))
        if not folder.is_dir():
            raise RunError(f"{folder}: must be a folder")
        lock = FileLock(folder / "study.lock", patience_seconds=terms.seconds)
        with lock:
            storage = open_storage(where)
            try:
                study = create_study(storage, plan.name, plan.metrics, sampler)
                numbers = [trial.number for trial in study.get_trials(deepcopy=False)]
                if numbers != list(range(len(numbers))):
                    raise ValueError("some trials are missing")
            except ConfigError:
                raise
            except STORAGE_ERRORS as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                problem = f"must be readable as Optuna has written it ({reason})"
                raise ConfigError(
                    _shown(where), plan.name, problem, hint="take another one"
                ) from None
        return cls(study, storage, plan, lock, folder_clock(folder), terms)

    @property
    def reaper(self) -> Reaper:
        """Return what looks after trials whose worker died."""
        return Reaper(self.study, self.storage, self.clock, self.terms)

    def reap(self) -> list[int]:
        """Fail and enqueue again what nobody works on any more; return the numbers of those trials."""
        with self.lock:
            return self.reaper.reap()

    def num_finished(self) -> int:
        """Count the trials that are complete or pruned: those that failed are no part of a search."""
        return len(self.study.get_trials(deepcopy=False, states=FINISHED))

    def ended(self, *states: TrialState) -> list[FrozenTrial]:
        """Return the trials that ended so, with all the parameters and values that this study asks for.

        Raises:
            RunError: If one is none of this study's: the storage may come from somebody else.
        """
        trials = self.study.get_trials(deepcopy=False, states=states)
        for trial in trials:
            if not _fits(trial, self.plan):
                what = f"trial {trial.number} is none of this search"
                raise RunError(f"{self.plan.name}: {what}; move its journal away, or begin anew")
        return trials

    def ask(self, most: int | None, worker: int) -> tuple[Trial, Lease] | None:
        """Return a trial to evaluate under a lease, or None while those under way may be enough.

        Args:
            most: How many trials the study is to have in the end, finished ones; None for any number.
            worker: Who asks.
        """
        with self.lock:
            self.reaper.reap()
            while self._has_room(most):
                self._enqueue_first()
                trial = self.study.ask(dict(self.plan.space))
                if not is_doubled_now(self.study, trial):
                    lease = Lease(this_process(), worker, self.clock() + self.terms.seconds)
                    self.write_lease(trial, lease)
                    return trial, lease
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

    def tell(self, trial: Trial, values: Sequence[float]) -> bool:
        """Complete a trial; return False where it comes too late, since others have failed it."""
        return self._tell(trial, TrialState.COMPLETE, list(values))

    def prune(self, trial: Trial) -> bool:
        """End a trial early; return False where it comes too late."""
        return self._tell(trial, TrialState.PRUNED)

    def fail(self, trial: Trial, message: str) -> None:
        """Fail a trial by an error, which is not tried again."""
        with suppress(UpdateFinishedTrialError):
            trial.set_user_attr(ERROR, message[:_LONGEST_ERROR])
            self._tell(trial, TrialState.FAIL)

    def release(self, trial: Trial) -> None:
        """Give a trial back, so that the next worker goes on with it."""
        with self.lock:
            self.reaper.fail(trial.number, RELEASED)
            self.reaper.repeat()
        sync(self.storage)

    def _tell(self, trial: Trial, state: TrialState, values: list[float] | None = None) -> bool:
        try:
            told = self.study.tell(trial, values, state, skip_if_finished=True)
        except UpdateFinishedTrialError:  # others failed it between the look and the word
            return False
        sync(self.storage)
        return told.state is state

    def _has_room(self, most: int | None) -> bool:
        states = (*FINISHED, TrialState.RUNNING)
        return most is None or len(self.study.get_trials(deepcopy=False, states=states)) < most

    def _waiting(self) -> bool:
        return bool(self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def _enqueue_first(self) -> None:
        """Enqueue the next trial to begin with, unless another one waits.

        One at a time: a repeated trial is then taken before them, as if nothing had happened.
        """
        while self._num_first < len(self.plan.first) and not self._waiting():
            params = dict(self.plan.first[self._num_first])
            if not self._has(params):
                self.study.enqueue_trial(params)
            self._num_first += 1

    def _has(self, params: Mapping[str, Any]) -> bool:
        """Tell whether a trial was begun with these parameters, other than one that an error ended.

        Its cause may be gone by now: a full disk, a wrong device.
        """
        return any(
            trial.system_attrs.get("fixed_params") == params and ERROR not in trial.user_attrs
            for trial in self.study.get_trials(deepcopy=False)
        )


def _fits(trial: FrozenTrial, plan: Plan) -> bool:
    """Tell whether a trial has the parameters of a study and, if it is complete, its metrics."""
    if trial.params.keys() != plan.space.keys():
        return False
    num_values = len(plan.metrics) if trial.state is TrialState.COMPLETE else 0
    try:
        has_values = not num_values or (
            len(trial.values) == num_values and all(map(math.isfinite, trial.values))
        )
        return has_values and all(
            one._contains(internal := one.to_internal_repr(trial.params[name]))
            and one.to_external_repr(internal) == trial.params[name]
            for name, one in plan.space.items()
        )
    except (ValueError, TypeError, OverflowError):  # of another kind
        return False


def _shown(where: Path | str) -> str:
    """Return what to call a storage: of an address, which may hold a password, the scheme alone."""
    return str(where) if isinstance(where, Path) else f"--storage {where.partition('://')[0]}://…"


def is_doubled_now(study: Study, trial: Trial) -> bool:
    """Tell whether a trial just asked for repeats what another one repeats."""
    trials = study.get_trials(deepcopy=False)
    return is_doubled(trials[trial.number], trials)


Evaluate = Callable[[Mapping[str, Any], OpenTrial], float | Sequence[float]]

EXPECTED_ERRORS: tuple[type[Exception], ...] = (
    AutoprogError,
    OSError,
    RuntimeError,
    ArithmeticError,
    MemoryError,
)
"""What fails a trial and not its worker: what the world does to it. Mistakes in the code are neither."""


@dataclass(frozen=True)
class StopRule:
    """When to stop asking for trials; the ones under way are finished.

    Attributes:
        trials: So many in all, of all workers and attempts, complete or pruned; None for no limit.
        seconds: Since this worker began; None for no limit.
        max_errors: Trials that may fail by an error in a row before the worker gives up.
    """

    trials: int | None = None
    seconds: float | None = None
    max_errors: int = 3


@dataclass
class WorkerEnd:
    """How a worker ended, and after how many trials: told in time, pruned among them, failed by an error."""

    reason: Literal["enough", "time", "stopped"] = "enough"
    num_told: int = 0
    num_pruned: int = 0
    num_failed: int = 0


def run_worker(
    shared: SharedStudy,
    evaluate: Evaluate,
    rule: StopRule,
    file: WorkerFile,
    stop: StopRequest | None = None,
    *,
    halving: Halving | None = None,
    catch: tuple[type[Exception], ...] = EXPECTED_ERRORS,
    poll_seconds: float = 1.0,
) -> WorkerEnd:
    """Work on a study until the rule says that it is enough.

    A first stop request lets `evaluate` finish its trial, or give it back if it looks at
    ``trial.stop_requested``. What ends the process at once, such as a second one, leaves the lease to
    expire, and the trial to whoever asks next.

    Args:
        shared: The study.
        evaluate: Returns the metrics of a trial, given its parameters and the trial itself.
        rule: When to stop.
        file: Where the worker says what it does; its number names it in leases.
        stop: Set by a signal.
        halving: Ends trials early by the values that they report.
        catch: Errors that fail a trial; any other also ends the worker.
        poll_seconds: How often to look whether others, with the last trials under way, leave some to do.

    Raises:
        RunError: If trials fail in a row, or the storage does not answer.
    """
    worker = _Worker(shared, evaluate, rule, file, stop or StopRequest(), halving, catch)
    try:
        return worker.run(poll_seconds)
    except (OSError, StorageInternalError, SQLAlchemyError) as error:
        file.say("failed", "the storage does not answer")
        reason = str(error).splitlines()[0]
        raise RunError(f"worker {file.number}: the storage does not answer: {reason}") from error


@dataclass
class _Worker:
    shared: SharedStudy
    evaluate: Evaluate
    rule: StopRule
    file: WorkerFile
    stop: StopRequest
    halving: Halving | None
    catch: tuple[type[Exception], ...]
    end: WorkerEnd = field(default_factory=WorkerEnd)
    errors_in_a_row: list[str] = field(default_factory=list)

    def run(self, poll_seconds: float) -> WorkerEnd:
        begin = time.monotonic()
        while not self._is_over(time.monotonic() - begin):
            asked = self.shared.ask(self.rule.trials, self.file.number)
            if asked is None:
                self.file.say("waiting")
                time.sleep(poll_seconds)
                continue
            self._carry_out(*asked)
            if len(self.errors_in_a_row) >= self.rule.max_errors:
                count, last = len(self.errors_in_a_row), self.errors_in_a_row[-1]
                self.file.say("failed", last)
                raise RunError(f"worker {self.file.number}: {count} trials failed in a row: {last}")
        self.file.say("done", self.end.reason)
        return self.end

    def _is_over(self, seconds: float) -> bool:
        if self.stop.signal_name is not None:
            self.end.reason = "stopped"
        elif self.rule.seconds is not None and seconds >= self.rule.seconds:
            self.end.reason = "time"
        else:
            most = self.rule.trials
            return most is not None and self.shared.num_finished() >= most
        return True

    def _carry_out(self, trial: Trial, lease: Lease) -> None:
        self.file.say("running", trial=trial.number)
        with self.shared.keeper(trial, lease, self.file.beat) as keeper, _Settling(self, trial):
            opened = OpenTrial(
                trial,
                self.halving,
                wants_to_stop=lambda: self.stop.signal_name is not None,
                is_lost=lambda: keeper.is_lost,
            )
            values = self.evaluate(opened.params, opened)
            told = list(values) if isinstance(values, Sequence) else [values]
            if any(math.isnan(value) for value in told):
                raise ArithmeticError(f"a metric is not a number: {told}")
            self.end.num_told += self.shared.tell(trial, told)
            self.errors_in_a_row.clear()


class _Settling:
    """Tells what became of a trial that has no values, however its evaluation ended."""

    def __init__(self, worker: _Worker, trial: Trial) -> None:
        self._worker, self._trial = worker, trial

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> bool:
        worker, end = self._worker, self._worker.end
        if isinstance(error, PrunedTrial):
            pruned = worker.shared.prune(self._trial)
            end.num_told, end.num_pruned = end.num_told + pruned, end.num_pruned + pruned
            worker.errors_in_a_row.clear()
            return True
        if isinstance(error, ReleasedTrial):
            worker.shared.release(self._trial)
            return True
        if not isinstance(error, Exception):
            return False  # a second signal: the lease will run out
        message = f"{type(error).__name__}: {error}"
        worker.shared.fail(self._trial, message)
        worker.errors_in_a_row.append(message)
        end.num_failed += 1
        return isinstance(error, worker.catch)
