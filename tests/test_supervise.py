"""Processes of the program: how they are started, signalled and ended, and what they printed last."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autoprog.supervise import (
    PROGRAM,
    Child,
    end_all,
    ending_on_sigterm,
    last_line,
    program_in_processes,
)

MODULES = ("torch", "numpy", "json", "argparse", "runpy", "timm", "sitecustomize", "autoprog")


@pytest.fixture
def hostile_folder(tmp_path: Path) -> Path:
    """Return a folder with modules that leave a file named canary when they are imported."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    for name in MODULES:
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\n")
    return folder


@pytest.mark.parametrize("num_processes", [1, 2])
def test_modules_of_the_working_directory_are_not_run(
    num_processes: int, hostile_folder: Path
) -> None:
    words = [*program_in_processes(num_processes), "--version"]
    done = subprocess.run(words, cwd=hostile_folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [done.stdout.splitlines()[0]] * num_processes
    assert done.stdout.startswith("autoprog ")
    assert not (hostile_folder.parent / "canary").exists()


def test_the_program_is_this_very_package(hostile_folder: Path) -> None:
    text = PROGRAM[2].replace("from autoprog.cli import main; sys.exit(main())", "import autoprog")
    shown = f"{text}; print(autoprog.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", shown],
        cwd=hostile_folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout.strip()) == Path(__file__).parents[1] / "autoprog" / "__init__.py"


def test_python_itself_would_run_them(hostile_folder: Path) -> None:
    words = [sys.executable, "-m", "autoprog", "--version"]
    subprocess.run(words, cwd=hostile_folder, capture_output=True, check=False)
    assert (hostile_folder.parent / "canary").exists()  # so the trap works


# Writes its number once it listens; then it sleeps, and ends or not by what it is told to ignore.
LISTENER = """
import os, signal, sys, time
caught = []

def catch(number, _):
    caught.append(number)
    print("caught", number, flush=True)
    if len(caught) == int(sys.argv[1]):
        sys.exit(0)

signal.signal(signal.SIGTERM, catch)
grandchild = os.fork()
if grandchild == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", os.getpid(), flush=True)
while True:
    time.sleep(0.02)
"""

Start = Callable[[int], Child]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def start(log: Path) -> Iterator[Start]:
    """Return what starts a program that ends at its n-th SIGTERM, with a child that ignores them."""
    started: list[Child] = []

    def begin(num_signals: int) -> Child:
        with log.open("ab") as file:
            child = Child([sys.executable, "-c", LISTENER, str(num_signals)], file)
        started.append(child)
        deadline = time.monotonic() + 20
        while log.read_text().count("ready") < 2 * len(started):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return child

    yield begin
    for child in started:
        child.kill()


def pids(log: Path) -> list[int]:
    lines = (line.split() for line in log.read_text().splitlines())
    return [int(words[1]) for words in lines if words[0] == "ready"]


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"  # a zombie, which waits for whoever adopted it


def wait_until_gone(log: Path) -> None:
    deadline = time.monotonic() + 10
    while any(map(is_running, pids(log))):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_child_has_a_session_of_its_own(start: Start) -> None:
    child = start(1)
    assert os.getpgid(child.pid) == child.pid != os.getpgid(0)
    assert child.exit_code is None
    assert not child.wait(0.05)


def test_a_child_ends_at_a_signal_and_what_it_started_when_it_is_killed(
    start: Start, log: Path
) -> None:
    child = start(1)
    child.send("TERM")
    assert child.wait(10)
    assert child.exit_code == 0
    child.send("TERM")  # to nobody
    assert any(map(is_running, pids(log)))
    child.kill()
    wait_until_gone(log)
    assert child.exit_code == 0


@pytest.mark.parametrize(
    ("num_signals", "insist", "code", "caught"),
    [(1, False, 0, 1), (2, False, -signal.SIGKILL, 1), (3, True, 0, 3)],
)
def test_children_are_asked_to_end_and_then_killed(
    start: Start, log: Path, num_signals: int, insist: bool, code: int, caught: int
) -> None:
    children = [start(num_signals), start(num_signals)]
    begin = time.monotonic()
    end_all(children, patience_seconds=10 if insist or num_signals == 1 else 0.5, insist=insist)
    assert time.monotonic() - begin < 8
    assert [child.exit_code for child in children] == [code, code]
    assert log.read_text().count("caught") == 2 * caught
    wait_until_gone(log)


def test_a_held_file_stays_open_in_the_child(tmp_path: Path, log: Path) -> None:
    with (tmp_path / "lock").open("w") as lock, log.open("wb") as out:
        text = f"import os; print(os.fstat({lock.fileno()}).st_ino)"
        assert Child([sys.executable, "-c", text], out, held_files=(lock.fileno(),)).wait(20)
        assert int(log.read_text()) == os.fstat(lock.fileno()).st_ino


@pytest.mark.parametrize(
    ("text", "prefix", "line"),
    [
        ("", "", "nothing was printed"),
        ("one\ntwo\x1b[31m\n\n", "", "two␛[31m"),
        ("autoprog: no disk\ntorchrun: rank 0 failed\n", "", "torchrun: rank 0 failed"),
        ("autoprog: no disk\ntorchrun: rank 0 failed\n", "autoprog", "autoprog: no disk"),
        ("torchrun: rank 0 failed\n", "autoprog", "torchrun: rank 0 failed"),
        ("x\n" * 50_000 + "last", "", "last"),
    ],
)
def test_the_last_line_of_a_log_is_printable(log: Path, text: str, prefix: str, line: str) -> None:
    log.write_text(text)
    assert last_line(log, prefix) == line


def test_a_link_in_place_of_a_log_is_not_followed(log: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    log.symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="a symbolic link"):
        last_line(log)


def test_sigterm_ends_a_program_as_an_error_does() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped, ending_on_sigterm():
        signal.raise_signal(signal.SIGTERM)
    assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
