"""What steps take and come to: seconds by purpose, and the losses and seconds of the last steps.

Losses and times stay on the device until they are read together: reading one after each step would make the
device wait for the program, which then prepares the next step only once this one is over.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn

from autoprog.errors import DivergedError
from autoprog.train.ranks import Ranks
from supernet.config import SubnetConfig

__all__ = ["Ledger", "Meter", "Reading", "check_weights", "typical_seconds"]

Clock = Callable[[], float]


class Ledger:
    """Seconds by purpose, kept over restarts.

    ``train`` is the steps themselves, ``data_wait`` waiting for images, ``evaluate`` validation, ``search``
    estimates and decisions, ``lost`` growth, ``checkpoint`` writing; ``supernet`` is the part of ``train``
    that was spent in supernet phases.
    """

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.clock = clock

    @contextmanager
    def charge(self, purpose: str) -> Iterator[None]:
        """Charge the time inside the block to `purpose`, also where the block fails."""
        start = self.clock()
        try:
            yield
        finally:
            self.seconds[purpose] += self.clock() - start

    def wall_seconds(self) -> float:
        """Return all that was spent."""
        return sum(value for key, value in self.seconds.items() if key != "supernet")


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
    def wait_fraction(self) -> float:
        """Return the fraction of the time that was spent waiting for data."""
        return self.waited_seconds / max(self.waited_seconds + self.trained_seconds, 1e-9)


class Meter:
    """The losses and seconds of the steps since the last reading, and what they waited for data."""

    def __init__(self, device: torch.device, ledger: Ledger, ranks: Ranks) -> None:
        self._ledger, self._ranks = ledger, ranks
        self._on_cuda = device.type == "cuda"
        self._losses: list[Tensor] = []
        self._spans: list[tuple[SubnetConfig, object, object]] = []
        self.restart()

    def now(self) -> object:
        """Return a mark in time; on CUDA an event, for which nothing waits before the reading."""
        if not self._on_cuda:
            return self._ledger.clock()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def add(self, loss: Tensor, subnet: SubnetConfig, start: object) -> None:
        """Note a step of `subnet` that began at `start` and ends now."""
        self._losses.append(loss)
        self._spans.append((subnet, start, self.now()))

    def restart(self) -> None:
        """Count the fraction of time spent waiting for data from here on."""
        self._waited = self._ledger.seconds["data_wait"]
        self._trained = self._ledger.seconds["train"]

    def read(self, next_step: int, epoch: float, stage: int) -> Reading | None:
        """Return what the steps before `next_step` came to, None without one; waits for the device.

        Raises:
            DivergedError: On all ranks, if a loss of one of them is not finite, with its exact step.
        """
        if not self._losses:
            return None
        with self._ledger.charge("train"):  # the device still works on steps that were asked for
            local = torch.stack(self._losses).cpu()
            losses = (self._ranks.total(local) / self._ranks.world_size).tolist()
        self._losses = []
        for step, loss in enumerate(losses, next_step - len(losses)):
            if not np.isfinite(loss):
                what = f"the loss is {loss} at step {step}"
                raise _diverged(what, stage, epoch * step / next_step)
        timed = tuple((subnet, _seconds(start, stop)) for subnet, start, stop in self._spans)
        self._spans = []
        seconds = self._ledger.seconds
        waited, trained = seconds["data_wait"] - self._waited, seconds["train"] - self._trained
        self.restart()
        return Reading(float(np.mean(losses)), timed, waited, trained)


def _seconds(start: object, stop: object) -> float:
    if isinstance(start, float) and isinstance(stop, float):
        return stop - start
    assert isinstance(start, torch.cuda.Event)
    assert isinstance(stop, torch.cuda.Event)
    return start.elapsed_time(stop) / 1000.0


def typical_seconds(seconds: list[float], warmup: int = 1) -> float | None:
    """Return the median without the first `warmup` steps; None where nothing would be left."""
    return median(seconds[warmup:]) if len(seconds) > warmup else None


def check_weights(model: nn.Module, next_step: int, epoch: float, stage: int) -> None:
    """Look at the weights after step ``next_step - 1``, whose loss is from before its update.

    Raises:
        DivergedError: If a weight is not finite.
    """
    # The largest of each tensor, stacked: the device is waited for once, not once a tensor.
    peaks = torch.stack([weight.detach().abs().amax() for weight in model.parameters()])
    if not torch.isfinite(peaks).all():
        raise _diverged(f"a weight is not finite after step {next_step - 1}", stage, epoch)


def _diverged(what: str, stage: int, epoch: float) -> DivergedError:
    hint = "checkpoints are from before; lower --lr or set --clip-grad"
    return DivergedError(f"{what} (stage {stage}, epoch {epoch:.2f}); {hint}")
