"""The elastic plain ViT; and elastic networks by name, whatever their family.

Legend: B images, C channels, H W px, N tokens, K tokens kept, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import timm
import torch
from timm.layers import Attention, PatchEmbed, resample_abs_pos_embed
from timm.models import model_entrypoint
from timm.models.vision_transformer import Block, VisionTransformer
from timm.models.volo import VOLO
from torch import Tensor, nn

from supernet.build import build_network, check_known
from supernet.config import ALL_TOKENS, ModelSpec, Slots, SubnetConfig, first_slots
from supernet.cost import BlockTokens, block_tokens, check_tokens, parameters
from supernet.locality import LocalBlock
from supernet.network import DropPath, ElasticViT, resize
from supernet.positions import add_tables, position, table_of
from supernet.tokens import PruningBlock, run_blocks
from supernet.volo import ElasticVOLO, describe_volo

__all__ = [
    "DropPath",
    "ElasticPlainViT",
    "ElasticViT",
    "create_elastic",
    "describe",
    "growable_names",
]

_OWN_ARGUMENTS = (  # which change the network without changing what a spec says of it
    "dynamic_img_size",
    "num_classes",
    "pretrained",
    "drop_path_rate",
    "patch_drop_rate",
)
_MAX_TABLES = 64
_DESCRIBED = (
    "depth",
    "embed_dim",
    "num_heads",
    "patch_size",
    "num_prefix_tokens",
    "class_token",
    "in_chans",
    "outlook",
)


class ElasticPlainViT(ElasticViT):
    """An elastic timm ``VisionTransformer`` with standard blocks: one growing stage."""

    def __init__(self, spec: ModelSpec, vit: VisionTransformer) -> None:
        super().__init__(spec, vit)
        # Position embeddings are then resampled in the forward, and the parameter keeps its size; timm's
        # set_input_size would make a new one, which the optimizer does not know.
        assert vit.dynamic_img_size, "the timm model must be built with dynamic_img_size=True"
        for block in vit.blocks:
            block.drop_path1, block.drop_path2 = DropPath(), DropPath()
        self.pruning_block = PruningBlock()

    @staticmethod
    def block_lists(vit: VisionTransformer) -> tuple[tuple[nn.Sequential, ...], ...]:
        """Return the one list of blocks."""
        return ((vit.blocks,),)

    def forward(self, images: Tensor, subnet: SubnetConfig, slots: Slots | None = None) -> Tensor:
        """Return the logits of ``subnet`` for images (B, C, H, W), resized where they differ in size.

        ``slots`` says which block slots run, in order; the first ones of each stage when left out.
        Raises ValueError where ``subnet`` keeps tokens by the attention of a class token that is not there,
        or drops tokens of a network that needs their grid.
        """
        running = first_slots(subnet.depth) if slots is None else slots
        assert tuple(map(len, running)) == subnet.depth, (
            f"{subnet} does not run the slots {running}"
        )
        vit, rule = self.vit, subnet.tokens
        check_tokens(rule, has_class_token=vit.cls_token is not None)
        if self.spec.needs_grid and rule != ALL_TOKENS:
            raise ValueError(f"{self.spec.name} must keep all tokens, but got {subnet}")
        patches = vit.patch_embed(resize(images, subnet.img_size))  # (B, H, W, D)
        table = table_of(vit, subnet.img_size)
        x = vit._pos_embed(patches) if table is None else position(vit, patches, table)  # (B, N, D)
        counts = block_tokens(x.shape[1], vit.num_prefix_tokens, subnet.total_depth, rule)
        x = run_blocks(vit, self._blocks(running), x, counts, rule.by, self._run_block)
        return vit.forward_head(vit.norm(x))

    def resampled_positions(self, img_size: int) -> Tensor | None:
        """Return the position table (1, N, D) for another size, exactly as the forward resamples it."""
        vit, side = self.vit, img_size // self.spec.patch_size
        own = table_of(vit, img_size)
        if own is not None or vit.pos_embed is None:
            return own
        return resample_abs_pos_embed(
            vit.pos_embed,
            new_size=[side, side],
            old_size=list(vit.patch_embed.grid_size),
            num_prefix_tokens=0 if vit.no_embed_class else vit.num_prefix_tokens,
        )

    def compile_blocks(self, dynamic: bool = True, backend: Any = "inductor") -> None:
        """Compile each block; dropping tokens before one takes no more graphs, inside one more."""
        super().compile_blocks(dynamic, backend)
        self.pruning_block.compile(dynamic=dynamic, backend=backend)

    def _run_block(self, block: nn.Module, x: Tensor, count: BlockTokens) -> Tensor:
        """Return the tokens (B, K, D) of a block for ``x`` (B, N, D)."""
        run: Any = block
        if isinstance(block, LocalBlock):
            return self.checkpointed(partial(run, grid=block.grid(x.shape[1])), x)
        if count.mlp < count.attention:
            prefix = self.vit.num_prefix_tokens
            return self.checkpointed(self.pruning_block, block, x, count.mlp, prefix)
        return self.checkpointed(run, x)


def create_elastic(
    spec: ModelSpec, num_classes: int, table_sizes: Sequence[int] = ()
) -> ElasticViT:
    """Build the full model of ``spec``, with weights from torch's global generator (seed it before).

    Image sizes in ``table_sizes`` get position tables of their own (:mod:`supernet.positions`).

    Raises:
        ValueError: If ``spec`` is not what timm builds of it, or it does not fit into memory.
    """
    if len(table_sizes) > _MAX_TABLES:  # more than a run can train
        problem = f"position tables must be for at most {_MAX_TABLES} image sizes"
        raise ValueError(f"{spec.name}: {problem}, but got {len(table_sizes)}")
    for size in table_sizes:
        spec.with_img_size(size)  # which refuses sizes that the model cannot see
    dynamic = True if spec.outlook is None else None
    vit = build_network(spec.timm, spec.create_kwargs(), num_classes, dynamic_img_size=dynamic)
    # Descriptions come with files of other people, where the parts may contradict the timm name.
    built = _read_spec(spec.timm, vit, spec.create_kwargs())
    for key in _DESCRIBED:
        said, found = getattr(spec, key), getattr(built, key)
        if said != found:
            problem = f"{key} must be {found}, as timm builds {spec.timm} with its overrides"
            raise ValueError(f"{spec.name}: {problem}, but got {said}")
    if type(vit) is VOLO:
        return ElasticVOLO(spec, vit)
    if table_sizes:
        add_tables(vit, table_sizes)
    return ElasticPlainViT(spec, vit)


def describe(timm_name: str, **overrides: Any) -> ModelSpec:
    """Describe any plain timm ``VisionTransformer`` or ``VOLO`` by its timm name, without drawing weights.

    ``overrides`` are further arguments of ``timm.create_model`` (``img_size``, ``depth``, …).
    Raises ValueError for unknown names, other architectures, and shapes that are not square.
    """
    check_known(timm_name)
    for key in _OWN_ARGUMENTS:
        if key in overrides:
            raise ValueError(
                f"{timm_name}: {key} must be left to supernet, but got {overrides[key]!r}"
            )
    overrides = {key: value for key, value in overrides.items() if value is not None}
    with torch.device("meta"):
        vit = build_network(timm_name, overrides)
    spec = _read_spec(timm_name, vit, overrides)
    if spec.outlook is not None:
        return spec
    # What the formula of supernet.cost.parameters misses (layer scale, registers, other norms), per block and
    # outside; what it says of a block is the difference that one more of them makes.
    one, two = (parameters(spec, depth, vit.num_classes) for depth in (1, 2))
    in_block = sum(p.numel() for p in vit.blocks[0].parameters())
    in_all = sum(p.numel() for p in vit.parameters())
    outside = in_all - len(vit.blocks) * in_block - (one - (two - one))
    return replace(spec, extra_parameters=(in_block - (two - one), outside))


def growable_names(pattern: str) -> list[str]:
    """Return the names of timm's models, and of ours in it, that match a glob pattern and may grow.

    A few of them cannot: only the built network shows it, by :func:`describe`, which takes a tenth of a
    second. Looks where timm keeps plain ViTs and VOLOs; `describe` accepts one from elsewhere too.
    """
    names = timm.list_models(pattern)
    return [name for name in names if model_entrypoint(name).__module__ in _HOMES]


_HOMES = (
    VisionTransformer.__module__,
    VOLO.__module__,
    "timm.models.deit",
    "supernet.locality",
    "supernet.volo",
)


def _check_supported(timm_name: str, vit: Any) -> None:
    """Refuse models whose forward, growth or export would not be that of the plain ViT."""
    if type(vit) is not VisionTransformer:
        problem = "must be a plain timm VisionTransformer or VOLO"
        raise ValueError(f"{timm_name}: {problem}, but is a {type(vit).__name__}")
    if type(vit.patch_embed) is not PatchEmbed:
        problem = "must embed patches by one convolution and support dynamic_img_size"
        raise ValueError(f"{timm_name}: {problem}, but has {type(vit.patch_embed).__name__}")
    for block in vit.blocks:
        if type(block) not in (Block, LocalBlock) or type(block.attn) is not Attention:
            kind = type(getattr(block, "attn", block)).__name__
            problem = "must have standard blocks and attention"
            raise ValueError(f"{timm_name}: {problem}, but has {type(block).__name__} with {kind}")
    for key in ("img_size", "patch_size"):
        height, width = getattr(vit.patch_embed, key)
        if height != width:
            raise ValueError(f"{timm_name}: {key} must be square, but got {height}x{width}")


def _read_spec(timm_name: str, vit: Any, overrides: dict[str, Any]) -> ModelSpec:
    """Describe a built network; raises ValueError for one that cannot grow."""
    if type(vit) is VOLO:
        return describe_volo(timm_name, vit, overrides)
    _check_supported(timm_name, vit)
    embed, block = vit.patch_embed, vit.blocks[0]
    feed_forward = sum(p.numel() for p in block.mlp.parameters() if p.ndim == 2)
    return ModelSpec(
        name=timm_name,
        timm=timm_name,
        depth=(len(vit.blocks),),
        embed_dim=vit.embed_dim,
        num_heads=block.attn.num_heads,
        mlp_ratio=feed_forward / (2 * vit.embed_dim**2),
        patch_size=embed.patch_size[0],
        img_size=embed.img_size[0],
        num_prefix_tokens=vit.num_prefix_tokens,
        in_chans=vit.in_chans,
        overrides=tuple((key, value) for key, value in overrides.items() if key != "img_size"),
        class_token=vit.cls_token is not None,
    )
