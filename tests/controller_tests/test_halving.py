from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from autoprog.search.controller import Halving, OpenTrial, TrialState, should_stop

RUNGS = Halving(first_step=2, reduction=3)


@pytest.mark.parametrize(
    ("step", "rung"), [(0, None), (1, None), (2, 0), (5, 0), (6, 1), (17, 1), (18, 2), (54, 3)]
)
def test_rungs_are_geometric(step: int, rung: int | None) -> None:
    assert RUNGS.rung_of(step) == rung


@pytest.mark.parametrize(
    ("value", "others", "stops"),
    [
        (9.0, [], False),
        (9.0, [1.0], False),  # fewer than three: nobody is judged
        (9.0, [1.0, 2.0], True),
        (1.0, [2.0, 3.0], False),
        (2.0, [2.0, 2.0], False),  # ties go on
        (2.0, [1.0, 3.0, 4.0, 5.0], True),  # one of five
        (2.0, [1.0, 3.0, 4.0, 5.0, 6.0], False),  # two of six
        (3.0, [1.0, 2.0, 4.0, 5.0, 6.0], True),
        (math.inf, [1.0, 2.0], True),
        (math.nan, [], True),
        (5.0, [math.nan, math.nan], False),
    ],
)
def test_one_in_three_goes_on(value: float, others: list[float], stops: bool) -> None:
    assert should_stop(value, others, 3) is stops


@pytest.mark.parametrize("fields", [{"first_step": 0}, {"first_step": 1, "reduction": 1}])
def test_a_halving_that_halves_nothing_is_refused(fields: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be >="):
        Halving(**fields)


@pytest.mark.parametrize("num_metrics", [1, 2])
@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_poor_trials_end_early(bench: Any, sampler: str, num_metrics: int) -> None:
    steps: dict[int, int] = {}

    def evaluate(params: Mapping[str, Any], trial: OpenTrial) -> Any:
        for step in range(1, 19):
            steps[trial.number] = step
            trial.report(step, params["x"] + 1 / step)
        return params["x"] if num_metrics == 1 else (params["x"], 18.0)

    on = bench.open(sampler, num_metrics)
    end = bench.work(on, 30, evaluate, halving=RUNGS)
    trials = bench.trials(on)
    pruned = [trial for trial in trials if trial.state is TrialState.PRUNED]
    assert (end.num_told, end.num_pruned) == (30, len(pruned)) == (len(trials), len(pruned))
    assert 8 <= len(pruned) < 30
    assert {steps[trial.number] for trial in pruned} <= {2, 6, 18}
    assert all(steps[t.number] == 18 for t in trials if t.state is TrialState.COMPLETE)
    best = min(trial.params["x"] for trial in trials)
    kept = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    assert min(trial.params["x"] for trial in kept) == best
    if num_metrics == 1:
        assert all(trial.value is not None for trial in pruned)  # for samplers and plots


def test_a_trial_that_reports_seldom_is_compared_at_the_rung_it_has_come_to(bench: Any) -> None:
    def evaluate(params: Mapping[str, Any], trial: OpenTrial) -> float:
        for step in (1, 7, 8, 30):
            trial.report(step, float(step))
        return 0.0

    on = bench.open()
    bench.work(on, 1, evaluate, halving=RUNGS)
    (trial,) = bench.trials(on)
    rungs = {key: value for key, value in trial.user_attrs.items() if key.startswith("rung")}
    assert rungs == {"rung_1": 7.0, "rung_2": 30.0}
    assert trial.intermediate_values == {7: 7.0, 30: 30.0}


def test_what_a_lost_trial_reported_is_not_counted_twice(bench: Any) -> None:
    on = bench.open()

    def evaluate(params: Mapping[str, Any], trial: OpenTrial) -> float:
        trial.report(2, 1.0)
        if not trial.attempt:
            raise bench.Killed
        return 0.0

    bench.die(on, 2, evaluate, halving=RUNGS)
    assert bench.trials(on)[0].user_attrs["rung_0"] == 1.0
    seen = []

    def last(params: Mapping[str, Any], trial: OpenTrial) -> float:
        seen.append(trial._others_at(0))
        trial.report(2, 1.0)
        return 0.0

    bench.work(on, 2, last, halving=RUNGS)
    assert seen == [[], [1.0]]


def test_nothing_is_kept_without_halving(bench: Any) -> None:
    def evaluate(params: Mapping[str, Any], trial: OpenTrial) -> float:
        trial.report(2, math.nan)
        return 0.0

    on = bench.open()
    bench.work(on, 1, evaluate)
    assert set(bench.trials(on)[0].user_attrs) == {"lease"}
