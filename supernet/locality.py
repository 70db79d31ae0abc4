"""The locality feed-forward of "Training a Vision Transformer from scratch in less than 24 hours with 1 GPU".

Irandoust et al., arXiv 2211.05187: a depth-wise 3x3 convolution between the two layers of the feed-forward,
for patch tokens only. Importing this module registers with timm, for every plain ViT or DeiT ``NAME`` of its,
``local_NAME`` with this feed-forward (h-swish), ``local_gelu_NAME`` with GELU instead, and ``local_se_NAME``
and ``local_eca_NAME``, which gate the channels behind the convolution. Attention and initial weights are
timm's, where the published code has attention without biases and Xavier weights. Its option of batch norm is
left out: it was of no use there, and blocks would have running statistics to average and to grow. Gates are
those of LocalViT (Li et al., arXiv 2104.05707): a hard sigmoid, relu6(x + 3) / 6, in ``se``, a sigmoid in
``eca``.

Legend: B images, N patch tokens on a grid of H x W, P prefix tokens, D token width, E hidden width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
from timm.layers import PatchEmbed, create_attn
from timm.models import model_entrypoint
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["LocalBlock", "LocalMlp"]

Grid = tuple[int, int]

_VARIANTS: dict[str, dict[str, str]] = {
    "local": {},
    "local_gelu": {"act_layer": "gelu"},
    "local_se": {"channel_attention": "se"},
    "local_eca": {"channel_attention": "eca"},
}
_MODULES = ["vision_transformer", "deit"]


class LocalMlp(nn.Module):
    """A feed-forward whose hidden tokens see their neighbours; without biases and norms, as published.

    Args:
        in_features: D.
        hidden_features: E.
        act_layer: Makes the activation behind the first layer and behind the convolution.
        drop: Dropout rate of the result.
        channel_attention: ``se`` (LocalViT's squeeze-and-excitation: by D / 4, ReLU, hard sigmoid), ``eca``
            (a sigmoid of a convolution over channels), or none.
        device: Where the weights are made.
        dtype: Their type.
        unused: What timm says of every feed-forward, and this one has not: ``bias``, ``norm_layer``.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        act_layer: Callable[[], nn.Module] = nn.Hardswish,
        drop: float = 0.0,
        channel_attention: str | None = None,
        device: Any = None,
        dtype: Any = None,
        **unused: Any,
    ) -> None:
        super().__init__()
        where = {"device": device, "dtype": dtype}
        self.fc1 = nn.Linear(in_features, hidden_features, bias=False, **where)
        self.act = act_layer()
        self.conv = nn.Conv2d(
            hidden_features,
            hidden_features,
            kernel_size=3,
            padding=1,
            groups=hidden_features,
            bias=False,
            **where,
        )
        own: dict[str, Any] = {"rd_channels": 4 * hidden_features // in_features}
        if channel_attention == "se":
            own["gate_layer"] = "hard_sigmoid"  # timm's default is a sigmoid
        self.gate = create_attn(channel_attention, hidden_features, **own, **where)
        self.fc2 = nn.Linear(hidden_features, in_features, bias=False, **where)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Return what is added to patch tokens x (B, N, D), the rows of a grid (H, W) one after another."""
        # Channels last in memory, so nothing is copied: on CPU 2 to 6 times as fast as channels first.
        # The convolution gets no mere view, since inductor cannot lay out one that it keeps for backward.
        x = self.fc1(x).unflatten(1, grid).permute(0, 3, 1, 2)  # (B, E, H, W)
        x = self.act(self.conv(self.act(x)))
        if self.gate is not None:
            x = self.gate(x)
        x = x.permute(0, 2, 3, 1).flatten(1, 2)  # (B, N, E)
        return self.drop(self.fc2(x))


class LocalBlock(Block):
    """timm's block with :class:`LocalMlp`, which prefix tokens (class, registers) bypass.

    Images have the shape of those that the network was made for, so the number of tokens gives their grid.
    """

    def __init__(
        self,
        dim: int,
        *args: Any,
        mlp_layer: Any = None,
        act_layer: Any = nn.Hardswish,
        channel_attention: str | None = None,
        **kwargs: Any,
    ) -> None:
        own = partial(LocalMlp, channel_attention=channel_attention)
        super().__init__(dim, *args, mlp_layer=own, act_layer=act_layer, **kwargs)
        self.num_prefix_tokens = 1
        self.unit: Grid = (1, 1)

    def place(self, num_prefix_tokens: int, grid: Grid) -> None:
        """Say how many prefix tokens come first, and on which grid (H, W) or a similar one the others lie."""
        self.num_prefix_tokens = num_prefix_tokens
        common = math.gcd(*grid)
        self.unit = (grid[0] // common, grid[1] // common)

    def grid(self, num_tokens: int) -> Grid:
        """Return (H, W) of P + N tokens.

        Raises:
            ValueError: If they fill no such grid, as where tokens have been dropped.
        """
        height, width = self.unit
        num_patches = num_tokens - self.num_prefix_tokens
        scale = math.isqrt(num_patches // (height * width))
        if scale == 0 or scale**2 * height * width != num_patches:
            problem = f"locality must have all tokens of a grid of {height}:{width}"
            raise ValueError(f"{problem}, but got {num_patches}")
        return height * scale, width * scale

    def forward(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        grid: Grid | None = None,
    ) -> Tensor:
        """Return tokens (B, P + N, D). Compiled blocks must be given the grid, or each size costs a graph."""
        grid = self.grid(x.shape[1]) if grid is None else grid
        x = x + self.drop_path1(
            self.ls1(self.attn(self.norm1(x), attn_mask=attn_mask, is_causal=is_causal))
        )
        patches = x[:, self.num_prefix_tokens :]
        added = self.drop_path2(self.ls2(self.mlp(self.norm2(patches), grid)))
        return x + functional.pad(added, (0, 0, self.num_prefix_tokens, 0))


def _local(base: str, channel_attention: str | None = None, act_layer: str = "hard_swish") -> Any:
    """Return the entry point of a variant of the timm model `base`."""

    def build(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
        if pretrained:
            raise RuntimeError(f"No pretrained weights exist for {base} with locality.")
        if kwargs.get("patch_drop_rate"):
            problem = "patch_drop_rate must be 0 with locality"
            raise ValueError(f"{problem}, but got {kwargs['patch_drop_rate']}")
        build_base = model_entrypoint(base)
        with torch.device("meta"):
            replaced = type(build_base(depth=1).blocks[0])
        if replaced is not Block:
            problem = "locality must replace standard blocks"
            raise ValueError(f"{base}: {problem}, but there are {replaced.__name__}")
        block = partial(LocalBlock, channel_attention=channel_attention)
        vit = build_base(**{"act_layer": act_layer, **kwargs, "block_fn": block})
        grid = vit.patch_embed.grid_size
        for one in vit.blocks:
            one.place(vit.num_prefix_tokens, grid)
        vit.patch_embed.register_forward_pre_hook(partial(_check_shape, grid=grid))
        return vit

    return build


def _check_shape(embed: PatchEmbed, inputs: tuple[Tensor], grid: Grid) -> None:
    """Refuse images of another shape than the network's: the number of tokens would not give their grid."""
    height, width = inputs[0].shape[-2:]
    patch_height, patch_width = embed.patch_size
    if height * patch_width * grid[1] != width * patch_height * grid[0]:
        problem = (
            f"images must have the shape of a grid of {grid[0]}x{grid[1]} patches with locality"
        )
        raise ValueError(f"{problem}, but got {height}x{width} px")


def _register() -> None:
    for base in timm.list_models(module=_MODULES):
        for prefix, options in _VARIANTS.items():
            entry = _local(base, **options)
            entry.__name__ = entry.__qualname__ = f"{prefix}_{base}"
            timm.models.register_model(entry)
    del __all__[2:]  # timm adds every name, and there are some thousand


_register()
