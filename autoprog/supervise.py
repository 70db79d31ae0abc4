"""Processes of the program itself: started in a group of their own, watched, signalled and ended."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, Any, Literal, Protocol

from autoprog.errors import RunError
from autoprog.openfiles import open_regular
from autoprog.printable import one_line

__all__ = [
    "PROGRAM",
    "Attempt",
    "Child",
    "Row",
    "SignalName",
    "end_all",
    "ending_on_sigterm",
    "last_line",
    "program_in_processes",
]

SignalName = Literal["KILL", "TERM", "INT"]
Row = dict[str, Any]

_ROOT = str(Path(__file__).resolve().parent.parent)
# Not `python -m autoprog`, which looks for modules in the working directory first: a file torch.py
# there would be run. With -c the first entry of sys.path is '', the working directory; the folder
# of this very package replaces it.
_PREPARE = f"import sys; sys.path[0] = {_ROOT!r}; "
PROGRAM = (
    sys.executable,
    "-c",
    f"{_PREPARE}from autoprog.cli import main; sys.exit(main())",
)
"""Words that start this very package anew; those of its command line follow."""
_TORCHRUN = (
    sys.executable,
    "-c",
    f"{_PREPARE}from torch.distributed.run import main; sys.exit(main())",
)

_LAST_BYTES = 2**16  # torchrun reports on every rank after the last line of the program
_INSIST_SECONDS = 0.2


def program_in_processes(num_processes: int, program: tuple[str, ...] = PROGRAM) -> tuple[str, ...]:
    """Return the words that start `program` in so many processes of this machine, through torchrun."""
    if num_processes == 1:
        return program
    places = ("--standalone", "--nproc-per-node", str(num_processes), "--no-python")
    return (*_TORCHRUN, *places, *program)


class Child:
    """A process in a session of its own, so that Ctrl-C in the terminal reaches its parent alone.

    Args:
        words: The whole command line.
        out: An open file for its output.
        err: One for its errors; they go to `out` if it is left out.
        env: The whole environment; that of this process if it is left out.
        held_files: Descriptors that it inherits: a ``flock`` on one lasts as long as the child does.
    """

    def __init__(
        self,
        words: Sequence[str],
        out: IO[Any],
        err: IO[Any] | None = None,
        env: Mapping[str, str] | None = None,
        held_files: Sequence[int] = (),
    ) -> None:
        self._process = subprocess.Popen(
            list(words),
            pass_fds=held_files,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT if err is None else err,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Return the number of the process, which is that of its group."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Return the exit code, below 0 for the number of a signal; None while it runs."""
        return self._process.poll()

    def send(self, name: SignalName) -> None:
        """Send a signal to the process and all that it has started, unless it has ended."""
        if self.exit_code is None:
            self._send_to_group(name)

    def wait(self, timeout_seconds: float) -> bool:
        """Wait for the end; return whether it came in time."""
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """Kill whatever still runs, also what a process that has ended left in its group."""
        self._send_to_group("KILL")
        self._process.wait()

    def _send_to_group(self, name: SignalName) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.Signals[f"SIG{name}"])


class Endable(Protocol):
    """What :func:`end_all` needs of a process."""

    def send(self, name: SignalName) -> None:
        """Send a signal."""

    def wait(self, timeout_seconds: float) -> bool:
        """Wait for the end; return whether it came in time."""

    def kill(self) -> None:
        """Kill whatever still runs."""


def end_all(children: Iterable[Endable], patience_seconds: float, insist: bool = False) -> None:
    """Ask processes to end by SIGTERM, and kill those that still run when the patience is over.

    The first SIGTERM lets a run write a checkpoint. To `insist` is to send it again and again: a second one
    ends the program at once.
    """
    every = list(children)
    running, deadline = every, time.monotonic() + patience_seconds
    pause = _INSIST_SECONDS if insist else patience_seconds
    while running and (left := deadline - time.monotonic()) > 0:
        for child in running:
            child.send("TERM")
        until = time.monotonic() + min(pause, left)
        running = [child for child in running if not child.wait(max(0, until - time.monotonic()))]
    for child in every:
        child.kill()


@contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end this program as an error does, so that what stands in ``finally`` ends its children."""

    def end(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def last_line(log: Path, prefix: str = "") -> str:
    """Return the last line of a log as printable text, or of those that begin with `prefix` if any does.

    Raises:
        OSError: If the file is missing, or a link has been put in its place.
    """
    with open_regular(log, follow_links=False) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_BYTES))
        lines = file.read(_LAST_BYTES).decode(errors="replace").strip().splitlines()
    own = [line for line in lines if line.startswith(prefix)]
    return one_line((own or lines)[-1]) if lines else "nothing was printed"


class Attempt(Child):
    """One attempt at a run: a process of the program whose log is read as it grows.

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
        # Exclusively ("x"), so that nobody can have put a link there.
        with self._err.open("xb") as err, self._err.with_suffix(".out").open("xb") as out:
            command = [*program_in_processes(nproc, PROGRAM), *words]
            super().__init__(command, out, err, held_files=held_files)

    @property
    def folder(self) -> Path:
        """Return the run folder.

        Raises:
            RunError: If there is none.
        """
        log = self._log()
        if log is None:
            raise RunError(f"{self._runs}: no run folder was made: {self.last_line()}")
        return log.parent

    def new_rows(self) -> list[Row]:
        """Return the whole rows of its event log that this attempt has written since the last call."""
        log = self._log()
        if log is None:
            return []
        with log.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]  # the last line may be half written yet
        self._offset += len(whole)
        rows = [json.loads(line) for line in whole.splitlines()]
        return [row for row in rows if row["attempt"] == self.number]

    def last_line(self) -> str:
        """Return the last line on stderr without the program's name; torchrun's own lines come after it."""
        line = last_line(self._err, prefix="autoprog" if self._nproc > 1 else "")
        return re.sub("^autoprog:? ", "", line)

    def has_traceback(self) -> bool:
        """Return whether it ended in a way that users must not see."""
        return b"Traceback (most recent call last)" in self._err.read_bytes()

    def _log(self) -> Path | None:
        return next(self._runs.glob("*/events.jsonl"), None)
