"""From the bytes of an image file to RGB pixels, whole or made smaller."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

from autoprog.train.data.formats import readable_formats

__all__ = ["IMAGE_ERRORS", "WIDE_MODES", "decode_at_most", "decode_rgb", "shrink", "to_rgb"]

# What Pillow raises on broken files, beside OSError: a broken PNG is a SyntaxError, a truncated
# chunk a struct.error, an image of absurd size a DecompressionBombError, and the readers of rare
# formats stumble over their own arithmetic.
IMAGE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

_16_BITS = "of 16 bits: their upper 8 bits are used"
WIDE_MODES = {
    "I;16": _16_BITS,
    "I;16B": _16_BITS,
    "I;16L": _16_BITS,
    "I;16N": _16_BITS,
    "I": "of 32-bit integers: up to 255 they are 8 bits, up to 65,535 16 bits",
    "F": "of floating-point numbers: up to 1 they are shares, up to 255 8 bits, up to 65,535 16 bits",
}
"""Pillow's modes of more than 8 bits a channel, and how they come to 8; Pillow itself would clip them."""


def decode_rgb(data: bytes) -> Image.Image:
    """Decode an image file to RGB.

    Raises:
        IMAGE_ERRORS: It is broken, of no format that is read, or its numbers are no brightness.
    """
    return to_rgb(_open(data))


def decode_at_most(data: bytes, short_px: int) -> tuple[Image.Image, tuple[int, int]]:
    """Return an RGB image whose shorter side has at most ``short_px``, and its (width, height) before.

    A larger JPEG file is decoded at a half, a quarter or an eighth of its size where that is still
    enough, which is several times as fast.
    """
    image = _open(data)
    size = image.size
    if min(size) <= short_px:
        return to_rgb(image), size
    fitting = _fitting(size, short_px)
    image.draft(None, fitting)
    return to_rgb(image).resize(fitting, Image.Resampling.BICUBIC), size


def shrink(image: Image.Image, short_px: int) -> Image.Image:
    """Return the image with a shorter side of at most ``short_px``, at the same aspect."""
    if min(image.size) <= short_px:
        return image
    return image.resize(_fitting(image.size, short_px), Image.Resampling.BICUBIC)


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image in 8 bits a channel, R G B; see :data:`WIDE_MODES` for what has more.

    Raises:
        ValueError: Its numbers are negative, not finite or above 65,535.
    """
    image.load()
    if image.mode in WIDE_MODES:
        image = Image.fromarray(_to_8_bits(np.asarray(image)))
    # convert("RGB") copies even an RGB image.
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    """Return brightness as uint8, H x W.

    16 bits lose their lower half, as Pillow does for 16-bit colour. What 32 bits stand for is written
    nowhere, so the largest value of the image decides.
    """
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return (values >> 8).astype(np.uint8)
    lowest, highest = float(values.min()), float(values.max())  # a NaN is both
    if not 0 <= lowest <= highest <= 65535:
        raise ValueError(f"values from {lowest:g} to {highest:g}; 0 to 1, 255 or 65535 can be read")
    if values.dtype.kind == "f" and highest <= 1:
        return np.round(values * 255).astype(np.uint8)
    scale = 1 if highest <= 255 else 256
    return (values / scale).astype(np.uint8)


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=readable_formats())


def _fitting(size: tuple[int, int], short_px: int) -> tuple[int, int]:
    factor = short_px / min(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
