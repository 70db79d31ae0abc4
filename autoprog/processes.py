"""Processes by names that outlive them, locks that do not outlast their holder, and the workers of a run."""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import socket
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from autoprog.bounds import Count, Index, ProcessNumber, Ticks, UnixSeconds
from autoprog.errors import ConfigError
from autoprog.files import FileModel
from autoprog.libwarnings import LibraryWarning
from autoprog.openfiles import NotRegularFileError, open_regular, read_bytes, write_atomically

__all__ = [
    "NUMBER_VARIABLE",
    "FileLock",
    "ProcessName",
    "WorkerFile",
    "WorkerSeen",
    "WorkerState",
    "WorkerStatus",
    "claim_worker",
    "given_number",
    "is_gone",
    "is_here",
    "log_of",
    "process_in",
    "read_workers",
    "this_process",
]


@dataclass(frozen=True)
class ProcessName:
    """What names one process among all that ever ran.

    ``boot_id`` is of the boot of the machine and, since containers share it, of the process table.
    ``started`` is in clock ticks after the boot; a number is given again to a later process. Where the
    system does not have them, both are empty, and a number that is in use counts as alive.
    """

    host: str
    boot_id: str
    pid: ProcessNumber
    started: Ticks


def process_in(fields: Any) -> ProcessName | None:
    """Return the process that a mapping from a file names; None if it names none."""
    if not isinstance(fields, Mapping):
        return None
    host, boot_id = fields.get("host"), fields.get("boot_id")
    pid, started = fields.get("pid"), fields.get("started")
    if not isinstance(host, str) or not isinstance(boot_id, str):
        return None
    if type(pid) is not int or type(started) is not int or pid < 1:
        return None
    return ProcessName(host, boot_id, pid, started)


def this_process() -> ProcessName:
    """Return the name of the calling process."""
    return _name_of(os.getpid())


def is_here(process: ProcessName) -> bool:
    """Return whether a process would be seen from here: of this boot and process table."""
    here = this_process()
    if here.boot_id:
        return process.boot_id == here.boot_id
    return (process.host, process.boot_id) == (here.host, "")


def is_gone(process: ProcessName) -> bool:
    """Return whether a process certainly runs no more; of one that would not be seen, nothing is certain."""
    if not is_here(process):
        return False  # not even after a reboot here: two machines may have one host name
    found = _state_and_start(process.pid)
    if found is not None:
        state, started = found
        # A zombie (Z) does nothing but wait for its parent; with another start it is another process.
        return state in ("Z", "X") or started != process.started
    try:
        os.kill(process.pid, 0)
    except (ProcessLookupError, OverflowError):  # no process has such a number
        return True
    except PermissionError:  # of another user, whose processes the table hides
        pass
    return False


@lru_cache(maxsize=4)
def _name_of(pid: int) -> ProcessName:
    """Return the name of a process of this machine; by number, since a fork has another one."""
    boot, table = "", ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        table = os.readlink("/proc/self/ns/pid")
    _, started = _state_and_start(pid) or ("", 0)
    return ProcessName(socket.gethostname(), f"{boot} {table}".strip(), pid, started)


def _state_and_start(pid: int) -> tuple[str, int] | None:
    """Return the state of a process and its start in ticks after the boot; None if the table hides it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    state, *fields = stat[stat.rindex(")") + 2 :].split()
    return state, int(fields[18])


# Locks as files, for processes of one or many hosts. The package filelock would do on one machine: its
# locks go by flock, which does not work on some shared file systems, and do not exclude Optuna's own;
# its soft ones outlast a holder that was killed.

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.001, 0.05
_STRANGER_PATIENCE_SECONDS = 5.0
_SECONDS_BEFORE_AGE = 1.0  # so long is waited before the clock of the file system is asked
_SECONDS_BEFORE_WARNING = 3.0
_LONGEST_TEXT_BYTES = 4096


@dataclass(frozen=True)
class _Sight:
    """A lock file as it was seen: a new holder makes a new file."""

    inode: int
    modified_ns: int
    text: str | None


class FileLock:
    """A file that exists while somebody holds the lock, and says who.

    It is made exclusively, which works on any file system that several hosts share (``flock`` does not on
    some), and by the name and in the way that Optuna uses, so that both exclude each other. A holder of this
    machine is looked up among its processes, and once it is gone, the lock is broken at once. Otherwise
    it is broken after the file has stayed the same for `patience_seconds`, by the clock of who waits or by
    that of the file system; for 5 s, if it does not say who made it: Optuna holds a lock for the milliseconds
    of one append.

    Args:
        path: The file; its folder must exist.
        patience_seconds: The longest that somebody may hold the lock.
    """

    def __init__(self, path: Path, patience_seconds: float = 30.0) -> None:
        self._path, self._patience = path, patience_seconds
        self._mine = ""

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Wait until the lock is ours; warn of a wait of some seconds.

        Raises:
            OSError: If the file cannot be made.
        """
        pause, seen, since, age = _FIRST_PAUSE_SECONDS, None, time.monotonic(), 0.0
        warn_at = since + _SECONDS_BEFORE_WARNING
        while not self._make():
            sight = self._look()
            if sight != seen:  # another holder, with whom the patience begins anew
                seen, since, age = sight, time.monotonic(), 0.0
            if sight is not None:
                waited = time.monotonic() - since
                if not age and waited > _SECONDS_BEFORE_AGE:
                    age = self._age_seconds(sight)  # it may be of a folder that was copied long ago
                if self._is_abandoned(sight, max(waited, age)):
                    self._break(sight)
                    continue
                if time.monotonic() > warn_at:
                    warn_at = math.inf
                    holder = _process_in(sight.text)
                    who = "somebody" if holder is None else f"process {holder.pid} of {holder.host}"
                    text = f"waiting for {self._path}, which {who} holds; without a sign of life it"
                    text += f" is taken over {self._patience:g} s after it was made"
                    warnings.warn(LibraryWarning(text), stacklevel=2)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def release(self) -> None:
        """Give the lock up, unless somebody has broken it meanwhile."""
        sight = self._look()
        if sight is not None and sight.text == self._mine:
            self._path.unlink(missing_ok=True)

    def _make(self) -> bool:
        try:
            file = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return False
        self._mine = json.dumps({**asdict(this_process()), "token": uuid.uuid4().hex})
        try:
            os.write(file, self._mine.encode())
        except OSError:  # no room: the lock holds without a name, and is broken as a stranger's
            self._mine = ""
        finally:
            os.close(file)
        return True

    def _look(self) -> _Sight | None:
        """Return the lock file as it is now, or None if there is none.

        One that is a link, as Optuna makes them, or a pipe, as somebody may have put there, says nothing.
        """
        try:
            try:
                with open_regular(self._path, follow_links=False) as file:
                    stat = os.fstat(file.fileno())
                    text = file.read(_LONGEST_TEXT_BYTES).decode(errors="replace")
                return _Sight(stat.st_ino, stat.st_mtime_ns, text)
            except NotRegularFileError:
                stat = os.lstat(self._path)
                return _Sight(stat.st_ino, stat.st_mtime_ns, None)
        except OSError:
            return None

    def _age_seconds(self, sight: _Sight) -> float:
        """Return how long a lock file has stayed the same, by the clock of the file system that holds it.

        One from the future is of no use as a lock, and counts as old.
        """
        try:
            with tempfile.TemporaryFile(dir=self._path.parent) as now:
                age = (os.fstat(now.fileno()).st_mtime_ns - sight.modified_ns) / 1e9
        except OSError:
            return _SECONDS_BEFORE_AGE
        return age if age > -self._patience else math.inf

    def _is_abandoned(self, sight: _Sight, same_for_seconds: float) -> bool:
        holder = _process_in(sight.text)
        if holder is not None:
            return is_gone(holder) or same_for_seconds > self._patience
        return same_for_seconds > min(self._patience, _STRANGER_PATIENCE_SECONDS)

    def _break(self, abandoned: _Sight) -> None:
        """Remove the lock file, unless another process has been faster and holds a new one by now.

        Under a lock on the folder, so that two processes of one machine do not break it at once, the second a
        fresh one. Across hosts, and on file systems that cannot lock a folder, the moment between look
        and removal stays open, as it does in Optuna.
        """
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            with suppress(OSError):
                fcntl.flock(folder, fcntl.LOCK_EX)
            if self._look() == abandoned:
                self._path.unlink(missing_ok=True)
        finally:
            os.close(folder)


def _process_in(text: str | None) -> ProcessName | None:
    """Return the process that a lock file names, if it was written by this class."""
    try:
        return process_in(json.loads(text or ""))
    except (ValueError, RecursionError):
        return None


# The workers of a run: each says in a file of the run folder what it does, for whoever shows the run.

WorkerState = Literal["starting", "waiting", "running", "done", "failed"]

NUMBER_VARIABLE = "AUTOPROG_WORKER"
"""Environment variable with the number that was claimed for a worker."""

_FOLDER = "workers"
_BEAT_SECONDS = 5.0
_SILENT_WORKER_SECONDS = 60.0  # twelve beats: one of another host counts as dead after that
_MAX_STATUS_BYTES = 2**20


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
    """A worker as others see it."""

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
            status = WorkerStatus.model_validate_json(read_bytes(path, _MAX_STATUS_BYTES))
            # A process of this machine is looked up; one of another host is known by its beats alone.
            is_alive = status.state not in ("done", "failed") and (
                not is_gone(status.process)
                if is_here(status.process)
                else time.time() - status.updated < _SILENT_WORKER_SECONDS
            )
            found.append(WorkerSeen(status, is_alive))
    return sorted(found, key=lambda seen: seen.status.worker)


def _path(folder: Path, number: int, suffix: str) -> Path:
    return folder / _FOLDER / f"worker-{number}.{suffix}"
