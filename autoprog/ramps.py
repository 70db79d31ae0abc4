"""The arithmetic of ramps: values that rise over equal stages, on the grid that they must lie on."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autoprog.curves import Curriculum
from supernet.config import ModelSpec
from supernet.depthmap import make_divisible

__all__ = [
    "linear_ramp",
    "linspace",
    "ramped_curriculum",
    "size_divisor",
    "size_on_grid",
    "stage_lengths",
]


def stage_lengths(epochs: float, num_stages: int) -> list[float]:
    """Return lengths that start stage k at floor(k·E/K) epochs; short runs keep fractional stages."""
    whole = epochs >= 2 * num_stages
    starts = [
        math.floor(k * epochs / num_stages) if whole else k * epochs / num_stages
        for k in range(num_stages)
    ]
    return [stop - start for start, stop in zip(starts, [*starts[1:], epochs], strict=True)]


def size_divisor(spec: ModelSpec) -> int:
    """Return the grid of image sizes: two patches (32 px, as published), one for small images."""
    return spec.patch_size * (2 if spec.img_size >= 8 * spec.patch_size else 1)


def linear_ramp(start: float, count: int, top: int, divisor: int) -> list[int]:
    """Return `count` values from `start`·top to top on the grid of `divisor`."""
    return [make_divisible(share * top, divisor) for share in linspace(start, 1.0, count)]


def ramped_curriculum(strength: Curriculum, index: int, count: int) -> Curriculum:
    """Return stage `index`'s regularisation: RandAugment from half strength, drop-path and erasing from 0.

    Magnitudes are whole numbers with halves rounded down, which gives the published 4, 6, 7, 9.
    """
    values = strength.at(1.0)
    randaug = _share(0.5, index, count, values.randaug)
    return Curriculum(
        randaug=None if randaug is None else math.ceil(randaug - 0.5 - 1e-9),
        drop_path=_share(0.0, index, count, values.drop_path),
        reprob=_share(0.0, index, count, values.reprob),
    )


def _share(start: float, index: int, count: int, top: object) -> float | None:
    if top is None:
        return None
    assert isinstance(top, int | float)
    return round(linspace(start, 1.0, count)[index] * top, 6)


def linspace(start: float, stop: float, count: int) -> Sequence[float]:
    """Return `count` values from `start` to `stop`; only `stop` for one."""
    if count == 1:
        return [stop]
    return [start + (stop - start) * index / (count - 1) for index in range(count)]


def size_on_grid(spec: ModelSpec, share: float) -> int:
    """Return the image size of `share` of the full number of patches a side, at least one patch."""
    side = spec.img_size // spec.patch_size
    return spec.patch_size * max(1, round(share * side))
