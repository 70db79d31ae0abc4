"""Locks as files, for processes of one or many hosts, that do not outlast the process that holds them."""

from __future__ import annotations

import fcntl
import json
import math
import os
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from autoprog.libwarnings import LibraryWarning
from autoprog.openfiles import NotRegularFileError, open_regular
from autoprog.processes import ProcessName, is_gone, process_in, this_process

__all__ = ["FileLock"]

_FIRST_PAUSE_SECONDS = 0.001
_LONGEST_PAUSE_SECONDS = 0.05
_STRANGER_PATIENCE_SECONDS = 5.0
_LONG_SECONDS = 1.0
_SILENT_SECONDS = 3.0
"""After so long a wait, it is asked how old the file is: it may be of a folder that was copied."""

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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.release()

    def acquire(self) -> None:
        """Wait until the lock is ours; warn of a wait of some seconds.

        Raises:
            OSError: If the file cannot be made.
        """
        pause, seen, since, age = _FIRST_PAUSE_SECONDS, None, time.monotonic(), 0.0
        warn_at = since + _SILENT_SECONDS
        while not self._make():
            sight = self._look()
            if sight != seen:
                seen, since, age = sight, time.monotonic(), 0.0
            waited = time.monotonic() - since
            if sight is not None and not age and waited > _LONG_SECONDS:
                age = self._age_seconds(sight)
            if sight is not None and self._is_abandoned(sight, max(waited, age)):
                self._break(sight)
                continue
            if sight is not None and time.monotonic() > warn_at:
                warn_at = math.inf
                self._warn(sight)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def release(self) -> None:
        """Give the lock up, unless somebody has broken it meanwhile."""
        sight = self._look()
        if sight is not None and sight.text == self._mine:
            self._path.unlink(missing_ok=True)

    def _warn(self, sight: _Sight) -> None:
        holder = _process_in(sight.text)
        who = "somebody" if holder is None else f"process {holder.pid} of {holder.host}"
        text = (
            f"waiting for {self._path}, which {who} holds; without a sign of life it is taken over"
        )
        text += f" {self._patience:g} s after it was made"
        warnings.warn(LibraryWarning(text), stacklevel=2)

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
        """Return the lock file as it is now.

        One that is a link, as Optuna makes them, or a pipe, as somebody may have put there, says nothing.
        """
        try:
            with open_regular(self._path, follow_links=False) as file:
                stat = os.fstat(file.fileno())
                text = file.read(_LONGEST_TEXT_BYTES).decode(errors="replace")
            return _Sight(stat.st_ino, stat.st_mtime_ns, text)
        except NotRegularFileError:
            return self._look_at_link()
        except OSError:
            return None

    def _look_at_link(self) -> _Sight | None:
        try:
            stat = os.lstat(self._path)
        except OSError:
            return None
        return _Sight(stat.st_ino, stat.st_mtime_ns, None)

    def _age_seconds(self, sight: _Sight) -> float:
        """Return how long a lock file has stayed the same, by the clock of the file system that holds it.

        One from the future is of no use as a lock, and counts as old.
        """
        try:
            with tempfile.TemporaryFile(dir=self._path.parent) as now:
                age = (os.fstat(now.fileno()).st_mtime_ns - sight.modified_ns) / 1e9
        except OSError:
            return _LONG_SECONDS
        return age if age > -self._patience else math.inf

    def _is_abandoned(self, sight: _Sight, same_for_seconds: float) -> bool:
        holder = _process_in(sight.text)
        if holder is not None:
            return is_gone(holder) or same_for_seconds > self._patience
        return same_for_seconds > min(self._patience, _STRANGER_PATIENCE_SECONDS)

    def _break(self, abandoned: _Sight) -> None:
        """Remove the lock file, unless another process has been faster and holds a new one by now."""
        with _one_at_a_time(self._path.parent):
            if self._look() == abandoned:
                self._path.unlink(missing_ok=True)


def _process_in(text: str | None) -> ProcessName | None:
    """Return the process that a lock file names, if it was written by this class."""
    try:
        return process_in(json.loads(text or ""))
    except (ValueError, RecursionError):
        return None


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Keep two processes of one machine from breaking a lock at once, the second of them a fresh one.

    Across hosts, and on file systems that cannot lock a folder, the moment between look and
    removal stays open, as it does in Optuna.
    """
    file = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
