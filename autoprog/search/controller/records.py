"""Studies as plain records, from which they can be made anew in any storage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from autoprog.search.controller.attributes import LEASE, LOST, RELEASED
from autoprog.search.controller.shared import create_study
from autoprog.search.controller.storage import sync

__all__ = ["TrialRecord", "rebuild_study", "records_of"]

_CONSTRAINT = "constraints:"


@dataclass(frozen=True)
class TrialRecord:
    """A trial as plain data.

    ``state`` is complete, pruned, fail, running or waiting. ``internal`` is what samplers keep with
    it, such as the generation of a genetic search, and what an enqueued trial is to be asked with.
    """

    params: Mapping[str, Any] = field(default_factory=dict)
    values: tuple[float, ...] | None = None
    state: str = "complete"
    user_attrs: Mapping[str, Any] = field(default_factory=dict)
    constraints: Mapping[str, float] = field(default_factory=dict)
    intermediate: Mapping[int, float] = field(default_factory=dict)
    internal: Mapping[str, Any] = field(default_factory=dict)


def records_of(study: Study) -> list[TrialRecord]:
    """Return the trials of a study in their order."""
    return [_record(trial) for trial in study.get_trials(deepcopy=False)]


def rebuild_study(
    records: Sequence[TrialRecord],
    storage: BaseStorage,
    name: str,
    metrics: Sequence[str],
    space: Mapping[str, BaseDistribution],
    sampler: BaseSampler | None = None,
) -> Study:
    """Make a study anew from the records of its trials, under the same numbers.

    A trial that ran is lost with the storage that its worker knew; whoever asks next repeats it.
    A study of that name is replaced.

    Args:
        records: In the order of their numbers.
        storage: Where to.
        name: Of the study.
        metrics: The names of the values.
        space: The distributions of all parameters that occur.
        sampler: Of the study; any if it is only looked at.
    """
    if name in optuna.get_all_study_names(storage):
        optuna.delete_study(study_name=name, storage=storage)
    study = create_study(storage, name, metrics, sampler or RandomSampler(seed=0))
    study.add_trials([_trial(record, space) for record in records])
    sync(storage)
    return study


def _record(trial: FrozenTrial) -> TrialRecord:
    internal = {
        key: value for key, value in trial.system_attrs.items() if not key.startswith(_CONSTRAINT)
    }
    return TrialRecord(
        params=dict(trial.params),
        values=None if trial.values is None else tuple(trial.values),
        state=trial.state.name.lower(),
        user_attrs=dict(trial.user_attrs),
        constraints=dict(trial.constraints),
        intermediate=dict(trial.intermediate_values),
        internal=internal,
    )


def _trial(record: TrialRecord, space: Mapping[str, BaseDistribution]) -> FrozenTrial:
    state, params = TrialState[record.state.upper()], dict(record.params)
    notes, internal = dict(record.user_attrs), dict(record.internal)
    if state is TrialState.RUNNING:
        state = TrialState.FAIL
        notes = {key: value for key, value in notes.items() if key != LEASE}
        notes[LOST] = RELEASED
    if state is TrialState.WAITING:
        internal.setdefault("fixed_params", params)  # as enqueue_trial does
        params = {}
    return create_trial(
        state=state,
        values=record.values,
        params=params,
        distributions={name: space[name] for name in params},
        user_attrs=notes,
        system_attrs=internal,
        constraints=dict(record.constraints),
        intermediate_values={int(step): value for step, value in record.intermediate.items()},
    )
