"""Checkpoints: the whole training state in one file, replaced atomically, read without unpickling."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from autoprog.errors import RunError

__all__ = ["load_newest", "publish", "stage_as"]

SCHEMA = 1


def stage_as(folder: Path, state: dict[str, Any]) -> Path:
    """Write a checkpoint beside the published ones and wait until it is on disk.

    Raises:
        RunError: If the disk is full or the folder cannot be written; published files are untouched.
    """
    temporary = folder / ".next.pt"
    try:
        with temporary.open("wb") as file:
            torch.save({"schema": SCHEMA, **state}, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise RunError(f"{folder}: the checkpoint cannot be written: {error}") from None
    return temporary


def publish(folder: Path, temporary: Path, keep_as: str | None = None) -> None:
    """Make a written checkpoint the last one, the last one the previous, and keep a copy by name."""
    last = folder / "last.pt"
    if last.exists():
        last.replace(folder / "previous.pt")
    temporary.replace(last)
    if keep_as is not None:
        _link(last, folder / f"{keep_as}.pt")


def load_newest(folder: Path, device: torch.device) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the newest readable checkpoint and a word on each passed over; None if none is left."""
    complaints: list[str] = []
    for path in _candidates(folder):
        try:
            state = torch.load(path, map_location=device, weights_only=True)
        except (OSError, RuntimeError, EOFError, UnpicklingError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            complaints.append(f"{path.name} cannot be read ({reason[:80]}); trying an older one")
            continue
        if isinstance(state, dict) and state.get("schema") == SCHEMA:
            return state, complaints
        complaints.append(f"{path.name} is no checkpoint of this version; trying an older one")
    return None, complaints


def _candidates(folder: Path) -> Iterator[Path]:
    return (folder / name for name in ("last.pt", "previous.pt") if (folder / name).exists())


def _link(source: Path, target: Path) -> None:
    """Keep a second name for a file, or a copy where the file system has no hard links."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
