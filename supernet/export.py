"""Hand a subnet back as what it is: a plain timm model, or a static one where it drops tokens."""

from __future__ import annotations

import timm
import torch
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from supernet.config import ALL_TOKENS, Slots, SubnetConfig, TokenRule, first_slots
from supernet.elastic import ElasticViT
from supernet.tokencount import BlockTokens, block_tokens, check_tokens
from supernet.tokens import PruningBlock, run_blocks

__all__ = ["StaticViT", "export_subnet", "plain_state_dict", "static_model"]


def plain_state_dict(model: ElasticViT) -> dict[str, Tensor]:
    """Snapshot the full-size weights under plain timm keys, as contiguous CPU tensors of their own."""
    state = model.vit.state_dict()
    return {key: tensor.to("cpu", copy=True).contiguous() for key, tensor in state.items()}


def export_subnet(
    model: ElasticViT, subnet: SubnetConfig, slots: Slots | None = None
) -> VisionTransformer:
    """Build the plain timm model that ``subnet`` is, on the CPU and in eval mode.

    Its logits are those of ``model(images, subnet, slots)``; the position table is resampled here.
    Raises ValueError for a subnet that drops tokens, which weights alone cannot say.
    """
    if subnet.tokens != ALL_TOKENS:
        law = "a plain timm model must keep all tokens"
        raise ValueError(f"{law}, but got {subnet}; use static_model")
    ((*running,),) = first_slots(subnet.depth) if slots is None else slots
    assert (len(running),) == subnet.depth, f"{subnet} does not run the slots {running}"
    state = _renumber(plain_state_dict(model), running)
    if model.vit.pos_embed is not None:
        state["pos_embed"] = _resample(model, state["pos_embed"], subnet.img_size)
    kwargs = model.spec.with_img_size(subnet.img_size).create_kwargs()
    kwargs |= {"depth": len(running), "num_classes": model.vit.num_classes}
    with torch.device("meta"):  # no weight is drawn only to be overwritten, and no generator moves
        vit = timm.create_model(model.spec.timm, **kwargs)
    vit.load_state_dict(state, strict=True, assign=True)
    return vit.eval()


class StaticViT(nn.Module):
    """A plain timm model of one image size that drops tokens by one rule: no shape depends on data.

    ``torch.export`` and ``torch.jit.trace`` capture it. Class attention is computed as in training,
    so its logits are those of the elastic model.
    """

    def __init__(self, vit: VisionTransformer, rule: TokenRule) -> None:
        super().__init__()
        check_tokens(rule, has_class_token=vit.cls_token is not None)
        prefix = vit.num_prefix_tokens
        tokens = vit.patch_embed.num_patches + prefix
        self.vit, self.rule = vit, rule
        self.counts = block_tokens(tokens, prefix, len(vit.blocks), rule)
        self.pruning_block = PruningBlock()

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, classes) of images (B, C, H, W) of the model's own size."""
        vit = self.vit
        x = vit._pos_embed(vit.patch_embed(images))  # (B, N, D)
        x = run_blocks(vit, vit.blocks, x, self.counts, self.rule.by, self._run_block)
        return vit.forward_head(vit.norm(x))

    def _run_block(self, block: nn.Module, x: Tensor, count: BlockTokens) -> Tensor:
        if count.mlp == count.attention:
            return block(x)
        return self.pruning_block(block, x, count.mlp, self.vit.num_prefix_tokens)


def static_model(model: ElasticViT, subnet: SubnetConfig, slots: Slots | None = None) -> StaticViT:
    """Build the module of one cell, image size and keep-rate, on the CPU and in eval mode.

    Its logits are those of ``model(images, subnet, slots)``.
    """
    plain = SubnetConfig(subnet.depth, subnet.img_size)
    return StaticViT(export_subnet(model, plain, slots), subnet.tokens).eval()


def _renumber(state: dict[str, Tensor], running: list[int]) -> dict[str, Tensor]:
    """Keep the blocks that run, numbered in order, and everything outside blocks."""
    position = {str(slot): str(index) for index, slot in enumerate(running)}
    kept = {}
    for key, tensor in state.items():
        top, _, rest = key.partition(".")
        slot, _, leaf = rest.partition(".")
        if top != "blocks":
            kept[key] = tensor
        elif slot in position:
            kept[f"blocks.{position[slot]}.{leaf}"] = tensor
    return kept


def _resample(model: ElasticViT, pos_embed: Tensor, img_size: int) -> Tensor:
    """Resample a position table (1, N, D) exactly as the elastic forward does."""
    side = img_size // model.spec.patch_size
    return resample_abs_pos_embed(
        pos_embed,
        new_size=[side, side],
        old_size=list(model.vit.patch_embed.grid_size),
        num_prefix_tokens=0 if model.vit.no_embed_class else model.vit.num_prefix_tokens,
    )
