"""Worker processes of one run: started with their share of the machine, watched, and started again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from autoprog.errors import ConfigError, RunError
from autoprog.openfiles import open_for_appending
from autoprog.train.cores import CORES_VARIABLE, usable_cores
from autoprog.train.stop import StopRequest
from autoprog.workers import NUMBER_VARIABLE, claim_worker, log_of

__all__ = [
    "Crew",
    "WorkerDied",
    "WorkerEnded",
    "WorkerReport",
    "WorkerStarted",
    "WorkersWork",
    "share_of_machine",
    "spawn_workers",
    "visible_gpus",
]

_LAST_SECONDS = 5.0
_STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)


@dataclass(frozen=True)
class Crew:
    """Which workers to start.

    Attributes:
        folder: The run folder; what they write goes to ``workers/worker-0.log`` and so on in it.
        count: How many, at least one.
        words_of: Returns the whole command line of a worker, given its number.
        most_restarts: How often each may die and be started again.
    """

    folder: Path
    count: int
    words_of: Callable[[int], Sequence[str]]
    most_restarts: int = 3

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError("-j", "", "must be at least 1", self.count)


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
    last_words: str
    restarts_left: int


@dataclass(frozen=True)
class WorkerEnded:
    """A worker has ended as it should: it is done, or was asked to stop."""

    number: int
    exit_code: int


@dataclass(frozen=True)
class WorkersWork:
    """Nothing has changed since the last report; comes at each look."""


WorkerReport = WorkerStarted | WorkerDied | WorkerEnded | WorkersWork


def spawn_workers(
    crew: Crew, stop: StopRequest | None = None, *, poll_seconds: float = 0.2
) -> Iterator[WorkerReport]:
    """Start workers and yield what becomes of them until the last has ended.

    They are in sessions of their own, so that Ctrl-C reaches this process alone, which passes on the first
    signal; each worker then ends its trial or gives it back. If this process ends before them
    by a second signal, they get theirs; if it is killed, they go on and come to their end.

    Raises:
        ConfigError: If a worker refuses its command line; the others are ended.
        RunError: If none has ended as it should.
    """
    stop = stop or StopRequest()
    workers = [_Worker(crew, index, claim_worker(crew.folder)) for index in range(crew.count)]
    try:
        for worker in workers:
            yield worker.start()
        yield from _watch(workers, stop, poll_seconds)
    finally:
        _end(workers)
    if not any(worker.ended_well for worker in workers):
        raise RunError(f"no worker came to its end: {workers[0].last_words()}")


def share_of_machine(
    index: int, count: int, cores: int, gpus: Sequence[str], environ: Mapping[str, str]
) -> dict[str, str]:
    """Return the environment of worker `index` of `count`: an equal share of the cores, GPUs in turn.

    The cores count for its threads and for its loader workers. What the user has set for the threads holds.
    """
    own_cores = str(max(1, cores // count))
    share = {"OMP_NUM_THREADS": own_cores, **environ, CORES_VARIABLE: own_cores}
    if gpus:
        share["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)]
    return share


def visible_gpus(environ: Mapping[str, str], devices: Path = Path("/dev")) -> tuple[str, ...]:
    """Return the CUDA devices of this machine, or those that the environment leaves of them."""
    given = environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return tuple(word.strip() for word in given.split(",") if word.strip())
    found = [path for path in devices.glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]
    return tuple(str(number) for number in range(len(found)))


@dataclass
class _Worker:
    crew: Crew
    index: int
    number: int
    restarts: int = 0
    ended_well: bool = False
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> WorkerStarted:
        environ = share_of_machine(
            self.index, self.crew.count, usable_cores(), visible_gpus(os.environ), os.environ
        )
        environ[NUMBER_VARIABLE] = str(self.number)
        with open_for_appending(log_of(self.crew.folder, self.number)) as log:
            self.process = subprocess.Popen(
                list(self.crew.words_of(self.number)),
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return WorkerStarted(self.number, self.process.pid)

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def send(self, number: int) -> None:
        if self.runs and self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def last_words(self) -> str:
        """Return the last line of the log."""
        text = log_of(self.crew.folder, self.number).read_text(encoding="utf-8", errors="replace")
        lines = text.strip().splitlines()
        return lines[-1] if lines else "nothing was said"


def _watch(
    workers: Sequence[_Worker], stop: StopRequest, poll_seconds: float
) -> Iterator[WorkerReport]:
    """Yield the ends of workers and their new beginnings; pass on the first signal."""
    passed_on, open_ = False, list(workers)
    while open_:
        if stop.signal_name is not None and not passed_on:
            passed_on = True
            for worker in open_:
                worker.send(signal.Signals[stop.signal_name])
        for worker in [worker for worker in open_ if not worker.runs]:
            open_.remove(worker)
            report = _what_became_of(worker, may_restart=not passed_on)
            yield report
            if isinstance(report, WorkerDied) and report.restarts_left:
                worker.restarts += 1
                yield worker.start()
                open_.append(worker)
        if open_:
            yield WorkersWork()
            time.sleep(poll_seconds)


def _what_became_of(worker: _Worker, may_restart: bool) -> WorkerDied | WorkerEnded:
    assert worker.process is not None
    code = worker.process.returncode
    if code == ConfigError.exit_code:
        words = worker.last_words()
        raise ConfigError(f"worker {worker.number}", "", words.removeprefix("autoprog: "))
    if code == 0 or code in _STOPPED:
        worker.ended_well = True
        return WorkerEnded(worker.number, code)
    left = worker.crew.most_restarts - worker.restarts if may_restart else 0
    return WorkerDied(worker.number, code, worker.last_words(), left)


def _end(workers: Sequence[_Worker]) -> None:
    """End workers that still run: a second signal ends at once one that has got a first."""
    deadline = time.monotonic() + _LAST_SECONDS
    while any(worker.runs for worker in workers) and time.monotonic() < deadline:
        for worker in workers:
            worker.send(signal.SIGTERM)
        time.sleep(0.2)
    for worker in workers:
        worker.send(signal.SIGKILL)
        if worker.process is not None:
            worker.process.wait()
