"""What the last steps came to: their losses and their seconds, read together now and then."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from autoprog.train.loop import LossRing
from autoprog.train.ranks import Ranks
from autoprog.train.timing import Clock, Ledger, StepTimer
from supernet.config import SubnetConfig

__all__ = ["Meter", "Reading"]


@dataclass(frozen=True)
class Reading:
    """The steps since the last reading: mean loss over ranks, seconds of each, and waiting for data."""

    loss: float
    timed: tuple[tuple[SubnetConfig, float], ...]
    waited_seconds: float
    trained_seconds: float

    @property
    def step_seconds(self) -> float:
        """Return the mean seconds of a step, without waiting for data."""
        return sum(seconds for _, seconds in self.timed) / len(self.timed)

    @property
    def typical_seconds(self) -> float:
        """Return the median seconds of a step, so without a compilation, and the mean wait for data."""
        return median(s for _, s in self.timed) + self.waited_seconds / len(self.timed)

    @property
    def wait_share(self) -> float:
        """Return the share of the time that was spent waiting for data."""
        return self.waited_seconds / max(self.waited_seconds + self.trained_seconds, 1e-9)


class Meter:
    """Losses and times of steps; both stay on the device until they are read."""

    def __init__(self, device: torch.device, ledger: Ledger, ranks: Ranks, clock: Clock) -> None:
        self._ledger = ledger
        self._ring = LossRing(ranks)
        self._timer = StepTimer(device, clock)
        self.restart()

    def now(self) -> object:
        """Return a mark in time, for :meth:`add`."""
        return self._timer.now()

    def add(self, loss: Tensor, subnet: SubnetConfig, start: object) -> None:
        """Note a step of `subnet` that began at `start`."""
        self._ring.add(loss)
        self._timer.add(subnet, start)

    def restart(self) -> None:
        """Begin a new stretch of the share of time spent waiting for data."""
        self._waited = self._ledger.seconds["data_wait"]
        self._trained = self._ledger.seconds["train"]

    def read(self, next_step: int, epoch: float, stage: int) -> Reading | None:
        """Return what there is since the last call; waits for the device.

        Raises:
            DivergedError: If a loss is not finite.
        """
        with self._ledger.charge("train"):
            loss = self._ring.read(next_step, epoch, stage)
        if loss is None:
            return None
        seconds = self._ledger.seconds
        waited, trained = seconds["data_wait"] - self._waited, seconds["train"] - self._trained
        self.restart()
        return Reading(loss, tuple(self._timer.drain()), waited, trained)
