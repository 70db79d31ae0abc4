"""From the bytes of an image file to RGB pixels, whole or made smaller."""

from __future__ import annotations

import io
import math
import struct
import zlib

import numpy as np
from PIL import Image

from autoprog.train.data.formats import readable_formats

__all__ = [
    "IMAGE_ERRORS",
    "WIDE_MODES",
    "brightest",
    "decode_at_most",
    "decode_rgb",
    "fitting_white_level",
    "open_image",
    "shrink",
    "to_rgb",
]

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

WIDE_MODES = {
    "I;16": "of 16 bits",
    "I;16B": "of 16 bits",
    "I;16L": "of 16 bits",
    "I;16N": "of 16 bits",
    "I": "of 32-bit integers",
    "F": "of floating-point numbers",
}
"""Pillow's modes of more than 8 bits a channel; Pillow itself would clip them."""

WHITE_LEVELS = (1.0, 255.0, 4095.0, 65535.0)
"""What is white in images of shares, and of 8, 12 and 16 bits."""


def decode_rgb(data: bytes, white_level: float | None = None) -> Image.Image:
    """Decode an image file to RGB.

    Args:
        data: The file.
        white_level: As for :func:`to_rgb`.

    Raises:
        IMAGE_ERRORS: It is broken, of no format that is read, or its numbers are no brightness.
    """
    return to_rgb(open_image(data), white_level)


def decode_at_most(
    data: bytes, short_px: int, white_level: float | None = None
) -> tuple[Image.Image, tuple[int, int]]:
    """Return an RGB image whose shorter side has at most ``short_px``, and its (width, height) before.

    A larger JPEG file is decoded at a half, a quarter or an eighth of its size where that is still
    enough, which is several times as fast.
    """
    image = open_image(data)
    size = image.size
    if min(size) <= short_px:
        return to_rgb(image, white_level), size
    fitting = _fitting(size, short_px)
    image.draft(None, fitting)
    return to_rgb(image, white_level).resize(fitting, Image.Resampling.BICUBIC), size


def shrink(image: Image.Image, short_px: int) -> Image.Image:
    """Return the image with a shorter side of at most ``short_px``, at the same aspect."""
    if min(image.size) <= short_px:
        return image
    return image.resize(_fitting(image.size, short_px), Image.Resampling.BICUBIC)


def to_rgb(image: Image.Image, white_level: float | None = None) -> Image.Image:
    """Return an image in 8 bits a channel, R G B.

    Args:
        image: In any mode of Pillow.
        white_level: The brightness that becomes 255 in images of :data:`WIDE_MODES`; what is brighter does so
            too. Its own is one a data set, since a scale of each image's own would tell classes apart.
            By default 1 for floating-point numbers and 65,535 for others.

    Raises:
        ValueError: Its numbers are negative or not finite.
    """
    image.load()
    if image.mode in WIDE_MODES:
        image = Image.fromarray(_to_8_bits(np.asarray(image), white_level))
    # convert("RGB") copies even an RGB image.
    return image if image.mode == "RGB" else image.convert("RGB")


def brightest(image: Image.Image) -> float:
    """Return the largest number in an image of :data:`WIDE_MODES`."""
    return float(np.asarray(image).max())


def fitting_white_level(brightness: float) -> float:
    """Return the usual white level of images whose brightest number this is; a little more is noise."""
    return next((level for level in WHITE_LEVELS if brightness <= 1.1 * level), brightness)


def _to_8_bits(values: np.ndarray, white_level: float | None) -> np.ndarray:
    """Return brightness as uint8, H x W."""
    white = white_level or (1.0 if values.dtype.kind == "f" else WHITE_LEVELS[-1])
    lowest, highest = float(values.min()), float(values.max())  # a NaN is both
    if not 0 <= lowest <= highest < math.inf:
        raise ValueError(
            f"brightness from {lowest:g} to {highest:g}; it must be finite and not negative"
        )
    if white == WHITE_LEVELS[-1]:  # without the lower 8 bits, as Pillow takes 16-bit colour
        return np.minimum(values / 256, 255).astype(np.uint8)
    return np.round(np.minimum(values / white, 1.0) * 255).astype(np.uint8)


def open_image(data: bytes) -> Image.Image:
    """Open an image file as one of the formats that are read; only its header is decoded."""
    return Image.open(io.BytesIO(data), formats=readable_formats())


def _fitting(size: tuple[int, int], short_px: int) -> tuple[int, int]:
    factor = short_px / min(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
