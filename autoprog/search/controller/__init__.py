"""The controller: Optuna proposes and keeps the record, the caller keeps the loop; nothing else imports it.

A decision of a search takes :class:`Controller`. A study of its own, such as one over whole schedules, has a
:class:`Plan` and a sampler (:func:`create_sampler`), and is carried out in memory
(:func:`search_in_memory`), or by any number of processes that are started and killed at will: each
opens it (:meth:`SharedStudy.open`) and works on it (:func:`run_worker`). The module ``importances`` is not
imported here: Optuna's loads scikit-learn, 0.8 of 1.3 s of the start of a worker.
"""

from __future__ import annotations

import logging

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from autoprog.search.controller.proposals import Controller, search_in_memory
from autoprog.search.controller.samplers import create_sampler
from autoprog.search.controller.storage import close_storage, open_storage
from autoprog.search.controller.study import LOST, RELEASED, Plan, SharedStudy
from autoprog.search.controller.worker import (
    Halving,
    OpenTrial,
    PrunedTrial,
    ReleasedTrial,
    StopRule,
    run_worker,
)

__all__ = [
    "LOST",
    "RELEASED",
    "BaseDistribution",
    "CategoricalDistribution",
    "Controller",
    "FrozenTrial",
    "Halving",
    "IntDistribution",
    "OpenTrial",
    "Plan",
    "PrunedTrial",
    "ReleasedTrial",
    "SharedStudy",
    "StopRule",
    "TrialState",
    "close_storage",
    "create_sampler",
    "open_storage",
    "run_worker",
    "search_in_memory",
]

optuna.logging.set_verbosity(optuna.logging.WARNING)
# Says once in every process that the fit of gp would be faster with greenlet.
logging.getLogger("optuna._gp.batched_lbfgsb").setLevel(logging.ERROR)
