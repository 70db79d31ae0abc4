"""Analytic multiply-accumulates and parameters: what a subnet costs before it is measured."""

from __future__ import annotations

from collections.abc import Sequence

from supernet.config import ModelSpec, SubnetConfig, as_depth
from supernet.tokencount import BlockTokens, block_tokens, check_tokens
from supernet.volocost import volo_macs, volo_parameters

__all__ = ["macs", "parameters", "relative_cost"]


def macs(spec: ModelSpec, subnet: SubnetConfig, num_classes: int = 1000) -> int:
    """Count the multiply-accumulates of one image's forward pass, without norms and activations.

    Pooling by attention (``global_pool="map"``, as in SigLIP) is left out too, 1 to 3 % of those models.

    Raises ValueError where ``subnet`` keeps tokens by the attention of a class token that is not there.
    """
    if spec.outlook is not None:
        return volo_macs(spec, spec.outlook, subnet, num_classes)
    check_tokens(subnet.tokens, spec.class_token)
    patches = (subnet.img_size // spec.patch_size) ** 2
    stem = patches * spec.patch_size**2 * spec.in_chans * spec.embed_dim
    tokens, prefix = patches + spec.num_prefix_tokens, spec.num_prefix_tokens
    counts = block_tokens(tokens, prefix, subnet.total_depth, subnet.tokens)
    blocks = sum(_block_macs(spec, count) for count in counts)
    return stem + blocks + spec.embed_dim * num_classes


def relative_cost(spec: ModelSpec, subnet: SubnetConfig) -> float:
    """Return the forward MACs as a share of those of the full model."""
    return macs(spec, subnet) / macs(spec, spec.full)


def parameters(spec: ModelSpec, depth: int | Sequence[int], num_classes: int = 1000) -> int:
    """Count the parameters of a plain model of ``depth`` at the full image size."""
    if spec.outlook is not None:
        return volo_parameters(spec, spec.outlook, depth, num_classes)
    width = spec.embed_dim
    patches = (spec.img_size // spec.patch_size) ** 2
    stem = (spec.patch_size**2 * spec.in_chans + 1) * width
    tokens = (
        patches + 2 * spec.num_prefix_tokens
    ) * width  # positions, and the prefix tokens themselves
    norm_and_head = 2 * width + (width + 1) * num_classes
    per_block, outside = spec.extra_parameters
    blocks = sum(as_depth(depth)) * (_block_parameters(spec) + per_block)
    return stem + tokens + blocks + norm_and_head + outside


def _block_macs(spec: ModelSpec, count: BlockTokens) -> int:
    """Count one block; where tokens are dropped inside, their scores are one more row of attention."""
    width, tokens = spec.embed_dim, count.attention
    scores = tokens * width if count.mlp < tokens else 0
    attention = 4 * tokens * width**2 + 2 * tokens**2 * width + scores
    weights = round(2 * spec.mlp_ratio * width**2)
    if spec.is_local:  # prefix tokens bypass the feed-forward
        return attention + (tokens - spec.num_prefix_tokens) * (weights + _convolution(spec))
    return attention + count.mlp * weights


def _block_parameters(spec: ModelSpec) -> int:
    width, hidden = spec.embed_dim, round(spec.mlp_ratio * spec.embed_dim)
    attention = 4 * width**2 + 4 * width
    biases_or_convolution = _convolution(spec) if spec.is_local else hidden + width
    feed_forward = round(2 * spec.mlp_ratio * width**2) + biases_or_convolution
    return attention + feed_forward + 4 * width


def _convolution(spec: ModelSpec) -> int:
    """Count the weights of a depth-wise 3x3 convolution of the hidden tokens."""
    return 9 * round(spec.mlp_ratio * spec.embed_dim)
