"""Workers that are processes: killed in mid-trial, stopped, joined; and those who start them."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import optuna
import pytest

from autoprog.errors import ConfigError, RunError
from autoprog.processes import (
    log_of,
    read_workers,
)
from autoprog.search.controller import SharedStudy
from autoprog.search.controller.storage import open_journal
from autoprog.search.worker_processes import (
    WorkerDied,
    WorkerEnded,
    WorkerStarted,
    WorkersWork,
    part_of_machine,
    spawn_workers,
    visible_gpus,
)
from autoprog.train.stop import StopRequest


def wait_for(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def running(bench: Any) -> bool:
    return (bench.folder / "begun").exists()


def all_listen(bench: Any, count: int) -> bool:
    """Return whether so many workers have come as far as to answer signals."""
    return len(list((bench.folder / "workers").glob("worker-*.json"))) >= count


def check_whole(bench: Any, on: SharedStudy, total: int) -> None:
    """Check that a study is at its end: so many results, one for each chain of trials."""
    states = bench.states(on)
    assert states.count("COMPLETE") == total
    assert not {"RUNNING", "WAITING"} & set(states)
    done = [trial for trial in bench.trials(on) if trial.state.name == "COMPLETE"]
    origins = [trial.user_attrs.get("origin", trial.number) for trial in done]
    assert len(set(origins)) == total


@pytest.mark.parametrize("where", [None, "sqlite"])
def test_the_trial_of_a_killed_worker_is_done_by_another_one(
    bench: Any, program: ModuleType, where: str | None
) -> None:
    url = where and f"sqlite:///{bench.folder}/studies.db"
    victim = bench.spawn(0, trials=8, storage=url, seconds=600)
    wait_for(lambda: running(bench))
    other = bench.spawn(1, trials=8, storage=url)
    wait_for(lambda: "waiting" in [seen.status.state for seen in read_workers(bench.folder)])
    on = program.open_shared(bench.folder, {"storage": url})
    assert bench.states(on) == ["RUNNING"] + ["COMPLETE"] * 7
    victim.kill()
    assert other.wait(30) == 0
    check_whole(bench, on, 8)
    lost, *_, retry = bench.trials(on)
    assert lost.state.name == "FAIL"
    assert str(victim.pid) in lost.user_attrs["lost"]
    assert retry.user_attrs["retry_of"] == lost.number
    assert retry.params == lost.params
    assert tuple(retry.values) == program.metrics(retry.params)
    assert bench.begun() == [(k, k) for k in range(8)] + [(8, 0)]


def test_a_killed_search_comes_to_the_same_end(bench: Any, new_bench: Any) -> None:
    """One worker, killed by the kernel three times and started again, against one that nobody kills."""
    killed = new_bench()
    options = {"trials": 12, "sampler": "tpe"}
    straight = bench.spawn(0, **options)
    codes = []
    while not codes or codes[-1] != 0:
        process = killed.spawn(0, **options, die_at=[1, 5, 10])
        killed.workers.append(process)
        codes.append(process.wait(30))
    assert straight.wait(30) == 0
    assert codes == [-9, -9, -9, 0]
    assert read_told(killed.folder) == read_told(bench.folder)


def read_told(folder: Path) -> list[Any]:
    storage = open_journal(folder / "search.journal")
    study = optuna.load_study(study_name="whole", storage=storage)
    return [(t.params, t.values) for t in study.trials if t.state.name == "COMPLETE"]


@pytest.mark.parametrize("releases", [True, False])
def test_one_signal_ends_a_worker_without_leaving_a_running_trial(
    bench: Any, program: ModuleType, releases: bool
) -> None:
    options = {"trials": 3, "seconds": 0.4, "releases": releases}
    process = bench.spawn(0, **options)
    wait_for(lambda: running(bench))
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    assert "stopped" in bench.log(0)
    on = program.open_shared(bench.folder, {})
    assert bench.states(on) == (["FAIL", "WAITING"] if releases else ["COMPLETE"])
    assert program.main(bench.folder, 1, {"trials": 3}) == 0
    check_whole(bench, on, 3)


def test_two_signals_end_a_worker_at_once(bench: Any, program: ModuleType) -> None:
    process = bench.spawn(0, trials=3, seconds=60)
    wait_for(lambda: running(bench))
    on = program.open_shared(bench.folder, {})
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert bench.states(on) == ["RUNNING"]
    assert on.recover_lost() == [0]
    assert bench.states(on) == ["FAIL", "WAITING"]


def words_of(bench: Any, program: ModuleType, **options: Any) -> list[str]:
    words = [str(program.__file__), str(bench.folder), "given", json.dumps(options)]
    return [sys.executable, *words]


@pytest.fixture(autouse=True)
def sources(monkeypatch: pytest.MonkeyPatch, repository: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(repository))


def test_workers_carry_out_a_study_though_one_dies(bench: Any, program: ModuleType) -> None:
    words = words_of(bench, program, trials=6, seconds=0.1, die_at=[0])
    reports = list(spawn_workers(bench.folder, 2, words, poll_seconds=0.05))
    (died,) = [report for report in reports if isinstance(report, WorkerDied)]
    assert (died.exit_code, died.restarts_left) == (-9, 3)
    assert sum(isinstance(report, WorkerStarted) for report in reports) == 3
    ended = [report for report in reports if isinstance(report, WorkerEnded)]
    assert sorted(report.number for report in ended) == [0, 1]
    check_whole(bench, program.open_shared(bench.folder, {}), 6)
    seen = read_workers(bench.folder)
    assert [(each.status.worker, each.status.state, each.is_alive) for each in seen] == [
        (0, "done", False),
        (1, "done", False),
    ]
    assert "enough after" in log_of(bench.folder, 1).read_text()


def python(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_a_worker_that_dies_again_and_again_is_given_up(tmp_path: Path) -> None:
    words = python("print('no\\nmemory'); raise SystemExit(1)")
    with pytest.raises(RunError, match="no worker came to its end: memory"):
        list(spawn_workers(tmp_path, 1, words, max_restarts=2, poll_seconds=0.02))
    assert log_of(tmp_path, 0).read_text() == "no\nmemory\n" * 3


def test_others_go_on_when_one_is_given_up(tmp_path: Path) -> None:
    text = "import os, sys; sys.exit(os.environ['AUTOPROG_WORKER'] == '0')"
    reports = list(spawn_workers(tmp_path, 2, python(text), max_restarts=1, poll_seconds=0.02))
    died = [report.restarts_left for report in reports if isinstance(report, WorkerDied)]
    assert died == [1, 0]
    assert WorkerEnded(1, 0) in reports


def test_a_refused_command_line_ends_all(tmp_path: Path) -> None:
    text = """
import os, sys, time
if os.environ["AUTOPROG_WORKER"] == "1":
    print("autoprog: --sampler: unknown sampler 'tep'")
    sys.exit(2)
time.sleep(60)
"""
    begin = time.monotonic()
    with pytest.raises(ConfigError, match="worker 1: --sampler: unknown sampler 'tep'"):
        list(spawn_workers(tmp_path, 2, python(text), poll_seconds=0.02))
    assert time.monotonic() - begin < 10


def test_there_is_a_worker_at_least(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="-j: must be at least 1, but got 0"):
        next(spawn_workers(tmp_path, 0, python("")))


def test_the_first_signal_is_passed_on(bench: Any, program: ModuleType) -> None:
    words = words_of(bench, program, trials=99, seconds=0.2)
    stop, reports = StopRequest(), []
    for report in spawn_workers(bench.folder, 2, words, stop, poll_seconds=0.05):
        reports.append(report)
        if len(reports) == 2:
            wait_for(lambda: running(bench) and all_listen(bench, 2))
            stop.signal_name = "SIGINT"
    assert {type(report) for report in reports} == {WorkerStarted, WorkersWork, WorkerEnded}
    states = bench.states(program.open_shared(bench.folder, {}))
    assert set(states) == {"COMPLETE"}
    assert len(states) < 99


def test_a_second_signal_ends_the_workers(bench: Any, program: ModuleType) -> None:
    words = words_of(bench, program, trials=99, seconds=60)
    reports = spawn_workers(bench.folder, 1, words, poll_seconds=0.05)
    started = next(reports)
    assert isinstance(started, WorkerStarted)
    wait_for(lambda: running(bench))
    reports.close()  # as an exception in its caller does
    with pytest.raises(ProcessLookupError):
        os.kill(started.pid, 0)
    assert program.open_shared(bench.folder, {}).recover_lost() == [0]


@pytest.mark.slow
def test_workers_killed_at_random_lose_and_double_nothing(bench: Any, program: ModuleType) -> None:
    rng = random.Random(0)
    options = {"trials": 60, "seconds": 0.5, "sampler": "nsga2", "terms": {"max_attempts": 99}}
    workers = {number: bench.spawn(number, **options) for number in range(3)}
    kills = 0  # workers start in a second, so trials of half a second leave time for all of them
    while any(process.poll() is None for process in workers.values()):
        time.sleep(rng.uniform(0.2, 0.8))
        number = rng.randrange(3)
        if workers[number].poll() is None and kills < 15:
            workers[number].kill()
            workers[number].wait()
            kills += 1
            workers[number] = bench.spawn(number, **options)
    assert kills == 15
    assert [process.wait() for process in workers.values()] == [0, 0, 0]
    on = program.open_shared(bench.folder, {})
    on.recover_lost()
    check_whole(bench, on, 60)


def test_cores_and_gpus_are_shared_out() -> None:
    fraction = part_of_machine(3, 4, 10, ("0", "2"), {"PATH": "/bin"})
    cores = {"OMP_NUM_THREADS": "2", "PYTHON_CPU_COUNT": "2"}
    assert fraction == {"PATH": "/bin", **cores, "CUDA_VISIBLE_DEVICES": "2"}
    one = {"OMP_NUM_THREADS": "1", "PYTHON_CPU_COUNT": "1"}
    assert part_of_machine(0, 4, 2, (), {}) == one
    mine = {"OMP_NUM_THREADS": "8", "CUDA_VISIBLE_DEVICES": "0,2", "PYTHON_CPU_COUNT": "8"}
    own = {"OMP_NUM_THREADS": "8", "CUDA_VISIBLE_DEVICES": "0", "PYTHON_CPU_COUNT": "4"}
    assert part_of_machine(0, 2, 8, ("0", "2"), mine) == own


def test_gpus_are_those_of_the_machine_or_of_the_environment(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert visible_gpus({}, tmp_path) == ("0", "1")
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "3, GPU-a"}, tmp_path) == ("3", "GPU-a")
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == ()
    assert visible_gpus({}, tmp_path / "none") == ()
