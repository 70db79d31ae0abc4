"""Stopping on a signal: the request, which all ranks grant together, and what the user sees of it."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

from autoprog.errors import AutoprogError, tell_at_once

if TYPE_CHECKING:
    from autoprog.train.ranks import Ranks

__all__ = ["GaveUpError", "InterruptedRunError", "StopNow", "StopRequest", "stop_on_signals"]

Item = TypeVar("Item")


class GaveUpError(Exception):
    """Work that leaves no trace was given up because of a signal; whoever began it halts the run."""


class InterruptedRunError(AutoprogError):
    """A run that stopped on a signal, after a checkpoint unless ``where`` says otherwise.

    ``flags`` is what must be given beside ``--resume RUN``.
    """

    def __init__(
        self, signal_name: str, run: str, where: str = "after a checkpoint", flags: str = ""
    ) -> None:
        self.exit_code = {"SIGINT": 130, "SIGTERM": 143}.get(signal_name, 1)
        self._parts = signal_name, run, where
        text = f"stopped by {signal_name} {where}; go on with --resume {shlex.quote(run)} {flags}"
        super().__init__(text.rstrip())

    def with_flags(self, flags: str) -> InterruptedRunError:
        """Return it with what must be given beside ``--resume RUN``."""
        return InterruptedRunError(*self._parts, flags)


class StopNow(BaseException):
    """A request to stop that is granted at once; see :meth:`StopRequest.at_once`."""

    def __init__(self, signal_name: str) -> None:
        super().__init__(signal_name)
        self.signal_name = signal_name


@dataclass
class StopRequest:
    """A request to stop, set by a signal handler and granted after the step or batch under way.

    ``answer`` lets the user know at once that the signal has come.
    """

    signal_name: str | None = None
    answer: Callable[[str], None] = tell_at_once
    _is_granted_at_once: bool = False

    def check(self) -> None:
        """Give up what leaves no trace, where a signal has come to this process.

        Raises:
            GaveUpError: If one has.
        """
        if self.signal_name is not None:
            raise GaveUpError(self.signal_name)

    def until_asked(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield items until a signal has come to this process."""
        for item in items:
            if self.signal_name is not None:
                return
            yield item

    @contextmanager
    def at_once(self, ranks: Ranks) -> Iterator[None]:
        """Grant a request at once meanwhile, where this process need not agree on it with others.

        For waits of unknown length that change nothing of the run, such as for images.

        Raises:
            StopNow: The request is there, or comes meanwhile.
        """
        self._is_granted_at_once = ranks.alone
        try:
            self.raise_if_at_once()
            yield
        finally:
            self._is_granted_at_once = False

    def raise_if_at_once(self) -> None:
        """Raise where a request is there and to be granted at once."""
        if self._is_granted_at_once and self.signal_name is not None:
            self._is_granted_at_once = False
            raise StopNow(self.signal_name)

    def agreed(self, ranks: Ranks) -> str | None:
        """Return the signal that any rank has received, if one has; collective."""
        name = self.signal_name
        code = ranks.most(signal.Signals[name].value if name else 0)
        return signal.Signals(code).name if code else None


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Make SIGINT and SIGTERM a request to stop after a checkpoint; a second one ends at once.

    Not so under torchrun: it passes on a signal that its processes often got already, and ends those that
    take too long. Outside the main thread, as in a notebook's worker, signals are left alone.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    under_torchrun = "TORCHELASTIC_RUN_ID" in os.environ

    def note(number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        is_first = request.signal_name is None
        request.signal_name = name  # before the answer: whoever reads it may send the next one
        if is_first and os.environ.get("RANK", "0") == "0":
            again = "" if under_torchrun else " (once more ends at once, without one)"
            stopping = f"autoprog: {name}: stopping after this step or batch, with a checkpoint"
            request.answer(f"{stopping}{again}")
        elif not is_first and not under_torchrun:
            ended = f"autoprog: ended at once by a second signal, {name}, without a checkpoint"
            request.answer(f"{ended}; --resume goes on from the last one")
            sys.exit(128 + number)
        request.raise_if_at_once()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
