"""The studies of a run's decisions, made anew from ``decisions.jsonl``, which is the truth about them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage
from optuna.study import Study

from autoprog.decisions import Candidate, Decision
from autoprog.search.controller.records import TrialRecord, rebuild_study
from supernet.config import SubnetConfig

__all__ = ["decision_study_name", "studies_of_decisions"]

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
    records = [_record(candidate) for candidate in decision.candidates]
    study = rebuild_study(records, storage, name, ["score"], _space_of(subnets))
    facts = decision.model_dump(
        mode="json", include={"step", "epoch", "rule", "alpha", "winner", "reason"}
    )
    chosen = {"current": str(decision.current), "subnet": str(decision.subnet)}
    for key, value in {**facts, **chosen, "forced": decision.forced is not None}.items():
        study.set_user_attr(key, value)
    return study


def _record(candidate: Candidate) -> TrialRecord:
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
