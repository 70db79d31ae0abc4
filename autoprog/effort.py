"""What a training step takes in multiply-accumulates: forward and backward, whatever it trains."""

from __future__ import annotations

from functools import lru_cache
from statistics import fmean

from autoprog.stage import SandwichSizes, Training
from supernet.config import ModelSpec, SubnetConfig
from supernet.cost import macs

__all__ = ["evaluation_macs", "image_macs", "relative_step_cost"]

_EVALUATED_NETWORKS = 2


def image_macs(
    spec: ModelSpec, subnet: SubnetConfig, training: Training, num_classes: int = 1000
) -> int:
    """Return the multiply-accumulates that a step spends on one image.

    Three forward passes' worth: one forward, and two backward, for inputs and for weights. Frozen blocks
    have no gradient of weights; what lies outside blocks is counted as they are. A sandwich step is
    counted by the mean over its draws.
    """
    if training.sandwich is not None:
        return round(3 * _sandwich_macs(spec, subnet, training, training.sandwich, num_classes))
    blocks, unfrozen = subnet.total_depth, training.unfrozen
    trained = blocks if unfrozen is None else sum(map(unfrozen.trains, range(blocks)))
    return _macs(spec, subnet, num_classes) * (2 * blocks + trained) // blocks


def relative_step_cost(
    spec: ModelSpec, subnet: SubnetConfig, training: Training, num_classes: int = 1000
) -> float:
    """Return the multiply-accumulates of a step as a share of those of a plain full one."""
    full = image_macs(spec, spec.full, Training(), num_classes)
    return training.batch_scale * image_macs(spec, subnet, training, num_classes) / full


def evaluation_macs(
    spec: ModelSpec, subnet: SubnetConfig, num_images: int, num_classes: int = 1000
) -> int:
    """Return the multiply-accumulates of one evaluation: a forward of the online and the averaged network."""
    return _EVALUATED_NETWORKS * num_images * _macs(spec, subnet, num_classes)


def _sandwich_macs(
    spec: ModelSpec,
    full: SubnetConfig,
    training: Training,
    smaller: SandwichSizes,
    num_classes: int,
) -> float:
    """Return the forward multiply-accumulates of (full, 1), (full, k), (size, 1) and (size, k)."""
    rates = [training.tokens.rule(rate) for rate in smaller.keep_rates]

    def of(size: int, pruned: bool) -> float:
        nets = [SubnetConfig(full.depth, size, rule) for rule in rates]
        whole = SubnetConfig(full.depth, size)
        return fmean(_macs(spec, net, num_classes) for net in (nets if pruned else [whole]))

    sizes = smaller.sizes
    at_full = of(full.img_size, False) + of(full.img_size, True)
    return at_full + fmean(of(size, False) + of(size, True) for size in sizes)


_macs = lru_cache(maxsize=1024)(macs)
