"""Loader workers that die, hang or have no memory, for real: always one line, never a wait without end."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from autoprog.cli import main
from autoprog.data import workers as module
from autoprog.data.workers import WorkerDiedError, WorkerPool
from autoprog.errors import RunError
from autoprog.libwarnings import LibraryWarning, passed_on

if not hasattr(os, "fork") or not Path("/proc/self/stat").exists():
    pytest.skip("needs the processes of Linux", allow_module_level=True)

Do = Callable[[int], tuple[Any, ...]]


def squares(number: int) -> tuple[torch.Tensor, int]:
    return torch.full((64, 64, 16), float(number)), number * number


def small(number: int) -> tuple[torch.Tensor, list[str]]:
    return torch.arange(number), [str(number)]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    try:
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except OSError:
        return []


def until(is_so: Callable[[], Any], seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := is_so()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    return found


@pytest.fixture
def pool() -> Iterator[Callable[..., WorkerPool[int, Any]]]:
    """Return what makes pools, which must leave no process behind."""
    made: list[WorkerPool[int, Any]] = []

    def make(do: Do, workers: int) -> WorkerPool[int, Any]:
        made.append(WorkerPool(do, workers))
        return made[-1]

    yield make
    for one in made:
        pids = pids_of(one)
        one.close()
        until(lambda pids=pids: not any(map(is_running, pids)), 10)


def pids_of(pool: WorkerPool[int, Any]) -> list[int]:
    return [int(worker.process.pid or 0) for worker in pool._workers]


Pool = Callable[..., WorkerPool[int, Any]]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_order_whatever_the_workers(pool: Pool, workers: int) -> None:
    many = pool(squares, workers)
    for images, square in islice(many.results(count()), 3):
        assert images.shape == (64, 64, 16)
        assert float(images[0, 0, 0]) ** 2 == square
    # A later call drops what an earlier one left.
    assert [square for _, square in many.results(iter(range(7)))] == [n * n for n in range(7)]
    assert list(many.results(iter(()))) == []


def test_tensors_may_be_empty_small_and_written_to(pool: Pool) -> None:
    found = list(pool(small, 2).results(iter([0, 3])))
    assert [words for _, words in found] == [["0"], ["3"]]
    assert found[1][0].mul_(2).tolist() == [0, 2, 4]
    (images, _), *_ = pool(squares, 1).results(iter([2]))
    assert float(images.add_(1).sum()) == 3 * images.numel()


def test_without_memory_files_batches_go_through_the_connection(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "memfd_create")
    assert [square for _, square in pool(squares, 2).results(iter(range(9)))] == [
        n * n for n in range(9)
    ]


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("is_busy", [True, False])
def test_a_killed_worker_is_told_at_once(pool: Pool, workers: int, is_busy: bool) -> None:
    def slow(number: int) -> tuple[Any, ...]:
        time.sleep(0.0 if number < 1 else 30.0 * is_busy)
        return squares(number)

    some = pool(slow, workers)
    results = some.results(count())
    next(results)
    os.kill(pids_of(some)[-1], signal.SIGKILL)
    start = time.monotonic()
    with pytest.raises(WorkerDiedError, match=r"^a loader worker died \(killed by signal 9: out"):
        list(results)
    some.close()
    assert time.monotonic() - start < 5


def test_a_worker_killed_amid_a_batch_leaves_no_half_of_it(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setattr(module, "_send", send_half)
    with pytest.raises(WorkerDiedError, match="killed by signal 9"):
        next(pool(squares, 2).results(count()))


def send_half(connected: Any, *_: Any) -> None:
    os.write(connected.fileno(), b"\0\0\1\0half")
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_without_memory_says_so(pool: Pool) -> None:
    def greedy(_: int) -> tuple[Any, ...]:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
        return (torch.zeros(2**34, dtype=torch.uint8),)

    with pytest.raises(WorkerDiedError, match=r"has no memory left.*lower --workers"):
        next(pool(greedy, 1).results(count()))


def test_what_the_data_fail_of_is_told_as_it_is(pool: Pool) -> None:
    def fail(_: int) -> tuple[Any, ...]:
        raise RunError("x.png: image 3 cannot be read")

    with pytest.raises(RunError, match=r"^x.png: image 3 cannot be read$"):
        next(pool(fail, 1).results(count()))


def test_a_mistake_ends_the_worker_and_its_last_words_are_told(pool: Pool) -> None:
    with pytest.raises(WorkerDiedError, match=r"exit code 1\): ZeroDivisionError: .*--workers 0"):
        next(pool(lambda number: (1 // number,), 1).results(iter([0])))


def test_workers_ignore_signals_but_end_when_they_are_not_needed(pool: Pool) -> None:
    some = pool(squares, 2)
    results = some.results(count())
    next(results)
    pids = pids_of(some)
    for pid in pids:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
            os.kill(pid, number)
    assert [square for _, square in islice(results, 6)] == [1, 4, 9, 16, 25, 36]
    start = time.monotonic()
    some.close()
    until(lambda: not any(map(is_running, pids)), 5)
    assert time.monotonic() - start < 5


def test_a_worker_that_hangs_is_killed_at_the_end(pool: Pool) -> None:
    def hang(number: int) -> tuple[Any, ...]:
        if number:
            os.kill(os.getpid(), signal.SIGSTOP)
        return (number,)

    some = pool(hang, 1)
    next(some.results(count()))
    (pid,) = pids_of(some)
    until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    some.close()
    assert not is_running(pid)


def test_a_long_wait_is_told_and_goes_on(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LONG_WAIT_SECONDS", 0.05)

    def slow(number: int) -> tuple[Any, ...]:
        time.sleep(0.4)
        return (number,)

    told: list[str] = []
    with passed_on(told.append):
        assert list(pool(slow, 1).results(iter([1, 2]))) == [(1,), (2,)]
    (line,) = told
    assert "though the loader workers live" in line


def test_warnings_and_prints_of_workers_come_out_once_a_kind(pool: Pool) -> None:
    def loud(number: int) -> tuple[Any, ...]:
        warnings.warn(f"odd image {number}", UserWarning, stacklevel=1)
        os.write(2, f"TIFFReadDirectory: strange tag {number}\n".encode())
        return (number,)

    told: list[str] = []
    with passed_on(told.append):
        list(pool(loud, 2).results(iter(range(8))))
    assert sorted(re.sub(r"\d", "#", line) for line in told) == [
        "TIFFReadDirectory: strange tag #",
        "odd image #",
    ]


def test_what_workers_print_is_printable_and_not_endless(pool: Pool) -> None:
    def loud(number: int) -> tuple[Any, ...]:
        os.write(2, b"\x1b]52;c;\x07 quoted " + b"".join(b"%x line\n" % k for k in range(99_999)))
        return (number,)

    told: list[str] = []
    with passed_on(told.append):
        list(pool(loud, 1).results(iter(range(2))))
    assert 1 <= len(told) <= 40
    assert all(line.isprintable() for line in told)


def test_a_pool_that_is_forgotten_ends_its_workers() -> None:
    pool: WorkerPool[int, Any] = WorkerPool(squares, 2)
    next(pool.results(count()))
    pids = pids_of(pool)
    del pool
    until(lambda: not any(map(is_running, pids)), 10)


def test_other_threads_may_use_workers_too() -> None:
    found: list[int] = []

    def use() -> None:
        pool: WorkerPool[int, Any] = WorkerPool(squares, 1)
        found.extend(square for _, square in pool.results(iter(range(3))))
        pool.close()

    thread = threading.Thread(target=use)
    thread.start()
    thread.join(60)
    assert found == [0, 1, 4]


def test_a_forwarded_warning_is_a_whole_line() -> None:
    told: list[str] = []
    with passed_on(told.append):
        warnings.warn(LibraryWarning("a.png: its reader warns: 3 bytes"), stacklevel=1)
        warnings.warn(LibraryWarning("b.png: its reader warns: 4 bytes"), stacklevel=1)
    assert told == ["a.png: its reader warns: 3 bytes"]


def test_page_locked_results_are_told_and_end_like_others(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that locks pages, with what needs CUDA left out."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    for kill in (False, True):
        some: WorkerPool[int, Any] = WorkerPool(squares, 2, pin_memory=True)
        assert [square for _, square in islice(some.results(count()), 5)] == [0, 1, 4, 9, 16]
        results, pids = some.results(count(1)), pids_of(some)
        assert next(results)[1] == 1  # what the earlier call left is dropped
        if kill:
            os.kill(pids[0], signal.SIGKILL)
            with pytest.raises(WorkerDiedError, match="killed by signal 9"):
                list(results)
        threads = threading.active_count()
        some.close()
        assert threading.active_count() < threads or kill
        until(lambda pids=pids: not any(map(is_running, pids)), 10)


# ---- Whole runs


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("data"), np.random.RandomState(0)
    for part, each in (("train", 24), ("val", 12)):
        for name in ("ape", "cat"):
            (folder / part / name).mkdir(parents=True)
            for number in range(each):
                pixels = rng.randint(0, 256, (24, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{number}.png")
    return folder


def command(data: Path, runs: Path, *more: str) -> list[str]:
    words = ["--model=vit-mu", "--threads=1", "--batch-size=8", f"--data={data}"]
    start = ["train", "--schedule=constant", *words]
    return [*start, f"--runs-dir={runs}", "--log-every-steps=4", *more]


class ForkedRun:
    """The program in a session of its own, forked from here, so that nothing is imported anew."""

    # What the program imports once it knows its command.
    modules = ("autoprog.commands.train", "autoprog.commands.launch", "autoprog.commands.preflight")

    def __init__(self, words: list[str], printed: Path) -> None:
        self._printed = printed
        for name in self.modules:
            importlib.import_module(name)
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                os.setsid()
                signal.signal(signal.SIGINT, signal.default_int_handler)
                null = os.open(os.devnull, os.O_WRONLY)
                for file, number in ((null, 1), (os.open(printed, os.O_WRONLY | os.O_CREAT), 2)):
                    os.dup2(file, number)
                sys.stdout, sys.stderr = (open(n, "w", closefd=False) for n in (1, 2))  # noqa: SIM115
                code = main(words)
                sys.stderr.flush()
            finally:
                os._exit(code)

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def end(self) -> tuple[int, str]:
        """Wait for the end; return the exit code and what was printed to standard error."""
        _, status = until(lambda: any(found := os.waitpid(self.pid, os.WNOHANG)) and found, 30)
        return os.waitstatus_to_exitcode(status), self._printed.read_text()


def is_training(runs: Path) -> bool:
    return any("step_logged" in log.read_text() for log in runs.glob("*/events.jsonl"))


def test_a_run_whose_worker_is_killed_ends_in_a_line_and_goes_on(
    data: Path, tmp_path: Path
) -> None:
    shared = set(os.listdir("/dev/shm"))
    words = command(data, tmp_path, "--workers=2", "--epochs=100000")
    run = ForkedRun(words, tmp_path / "printed")
    until(lambda: is_training(tmp_path))
    pids = until(lambda: children(run.pid))
    os.kill(pids[0], signal.SIGKILL)
    start = time.monotonic()
    code, err = run.end()
    assert code == 1
    assert time.monotonic() - start < 10
    assert re.fullmatch(r"autoprog: a loader worker died \(killed by .*--resume \S+\n", err), err
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert (folder / "checkpoints" / "last.pt").exists()
    until(lambda: not any(map(is_running, pids)), 5)
    assert set(os.listdir("/dev/shm")) <= shared


def test_a_killed_run_leaves_no_worker_behind(data: Path, tmp_path: Path) -> None:
    words = command(data, tmp_path, "--workers=4", "--epochs=100000", "--eval-every-epochs=1")
    run = ForkedRun(words, tmp_path / "printed")
    until(lambda: is_training(tmp_path))
    pids = until(lambda: children(run.pid))
    run.send(signal.SIGKILL)
    assert run.end()[0] == -signal.SIGKILL
    until(lambda: not any(map(is_running, pids)), 5)


def test_a_shared_memory_too_small_for_a_batch_is_no_matter(data: Path, tmp_path: Path) -> None:
    mount = "mount -t tmpfs -o size=64k tmpfs /dev/shm"
    if not shutil.which("unshare"):
        pytest.skip("needs unshare")
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("may not mount a file system of its own")
    words = command(data, tmp_path, "--workers=2", "--epochs=1", "--img-size=48", "-q")
    both = [
        "unshare",
        "-m",
        "sh",
        "-c",
        f'{mount} && exec "$@"',
        "sh",
        sys.executable,
        "-m",
        "autoprog",
        *words,
    ]
    done = subprocess.run(both, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_signal_ends_the_wait_for_a_batch(data: Path, tmp_path: Path) -> None:
    words = command(data, tmp_path, "--workers=1", "--epochs=100000")
    run = ForkedRun(words, tmp_path / "printed")
    until(lambda: is_training(tmp_path))
    (pid,) = until(lambda: children(run.pid))
    os.kill(pid, signal.SIGSTOP)  # a reader that hangs
    time.sleep(0.5)
    run.send(signal.SIGTERM)
    code, err = run.end()
    assert code == 128 + signal.SIGTERM
    assert "after a checkpoint; go on with --resume" in err
    assert not is_running(pid)
