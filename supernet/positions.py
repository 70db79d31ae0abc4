"""A position table for each image size, as SuperViT has it, beside the table of the full size.

Legend: B images, H x W patches, N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

__all__ = ["TABLES", "add_tables", "has_tables", "position", "resample_tables", "table_of"]

TABLES = "pos_embed_list"
"""The attribute of a timm model that holds the tables by image size; plain timm has none."""


def add_tables(vit: VisionTransformer, img_sizes: Sequence[int]) -> None:
    """Give each of these sizes in px a table of its own, which is not weight-decayed.

    They begin as the full table resampled (SuperViT draws each anew), and are trained by forwards at their
    size alone.
    """
    tables = {str(size): nn.Parameter(_resampled(vit, size)) for size in img_sizes}
    setattr(vit, TABLES, nn.ParameterDict(tables))
    names = {*vit.no_weight_decay(), *(f"{TABLES}.{size}" for size in tables)}
    vit.no_weight_decay = lambda: names


def resample_tables(vit: VisionTransformer, img_sizes: Iterable[int]) -> None:
    """Set the tables of these sizes in px to the full one resampled, where that has come to new values."""
    for size in img_sizes:
        table = table_of(vit, size)
        assert table is not None, f"{size} px has no table of its own"
        table.data.copy_(_resampled(vit, size))


def has_tables(vit: nn.Module) -> bool:
    """Return whether some sizes have tables of their own, which other sizes leave without a gradient."""
    return hasattr(vit, TABLES)


def table_of(vit: VisionTransformer, img_size: int) -> Tensor | None:
    """Return the table (1, N, D) that `img_size` has of its own, if it has one."""
    found: Tensor | None = getattr(vit, TABLES, {}).get(str(img_size))
    return found


def position(vit: VisionTransformer, patches: Tensor, table: Tensor) -> Tensor:
    """Return tokens (B, N, D) of embedded patches (B, H, W, D), with prefix tokens and a table (1, N, D)."""
    x = patches.flatten(1, 2)
    tokens = (token for token in (vit.cls_token, vit.reg_token) if token is not None)
    prefix = [token.expand(len(x), -1, -1) for token in tokens]
    if vit.no_embed_class:
        return vit.pos_drop(torch.cat([*prefix, x + table], dim=1))
    return vit.pos_drop(torch.cat([*prefix, x], dim=1) + table)


@torch.no_grad()
def _resampled(vit: VisionTransformer, img_size: int) -> Tensor:
    side = img_size // vit.patch_embed.patch_size[0]
    return resample_abs_pos_embed(
        vit.pos_embed,
        new_size=[side, side],
        old_size=list(vit.patch_embed.grid_size),
        num_prefix_tokens=0 if vit.no_embed_class else vit.num_prefix_tokens,
    ).clone()
