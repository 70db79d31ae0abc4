"""Parameter importances of the studies of a run, read from a copy of its journal in memory."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.study import Study, load_study
from optuna.trial import FrozenTrial, TrialState

from autoprog.decisions import Importance
from autoprog.errors import RunError
from autoprog.files import read_lines
from autoprog.printable import brief
from autoprog.search.controller.storage import STORAGE_ERRORS

__all__ = ["MIN_TRIALS", "importances"]

MIN_TRIALS = 10
"""Below so many complete trials, importances are noise."""
_MAX_OPERATIONS = 300_000  # a trial has some thirty; what is beyond these is left out


def importances(journal: Path) -> list[Importance]:
    """Return the importances of every metric of every study in a journal, by PED-ANOVA.

    The journal is read and never locked or repaired: others may be writing it.

    Raises:
        RunError: If it is damaged in another place than its end.
    """
    found = []
    try:
        storage = JournalStorage(_JournalCopy(journal))
        for frozen in storage.get_all_studies():
            study = load_study(study_name=frozen.study_name, storage=storage)
            count = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
            numbered = [f"value {index}" for index in range(len(study.directions))]
            for index, metric in enumerate(study.metric_names or numbered):
                fractions, problem = _fractions(study, index, count)
                found.append(Importance(study.study_name, metric, count, fractions, problem))
    except STORAGE_ERRORS as error:  # Optuna checks none of the operations that it reads
        raise RunError(f"{journal}: the journal is damaged ({brief(error)})") from None
    return found


def _fractions(study: Study, index: int, num_trials: int) -> tuple[dict[str, float], str]:
    """Return the importances of the parameters for a metric, largest first, or why there are none."""
    if num_trials < MIN_TRIALS:
        return {}, f"{num_trials} complete trials; importances need {MIN_TRIALS}"

    def value(trial: FrozenTrial) -> float:
        return trial.values[index]

    with warnings.catch_warnings():
        # The evaluator is experimental, and warns that it takes low values as the better ones: so they are.
        warnings.simplefilter("ignore")
        try:
            found = get_param_importances(
                study, evaluator=PedAnovaImportanceEvaluator(), target=value
            )
        except (ValueError, RuntimeError) as error:
            return {}, str(error)
    fractions = dict(sorted(found.items(), key=lambda item: -item[1]))
    return (fractions, "") if fractions else ({}, "no parameter is in all trials")


class _JournalCopy(BaseJournalBackend):
    """The whole lines of a journal as they were when it was opened."""

    def __init__(self, path: Path) -> None:
        lines = islice(read_lines(path), _MAX_OPERATIONS)
        self._logs: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the operations from one on."""
        yield from self._logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Refuse: a copy is only read."""
        raise io.UnsupportedOperation("a copy of a journal is only read")
