"""How many tokens enter each block under a token rule: arithmetic that the forward and the cost share."""

from __future__ import annotations

import math
from typing import NamedTuple

from supernet.config import TokenRule

__all__ = ["BlockTokens", "attended_tokens", "block_tokens", "check_tokens", "sampled_tokens"]


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
