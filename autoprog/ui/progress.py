"""A bar for work that has parts, with the time that is left; on a terminal only."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from types import TracebackType

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from autoprog.console import Console

__all__ = ["PartsBar"]

REDRAW_SECONDS = 0.1


class PartsBar:
    """A context manager; :meth:`tell` draws, in the caller's thread, and the bar is gone at the end.

    Args:
        console: Where to draw; anything but a terminal is left alone.
        clock: Seconds, by which redraws are paced and the rest is estimated.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._draws = console.is_terminal and not console.is_dumb_terminal
        self._clock, self._drawn_seconds = clock, -math.inf
        self._tasks: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            auto_refresh=False,  # no thread: loaders fork, and its lock would never be released there
            transient=True,
            get_time=clock,
        )

    def __enter__(self) -> PartsBar:
        """Begin to draw."""
        if self._draws:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the bar away."""
        if self._draws:
            self._progress.stop()

    def tell(self, part: str, done: int, total: int) -> None:
        """Show how much of a part is done; parts appear one below the other."""
        if not self._draws:
            return
        if part not in self._tasks:
            self._tasks[part] = self._progress.add_task(part, total=total)
        self._progress.update(self._tasks[part], completed=done)
        now = self._clock()
        if done == total or now - self._drawn_seconds >= REDRAW_SECONDS:
            self._drawn_seconds = now
            self._progress.refresh()
