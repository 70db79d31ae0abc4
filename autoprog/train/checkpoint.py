"""Checkpoints: the whole training state in one file, replaced atomically, read without unpickling."""

from __future__ import annotations

import os
import shutil
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from autoprog.errors import RunError
from autoprog.openfiles import replacing

__all__ = ["UNREADABLE", "load_newest", "publish", "stage_as"]

SCHEMA = 1
UNREADABLE = (  # what torch.load raises for damaged and foreign files
    OSError,
    RuntimeError,
    EOFError,
    UnpicklingError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    struct.error,
)


def stage_as(folder: Path, state: dict[str, Any]) -> Path:
    """Write a checkpoint beside the published ones and wait until it is on disk.

    Raises:
        RunError: If the disk is full or the folder cannot be written; published files are untouched.
    """
    staged = folder / ".next.pt"
    try:
        with replacing(staged) as file:
            torch.save({"schema": SCHEMA, **state}, file)
    except (OSError, RuntimeError) as error:
        raise _unwritable(folder, error) from None
    return staged


def publish(folder: Path, staged: Path, keep_as: str | None = None) -> None:
    """Make a written checkpoint the last one, the last one the previous, and keep a copy by name.

    Raises:
        RunError: If the folder cannot be written.
    """
    last = folder / "last.pt"
    try:
        if last.exists():
            last.replace(folder / "previous.pt")
        staged.replace(last)
        if keep_as is not None:
            _link(last, folder / f"{keep_as}.pt")
    except OSError as error:
        raise _unwritable(folder, error) from None


def load_newest(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the newest readable checkpoint and a word on each passed over; None if none is left.

    Its tensors are on the CPU. Those that belong elsewhere are put there by whoever takes them; the step
    counters of an optimizer stay, for on a GPU some optimizers would wait for them in each step.
    """
    complaints: list[str] = []
    for path in _candidates(folder):
        try:
            return _load(path), complaints
        except UNREADABLE as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            complaints.append(f"{path.name} cannot be read ({reason[:80]})")
    if complaints:
        complaints.append("no checkpoint can be read: the run starts from the beginning")
    return None, complaints


def _load(path: Path) -> dict[str, Any]:
    # Ours are zip files; anything else would go to the reader of torch's older format, a bare pickle.
    if not zipfile.is_zipfile(path):
        raise ValueError("damaged, or not a checkpoint")
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or state.get("schema") != SCHEMA:
        raise ValueError("not a checkpoint of this version")
    return state


def _candidates(folder: Path) -> Iterator[Path]:
    return (folder / name for name in ("last.pt", "previous.pt") if (folder / name).exists())


def _unwritable(folder: Path, error: Exception) -> RunError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return RunError(f"{folder}: the checkpoint cannot be written: {reason}")


def _link(source: Path, target: Path) -> None:
    """Keep a second name for a file, or a copy where the file system has no hard links."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        with source.open("rb") as whole, replacing(target) as copy:
            shutil.copyfileobj(whole, copy)
