"""Hand a subnet back as what it is: a plain timm model, or a static one where it drops tokens."""

from __future__ import annotations

from itertools import chain

import torch
from timm.layers import DropPath, calculate_drop_path_rates
from timm.models.vision_transformer import VisionTransformer
from timm.models.volo import VOLO
from torch import Tensor, nn

from supernet.build import build_network
from supernet.config import ALL_TOKENS, ModelSpec, Slots, SubnetConfig, TokenRule, first_slots
from supernet.cost import BlockTokens, block_tokens, check_tokens
from supernet.elastic import ElasticPlainViT, ElasticViT
from supernet.positions import TABLES
from supernet.tokens import PruningBlock, run_blocks
from supernet.volo import ElasticVOLO

__all__ = [
    "StaticViT",
    "export_subnet",
    "plain_network",
    "plain_state_dict",
    "static_model",
    "table_state_dict",
]


def plain_state_dict(model: ElasticViT) -> dict[str, Tensor]:
    """Snapshot the full-size weights under plain timm keys, as contiguous CPU tensors of their own."""
    state = model.vit.state_dict()
    plain = {key: tensor for key, tensor in state.items() if not key.startswith(f"{TABLES}.")}
    return {key: tensor.to("cpu", copy=True).contiguous() for key, tensor in plain.items()}


def table_state_dict(model: ElasticViT) -> dict[str, Tensor]:
    """Snapshot the position tables of single sizes, which plain timm has no keys for; empty without any."""
    state = model.vit.state_dict()
    tables = {key: tensor for key, tensor in state.items() if key.startswith(f"{TABLES}.")}
    return {key: tensor.to("cpu", copy=True).contiguous() for key, tensor in tables.items()}


def export_subnet(
    model: ElasticViT, subnet: SubnetConfig, slots: Slots | None = None
) -> VisionTransformer | VOLO:
    """Build the plain timm model that ``subnet`` is, on the CPU and in eval mode.

    Its logits are those of ``model(images, subnet, slots)``; the position table is resampled here.
    Raises ValueError for a subnet that drops tokens, which weights alone cannot say.
    """
    if subnet.tokens != ALL_TOKENS:
        problem = "a plain timm model must keep all tokens"
        raise ValueError(f"{problem}, but got {subnet}; use static_model")
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
    """Build the module of one image size and keep-rate, on the CPU and in eval mode.

    Its logits are those of ``model(images, subnet, slots)``.
    """
    vit = export_subnet(model, SubnetConfig(subnet.depth, subnet.img_size), slots)
    if not isinstance(vit, VisionTransformer):
        raise ValueError(f"a static model must be a plain ViT, but got {model.spec.name}")
    return StaticViT(vit, subnet.tokens).eval()


def plain_network(
    spec: ModelSpec, subnet: SubnetConfig, num_classes: int, drop_path_rate: float = 0.0
) -> VisionTransformer | VOLO:
    """Build timm's own network of a subnet's depth and image size, with weights drawn anew."""
    arguments = spec.with_img_size(subnet.img_size).create_kwargs()
    vit: VisionTransformer | VOLO = build_network(
        spec.timm, arguments, num_classes, drop_path_rate=drop_path_rate
    )
    family = ElasticVOLO if type(vit) is VOLO else ElasticPlainViT
    lists_of_stages = family.block_lists(vit)
    for lists, left in zip(lists_of_stages, subnet.depth, strict=True):
        for (
            part
        ) in lists:  # the first blocks stay; a list may end up empty, which timm runs as well
            there = len(part)
            del part[left:]
            left = max(0, left - there)
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
