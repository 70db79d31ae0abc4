"""What training on one image takes: multiply-accumulates, forward and backward."""

from __future__ import annotations

from functools import lru_cache

from autoprog.train.phase import Phase
from supernet.config import ModelSpec, SubnetConfig
from supernet.cost import macs

__all__ = ["image_macs"]


def image_macs(spec: ModelSpec, phase: Phase, subnet: SubnetConfig, num_classes: int) -> int:
    """Return the multiply-accumulates of one image in a step of a phase that trains `subnet`.

    Three forward passes' worth: one forward, and two backward, for inputs and for weights. Frozen blocks have
    no gradient of weights; what lies outside blocks is counted as they are.
    """
    unfrozen = phase.training.unfrozen
    blocks = subnet.total_depth
    training = blocks if unfrozen is None else sum(map(unfrozen.trains, range(blocks)))
    return _macs(spec, subnet, num_classes) * (2 * blocks + training) // blocks


_macs = lru_cache(maxsize=256)(macs)
