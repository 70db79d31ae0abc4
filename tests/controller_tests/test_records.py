from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage

from autoprog.decisions import Candidate, Decision
from autoprog.search.controller import (
    Halving,
    OpenTrial,
    Plan,
    SharedStudy,
    TrialRecord,
    TrialState,
    create_sampler,
    open_journal,
    open_storage,
    rebuild_study,
    records_of,
    search_in_memory,
    studies_of_decisions,
    write_study,
)
from autoprog.search.estimate import WORST_LOSS
from supernet.config import SubnetConfig, TokenRule


def eventful(bench: Any) -> SharedStudy:
    """Return a study with a trial of every state."""
    on = bench.open("nsga2", 2)

    def evaluate(params: Mapping[str, Any], trial: OpenTrial) -> tuple[float, float]:
        trial.note("seen", trial.number)
        trial.constrain("wall", trial.number - 5.0)
        if trial.number == 3:
            raise RuntimeError("no memory")
        trial.report(1, params["x"])
        return bench.two_metrics(params, trial)

    bench.work(on, 8, evaluate, halving=Halving(1, 2))
    assert on.ask(None, 0) is not None
    on.study.enqueue_trial({"n": 5}, user_attrs={"why": "because"})
    states = {trial.state for trial in bench.trials(on)}
    assert states == set(TrialState)
    return on


@pytest.mark.parametrize("where", ["journal", "sqlite", "memory"])
def test_a_study_is_made_anew_from_records(bench: Any, tmp_path: Path, where: str) -> None:
    on = eventful(bench)
    storage = {
        "journal": lambda: open_journal(tmp_path / "new.journal"),
        "sqlite": lambda: open_storage(f"sqlite:///{tmp_path}/new.db"),
        "memory": InMemoryStorage,
    }[where]()
    records = [TrialRecord(**json.loads(json.dumps(asdict(r)))) for r in records_of(on.study)]
    for _ in range(2):  # a study of that name is replaced
        study = rebuild_study(records, storage, "new", on.plan.metrics, on.plan.space)
    assert study.metric_names == ["loss", "seconds"]
    assert len(study.trials) == len(bench.trials(on))
    for new, old in zip(study.trials, bench.trials(on), strict=True):
        assert (new.number, new.params, new.values) == (old.number, old.params, old.values)
        assert new.constraints == old.constraints
        assert new.intermediate_values == old.intermediate_values
        if old.state is TrialState.RUNNING:
            assert new.state is TrialState.FAIL
            assert new.user_attrs == {"lost": "given back"}
        else:
            assert (new.state, new.user_attrs) == (old.state, old.user_attrs)
    assert study.trials[-1].system_attrs["fixed_params"] == {"n": 5}


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_a_search_goes_on_in_a_study_made_anew(bench: Any, new_bench: Any, sampler: str) -> None:
    bench.work(bench.open(sampler, 2), 20)
    half = new_bench()
    bench_half = half.open(sampler, 2)
    half.work(bench_half, 11)
    records = records_of(bench_half.study)
    moved = new_bench()
    storage = open_journal(moved.folder / "search.journal")
    rebuild_study(records, storage, "study", ("loss", "seconds"), bench.SPACE)
    on = moved.open(sampler, 2)
    moved.work(on, 20)
    assert moved.told(on) == bench.told(bench.open(sampler, 2))


def test_records_by_hand_will_do() -> None:
    records = [
        TrialRecord({"n": 3}, (1.0,)),
        TrialRecord({"n": 4}, state="waiting"),
        TrialRecord({"n": 5}, state="pruned", user_attrs={"why": "poor"}),
        TrialRecord(state="fail"),
    ]
    space = {"n": create_space()["n"]}
    study = rebuild_study(records, InMemoryStorage(), "s", ("loss",), space)
    assert study.best_params == {"n": 3}
    assert study.ask(space).params == {"n": 4}


def create_space() -> dict[str, Any]:
    return {"n": optuna.distributions.IntDistribution(0, 9)}


def test_a_search_in_memory_is_written_in_one_go(bench: Any) -> None:
    plan = bench.plan(2)
    sampler = create_sampler("nsga2", 0, bench.SPACE, population=4)
    study = search_in_memory(plan, bench.two_metrics, 30, sampler)
    study.set_user_attr("found", "much")
    storage = open_journal(bench.folder / "search.journal")
    written = write_study(study, plan, storage)
    assert written.user_attrs == {"found": "much"}
    assert [t.values for t in written.trials] == [t.values for t in study.trials]
    assert [t.params for t in written.best_trials] == [t.params for t in study.best_trials]
    on = bench.open("nsga2", 2)
    bench.work(on, 40)
    longer = search_in_memory(plan, bench.two_metrics, 40, sampler)
    assert [values for _, values in bench.told(on)] == [t.values for t in longer.trials]


def test_a_search_in_memory_draws_what_workers_would_draw(bench: Any) -> None:
    for name in ("tpe", "nsga2", "random"):
        plan = Plan(name, ("loss",), bench.SPACE, bench.FIRST)
        sampler = create_sampler(name, 0, bench.SPACE, startup_trials=4, population=4)
        study = search_in_memory(plan, bench.one_metric, 12, sampler)
        on = SharedStudy.open(bench.folder, plan, sampler)
        bench.work(on, 12)
        assert [(t.params, t.values) for t in study.trials] == bench.told(on)


def candidate(subnet: SubnetConfig, score: float) -> Candidate:
    return Candidate(
        subnet=subnet,
        label="grow",
        loss=2.0,
        difference=-0.1,
        difference_se=0.02,
        step_seconds=0.5,
        predicted_loss=1.5,
        remaining_seconds=60.0,
        score=score,
    )


def decisions() -> list[Decision]:
    common: dict[str, Any] = {"epoch": 1.0, "rule": "rollout", "reason": "lowest"}
    subnets = [
        SubnetConfig(6, 160),
        SubnetConfig(9, 160),
        SubnetConfig(9, 224, TokenRule(0.5)),
    ]
    scores = [3.0, 1.0, WORST_LOSS]  # a subnet that has diverged
    candidates = tuple(candidate(s, v) for s, v in zip(subnets, scores, strict=True))
    two_stages = tuple(candidate(SubnetConfig((4, d), 224), float(d)) for d in (10, 14))
    return [
        Decision(
            index=0,
            step=8,
            current=subnets[0],
            candidates=candidates,
            winner=1,
            alpha=0.1,
            **common,
        ),
        Decision(
            index=1, step=16, current=SubnetConfig((4, 10), 224), candidates=two_stages, **common
        ),
        Decision(index=2, step=24, current=subnets[1], forced=SubnetConfig(12, 224), **common),
    ]


def test_the_studies_of_decisions_are_made_anew(tmp_path: Path) -> None:
    storage = open_journal(tmp_path / "search.journal")
    lines = [json.dumps(decision.model_dump(mode="json")) for decision in decisions()]
    read = [Decision.model_validate(json.loads(line)) for line in lines]
    for _ in range(2):
        studies = studies_of_decisions(read, storage, "run")
    names = optuna.get_all_study_names(storage)
    assert sorted(names) == ["run/decision-0", "run/decision-1", "run/decision-2"]
    first, second, forced = studies
    assert first.best_params == {"depth": 9, "img_size": 160, "keep_rate": 1.0}
    assert first.best_trial.number == first.user_attrs["winner"] == 1
    assert first.best_trial.user_attrs["step_seconds"] == 0.5
    assert [trial.state.name for trial in first.trials] == ["COMPLETE"] * 3
    assert first.user_attrs["reason"] == "lowest"
    assert first.user_attrs["subnet"] == "d9 r160"
    assert second.best_params["depth_2"] == 10
    assert forced.trials == []
    assert forced.user_attrs["forced"] is True
    assert forced.user_attrs["subnet"] == "d12 r224"
