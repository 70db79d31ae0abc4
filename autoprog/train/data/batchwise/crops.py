"""Random crops and flips of a whole batch, distributed as timm draws them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autoprog.train.data.batchwise.draws import Draws

__all__ = ["Crops", "draw_crops"]

_TRIES, _PER_TRY = 10, 4
_FLIP_SLOTS = (_TRIES * _PER_TRY, _TRIES * _PER_TRY + 1, _TRIES * _PER_TRY + 2)
CROP_SLOTS = _FLIP_SLOTS[-1] + 1
"""Slots of a sample's draws below this are taken here."""


@dataclass(frozen=True)
class Crops:
    """What is cut out of each of B images, and how it is turned.

    Args:
        boxes: (top, left, height, width) in pixels, int64 B x 4.
        hflip: Whether left and right are exchanged, bool B.
        vflip: Whether top and bottom are exchanged, bool B.
        filters: Number of the resize filter of each, from 0, int64 B.
    """

    boxes: np.ndarray
    hflip: np.ndarray
    vflip: np.ndarray
    filters: np.ndarray


def draw_crops(
    draws: Draws,
    sizes: np.ndarray,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    flip_rates: tuple[float, float],
    num_filters: int,
) -> Crops:
    """Draw what timm's RandomResizedCropAndInterpolation and the flips would.

    Args:
        draws: Of B samples.
        sizes: (height, width) of their images, int64 B x 2.
        scale: Bounds of the crop's share of the area.
        ratio: Bounds of its width by its height.
        flip_rates: Probability of a horizontal and a vertical flip.
        num_filters: The resize filter is one of so many, equally likely.
    """
    boxes = _central_crops(sizes, ratio)
    open_rows = np.arange(len(sizes))
    for attempt in range(_TRIES):
        candidates, fits = _try_crops(draws[open_rows], sizes[open_rows], scale, ratio, attempt)
        boxes[open_rows[fits]] = candidates[fits]
        open_rows = open_rows[~fits]
        if len(open_rows) == 0:
            break
    chances = draws.uniform(_FLIP_SLOTS)
    filters = (chances[:, 2] * num_filters).astype(np.int64)
    return Crops(boxes, chances[:, 0] < flip_rates[0], chances[:, 1] < flip_rates[1], filters)


def _try_crops(
    draws: Draws,
    sizes: np.ndarray,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    attempt: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return one candidate box for each image and whether it fits."""
    chances = draws.uniform(range(attempt * _PER_TRY, (attempt + 1) * _PER_TRY))
    areas = (scale[0] + (scale[1] - scale[0]) * chances[:, 0]) * sizes.prod(axis=1)
    low, high = np.log(ratio)
    root = np.exp((low + (high - low) * chances[:, 1]) / 2)
    sides = np.sqrt(areas)
    extents = np.maximum(np.rint(np.stack([sides / root, sides * root], 1)).astype(np.int64), 1)
    fits = (extents <= sizes).all(axis=1)
    corners = (chances[:, 2:] * (sizes - extents + 1)).astype(np.int64)
    return np.concatenate([corners, extents], axis=1), fits


def _central_crops(sizes: np.ndarray, ratio: tuple[float, float]) -> np.ndarray:
    """Return the largest box of an allowed aspect in the middle of each image."""
    heights, widths = sizes[:, 0], sizes[:, 1]
    extents = np.stack(
        [
            np.minimum(heights, np.rint(widths / ratio[0]).astype(np.int64)),
            np.minimum(widths, np.rint(heights * ratio[1]).astype(np.int64)),
        ],
        axis=1,
    )
    return np.concatenate([(sizes - extents) // 2, extents], axis=1)
