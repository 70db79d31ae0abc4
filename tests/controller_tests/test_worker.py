from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Mapping
from typing import Any

import pytest

from autoprog.errors import ConfigError, RunError
from autoprog.processes import read_workers
from autoprog.search.controller import (
    OpenTrial,
    Plan,
    PrunedTrial,
    ReleasedTrial,
    SharedStudy,
    StopRule,
    create_sampler,
)
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


def test_a_worker_stops_after_its_time(bench: Any) -> None:
    end = bench.work(bench.open(), None, rule=StopRule(seconds=0.2))
    assert end.reason == "time"
    assert end.num_told > 1


def test_no_trial_is_begun_without_time(bench: Any) -> None:
    end = bench.work(bench.open(), 5, rule=StopRule(5, seconds=0))
    assert (end.reason, end.num_told) == ("time", 0)


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
    assert on.reap() == []


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


def test_facts_and_constraints_are_kept_with_the_trial(bench: Any) -> None:
    def evaluate(params: Mapping[str, Any], trial: OpenTrial) -> float:
        trial.note("checkpoint", "somewhere")
        trial.constrain("wall_left", 2.0 - trial.number)
        assert not trial.is_lost
        return float(trial.number)

    on = bench.open()
    bench.work(on, 4, evaluate)
    trial = bench.trials(on)[0]
    assert trial.user_attrs["checkpoint"] == "somewhere"
    assert trial.constraints == {"wall_left": 2.0}
    assert on.study.best_trial.number == 2


def test_a_storage_that_is_gone_is_told_in_one_line(bench: Any) -> None:
    on = bench.open()

    def evaluate(params: Mapping[str, Any], trial: OpenTrial) -> float:
        (bench.folder / "search.journal").unlink()
        return 0.0

    with pytest.raises(RunError, match="worker 0: the storage does not answer"):
        bench.work(on, 3, evaluate)
    (seen,) = read_workers(bench.folder)
    assert seen.status.state == "failed"


def test_run_folders_may_share_a_journal(bench: Any) -> None:
    journal = bench.folder / "search.journal"
    folders = [bench.folder / name for name in ("one", "other")]
    plan, sampler = bench.plan(), create_sampler("random", 0, bench.SPACE)
    for folder in folders:
        folder.mkdir()
    one, other = (SharedStudy.open(folder, plan, sampler, journal) for folder in folders)
    with one.lock:
        one.study.ask(bench.SPACE)  # the lease is still to come
        asking = threading.Thread(target=other.reap)
        asking.start()
        asking.join(0.2)
        assert bench.states(one) == ["RUNNING"]
    asking.join()
    assert bench.states(one) == ["FAIL", "WAITING"]


def test_a_run_folder_that_is_not_there_is_told(bench: Any) -> None:
    with pytest.raises(RunError, match="must be a folder"):
        SharedStudy.open(bench.folder / "no", bench.plan(), create_sampler("random", 0, {}))


def test_a_study_of_another_kind_is_not_joined(bench: Any) -> None:
    bench.open(num_metrics=1)
    with pytest.raises(ConfigError, match="must be a study of 2 metrics, but got 1"):
        bench.open(num_metrics=2)


def test_two_studies_share_a_journal(bench: Any) -> None:
    bench.work(bench.open(), 2)
    plan = Plan("other", ("loss",), bench.SPACE)
    other = SharedStudy.open(bench.folder, plan, create_sampler("random", 1, bench.SPACE))
    bench.work(other, 3)
    assert (len(bench.trials(bench.open())), len(bench.trials(other))) == (2, 3)


def test_nothing_is_said_on_the_way(bench: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bench.work(bench.open("tpe", 2), 8)
        bench.work(bench.open("nsga2", 2), 9)
    assert capfd.readouterr() == ("", "")
