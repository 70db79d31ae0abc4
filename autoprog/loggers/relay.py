"""Loggers beside a run: each in a thread of its own, so that none can slow it down or break it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Protocol

from autoprog.errors import ConfigError, RunError
from autoprog.events import Event, RunStarted, WarningRaised
from autoprog.loggers.points import EventTail, Point
from autoprog.printable import one_line
from autoprog.runfiles import check_run_files
from autoprog.settings import RunManifest, RunSettings

__all__ = ["LOGGERS", "Relay", "Relays", "check_logger", "check_loggers", "replay"]


class Logger(Protocol):
    """What takes points. ``place`` is where a user finds them."""

    place: str

    def write(self, points: list[Point]) -> None:
        """Take points in the order of the log."""

    def close(self) -> None:
        """Make sure that all points are kept."""


LOGGERS = {"tensorboard": "TensorBoardLogger", "wandb": "WandbLogger"}
"""The class of each logger, by the name of its package, its module here and its extra."""


class Relay:
    """Passes what a run writes to its log on to one logger, in another thread.

    Whatever goes wrong there ends the logger alone.
    """

    def __init__(self, name: str, folder: Path, manifest: RunManifest) -> None:
        self.name = name
        self._folder, self._manifest = folder, manifest
        # One thread: points of a logger must stay in order.
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=f"autoprog-{name}")
        self._tail = EventTail(folder)
        self._logger: Logger | None = None
        self._task: Future[None] | None = None
        self._failed = False

    def show(self, event: Event) -> str | None:
        """Pass on what is new in the log; return what went wrong with the logger, once.

        Nothing is passed on before the start of the attempt is in the log.
        """
        if self._failed or (self._task is None and not isinstance(event, RunStarted)):
            return None
        if self._task is not None and not self._task.done():
            return None  # the next event asks again, and the last one is waited for
        problem = self._problem()
        if problem is None:
            self._task = self._pool.submit(self._pass_on)
        return problem

    def close(self) -> str | None:
        """Pass on the rest and wait for it; return what went wrong, if that has not been reported."""
        # What went wrong since the last event has not been reported yet.
        problem = self._problem() if self.is_on else None
        if self.is_on:
            return self.pass_all()
        self._pool.shutdown()
        return problem

    def pass_all(self) -> str | None:
        """Pass on everything that the log has and end; return what went wrong."""
        with self._pool:
            self._task = self._pool.submit(self._finish)
        return self._problem()

    @property
    def is_on(self) -> bool:
        """Return whether the logger has begun and has not failed."""
        return self._task is not None and not self._failed

    @property
    def place(self) -> str:
        """Return where a user finds the points; empty before the first."""
        return "" if self._logger is None else self._logger.place

    def _problem(self) -> str | None:
        """Wait for the task; return why the logger has ended, if it has."""
        error = None if self._task is None else self._task.exception()
        if error is None:
            return None
        # A logger that failed once is left alone: the run must not be slowed by retries.
        self._failed = True
        # Messages of foreign packages have pages; the first line says what is wrong.
        reason = one_line((str(error).strip().splitlines() or [""])[0])
        return f"{self.name} has stopped ({type(error).__name__}: {reason})"

    def _pass_on(self) -> None:
        if self._logger is None:
            self._logger = open_logger(self.name, self._folder, self._manifest)
        points = self._tail.read()
        if points:
            self._logger.write(points)

    def _finish(self) -> None:
        self._pass_on()
        assert self._logger is not None
        self._logger.close()


class Relays:
    """The relays of all loggers that a run's settings ask for."""

    def __init__(self, folder: Path, manifest: RunManifest) -> None:
        self._relays = [Relay(name, folder, manifest) for name in wanted_loggers(manifest.settings)]

    def show(self, event: Event) -> list[WarningRaised]:
        """Pass on what is new in the log; return what went wrong."""
        problems = [relay.show(event) for relay in self._relays]
        return [
            WarningRaised(
                step=event.step,
                message=f"{problem}; the run goes on, and autoprog export can repeat it",
            )
            for problem in problems
            if problem
        ]

    def close(self) -> list[str]:
        """Pass on the rest and wait for it; return what went wrong."""
        problems = [relay.close() for relay in self._relays]
        return [problem for problem in problems if problem]

    @property
    def places(self) -> list[str]:
        """Return where a user finds what was passed on, a line for each logger that works."""
        return [f"logged to  {relay.place}" for relay in self._relays if relay.is_on]


def replay(name: str, folder: Path, manifest: RunManifest) -> str:
    """Pass on everything that a run folder has, finished or not; return where a user finds it.

    Raises:
        ConfigError: If a link or the like is in place of a file of the run folder.
        RunError: If the logger fails.
    """
    # A link in place of the event folder would write somewhere else.
    check_run_files(folder)
    relay = Relay(name, folder, manifest)
    problem = relay.pass_all()
    if problem is not None:
        raise RunError(f"{folder}: {problem}")
    return relay.place


def open_logger(name: str, folder: Path, manifest: RunManifest) -> Logger:
    """Import a logger's package and begin."""
    # Imported when a run asks for it, as both are extras.
    make = getattr(import_module(f"autoprog.loggers.{name}"), LOGGERS[name])
    logger: Logger = make(folder, manifest)
    return logger


def wanted_loggers(settings: RunSettings) -> Iterator[str]:
    """Yield the names of the loggers that the settings ask for."""
    return (name for name in LOGGERS if getattr(settings, f"log_{name}"))


def check_loggers(settings: RunSettings) -> None:
    """Refuse loggers that could not work.

    Raises:
        ConfigError: If a package is not installed, or nobody is logged in to W&B.
    """
    for name in wanted_loggers(settings):
        check_logger(name, settings, f"--log-{name}")


def check_logger(name: str, settings: RunSettings, flag: str) -> None:
    """Refuse one logger that could not work; `flag` is what asked for it."""
    try:
        import_module(f"autoprog.loggers.{name}")
    except ImportError:
        problem, hint = f"{name} is not installed", f"pip install 'autoprog[{name}]'"
        raise ConfigError(flag, "", problem, hint=hint) from None
    if name == "wandb":
        from autoprog.loggers.wandb import check_wandb

        check_wandb(settings)
