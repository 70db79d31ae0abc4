"""Analytic multiply-accumulates and parameters: what a subnet costs before it is measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from supernet.config import ModelSpec, Outlook, SubnetConfig, TokenRule, as_depth

__all__ = [
    "BlockTokens",
    "attended_tokens",
    "block_tokens",
    "check_tokens",
    "macs",
    "parameters",
    "relative_cost",
    "sampled_tokens",
    "volo_macs",
    "volo_parameters",
]


# --------------------------------------------------------------------------------------------------
# How many tokens enter each block under a token rule: arithmetic that the forward and the cost share.


class BlockTokens(NamedTuple):
    """Tokens, prefix included, that enter the attention and the feed-forward of one running block."""

    attention: int
    mlp: int


def sampled_tokens(num_tokens: int, num_prefix_tokens: int, keep_rate: float) -> int:
    """Return how many tokens PSS keeps: ``round(keep_rate * num_tokens)``, prefix tokens included.

    Prefix tokens always stay, and with them at least one patch. 197 tokens become 39, 79, 118, 158 and
    197 at rates 0.2 to 1. Halves round to even numbers, as Python's ``round`` does.
    """
    return min(num_tokens, max(round(keep_rate * num_tokens), num_prefix_tokens + 1))


def attended_tokens(num_tokens: int, num_prefix_tokens: int, keep_rate: float) -> int:
    """Return how many tokens SuperViT keeps: all prefix tokens and ``ceil(keep_rate * num_tokens)`` patches.

    The product counts prefix tokens as well, so 197 tokens become 100, 51 and 27 at rate 0.5. What a
    product of floats exceeds a whole number by is not rounded up: 0.55 of 100 patches are 55.
    """
    patches = math.ceil(keep_rate * num_tokens - 1e-9)
    return num_prefix_tokens + min(patches, num_tokens - num_prefix_tokens)


def block_tokens(
    num_tokens: int, num_prefix_tokens: int, depth: int, rule: TokenRule
) -> tuple[BlockTokens, ...]:
    """Return the tokens in each of ``depth`` running blocks, for ``num_tokens`` after the embedding.

    Class attention drops patches between the attention and the feed-forward of a block, other scores
    before the block. Numbers in ``at_blocks`` from ``depth`` on find no block and drop nothing.
    """
    inside = rule.by == "class_attention"
    keep = attended_tokens if inside else sampled_tokens
    counts, now = [], num_tokens
    for block in range(depth):
        before = now
        if rule.keep_rate < 1 and block in rule.at_blocks:
            now = keep(now, num_prefix_tokens, rule.keep_rate)
        counts.append(BlockTokens(before if inside else now, now))
    return tuple(counts)


def check_tokens(rule: TokenRule, has_class_token: bool) -> None:
    """Raise ValueError where a rule asks for the attention of a class token that a model lacks."""
    if rule.by == "class_attention" and not has_class_token:
        others = "magnitude, l2_magnitude or random"
        raise ValueError(
            f"by must be {others} for a model without a class token, but got {rule.by!r}"
        )


# --------------------------------------------------------------------------------------------------
# What a VOLO costs: analytic multiply-accumulates and parameters of every part.
#
# Legend: N cells of the transformers' grid; the outlookers' grid has 4 N, the stem's convolutions run on the
# images at half their size.


_WINDOW = 9
"""Cells that an outlooker attends to around each cell."""


def volo_macs(spec: ModelSpec, outlook: Outlook, subnet: SubnetConfig, num_classes: int) -> int:
    """Count the multiply-accumulates of one image's forward pass, without norms and activations."""
    width, cells = spec.embed_dim, (subnet.img_size // spec.patch_size) ** 2
    outlookers, transformers = subnet.depth
    weights = 4 * width**2 + _feed_forward(spec, width)
    transformer = cells * weights + 2 * cells**2 * width
    class_block = 2 * (cells + 1) * (width**2 + width) + 2 * width**2 + _feed_forward(spec, width)
    convolutions = (subnet.img_size // 2) ** 2 * _convolutions(spec, outlook)
    embedding = 4 * cells * _embedding(spec, outlook)
    downsampling = cells * 4 * outlook.embed_dim * width
    # By cell of the transformers' grid, which four of the outlookers' lie in: values, output and feed-forward
    # run on each of the four; window logits and weighted sums once for all, since outlookers attend at every
    # second cell of a row and a column.
    inner = outlook.embed_dim
    dense = 2 * inner**2 + _feed_forward(spec, inner)
    outlooker = 4 * dense + _WINDOW**2 * inner * (outlook.num_heads + 1)
    return (
        convolutions
        + embedding
        + outlookers * cells * outlooker
        + downsampling
        + transformers * transformer
        + outlook.class_blocks * class_block
        + (cells + 1) * width * num_classes  # the class head, and the auxiliary one on every cell
    )


def volo_parameters(
    spec: ModelSpec, outlook: Outlook, depth: int | Sequence[int], num_classes: int
) -> int:
    """Count the parameters of a VOLO of ``depth`` at the full image size."""
    width, inner = spec.embed_dim, outlook.embed_dim
    outlookers, transformers = as_depth(depth)
    window_logits = _WINDOW**2 * outlook.num_heads  # a weight for each pair of cells in a window
    outlooker = 2 * inner**2 + (inner + 1) * window_logits + _shared_by_blocks(spec, inner)
    transformer = 4 * width**2 + _shared_by_blocks(spec, width)
    stem = _convolutions(spec, outlook) + 6 * outlook.stem_dim + _embedding(spec, outlook) + inner
    positions = (spec.img_size // spec.patch_size) ** 2 * width
    return (
        stem
        + outlookers * outlooker
        + (4 * inner + 1) * width  # downsampling
        + positions
        + (transformers + outlook.class_blocks) * transformer
        + 3 * width  # class token and last norm
        + 2 * (width + 1) * num_classes
    )


def _convolutions(spec: ModelSpec, outlook: Outlook) -> int:
    """Count the weights of the stem's convolutions: one of 7x7 on the image, two of 3x3."""
    return 49 * spec.in_chans * outlook.stem_dim + 2 * 9 * outlook.stem_dim**2


def _embedding(spec: ModelSpec, outlook: Outlook) -> int:
    """Count the weights of the patch embedding, which covers a quarter of the stride at the stem's size."""
    return (spec.patch_size // 4) ** 2 * outlook.stem_dim * outlook.embed_dim


def _feed_forward(spec: ModelSpec, width: int) -> int:
    return 2 * round(spec.mlp_ratio * width) * width


def _shared_by_blocks(spec: ModelSpec, width: int) -> int:
    """Count two norms, the bias of the output projection, and the feed-forward with its biases."""
    return 4 * width + width + _feed_forward(spec, width) + round(spec.mlp_ratio * width) + width


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
    width, blocks = spec.embed_dim, 0
    weights = round(2 * spec.mlp_ratio * width**2)
    for count in block_tokens(tokens, prefix, subnet.total_depth, subnet.tokens):
        attended = count.attention
        blocks += 4 * attended * width**2 + 2 * attended**2 * width
        # The scores of tokens dropped inside are one more row of attention.
        if count.mlp < attended:
            blocks += attended * width
        if spec.is_local:  # prefix tokens bypass the feed-forward
            blocks += (attended - prefix) * (weights + _convolution(spec))
        else:
            blocks += count.mlp * weights
    return stem + blocks + width * num_classes


def relative_cost(spec: ModelSpec, subnet: SubnetConfig) -> float:
    """Return the forward MACs as a fraction of those of the full model."""
    return macs(spec, subnet) / macs(spec, spec.full)


def parameters(spec: ModelSpec, depth: int | Sequence[int], num_classes: int = 1000) -> int:
    """Count the parameters of a plain model of ``depth`` at the full image size."""
    if spec.outlook is not None:
        return volo_parameters(spec, spec.outlook, depth, num_classes)
    width = spec.embed_dim
    patches = (spec.img_size // spec.patch_size) ** 2
    stem = (spec.patch_size**2 * spec.in_chans + 1) * width
    # Positions, and the prefix tokens themselves.
    tokens = (patches + 2 * spec.num_prefix_tokens) * width
    norm_and_head = 2 * width + (width + 1) * num_classes
    hidden = round(spec.mlp_ratio * width)
    attention = 4 * width**2 + 4 * width
    # The locality feed-forward has a convolution where the plain one has biases.
    biases_or_convolution = _convolution(spec) if spec.is_local else hidden + width
    feed_forward = round(2 * spec.mlp_ratio * width**2) + biases_or_convolution
    block = attention + feed_forward + 4 * width  # and two norms
    per_block, outside = spec.extra_parameters
    blocks = sum(as_depth(depth)) * (block + per_block)
    return stem + tokens + blocks + norm_and_head + outside


def _convolution(spec: ModelSpec) -> int:
    """Count the weights of a depth-wise 3x3 convolution of the hidden tokens."""
    return 9 * round(spec.mlp_ratio * spec.embed_dim)
