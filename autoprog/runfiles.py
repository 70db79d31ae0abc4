"""What lies in a run folder: the names that autoprog writes there, and what of it is ours to remove.

A run folder may come from somebody else. So each of our names is checked before anything is written, and
nothing is removed that autoprog has not made.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from autoprog.errors import ConfigError
from autoprog.openfiles import kind_of, remove_temporary_files

__all__ = [
    "check_run_files",
    "remove_checkpoints",
    "remove_leftovers",
    "remove_unstarted",
]

_APPENDED = (
    "events.jsonl",
    "decisions.jsonl",
    "inputs.jsonl",
    "fidelity.jsonl",
    "search.journal",
    "search.journal.bak",
)
_REPLACED = (
    "run.yaml",
    "schedule.yaml",
    "best.yaml",
    "costs.json",
    "fidelity.json",
    "budget.json",
    "budget.csv",
    "result.json",
)
_FILES = (*_APPENDED, *_REPLACED, "curve.jsonl", "run.lock", "study.lock", ".clock")
_FOLDERS = ("checkpoints", "workers", "trials", "tensorboard", "wandb")
_CHECKPOINT = re.compile(
    r"(\.next|last|previous|stage-\d+-\d+)\.pt|(best|final|final_ema)(_tables)?\.safetensors"
)
_FILES_OF = {"checkpoints": _CHECKPOINT, "workers": re.compile(r"worker-\d+\.(json|log)")}
_TEMPORARY_OF = {  # the files of each folder that are replaced, as patterns
    ".": _REPLACED,
    "checkpoints": ("*.pt", "*.safetensors"),
    "checkpoints/fidelity": ("*.pt",),
    "workers": ("worker-*.json",),
}


def check_run_files(folder: Path) -> None:
    """Refuse a run folder in which one of ours is a link, a pipe, or a folder in place of a file.

    The folder itself may be a link: the user has named it. What lies beside our files and folders is nobody's
    business here.

    Raises:
        ConfigError: With the first that is not as autoprog makes it.
    """
    _check_names(folder)
    trials = folder / "trials"
    for trial in sorted(trials.iterdir()) if trials.exists() else ():
        _check(trial, "a folder")
        _check_names(trial)


def _check_names(folder: Path) -> None:
    for name in _FILES:
        _check(folder / name, "a regular file")
    for path in (folder / name for name in _APPENDED):
        # What is appended to one name of a file would appear under its other names as well.
        if path.exists() and path.stat().st_nlink > 1:
            problem = "must be a file of its own, but other names lead to it, too"
            raise ConfigError(str(path), "", problem, hint="put a copy in its place")
    for name in _FOLDERS:
        _check(folder / name, "a folder")
    for name in ("checkpoints", "workers", "tensorboard", "wandb"):
        pattern = _FILES_OF.get(name)
        for path in _below(folder / name):
            is_our_file = pattern is not None and pattern.fullmatch(path.name)
            is_fine = kind_of(path) == "a folder" and not is_our_file
            if not is_fine and not _is_link_of_wandb(path, folder / name):
                _check(path, "a regular file")
    _check(folder / "checkpoints" / "fidelity", "a folder")
    settings = folder / "wandb" / "settings"
    if kind_of(settings) is not None:
        problem = "must not be there: W&B would go by it, and might send the run elsewhere"
        raise ConfigError(str(settings), "", problem, hint="remove it")


def _check(path: Path, wanted: str) -> None:
    found = kind_of(path)
    if found not in (wanted, None):
        problem, hint = (
            f"must be {wanted}, but it is {found}",
            "remove it, or put a copy in its place",
        )
        raise ConfigError(str(path), "", problem, hint=hint)


def _is_link_of_wandb(path: Path, folder: Path) -> bool:
    """Return whether a link is one that W&B makes, such as ``latest-run``, which leads to its own files."""
    if folder.name != "wandb" or not path.is_symlink():
        return False
    target = os.path.realpath(path)  # still a link where links lead around in a circle
    return target.startswith(os.path.realpath(folder) + os.sep) and not os.path.islink(target)


def _below(folder: Path) -> Iterator[Path]:
    """Yield everything in a folder, at any depth, but for that behind links."""
    waiting = [folder] if folder.exists() else []
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                path = Path(entry.path)
                yield path
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)


def remove_leftovers(folder: Path) -> None:
    """Remove half-written files of processes that were killed; for whoever holds the lock of the run."""
    for name, patterns in _TEMPORARY_OF.items():
        if kind_of(folder / name) == "a folder":
            remove_temporary_files(folder / name, patterns)
        # whole, but a kill came before it was made the last one
        if name.startswith("checkpoints"):
            (folder / name / ".next.pt").unlink(missing_ok=True)


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints and weights of a run, and their folder where nothing else is in it."""
    if kind_of(folder) != "a folder":
        return
    with suppress(OSError):  # nothing depends on it
        for path in folder.iterdir():
            if _CHECKPOINT.fullmatch(path.name) and kind_of(path) == "a regular file":
                path.unlink()
        folder.rmdir()


def remove_unstarted(folder: Path) -> None:
    """Remove the folder of a run that was cut off before it had a ``run.yaml``, if it holds nothing else."""
    if kind_of(folder) != "a folder":
        return
    with suppress(OSError):
        remove_leftovers(folder)
        if {path.name for path in folder.iterdir()} <= {"checkpoints", "run.lock"}:
            with suppress(FileNotFoundError):
                (folder / "checkpoints").rmdir()
            (folder / "run.lock").unlink(missing_ok=True)
            folder.rmdir()
