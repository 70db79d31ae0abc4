"""Hand a subnet back as what it is: a plain timm model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import timm
import torch
from timm.layers import DropPath, calculate_drop_path_rates
from timm.models.vision_transformer import VisionTransformer
from timm.models.volo import VOLO
from torch import Tensor, nn

from supernet.config import ModelSpec, Slots, SubnetConfig, first_slots
from supernet.elastic import ElasticPlainViT, ElasticViT
from supernet.volo import ElasticVOLO

__all__ = ["export_subnet", "plain_network", "plain_state_dict"]


def plain_state_dict(model: ElasticViT) -> dict[str, Tensor]:
    """Snapshot the full-size weights under plain timm keys, as contiguous CPU tensors of their own."""
    state = model.vit.state_dict()
    return {key: tensor.to("cpu", copy=True).contiguous() for key, tensor in state.items()}


def export_subnet(
    model: ElasticViT, subnet: SubnetConfig, slots: Slots | None = None
) -> VisionTransformer | VOLO:
    """Build the plain timm model that ``subnet`` is, on the CPU and in eval mode.

    Its logits are those of ``model(images, subnet, slots)``; the position table is resampled here.
    """
    running = first_slots(subnet.depth) if slots is None else slots
    assert tuple(map(len, running)) == subnet.depth, f"{subnet} does not run the slots {running}"
    state = _renumber(model, plain_state_dict(model), running)
    positions = model.resampled_positions(subnet.img_size)
    if positions is not None:
        state["pos_embed"] = positions.detach().to("cpu", copy=True)
    with torch.device("meta"):  # no weight is drawn only to be overwritten, and no generator moves
        vit = plain_network(model.spec, subnet, model.vit.num_classes)
    vit.load_state_dict(state, strict=True, assign=True)
    return vit.eval()


def plain_network(
    spec: ModelSpec, subnet: SubnetConfig, num_classes: int, drop_path_rate: float = 0.0
) -> VisionTransformer | VOLO:
    """Build timm's own network of a subnet's depth and image size, with weights drawn anew."""
    kwargs = spec.with_img_size(subnet.img_size).create_kwargs()
    vit = timm.create_model(
        spec.timm, num_classes=num_classes, drop_path_rate=drop_path_rate, **kwargs
    )
    family = ElasticVOLO if type(vit) is VOLO else ElasticPlainViT
    lists_of_stages = family.block_lists(vit)
    for lists, blocks in zip(lists_of_stages, subnet.depth, strict=True):
        _cut(lists, blocks)
    rates = calculate_drop_path_rates(drop_path_rate, subnet.total_depth)
    for block, rate in zip(chain(*chain(*lists_of_stages)), rates, strict=True):
        for module in block.modules():
            if isinstance(module, DropPath):
                module.drop_prob = rate
    return vit


def _renumber(model: ElasticViT, state: dict[str, Tensor], running: Slots) -> dict[str, Tensor]:
    """Keep the blocks that run, moved to the first slots, and everything outside blocks."""
    names = {module: name for name, module in model.vit.named_modules()}
    stages = [[names[block] for block in stage] for stage in model.stages]
    places: dict[str, str] = {}
    for stage, slots in zip(stages, running, strict=True):
        places |= {stage[slot]: stage[place] for place, slot in enumerate(slots)}
    kept = {}
    for key, tensor in state.items():
        block = next((name for name in chain(*stages) if key.startswith(f"{name}.")), None)
        if block is None:
            kept[key] = tensor
        elif block in places:
            kept[places[block] + key.removeprefix(block)] = tensor
    return kept


def _cut(lists: Sequence[nn.Sequential], blocks: int) -> None:
    """Leave the first ``blocks`` of a stage; a list may end up empty, which timm runs as well."""
    for part in lists:
        there = len(part)
        del part[blocks:]
        blocks = max(0, blocks - there)
