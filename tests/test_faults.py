"""Faults that are caused for real: each ends in one line, and the run can still come to the same end.

A disk that is full or read-only is a small file system of its own, where root may mount one, and elsewhere
``/dev/full``, on which every write fails as on a full disk.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from autoprog.bench.stress import compare_runs
from autoprog.cli import main
from autoprog.events import Event
from autoprog.runs import RunFolder, load_run
from autoprog.settings import RunManifest
from autoprog.train.checkpoint import load_newest

SMALL = (
    "--model",
    "vit-mu",
    "--device",
    "cpu",
    "--amp",
    "none",
    "--threads",
    "1",
    "--workers",
    "0",
)
OFTEN = ("--log-every-steps", "4", "--checkpoint-minutes", "0", "-q")
TRAIN = ("train", "--schedule=linear", *SMALL, *OFTEN, "--epochs=1", "--eval-every-epochs=9")
SEARCH = ("search", *SMALL, *OFTEN, "--epochs", "4", "--batch-size", "128")
WORDS = {"train": TRAIN, "search": SEARCH}


@dataclass(frozen=True)
class Done:
    """What a command came to."""

    code: int
    err: str

    def is_one_line(self, *parts: str) -> bool:
        """Tell whether it failed with one line that has these parts in it."""
        whole = self.err.startswith("autoprog: ") and self.err.count("\n") == 1
        return self.code == 1 and whole and all(part in self.err for part in parts)


Autoprog = Callable[..., Done]


@pytest.fixture
def autoprog(capsys: pytest.CaptureFixture[str]) -> Autoprog:
    """Return the program, run in this process; an exception that gets out is told as users would see it."""

    def run(*words: object) -> Done:
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:
            code = int(stop.code or 0)
        except (OSError, ValueError, RuntimeError):
            return Done(99, traceback.format_exc())
        return Done(code, capsys.readouterr().err)

    return run


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return by command the folder of a run that nothing disturbs."""
    found = {}
    for kind, words in WORDS.items():
        runs = tmp_path_factory.mktemp(kind)
        assert main([*words, "--runs-dir", str(runs)]) == 0
        (found[kind],) = runs.iterdir()
    return found


@pytest.fixture
def words(straight: dict[str, Path]) -> dict[str, tuple[str, ...]]:
    """Return the command lines again, the search at the costs that the straight one measured."""
    costs = ("--costs", str(straight["search"] / "costs.json"))
    return {"train": TRAIN, "search": (*SEARCH, *costs)}


Hook = Callable[[RunFolder], None]


def after(patch: pytest.MonkeyPatch, kind: str, number: int, do: Hook) -> None:
    """Do something when the n-th event of a kind has just been logged, before the run goes on."""
    append, seen = RunFolder.append, []

    def append_and_do(self: RunFolder, event: Event) -> None:
        append(self, event)
        seen.extend([event] if event.kind == kind else [])
        if event.kind == kind and len(seen) == number:
            do(self)

    patch.setattr(RunFolder, "append", append_and_do)


When = Callable[[str, int, Hook], None]


@pytest.fixture
def when(monkeypatch: pytest.MonkeyPatch) -> When:
    return partial(after, monkeypatch)


def the_run(runs: Path) -> Path:
    (folder,) = runs.iterdir()
    return folder


def finish(autoprog: Autoprog, kind: str, folder: Path, like: Path) -> Done:
    """Resume a run to its end, which must be that of the straight one."""
    done = autoprog(kind, "--resume", folder, "-q")
    assert done.code == 0, done.err
    assert set(compare_runs(like, folder, kind).values()) == {""}
    return done


def step_of_checkpoint(folder: Path) -> int:
    state, complaints = load_newest(folder / "checkpoints")
    assert complaints == []
    assert state is not None
    return int(state["step"])


# Which file the disk has no room for, from which event on, and what the line says.
FULL = {
    "a checkpoint": (
        "train",
        "step_logged",
        3,
        "checkpoints/.next.pt",
        "checkpoint cannot be written",
    ),
    "the final weights": (
        "train",
        "step_logged",
        3,
        "checkpoints/final.safetensors",
        "final.safetensors: the weights cannot be written",
    ),
    "the result": ("train", "run_finished", 1, "result.json", ""),
    "a decision": ("search", "estimated", 1, "decisions.jsonl", ""),
}


@pytest.mark.parametrize(("kind", "event", "number", "name", "said"), FULL.values(), ids=FULL)
def test_no_room_for_a_file_ends_a_run_in_one_line_and_a_resume_makes_up_for_it(
    autoprog: Autoprog,
    straight: dict[str, Path],
    words: dict[str, tuple[str, ...]],
    when: When,
    no_room_for: set[Path],
    tmp_path: Path,
    kind: str,
    event: str,
    number: int,
    name: str,
    said: str,
) -> None:
    when(event, number, lambda folder: no_room_for.add(folder.path / name))
    done = autoprog(*words[kind], "--runs-dir", tmp_path / "runs")
    folder = the_run(tmp_path / "runs")
    assert done.is_one_line(str(folder), "No space left on device", said), done.err
    assert not (folder / "result.json").exists()
    assert step_of_checkpoint(folder) > 0
    no_room_for.clear()
    finish(autoprog, kind, folder, straight[kind])


def test_no_room_for_an_event_ends_a_run_in_one_line(
    autoprog: Autoprog, straight: dict[str, Path], when: When, tmp_path: Path
) -> None:
    def fill(folder: RunFolder) -> None:
        with open("/dev/full", "w", encoding="utf-8") as full:
            os.dup2(full.fileno(), folder._events.fileno())

    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    when("step_logged", 3, fill)
    done = autoprog(*TRAIN, "--runs-dir", tmp_path)
    folder = the_run(tmp_path)
    assert done.is_one_line(str(folder), "No space left on device"), done.err
    assert step_of_checkpoint(folder) > 0
    finish(autoprog, "train", folder, straight["train"])


class Disk:
    """A small file system of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mount(self, options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.path)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def fill(self, _: object = None) -> None:
        """Leave no page free."""
        with (self.path / "ballast").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                return

    def free(self) -> None:
        (self.path / "ballast").unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    found = Disk(tmp_path / "disk")
    found.path.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0 or not found.mount("size=64m"):
        pytest.skip("needs the right to mount")
    yield found
    subprocess.run(["umount", "-l", str(found.path)], check=True)


@pytest.mark.parametrize(
    ("kind", "event", "number", "said"),
    [
        ("train", "step_logged", 3, "the checkpoint cannot be written"),
        ("train", "evaluated", -1, "the checkpoint cannot be written"),
        ("train", "stage_started", 2, ""),
    ],
)
def test_a_disk_that_fills_up_ends_a_run_in_one_line_and_a_resume_makes_up_for_it(
    autoprog: Autoprog,
    straight: dict[str, Path],
    words: dict[str, tuple[str, ...]],
    when: When,
    disk: Disk,
    kind: str,
    event: str,
    number: int,
    said: str,
) -> None:
    runs = disk.path / "runs"
    if number < 0:
        number += 1 + sum(one.kind == event for one in load_run(straight[kind]).events())
    when(event, number, disk.fill)
    done = autoprog(*words[kind], "--runs-dir", runs)
    assert (disk.path / "ballast").exists()
    assert done.is_one_line(str(the_run(runs)), "No space left on device", said), done.err
    assert not (the_run(runs) / "result.json").exists()
    disk.free()
    finish(autoprog, kind, the_run(runs), straight[kind])


def test_no_room_for_the_schedule_at_the_start_is_one_line(
    autoprog: Autoprog,
    monkeypatch: pytest.MonkeyPatch,
    no_room_for: set[Path],
    tmp_path: Path,
) -> None:
    create = RunFolder.create

    def create_and_fill(runs_dir: Path, manifest: RunManifest) -> RunFolder:
        folder = create(runs_dir, manifest)
        no_room_for.add(folder.path / "schedule.yaml")
        return folder

    monkeypatch.setattr(RunFolder, "create", create_and_fill)
    done = autoprog(*TRAIN, "--runs-dir", tmp_path)
    assert done.is_one_line(str(the_run(tmp_path)), "No space left on device"), done.err


def test_a_full_disk_at_the_start_is_one_line(autoprog: Autoprog, disk: Disk) -> None:
    disk.fill()
    done = autoprog(*TRAIN, "--runs-dir", disk.path / "runs")
    assert done.is_one_line(str(disk.path), "No space left on device"), done.err


def test_a_folder_that_is_read_only_is_one_line_and_nothing_is_written(
    autoprog: Autoprog, disk: Disk
) -> None:
    assert disk.mount("remount,ro")
    done = autoprog(*TRAIN, "--runs-dir", disk.path / "runs")
    assert done.is_one_line("the run folder cannot be made: Read-only file system"), done.err
    assert list(disk.path.iterdir()) == []


def stop_by(name: str) -> Hook:
    return lambda folder: os.kill(os.getpid(), getattr(signal, name))


def test_a_run_that_became_read_only_is_not_resumed(
    autoprog: Autoprog, straight: dict[str, Path], when: When, disk: Disk
) -> None:
    when("step_logged", 3, stop_by("SIGTERM"))
    assert autoprog(*TRAIN, "--runs-dir", disk.path / "runs").code == 143
    folder = the_run(disk.path / "runs")
    assert disk.mount("remount,ro")
    done = autoprog("train", "--resume", folder, "-q")
    assert done.is_one_line(str(folder), "Read-only file system"), done.err
    assert disk.mount("remount,rw")
    finish(autoprog, "train", folder, straight["train"])


class Payload:
    """Unpickling it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.mark,)


def damage(path: Path, how: str, mark: Path) -> None:
    match how:
        case "truncated":
            path.write_bytes(path.read_bytes()[:-5000])
        case "zip":
            with zipfile.ZipFile(path, "w") as file:
                file.writestr("holiday.txt", "no weights in here")
        case "pickle":
            path.write_bytes(pickle.dumps(Payload(mark)))
        case "checkpoint with a pickle":
            torch.save({"schema": 1, "step": 8, "model": Payload(mark)}, path)


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a training run that SIGTERM stopped late, after many checkpoints."""
    runs = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        after(patch, "step_logged", 5, stop_by("SIGTERM"))
        assert main([*TRAIN, "--runs-dir", str(runs)]) == 143
    return the_run(runs)


@pytest.fixture
def stopped(stopped_once: Path, tmp_path: Path) -> Path:
    """Return a copy of the stopped run."""
    return shutil.copytree(stopped_once, tmp_path / "stopped")


@pytest.mark.parametrize("how", ["truncated", "zip", "pickle", "checkpoint with a pickle"])
def test_a_bad_last_checkpoint_gives_way_to_the_previous_one(
    autoprog: Autoprog, straight: dict[str, Path], stopped: Path, tmp_path: Path, how: str
) -> None:
    last = stopped / "checkpoints" / "last.pt"
    damage(last, how, tmp_path / "mark")
    before = torch.load(last.with_name("previous.pt"), weights_only=True)["step"]
    finish(autoprog, "train", stopped, straight["train"])
    started, warned = restarts(stopped)
    assert started == before > 0
    assert len(warned) == 1
    assert warned[0].startswith("last.pt cannot be read (")
    assert not (tmp_path / "mark").exists()
    if "pickle" in how:  # and it would have been made
        pickle.loads(pickle.dumps(Payload(tmp_path / "mark")))
        assert (tmp_path / "mark").exists()


def test_without_a_good_checkpoint_a_run_starts_over(
    autoprog: Autoprog, straight: dict[str, Path], stopped: Path, tmp_path: Path
) -> None:
    for name, how in (("last.pt", "zip"), ("previous.pt", "truncated")):
        damage(stopped / "checkpoints" / name, how, tmp_path / "mark")
    finish(autoprog, "train", stopped, straight["train"])
    started, warned = restarts(stopped)
    assert started == 0
    assert [text.partition(" (")[0] for text in warned] == [
        "last.pt cannot be read",
        "previous.pt cannot be read",
        "no checkpoint can be read: the run starts from the beginning",
    ]


def restarts(folder: Path) -> tuple[int, list[str]]:
    """Return the step that the second attempt began at and its warnings, but for how little it learnt."""
    rows = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    second = [row for row in rows if row["attempt"] == 1]
    warned = [row["message"] for row in second if row["kind"] == "warning_raised"]
    warned = [text for text in warned if "largest class" not in text]
    return second[0]["step"], warned


def in_a_process(log: Path, *words: object) -> int:
    """Start the program in a process forked from this one, which has all imported; return its id."""
    pid = os.fork()
    if pid == 0:
        sys.stdout = log.with_suffix(".out").open("w", encoding="utf-8")
        sys.stderr = log.open("w", encoding="utf-8")
        code = 99
        try:
            code = main([str(word) for word in words])
        finally:
            sys.stderr.flush()
            os._exit(code)
    return pid


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def wait_for(runs: Path, attempt: int, kind: str) -> None:
    """Wait until an attempt has logged an event."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for log in runs.glob("*/events.jsonl"):
            lines = [text for text in log.read_text("utf-8").splitlines(True) if text[-1] == "\n"]
            rows = [json.loads(line) for line in lines]
            if any((row["attempt"], row["kind"]) == (attempt, kind) for row in rows):
                return
        time.sleep(0.005)
    raise AssertionError("the event never came")


def test_signals_stop_a_search_after_a_checkpoint_and_nobody_else_may_write_meanwhile(
    autoprog: Autoprog,
    straight: dict[str, Path],
    words: dict[str, tuple[str, ...]],
    tmp_path: Path,
) -> None:
    """The same for a training run is in test_cli.py."""
    runs, log = tmp_path / "runs", tmp_path / "log"
    pid = in_a_process(log, *words["search"], "--runs-dir", runs)
    wait_for(runs, 0, "step_logged")
    os.kill(pid, signal.SIGTERM)
    assert ended(pid) == 143
    folder = the_run(runs)
    line = "autoprog: stopped by {} after a checkpoint; go on with --resume {}\n"
    assert log.read_text("utf-8") == line.format("SIGTERM", folder)
    assert step_of_checkpoint(folder) > 0

    pid = in_a_process(log, "search", "--resume", folder, "-q")
    wait_for(runs, 1, "supernet_started")
    second = autoprog("search", "--resume", folder, "-q")
    assert second.is_one_line("another process is writing this run"), second.err
    os.kill(pid, signal.SIGINT)
    assert ended(pid) == 130
    assert log.read_text("utf-8") == line.format("SIGINT", folder)
    finish(autoprog, "search", folder, straight["search"])


def test_last_lines_that_are_torn_are_cut_before_a_resume(
    autoprog: Autoprog,
    straight: dict[str, Path],
    words: dict[str, tuple[str, ...]],
    when: When,
    tmp_path: Path,
) -> None:
    when("decided", 1, stop_by("SIGTERM"))
    assert autoprog(*words["search"], "--runs-dir", tmp_path).code == 143
    folder = the_run(tmp_path)
    torn = {
        "events.jsonl": '{"attempt": 0, "ti',
        "decisions.jsonl": '{"index": 1',
        "search.journal": '{"op',
    }
    lines = {}
    for name, text in torn.items():
        whole = (folder / name).read_text("utf-8")
        lines[name] = whole.splitlines()
        (folder / name).write_text(whole + text, encoding="utf-8")
    finish(autoprog, "search", folder, straight["search"])
    for name, before in lines.items():
        after = (folder / name).read_text("utf-8").splitlines()
        assert after[: len(before)] == before
        assert all(isinstance(json.loads(line), dict) for line in after[len(before) :])
    assert len(load_run(folder).decisions) == len(load_run(straight["search"]).decisions)
