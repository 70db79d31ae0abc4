"""Worker processes of one run: each with its part of the machine, watched, and started again when it dies."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from autoprog.environment import CORES_VARIABLE, usable_cores
from autoprog.errors import ConfigError, RunError
from autoprog.openfiles import open_for_appending
from autoprog.processes import NUMBER_VARIABLE, claim_worker, log_of
from autoprog.supervise import Child, SignalName, end_all, last_line
from autoprog.train.stop import StopRequest

__all__ = [
    "WorkerDied",
    "WorkerEnded",
    "WorkerReport",
    "WorkerStarted",
    "WorkersWork",
    "part_of_machine",
    "spawn_workers",
    "visible_gpus",
]

_LAST_SECONDS = 5.0  # for workers to end by a second signal, before they are killed
_STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)  # by a signal that it answered


@dataclass(frozen=True)
class WorkerStarted:
    """A worker has been started, for the first time or again."""

    number: int
    pid: int


@dataclass(frozen=True)
class WorkerDied:
    """A worker has died; it is started again if it may be. A code below 0 is the signal that killed it."""

    number: int
    exit_code: int
    last_line: str
    restarts_left: int


@dataclass(frozen=True)
class WorkerEnded:
    """A worker has ended as it should: it is done, or was asked to stop."""

    number: int
    exit_code: int


@dataclass(frozen=True)
class WorkersWork:
    """Nothing has changed since the last report; comes every ``poll_seconds``."""


WorkerReport = WorkerStarted | WorkerDied | WorkerEnded | WorkersWork


def spawn_workers(
    folder: Path,
    count: int,
    words: Sequence[str],
    stop: StopRequest | None = None,
    *,
    max_restarts: int = 3,
    poll_seconds: float = 0.2,
) -> Iterator[WorkerReport]:
    """Start workers and yield what becomes of them until the last has ended.

    Ctrl-C reaches this process alone, which passes on the first signal; each worker then ends its trial or
    gives it back. If this process ends before them by a second signal, they get theirs; if it is killed,
    they go on and come to their end.

    Args:
        folder: The run folder; what they print goes to ``workers/worker-0.log`` and so on in it.
        count: How many, at least one.
        words: The whole command line of each; its number is in the environment.
        stop: Set by a signal.
        max_restarts: How often each may die and be started again.
        poll_seconds: How often to look at them.

    Raises:
        ConfigError: If a worker refuses its command line; the others are ended.
        RunError: If none has ended as it should.
    """
    if count < 1:
        raise ConfigError("-j", "", "must be at least 1", count)
    stop = stop or StopRequest()
    # Claimed here and not by the workers, so that all of them have a log before the first one starts.
    numbers = [claim_worker(folder) for _ in range(count)]
    workers: list[_Worker] = []
    is_passed_on, num_ended_well = False, 0
    try:
        for index, number in enumerate(numbers):
            environ = part_of_machine(
                index, count, usable_cores(), visible_gpus(os.environ), os.environ
            )
            environ[NUMBER_VARIABLE] = str(number)
            workers.append(_Worker(number, log_of(folder, number), words, environ))
            yield WorkerStarted(number, workers[-1].child.pid)
        running = list(workers)
        while running:
            if stop.signal_name is not None and not is_passed_on:
                is_passed_on = True
                for worker in running:
                    worker.child.send(cast(SignalName, stop.signal_name.removeprefix("SIG")))
            for worker in list(running):
                code = worker.child.exit_code
                if code is None:
                    continue
                running.remove(worker)
                if code == ConfigError.exit_code:  # all have the same words
                    problem = last_line(worker.log).removeprefix("autoprog: ")
                    raise ConfigError(f"worker {worker.number}", "", problem)
                if code == 0 or code in _STOPPED:
                    num_ended_well += 1
                    yield WorkerEnded(worker.number, code)
                    continue
                # One that died although it was asked to stop is not needed any more.
                left = 0 if is_passed_on else max_restarts - worker.num_restarts
                yield WorkerDied(worker.number, code, last_line(worker.log), left)
                if left:
                    worker.start()
                    worker.num_restarts += 1
                    running.append(worker)
                    yield WorkerStarted(worker.number, worker.child.pid)
            if running:
                yield WorkersWork()
                time.sleep(poll_seconds)
    finally:
        # Those that have ended are left out: their numbers may belong to other processes by now.
        children = [worker.child for worker in workers if worker.child.exit_code is None]
        end_all(children, _LAST_SECONDS, insist=True)
    if not num_ended_well:
        raise RunError(f"no worker came to its end: {last_line(workers[0].log)}")


class _Worker:
    """One worker: a process, and another one in its place when it has died."""

    def __init__(
        self, number: int, log: Path, words: Sequence[str], environ: Mapping[str, str]
    ) -> None:
        self.number, self.log, self.num_restarts = number, log, 0
        self._words, self._environ = words, environ
        self.start()

    def start(self) -> None:
        """Start the process; what it prints is appended to what its predecessors did."""
        with open_for_appending(self.log) as log:
            self.child = Child(self._words, log, env=self._environ)


def part_of_machine(
    index: int, count: int, cores: int, gpus: Sequence[str], environ: Mapping[str, str]
) -> dict[str, str]:
    """Return the environment of worker `index` of `count`: an equal part of the cores, the GPUs in turn.

    The cores count for its threads and for its loader workers. What the user has set for the threads holds.
    """
    own_cores = str(max(1, cores // count))
    own = {"OMP_NUM_THREADS": own_cores, **environ, CORES_VARIABLE: own_cores}
    if gpus:
        own["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)]
    return own


def visible_gpus(environ: Mapping[str, str], devices: Path = Path("/dev")) -> tuple[str, ...]:
    """Return the CUDA devices of this machine, or those that the environment leaves of them.

    They are counted by their device files: to ask CUDA would take a context on each of them.
    """
    given = environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return tuple(word.strip() for word in given.split(",") if word.strip())
    found = [path for path in devices.glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]
    return tuple(str(number) for number in range(len(found)))
