"""One attempt at a run: the program in a process group of its own, its log read as it grows."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from autoprog.bench.stress_plan import Aim
from autoprog.errors import AutoprogError, RunError
from autoprog.program import PROGRAM, program_in_processes

__all__ = ["EXIT_CODES", "Attempt", "RefusedError", "follow"]

EXIT_CODES = {"KILL": -signal.SIGKILL, "TERM": 143, "INT": 130}
"""What an attempt ends with when it gets that signal."""

_POLL_SECONDS = 0.004

Row = dict[str, Any]


class RefusedError(AutoprogError):
    """A command line that the program itself refuses."""

    exit_code = 2


class Attempt:
    """A process that writes a run folder.

    Args:
        words: What stands after ``autoprog`` on its command line.
        runs: Folder with at most the one run folder that it writes.
        number: Of the attempt, from 0; names the files that its output goes to.
        nproc: Processes that carry it out, started by torchrun if there are several.
        held_files: Descriptors of files that it holds open, for the locks on them.
    """

    def __init__(
        self,
        words: Sequence[str],
        runs: Path,
        number: int,
        nproc: int = 1,
        held_files: Sequence[int] = (),
    ) -> None:
        self.number, self._runs, self._offset, self._nproc = number, runs, 0, nproc
        self._err = runs.with_name(f"{runs.name}-attempt-{number}.err")
        # Made anew, so that nobody can have put a link there.
        with self._err.open("xb") as err, self._err.with_suffix(".out").open("xb") as out:
            self._process = subprocess.Popen(
                [*program_in_processes(nproc, PROGRAM), *words],
                pass_fds=held_files,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def exit_code(self) -> int | None:
        """Return the exit code, below 0 for the number of a signal; None while it runs."""
        return self._process.poll()

    @property
    def folder(self) -> Path:
        """Return the run folder.

        Raises:
            RunError: If there is none.
        """
        found = self._log()
        if found is None:
            raise RunError(f"{self._runs}: no run folder was made: {self.last_words()}")
        return found.parent

    def new_rows(self) -> list[Row]:
        """Return the whole rows that this attempt has written since the last call."""
        log = self._log()
        if log is None:
            return []
        with log.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        rows = [json.loads(line) for line in whole.splitlines()]
        return [row for row in rows if row["attempt"] == self.number]

    def send(self, name: str) -> None:
        """Send a signal to the process and its workers."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.Signals[f"SIG{name}"])

    def wait(self, timeout_seconds: float) -> None:
        """Wait for the end.

        Raises:
            RunError: If it does not come in time; the process is killed then.
        """
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.end()
            raise RunError(
                f"attempt {self.number + 1} did not end within {timeout_seconds:.0f} s of its signal"
            ) from None

    def end(self) -> None:
        """Kill whatever still runs."""
        self.send("KILL")
        self._process.wait()

    def last_words(self) -> str:
        """Return the last line that it wrote on stderr; its own one where torchrun says more after it."""
        lines = self._err.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        own = [line for line in lines if line.startswith("autoprog")] if self._nproc > 1 else []
        return re.sub("^autoprog:? ", "", (own or lines)[-1]) if lines else "nothing was said"

    def has_traceback(self) -> bool:
        """Tell whether it ended in a way that users must not see."""
        return b"Traceback (most recent call last)" in self._err.read_bytes()

    def _log(self) -> Path | None:
        return next(self._runs.glob("*/events.jsonl"), None)


def follow(
    attempt: Attempt,
    aim: Aim | None,
    stall_seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> Generator[Row, None, bool]:
    """Yield the rows of an attempt as they come; strike where `aim` says; return whether that was done.

    Raises:
        RunError: If no row comes for `stall_seconds`; the process is killed then.
    """
    told_at, due = clock(), None
    while True:
        ended = attempt.exit_code is not None  # asked before reading, so that no row is missed
        rows = attempt.new_rows()
        yield from rows
        now = clock()
        told_at = now if rows else told_at
        if ended:
            return False
        if aim is not None and due is None and any(map(aim.is_reached_by, rows)):
            due = now + aim.delay_seconds
        if due is not None and now >= due:
            assert aim is not None
            attempt.send(aim.signal)
            return True
        if now - told_at > stall_seconds:
            attempt.end()
            raise RunError(
                f"attempt {attempt.number + 1} told nothing for {stall_seconds:.0f} s:"
                " a dead-lock; it was killed"
            )
        time.sleep(_POLL_SECONDS if due is None else min(_POLL_SECONDS, max(0.0, due - now)))
