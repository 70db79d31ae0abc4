"""Which image files are read: Pillow's formats, by the ending of a name and by the content of a file."""

from __future__ import annotations

import importlib.util
from functools import cache

from PIL import Image

__all__ = ["HEIF_ENDINGS", "image_endings", "is_heif_readable", "readable_formats"]

HEIF_ENDINGS = frozenset({".heic", ".heics", ".heif", ".heifs", ".hif"})
"""Endings of phones' photographs, which the package pillow-heif reads."""

_NOT_READ = frozenset(
    {
        "EPS",  # Pillow runs Ghostscript on it
        "WMF",  # drawn on Windows alone
        "BUFR", "GRIB", "HDF5", "MPEG",  # recognised, but Pillow has no decoder of its own
        "FITS", "IPTC", "MCIDAS", "SPIDER", "IMT", "XVTHUMB", "PIXAR", "PCD",  # no photographs
    }
)  # fmt: skip


def is_heif_readable() -> bool:
    """Return whether HEIC photographs can be read here."""
    return "HEIF" in readable_formats()


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
    common = ("JPEG", "PNG", "WEBP")
    others = sorted(set(Image.OPEN) - _NOT_READ - set(common))
    return (*(name for name in common if name in Image.OPEN), *others)


@cache
def image_endings() -> frozenset[str]:
    """Return the endings of image files, lower case with the dot."""
    formats = set(readable_formats())
    return frozenset(
        ending for ending, name in Image.registered_extensions().items() if name in formats
    )
