"""All rules by which a network can grow, and what a new block must hold after each."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from supernet.config import GrowthRule

# Each init, with each way to treat old blocks that goes with it. A new init belongs here, and what its blocks
# hold in `expected_block`: the tests of plain, local and VOLO networks then check it.
INITS = [("ema", "keep"), ("ema", "ema"), ("copy", "keep"), ("zero", "keep")]
RULES = [
    GrowthRule(init, placement, old_blocks, optimizer_state)
    for (init, old_blocks), placement, optimizer_state in product(
        INITS, ["interpolate", "stack"], ["copy", "fresh", "reset"]
    )
]
every_rule = pytest.mark.parametrize(
    "rule",
    RULES,
    ids=lambda rule: f"{rule.init}-{rule.placement}-{rule.old_blocks}-{rule.optimizer_state}",
)

Block = dict[str, Tensor]


def expected_block(rule: GrowthRule, source: Block, averaged: Block | None = None) -> Block:
    """Return what a new block must hold.

    Args:
        rule: How the network has grown.
        source: The source block before the growth, in the network that the new block is in.
        averaged: That block of the slowest EMA; None in an EMA, which always grows from itself.
    """
    if rule.init == "zero":
        last = ("attn.proj.", "mlp.fc2.")  # of both residual branches
        return {k: torch.zeros_like(v) if k.startswith(last) else v for k, v in source.items()}
    return averaged if rule.init == "ema" and averaged is not None else source
