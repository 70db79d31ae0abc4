"""One optimizer step: the hot path, without a single wait for the device."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import TypeVar

import numpy as np
import torch
from timm.data import Mixup
from timm.scheduler.scheduler import Scheduler
from timm.utils import dispatch_clip_grad
from torch import Tensor, nn
from torch.nn import functional

from autoprog.curves import Curriculum
from autoprog.data.transforms import InputConfig
from autoprog.errors import DivergedError, RunError
from autoprog.recipe import Recipe, with_randaug_magnitude
from autoprog.stage import SandwichSizes, Tokens, Training, Unfrozen
from autoprog.train.device import Compute
from autoprog.train.optim import ElasticEma, create_loss, create_mixup
from autoprog.train.pace import Pace, StepPace
from autoprog.train.phase import Choice, Phase, choice_of, step_seed
from autoprog.train.ranks import ONE_PROCESS, Ranks
from supernet.config import ALL_TOKENS, Slots, SubnetConfig
from supernet.elastic import ElasticViT
from supernet.positions import has_tables

__all__ = [
    "MAX_ROLLBACKS",
    "Ledger",
    "LossRing",
    "Meter",
    "Pass",
    "Reading",
    "Rollbacks",
    "StepTimer",
    "Stepper",
    "accumulate",
    "batch_size_of",
    "check_weights",
    "fourier_crop",
    "imitation_loss",
    "input_config_at",
    "passes_of",
    "regularise",
    "sandwich_passes",
    "scaled_batch_size",
    "set_trainable",
    "typical_seconds",
]


# --------------------------------------------------------------------------------------------------
# What a curriculum means for one phase: augmentation, drop-path, mixing and the loss.


def batch_size_of(phase: Phase, recipe: Recipe) -> int:
    """Return the images a step of a phase takes, over all processes."""
    return scaled_batch_size(recipe, phase.training)


def scaled_batch_size(recipe: Recipe, training: Training) -> int:
    """Return the images a step takes that trains so, over all processes."""
    return max(1, round(recipe.batch_size * training.batch_scale))


def input_config_at(
    phase: Phase, recipe: Recipe, full_px: int, seed: int, step: int
) -> InputConfig:
    """Return how the images of a step are made: at its subnet's size, or full where the step shrinks them."""
    subnet = choice_of(phase, seed, step).subnet
    whole = phase.training.shrink_by == "fourier"
    return make_input_config(phase.curriculum, recipe, full_px if whole else subnet.img_size)


def make_input_config(curriculum: Curriculum, recipe: Recipe, img_size: int) -> InputConfig:
    """Return how images of `img_size` px are augmented; the recipe fills what the curriculum leaves."""
    magnitude = None if curriculum.randaug is None else _given(curriculum.randaug, 0.0)
    return InputConfig(
        img_size=img_size,
        aa=with_randaug_magnitude(recipe.aa, magnitude),
        reprob=_given(curriculum.reprob, recipe.reprob),
    )


def regularise(stepper: Stepper, phase: Phase, recipe: Recipe, num_classes: int) -> None:
    """Set drop-path, mixing and the loss of a phase."""
    values = phase.curriculum
    stepper.model.set_drop_path(_given(values.drop_path, recipe.drop_path), phase.depth)
    stepper.mixup = create_mixup(
        _given(values.mixup, recipe.mixup),
        _given(values.cutmix, recipe.cutmix),
        recipe.smoothing,
        num_classes,
    )
    stepper.loss = create_loss(recipe.smoothing, mixed=stepper.mixup is not None)


def _given(value: object, default: float) -> float:
    """Return a curriculum's constant value, or the recipe's where it has none."""
    if value is None:
        return default
    assert isinstance(value, int | float), "a step table holds constants"
    return float(value)


# --------------------------------------------------------------------------------------------------
# Which parameters train: those of the slots in use, or of some of their blocks (unfreezing).


def set_trainable(model: ElasticViT, slots: Slots, unfrozen: Unfrozen | None) -> None:
    """Freeze what a phase does not train; without a gradient the optimizer leaves it alone.

    Everything outside blocks trains. Of the blocks in `slots`, counted through all stages in running order,
    those that `unfrozen` names train; all of them when it is None.
    """
    model.requires_grad_(True)
    for parameter in model.idle_parameters(slots):
        parameter.requires_grad_(False)
    if unfrozen is None:
        return
    running = [stage[slot] for stage, own in zip(model.stages, slots, strict=True) for slot in own]
    for number, block in enumerate(running):
        if not unfrozen.trains(number):
            block.requires_grad_(False)


# --------------------------------------------------------------------------------------------------
# Low-frequency cropping: a smaller image that holds the low frequencies of a larger one.


def fourier_crop(images: Tensor, img_size: int) -> Tensor:
    """Return images (B, C, H, W) cut to the lowest `img_size` frequencies: (B, C, img_size, img_size).

    EfficientTrain++ (arXiv 2405.08768): the centred block of the spectrum, transformed back and scaled by
    (img_size / H) (img_size / W), so that a constant image keeps its value. Values may leave the range of the
    input (ringing). It commutes with the normalisation of channels. Computed in float32.
    """
    height, width = images.shape[-2:]
    if (height, width) == (img_size, img_size):
        return images
    spectrum = torch.fft.fftshift(torch.fft.fft2(images.float()), dim=(-2, -1))
    top, left = (height // 2 - img_size // 2), (width // 2 - img_size // 2)
    block = spectrum[..., top : top + img_size, left : left + img_size]
    small = torch.fft.ifft2(torch.fft.ifftshift(block, dim=(-2, -1))).real
    return (small * (img_size / height) * (img_size / width)).to(images.dtype)


# --------------------------------------------------------------------------------------------------
# Where the seconds go: totals by purpose, and the seconds of each step by subnet.


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


# --------------------------------------------------------------------------------------------------
# What the last steps came to: their losses and their seconds, read together now and then.


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
        """Begin a new stretch of the fraction of time spent waiting for data."""
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


# --------------------------------------------------------------------------------------------------
# Going back to the last checkpoint after a loss that was not finite, and on at half the learning
# rate.


MAX_ROLLBACKS = 3
"""In one process; after that it is not bad luck."""


@dataclass
class Rollbacks:
    """How often a run was rolled back, over all its attempts; checkpoints keep the count."""

    count: int = 0

    @property
    def lr_scale(self) -> float:
        """Return what multiplies the learning rate."""
        return 0.5**self.count


# --------------------------------------------------------------------------------------------------
# The sandwich step of SuperViT (arXiv 2205.11397): four subnets in one optimizer step, two taught
# by two.
#
# A plain step is the case of one pass, so both go through :func:`accumulate`.


T = TypeVar("T")


@dataclass(frozen=True)
class Pass:
    """One forward and backward of a step.

    Attributes:
        choice: The subnet that it trains.
        taught: Whether it learns, instead of from labels, from the last pass that did learn from them.
    """

    choice: Choice
    taught: bool = False


def passes_of(training: Training, choice: Choice, seed: int, step: int) -> tuple[Pass, ...]:
    """Return what a step trains: `choice` alone, or the four subnets of a sandwich around it."""
    if training.sandwich is None:
        return (Pass(choice),)
    return sandwich_passes(training.sandwich, training.tokens, choice, seed, step)


def sandwich_passes(
    sizes: SandwichSizes, tokens: Tokens, choice: Choice, seed: int, step: int
) -> tuple[Pass, ...]:
    """Return the four passes of a step: each of two image sizes on all tokens, then on some of them.

    The first size is that of `choice`; the second one and both keep-rates are drawn, uniformly and
    independently, by a hash of (seed, step), on which all ranks and resumes agree. Every pass runs the depth
    and the slots of `choice`; `tokens` says which tokens are kept and where the others are dropped.
    """

    def draw(purpose: str, values: Sequence[T]) -> T:
        return values[step_seed(seed, f"sandwich-{purpose}", step) % len(values)]

    def of_size(img_size: int, purpose: str) -> tuple[Pass, Pass]:
        rules = ALL_TOKENS, tokens.rule(draw(purpose, sizes.keep_rates))
        subnets = (SubnetConfig(choice.subnet.depth, img_size, rule) for rule in rules)
        full, pruned = (Choice(subnet, choice.slots) for subnet in subnets)
        return Pass(full), Pass(pruned, taught=True)

    smaller = draw("size", sizes.sizes)
    return (
        *of_size(choice.subnet.img_size, "keep-rate"),
        *of_size(smaller, "keep-rate of the smaller"),
    )


def imitation_loss(logits: Tensor, teacher: Tensor) -> Tensor:
    """Return KL(teacher || student) at temperature 1, mean over images, of logits (B, classes)."""
    return functional.kl_div(
        functional.log_softmax(logits, dim=1),
        functional.log_softmax(teacher, dim=1),
        reduction="batchmean",
        log_target=True,
    )


def accumulate(
    passes: Sequence[Pass],
    parts: Sequence[tuple[Tensor, Tensor]],
    forward: Callable[[Tensor, Choice], Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    scale: Callable[[Tensor], Tensor],
    surround: Callable[[bool], AbstractContextManager[None]],
) -> Tensor:
    """Add up the gradient of all passes over the micro-batches of a batch; return the loss of each pass.

    The objective is the plain sum over passes of their mean losses. A pass that is taught meets the logits of
    its teacher on the same images, detached: no gradient reaches the teacher through it.

    Args:
        passes: The first must learn from labels.
        parts: Micro-batches of images (b, C, H, W) and targets, which labels or mixed targets may be.
        forward: Returns the logits (b, classes) in float32.
        loss: Of logits and targets, mean over images.
        scale: What a loss is multiplied by before its backward, as a gradient scaler does.
        surround: The context of one forward and backward, given whether it is the last of the step.
    """
    assert not passes[0].taught, "nobody is there to teach it"
    num_images = sum(len(images) for images, _ in parts)
    losses = [parts[0][0].new_zeros((), dtype=torch.float32) for _ in passes]
    for part, (images, targets) in enumerate(parts, 1):
        weight, teacher = len(images) / num_images, torch.empty(0)
        for number, one in enumerate(passes):
            is_last = part == len(parts) and number + 1 == len(passes)
            with surround(is_last):
                logits = forward(images, one.choice)
                own = imitation_loss(logits, teacher) if one.taught else loss(logits, targets)
                own = own * weight
                scale(own).backward()
            losses[number] += own.detach()
            teacher = teacher if one.taught else logits.detach()
    return torch.stack(losses)


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
            hint = f"set --grad-accum-steps {2 * self.micro_batches}"
            raise RunError(f"out of memory on rank {self.ranks.rank}; {hint}") from None
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
    hint = "checkpoints are from before; lower --lr or set --clip-grad"
    return DivergedError(f"{what} (stage {stage}, epoch {epoch:.2f}); {hint}")
