"""Run folders of somebody else: nothing outside is written, whatever lies in place of our files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from autoprog import runfiles
from autoprog.cli import main
from autoprog.errors import ConfigError, RunError
from autoprog.events import Event
from autoprog.openfiles import kind_of, open_for_appending
from autoprog.processes import ProcessName
from autoprog.runfiles import (
    check_run_files,
    remove_checkpoints,
    remove_leftovers,
    remove_unstarted,
)
from autoprog.runs import RunFolder, is_written_now
from autoprog.settings import RunManifest

HERE = ("--device", "cpu", "--amp", "none", "--threads", "1", "--workers", "0", "-q")
OFTEN = ("--log-every-steps", "4", "--checkpoint-minutes", "0")
TRAIN = ("train", "--schedule=linear", "--model=vit-mu", *HERE, *OFTEN, "--epochs=0.5")
SEARCH = ("search", "--model=vit-mu", *HERE, *OFTEN, "--epochs=4", "--batch-size=128")
TRIALS = ("search", "--model=vit-mu", *HERE, "--epochs=2", "--trials=2", "--proxy=0.5")
MAX_SECONDS = 10

Capture = pytest.CaptureFixture[str]


def stopped_run(words: tuple[str, ...], runs: Path, kind: str, number: int) -> Path:
    """Return the folder of a run that stopped after the n-th event of a kind."""
    append, seen = RunFolder.append, []

    def append_and_stop(self: RunFolder, event: Event) -> None:
        append(self, event)
        seen.extend([event] if event.kind == kind else [])
        if event.kind == kind and len(seen) == number:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "append", append_and_stop)
        assert main([*words, "--runs-dir", str(runs)]) == 143
    (run,) = runs.iterdir()
    return run


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return by command a run that can be gone on with."""
    return {
        "train": stopped_run(TRAIN, tmp_path_factory.mktemp("train"), "step_logged", 3),
        "search": stopped_run(SEARCH, tmp_path_factory.mktemp("search"), "decided", 1),
    }


@pytest.fixture(scope="module")
def begun_trials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a search by trials that has begun, as a worker that joins it finds it."""
    runs = tmp_path_factory.mktemp("trials")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "autoprog.search.trials.spawn_workers",
            lambda *_: iter(()),
        )
        assert main([*TRIALS, "--runs-dir", str(runs)]) == 1
    (run,) = runs.iterdir()
    return run


def everything(folder: Path) -> dict[str, bytes | str | None]:
    """Return what lies in a folder: the bytes of files, where links lead to, None for others."""
    found: dict[str, bytes | str | None] = {}
    for path in sorted(folder.rglob("*")):
        match kind_of(path):
            case "a regular file":
                found[str(path.relative_to(folder))] = path.read_bytes()
            case "a symbolic link":
                found[str(path.relative_to(folder))] = os.readlink(path)
            case _:
                found[str(path.relative_to(folder))] = None
    return found


class Outside:
    """What must stay as it is: a file, a folder with files of names of ours, and places where nothing is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "docs" / "checkpoints").mkdir(parents=True)
        for name in ("victim", "docs/last.pt", "docs/run.yaml", "docs/checkpoints/last.pt"):
            (folder / name).write_text("precious\n")
        self.before = everything(folder)

    def put(self, how: str, path: Path) -> None:
        """Put something in place of what is at a path."""
        if kind_of(path) == "a folder":
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        match how:
            case "link to a file":
                path.symlink_to(self.folder / "victim")
            case "link to a folder":
                path.symlink_to(self.folder / "docs")
            case "link to nowhere":
                path.symlink_to(self.folder / "new")
            case "link to itself":
                path.symlink_to(path.name)
            case "pipe":
                os.mkfifo(path)
            case "folder":
                path.mkdir()
            case "second name":
                os.link(self.folder / "victim", path)
            case "file":
                path.write_text("not a folder\n")


@pytest.fixture
def outside(tmp_path: Path) -> Outside:
    return Outside(tmp_path / "outside")


FILES = (
    *("run.lock", "events.jsonl", "decisions.jsonl", "inputs.jsonl", "fidelity.jsonl"),
    *("search.journal", "search.journal.bak", "study.lock", ".clock"),
    *("run.yaml", "schedule.yaml", "best.yaml", "costs.json", "fidelity.json", "result.json"),
    *("budget.json", "budget.csv"),
    *("checkpoints/last.pt", "checkpoints/previous.pt", "checkpoints/.next.pt"),
    *("checkpoints/stage-0-0.pt", "checkpoints/stage-3-7.pt", "checkpoints/fidelity/last.pt"),
    *("checkpoints/final.safetensors", "checkpoints/final_ema.safetensors"),
    *("checkpoints/best.safetensors", "checkpoints/best_tables.safetensors"),
    *("workers/worker-0.log", "workers/worker-0.json", "workers/worker-12.log"),
    *("trials/0000/run.yaml", "trials/0000/run.lock", "trials/0000/events.jsonl"),
    *("trials/0000/checkpoints/last.pt", "trials/0000-2/result.json"),
)
FOLDERS = (
    *("checkpoints", "checkpoints/fidelity", "workers", "trials", "trials/0000"),
    *("trials/0000/checkpoints", "tensorboard", "wandb"),
)
LINKS = ("link to a file", "link to a folder", "link to nowhere", "link to itself")
CASES = [
    *((name, how) for name in FILES for how in (*LINKS, "pipe", "folder")),
    *((name, how) for name in FOLDERS for how in (*LINKS, "pipe", "file")),
    *(
        (name, how)
        for name in ("tensorboard/events.out.tfevents.1.a.1", "wandb/debug.log", "workers/other")
        for how in (*LINKS, "pipe")
    ),
    *((name, "second name") for name in FILES if name.endswith((".jsonl", "journal", ".bak"))),
]


def went(words: list[str], capsys: Capture) -> tuple[int, str]:
    """Return what a command that must not take long came to, and its line."""
    capsys.readouterr()
    begin = time.monotonic()
    code = main(words)
    assert time.monotonic() - begin < MAX_SECONDS
    return code, capsys.readouterr().err


@pytest.mark.parametrize(("name", "how"), CASES)
def test_a_foreign_run_is_not_gone_on_with_where_one_of_ours_is_none(
    stopped: dict[str, Path], outside: Outside, tmp_path: Path, capsys: Capture, name: str, how: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(stopped["search" if "fidelity" in name else "train"], folder)
    command = "search" if "fidelity" in name else "train"
    outside.put(how, folder / name)
    before = everything(folder)
    code, err = went([command, "--resume", str(folder), "-q"], capsys)
    assert (code, err.count("\n")) == (2, 1), err
    assert err.startswith("autoprog: ")
    assert everything(folder) == before
    assert everything(outside.folder) == outside.before


@pytest.mark.parametrize("how", [*LINKS, "pipe", "folder", "file"])
@pytest.mark.parametrize(
    "name",
    [
        *("checkpoints/.last.pt.tmp", "checkpoints/..next.pt.0123abcd.tmp", ".result.json.tmp"),
        *(".run.yaml.0123abcd.tmp", "notes", "checkpoints.old"),
    ],
)
def test_what_lies_beside_our_files_is_refused_or_left_alone(
    stopped: dict[str, Path], outside: Outside, tmp_path: Path, capsys: Capture, name: str, how: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(stopped["train"], folder)
    outside.put(how, folder / name)
    code, err = went(["train", "--resume", str(folder), "-q"], capsys)
    assert code in (0, 2)
    assert err.count("\n") == (code == 2)
    assert everything(outside.folder) == outside.before
    if how != "file" or "0123abcd" not in name:
        assert kind_of(folder / name) is not None


def test_the_folder_itself_may_be_a_link(
    stopped: dict[str, Path], tmp_path: Path, capsys: Capture
) -> None:
    shutil.copytree(stopped["train"], tmp_path / "run")
    (tmp_path / "link").symlink_to("run")
    assert went(["train", "--resume", str(tmp_path / "link"), "-q"], capsys) == (0, "")
    assert (tmp_path / "run" / "result.json").is_file()


def test_what_a_killed_process_left_is_removed_at_the_next_attempt(
    stopped: dict[str, Path], tmp_path: Path, capsys: Capture
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(stopped["train"], folder)
    names = [
        *(".run.yaml.0123abcd.tmp", "checkpoints/..next.pt.0123abcd.tmp", "checkpoints/.next.pt"),
        *("checkpoints/.final.safetensors.0123abcd.tmp", "workers/.worker-0.json.0123abcd.tmp"),
    ]
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("half")
    assert went(["train", "--resume", str(folder), "-q"], capsys) == (0, "")
    assert [name for name in names if (folder / name).exists()] == []


@pytest.mark.parametrize("how", [*LINKS, "pipe"])
@pytest.mark.parametrize(
    "name", ["workers", "trials", "trials/0000", "study.lock", "search.journal"]
)
def test_a_worker_does_not_join_where_one_of_ours_is_none(
    begun_trials: Path, outside: Outside, tmp_path: Path, capsys: Capture, name: str, how: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(begun_trials, folder)
    outside.put(how, folder / name)
    before = everything(folder)
    code, err = went(["search", "--join", str(folder), "-q"], capsys)
    assert (code, err.count("\n")) == (2, 1), err
    assert everything(folder) == before
    assert everything(outside.folder) == outside.before


def test_a_worker_number_that_is_none_is_one_line(
    begun_trials: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    for number in ("abc", "-1", "", "9" * 5000, "../x"):
        monkeypatch.setenv("AUTOPROG_WORKER", number)
        code, err = went(["search", "--join", str(begun_trials), "-q"], capsys)
        assert (code, err.count("\n")) == (2, 1)
        assert err.startswith("autoprog: AUTOPROG_WORKER: must be a number from 0, but got ")


def test_locks_that_were_copied_along_hold_nobody_up(
    begun_trials: Path, tmp_path: Path, capsys: Capture
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(begun_trials, folder)
    elsewhere = {**asdict(ProcessName("elsewhere", "another boot", 7, 7)), "token": "t"}
    for name, age in (("study.lock", 3600), ("search.journal.lock", -(10**8))):
        (folder / name).write_text(json.dumps(elsewhere))
        at = time.time() - age
        os.utime(folder / name, (at, at))
    assert went(["search", "--join", str(folder), "-q"], capsys)[0] == 0


def test_what_is_no_trial_of_ours_is_neither_removed_nor_written(
    begun_trials: Path, tmp_path: Path, capsys: Capture
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(begun_trials, folder)
    for name in ("0000", "0001/checkpoints"):
        (folder / "trials" / name).mkdir(parents=True)
        (folder / "trials" / name / "thesis.tex").write_text("precious\n")
    assert went(["search", "--join", str(folder), "-q"], capsys)[0] == 0
    for name in ("0000", "0001/checkpoints"):
        inside = everything(folder / "trials" / name)
        assert inside == {"thesis.tex": b"precious\n"}
    assert (folder / "trials" / "0000-2" / "result.json").is_file()


def test_loggers_do_not_write_through_links(
    stopped: dict[str, Path], outside: Outside, tmp_path: Path, capsys: Capture
) -> None:
    pytest.importorskip("tensorboard")
    folder = tmp_path / "run"
    shutil.copytree(stopped["train"], folder)
    (folder / "tensorboard").symlink_to(outside.folder / "docs")
    code, err = went(["export", str(folder), "--format", "tensorboard"], capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert everything(outside.folder) == outside.before


def test_settings_of_wandb_in_a_run_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "settings").write_text("[default]\nbase_url = http://elsewhere\n")
    with pytest.raises(ConfigError, match="wandb/settings: must not be there"):
        check_run_files(tmp_path)


def test_links_of_wandb_within_its_folder_are_fine(tmp_path: Path) -> None:
    (tmp_path / "wandb" / "run-1" / "logs").mkdir(parents=True)
    (tmp_path / "wandb" / "latest-run").symlink_to("run-1")
    (tmp_path / "wandb" / "debug.log").symlink_to("run-1/logs/debug.log")
    check_run_files(tmp_path)
    (tmp_path / "wandb" / "run-1" / "files").symlink_to("../../checkpoints")
    with pytest.raises(ConfigError, match="run-1/files: must be a regular file, but it is a symb"):
        check_run_files(tmp_path)


def test_whatever_a_run_writes_is_known(
    stopped: dict[str, Path], begun_trials: Path, tmp_path: Path
) -> None:
    """A name that is not known would be written through a link."""
    for run in (*stopped.values(), begun_trials):
        names = {path.name for path in run.iterdir()}
        assert names - {*runfiles._FILES, *runfiles._FOLDERS} == set()
        for path in (run / "checkpoints").iterdir():
            assert runfiles._CHECKPOINT.fullmatch(path.name) or path.is_dir()


def test_only_checkpoints_are_removed_as_checkpoints(tmp_path: Path, outside: Outside) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in ("last.pt", "stage-0-12.pt", "best.safetensors"):
        (folder / name).write_text("")
    (folder / "previous.pt").symlink_to(outside.folder / "victim")
    (folder / "mine.pt").write_text("")
    remove_checkpoints(folder)
    assert {path.name for path in folder.iterdir()} == {"mine.pt", "previous.pt"}
    for name in ("mine.pt", "previous.pt"):
        (folder / name).unlink()
    remove_checkpoints(folder)
    assert not folder.exists()
    folder.symlink_to(outside.folder / "docs")
    remove_checkpoints(folder)
    assert everything(outside.folder) == outside.before


Make = Callable[[Path], object]
UNSTARTED: dict[str, tuple[Make, bool]] = {
    "an empty one": (lambda folder: None, True),
    "with a lock": (lambda folder: (folder / "run.lock").touch(), True),
    "with half a manifest": (lambda folder: (folder / ".run.yaml.0123abcd.tmp").touch(), True),
    "with a folder": (lambda folder: (folder / "checkpoints").mkdir(), True),
    "with a checkpoint": (lambda folder: (folder / "checkpoints" / "last.pt").touch(), False),
    "with something else": (lambda folder: (folder / "thesis.tex").touch(), False),
}


@pytest.mark.parametrize(("make", "goes"), UNSTARTED.values(), ids=UNSTARTED)
def test_only_what_was_cut_off_at_its_start_is_removed(
    tmp_path: Path, make: Make, goes: bool
) -> None:
    folder = tmp_path / "0000"
    folder.mkdir()
    if not goes:
        (folder / "checkpoints").mkdir()
    make(folder)
    remove_unstarted(folder)
    assert folder.exists() is not goes


def test_leftovers_of_a_run_without_folders_are_none(tmp_path: Path) -> None:
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["checkpoints", "run.lock", "run.yaml", "events.jsonl"])
def test_a_run_folder_that_cannot_be_made_leaves_nothing(
    tmp_path: Path, manifest: RunManifest, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    mkdir = Path.mkdir

    def no_room(path: Path, *_: object, **__: object) -> object:
        if path.name == name:
            raise OSError(28, "No space left on device")
        return None

    monkeypatch.setattr(
        Path, "mkdir", lambda path, *a, **k: (no_room(path), mkdir(path, *a, **k))[1]
    )
    monkeypatch.setattr(
        "autoprog.runs.open_for_appending",
        lambda path: (no_room(path), open_for_appending(path))[1],
    )
    monkeypatch.setattr(
        "autoprog.runs.write_atomically",
        lambda path, text: (no_room(path), path.write_text(text))[1],
    )
    with pytest.raises(RunError, match="the run folder cannot be made: No space left on device"):
        RunFolder.create(tmp_path / "a" / "b", manifest)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", [*LINKS, "pipe", "folder"])
def test_a_lock_that_is_none_is_not_waited_for(tmp_path: Path, outside: Outside, how: str) -> None:
    outside.put(how, tmp_path / "run.lock")
    assert not is_written_now(tmp_path)
