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

from autoprog.errors import DivergedError, RunError
from autoprog.stage import Training
from autoprog.train.crop import fourier_crop
from autoprog.train.device import Compute
from autoprog.train.ema import ElasticEma
from autoprog.train.freeze import set_trainable
from autoprog.train.pace import Pace, StepPace
from autoprog.train.phase import Choice, Phase, step_seed
from autoprog.train.ranks import ONE_PROCESS, Ranks
from autoprog.train.sandwich import accumulate, passes_of
from supernet.config import Slots, SubnetConfig
from supernet.elastic import ElasticViT
from supernet.positions import has_tables

__all__ = ["LossRing", "Stepper", "check_weights"]


@dataclass
class Stepper:
    """What a step needs. ``mixup`` and ``loss`` are exchanged where a stage changes them.

    ``network`` is the model as the ranks train it together. ``micro_batches`` doubles when a batch does not
    fit into the device's memory; ``lr_scale`` halves when a run is rolled back. ``training`` is how the steps
    of the phase train, ``subnet`` what they end with.
    """

    model: ElasticViT
    emas: tuple[ElasticEma, ...]
    optimizer: torch.optim.Optimizer
    scheduler: Scheduler
    scaler: torch.amp.GradScaler
    compute: Compute
    seed: int
    micro_batches: int
    clip_grad: float | None
    ranks: Ranks = ONE_PROCESS
    pace: Pace = field(default_factory=StepPace)
    loss: nn.Module = field(default_factory=nn.CrossEntropyLoss)
    mixup: Mixup | None = None
    lr_scale: float = 1.0

    def __post_init__(self) -> None:
        self.network: nn.Module = self.model
        self.training = Training()
        self.subnet: SubnetConfig | None = None
        # Growth exchanges values, never parameters and buffers.
        self._parameters = list(self.model.parameters())
        self._statistics = [s for s in self.model.statistics() if s.is_floating_point()]

    def enter(self, phase: Phase) -> None:
        """Get ready for the steps of a phase: ranks wait only for gradients that its subnets have."""
        self.training, self.subnet = phase.training, phase.choices[-1].subnet
        self.network = self.model  # lets go of the wrapper of the phase before
        set_trainable(self.model, phase.slots, phase.training.unfrozen)
        some_idle = phase.kind == "supernet" or has_tables(self.model.vit)
        self.network = self.ranks.wrap(self.model, some_idle=some_idle)

    def step(
        self, images: Tensor, targets: Tensor, choice: Choice, slots: Slots, step: int
    ) -> Tensor:
        """Train `choice` on images (B, 3, H, W) and targets (B); return the loss, still on the device.

        All randomness of the step (mixup, drop-path) is a function of (seed, step, rank). ``slots`` are
        those that the averages follow; ``step`` counts from 0.

        Raises:
            RunError: If not even one image at a time fits into the device's memory.
        """
        self._reseed(step)
        self._set_lr(step)
        images = images.to(self.compute.device, non_blocking=True)
        targets = targets.to(self.compute.device, non_blocking=True)
        if self.training.shrink_by == "fourier":
            images = fourier_crop(images, choice.subnet.img_size)
        if self.mixup is not None:
            images, targets = self.mixup(images, targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._backward_that_fits(images, targets, choice, step)
        self._update()
        self.ranks.average(self._statistics)  # each rank normalises by its own images
        for ema in self.emas:
            ema.update_active(self.model, step + 1, slots)
        return loss

    def _backward_that_fits(
        self, images: Tensor, targets: Tensor, choice: Choice, step: int
    ) -> Tensor:
        """Halve the micro-batches for as long as the device runs out of memory."""
        while True:
            try:
                return self._backward(images, targets, choice, step)
            except torch.OutOfMemoryError:
                self._halve_micro_batches(len(images))
            self.optimizer.zero_grad(set_to_none=True)
            if self.compute.device.type == "cuda":
                torch.cuda.empty_cache()
            self.compute.seed(step_seed(self.seed, "step", step, self.ranks.rank))

    def _halve_micro_batches(self, batch_size: int) -> None:
        if not self.ranks.alone:  # the others wait for a gradient that this rank cannot give
            cure = f"set --grad-accum-steps {2 * self.micro_batches}"
            raise RunError(f"out of memory on rank {self.ranks.rank}; {cure}") from None
        if self.micro_batches >= batch_size:
            raise RunError("out of memory with one image at a time; lower --img-size") from None
        self.micro_batches = min(2 * self.micro_batches, batch_size)

    def _backward(self, images: Tensor, targets: Tensor, choice: Choice, step: int) -> Tensor:
        """Accumulate the gradient over micro-batches and passes; return the loss of the batch."""
        parts = zip(
            images.chunk(self.micro_batches), targets.chunk(self.micro_batches), strict=True
        )
        return accumulate(
            passes_of(self.training, choice, self.seed, step),
            list(parts),
            forward=self._forward,
            loss=self.loss,
            scale=self.scaler.scale,
            surround=lambda is_last: self.ranks.without_averaging(self.network, is_last),
        ).sum()

    def _forward(self, images: Tensor, choice: Choice) -> Tensor:
        with self.compute.autocast():
            return self.network(images, choice.subnet, choice.slots).float()

    def _set_lr(self, step: int) -> None:
        self.scheduler.step_update(self.pace.lr_position(step))
        scale = self.lr_scale * self.training.lr_scale
        if scale != 1.0:
            for group in self.optimizer.param_groups:
                group["lr"] *= scale

    def _update(self) -> None:
        if self.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            dispatch_clip_grad(self._parameters, self.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _reseed(self, step: int) -> None:
        seed = step_seed(self.seed, "step", step, self.ranks.rank)
        self.compute.seed(seed)
        if self.mixup is not None:
            random.seed(seed)
            np.random.seed(seed & 0xFFFFFFFF)


class LossRing:
    """Losses that stay on the device until they are read together."""

    def __init__(self, ranks: Ranks = ONE_PROCESS) -> None:
        self._ranks = ranks
        self._losses: list[Tensor] = []

    def add(self, loss: Tensor) -> None:
        """Keep a loss without reading it."""
        self._losses.append(loss)

    def read(self, next_step: int, epoch: float, stage: int) -> float | None:
        """Return the mean since the last call, over all ranks; None if there is nothing.

        Raises:
            DivergedError: On all ranks, if a loss of one is not finite, with its exact step.
        """
        if not self._losses:
            return None
        local = torch.stack(self._losses).cpu()
        values = (self._ranks.total(local) / self._ranks.world_size).tolist()
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
