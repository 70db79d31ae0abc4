"""A run folder or a plan that is looked at: read again only where it has changed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from autoprog.errors import RunError, consistent
from autoprog.fidelity import read_fidelity
from autoprog.runs import load_run
from autoprog.ui.inspect.log import EventLog
from autoprog.ui.subject import Subject, run_start, run_subject

__all__ = ["Follower", "PlanFollower", "RunFollower", "Stamp", "stamp"]

FILES = (
    "run.yaml",
    "schedule.yaml",
    "best.yaml",
    "costs.json",
    "decisions.jsonl",
    "fidelity.json",
    "result.json",
)

Stamp = tuple[tuple[int, int] | None, ...]


class Follower(Protocol):
    """Something to look at, as far as it has been read; ``subject`` is None before the first reading."""

    target: str
    subject: Subject | None

    def advance(self) -> bool:
        """Read on; return whether there is more to read at once."""


class RunFollower:
    """Follows a run folder, which another process may be writing; itself it writes nothing."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.target = str(path)
        self.subject: Subject | None = None
        self._path, self._clock = path, clock
        self._stamp: Stamp = ()
        self._log = EventLog(path / "events.jsonl")

    def advance(self) -> bool:
        """Read what is new of the folder, and the next part of its log.

        Raises:
            ConfigError: If a file in it breaks a law.
            RunError: If the folder is gone.
        """
        if not self._path.is_dir():
            raise RunError(f"{self._path}: the run folder is gone; this is how it was last seen")
        now = stamp(self._path, FILES)
        with consistent(str(self._path)):
            if now != self._stamp:
                self._run, self._fidelity = load_run(self._path), read_fidelity(self._path)
                self._log.begin(run_start(self._run))
                self._stamp = now
            more = self._log.advance()
            self.subject = run_subject(self._run, self._log.state, self._fidelity, self._clock())
        return more


class PlanFollower:
    """A schedule file or a preset, which stays as it was when it was opened."""

    def __init__(self, target: str, subject: Subject) -> None:
        self.target = target
        self.subject: Subject | None = subject

    def advance(self) -> bool:
        """Do nothing."""
        return False


def stamp(folder: Path, names: tuple[str, ...]) -> Stamp:
    """Return what tells a changed file from the one that was read: time in ns and size of each."""
    return tuple(_stamp(folder / name) for name in names)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_mtime_ns, stat.st_size
