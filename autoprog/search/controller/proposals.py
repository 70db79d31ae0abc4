"""Proposals for a decision: Optuna names candidates and keeps the record; the caller keeps the loop."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.trial import Trial, TrialState

from autoprog.search.controller.history import decision_study_name
from autoprog.search.controller.storage import open_journal
from autoprog.train.phase import step_seed
from supernet.config import SubnetConfig

__all__ = ["Controller", "Proposals"]

_TRIES_PER_CANDIDATE = 20


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
        most: int,
    ) -> Proposals:
        """Open the study of a decision; a half-done one, left by a crash, starts over.

        Args:
            decision: Index of the decision.
            grid: All subnets to choose from.
            anchors: Those that must be looked at, such as staying and the full model.
            most: The most candidates; a grid that is no larger is looked at as a whole.
        """
        name = decision_study_name(self._run_id, decision)
        if name in optuna.get_all_study_names(self._storage):
            optuna.delete_study(study_name=name, storage=self._storage)
        study = optuna.create_study(
            study_name=name,
            storage=self._storage,
            sampler=self._create_sampler(decision),
            direction="minimize",
        )
        return Proposals(study, grid, anchors if len(grid) > most else grid, most)

    def _create_sampler(self, decision: int) -> optuna.samplers.BaseSampler:
        seed = step_seed(self._seed, "study", decision) & 0xFFFFFFFF  # numpy takes no more
        if self._sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=4)


class Proposals:
    """The candidates of one decision, as steps up from the smallest value on each axis."""

    def __init__(
        self,
        study: optuna.Study,
        grid: Sequence[SubnetConfig],
        anchors: Sequence[SubnetConfig],
        most: int,
    ) -> None:
        self._study, self._most = study, min(most, len(grid))
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
        self._told: dict[SubnetConfig, float] = {}
        for subnet in anchors:
            study.enqueue_trial(self._increments(subnet))

    def __iter__(self) -> Iterator[SubnetConfig]:
        """Yield new candidates until there are enough; tell each one's score before the next, if adaptive."""
        for _ in range(_TRIES_PER_CANDIDATE * self._most):
            if len(self._told) + len(self._open) >= self._most:
                return
            trial = self._study.ask(self._distributions)
            subnet = self._subnet(trial)
            if subnet in self._told:
                self._study.tell(trial, self._told[subnet])
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
        self._told[subnet] = score

    def _increments(self, subnet: SubnetConfig) -> dict[str, int]:
        steps = {
            "depth_up": self._depths.index(subnet.depth),
            "img_size_up": self._sizes.index(subnet.img_size),
            "keep_rate_up": self._rates.index(subnet.tokens),
        }
        return {axis: steps[axis] for axis in self._distributions}

    def _subnet(self, trial: Trial) -> SubnetConfig:
        steps = trial.params
        return SubnetConfig(
            self._depths[steps["depth_up"]],
            self._sizes[steps["img_size_up"]],
            self._rates[steps.get("keep_rate_up", 0)],
        )
