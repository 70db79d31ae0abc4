from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from optuna.storages.journal import JournalFileOpenLock, JournalFileSymlinkLock

from autoprog import processes
from autoprog.libwarnings import passed_on
from autoprog.processes import (
    FileLock,
    ProcessName,
    WorkerFile,
    WorkerStatus,
    claim_worker,
    is_gone,
    is_here,
    read_workers,
    this_process,
)

HOLDER = """
import os, signal, sys
from pathlib import Path
from autoprog.processes import FileLock
FileLock(Path(sys.argv[1])).acquire()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.lock"


def dead_process() -> ProcessName:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    here = this_process()
    return ProcessName(here.host, here.boot_id, process.pid, 1)


def hold(path: Path, holder: ProcessName) -> None:
    path.write_text(json.dumps({**asdict(holder), "token": "t"}))


def seconds_to_acquire(path: Path, patience_seconds: float = 30.0) -> float:
    begin = time.monotonic()
    with FileLock(path, patience_seconds):
        return time.monotonic() - begin


def test_this_process_lives_and_a_finished_one_is_gone() -> None:
    assert is_here(this_process())
    assert not is_gone(this_process())
    assert is_gone(dead_process())


def test_a_process_that_nobody_waited_for_is_gone() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    here = this_process()
    while not is_gone(ProcessName(here.host, here.boot_id, process.pid, started_of(process.pid))):
        time.sleep(0.01)
    process.wait()


def started_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19])


def test_a_later_process_with_the_same_number_is_another_one() -> None:
    here = this_process()
    assert is_gone(ProcessName(here.host, here.boot_id, here.pid, here.started - 1))


def test_a_process_that_the_table_hides_is_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    here, dead = this_process(), dead_process()
    monkeypatch.setattr(processes, "_state_and_start", lambda pid: None)
    assert not is_gone(here)
    assert not is_gone(ProcessName(here.host, here.boot_id, 1, 1))
    assert is_gone(dead)


def test_nothing_is_known_of_a_process_elsewhere() -> None:
    other = ProcessName(this_process().host, "another boot", 1, 1)
    assert not is_here(other)
    assert not is_gone(other)


def test_a_fork_has_a_name_of_its_own() -> None:
    here = this_process()
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        os.write(write, str(this_process().pid).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(read, 20)) == child != here.pid


def test_a_lock_leaves_nothing_behind(path: Path) -> None:
    with FileLock(path):
        assert path.exists()
    assert list(path.parent.iterdir()) == []


def test_only_one_thread_at_a_time_holds_a_lock(path: Path) -> None:
    inside, most = [0], [0]

    def work() -> None:
        for _ in range(30):
            with FileLock(path):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.0002)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert not path.exists()


def test_the_lock_of_a_killed_process_is_broken_at_once(path: Path, repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HOLDER, str(path)],
        env={**os.environ, "PYTHONPATH": str(repository)},
        check=False,
    )
    assert done.returncode == -9
    assert path.exists()
    assert seconds_to_acquire(path) < 1
    assert not path.exists()


def test_a_living_holder_is_waited_for(path: Path) -> None:
    lock = FileLock(path)
    lock.acquire()
    threading.Timer(0.3, lock.release).start()
    assert seconds_to_acquire(path) >= 0.25


@pytest.mark.parametrize("where", ["elsewhere", "here"])
def test_patience_with_a_holder_ends(path: Path, where: str) -> None:
    here = this_process()
    hold(path, here if where == "here" else ProcessName("far", "another boot", here.pid, 1))
    assert 0.3 <= seconds_to_acquire(path, patience_seconds=0.3) < 2


def test_a_long_wait_is_told_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_SECONDS_BEFORE_WARNING", 0.1)
    hold(path, ProcessName("far\x1b", "another boot", 7, 1))
    told: list[str] = []
    with passed_on(told.append):
        seconds_to_acquire(path, patience_seconds=0.5)
    assert told == [
        f"waiting for {path}, which process 7 of far␛ holds; without a sign of life it is taken over"
        " 0.5 s after it was made"
    ]


def test_patience_begins_anew_with_each_holder(path: Path) -> None:
    other = ProcessName("far", "another boot", 1, 1)
    hold(path, other)
    threading.Timer(0.3, lambda: hold(path, ProcessName("far", "another boot", 2, 1))).start()
    assert seconds_to_acquire(path, patience_seconds=0.5) >= 0.7


@pytest.mark.parametrize("kind", ["open", "symlink", "half"])
def test_a_lock_that_says_nothing_is_waited_for_a_while(
    path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_STRANGER_PATIENCE_SECONDS", 0.3)
    journal = path.with_suffix("")
    journal.write_text('{"host": "a journal"}\n' * 3)
    if kind == "half":
        path.write_text('{"host": "h", "boo')
    else:
        optuna_lock = JournalFileOpenLock if kind == "open" else JournalFileSymlinkLock
        optuna_lock(str(journal)).acquire()
    assert 0.3 <= seconds_to_acquire(path) < 2
    assert journal.read_text().count("\n") == 3


def test_optuna_waits_for_our_lock(path: Path) -> None:
    theirs, order = JournalFileSymlinkLock(str(path.with_suffix(""))), []
    ours = FileLock(path)
    ours.acquire()

    def wait() -> None:
        theirs.acquire()
        order.append("theirs")
        theirs.release()

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.1)
    order.append("ours")
    ours.release()
    thread.join()
    assert order == ["ours", "theirs"]


def test_a_lock_that_others_broke_is_not_taken_from_them(path: Path) -> None:
    mine = FileLock(path)
    mine.acquire()
    hold(path, this_process())  # as if somebody's patience had ended
    mine.release()
    assert path.exists()


def test_who_comes_late_does_not_break_a_fresh_lock(path: Path) -> None:
    hold(path, dead_process())
    late = FileLock(path)
    seen = late._look()
    assert seen is not None
    with FileLock(path):
        late._break(seen)
        assert path.exists()


def test_a_full_disk_does_not_keep_a_lock_for_ever(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    lock = FileLock(path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", refuse)
        lock.acquire()
    lock.release()
    assert not path.exists()


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FileLock(tmp_path / "no" / "lock").acquire()


def test_every_worker_of_a_run_has_a_number_of_its_own(tmp_path: Path) -> None:
    assert [claim_worker(tmp_path) for _ in range(3)] == [0, 1, 2]


def test_who_looks_on_sees_what_workers_do(tmp_path: Path) -> None:
    file = WorkerFile(tmp_path, 0)
    file.say("running", trial=7)
    file.say("waiting")
    file.say("running", trial=9)
    now = time.time()
    far = ProcessName("far", "another boot", 7, 1)
    for number, (process, age) in enumerate([(dead_process(), 0), (far, 5), (far, 3600)], 1):
        status = WorkerStatus(
            worker=number, process=process, state="waiting", since=now, updated=now - age
        )
        (tmp_path / f"workers/worker-{number}.json").write_text(status.model_dump_json())
    (tmp_path / "workers/worker-4.json").write_text('{"worker": 4, "pro')
    seen = read_workers(tmp_path)
    assert [each.is_alive for each in seen] == [True, False, True, False]
    mine = seen[0].status
    assert (mine.state, mine.trial, mine.num_trials) == ("running", 9, 2)
    assert mine.process == this_process()


def test_a_beat_is_written_every_few_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = WorkerFile(tmp_path, 0)
    (before,) = read_workers(tmp_path)
    file.beat()
    assert read_workers(tmp_path) == [before]
    later = time.time() + 6
    monkeypatch.setattr(time, "time", lambda: later)
    file.say("starting")
    (after,) = read_workers(tmp_path)
    assert after.status.updated == later
    assert after.status.since == before.status.since


def test_a_run_without_workers_has_none(tmp_path: Path) -> None:
    assert read_workers(tmp_path) == []
