"""Proposals for a decision: Optuna names candidates and keeps the record; the caller keeps the loop."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.study import Study
from optuna.trial import Trial, TrialState

from autoprog.search.controller.storage import open_journal
from autoprog.search.controller.study import Plan, create_study
from autoprog.search.controller.worker import Evaluate, OpenTrial
from autoprog.train.phase import step_seed
from supernet.config import SubnetConfig

__all__ = ["Controller", "Proposals", "search_in_memory"]

_TRIES_PER_CANDIDATE = 20
_TPE_STARTUP_TRIALS = 4  # of the 9 candidates that a decision has by default


class Controller:
    """One study a decision, in the run folder's journal."""

    def __init__(self, journal: Path, run_id: str, seed: int, sampler: str) -> None:
        self._storage = open_journal(journal)
        self._run_id, self._seed, self._sampler = run_id, seed, sampler

    def propose(
        self,
        decision: int,
        grid: Sequence[SubnetConfig],
        anchors: Sequence[SubnetConfig],
        max_candidates: int,
    ) -> Proposals:
        """Open the study of a decision; a half-done one, left by a crash, starts over.

        Args:
            decision: Index of the decision.
            grid: All subnets to choose from.
            anchors: Those that are candidates in any case, such as staying and the full model.
            max_candidates: The most candidates; a grid that is no larger is taken as a whole.
        """
        name = f"{self._run_id}/decision-{decision}"
        if name in optuna.get_all_study_names(self._storage):
            optuna.delete_study(study_name=name, storage=self._storage)
        seed = step_seed(self._seed, "study", decision) & 0xFFFFFFFF  # numpy takes no more
        study = optuna.create_study(
            study_name=name,
            storage=self._storage,
            sampler=RandomSampler(seed=seed)
            if self._sampler == "random"
            else TPESampler(seed=seed, n_startup_trials=_TPE_STARTUP_TRIALS),
            direction="minimize",
        )
        first = anchors if len(grid) > max_candidates else grid
        return Proposals(study, grid, first, max_candidates)


class Proposals:
    """The candidates of one decision, as steps up from the smallest value on each axis."""

    def __init__(
        self,
        study: Study,
        grid: Sequence[SubnetConfig],
        anchors: Sequence[SubnetConfig],
        max_candidates: int,
    ) -> None:
        self._study, self._max_candidates = study, min(max_candidates, len(grid))
        self._depths = sorted({subnet.depth for subnet in grid})
        self._sizes = sorted({subnet.img_size for subnet in grid})
        self._rates = sorted({subnet.tokens for subnet in grid}, key=lambda rule: rule.keep_rate)
        self._grid = set(grid)
        self._distributions: dict[str, BaseDistribution] = {
            "depth_up": IntDistribution(0, len(self._depths) - 1),
            "img_size_up": IntDistribution(0, len(self._sizes) - 1),
        }
        if len(self._rates) > 1:
            self._distributions["keep_rate_up"] = IntDistribution(0, len(self._rates) - 1)
        self._open: dict[SubnetConfig, Trial] = {}
        self._scores: dict[SubnetConfig, float] = {}
        for subnet in anchors:
            steps = {
                "depth_up": self._depths.index(subnet.depth),
                "img_size_up": self._sizes.index(subnet.img_size),
                "keep_rate_up": self._rates.index(subnet.tokens),
            }
            study.enqueue_trial({axis: steps[axis] for axis in self._distributions})

    def __iter__(self) -> Iterator[SubnetConfig]:
        """Yield new candidates until there are enough; if adaptive, each is scored before the next."""
        # Without an end to the tries, a sampler that is sure of itself would propose one subnet for ever.
        for _ in range(_TRIES_PER_CANDIDATE * self._max_candidates):
            if len(self._scores) + len(self._open) >= self._max_candidates:
                return
            trial = self._study.ask(self._distributions)
            subnet = SubnetConfig(
                self._depths[trial.params["depth_up"]],
                self._sizes[trial.params["img_size_up"]],
                self._rates[trial.params.get("keep_rate_up", 0)],
            )
            # Nothing new for the caller, but the sampler is to know it again.
            if subnet in self._scores:
                self._study.tell(trial, self._scores[subnet])
            elif subnet in self._open or subnet not in self._grid:
                self._study.tell(trial, state=TrialState.FAIL)
            else:
                self._open[subnet] = trial
                yield subnet

    def tell(self, subnet: SubnetConfig, score: float, **facts: float) -> None:
        """Record the score of a candidate and the facts it was made of."""
        trial = self._open.pop(subnet)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            for name, value in facts.items():
                trial.set_user_attr(name, value)
            self._study.tell(trial, score)
        self._scores[subnet] = score


def search_in_memory(
    plan: Plan, evaluate: Evaluate, num_trials: int, sampler: BaseSampler
) -> Study:
    """Evaluate so many trials in this process; nothing is written and no error is caught.

    For evaluations of a millisecond: a trial is some 14 lines of a journal, which would take longer.

    Args:
        plan: What the study is about.
        evaluate: As for a worker.
        num_trials: How many are completed.
        sampler: How to choose parameters.
    """
    study = create_study(InMemoryStorage(), plan.name, plan.metrics, sampler)
    for params in plan.first[:num_trials]:
        study.enqueue_trial(dict(params), skip_if_exists=True)
    space = dict(plan.space)
    for _ in range(num_trials):
        trial = study.ask(space)
        opened = OpenTrial(trial)
        study.tell(trial, evaluate(opened.params, opened))
    return study
