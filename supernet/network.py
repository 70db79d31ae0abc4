"""What all elastic Vision Transformers share: one full-size timm model of which a forward runs a subnet.

Legend: B images, C channels, H W px, N tokens, D width, L block slots.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from timm.layers import calculate_drop_path_rates
from timm.models.vision_transformer import VisionTransformer
from timm.models.volo import VOLO
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from supernet.config import ModelSpec, Slots, SubnetConfig, as_depth

__all__ = ["DropPath", "ElasticViT", "resize"]


# --------------------------------------------------------------------------------------------------
# Stochastic depth whose rate can ramp without recompiling a graph.


class DropPath(nn.Module):
    """Drop a residual branch per image with probability ``drop_prob``, and scale up the kept ones.

    Compiled graphs read the rate from a buffer, so a ramp never recompiles (with a float attribute
    it does, up to the recompile limit, and then falls back to eager silently). Eager code asks the
    float, which needs no device synchronisation, and draws no random number at rate 0. Draws come
    from the global torch generator of the device.
    """

    rate: Tensor
    """The rate on the device; not persistent, so state dicts stay those of plain timm."""

    def __init__(self, drop_prob: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("rate", torch.zeros(()), persistent=False)
        self.set_rate(drop_prob)

    def set_rate(self, drop_prob: float) -> None:
        """Set the probability, in [0, 1)."""
        if not 0.0 <= drop_prob < 1.0:
            raise ValueError(f"drop-path rate must lie in [0, 1), but got {drop_prob}")
        self.drop_prob = drop_prob
        self.rate.fill_(drop_prob)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` (B images, ...) with some images set to 0; ``x`` itself in eval mode."""
        if not self.training:
            return x
        # The order matters: dynamo must not read the float, or it would guard on its value.
        if not torch.compiler.is_compiling() and self.drop_prob == 0.0:
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        kept = torch.rand(shape, device=x.device) >= self.rate
        return x * (kept / (1.0 - self.rate)).to(x.dtype)

    def extra_repr(self) -> str:
        """Show the rate in the module's print-out."""
        return f"drop_prob={self.drop_prob:0.3f}"


class ElasticViT(nn.Module, ABC):
    """A full-size timm model that runs any subnet of itself, with no state between calls.

    ``vit`` is the timm model; its ``state_dict()`` loads strictly into plain
    ``timm.create_model(spec.timm, num_classes=…, **spec.create_kwargs())``.
    """

    def __init__(self, spec: ModelSpec, vit: VisionTransformer | VOLO) -> None:
        super().__init__()
        self.spec = spec
        self.vit = vit
        depth = tuple(map(len, self.stages))
        assert spec.depth == depth, f"{spec.name} says depth {spec.depth}, but has {depth}"

    @staticmethod
    @abstractmethod
    def block_lists(vit: VisionTransformer | VOLO) -> tuple[tuple[nn.Sequential, ...], ...]:
        """Return the lists in which a timm model keeps the blocks of each growing stage, in order."""

    @property
    def stages(self) -> tuple[tuple[nn.Module, ...], ...]:
        """The block slots, stage by stage; a plain ViT has one stage."""
        return tuple(tuple(chain(*lists)) for lists in self.block_lists(self.vit))

    @abstractmethod
    def forward(self, images: Tensor, subnet: SubnetConfig, slots: Slots | None = None) -> Tensor:
        """Return the logits of ``subnet`` for images (B, C, H, W), resized where they differ in size.

        ``slots`` says which block slots run, in order; the first ones of each stage when left out.
        """

    @abstractmethod
    def resampled_positions(self, img_size: int) -> Tensor | None:
        """Return the position table as a forward at ``img_size`` px sees it; None if there is none."""

    def set_drop_path(self, rate: float, depth: int | Sequence[int]) -> None:
        """Let drop-path rise from 0 to ``rate`` over the first ``depth`` slots; the others get 0."""
        active = as_depth(depth)
        rates = iter(calculate_drop_path_rates(rate, sum(active)))
        for stage, blocks in zip(self.stages, active, strict=True):
            for slot, block in enumerate(stage):
                drop_prob = next(rates) if slot < blocks else 0.0
                for module in block.modules():
                    if isinstance(module, DropPath):
                        module.set_rate(drop_prob)

    def active_parameters(self, slots: Slots) -> Iterator[nn.Parameter]:
        """Yield what a forward over ``slots`` uses, in the order of ``parameters()``."""
        idle = {id(parameter) for parameter in self.idle_parameters(slots)}
        return (parameter for parameter in self.parameters() if id(parameter) not in idle)

    def idle_parameters(self, slots: Slots) -> Iterator[nn.Parameter]:
        """Yield the parameters of the slots that a forward over ``slots`` leaves out."""
        for stage, running in zip(self.stages, slots, strict=True):
            for slot, block in enumerate(stage):
                if slot not in running:
                    yield from block.parameters()

    def statistics(self) -> list[Tensor]:
        """Return the buffers that checkpoints hold: running statistics, which no gradient moves."""
        buffers = {id(buffer) for buffer in self.buffers()}
        state = self.vit.state_dict(keep_vars=True)
        return [tensor for tensor in state.values() if id(tensor) in buffers]

    def compile_blocks(self, dynamic: bool = True, backend: Any = "inductor") -> None:
        """Compile each block in place; a deep copy of the model (an EMA) is eager again.

        All blocks of a stage share one code object, so depth, image size and drop-path ramps reuse the same
        graphs. Stem and head stay eager, since position resampling specialises on every size.
        """
        for stage in self.stages:
            for block in stage:
                block.compile(dynamic=dynamic, backend=backend)

    def _blocks(self, slots: Slots, stage: int = 0) -> Iterator[nn.Module]:
        return (self.stages[stage][slot] for slot in slots[stage])

    def checkpointed(self, run: Callable[..., Tensor], *arguments: Any) -> Tensor:
        """Return what ``run`` returns, recomputed in the backward pass where the model is set up so."""
        if self.vit.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(run, *arguments, use_reentrant=False)
        return run(*arguments)


def resize(images: Tensor, img_size: int) -> Tensor:
    """Resize images (B, C, H, W) to (B, C, img_size, img_size) unless they have that size."""
    if images.shape[-2:] == (img_size, img_size):
        return images
    size = (img_size, img_size)
    return functional.interpolate(images, size=size, mode="bilinear", antialias=True)
