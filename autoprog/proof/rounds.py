"""The runs of one seed, one for each arm: each a process of the program itself, each resumable."""

from __future__ import annotations

import fcntl
import shutil
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from autoprog.bench.stress_child import Attempt
from autoprog.errors import RunError
from autoprog.files import parse
from autoprog.jsonlines import read_object
from autoprog.runs import Result

__all__ = [
    "Arm",
    "ArmEnded",
    "ArmStarted",
    "Process",
    "Round",
    "Start",
    "Waiting",
    "alone",
    "starter",
]

Arm = str
"""Name of one way to train, such as ``baseline``."""

_POLL_SECONDS = 0.1
_LAST_SECONDS = 60.0


@dataclass(frozen=True)
class ArmStarted:
    """A run has been started, or gone on with."""

    seed: int
    arm: Arm
    resumed: bool


@dataclass(frozen=True)
class ArmEnded:
    """A run is complete; ``reused`` if it was so before."""

    seed: int
    arm: Arm
    result: Result
    reused: bool


@dataclass(frozen=True)
class Waiting:
    """Runs are under way."""


class Process(Protocol):
    """What is asked of a running arm."""

    @property
    def exit_code(self) -> int | None:
        """Return the exit code; None while it runs."""

    def send(self, name: str) -> None:
        """Send a signal, such as ``TERM``."""

    def wait(self, timeout_seconds: float) -> None:
        """Wait for the end."""

    def end(self) -> None:
        """Kill it."""

    def last_words(self) -> str:
        """Return the last line that it wrote on stderr."""


Start = Callable[[Sequence[str], Path, int], Process]
"""Starts the program: its words, the folder for its one run folder, the number of the attempt."""


def starter(nproc: int, lock: int) -> Start:
    """Return what starts an arm in so many processes, through torchrun if there are several.

    Each holds `lock`, a file descriptor, so that its folder stays locked while it runs on, whatever becomes
    of this process.
    """
    return partial(Attempt, nproc=nproc, held_files=(lock,))


class Round:
    """The runs of one seed in a folder.

    Args:
        folder: Holds a folder for each seed and arm.
        seed: Of all of them.
        words: Of each arm: what stands after ``autoprog``, without seed and folder.
        start: Starts one.
        cure: What to do about a run that failed.
    """

    def __init__(
        self, folder: Path, seed: int, words: Mapping[Arm, Sequence[str]], start: Start, cure: str
    ) -> None:
        self._folder, self._seed, self._words = folder, seed, words
        self._start, self._cure = start, cure

    def carry_out(
        self, order: Iterable[Arm], at_once: int = 1
    ) -> Generator[ArmStarted | ArmEnded | Waiting, None, dict[Arm, Result]]:
        """Make the runs that are missing, the next as soon as fewer than `at_once` go on; return all results.

        Raises:
            RunError: If a run fails.
        """
        results: dict[Arm, Result] = {}
        missing = []
        for arm in order:
            done = self._result(arm)
            if done is None:
                missing.append(arm)
            else:
                results[arm] = done
                yield ArmEnded(self._seed, arm, done, reused=True)
        yield from self._run(missing, at_once, results)
        return results

    def _run(
        self, arms: Iterable[Arm], at_once: int, results: dict[Arm, Result]
    ) -> Iterator[ArmStarted | ArmEnded | Waiting]:
        waiting, running = deque(arms), dict[Arm, Process]()
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    arm = waiting.popleft()
                    found = self._broken_run(arm)
                    running[arm] = self._started(arm, found)
                    yield ArmStarted(self._seed, arm, resumed=found is not None)
                for arm in [arm for arm, one in running.items() if one.exit_code is not None]:
                    results[arm] = self._ended(arm, running.pop(arm))
                    yield ArmEnded(self._seed, arm, results[arm], reused=False)
                if running:
                    yield Waiting()
                    time.sleep(_POLL_SECONDS)
        finally:
            _end(running.values())

    def _started(self, arm: Arm, found: Path | None) -> Process:
        words, runs = tuple(self._words[arm]), self._runs(arm)
        runs.mkdir(exist_ok=True)
        if found is not None:
            words = (words[0], "--resume", str(found), "-q")
        else:
            words = (*words, "--seed", str(self._seed), "--runs-dir", str(runs), "-q")
        number = len(list(self._folder.glob(f"{runs.name}-attempt-*.err")))
        return self._start(words, runs, number)

    def _ended(self, arm: Arm, process: Process) -> Result:
        result = self._result(arm) if process.exit_code == 0 else None
        if result is None:
            raise RunError(
                f"{self._runs(arm)}: the run ended with exit code {process.exit_code}:"
                f" {process.last_words()}; {self._cure}"
            )
        return result

    def _result(self, arm: Arm) -> Result | None:
        path = next(self._runs(arm).glob("*/result.json"), None)
        return None if path is None else parse(Result, read_object(path), str(path))

    def _broken_run(self, arm: Arm) -> Path | None:
        """Return the run that was begun; one that was stopped before its start is removed."""
        needed = "run.yaml" if self._words[arm][0] == "search" else "schedule.yaml"
        for path in [path for path in self._runs(arm).glob("*") if path.is_dir()]:
            if (path / needed).exists():
                return path
            shutil.rmtree(path)
        return None

    def _runs(self, arm: Arm) -> Path:
        return self._folder / f"seed-{self._seed}-{arm}"


def _end(processes: Iterable[Process]) -> None:
    """Let runs that are still under way write a checkpoint and end."""
    waiting = list(processes)
    for process in waiting:
        process.send("TERM")
    for process in waiting:
        with suppress(RunError):
            process.wait(_LAST_SECONDS)
        process.end()


@contextmanager
def alone(folder: Path, name: str) -> Iterator[int]:
    """Hold the lock file `name` of a folder; yield its file descriptor.

    Raises:
        RunError: If another process holds it.
    """
    with (folder / name).open("a", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            why = "another process is at it, or a run that one started still goes on"
            raise RunError(f"{folder}: {why}; wait for it or stop it") from None
        yield lock.fileno()
