"""Checkpoints: the whole training state in one file, replaced atomically, read without unpickling."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from autoprog.errors import RunError
from autoprog.openfiles import open_regular, replacing
from autoprog.train.torch_files import NotLoadedError, load_torch

__all__ = ["MisfitStateError", "load_newest", "publish", "stage_as"]

SCHEMA = 1


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


class MisfitStateError(ValueError):
    """A checkpoint that is whole, but whose values are not those of the run; says which."""


def load_newest(
    folder: Path, check: Callable[[dict[str, Any]], None] | None = None
) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the newest readable checkpoint and a word on each passed over; None if none is left.

    Its tensors are on the CPU. Those that belong elsewhere are put there by whoever takes them; the step
    counters of an optimizer stay, for on a GPU some optimizers would wait for them in each step.

    Args:
        folder: Of the checkpoints.
        check: Raises :class:`MisfitStateError` for values that a run cannot be put into.
    """
    complaints: list[str] = []
    for path in _candidates(folder):
        try:
            state = _load(path)
            if check is not None:
                check(state)
            return state, complaints
        except MisfitStateError as error:
            complaints.append(f"{path.name} does not fit this run ({error})")
        except (NotLoadedError, OSError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            complaints.append(f"{path.name} cannot be read ({reason})")
    if complaints:
        complaints.append("no checkpoint can be read: the run starts from the beginning")
    return None, complaints


def _load(path: Path) -> dict[str, Any]:
    # Ours are zip files; anything else would go to the reader of torch's older format, a bare pickle.
    with open_regular(path) as file:
        if file.read(4) != b"PK\x03\x04" or not zipfile.is_zipfile(file):
            raise NotLoadedError("damaged, or not a checkpoint")
    state = load_torch(path)
    schema = state.get("schema") if isinstance(state, dict) else None
    if not isinstance(schema, int) or schema != SCHEMA:  # a tensor is neither equal nor not
        raise NotLoadedError("not a checkpoint of this version")
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
