"""The elastic ViT: one full-size timm model of which every forward runs the subnet it is given.

Legend: B images, C channels, H W px, N tokens, K tokens kept, D width, L block slots.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import timm
import torch
from timm.layers import Attention, PatchEmbed, calculate_drop_path_rates
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from supernet.config import ModelSpec, Slots, SubnetConfig, as_depth, first_slots
from supernet.cost import parameters
from supernet.drop import DropPath
from supernet.tokencount import BlockTokens, block_tokens, check_tokens
from supernet.tokens import PruningBlock, run_blocks

__all__ = ["DropPath", "ElasticViT", "create_elastic", "describe"]

_OWN_ARGUMENTS = (
    "dynamic_img_size",
    "num_classes",
    "pretrained",
    "drop_path_rate",
    "patch_drop_rate",
)


class ElasticViT(nn.Module):
    """A full-size timm ``VisionTransformer`` that runs any subnet, with no state between calls.

    ``vit.state_dict()`` loads strictly into plain
    ``timm.create_model(spec.timm, num_classes=…, **spec.create_kwargs())``.
    """

    def __init__(self, spec: ModelSpec, vit: VisionTransformer) -> None:
        super().__init__()
        assert vit.dynamic_img_size, "the timm model must be built with dynamic_img_size=True"
        assert spec.depth == (len(vit.blocks),), f"{spec.name} says depth {spec.depth}"
        self.spec = spec
        self.vit = vit
        for block in vit.blocks:
            block.drop_path1, block.drop_path2 = DropPath(), DropPath()
        self.pruning_block = PruningBlock()

    @property
    def stages(self) -> tuple[nn.Sequential, ...]:
        """The block slots, stage by stage; a plain ViT has one stage."""
        return (self.vit.blocks,)

    def forward(self, images: Tensor, subnet: SubnetConfig, slots: Slots | None = None) -> Tensor:
        """Return the logits of ``subnet`` for images (B, C, H, W), resized where they differ in size.

        ``slots`` says which block slots run, in order; the first ones of each stage when left out.
        Raises ValueError where ``subnet`` keeps tokens by the attention of a class token that is not there.
        """
        running = first_slots(subnet.depth) if slots is None else slots
        assert tuple(map(len, running)) == subnet.depth, (
            f"{subnet} does not run the slots {running}"
        )
        vit, rule = self.vit, subnet.tokens
        check_tokens(rule, has_class_token=vit.cls_token is not None)
        x = vit._pos_embed(vit.patch_embed(_resize(images, subnet.img_size)))  # (B, N, D)
        counts = block_tokens(x.shape[1], vit.num_prefix_tokens, subnet.total_depth, rule)
        x = run_blocks(vit, self._blocks(running), x, counts, rule.by, self._run_block)
        return vit.forward_head(vit.norm(x))

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

    def compile_blocks(self, dynamic: bool = True, backend: Any = "inductor") -> None:
        """Compile each block in place; a deep copy of the model (an EMA) is eager again.

        All blocks share one code object, so depth, image size and drop-path ramps reuse the same
        graphs, and so does dropping tokens before a block; dropping them inside takes one more graph.
        Stem and head stay eager, since position resampling specialises on every size.
        """
        for stage in self.stages:
            for block in stage:
                block.compile(dynamic=dynamic, backend=backend)
        self.pruning_block.compile(dynamic=dynamic, backend=backend)

    def _blocks(self, slots: Slots) -> Iterator[nn.Module]:
        for stage, running in zip(self.stages, slots, strict=True):
            yield from (stage[slot] for slot in running)

    def _run_block(self, block: nn.Module, x: Tensor, count: BlockTokens) -> Tensor:
        """Return the tokens (B, K, D) of a block for ``x`` (B, N, D)."""
        run: nn.Module = block
        arguments: tuple[Any, ...] = (x,)
        if count.mlp < count.attention:
            run, arguments = self.pruning_block, (block, x, count.mlp, self.vit.num_prefix_tokens)
        if self.vit.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(run, *arguments, use_reentrant=False)
        return run(*arguments)


def create_elastic(spec: ModelSpec, num_classes: int, pretrained: bool = False) -> ElasticViT:
    """Build the full model of ``spec``, with weights from torch's global generator (seed it before)."""
    vit = timm.create_model(
        spec.timm,
        pretrained=pretrained,
        num_classes=num_classes,
        dynamic_img_size=True,
        **spec.create_kwargs(),
    )
    _check_supported(spec.timm, vit)
    return ElasticViT(spec, vit)


def describe(timm_name: str, **overrides: Any) -> ModelSpec:
    """Describe any plain timm ``VisionTransformer`` by its timm name, without drawing weights.

    ``overrides`` are further arguments of ``timm.create_model`` (``img_size``, ``depth``, …).
    Raises ValueError for unknown names, other architectures, and shapes that are not square.
    """
    _check_known(timm_name)
    for key in _OWN_ARGUMENTS:
        if key in overrides:
            raise ValueError(
                f"{timm_name}: {key} must be left to supernet, but got {overrides[key]!r}"
            )
    vit = _build_on_meta(timm_name, **overrides)
    _check_supported(timm_name, vit)
    return _with_exact_parameters(_read_spec(timm_name, vit, overrides), vit)


def _resize(images: Tensor, img_size: int) -> Tensor:
    """Resize images (B, C, H, W) to (B, C, img_size, img_size) unless they have that size."""
    if images.shape[-2:] == (img_size, img_size):
        return images
    size = (img_size, img_size)
    return functional.interpolate(images, size=size, mode="bilinear", antialias=True)


def _check_known(timm_name: str) -> None:
    if timm.is_model(timm_name):
        return
    near = difflib.get_close_matches(timm_name, timm.list_models(), n=3)
    cure = f"; did you mean {', '.join(near)}?" if near else ""
    raise ValueError(f"model must be a short name or a timm model, but got {timm_name!r}{cure}")


def _build_on_meta(timm_name: str, **kwargs: Any) -> Any:
    try:
        with torch.device("meta"):
            return timm.create_model(timm_name, **kwargs)
    except TypeError as error:
        raise ValueError(
            f"{timm_name}: overrides must be arguments of that model: {error}"
        ) from error


def _check_supported(timm_name: str, vit: Any) -> None:
    """Refuse models whose forward, growth or export would not be that of the plain ViT."""
    if type(vit) is not VisionTransformer:
        law = "must be a plain timm VisionTransformer"
        raise ValueError(f"{timm_name}: {law}, but is a {type(vit).__name__}")
    if type(vit.patch_embed) is not PatchEmbed:
        law = "must embed patches by one convolution and support dynamic_img_size"
        raise ValueError(f"{timm_name}: {law}, but has {type(vit.patch_embed).__name__}")
    for block in vit.blocks:
        if type(block) is not Block or type(block.attn) is not Attention:
            kind = type(getattr(block, "attn", block)).__name__
            law = "must have standard blocks and attention"
            raise ValueError(f"{timm_name}: {law}, but has {type(block).__name__} with {kind}")
    for key in ("img_size", "patch_size"):
        height, width = getattr(vit.patch_embed, key)
        if height != width:
            raise ValueError(f"{timm_name}: {key} must be square, but got {height}x{width}")


def _read_spec(timm_name: str, vit: VisionTransformer, overrides: dict[str, Any]) -> ModelSpec:
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


def _with_exact_parameters(spec: ModelSpec, vit: VisionTransformer) -> ModelSpec:
    """Add what the formula of :func:`supernet.cost.parameters` misses, per block and outside."""
    in_block = sum(p.numel() for p in vit.blocks[0].parameters())
    in_all = sum(p.numel() for p in vit.parameters())
    plain = [parameters(spec, depth, vit.num_classes) for depth in (1, 2)]
    plain_block = plain[1] - plain[0]
    outside = in_all - len(vit.blocks) * in_block - (plain[0] - plain_block)
    return replace(spec, extra_parameters=(in_block - plain_block, outside))
