"""Which image files are read: Pillow's formats, by the ending of a name and by the content of a file."""

from __future__ import annotations

import importlib.util
from functools import cache

from PIL import Image

__all__ = ["HEIF_ENDINGS", "image_endings", "is_heif_readable", "readable_formats"]

# Endings of phones' photographs, which the package pillow-heif reads.
HEIF_ENDINGS = frozenset({".heic", ".heics", ".heif", ".heifs", ".hif"})

# Formats by Pillow's names. A list of what is read, since plugins add themselves to Pillow's own.
# Left out are EPS, on which Pillow runs Ghostscript; BLP, CUR, FTEX and ICNS, which hold files of
# other formats whose size is not known beforehand; WMF, BUFR, GRIB, HDF5 and MPEG, which Pillow
# only recognises; and what holds no photographs.
_READ = (
    "JPEG", "PNG", "WEBP",  # the common ones, which are tried first
    "AVIF", "BMP", "DCX", "DDS", "DIB", "FLI", "GBR", "GIF", "HEIF", "ICO", "IM", "JPEG2000", "MSP", "PCX",
    "PPM", "PSD", "QOI", "SGI", "SUN", "TGA", "TIFF", "XBM", "XPM",
)  # fmt: skip


@cache
def image_endings() -> frozenset[str]:
    """Return the endings of image files, lower case with the dot."""
    formats = set(readable_formats())
    return frozenset(
        ending for ending, name in Image.registered_extensions().items() if name in formats
    )


@cache
def readable_formats() -> tuple[str, ...]:
    """Return the names of the formats that are decoded, as Pillow calls them, common ones first.

    A file is opened as one of these whatever its name says, so a name cannot make Pillow start another
    program.
    """
    Image.init()
    if importlib.util.find_spec("pillow_heif") is not None:
        import pillow_heif

        pillow_heif.register_heif_opener()
    return tuple(name for name in _READ if name in Image.OPEN)


def is_heif_readable() -> bool:
    """Return whether HEIC photographs can be read here."""
    return "HEIF" in readable_formats()
