"""Leases: who works on a trial, and how the others tell that nobody does any more."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError

from autoprog.openfiles import open_for_appending
from autoprog.processes import ProcessName, is_gone, is_here, process_in

__all__ = ["Clock", "Lease", "LeaseKeeper", "Verdict", "folder_clock", "lease_in", "verdict_on"]

Clock = Callable[[], float]
Verdict = Literal["held", "doubtful", "lost"]

_MOST_TICK_SECONDS = 5.0


@dataclass(frozen=True)
class Lease:
    """A worker's hold on a trial until ``expires``, in seconds since 1970 by the clock of the study."""

    holder: ProcessName
    worker: int
    expires: float

    def attribute(self) -> dict[str, Any]:
        """Return the user attribute that says so."""
        return {**asdict(self.holder), "worker": self.worker, "expires": self.expires}


def lease_in(attribute: Any) -> Lease | None:
    """Return the lease that a user attribute holds, if it is one."""
    name = process_in(attribute)
    if name is None:
        return None
    worker, expires = attribute.get("worker"), attribute.get("expires")
    is_one = type(worker) is int and type(expires) in (int, float) and math.isfinite(expires)
    return Lease(name, worker, float(expires)) if is_one else None


def verdict_on(lease: Lease, now: float) -> Verdict:
    """Tell whether a lease holds.

    A process of this machine that is gone has lost its lease at once. One that lives but has not renewed it
    is doubtful: a machine that slept finds all its leases expired when it wakes up.
    """
    if is_gone(lease.holder):
        return "lost"
    if lease.expires >= now:
        return "held"
    return "doubtful" if is_here(lease.holder) else "lost"


def folder_clock(folder: Path) -> Clock:
    """Return a clock that all who share a folder agree on: the one of the file system that holds it.

    The clocks of hosts may differ by more than a lease lasts.
    """
    probe = folder / ".clock"

    def now() -> float:
        try:
            with open_for_appending(probe) as file:
                os.utime(file.fileno())  # without times: a file server then takes its own clock
                return os.fstat(file.fileno()).st_mtime
        except OSError:  # made by another user, no file, or a full disk
            return time.time()

    return now


class LeaseKeeper:
    """Renews a lease in a thread of its own, as long as the block it guards runs.

    Args:
        lease: As it was written first.
        write: Writes one into the trial.
        clock: The clock of the study.
        seconds: How long a lease lasts; it is renewed when a third of that has gone by.
        beat: Called every few seconds.
    """

    def __init__(
        self,
        lease: Lease,
        write: Callable[[Lease], None],
        clock: Clock,
        seconds: float,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self._lease, self._write, self._clock, self._seconds = lease, write, clock, seconds
        self._beat = beat
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self.is_lost = False

    def __enter__(self) -> LeaseKeeper:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()

    def _keep(self) -> None:
        # Ticks are short, so that a machine that wakes up renews its leases before others look twice.
        while not self._done.wait(min(_MOST_TICK_SECONDS, self._seconds / 6)):
            self._beat()
            if self._lease.expires - self._clock() < 2 / 3 * self._seconds and not self._renew():
                return

    def _renew(self) -> bool:
        """Write a later end; return whether the trial is still ours."""
        renewed = replace(self._lease, expires=self._clock() + self._seconds)
        try:
            self._write(renewed)
        except UpdateFinishedTrialError:
            self.is_lost = True
            return False
        except (OSError, StorageInternalError):
            return True  # a full disk or a database that restarts: the next tick tries again
        self._lease = renewed
        return True
