"""One contract for all samplers; and a search that is killed draws what it would have drawn."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import pytest
from optuna.distributions import FloatDistribution

from autoprog.errors import ConfigError
from autoprog.search.controller import (
    CategoricalDistribution,
    IntDistribution,
    OpenTrial,
    Plan,
    SharedStudy,
    create_sampler,
    samplers,
    search_in_memory,
)

STEADY = ("tpe", "nsga2", "random")
SAMPLERS = (*STEADY, "gp")
SMOOTH = {
    **{f"x{k}": FloatDistribution(0, 1) for k in range(3)},
    "n": IntDistribution(0, 20),
    "op": CategoricalDistribution(["copy", "mogrow", "zero"]),
}


def distance(params: Mapping[str, Any], place: float) -> float:
    """Return how far a point is from the planted optimum at `place` on each axis."""
    axes = [abs(params[f"x{k}"] - place) for k in range(3)]
    return sum(axes) + abs(params["n"] / 20 - place) + (params["op"] != "mogrow")


def one(params: Mapping[str, Any], trial: OpenTrial) -> float:
    return distance(params, 0.3)


def two(params: Mapping[str, Any], trial: OpenTrial) -> tuple[float, float]:
    return distance(params, 0.2), distance(params, 0.6)


def best(name: str, seed: int, num_trials: int, num_metrics: int) -> float:
    """Return the best value; with two metrics, the mean of those over five ways to weigh them."""
    plan = Plan("study", ("loss", "seconds")[:num_metrics], SMOOTH)
    sampler = create_sampler(name, seed, SMOOTH, population=10)
    study = search_in_memory(plan, one if num_metrics == 1 else two, num_trials, sampler)
    values = [trial.values for trial in study.trials]
    weights = [k / 4 for k in range(5)] if num_metrics == 2 else [0.0]
    return statistics.mean(min((1 - w) * v[0] + w * v[-1] for v in values) for w in weights)


@pytest.mark.parametrize(
    ("name", "num_trials", "num_metrics", "num_seeds"),
    [
        ("tpe", 50, 1, 3),
        ("tpe", 50, 2, 3),
        ("nsga2", 80, 1, 3),
        ("nsga2", 80, 2, 3),
        pytest.param("gp", 25, 1, 5, marks=pytest.mark.slow),
        pytest.param("gp", 25, 2, 5, marks=pytest.mark.slow),
    ],
)
def test_a_planted_optimum_is_found_better_than_at_random(
    name: str, num_trials: int, num_metrics: int, num_seeds: int
) -> None:
    found = [best(name, seed, num_trials, num_metrics) for seed in range(num_seeds)]
    at_random = [best("random", seed, num_trials, num_metrics) for seed in range(5)]
    assert statistics.median(found) < statistics.median(at_random)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("num_metrics", [1, 2])
def test_a_sampler_is_silent_and_stays_within_the_space(
    name: str, num_metrics: int, capfd: pytest.CaptureFixture[str]
) -> None:
    space = {**SMOOTH, "one": IntDistribution(3, 3)}
    plan = Plan("study", ("loss", "seconds")[:num_metrics], space, first=({"n": 4},))

    def evaluate(params: Mapping[str, Any], trial: OpenTrial) -> float | tuple[float, float]:
        return float(params["n"]) if num_metrics == 1 else (params["n"], -params["n"])

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampler = create_sampler(name, 0, space, startup_trials=4, population=4)
        study = search_in_memory(plan, evaluate, 6 if name == "gp" else 10, sampler)
    assert capfd.readouterr() == ("", "")
    assert study.trials[0].params["n"] == 4
    for trial in study.trials:
        assert trial.params.keys() == space.keys()
        for axis, value in trial.params.items():
            assert space[axis]._contains(space[axis].to_internal_repr(value))


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_seed_decides(name: str) -> None:
    plan = Plan("study", ("loss",), SMOOTH)

    def draws(seed: int) -> list[dict[str, Any]]:
        sampler = create_sampler(name, seed, SMOOTH, startup_trials=3, population=3)
        study = search_in_memory(plan, lambda p, t: p["n"] / 7, 5, sampler)
        return [trial.params for trial in study.trials]

    assert draws(2**40) == draws(2**40) != draws(2**40 + 1)
    assert all(one != other for one, other in pairwise(draws(0)))


def num_dead(on: SharedStudy) -> int:
    return sum(trial.user_attrs.get("lost") is not None for trial in on.study.trials)


@pytest.mark.parametrize("num_metrics", [1, 2])
@pytest.mark.parametrize("name", STEADY)
def test_a_search_that_was_killed_draws_what_it_would_have_drawn(
    new_bench: Callable[[], Any], name: str, num_metrics: int
) -> None:
    straight, killed = new_bench(), new_bench()
    whole = straight.open(name, num_metrics)
    straight.work(whole, 16)

    def evaluate(params: Mapping[str, Any], trial: OpenTrial) -> Any:
        if trial.origin in (1, 6, 8, 12) and not trial.attempt:
            raise killed.Killed
        score = killed.one_metric if num_metrics == 1 else killed.two_metrics
        return score(params, trial)

    for _ in range(5):
        killed.die(killed.open(name, num_metrics), 16, evaluate)
    on = killed.open(name, num_metrics)
    assert killed.told(on) == straight.told(whole)
    assert num_dead(on) == 4
    assert len(killed.trials(on)) == 20


@pytest.mark.parametrize("name", STEADY)
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_worker_may_be_killed_between_two_parameters(
    new_bench: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, name: str, after: int
) -> None:
    straight, killed = new_bench(), new_bench()
    space = straight.SPACE
    plan = Plan("study", ("loss",), space, first=({"n": 4},))

    def opened(bench: Any) -> SharedStudy:
        sampler = create_sampler(name, 0, space, startup_trials=3, population=3)
        return SharedStudy.open(bench.folder, plan, sampler)

    def evaluate(params: Mapping[str, Any], trial: OpenTrial) -> float:
        return float(params["n"])

    whole = opened(straight)
    straight.work(whole, 12, evaluate)
    for done in (0, 1, 5, 9):
        on = opened(killed)
        killed.work(on, done, evaluate)
        write, left = on.storage.set_trial_param, [after]

        def die(*args: Any, left: list[int] = left, write: Any = write) -> None:
            if not left[0]:
                raise killed.Killed
            left[0] -= 1
            write(*args)

        with monkeypatch.context() as patch:
            patch.setattr(on.storage, "set_trial_param", die)
            killed.die(on, 12, evaluate)
    on = opened(killed)
    killed.work(on, 12, evaluate)
    assert killed.told(on) == straight.told(whole)
    assert num_dead(on) == 4


def test_random_trials_do_not_depend_on_the_number_of_workers(
    new_bench: Callable[[], Any],
) -> None:
    alone, crowd = new_bench(), new_bench()
    straight = alone.open()
    alone.work(straight, 9)
    studies = [crowd.open() for _ in range(3)]
    asked = [studies[k % 3].ask(9, k) for k in range(9)]
    params = [pair[0].params for pair in asked if pair is not None]
    assert params == [params for params, _ in alone.told(straight)]


def test_an_unknown_sampler_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown sampler 'tep'; did you mean 'tpe'\?"):
        create_sampler("tep", 0, SMOOTH)


def test_gp_is_refused_where_scipy_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="gp needs scipy, which is missing; take tpe"):
        create_sampler("gp", 0, SMOOTH)


def test_a_search_in_memory_draws_what_workers_would_draw(bench: Any) -> None:
    for name in ("tpe", "nsga2", "random"):
        plan = Plan(name, ("loss",), bench.SPACE, bench.FIRST)
        sampler = create_sampler(name, 0, bench.SPACE, startup_trials=4, population=4)
        study = search_in_memory(plan, bench.one_metric, 12, sampler)
        on = SharedStudy.open(bench.folder, plan, sampler)
        bench.work(on, 12)
        assert [(t.params, t.values) for t in study.trials] == bench.told(on)
