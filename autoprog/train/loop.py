"""One optimizer step: the hot path, without a single wait for the device."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
import torch
from timm.data import Mixup
from timm.scheduler.scheduler import Scheduler
from timm.utils import dispatch_clip_grad
from torch import Tensor, nn

from autoprog.errors import DivergedError
from autoprog.train.device import Compute
from autoprog.train.ema import ElasticEma
from autoprog.train.phase import Choice, step_seed
from supernet.config import Slots
from supernet.elastic import ElasticViT

__all__ = ["LossRing", "Stepper", "check_weights"]


@dataclass
class Stepper:
    """What a step needs. ``mixup`` and ``loss`` are exchanged where a stage changes them."""

    model: ElasticViT
    emas: tuple[ElasticEma, ...]
    optimizer: torch.optim.Optimizer
    scheduler: Scheduler
    scaler: torch.amp.GradScaler
    compute: Compute
    seed: int
    micro_batches: int
    clip_grad: float | None
    loss: nn.Module = field(default_factory=nn.CrossEntropyLoss)
    mixup: Mixup | None = None

    def step(
        self, images: Tensor, targets: Tensor, choice: Choice, slots: Slots, step: int
    ) -> Tensor:
        """Train `choice` on images (B, 3, H, W) and targets (B); return the loss, still on the device.

        All randomness of the step (mixup, drop-path) is a function of (seed, step). ``slots`` are those
        that the averages follow; ``step`` counts from 0.
        """
        self._reseed(step)
        self.scheduler.step_update(step)
        images = images.to(self.compute.device, non_blocking=True)
        targets = targets.to(self.compute.device, non_blocking=True)
        if self.mixup is not None:
            images, targets = self.mixup(images, targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._backward(images, targets, choice)
        self._update()
        for ema in self.emas:
            ema.update_active(self.model, step + 1, slots)
        return loss

    def _backward(self, images: Tensor, targets: Tensor, choice: Choice) -> Tensor:
        """Accumulate the gradient over micro-batches; return the mean loss of the batch."""
        total = images.new_zeros((), dtype=torch.float32)
        parts = zip(
            images.chunk(self.micro_batches), targets.chunk(self.micro_batches), strict=True
        )
        for part, part_targets in parts:
            with self.compute.autocast():
                logits = self.model(part, choice.subnet, choice.slots)
                loss = self.loss(logits.float(), part_targets) * (len(part) / len(images))
            self.scaler.scale(loss).backward()
            total += loss.detach()
        return total

    def _update(self) -> None:
        if self.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            dispatch_clip_grad(self.model.parameters(), self.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _reseed(self, step: int) -> None:
        seed = step_seed(self.seed, "step", step)
        torch.manual_seed(seed)
        if self.mixup is not None:
            random.seed(seed)
            np.random.seed(seed & 0xFFFFFFFF)


class LossRing:
    """Losses that stay on the device until they are read together."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []

    def add(self, loss: Tensor) -> None:
        """Keep a loss without reading it."""
        self._losses.append(loss)

    def read(self, next_step: int, epoch: float, stage: int) -> float | None:
        """Return the mean since the last call, None if there is nothing.

        Raises:
            DivergedError: If a loss is not finite, with its exact step.
        """
        if not self._losses:
            return None
        values = torch.stack(self._losses).tolist()
        self._losses = []
        for offset, value in enumerate(values):
            if not np.isfinite(value):
                step = next_step - len(values) + offset
                what = f"the loss is {value} at step {step}"
                raise _diverged(what, stage, epoch * step / next_step)
        return float(np.mean(values))


def check_weights(model: nn.Module, next_step: int, epoch: float, stage: int) -> None:
    """Look at the weights after step ``next_step - 1``, whose loss is from before its update.

    Raises:
        DivergedError: If a weight is not finite.
    """
    peaks = torch.stack([weight.detach().abs().amax() for weight in model.parameters()])
    if not torch.isfinite(peaks).all():
        raise _diverged(f"a weight is not finite after step {next_step - 1}", stage, epoch)


def _diverged(what: str, stage: int, epoch: float) -> DivergedError:
    cure = "checkpoints are from before; lower --lr or set --clip-grad"
    return DivergedError(f"{what} (stage {stage}, epoch {epoch:.2f}); {cure}")
