"""Stopping on a signal: the wish, which all ranks grant together, and how it is told."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from autoprog.errors import AutoprogError
from autoprog.train.ranks import Ranks

__all__ = ["InterruptedRunError", "StopRequest"]


class InterruptedRunError(AutoprogError):
    """A run that stopped on a signal, after a checkpoint."""

    def __init__(self, signal_name: str, run: str) -> None:
        self.exit_code = {"SIGINT": 130, "SIGTERM": 143}.get(signal_name, 1)
        super().__init__(f"stopped by {signal_name} after a checkpoint; go on with --resume {run}")


@dataclass
class StopRequest:
    """A wish to stop, set by a signal handler and granted after the step under way."""

    signal_name: str | None = None

    def agreed(self, ranks: Ranks) -> str | None:
        """Return the signal that any rank has received, if one has; collective."""
        name = self.signal_name
        code = ranks.most(signal.Signals[name].value if name else 0)
        return signal.Signals(code).name if code else None
