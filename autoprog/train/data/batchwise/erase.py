"""Random erasing of a whole batch, distributed as timm's RandomErasing draws it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from autoprog.train.data.batchwise.draws import Draws

__all__ = ["draw_erasures", "erase_"]

_TRIES, _PER_TRY = 10, 4
_LOW_AREA, _HIGH_AREA, _LOW_ASPECT = 0.02, 1 / 3, 0.3


def draw_erasures(
    draws: Draws, probability: float, most: int, img_size: int, first_slot: int
) -> np.ndarray:
    """Draw the boxes to erase; return (number of the sample, top, left, height, width), int64 K x 5.

    Args:
        draws: Of B samples.
        probability: That anything is erased in a sample.
        most: Each gets one to so many boxes, which are the smaller the more they are.
        img_size: Side of the images, in pixels.
        first_slot: All slots of the draws from here on may be taken.
    """
    chances = draws.uniform((first_slot, first_slot + 1))
    rows = np.flatnonzero(chances[:, 0] <= probability)
    counts = 1 + (chances[rows, 1] * most).astype(np.int64)
    found = [np.empty((0, 5), np.int64)]
    for number in range(most):
        wanted = rows[counts > number]
        slot = first_slot + 2 + number * _TRIES * _PER_TRY
        found.append(_draw_boxes(draws, wanted, counts[counts > number], img_size, slot))
    boxes = np.concatenate(found)
    return boxes[np.argsort(boxes[:, 0], kind="stable")]


def _draw_boxes(
    draws: Draws, rows: np.ndarray, counts: np.ndarray, img_size: int, first_slot: int
) -> np.ndarray:
    """Return a box for each row, but for those where none of the tries fits."""
    found = [np.empty((0, 5), np.int64)]
    for attempt in range(_TRIES):
        slot = first_slot + attempt * _PER_TRY
        chances = draws[rows].uniform(range(slot, slot + _PER_TRY))
        areas = (_LOW_AREA + (_HIGH_AREA - _LOW_AREA) * chances[:, 0]) * img_size**2 / counts
        root = np.exp(np.log(_LOW_ASPECT) * (0.5 - chances[:, 1]))
        sides = np.sqrt(areas)
        extents = np.rint(np.stack([sides * root, sides / root], 1)).astype(np.int64)
        fits = (extents < img_size).all(axis=1)
        corners = (chances[:, 2:] * (img_size - extents + 1)).astype(np.int64)
        found.append(np.concatenate([rows[:, None], corners, extents], axis=1)[fits])
        rows, counts = rows[~fits], counts[~fits]
        if len(rows) == 0:
            break
    return np.concatenate(found)


def erase_(images: Tensor, boxes: np.ndarray, mode: str, draws: Draws) -> None:
    """Erase in place.

    Args:
        images: Normalised, float32 B x 3 x H x W.
        boxes: As :func:`draw_erasures` gives them.
        mode: ``const`` for 0, ``rand`` for one normal colour a box, ``pixel`` for one a pixel.
        draws: Of the B samples; seed the colours.
    """
    pixels, generator, last_row = images.numpy(), torch.Generator(), -1
    for row, top, left, height, width in boxes.tolist():
        target = pixels[row, :, top : top + height, left : left + width]
        if mode == "const":
            target[:] = 0.0
            continue
        if row != last_row:
            generator.manual_seed(int(draws.keys[row] >> np.uint64(1)))
            last_row = row
        shape = (3, height, width) if mode == "pixel" else (3, 1, 1)
        target[:] = torch.empty(shape).normal_(generator=generator).numpy()
