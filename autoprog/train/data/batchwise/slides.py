"""timm's shears and translations for a group of images at once: every row or column slides along itself.

A pixel of the result lies at x + 0.5 + slope (y + 0.5) + offset in its row, so that of Pillow's affine
transform with its 4 x 4 or 2 x 2 neighbours only the sum along the row is left. In doubles and in Pillow's
order of operations, the results are bit for bit its own wherever compilers do not fuse a product and a
sum (x86-64).
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

__all__ = ["slide"]

_BEFORE, _AROUND = 1, 3  # neighbours on the left, and on both sides


def slide(
    pixels: np.ndarray, levels: np.ndarray, *, is_bicubic: bool, fill: tuple[int, ...]
) -> np.ndarray:
    """Return images slid along, uint8 N x 3 x P x P.

    Args:
        pixels: uint8 N x 3 x P x P.
        levels: Of each image its slope, its offset as a share of P, and 1 to slide columns or 0 to
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
