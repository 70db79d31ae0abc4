from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import pytest

from autoprog.errors import RunError
from autoprog.processes import read_workers
from autoprog.search.controller import (
    Halving,
    OpenTrial,
    PrunedTrial,
    ReleasedTrial,
    TrialState,
)
from autoprog.search.controller.worker import should_stop
from autoprog.train.stop import StopRequest

STORAGES = (None, "sqlite")


def url(bench: Any, where: str | None) -> str | None:
    return where and f"sqlite:///{bench.folder}/studies.db"


@pytest.mark.parametrize("where", STORAGES)
def test_a_worker_works_until_there_are_enough(bench: Any, where: str | None) -> None:
    on = bench.open("tpe", 2, url(bench, where))
    end = bench.work(on, 7)
    assert (end.reason, end.num_told, end.num_failed) == ("enough", 7, 0)
    assert bench.states(on) == ["COMPLETE"] * 7
    assert on.study.metric_names == ["loss", "seconds"]
    assert bench.work(on, 7).num_told == 0


def test_a_search_that_stopped_goes_on_to_the_same_total(bench: Any) -> None:
    assert bench.work(bench.open(), 4).num_told == 4
    assert bench.work(bench.open(), 10).num_told == 6
    assert len(bench.trials(bench.open())) == 10


def test_the_trials_to_begin_with_come_first_and_once(bench: Any) -> None:
    bench.work(bench.open(), 1)
    bench.work(bench.open(), 4)
    first, second, *rest = [trial.params for trial in bench.trials(bench.open())]
    assert first == bench.FIRST[0]
    assert second["n"] == bench.FIRST[1]["n"]
    assert bench.FIRST[0] not in rest
    assert len(rest) == 2


def test_a_trial_to_begin_with_that_an_error_ended_is_begun_again(bench: Any) -> None:
    def fail(params: Mapping[str, Any], trial: OpenTrial) -> float:
        raise OSError("no space left")

    with pytest.raises(RunError, match="no space left"):
        bench.work(bench.open(), 4, fail)
    bench.work(bench.open(), 4)
    done = [params for params, _ in bench.told(bench.open())]
    assert done[0] == bench.FIRST[0]
    assert done[1]["n"] == bench.FIRST[1]["n"]


def test_a_worker_that_is_asked_to_stop_finishes_its_trial(bench: Any) -> None:
    stop = StopRequest()

    def evaluate(params: Mapping[str, Any], trial: OpenTrial) -> float:
        if trial.number == 2:
            stop.signal_name = "SIGINT"
        return 0.0

    on = bench.open()
    end = bench.work(on, 9, evaluate, stop=stop)
    assert (end.reason, bench.states(on)) == ("stopped", ["COMPLETE"] * 3)


def test_a_worker_that_is_asked_to_stop_may_give_its_trial_back(bench: Any) -> None:
    on = bench.open(max_attempts=1)
    for _ in range(3):  # that is no attempt on the life of a worker
        stop = StopRequest()

        def evaluate(params: Mapping[str, Any], trial: OpenTrial) -> float:
            assert not trial.stop_requested
            stop.signal_name = "SIGTERM"  # noqa: B023
            assert trial.stop_requested
            raise ReleasedTrial

        assert bench.work(on, 2, evaluate, stop=stop).reason == "stopped"
    seen = []

    def note(params: Mapping[str, Any], trial: OpenTrial) -> float:
        seen.append((trial.number, trial.origin, trial.attempt))
        return 0.0

    bench.work(on, 2, note)
    assert bench.states(on) == ["FAIL"] * 3 + ["COMPLETE"] * 2
    assert seen == [(3, 0, 0), (4, 4, 0)]
    assert len({str(trial.params) for trial in bench.trials(on)[:4]}) == 1


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), OSError(5, "I/O"), None])
def test_an_error_fails_its_trial_and_is_not_tried_again(
    bench: Any, error: Exception | None
) -> None:
    def evaluate(params: Mapping[str, Any], trial: OpenTrial) -> float:
        if trial.number in (1, 3) and error is not None:
            raise error
        return math.nan if trial.number in (1, 3) else 0.0

    on = bench.open()
    end = bench.work(on, 4, evaluate)
    assert (end.num_told, end.num_failed) == (4, 2)
    assert bench.states(on) == ["COMPLETE", "FAIL", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    message = bench.trials(on)[1].user_attrs["error"]
    assert (str(error) if error else "not a number") in message
    assert on.recover_lost() == []


def test_a_worker_gives_up_when_trials_fail_in_a_row(bench: Any) -> None:
    def evaluate(params: Mapping[str, Any], trial: OpenTrial) -> float:
        if trial.number != 2:
            raise RunError("no disk")
        return 0.0

    on = bench.open()
    with pytest.raises(RunError, match="3 trials failed in a row: RunError: no disk"):
        bench.work(on, 9, evaluate)
    assert bench.states(on) == ["FAIL", "FAIL", "COMPLETE", "FAIL", "FAIL", "FAIL"]
    (seen,) = read_workers(bench.folder)
    assert (seen.status.state, seen.is_alive) == ("failed", False)
    assert "no disk" in seen.status.message


def test_errors_are_in_a_row_only_without_results_between(bench: Any) -> None:
    def evaluate(params: Mapping[str, Any], trial: OpenTrial) -> float:
        if trial.number % 3 == 2:
            raise PrunedTrial
        if trial.number < 8:
            raise RunError("no disk")
        return 0.0

    assert bench.work(bench.open(), 5, evaluate).num_failed == 6


def test_a_mistake_in_the_code_fails_its_trial_and_is_shown(bench: Any) -> None:
    def evaluate(params: Mapping[str, Any], trial: OpenTrial) -> float:
        return float(params["y"])

    on = bench.open()
    with pytest.raises(KeyError):
        bench.work(on, 9, evaluate)
    assert bench.states(on) == ["FAIL"]
    assert bench.trials(on)[0].user_attrs["error"] == "KeyError: 'y'"


def test_a_wrong_number_of_metrics_is_a_mistake(bench: Any) -> None:
    with pytest.raises(ValueError, match="did not match the number of the objectives"):
        bench.work(bench.open(num_metrics=2), 9, bench.one_metric)


def test_a_second_signal_leaves_the_trial_to_others(bench: Any) -> None:
    def evaluate(params: Mapping[str, Any], trial: OpenTrial) -> float:
        raise SystemExit(143)

    on = bench.open()
    with pytest.raises(SystemExit):
        bench.work(on, 9, evaluate)
    assert bench.states(on) == ["RUNNING"]


def test_the_last_trial_under_way_is_waited_for_and_taken_over(bench: Any) -> None:
    on = bench.open()
    bench.work(on, 3)
    asked = on.ask(4, 1)
    assert asked is not None
    assert on.ask(4, 0) is None  # one is under way: together they are enough
    waited = []

    class Stop(StopRequest):
        def __init__(self) -> None: ...

        @property
        def signal_name(self) -> None:  # type: ignore[override]
            """Let the other worker fail after some looks."""
            waited.append(1)
            if len(waited) == 4:
                on.fail(asked[0], "no memory")

    assert bench.work(on, 4, stop=Stop()).num_told == 1
    assert len(waited) >= 4
    assert bench.states(on) == ["COMPLETE"] * 3 + ["FAIL", "COMPLETE"]


def test_facts_are_kept_with_the_trial(bench: Any) -> None:
    def evaluate(params: Mapping[str, Any], trial: OpenTrial) -> float:
        trial.note("checkpoint", "somewhere")
        assert not trial.is_lost
        return float(trial.number)

    on = bench.open()
    bench.work(on, 4, evaluate)
    trial = bench.trials(on)[0]
    assert trial.user_attrs["checkpoint"] == "somewhere"


def test_a_storage_that_is_gone_is_told_in_one_line(bench: Any) -> None:
    on = bench.open()

    def evaluate(params: Mapping[str, Any], trial: OpenTrial) -> float:
        (bench.folder / "search.journal").unlink()
        return 0.0

    with pytest.raises(RunError, match="worker 0: the storage does not answer"):
        bench.work(on, 3, evaluate)
    (seen,) = read_workers(bench.folder)
    assert seen.status.state == "failed"


def test_nothing_is_said_on_the_way(bench: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bench.work(bench.open("tpe", 2), 8)
        bench.work(bench.open("nsga2", 2), 9)
    assert capfd.readouterr() == ("", "")


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
