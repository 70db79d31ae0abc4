"""A study that many processes work on, without a server and without losing or doubling a trial."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from autoprog.errors import ConfigError, RunError
from autoprog.locks import FileLock
from autoprog.processes import this_process
from autoprog.search.controller.attributes import ERROR, FINISHED, LEASE, RELEASED
from autoprog.search.controller.leases import Lease, LeaseKeeper, folder_clock
from autoprog.search.controller.reaper import LeaseTerms, Reaper, is_doubled
from autoprog.search.controller.storage import STORAGE_ERRORS, open_storage, sync

__all__ = ["JOURNAL", "Plan", "SharedStudy", "create_study"]

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
        law = f"must be a study of {len(metrics)} metrics"
        raise ConfigError(
            "--storage", name, law, len(study.directions), "give the study another name"
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
                law = f"must be readable as Optuna has written it ({reason})"
                raise ConfigError(_shown(where), plan.name, law, cure="take another one") from None
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
