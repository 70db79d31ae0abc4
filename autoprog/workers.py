"""The workers of a run: each says in a file of the run folder what it does, for all who look on."""

from __future__ import annotations

import os
import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from autoprog.bounds import Count, Index, UnixSeconds
from autoprog.errors import ConfigError
from autoprog.files import FileModel
from autoprog.openfiles import read_bytes, write_atomically
from autoprog.processes import ProcessName, is_gone, is_here, this_process

__all__ = [
    "NUMBER_VARIABLE",
    "WorkerFile",
    "WorkerSeen",
    "WorkerState",
    "WorkerStatus",
    "claim_worker",
    "given_number",
    "log_of",
    "read_workers",
]

WorkerState = Literal["starting", "waiting", "running", "done", "failed"]

NUMBER_VARIABLE = "AUTOPROG_WORKER"
"""Environment variable by which a worker is told the number that was claimed for it."""

_FOLDER = "workers"
_BEAT_SECONDS = 5.0
_SILENT_SECONDS = 60.0
_MOST_STATUS_BYTES = 2**20


class WorkerStatus(FileModel):
    """``workers/worker-0.json``: what a worker does. Times are in seconds since 1970.

    ``trial`` is under way since ``since``; ``num_trials`` were begun, that one included.
    """

    worker: Index
    process: ProcessName
    state: WorkerState
    trial: Index | None = None
    since: UnixSeconds
    num_trials: Count = 0
    message: str = ""
    updated: UnixSeconds


@dataclass(frozen=True)
class WorkerSeen:
    """A worker as one sees it who looks on."""

    status: WorkerStatus
    is_alive: bool


class WorkerFile:
    """The file of one worker, which that alone writes, from any of its threads."""

    def __init__(self, folder: Path, number: int) -> None:
        self.number = number
        self._path = _path(folder, number, "json")
        self._path.parent.mkdir(exist_ok=True)
        self._lock = threading.Lock()
        now = time.time()
        self._status = WorkerStatus(
            worker=number, process=this_process(), state="starting", since=now, updated=now
        )
        self._write({})

    def say(self, state: WorkerState, message: str = "", trial: int | None = None) -> None:
        """Say what the worker does from now on; to say the same again is to beat."""
        with self._lock:
            status, now = self._status, time.time()
            if (status.state, status.trial) != (state, trial):
                begun = status.num_trials + (trial is not None)
                changes = {"state": state, "message": message, "trial": trial, "num_trials": begun}
                self._write({**changes, "since": now, "updated": now})
                return
        self.beat()

    def beat(self) -> None:
        """Show that the worker lives, if it has not done so for some seconds."""
        with self._lock:
            now = time.time()
            if now - self._status.updated >= _BEAT_SECONDS:
                self._write({"updated": now})

    def _write(self, changes: dict[str, Any]) -> None:
        self._status = self._status.model_copy(update=changes)
        with suppress(OSError):  # nobody's work depends on it
            write_atomically(self._path, self._status.model_dump_json() + "\n")


def claim_worker(folder: Path) -> int:
    """Return a number that no worker of this run has, and make ``workers/worker-0.log`` for it."""
    (folder / _FOLDER).mkdir(exist_ok=True)
    number = 0
    while True:
        try:
            log_of(folder, number).open("x").close()
        except FileExistsError:
            number += 1
        else:
            return number


def given_number() -> int | None:
    """Return the number that whoever started this worker has claimed for it, if anybody did.

    Raises:
        ConfigError: If the environment holds something else.
    """
    number = os.environ.get(NUMBER_VARIABLE)
    if number is not None and not re.fullmatch(r"[0-9]{1,6}", number):
        raise ConfigError(NUMBER_VARIABLE, "", "must be a number from 0", number, "unset it")
    return None if number is None else int(number)


def log_of(folder: Path, number: int) -> Path:
    """Return the file that the output of a worker goes to."""
    return _path(folder, number, "log")


def read_workers(folder: Path) -> list[WorkerSeen]:
    """Return all workers that a run ever had, by number; what cannot be read is left out."""
    found = []
    for path in (folder / _FOLDER).glob("worker-*.json"):
        with suppress(OSError, ValueError):
            status = WorkerStatus.model_validate_json(read_bytes(path, _MOST_STATUS_BYTES))
            found.append(WorkerSeen(status, _is_alive(status, time.time())))
    return sorted(found, key=lambda seen: seen.status.worker)


def _is_alive(status: WorkerStatus, now: float) -> bool:
    if status.state in ("done", "failed") or is_gone(status.process):
        return False
    return is_here(status.process) or now - status.updated < _SILENT_SECONDS


def _path(folder: Path, number: int, suffix: str) -> Path:
    return folder / _FOLDER / f"worker-{number}.{suffix}"
