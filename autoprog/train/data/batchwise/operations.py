"""timm's augmentations that keep every pixel in its place, for a group of images at once.

Each function gives bit for bit what timm has Pillow make of the images one by one, on machines whose
compilers do not fuse a product and a sum (x86-64); elsewhere a blend may be off by one. Images are
planes, uint8 N x 3 x H x W, and each has its own level, float64 N: the argument that timm hands on.
Nothing is changed in place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

__all__ = ["OPERATIONS", "Operation"]

Operation: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]

_LUMA = np.array([[19595.0, 38470.0, 7471.0]], dtype=np.float32)  # in units of 2^-16
_SOLARIZE_ADD_BELOW = 128


def _auto_contrast(pixels: np.ndarray, _: np.ndarray) -> np.ndarray:
    """Stretch each channel to 0..255: trunc(v s - low s) with s = 255 / (high - low), in doubles."""
    flat = pixels.reshape(len(pixels), 3, -1)
    low = flat.min(axis=2, keepdims=True).astype(np.float64)
    span = flat.max(axis=2, keepdims=True) - low
    scale = np.where(span > 0, 255.0 / np.maximum(span, 1.0), 1.0)
    values = flat * scale
    values += np.where(span > 0, -low * scale, 0.0)
    return _to_8_bits(values).reshape(pixels.shape)


def _equalize(pixels: np.ndarray, _: np.ndarray) -> np.ndarray:
    """Make the histogram of each channel even.

    A value becomes (step // 2 + number of smaller values) // step, at most 255, where step is a 255th
    of the pixels, without those of the highest value. A channel with step 0 is left as it is.
    """
    planes = pixels.reshape(len(pixels) * 3, -1)
    highest = planes.max(axis=1, keepdims=True)
    steps = (planes.shape[1] - np.count_nonzero(planes == highest, axis=1)) // 255
    rows = np.flatnonzero(steps)
    result = planes.copy()
    if len(rows):
        steps = steps[rows, None]
        places = planes[rows] + 256 * np.arange(len(rows))[:, None]
        counts = np.bincount(places.reshape(-1), minlength=256 * len(rows)).reshape(-1, 256)
        smaller = np.cumsum(counts, axis=1) - counts
        tables = np.minimum((steps // 2 + smaller) // steps, 255).astype(np.uint8)
        result[rows] = tables.reshape(-1)[places]
    return result.reshape(pixels.shape)


def _invert(pixels: np.ndarray, _: np.ndarray) -> np.ndarray:
    """255 - v."""
    return ~pixels


def _posterize(pixels: np.ndarray, bits_to_keep: np.ndarray) -> np.ndarray:
    """Keep so many of the highest bits: all from 8 on, none from 0 down."""
    dropped = 8 - bits_to_keep.clip(0, 8).astype(np.int64)
    return pixels & _each(256 - 2**dropped).astype(np.uint8)


def _solarize(pixels: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """v below the threshold, 255 - v from there on."""
    return np.where(pixels < _each(thresholds).astype(np.int16), pixels, ~pixels)


def _solarize_add(pixels: np.ndarray, added: np.ndarray) -> np.ndarray:
    """min(v + added, 255) for v < 128, else v."""
    added_8_bits = _each(added).astype(np.uint8)  # timm adds 128 at most, so that nothing overflows
    return pixels + added_8_bits * (pixels < _SOLARIZE_ADD_BELOW)


def _color(pixels: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Blend with the grey version."""
    return _blend(_grey(pixels), pixels, factors)


def _contrast(pixels: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Blend with the mean of the grey version, rounded."""
    means = _grey(pixels).mean(axis=(1, 2, 3), dtype=np.float64)
    return _blend(_each(np.floor(means + 0.5)).astype(np.float32), pixels, factors)


def _brightness(pixels: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Blend with black."""
    return _blend(np.zeros((1, 1, 1, 1), dtype=np.float32), pixels, factors)


def _sharpness(pixels: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Blend with the version smoothed by weights of 1, and 5 in the centre, over 13.

    Borders stay. Pillow rounds sums of floats, which are never near to half a unit: s / 13 is not.
    """
    whole = pixels.astype(np.uint16)
    inner = whole[:, :, 1:-1, 1:-1]
    threes = whole[:, :, :-2] + whole[:, :, 1:-1] + whole[:, :, 2:]
    sums = threes[..., :-2] + threes[..., 1:-1] + threes[..., 2:] + 4 * inner
    smooth = pixels.astype(np.float32)
    smooth[:, :, 1:-1, 1:-1] = (sums + 6) // 13
    return _blend(smooth, pixels, factors)


def _blend(grounds: np.ndarray, pixels: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Return ground + factor (v - ground) in single precision, clipped and truncated."""
    values = pixels.astype(np.float32)
    values -= grounds
    values *= _each(factors).astype(np.float32)
    values += grounds
    return _to_8_bits(values)


def _grey(pixels: np.ndarray) -> np.ndarray:
    """Return Pillow's conversion to L, as float32 N x 1 x H x W; the sums of products are exact."""
    batch, _, height, width = pixels.shape
    grey = np.matmul(_LUMA, pixels.reshape(batch, 3, -1).astype(np.float32))
    grey += np.float32(2**15)
    grey *= np.float32(2**-16)
    return np.floor(grey, out=grey).reshape(batch, 1, height, width)


def _each(levels: np.ndarray) -> np.ndarray:
    return levels.reshape(-1, 1, 1, 1)


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0.0, 255.0, out=values).astype(np.uint8)


OPERATIONS: dict[str, Operation] = {
    "AutoContrast": _auto_contrast,
    "Equalize": _equalize,
    "Invert": _invert,
    "Posterize": _posterize,
    "PosterizeIncreasing": _posterize,
    "PosterizeOriginal": _posterize,
    "Solarize": _solarize,
    "SolarizeIncreasing": _solarize,
    "SolarizeAdd": _solarize_add,
    "Color": _color,
    "ColorIncreasing": _color,
    "Contrast": _contrast,
    "ContrastIncreasing": _contrast,
    "Brightness": _brightness,
    "BrightnessIncreasing": _brightness,
    "Sharpness": _sharpness,
    "SharpnessIncreasing": _sharpness,
}
"""What to call on a group of images, by timm's name of the operation."""
