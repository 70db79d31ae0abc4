"""The controller: Optuna proposes and keeps the record, the caller keeps the loop; nothing else imports it.

A decision of a search takes :class:`Controller`. A study of its own, such as one over whole schedules, has a
:class:`Plan` and a sampler (:func:`create_sampler`), and is carried out in memory
(:func:`search_in_memory`), or by any number of processes that are started and killed at will: each
opens it (:meth:`SharedStudy.open`) and works on it (:func:`run_worker`).
"""

from __future__ import annotations

import logging

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from autoprog.search.controller.importances import importances
from autoprog.search.controller.samplers import (
    LOST,
    RELEASED,
    SAMPLERS,
    Halving,
    create_sampler,
    num_points,
    points_of,
    should_stop,
)
from autoprog.search.controller.storage import close_storage, open_journal, open_storage
from autoprog.search.controller.studies import (
    Controller,
    Proposals,
    TrialRecord,
    rebuild_study,
    records_of,
    search_in_memory,
    studies_of_decisions,
    write_study,
)
from autoprog.search.controller.trials import OpenTrial, PrunedTrial, ReleasedTrial
from autoprog.search.controller.workers import (
    EXPECTED_ERRORS,
    Evaluate,
    LeaseTerms,
    Plan,
    SharedStudy,
    StopRule,
    WorkerEnd,
    run_worker,
)

__all__ = [
    "EXPECTED_ERRORS",
    "LOST",
    "RELEASED",
    "SAMPLERS",
    "BaseDistribution",
    "CategoricalDistribution",
    "Controller",
    "Evaluate",
    "FloatDistribution",
    "FrozenTrial",
    "Halving",
    "IntDistribution",
    "LeaseTerms",
    "OpenTrial",
    "Plan",
    "Proposals",
    "PrunedTrial",
    "ReleasedTrial",
    "SharedStudy",
    "StopRule",
    "Study",
    "TrialRecord",
    "TrialState",
    "WorkerEnd",
    "close_storage",
    "create_sampler",
    "importances",
    "num_points",
    "open_journal",
    "open_storage",
    "points_of",
    "rebuild_study",
    "records_of",
    "run_worker",
    "search_in_memory",
    "should_stop",
    "studies_of_decisions",
    "write_study",
]

optuna.logging.set_verbosity(optuna.logging.WARNING)
# Says once in every process that the fit of gp would be faster with greenlet.
logging.getLogger("optuna._gp.batched_lbfgsb").setLevel(logging.ERROR)
