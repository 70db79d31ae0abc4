"""What trains a network: how it grows, and one optimizer step, without a single wait for the device.

Legend: B images, b images of a micro-batch, C channels, H W px.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from timm.data import Mixup
from timm.scheduler.scheduler import Scheduler
from timm.utils import dispatch_clip_grad
from torch import Tensor, nn
from torch.nn import functional

from autoprog.data.transforms import InputConfig
from autoprog.errors import RunError
from autoprog.events import Grown
from autoprog.recipe import Recipe, with_randaug_magnitude
from autoprog.stage import Training, Unfrozen
from autoprog.train.optim import ElasticEma, create_loss, create_mixup
from autoprog.train.pace import Pace, StepPace
from autoprog.train.phase import Choice, GrowTo, Phase, choice_of, plain_choice, step_seed
from autoprog.train.ranks import ONE_PROCESS, Ranks
from autoprog.train.sandwich import accumulate, sandwich_passes
from supernet.config import Slots, SubnetConfig
from supernet.elastic import ElasticViT
from supernet.grow import grow
from supernet.positions import has_tables

if TYPE_CHECKING:
    from autoprog.stage import Curriculum
    from autoprog.train.device import Compute

__all__ = [
    "Stepper",
    "fourier_crop",
    "input_config_at",
    "make_input_config",
    "scaled_batch_size",
    "set_trainable",
]


@dataclass
class Stepper:
    """What a step needs: the network with its averages, the optimizer, and how the phase trains.

    Attributes:
        micro_batches: Parts of a batch; doubles when one does not fit into the device's memory.
        pace: Where the learning rate stands.
        loss: Of logits and targets; :meth:`regularise` exchanges it and ``mixup``.
        lr_scale: Halves when a run is rolled back.
        network: The model as the ranks train it together.
        training: How the steps of the phase train.
        subnet: What the phase ends with.
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
        # Growth exchanges values, never parameters and buffers, so both lists hold for the whole run.
        self._parameters = list(self.model.parameters())
        self._statistics = [s for s in self.model.statistics() if s.is_floating_point()]

    def grow(
        self, change: GrowTo, probe: tuple[Tensor, Tensor], step: int, clock: Callable[[], float]
    ) -> Grown:
        """Grow the network, its averages and the optimizer state in place; return what that did.

        All ranks grow alike, each by itself; that they still agree is checked.

        Args:
            change: From where to where, and how.
            probe: Images (B, 3, H, W) and targets (B) on which the change is measured.
            step: The step at which it happens.
            clock: For the seconds that training stands still.

        Raises:
            RunError: If the ranks differ afterwards.
        """
        begin = clock()
        loss_before, before = self._probe(plain_choice(change.before), probe)
        origins = grow(
            self.model,
            [ema.module for ema in self.emas],
            self.optimizer,
            change.before.depth,
            change.after.depth,
            change.grow.rule(),
        )
        if not self.ranks.alone:
            what = "weights, averages or moments after a growth"
            self.ranks.check_equal(self.fingerprint(), what)
        loss_after, after = self._probe(plain_choice(change.after), probe)
        texts = []
        for origin in origins:
            stage = f"{origin.stage}." if origin.stage else ""
            texts.append(f"{stage}{origin.slot} <- {stage}{origin.source_slot} ({origin.weights})")
        return Grown(
            step=step,
            before=change.before,
            after=change.after,
            **change.grow.model_dump(),
            origins=tuple(texts),
            delta_loss=(loss_after - loss_before).item(),
            delta_logits=((after - before).norm() / before.norm()).item(),
            lost_seconds=clock() - begin,
        )

    @torch.no_grad()
    def _probe(self, choice: Choice, probe: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the loss and the logits (B, classes) of one subnet in eval mode."""
        training = self.model.training
        images, targets = (part.to(self.compute.device) for part in probe)
        # Eager: a compiled network would need one more graph for each depth.
        with self.compute.autocast(), torch.compiler.set_stance("force_eager"):
            logits = self.model.eval()(images, choice.subnet, choice.slots).float()
        self.model.train(training)
        return functional.cross_entropy(logits, targets), logits

    @torch.no_grad()
    def fingerprint(self) -> Tensor:
        """Return the sum of the bits, as whole numbers, of each tensor of the run: int64, on the CPU.

        These are weights and running statistics, online and averaged, and moments.
        """
        moments = (self.optimizer.state.get(p, {}) for p in self.model.parameters())
        tensors = [
            *self.model.vit.state_dict().values(),
            *(tensor for ema in self.emas for tensor in ema.module.vit.state_dict().values()),
            *(v for state in moments for _, v in sorted(state.items()) if torch.is_tensor(v)),
        ]
        # As whole numbers, since sums of floats round, and a NaN equals nothing.
        kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
        bits = (
            tensor.detach().contiguous().view(kinds[tensor.element_size()]) for tensor in tensors
        )
        return torch.stack([own.sum(dtype=torch.int64).cpu() for own in bits])

    def regularise(self, phase: Phase, recipe: Recipe, num_classes: int) -> None:
        """Set drop-path, mixing and the loss of a phase; the recipe fills what its curriculum leaves."""
        values = phase.curriculum
        self.model.set_drop_path(_constant(values.drop_path, recipe.drop_path), phase.depth)
        self.mixup = create_mixup(
            _constant(values.mixup, recipe.mixup),
            _constant(values.cutmix, recipe.cutmix),
            recipe.smoothing,
            num_classes,
        )
        self.loss = create_loss(recipe.smoothing, mixed=self.mixup is not None)

    def enter(self, phase: Phase) -> None:
        """Get ready for the steps of a phase: ranks wait only for gradients that its subnets have."""
        self.training, self.subnet = phase.training, phase.choices[-1].subnet
        # Lets go of the wrapper of the phase before: two of them would both average the gradients.
        self.network = self.model
        set_trainable(self.model, phase.slots, phase.training.unfrozen)
        some_idle = phase.kind == "supernet" or has_tables(self.model.vit)
        self.network = self.ranks.wrap(self.model, some_idle=some_idle)

    def step(
        self, images: Tensor, targets: Tensor, choice: Choice, slots: Slots, step: int
    ) -> Tensor:
        """Train `choice` on images (B, 3, H, W) and targets (B); return the loss, still on the device.

        ``slots`` are those that the averages follow; ``step`` counts from 0.

        Raises:
            RunError: If not even one image at a time fits into the device's memory.
        """
        # All randomness of a step (mixup, drop-path, random tokens) is a function of seed, purpose, step and
        # rank: a resume repeats it to the bit, whatever was drawn before.
        seed = step_seed(self.seed, "step", step, self.ranks.rank)
        self.compute.seed(seed)
        if self.mixup is not None:  # which draws from the generators of Python and numpy
            random.seed(seed)
            np.random.seed(seed & 0xFFFFFFFF)

        self.scheduler.step_update(self.pace.lr_position(step))
        scale = self.lr_scale * self.training.lr_scale
        if scale != 1.0:
            for group in self.optimizer.param_groups:
                group["lr"] *= scale

        images = images.to(self.compute.device, non_blocking=True)
        targets = targets.to(self.compute.device, non_blocking=True)
        if self.training.shrink_by == "fourier":
            images = fourier_crop(images, choice.subnet.img_size)
        if self.mixup is not None:
            images, targets = self.mixup(images, targets)

        self.optimizer.zero_grad(set_to_none=True)
        loss = None
        while loss is None:
            try:
                loss = self._forward_backward(images, targets, choice, step)
            except torch.OutOfMemoryError:
                self._halve_micro_batches(len(images))
            if loss is None:  # outside the handler, whose traceback holds the activations
                self.optimizer.zero_grad(set_to_none=True)
                if self.compute.device.type == "cuda":
                    torch.cuda.empty_cache()
                self.compute.seed(seed)

        if self.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)  # the norm is that of the true gradient
            dispatch_clip_grad(self._parameters, self.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.ranks.average(self._statistics)  # each rank normalises by its own images
        for ema in self.emas:
            ema.update_active(self.model, step + 1, slots)
        return loss

    def _forward_backward(
        self, images: Tensor, targets: Tensor, choice: Choice, step: int
    ) -> Tensor:
        """Accumulate the gradient over micro-batches; return the loss of the batch."""
        parts = list(
            zip(images.chunk(self.micro_batches), targets.chunk(self.micro_batches), strict=True)
        )
        if self.training.sandwich is not None:
            return self._sandwich(parts, choice, step)
        total = images.new_zeros((), dtype=torch.float32)
        for number, (some, wanted) in enumerate(parts, 1):
            # Chunks may differ in length; each is weighted by its part of the batch.
            with self.ranks.without_averaging(self.network, is_last=number == len(parts)):
                loss = self.loss(self._logits(some, choice), wanted) * (len(some) / len(images))
                self.scaler.scale(loss).backward()
            total += loss.detach()
        return total

    def _sandwich(self, parts: list[tuple[Tensor, Tensor]], choice: Choice, step: int) -> Tensor:
        """Accumulate the gradient of the four subnets of a sandwich step; return the sum of their losses."""
        training = self.training
        assert training.sandwich is not None
        return accumulate(
            sandwich_passes(training.sandwich, training.tokens, choice, self.seed, step),
            parts,
            forward=self._logits,
            loss=self.loss,
            scale=self.scaler.scale,
            surround=lambda is_last: self.ranks.without_averaging(self.network, is_last),
        ).sum()

    def _logits(self, images: Tensor, choice: Choice) -> Tensor:
        """Return the logits (b, classes) of a micro-batch; losses are taken in float32."""
        with self.compute.autocast():
            return self.network(images, choice.subnet, choice.slots).float()

    def _halve_micro_batches(self, batch_size: int) -> None:
        if not self.ranks.alone:  # the others wait for a gradient that this rank cannot give
            hint = f"set --grad-accum-steps {2 * self.micro_batches}"
            raise RunError(f"out of memory on rank {self.ranks.rank}; {hint}") from None
        if self.micro_batches >= batch_size:
            raise RunError("out of memory with one image at a time; lower --img-size") from None
        self.micro_batches = min(2 * self.micro_batches, batch_size)


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
# What the images of a step are: how many, of which size, how augmented.


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
    magnitude = None if curriculum.randaug is None else _constant(curriculum.randaug, 0.0)
    return InputConfig(
        img_size=img_size,
        aa=with_randaug_magnitude(recipe.aa, magnitude),
        reprob=_constant(curriculum.reprob, recipe.reprob),
    )


def _constant(value: object, default: float) -> float:
    """Return a curriculum's value, or the recipe's where it has none; ramps are resolved by now."""
    if value is None:
        return default
    assert isinstance(value, int | float), "a step table holds constants"
    return float(value)
