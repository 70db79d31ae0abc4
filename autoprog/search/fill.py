"""Losses of subnets that were not estimated, from those that were."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from supernet.config import SubnetConfig

__all__ = ["filled_losses"]

_RIDGE = 1e-3


def filled_losses(
    known: Mapping[SubnetConfig, float], wanted: Sequence[SubnetConfig]
) -> dict[SubnetConfig, float]:
    """Return a loss for each of `wanted`: the known one, or that of a plane through the known ones.

    The plane is log loss over the logarithms of depth, image size and keep-rate, by least squares with a
    little ridge; it never leaves the range of the known losses.
    """
    missing = [subnet for subnet in wanted if subnet not in known]
    if not missing:
        return {subnet: known[subnet] for subnet in wanted}
    rows = np.array([_features(subnet) for subnet in known])
    targets = np.log(np.array(list(known.values())))
    centre, mean = rows.mean(axis=0), targets.mean()
    x = rows - centre
    weights = np.linalg.solve(x.T @ x + _RIDGE * np.eye(x.shape[1]), x.T @ (targets - mean))
    low, high = min(known.values()), max(known.values())

    def guess(subnet: SubnetConfig) -> float:
        value = math.exp(mean + float((np.array(_features(subnet)) - centre) @ weights))
        return min(max(value, low), high)

    return {subnet: known[subnet] if subnet in known else guess(subnet) for subnet in wanted}


def _features(subnet: SubnetConfig) -> list[float]:
    return [
        math.log(subnet.total_depth),
        math.log(subnet.img_size),
        math.log(subnet.tokens.keep_rate),
    ]
