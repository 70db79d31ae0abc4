from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from autoprog.processes import ProcessName, this_process
from autoprog.search.controller import OpenTrial, SharedStudy, TrialState, workers
from autoprog.search.controller.workers import Lease

FAR = ProcessName("far", "another boot", 7, 1)


def die(bench: Any, on: SharedStudy, trials: int = 5) -> None:
    """Let a worker die in its next trial."""

    def evaluate(params: Mapping[str, Any], trial: OpenTrial) -> float:
        raise bench.Killed

    bench.die(on, trials, evaluate)


def hold(on: SharedStudy, holder: ProcessName, expires: float) -> int:
    """Take a trial for somebody."""
    asked = on.ask(None, 0)
    assert asked is not None
    on.write_lease(asked[0], Lease(holder, 0, expires))
    return asked[0].number


def test_a_trial_whose_worker_died_is_tried_again_with_the_same_parameters(bench: Any) -> None:
    on = bench.open()
    bench.work(on, 2)
    die(bench, on)
    assert bench.states(on) == ["COMPLETE", "COMPLETE", "RUNNING"]
    assert on.reap() == [2]
    lost, retry = bench.trials(on)[2:]
    assert lost.state is TrialState.FAIL
    assert str(bench.dead.pid) in lost.user_attrs["lost"]
    assert retry.state is TrialState.WAITING
    assert retry.user_attrs == {"retry_of": 2, "origin": 2, "attempt": 1}
    bench.work(on, 3)
    assert bench.trials(on)[3].params == lost.params
    assert bench.states(on) == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE"]


def test_a_trial_that_kills_its_workers_is_given_up(bench: Any) -> None:
    on = bench.open(max_attempts=3)
    for _ in range(3):
        die(bench, on)
    assert on.reap() == [2]
    assert bench.states(on) == ["FAIL"] * 3
    assert [t.user_attrs.get("origin", 0) for t in bench.trials(on)] == [0, 0, 0]
    bench.work(on, 2)
    assert bench.states(on)[3:] == ["COMPLETE"] * 2
    assert bench.trials(on)[3].params != bench.trials(on)[0].params


def test_a_living_worker_keeps_its_trial(bench: Any) -> None:
    on = bench.open()
    number = hold(on, this_process(), on.clock() + 60)
    assert on.reap() == []
    assert bench.trials(on)[number].state is TrialState.RUNNING


def test_a_lease_elsewhere_ends_with_its_time(bench: Any) -> None:
    on = bench.open()
    held, ended = hold(on, FAR, on.clock() + 60), hold(on, FAR, on.clock() - 1)
    assert on.reap() == [ended]
    assert bench.trials(on)[held].state is TrialState.RUNNING


def test_a_lease_longer_than_any_of_ours_holds_nobody_up(bench: Any) -> None:
    on = bench.open()
    long, longer = (hold(on, FAR, on.clock() + times * on.terms.seconds) for times in (1.5, 2.5))
    assert on.reap() == [longer]
    assert bench.trials(on)[long].state is TrialState.RUNNING


@pytest.mark.parametrize("fixed", [[1], "x", 5, {}])
def test_a_lost_trial_of_a_foreign_journal_is_repeated(bench: Any, fixed: object) -> None:
    on = bench.open()
    number = hold(on, FAR, on.clock() - 1)
    trial_id = bench.trials(on)[number]._trial_id
    on.storage.set_trial_system_attr(trial_id, "fixed_params", fixed)
    assert on.reap() == [number]
    assert bench.trials(on)[-1].state is TrialState.WAITING


@pytest.mark.parametrize("is_renewed", [True, False])
def test_a_machine_that_slept_is_looked_at_twice(bench: Any, is_renewed: bool) -> None:
    on = bench.open()
    asked = on.ask(None, 0)
    assert asked is not None
    on.write_lease(asked[0], Lease(this_process(), 0, on.clock() - 3600))
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if is_renewed:
            on.write_lease(asked[0], Lease(this_process(), 0, on.clock() + 90))

    looking = workers.Reaper(on.study, on.storage, on.clock, on.terms, sleep)
    assert looking.reap() == ([] if is_renewed else [0])
    assert slept == [on.terms.second_look_seconds]


@pytest.mark.parametrize("grace_seconds", [0.0, 60.0])
def test_a_trial_that_was_just_asked_for_has_a_grace_period(
    bench: Any, grace_seconds: float
) -> None:
    on = bench.open(grace_seconds=grace_seconds)
    on.study.ask(bench.SPACE)  # and no lease yet
    assert on.reap() == ([] if grace_seconds else [0])


def test_workers_of_a_database_need_not_share_a_lock(bench: Any) -> None:
    on = bench.open(where=f"sqlite:///{bench.folder}/studies.db")
    assert on.terms.grace_seconds == on.terms.seconds
    assert bench.open().terms.grace_seconds == 0


@pytest.mark.parametrize("where", [None, "sqlite"])
def test_two_reapers_at_once_enqueue_once(bench: Any, where: str | None) -> None:
    url = where and f"sqlite:///{bench.folder}/studies.db"
    on = bench.open(where=url)
    for trial, lease in [on.ask(None, k) or (None, None) for k in range(3)]:
        assert trial is not None
        assert lease is not None
        on.write_lease(trial, replace(lease, holder=bench.dead))
    both = [bench.open(where=url) for _ in range(2)]
    start, found = threading.Barrier(2), []

    def reap(mine: SharedStudy) -> None:
        start.wait()
        found.extend(mine.reap())

    threads = [threading.Thread(target=reap, args=(mine,)) for mine in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [0, 1, 2]
    assert bench.states(on) == ["FAIL"] * 3 + ["WAITING"] * 3


def test_reapers_without_a_common_lock_repeat_a_trial_once(bench: Any) -> None:
    on = bench.open()
    hold(on, bench.dead, 0)
    on.reap()
    retry = bench.trials(on)[1]
    on.study.enqueue_trial(retry.system_attrs["fixed_params"], user_attrs=retry.user_attrs)
    assert bench.states(on) == ["FAIL", "WAITING", "WAITING"]
    bench.work(on, 2)
    assert bench.states(on) == ["FAIL", "COMPLETE", "FAIL", "COMPLETE"]
    params = [trial.params for trial in bench.trials(on)]
    assert params[0] == params[1] != params[3]
    assert "repeats the same" in bench.trials(on)[2].user_attrs["error"]


@pytest.mark.parametrize("step", ["set_trial_user_attr", "set_trial_state_values", "enqueue"])
def test_a_reaper_may_die_at_any_point(
    bench: Any, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    on = bench.open()
    hold(on, bench.dead, 0)

    def killed(*args: Any, **fields: Any) -> None:
        raise bench.Killed

    with monkeypatch.context() as patch, suppress(bench.Killed):
        if step == "enqueue":
            patch.setattr(on.study, "enqueue_trial", killed)
        else:
            patch.setattr(on.storage, step, killed)
        on.reap()
    bench.open().reap()
    assert bench.states(on) == ["FAIL", "WAITING"]


def test_a_worker_that_finishes_before_the_reaper_wins(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    on, other = bench.open(), bench.open()
    asked = on.ask(None, 0)
    assert asked is not None
    on.write_lease(asked[0], Lease(FAR, 0, 0))
    fail = workers.Reaper.fail

    def late(self: workers.Reaper, number: int, why: str) -> bool:
        assert on.tell(asked[0], [1.0])
        return fail(self, number, why)

    monkeypatch.setattr(workers.Reaper, "fail", late)
    assert other.reap() == []
    assert bench.states(on) == ["COMPLETE"]


def test_a_result_that_comes_after_the_reaper_is_not_counted(bench: Any) -> None:
    on, other = bench.open(), bench.open()

    def evaluate(params: Mapping[str, Any], trial: OpenTrial) -> float:
        if trial.number == 0:
            on.write_lease(on._asked, Lease(FAR, 0, 0))
            assert other.reap() == [0]
        return 1.0

    ask = on.ask

    def noted(most: int | None, worker: int) -> Any:
        asked = ask(most, worker)
        on._asked = asked and asked[0]
        return asked

    on.ask = noted
    end = bench.work(on, 2, evaluate)
    assert bench.states(on) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert end.num_told == 2
