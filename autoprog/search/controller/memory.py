"""Searches in memory, for evaluations of a millisecond; what came out goes to a storage in one go."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.study import Study
from optuna.trial import TrialState

from autoprog.search.controller.records import rebuild_study, records_of
from autoprog.search.controller.shared import Plan, create_study
from autoprog.search.controller.trials import OpenTrial, PrunedTrial
from autoprog.search.controller.worker import Evaluate

__all__ = ["search_in_memory", "write_study"]


def search_in_memory(
    plan: Plan, evaluate: Evaluate, num_trials: int, sampler: BaseSampler
) -> Study:
    """Evaluate so many trials in this process; nothing is written and no error is caught.

    Args:
        plan: What the study is about.
        evaluate: As for a worker.
        num_trials: Complete or pruned.
        sampler: How to choose parameters.
    """
    study = create_study(InMemoryStorage(), plan.name, plan.metrics, sampler)
    for params in plan.first[:num_trials]:
        study.enqueue_trial(dict(params), skip_if_exists=True)
    space = dict(plan.space)
    for _ in range(num_trials):
        trial = study.ask(space)
        opened = OpenTrial(trial)
        try:
            values = evaluate(opened.params, opened)
        except PrunedTrial:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, list(values) if isinstance(values, Sequence) else values)
    return study


def write_study(study: Study, plan: Plan, storage: BaseStorage) -> Study:
    """Write a study into a storage, where a dashboard shows it and workers may go on with it.

    A study of that name there is replaced.
    """
    written = rebuild_study(
        records_of(study), storage, plan.name, plan.metrics, plan.space, study.sampler
    )
    for key, value in study.user_attrs.items():
        written.set_user_attr(key, value)
    return written
