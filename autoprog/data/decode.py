"""From the bytes of an image file to RGB pixels, whole or made smaller, within bounds of time and memory."""

from __future__ import annotations

import io
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image

from autoprog.data.formats import readable_formats

__all__ = [
    "IMAGE_ERRORS",
    "MAX_FILE_BYTES",
    "MAX_PIXELS",
    "WHITE_LEVELS",
    "WIDE_MODES",
    "brightest",
    "decode_at_most",
    "decode_rgb",
    "fitting_white_level",
    "open_image",
    "pillow_limits",
    "shrink",
    "to_rgb",
]

# What Pillow raises on broken files, beside OSError: a broken PNG is a SyntaxError, a truncated
# chunk a struct.error, an image of absurd size a DecompressionBombError, and the readers of rare
# formats stumble over their own arithmetic. A MemoryError is one image's fault as long as sizes are
# bounded.
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
    MemoryError,
    BufferError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

# The most pixels of an image, 67 million: more than cameras of 61 megapixels and phones of 50 give.
# Measured at 10,000 x 10,000, in bytes a pixel while it is decoded to RGB: 4 for PNG and JPEG
# files, 8 where there is transparency or CMYK, 7 for progressive JPEG, HEIF and TIFF files. So a
# worker takes up to 0.55 GB.
MAX_PIXELS = 2**26

# The most bytes of an image file: that many pixels of 16 bits in three channels are 0.4 GB.
MAX_FILE_BYTES = 2**29

# Pixels of formats that take more memory: measured 15, 9 and 18 bytes a pixel, and AVIF 6, JPEG 2000 2
# megapixels a second for noise, which is the slowest to decode.
_MAX_PIXELS_OF = {"WEBP": 2**25, "AVIF": 2**25, "JPEG2000": 2**24}

# Pixels of what Pillow decodes in Python, such as PPM files with numbers as text: measured 1
# megapixel a second.
_MAX_PIXELS_IN_PYTHON = 2**22

# Scans of a progressive JPEG file, which has about 10. Each goes over the whole image: measured
# 0.4 ns a pixel.
_MAX_SCANS = 64

# Strips or tiles of a TIFF file. Pillow makes a list of them before it knows the size: measured 4 us
# and 280 bytes each.
_MAX_STRIPS = 2**17

_TIFF_MARKS = (b"*\0", b"\0*", b"+\0", b"\0+")  # TIFF and BigTIFF, in both byte orders
_STRIP_OFFSETS, _TILE_OFFSETS = 273, 324  # tags of TIFF

# Reads of parts of a file, which Pillow goes through in Python: measured 0.5 to 2 us each, empty
# ones too.
_MAX_READS = 2**20

# Values that are scaled at once: a whole image as float64 would take 8 times its memory.
_VALUES_AT_ONCE = 2**19

# Pillow's modes of more than 8 bits a channel; Pillow itself would clip them.
WIDE_MODES = {
    "I;16": "of 16 bits",
    "I;16B": "of 16 bits",
    "I;16L": "of 16 bits",
    "I;16N": "of 16 bits",
    "I": "of 32-bit integers",
    "F": "of floating-point numbers",
}

# What is white in images of numbers from 0 to 1, and of 8, 12 and 16 bits.
WHITE_LEVELS = (1.0, 255.0, 4095.0, 65535.0)


def decode_rgb(data: bytes, white_level: float | None = None) -> Image.Image:
    """Decode an image file to RGB.

    Args:
        data: The file.
        white_level: As for :func:`to_rgb`.

    Raises:
        IMAGE_ERRORS: It is broken, of no format that is read, or its numbers are no brightness.
    """
    with pillow_limits():
        return to_rgb(open_image(data), white_level)


def decode_at_most(
    data: bytes, short_px: int, white_level: float | None = None
) -> tuple[Image.Image, tuple[int, int]]:
    """Return an RGB image whose shorter side has at most ``short_px``, and its (width, height) before.

    A larger JPEG file is decoded at a half, a quarter or an eighth of its size where that is still
    enough, which is several times as fast.
    """
    with pillow_limits():
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


def _fitting(size: tuple[int, int], short_px: int) -> tuple[int, int]:
    factor = short_px / min(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


@contextmanager
def pillow_limits() -> Iterator[None]:
    """Let Pillow open only the formats and the sizes that are read, whoever calls it meanwhile.

    For what timm and torchvision open, and for images within files. It sets what is Pillow's own and sets it
    back, and so is not for several threads at once.
    """
    max_pixels, formats = Image.MAX_IMAGE_PIXELS, Image.ID
    Image.ID = list(readable_formats())
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # it refuses twice as many, and warns of fewer
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS, Image.ID = max_pixels, formats


def open_image(data: bytes) -> Image.Image:
    """Open an image file as one of the formats that are read; only its header is decoded.

    To be called, as what decodes the image, within :func:`pillow_limits`.

    Raises:
        DecompressionBombError: It has more than :data:`MAX_PIXELS`.
        ValueError: It would take very long, or more memory than other formats.
        IMAGE_ERRORS: It is broken.
    """
    if data[:2] in (b"II", b"MM") and data[2:4] in _TIFF_MARKS and _num_strips(data) > _MAX_STRIPS:
        raise ValueError(f"more than {_MAX_STRIPS:,} strips or tiles")
    parts = _CountedReads(data)
    image = Image.open(parts, formats=readable_formats())
    max_pixels = min(MAX_PIXELS, _MAX_PIXELS_OF.get(image.format or "", MAX_PIXELS))
    tiles: list[Any] = getattr(image, "tile", [])
    if any(tile[0] in Image.DECODERS for tile in tiles):
        max_pixels = min(max_pixels, _MAX_PIXELS_IN_PYTHON)
        parts.max_reads = 4 * max_pixels  # some take each pixel by itself
    width, height = image.size
    if width * height > max_pixels:
        raise ValueError(f"more than the {max_pixels:,} pixels that are read of such files")
    # FF DA starts a scan; within the data of one FF is followed by 0 or by the mark of a restart.
    if image.format in ("JPEG", "MPO") and data.count(b"\xff\xda") > _MAX_SCANS:
        raise ValueError(f"a JPEG file of more than {_MAX_SCANS} scans")
    return image


class _CountedReads(io.BytesIO):
    """An image file that counts its reads and refuses more than `max_reads`."""

    num_reads, max_reads = 0, _MAX_READS

    def read(self, size: int | None = -1) -> bytes:
        self._count()
        return super().read(size)

    def readline(self, size: int | None = -1) -> bytes:
        self._count()
        return super().readline(size)

    def _count(self) -> None:
        self.num_reads += 1
        if self.num_reads > self.max_reads:
            raise ValueError("a file of too many parts")


def _num_strips(data: bytes) -> int:
    """Return how many strips or tiles the first image of a TIFF file has by its directory.

    Raises:
        struct.error: The file ends before its directory does.
    """
    order, is_big = "<" if data[:2] == b"II" else ">", data[2] == 43
    (start,) = struct.unpack_from(f"{order}{'Q' if is_big else 'I'}", data, 8 if is_big else 4)
    (entries,) = struct.unpack_from(f"{order}{'Q' if is_big else 'H'}", data, start)
    entry = struct.Struct(f"{order}{'HHQ8x' if is_big else 'HHI4x'}")
    start += 8 if is_big else 2
    if entries > 2**16:  # there are no more tags, but BigTIFF leaves room for more
        raise ValueError(f"a TIFF file of {entries:,} tags")
    found = entry.iter_unpack(data[start : start + entries * entry.size])
    return max((n for tag, _, n in found if tag in (_STRIP_OFFSETS, _TILE_OFFSETS)), default=0)


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


def _to_8_bits(values: np.ndarray, white_level: float | None) -> np.ndarray:
    """Return brightness as uint8, H x W."""
    white = white_level or (1.0 if values.dtype.kind == "f" else WHITE_LEVELS[-1])
    lowest, highest = float(values.min()), float(values.max())  # a NaN is both
    if not 0 <= lowest <= highest < math.inf:
        raise ValueError(
            f"brightness from {lowest:g} to {highest:g}; it must be finite and not negative"
        )
    found = np.empty(values.shape, np.uint8)
    flat, flat_found = values.reshape(-1), found.reshape(-1)
    for start in range(0, flat.size, _VALUES_AT_ONCE):
        chosen = slice(start, start + _VALUES_AT_ONCE)
        part = flat[chosen]
        if white == WHITE_LEVELS[-1]:  # without the lower 8 bits, as Pillow takes 16-bit colour
            flat_found[chosen] = np.minimum(part / 256, 255).astype(np.uint8)
        else:
            fractions = np.minimum(part / white, 1.0)
            flat_found[chosen] = np.round(fractions * 255).astype(np.uint8)
    return found


def brightest(image: Image.Image) -> float:
    """Return the largest number in an image of :data:`WIDE_MODES`."""
    return float(np.asarray(image).max())


def fitting_white_level(brightness: float) -> float:
    """Return the usual white level of images whose brightest number this is; a little more is noise."""
    return next((level for level in WHITE_LEVELS if brightness <= 1.1 * level), brightness)
