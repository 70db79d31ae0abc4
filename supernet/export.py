"""Hand a subnet back as what it is: a plain timm model."""

from __future__ import annotations

import timm
import torch
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from supernet.config import Slots, SubnetConfig, first_slots
from supernet.elastic import ElasticViT

__all__ = ["export_subnet", "plain_state_dict"]


def plain_state_dict(model: ElasticViT) -> dict[str, Tensor]:
    """Snapshot the full-size weights under plain timm keys, as contiguous CPU tensors of their own."""
    state = model.vit.state_dict()
    return {key: tensor.to("cpu", copy=True).contiguous() for key, tensor in state.items()}


def export_subnet(
    model: ElasticViT, subnet: SubnetConfig, slots: Slots | None = None
) -> VisionTransformer:
    """Build the plain timm model that ``subnet`` is, on the CPU and in eval mode.

    Its logits are those of ``model(images, subnet, slots)``; the position table is resampled here.
    """
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
