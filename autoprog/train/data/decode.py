"""From the bytes of an image file to RGB pixels, whole or made smaller."""

from __future__ import annotations

import io
import struct

from PIL import Image

__all__ = ["IMAGE_ERRORS", "decode_at_most", "decode_rgb", "shrink"]

# What Pillow raises on broken files, beside OSError: a broken PNG is a SyntaxError, a truncated
# chunk a struct.error, and an image of absurd size a DecompressionBombError.
IMAGE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)


def decode_rgb(data: bytes) -> Image.Image:
    """Decode an image file to RGB."""
    return _to_rgb(Image.open(io.BytesIO(data)))


def decode_at_most(data: bytes, short_px: int) -> tuple[Image.Image, tuple[int, int]]:
    """Return an RGB image whose shorter side has at most ``short_px``, and its (width, height) before.

    A larger JPEG file is decoded at a half, a quarter or an eighth of its size where that is still
    enough, which is several times as fast.
    """
    image = Image.open(io.BytesIO(data))
    size = image.size
    if min(size) <= short_px:
        return _to_rgb(image), size
    fitting = _fitting(size, short_px)
    image.draft(None, fitting)
    return _to_rgb(image).resize(fitting, Image.Resampling.BICUBIC), size


def shrink(image: Image.Image, short_px: int) -> Image.Image:
    """Return the image with a shorter side of at most ``short_px``, at the same aspect."""
    if min(image.size) <= short_px:
        return image
    return image.resize(_fitting(image.size, short_px), Image.Resampling.BICUBIC)


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    # convert("RGB") copies even an RGB image.
    return image if image.mode == "RGB" else image.convert("RGB")


def _fitting(size: tuple[int, int], short_px: int) -> tuple[int, int]:
    factor = short_px / min(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
