"""Studies that many processes work on: leases, and trials whose worker died."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.exceptions import UpdateFinishedTrialError

from autoprog.errors import ConfigError, RunError
from autoprog.processes import ProcessName, this_process
from autoprog.search.controller import OpenTrial, Plan, SharedStudy, TrialState, create_sampler
from autoprog.search.controller.study import (
    Lease,
    LeaseKeeper,
    folder_clock,
    lease_in,
    lease_state,
)

FAR = ProcessName("far", "another boot", 7, 1)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_lease_is_read_as_it_was_written() -> None:
    lease = Lease(this_process(), 3, 12.5)
    assert lease_in(lease.attribute()) == lease
    assert {"host", "pid", "boot_id", "expires"} <= lease.attribute().keys()


@pytest.mark.parametrize("attribute", [None, 5, {}, {"host": "h", "pid": 1}, {"expires": "soon"}])
def test_what_is_no_lease_is_none(attribute: Any) -> None:
    assert lease_in(attribute) is None


@pytest.mark.parametrize(
    ("who", "expires", "state"),
    [
        ("here", 11, "held"),
        ("here", 9, "doubtful"),
        ("far", 11, "held"),
        ("far", 9, "lost"),
        ("dead", 11, "lost"),
        ("dead", 9, "lost"),
    ],
)
def test_the_process_table_comes_before_the_clock(
    who: str, expires: float, state: str, dead: ProcessName
) -> None:
    holder = {"here": this_process(), "far": FAR, "dead": dead}[who]
    assert lease_state(Lease(holder, 0, expires), now=10) == state


def test_the_clock_is_the_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = folder_clock(tmp_path)
    monkeypatch.setattr(time, "time", lambda: 12.0)  # of a host that lost its way
    first = clock()
    assert first > 1e9
    time.sleep(0.02)
    assert clock() > first
    (tmp_path / "mine").touch()
    assert abs((tmp_path / "mine").stat().st_mtime - clock()) < 5


def test_without_a_folder_to_write_the_hosts_own_clock_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = folder_clock(tmp_path)

    def refuse(path: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "utime", refuse)
    assert abs(clock() - time.time()) < 5


class Hours:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def keeper(write: Callable[[Lease], None], clock: Hours, **fields: Any) -> LeaseKeeper:
    return LeaseKeeper(Lease(this_process(), 0, 100.06), write, clock, 0.06, **fields)


def test_a_lease_is_renewed_before_it_ends() -> None:
    written: list[Lease] = []
    beats: list[int] = []
    clock = Hours()
    with keeper(written.append, clock, beat=lambda: beats.append(1)):
        wait_for(lambda: len(beats) > 3)
        assert written == []  # not due yet
        clock.now = 100.03
        wait_for(lambda: len(written) == 1)
    count = threading.active_count()
    assert written[0].expires == pytest.approx(100.09)
    clock.now = 200
    time.sleep(0.05)
    assert len(written) == 1
    assert threading.active_count() == count


def test_a_lease_that_others_ended_is_known_to_be_lost() -> None:
    def refuse(lease: Lease) -> None:
        raise UpdateFinishedTrialError

    clock = Hours()
    with keeper(refuse, clock) as kept:
        assert not kept.is_lost
        clock.now = 101
        wait_for(lambda: kept.is_lost)


def test_a_full_disk_is_no_reason_to_give_up() -> None:
    tries: list[Lease] = []

    def refuse_first(lease: Lease) -> None:
        tries.append(lease)
        if len(tries) < 3:
            raise OSError(28, "No space left on device")

    clock = Hours()
    clock.now = 101
    with keeper(refuse_first, clock) as kept:
        wait_for(lambda: len(tries) == 3)
        assert not kept.is_lost


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
    assert on.recover_lost() == [2]
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
    assert on.recover_lost() == [2]
    assert bench.states(on) == ["FAIL"] * 3
    assert [t.user_attrs.get("origin", 0) for t in bench.trials(on)] == [0, 0, 0]
    bench.work(on, 2)
    assert bench.states(on)[3:] == ["COMPLETE"] * 2
    assert bench.trials(on)[3].params != bench.trials(on)[0].params


def test_a_living_worker_keeps_its_trial(bench: Any) -> None:
    on = bench.open()
    number = hold(on, this_process(), on.clock() + 60)
    assert on.recover_lost() == []
    assert bench.trials(on)[number].state is TrialState.RUNNING


def test_a_lease_elsewhere_ends_with_its_time(bench: Any) -> None:
    on = bench.open()
    held, ended = hold(on, FAR, on.clock() + 60), hold(on, FAR, on.clock() - 1)
    assert on.recover_lost() == [ended]
    assert bench.trials(on)[held].state is TrialState.RUNNING


def test_a_lease_longer_than_any_of_ours_holds_nobody_up(bench: Any) -> None:
    on = bench.open()
    long, longer = (hold(on, FAR, on.clock() + times * on.terms.seconds) for times in (1.5, 2.5))
    assert on.recover_lost() == [longer]
    assert bench.trials(on)[long].state is TrialState.RUNNING


@pytest.mark.parametrize("fixed", [[1], "x", 5, {}])
def test_a_lost_trial_of_a_foreign_journal_is_repeated(bench: Any, fixed: object) -> None:
    on = bench.open()
    number = hold(on, FAR, on.clock() - 1)
    trial_id = bench.trials(on)[number]._trial_id
    on.storage.set_trial_system_attr(trial_id, "fixed_params", fixed)
    assert on.recover_lost() == [number]
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

    on.sleep = sleep
    assert on.recover_lost() == ([] if is_renewed else [0])
    assert slept == [on.terms.second_look_seconds]


@pytest.mark.parametrize("grace_seconds", [0.0, 60.0])
def test_a_trial_that_was_just_asked_for_has_a_grace_period(
    bench: Any, grace_seconds: float
) -> None:
    on = bench.open(grace_seconds=grace_seconds)
    on.study.ask(bench.SPACE)  # and no lease yet
    assert on.recover_lost() == ([] if grace_seconds else [0])


def test_workers_of_a_database_need_not_share_a_lock(bench: Any) -> None:
    on = bench.open(where=f"sqlite:///{bench.folder}/studies.db")
    assert on.terms.grace_seconds == on.terms.seconds
    assert bench.open().terms.grace_seconds == 0


@pytest.mark.parametrize("where", [None, "sqlite"])
def test_two_workers_that_recover_a_trial_at_once_enqueue_it_once(
    bench: Any, where: str | None
) -> None:
    url = where and f"sqlite:///{bench.folder}/studies.db"
    on = bench.open(where=url)
    for trial, lease in [on.ask(None, k) or (None, None) for k in range(3)]:
        assert trial is not None
        assert lease is not None
        on.write_lease(trial, replace(lease, holder=bench.dead))
    both = [bench.open(where=url) for _ in range(2)]
    start, found = threading.Barrier(2), []

    def recover(mine: SharedStudy) -> None:
        start.wait()
        with mine.lock:
            found.extend(mine.recover_lost())

    threads = [threading.Thread(target=recover, args=(mine,)) for mine in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [0, 1, 2]
    assert bench.states(on) == ["FAIL"] * 3 + ["WAITING"] * 3


def test_without_a_common_lock_a_lost_trial_is_repeated_once(bench: Any) -> None:
    on = bench.open()
    hold(on, bench.dead, 0)
    on.recover_lost()
    retry = bench.trials(on)[1]
    on.study.enqueue_trial(retry.system_attrs["fixed_params"], user_attrs=retry.user_attrs)
    assert bench.states(on) == ["FAIL", "WAITING", "WAITING"]
    bench.work(on, 2)
    assert bench.states(on) == ["FAIL", "COMPLETE", "FAIL", "COMPLETE"]
    params = [trial.params for trial in bench.trials(on)]
    assert params[0] == params[1] != params[3]
    assert "repeats the same" in bench.trials(on)[2].user_attrs["error"]


@pytest.mark.parametrize("step", ["set_trial_user_attr", "set_trial_state_values", "enqueue"])
def test_who_recovers_a_trial_may_die_at_any_point(
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
        on.recover_lost()
    bench.open().recover_lost()
    assert bench.states(on) == ["FAIL", "WAITING"]


def test_a_worker_that_finishes_before_its_trial_is_failed_wins(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    on, other = bench.open(), bench.open()
    asked = on.ask(None, 0)
    assert asked is not None
    on.write_lease(asked[0], Lease(FAR, 0, 0))
    fail = SharedStudy.fail_lost

    def late(self: SharedStudy, number: int, why: str) -> bool:
        assert on.tell(asked[0], [1.0])
        return fail(self, number, why)

    monkeypatch.setattr(SharedStudy, "fail_lost", late)
    assert other.recover_lost() == []
    assert bench.states(on) == ["COMPLETE"]


def test_a_result_that_comes_after_its_trial_was_failed_is_not_counted(bench: Any) -> None:
    on, other = bench.open(), bench.open()

    def evaluate(params: Mapping[str, Any], trial: OpenTrial) -> float:
        if trial.number == 0:
            on.write_lease(on._asked, Lease(FAR, 0, 0))
            assert other.recover_lost() == [0]
        return 1.0

    ask = on.ask

    def noted(max_trials: int | None, worker: int) -> Any:
        asked = ask(max_trials, worker)
        on._asked = asked and asked[0]
        return asked

    on.ask = noted
    end = bench.work(on, 2, evaluate)
    assert bench.states(on) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert end.num_told == 2


def test_run_folders_may_share_a_journal(bench: Any) -> None:
    journal = bench.folder / "search.journal"
    folders = [bench.folder / name for name in ("one", "other")]
    plan, sampler = bench.plan(), create_sampler("random", 0, bench.SPACE)
    for folder in folders:
        folder.mkdir()
    one, other = (SharedStudy.open(folder, plan, sampler, journal) for folder in folders)
    with one.lock:
        one.study.ask(bench.SPACE)  # the lease is still to come
        asking = threading.Thread(target=other.ask, args=(0, 0))
        asking.start()
        asking.join(0.2)
        assert bench.states(one) == ["RUNNING"]
    asking.join()
    assert bench.states(one) == ["FAIL", "WAITING"]


def test_a_run_folder_that_is_not_there_is_told(bench: Any) -> None:
    with pytest.raises(RunError, match="no: there is no such folder"):
        SharedStudy.open(bench.folder / "no", bench.plan(), create_sampler("random", 0, {}))


def test_a_study_of_another_kind_is_not_joined(bench: Any) -> None:
    bench.open(num_metrics=1)
    with pytest.raises(ConfigError, match="study: this study has 1 metrics instead of 2"):
        bench.open(num_metrics=2)


def test_two_studies_share_a_journal(bench: Any) -> None:
    bench.work(bench.open(), 2)
    plan = Plan("other", ("loss",), bench.SPACE)
    other = SharedStudy.open(bench.folder, plan, create_sampler("random", 1, bench.SPACE))
    bench.work(other, 3)
    assert (len(bench.trials(bench.open())), len(bench.trials(other))) == (2, 3)
