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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import PIL
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

__all__ = ["FILTERS", "Crops", "Draws", "crop_and_resize", "draw_crops", "slide", "weight_table"]


# --------------------------------------------------------------------------------------------------
# Random numbers for many samples at once: a hash of (seed, pass, index, slot), with no state.
#
# A sample's numbers depend on nothing else, so a batch may be drawn together, apart or in any order.
# The hash is the finaliser of SplitMix64 (Steele, Lea and Flood, 2014), chained over the parts of the
# key.

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFT_1, _SHIFT_2, _SHIFT_3 = np.uint64(30), np.uint64(27), np.uint64(31)
_TO_DOUBLE, _DROPPED_BITS = 2.0**-53, np.uint64(11)


class Draws:
    """The random numbers of B samples.

    Args:
        keys: uint64, B.
    """

    def __init__(self, keys: np.ndarray) -> None:
        self.keys = keys

    @classmethod
    def of(cls, seed: int, passes: np.ndarray, indices: np.ndarray) -> Draws:
        """Return the draws of samples.

        Args:
            seed: Of the run, at least 0.
            passes: Number of the pass of each sample, int64.
            indices: Number of the image of each sample, int64.
        """
        key = np.array([seed % 2**64], dtype=np.uint64)
        for part in (passes, indices):
            key = _mix(key + _STEP) + part.astype(np.uint64)
        return cls(_mix(key + _STEP))

    def __getitem__(self, rows: np.ndarray) -> Draws:
        """Return the draws of some of the samples."""
        return Draws(self.keys[rows])

    def uniform(self, slots: Sequence[int]) -> np.ndarray:
        """Return numbers in [0, 1), float64 B x len(slots); the same for the same slot."""
        counters = (np.array(slots, dtype=np.uint64) + np.uint64(1)) * _STEP
        bits = _mix(self.keys[:, None] + counters) >> _DROPPED_BITS
        return bits * _TO_DOUBLE


def _mix(values: np.ndarray) -> np.ndarray:
    values = (values ^ (values >> _SHIFT_1)) * _MIX_1
    values = (values ^ (values >> _SHIFT_2)) * _MIX_2
    return values ^ (values >> _SHIFT_3)


# --------------------------------------------------------------------------------------------------
# Random crops and flips of a whole batch, distributed as timm draws them.

_TRIES, _PER_TRY = 10, 4
_FLIP_SLOTS = (_TRIES * _PER_TRY, _TRIES * _PER_TRY + 1, _TRIES * _PER_TRY + 2)
# Slots of a sample's draws below this are taken here.
CROP_SLOTS = _FLIP_SLOTS[-1] + 1


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
        scale: Bounds of the crop's fraction of the area.
        ratio: Bounds of its width by its height.
        flip_rates: Probability of a horizontal and a vertical flip.
        num_filters: The resize filter is one of so many, equally likely.
    """
    # Where no try fits: the largest box of an allowed aspect in the middle of the image.
    heights, widths = sizes[:, 0], sizes[:, 1]
    tallest = np.minimum(heights, np.rint(widths / ratio[0]).astype(np.int64))
    widest = np.minimum(widths, np.rint(heights * ratio[1]).astype(np.int64))
    central = np.stack([tallest, widest], axis=1)
    boxes = np.concatenate([(sizes - central) // 2, central], axis=1)
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


# --------------------------------------------------------------------------------------------------
# Cropping and resizing by two products; the filters' weights are whole multiples of 2^-15, see above.

_UNIT = 2.0**-15
_PILLOW_LOOKS_AT_SHAPES = int(PIL.__version__.partition(".")[0]) >= 13


def bilinear(distances: np.ndarray) -> np.ndarray:
    """Return the weights of the triangle filter."""
    return np.maximum(1.0 - np.abs(distances), 0.0)


def bicubic(distances: np.ndarray) -> np.ndarray:
    """Return the weights of Keys' cubic with a = -0.5."""
    x = np.abs(distances)
    inner = (1.5 * x - 2.5) * x * x + 1.0
    outer = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x < 1.0, inner, np.where(x < 2.0, outer, 0.0))


# Weight by distance, of the filters that are supported.
FILTERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "bilinear": bilinear,
    "bicubic": bicubic,
}


@lru_cache(maxsize=8)
def weight_table(filters: tuple[str, ...], in_px: int, out_px: int) -> np.ndarray:
    """Return the matrices of all crops along one axis, float32.

    Entry [f, flipped, crop_px - 1] is out_px x (2 in_px): in_px columns of zeros and then the weights
    of a crop that starts at pixel 0. Its columns from in_px - s on are those of one that starts at s.
    """
    table = np.zeros((len(filters), 2, in_px, out_px, 2 * in_px), np.float32)
    for number, name in enumerate(filters):
        for crop_px in range(1, in_px + 1):
            # As in Pillow the filter is as wide as the image shrinks, cut off at the crop and normalised.
            shrink = max(crop_px / out_px, 1.0)
            centres = (np.arange(out_px) + 0.5) * (crop_px / out_px)
            weights = FILTERS[name]((np.arange(crop_px) + 0.5 - centres[:, None]) / shrink)
            weights /= weights.sum(axis=1, keepdims=True)  # float64 out_px x crop_px
            weights = np.rint(weights / _UNIT) * _UNIT
            table[number, 0, crop_px - 1, :, in_px : in_px + crop_px] = weights
            table[number, 1, crop_px - 1, :, in_px : in_px + crop_px] = weights[::-1]
    table.setflags(write=False)
    return table


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
    # Pillow makes columns shorter before rows from 13 on, of crops that are tall for their width.
    is_tall = (box_height > out_px) & (box_height - out_px > 2 * (box_width - out_px))
    tall = torch.from_numpy(is_tall & _PILLOW_LOOKS_AT_SHAPES)
    if not tall.any():
        return _resized_down(_resized_across(planes, across), down)
    resized = torch.empty(len(pixels), 3, out_px, out_px)
    resized[tall] = _resized_across(_resized_down(planes[tall], down[tall]), across[tall])
    resized[~tall] = _resized_down(_resized_across(planes[~tall], across[~tall]), down[~tall])
    return resized


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


# --------------------------------------------------------------------------------------------------
# timm's shears and translations for a group of images at once: every row or column slides along itself.
#
# A pixel of the result lies at x + 0.5 + slope (y + 0.5) + offset in its row, so that of Pillow's affine
# transform with its 4 x 4 or 2 x 2 neighbours only the sum along the row is left. In doubles and in Pillow's
# order of operations, the results are bit for bit its own wherever compilers do not fuse a product and a sum
# (x86-64).

_BEFORE, _AROUND = 1, 3  # neighbours on the left, and on both sides


def slide(
    pixels: np.ndarray, levels: np.ndarray, *, is_bicubic: bool, fill: tuple[int, ...]
) -> np.ndarray:
    """Return images slid along, uint8 N x 3 x P x P.

    Args:
        pixels: uint8 N x 3 x P x P.
        levels: Of each image its slope, its offset as a fraction of P, and 1 to slide columns or 0 to
            slide rows; float64 N x 3.
        is_bicubic: Instead of bilinear.
        fill: The colour of pixels from outside.
    """
    down = np.flatnonzero(levels[:, 2])
    pixels = _turned(pixels, down)
    side = pixels.shape[-1]
    places = np.arange(side) + 0.5
    slopes, offsets = levels[:, 0, None, None], levels[:, 1, None, None] * side
    sources = places + slopes * places[:, None] + offsets  # N x rows x P
    is_inside = (sources >= 0.0) & (sources < side)
    sources -= 0.5
    lefts = np.floor(sources)
    sources -= lefts
    lines = _neighbours(pixels, lefts.astype(np.int64))
    slid = (_cubic if is_bicubic else _linear)(lines, sources[:, None])
    colour = np.array(fill, dtype=np.uint8)[:, None, None]
    return _turned(np.where(is_inside[:, None], slid, colour), down)


def _turned(pixels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the images, some of them with rows and columns exchanged."""
    result = pixels.copy()
    result[rows] = pixels[rows].transpose(0, 1, 3, 2)
    return result


def _neighbours(pixels: np.ndarray, lefts: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the pixel before, left of, right of and behind each place, int16 N x 3 x P x P each.

    Borders go on outside. But for rounding errors a row moves as a whole, and can be cut out at once.

    Args:
        pixels: uint8 N x 3 x P x P.
        lefts: Number of the left neighbour in its row, int64 N x P x P.
    """
    count, _, height, width = pixels.shape
    starts = lefts[..., :1]
    if not (lefts == starts + np.arange(width)).all():
        columns = (lefts[:, None] + tap - _BEFORE for tap in range(1 + _AROUND))
        return tuple(
            np.take_along_axis(pixels, each.clip(0, width - 1), axis=3).astype(np.int16)
            for each in columns
        )
    margin = width + _AROUND
    wide = np.empty((*pixels.shape[:3], margin + width + margin), dtype=np.uint8)
    wide[..., :margin], wide[..., -margin:] = pixels[..., :1], pixels[..., -1:]
    wide[..., margin:-margin] = pixels
    windows = sliding_window_view(wide.reshape(-1, wide.shape[-1]), width + _AROUND, axis=1)
    first = (starts[..., 0] - _BEFORE + margin).clip(0, windows.shape[1] - 1)
    rows = np.broadcast_to(first[:, None], (count, 3, height)).reshape(-1)
    cut = windows[np.arange(len(rows)), rows].astype(np.int16).reshape(count, 3, height, -1)
    return tuple(cut[..., tap : tap + width] for tap in range(1 + _AROUND))


def _cubic(lines: tuple[np.ndarray, ...], parts: np.ndarray) -> np.ndarray:
    """v1 + t (c1 + t (c2 + t c3)), clipped and truncated: Keys' cubic with a = -1."""
    before, left, right, behind = lines
    rise = left - before
    cubed = rise + (behind - right)
    values = parts * cubed
    values -= cubed + rise
    values *= parts
    values += right - before
    values *= parts
    values += left
    return np.clip(values, 0.0, 255.0, out=values).astype(np.uint8)


def _linear(lines: tuple[np.ndarray, ...], parts: np.ndarray) -> np.ndarray:
    """v1 + t (v2 - v1), truncated."""
    _, left, right, _ = lines
    values = parts * (right - left)
    values += left
    return values.astype(np.uint8)
