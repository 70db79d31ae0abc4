"""Cropping, resizing and flipping a whole batch in two matrix products, with the result of Pillow.

Resizing is linear and separable: an image of H x W pixels becomes A_y . image . A_x^T, where a row of
A_y (out x H) or A_x (out x W) holds the weights of one output pixel. Zero columns outside of the
crop cut it out, and rows in reverse order flip it, so the matrices do all three. As in Pillow the
filter is as wide as the image shrinks, is cut off at the crop and normalised, and the result of each
pass is rounded and clipped to whole numbers from 0 to 255. Since clipping makes the order of the passes
matter, it is that of the installed Pillow.

Weights are whole multiples of 2^-15. With pixels of 8 bits, and rows whose weights sum up to less than
2 in absolute value, every sum is below 2^24 units and thus exact in float32: the result does not depend
on the order of summation, hence neither on the batch, the number of threads nor the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import PIL
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from autoprog.train.data.batchwise.crops import Crops

__all__ = ["FILTERS", "crop_and_resize", "weight_table"]

_UNIT = 2.0**-15
_PILLOW_LOOKS_AT_SHAPES = int(PIL.__version__.partition(".")[0]) >= 13


def _bilinear(distances: np.ndarray) -> np.ndarray:
    return np.maximum(1.0 - np.abs(distances), 0.0)


def _bicubic(distances: np.ndarray) -> np.ndarray:
    """Keys' cubic with a = -0.5."""
    x = np.abs(distances)
    inner = (1.5 * x - 2.5) * x * x + 1.0
    outer = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x < 1.0, inner, np.where(x < 2.0, outer, 0.0))


FILTERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "bilinear": _bilinear,
    "bicubic": _bicubic,
}
"""Weight by distance, of the filters that are supported."""


@lru_cache(maxsize=8)
def weight_table(filters: tuple[str, ...], in_px: int, out_px: int) -> np.ndarray:
    """Return the matrices of all crops along one axis, float32.

    Entry [f, flipped, crop_px - 1] is out_px x (2 in_px): in_px columns of zeros and then the weights
    of a crop that starts at pixel 0. Its columns from in_px - s on are those of one that starts at s.
    """
    table = np.zeros((len(filters), 2, in_px, out_px, 2 * in_px), np.float32)
    for number, name in enumerate(filters):
        for crop_px in range(1, in_px + 1):
            weights = _weights(FILTERS[name], crop_px, out_px)
            table[number, 0, crop_px - 1, :, in_px : in_px + crop_px] = weights
            table[number, 1, crop_px - 1, :, in_px : in_px + crop_px] = weights[::-1]
    table.setflags(write=False)
    return table


def _weights(
    weight_at: Callable[[np.ndarray], np.ndarray], crop_px: int, out_px: int
) -> np.ndarray:
    """Return the weights of each of ``crop_px`` pixels in each of ``out_px``, float64 out_px x crop_px."""
    shrink = max(crop_px / out_px, 1.0)
    centres = (np.arange(out_px) + 0.5) * (crop_px / out_px)
    weights = weight_at((np.arange(crop_px) + 0.5 - centres[:, None]) / shrink)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.rint(weights / _UNIT) * _UNIT


def crop_and_resize(
    pixels: np.ndarray, crops: Crops, out_px: int, filters: tuple[str, ...]
) -> Tensor:
    """Return whole numbers from 0 to 255, float32 B x 3 x out_px x out_px.

    Args:
        pixels: uint8 B x H x W x 3.
        crops: What to cut out; all boxes lie within the images.
        out_px: Side of the result.
        filters: Names of the filters that ``crops`` chooses from.
    """
    height, width = pixels.shape[1:3]
    top, left, box_height, box_width = crops.boxes.T
    planes = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(torch.float32).contiguous()
    across = _matrices(filters, crops.filters, crops.hflip, left, box_width, width, out_px)
    down = _matrices(filters, crops.filters, crops.vflip, top, box_height, height, out_px)
    tall = torch.from_numpy(_goes_down_first(box_height, box_width, out_px))
    if not tall.any():
        return _resized_down(_resized_across(planes, across), down)
    resized = torch.empty(len(pixels), 3, out_px, out_px)
    resized[tall] = _resized_across(_resized_down(planes[tall], down[tall]), across[tall])
    resized[~tall] = _resized_down(_resized_across(planes[~tall], across[~tall]), down[~tall])
    return resized


def _goes_down_first(heights: np.ndarray, widths: np.ndarray, out_px: int) -> np.ndarray:
    """Tell for which crops Pillow makes columns shorter before rows: from 13 on, for tall ones."""
    if not _PILLOW_LOOKS_AT_SHAPES:
        return np.zeros(len(heights), dtype=bool)
    return (heights > out_px) & (heights - out_px > 2 * (widths - out_px))


def _resized_across(planes: Tensor, matrices: Tensor) -> Tensor:
    batch, _, height, width = planes.shape
    rows = torch.bmm(planes.reshape(batch, 3 * height, width), matrices.transpose(1, 2))
    return _to_8_bits_(rows).view(batch, 3, height, matrices.shape[1])


def _resized_down(planes: Tensor, matrices: Tensor) -> Tensor:
    return _to_8_bits_(torch.matmul(matrices[:, None], planes))


def _to_8_bits_(values: Tensor) -> Tensor:
    return values.add_(0.5).floor_().clamp_(0.0, 255.0)


def _matrices(
    names: tuple[str, ...],
    filters: np.ndarray,
    flipped: np.ndarray,
    starts: np.ndarray,
    crops_px: np.ndarray,
    in_px: int,
    out_px: int,
) -> Tensor:
    """Return the matrix of each image along one axis, float32 B x out_px x in_px."""
    table = weight_table(names, in_px, out_px)
    windows = sliding_window_view(table, in_px, axis=-1)  # f, flipped, crop, out, start, in
    chosen = windows[filters, flipped.astype(np.int64), crops_px - 1, :, in_px - starts]
    return torch.from_numpy(chosen)
