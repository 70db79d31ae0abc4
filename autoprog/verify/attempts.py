"""The runs of one seed, one for each arm: each a process of the program itself, each resumable."""

from __future__ import annotations

import fcntl
import itertools
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from autoprog.errors import ConfigError, RunError
from autoprog.openfiles import (
    NotRegularFileError,
    open_for_appending,
    refuse_links,
    remove_temporary_files,
)
from autoprog.runs import Result, read_result
from autoprog.supervise import Attempt, SignalName, end_all
from autoprog.verify.arms import Arm, ArmSettings, flag_words

__all__ = [
    "ArmEnded",
    "ArmStarted",
    "Process",
    "SeedRuns",
    "Start",
    "Waiting",
    "check_folder",
    "locked",
    "run_folders",
    "starter",
]

_POLL_SECONDS = 0.1  # short beside runs of minutes, and no load
_CHECKPOINT_SECONDS = 60.0  # a run that is told to end writes a checkpoint first
_FILES_BEFORE_START = ("run.lock", "run.yaml", "events.jsonl")
"""Files of a run that was stopped before its start, beside its empty folder of checkpoints."""
_WRITTEN_WHOLE = ("run.yaml", "schedule.yaml")  # of which a kill may leave a temporary file


@dataclass(frozen=True)
class ArmStarted:
    """A run has been started, or resumed."""

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

    def send(self, name: SignalName) -> None:
        """Send a signal."""

    def wait(self, timeout_seconds: float) -> bool:
        """Wait for the end; return whether it came in time."""

    def kill(self) -> None:
        """Kill whatever still runs."""

    def last_line(self) -> str:
        """Return the last line that it wrote on stderr."""


Start = Callable[[Sequence[str], Path, int], Process]
"""Starts the program: its words, the folder for its one run folder, the number of the attempt."""


def starter(nproc: int, lock: int) -> Start:
    """Return what starts an arm in so many processes, through torchrun if there are several.

    Each holds `lock`, a file descriptor, so that its folder stays locked while it runs on, whatever becomes
    of this process.
    """
    return partial(Attempt, nproc=nproc, held_files=(lock,))


class SeedRuns:
    """The runs of one seed in a folder.

    Args:
        folder: Holds a folder for each seed and arm.
        seed: The seed of all of them.
        arms: The settings of each arm.
        files: The schedule file of each arm that follows one.
        start: Starts a run.
        hint: What to do about a run that failed.
    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        arms: Mapping[Arm, ArmSettings],
        files: Mapping[Arm, Path],
        start: Start,
        hint: str,
    ) -> None:
        self._folder, self._seed, self._arms, self._files = folder, seed, arms, files
        self._start, self._hint = start, hint

    def carry_out(
        self, order: Iterable[Arm], max_at_once: int = 1
    ) -> Generator[ArmStarted | ArmEnded | Waiting, None, dict[Arm, Result]]:
        """Make the runs that are missing, the next as soon as fewer than `max_at_once` go on.

        Returns all results. Closing the generator ends what still runs, each with a checkpoint.

        Raises:
            RunError: If a run fails.
        """
        results: dict[Arm, Result] = {}
        missing, running = deque[Arm](), dict[Arm, Process]()
        for arm in order:
            done = self._result(arm)
            if done is None:
                missing.append(arm)
            else:
                results[arm] = done
                yield ArmEnded(self._seed, arm, done, reused=True)
        try:
            while missing or running:
                while missing and len(running) < max_at_once:
                    arm = missing.popleft()
                    running[arm], resumed = self._begin(arm)
                    yield ArmStarted(self._seed, arm, resumed)
                for arm in [arm for arm, one in running.items() if one.exit_code is not None]:
                    process = running.pop(arm)
                    result = self._result(arm) if process.exit_code == 0 else None
                    if result is None:
                        problem = f"the run ended with exit code {process.exit_code}"
                        raise RunError(
                            f"{self._runs(arm)}: {problem}: {process.last_line()}; {self._hint}"
                        )
                    results[arm] = result
                    yield ArmEnded(self._seed, arm, result, reused=False)
                if running:
                    yield Waiting()
                    time.sleep(_POLL_SECONDS)
        finally:
            end_all(running.values(), _CHECKPOINT_SECONDS)
        return results

    def _begin(self, arm: Arm) -> tuple[Process, bool]:
        """Start the run of an arm, or resume the one that is there; return which of the two it was."""
        settings, runs = self._arms[arm], self._runs(arm)
        # A search has no schedule.yaml, and a training is not begun without one.
        needed = "run.yaml" if settings.command == "search" else "schedule.yaml"
        begun = None
        for path in run_folders(runs):
            if (path / needed).exists():
                begun = path
                break
            _remove_unstarted(path)
        runs.mkdir(exist_ok=True)
        if begun is not None:
            # A resumed run has to be asked again for what it writes outside its folder.
            again = flag_words(settings.elsewhere)
            words = (settings.command, f"--resume={begun}", *again, "-q")
        else:
            words = settings.words(self._files.get(arm))
            words = (*words, "--seed", str(self._seed), f"--runs-dir={runs}", "-q")
        for number in itertools.count():  # of the attempt: the first whose files are not there yet
            outputs = (
                self._folder / f"{runs.name}-attempt-{number}.{end}" for end in ("err", "out")
            )
            if not any(map(os.path.lexists, outputs)):
                break
        return self._start(words, runs, number), begun is not None

    def _result(self, arm: Arm) -> Result | None:
        paths = (folder / "result.json" for folder in run_folders(self._runs(arm)))
        path = next((path for path in paths if path.exists()), None)
        return None if path is None else read_result(path)

    def _runs(self, arm: Arm) -> Path:
        """Return the folder of an arm, which holds its one run folder."""
        return self._folder / f"seed-{self._seed}-{arm}"


def check_folder(folder: Path, names: Iterable[str]) -> None:
    """Check that none of our files in a folder is a symbolic link, through which we would write elsewhere.

    Args:
        folder: Has folders of arms, such as ``seed-0-baseline``, and the files of their attempts.
        names: Its other files that are ours.

    Raises:
        ConfigError: With the first that is a link, or a folder of an arm in which something is one.
    """
    arms = sorted(path for path in folder.iterdir() if path.name.startswith("seed-"))
    try:
        refuse_links(folder, [*names, *(path.name for path in arms)])
        for path in (path for path in arms if path.is_dir()):
            refuse_links(path, sorted(os.listdir(path)))
    except NotRegularFileError as error:
        problem = "must be no symbolic link, through which files elsewhere would change"
        raise ConfigError(str(error.filename), "", problem, hint="remove it") from None


def run_folders(runs: Path) -> list[Path]:
    """Return the run folders in the folder of an arm, by name; none where it is missing."""
    if runs.is_symlink() or not runs.is_dir():  # a link is none of ours
        return []
    return sorted(path for path in runs.iterdir() if path.is_dir() and not path.is_symlink())


def _remove_unstarted(path: Path) -> None:
    """Remove the folder of a run that was stopped before its start, name by name.

    Raises:
        RunError: If it holds anything that such a run has not: it is not ours, then.
    """
    remove_temporary_files(path, _WRITTEN_WHOLE)
    entries = sorted(path.iterdir())
    for entry in entries:
        status = entry.lstat()  # not stat: a link is never one of ours
        if entry.name == "checkpoints":
            is_ours = stat.S_ISDIR(status.st_mode) and not any(entry.iterdir())
        else:
            is_empty = entry.name != "events.jsonl" or status.st_size == 0
            is_ours = (
                entry.name in _FILES_BEFORE_START and stat.S_ISREG(status.st_mode) and is_empty
            )
        if not is_ours:
            problem = f"must be a run that was stopped before its start, but holds {entry.name}"
            raise RunError(f"{path}: {problem}; move it away, and a new run is made")
    for entry in entries:
        if entry.name == "checkpoints":
            entry.rmdir()
        else:
            entry.unlink()
    path.rmdir()


@contextmanager
def locked(folder: Path, name: str) -> Iterator[int]:
    """Hold the lock file `name` of a folder; yield its file descriptor.

    Raises:
        RunError: If another process holds it.
        OSError: If it cannot be made, or something else than a file is in its place.
    """
    with open_for_appending(folder / name) as lock:
        # Not a file with the number of a process: this lock lasts until the last process that has the
        # descriptor ends, so also while a run goes on whose verification was killed.
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            why = "another process is at it, or a run that one started still goes on"
            raise RunError(f"{folder}: {why}; wait for it or stop it") from None
        yield lock.fileno()
