"""Proposals for a decision: Optuna names candidates and keeps the record; the caller keeps the loop."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from autoprog.decisions import Candidate, Decision
from autoprog.search.controller.samplers import LEASE, LOST, RELEASED
from autoprog.search.controller.storage import open_journal, sync
from autoprog.search.controller.trials import OpenTrial, PrunedTrial
from autoprog.search.controller.workers import Evaluate, Plan, create_study
from autoprog.train.phase import step_seed
from supernet.config import SubnetConfig

__all__ = [
    "Controller",
    "Proposals",
    "TrialRecord",
    "decision_study_name",
    "rebuild_study",
    "records_of",
    "search_in_memory",
    "studies_of_decisions",
    "write_study",
]


# --------------------------------------------------------------------------------------------------
# Studies as plain records, from which they can be made anew in any storage.


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


# --------------------------------------------------------------------------------------------------
# Searches in memory, for evaluations of a millisecond; what came out goes to a storage in one go.


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


# --------------------------------------------------------------------------------------------------
# The studies of a run's decisions, made anew from ``decisions.jsonl``, which is the truth about
# them.


_FACTS = (
    "label",
    "loss",
    "difference",
    "difference_se",
    "step_seconds",
    "predicted_loss",
    "remaining_seconds",
)


def decision_study_name(run_id: str, index: int) -> str:
    """Return the name of the study of a decision."""
    return f"{run_id}/decision-{index}"


def studies_of_decisions(
    decisions: Sequence[Decision], storage: BaseStorage, run_id: str
) -> list[Study]:
    """Make one study a decision: each candidate a trial, its axes the parameters, its score the value.

    Studies of those names are replaced. A forced decision has a study without trials.
    """
    return [_study_of(decision, storage, run_id) for decision in decisions]


def _study_of(decision: Decision, storage: BaseStorage, run_id: str) -> Study:
    subnets = [candidate.subnet for candidate in decision.candidates] or [decision.subnet]
    name = decision_study_name(run_id, decision.index)
    records = [_decision_record(candidate) for candidate in decision.candidates]
    study = rebuild_study(records, storage, name, ["score"], _space_of(subnets))
    facts = decision.model_dump(
        mode="json", include={"step", "epoch", "rule", "alpha", "winner", "reason"}
    )
    chosen = {"current": str(decision.current), "subnet": str(decision.subnet)}
    for key, value in {**facts, **chosen, "forced": decision.forced is not None}.items():
        study.set_user_attr(key, value)
    return study


def _decision_record(candidate: Candidate) -> TrialRecord:
    is_finite = not math.isnan(candidate.score)
    return TrialRecord(
        params=_axes(candidate.subnet),
        values=(candidate.score,) if is_finite else None,
        state="complete" if is_finite else "fail",
        user_attrs={fact: getattr(candidate, fact) for fact in _FACTS},
    )


def _axes(subnet: SubnetConfig) -> dict[str, int | float]:
    """Return the numbers that a subnet is made of, by axis."""
    stages = len(subnet.depth)
    names = ["depth"] if stages == 1 else [f"depth_{stage + 1}" for stage in range(stages)]
    depth: Mapping[str, int] = dict(zip(names, subnet.depth, strict=True))
    return {**depth, "img_size": subnet.img_size, "keep_rate": subnet.tokens.keep_rate}


def _space_of(subnets: Sequence[SubnetConfig]) -> dict[str, BaseDistribution]:
    points = [_axes(subnet) for subnet in subnets]
    return {axis: _span([point[axis] for point in points]) for axis in points[0]}


def _span(values: Sequence[int | float]) -> BaseDistribution:
    if all(isinstance(value, int) for value in values):
        return IntDistribution(int(min(values)), int(max(values)))
    return FloatDistribution(min(values), max(values))


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
