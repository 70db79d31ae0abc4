"""Where the seconds go: totals by purpose, and the seconds of each step by subnet."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

import torch

from supernet.config import SubnetConfig

__all__ = ["Ledger", "StepTimer", "typical_seconds"]

Clock = Callable[[], float]


class Ledger:
    """Seconds by purpose, kept over restarts.

    ``train`` is the steps themselves, ``data_wait`` waiting for images, ``evaluate`` validation, ``search``
    estimates and decisions, ``lost`` growth, ``checkpoint`` writing; ``supernet`` is the part of ``train``
    that was spent in supernet phases.
    """

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._clock = clock

    @contextmanager
    def charge(self, purpose: str) -> Iterator[None]:
        """Charge the time inside the block to `purpose`."""
        start = self._clock()
        try:
            yield
        finally:
            self.seconds[purpose] += self._clock() - start

    def wall_seconds(self) -> float:
        """Return all that was spent."""
        return sum(value for key, value in self.seconds.items() if key != "supernet")


class StepTimer:
    """Seconds of steps, without making a CUDA device wait: its events are read when the losses are."""

    def __init__(self, device: torch.device, clock: Clock = time.perf_counter) -> None:
        self._cuda = device.type == "cuda"
        self._clock = clock
        self._pending: list[tuple[SubnetConfig, object, object]] = []

    def now(self) -> object:
        """Return a mark in time."""
        if not self._cuda:
            return self._clock()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def add(self, subnet: SubnetConfig, start: object) -> None:
        """Note that a step of `subnet` has run from `start` until now."""
        self._pending.append((subnet, start, self.now()))

    def drain(self) -> list[tuple[SubnetConfig, float]]:
        """Return the steps since the last call, after the device has caught up."""
        steps = [(subnet, self._elapsed(start, stop)) for subnet, start, stop in self._pending]
        self._pending = []
        return steps

    def _elapsed(self, start: object, stop: object) -> float:
        if isinstance(start, float) and isinstance(stop, float):
            return stop - start
        assert isinstance(start, torch.cuda.Event)
        assert isinstance(stop, torch.cuda.Event)
        return start.elapsed_time(stop) / 1000.0


def typical_seconds(seconds: list[float], warmup: int = 1) -> float | None:
    """Return the median without the first `warmup` steps; None where nothing would be left."""
    return median(seconds[warmup:]) if len(seconds) > warmup else None
