"""Measured step seconds: from the run's own steps where there are enough, else on a resident batch."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from autoprog.errors import ConfigError
from autoprog.train.data import Batch
from autoprog.train.loop import Stepper
from autoprog.train.phase import Choice
from autoprog.train.timing import typical_seconds
from autoprog.train.trainer import Trainer
from supernet.config import ModelSpec, SubnetConfig
from supernet.cost import relative_cost

__all__ = ["Costs", "cell_name", "measure_seconds"]


def cell_name(subnet: SubnetConfig, batch_size: int) -> str:
    """Return the name of a cell of the cost table, such as ``d6 r128 b1024``."""
    return f"{subnet} b{batch_size}"


class Costs:
    """The cost table of a run: a recorded input. What it holds once is never measured again."""

    def __init__(self, seconds: dict[str, float], batch_size: int) -> None:
        self.seconds = seconds
        self._batch_size = batch_size

    @classmethod
    def read(cls, path: Path, batch_size: int) -> Costs:
        """Read ``costs.json``.

        Raises:
            ConfigError: If it is missing or holds anything but seconds above 0.
        """
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise ConfigError(
                str(path), "", "must be a readable JSON file of step seconds"
            ) from None
        for name, seconds in table.items() if isinstance(table, dict) else [("", table)]:
            if not _is_duration(seconds):
                raise ConfigError(str(path), str(name), "must be seconds above 0", seconds)
        return cls(dict(table), batch_size)

    def get(self, subnet: SubnetConfig) -> float | None:
        """Return the recorded seconds of a step, or None."""
        return self.seconds.get(cell_name(subnet, self._batch_size))

    def seconds_of(self, subnet: SubnetConfig) -> float:
        """Return the recorded seconds of a step of `subnet`, which must be there."""
        return self.seconds[cell_name(subnet, self._batch_size)]

    def all_seconds(self, spec: ModelSpec, subnets: Sequence[SubnetConfig]) -> dict[str, float]:
        """Return the seconds of all `subnets` by their text: those on record, or a line through them.

        The line is seconds over relative cost, by least squares; at least one subnet must be on record.
        """
        known = {s: own for s in subnets if (own := self.get(s)) is not None}
        costs = [relative_cost(spec, subnet) for subnet in known]
        slope, offset = line_through(costs, list(known.values()))

        def guess(subnet: SubnetConfig) -> float:
            return max(min(known.values()), offset + slope * relative_cost(spec, subnet))

        return {str(subnet): known.get(subnet) or guess(subnet) for subnet in subnets}

    def complete(self, trainer: Trainer, choices: Sequence[Choice]) -> bool:
        """Add what is missing for `choices`; tell whether anything was added."""
        missing = [choice for choice in choices if self.get(choice.subnet) is None]
        for choice in missing:
            own = typical_seconds(trainer.phase_seconds.get(choice.subnet, []))
            seconds = own if own is not None else measure_seconds(trainer.stepper, choice, trainer)
            self.seconds[cell_name(choice.subnet, self._batch_size)] = seconds
        return bool(missing)


def line_through(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """Return slope and offset of the least-squares line, neither below 0; proportional for one point."""
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    if spread == 0:
        return mean_y / mean_x, 0.0
    slope = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread
    slope = max(slope, 0.0)
    offset = mean_y - slope * mean_x
    return (slope, offset) if offset >= 0 else (mean_y / mean_x, 0.0)


def _is_duration(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 < value < math.inf


def measure_seconds(stepper: Stepper, choice: Choice, trainer: Trainer, repeats: int = 5) -> float:
    """Return the median seconds of forward and backward on a resident batch; the network stays as it is.

    The batch is taken in the parts that training takes it in. The update is left out, so this is a little low
    for small subnets; it only fills gaps.
    """
    images, targets = _resident_batch(trainer, choice.subnet.img_size)
    with stepper.model.kept_statistics():
        seconds = [_seconds(stepper, choice, images, targets) for _ in range(repeats + 1)]
    stepper.optimizer.zero_grad(set_to_none=True)
    return sorted(seconds[1:])[repeats // 2]


def _seconds(stepper: Stepper, choice: Choice, images: Tensor, targets: Tensor) -> float:
    stepper.compute.synchronize()
    start = time.perf_counter()
    for part, part_targets in zip(
        images.chunk(stepper.micro_batches), targets.chunk(stepper.micro_batches), strict=True
    ):
        with stepper.compute.autocast():
            logits = stepper.model(part, choice.subnet, choice.slots)
            loss = torch.nn.functional.cross_entropy(logits.float(), part_targets)
        loss.backward()
    stepper.compute.synchronize()
    return time.perf_counter() - start


def _resident_batch(trainer: Trainer, img_size: int) -> Batch:
    """Return a batch of this process on the device: the probe images, repeated and resized."""
    images, targets = trainer.feed.probe()
    size = trainer.recipe.batch_size // trainer.ranks.world_size  # the share of this process
    device = trainer.compute.device
    copies = -(-size // len(images))
    images = images.repeat(copies, 1, 1, 1)[:size].to(device)
    images = torch.nn.functional.interpolate(images, size=(img_size, img_size))
    return images, targets.repeat(copies)[:size].to(device)
