"""Carry out a verification: pairs of runs of the program itself, each of them resumable."""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from autoprog.bench.stress_child import Attempt
from autoprog.errors import ConfigError, RunError
from autoprog.files import parse, write_atomically
from autoprog.jsonlines import read_object
from autoprog.proof.pairs import (
    ARMS,
    SCHEDULE_FILE,
    Arm,
    ArmEnded,
    ArmStarted,
    Pair,
    PairEnded,
    Report,
    Verification,
    Waiting,
    order_of,
)
from autoprog.runs import Result

__all__ = ["Process", "Start", "load", "save", "verify"]

_POLL_SECONDS = 0.1
_LAST_SECONDS = 60.0


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


def load(folder: Path) -> Verification:
    """Read a verification.

    Raises:
        ConfigError: If the folder holds none, or one that is damaged.
    """
    path = folder / "verify.json"
    if not path.is_file():
        raise ConfigError(str(folder), "", "must be a folder with a verify.json in it")
    return parse(Verification, read_object(path), str(path))


def save(folder: Path, verification: Verification) -> None:
    """Write ``verify.json``."""
    body = verification.model_dump(mode="json", by_alias=True)
    write_atomically(folder / "verify.json", json.dumps(body, indent=1) + "\n")


def verify(
    folder: Path, verification: Verification, start: Start | None = None
) -> Generator[Report, None, None]:
    """Write the plan, then make the runs that are missing; yield what happens.

    Raises:
        RunError: If a run fails, or a file cannot be written, or another process is at it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            plan = verification.plan
            save(folder, verification)
            if plan.schedule is not None:
                write_atomically(folder / SCHEDULE_FILE, plan.schedule)
            for number in range(len(verification.pairs), plan.seeds):
                pair = yield from _Pair(folder, verification, number, start or Attempt).carry_out()
                verification = verification.with_pair(pair)
                save(folder, verification)
                yield PairEnded(verification)
    except OSError as error:
        raise RunError(f"{folder}: {error}") from error


class _Pair:
    """The two runs of one seed."""

    def __init__(self, folder: Path, verification: Verification, number: int, start: Start) -> None:
        self._folder, self._plan, self._start = folder, verification.plan, start
        self._seed, self._order = self._plan.first_seed + number, order_of(number)

    def carry_out(self) -> Generator[Report, None, Pair]:
        """Make the runs that are missing; return the pair."""
        results: dict[Arm, Result] = {}
        groups = [self._order] if self._plan.side_by_side else [(arm,) for arm in self._order]
        for group in groups:
            open_ = []
            for arm in group:
                done = self._result(arm)
                if done is None:
                    open_.append(arm)
                else:
                    results[arm] = done
                    yield ArmEnded(self._seed, arm, done, reused=True)
            yield from self._run(open_, results)
        return Pair(seed=self._seed, order=self._order, **{arm: results[arm] for arm in ARMS})

    def _run(self, arms: Sequence[Arm], results: dict[Arm, Result]) -> Iterator[Report]:
        """Run arms at once to their ends."""
        running: dict[Arm, Process] = {}
        try:
            for arm in arms:
                found = self._broken_run(arm)
                running[arm] = self._started(arm, found)
                yield ArmStarted(self._seed, arm, resumed=found is not None)
            while running:
                for arm in [arm for arm, one in running.items() if one.exit_code is not None]:
                    results[arm] = self._ended(arm, running.pop(arm))
                    yield ArmEnded(self._seed, arm, results[arm], reused=False)
                if running:
                    yield Waiting()
                    time.sleep(_POLL_SECONDS)
        finally:
            _end(running.values())

    def _started(self, arm: Arm, found: Path | None) -> Process:
        words, runs = self._plan.words(arm, self._folder / SCHEDULE_FILE), self._runs(arm)
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
                f" {process.last_words()}; go on with autoprog verify --resume {self._folder}"
            )
        return result

    def _result(self, arm: Arm) -> Result | None:
        path = next(self._runs(arm).glob("*/result.json"), None)
        return None if path is None else parse(Result, read_object(path), str(path))

    def _broken_run(self, arm: Arm) -> Path | None:
        """Return the run that was begun; one that was stopped before its start is removed."""
        for path in [path for path in self._runs(arm).glob("*") if path.is_dir()]:
            needed = (
                ["run.yaml"] if arm == "candidate" and self._plan.searches else ["schedule.yaml"]
            )
            if all((path / name).exists() for name in needed):
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
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder.

    Raises:
        RunError: If another process holds it.
    """
    with (folder / "verify.lock").open("a", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            why = "another process is at this verification; wait for it or stop it"
            raise RunError(f"{folder}: {why}") from None
        yield
