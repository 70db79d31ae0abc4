"""The file of decoded images: pixels first, then where each image lies, and at the end what all of it is.

A file is valid when its last bytes say so, so one whose writing was cut off never is.
"""

from __future__ import annotations

import dataclasses
import json
import os
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from autoprog.cachefolder import FOOTER, MAGIC, part_of, share
from autoprog.errors import RunError

__all__ = ["ImageTable", "ImageWriter", "in_memory", "read_table"]

_VERSION = 1
_PLACE = np.dtype([("start", "<i8"), ("width", "<i4"), ("height", "<i4")])


@dataclasses.dataclass
class ImageTable:
    """Decoded RGB images, in a mapped file or in memory; survives being forked and being sent to a process.

    Args:
        pixels: uint8, all images one after another, each H x W x 3.
        places: For each image where it starts, its width and its height; 0 x 0 if unreadable.
        unreadable: The reason, by index.
        too_large: There are no images, since only whole ones were asked for and one is too large.
        path: The file, if there is one.
        digest: What the file was made from.
    """

    pixels: np.ndarray
    places: np.ndarray
    unreadable: dict[int, str]
    too_large: bool = False
    path: Path | None = None
    digest: str = ""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "pixels": self.pixels if self.path is None else None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.path is None:
            return
        table = read_table(self.path, self.digest)
        if table is None:
            raise RunError(f"{self.path}: the cache was replaced during the run; start it again")
        self.pixels = table.pixels

    def image(self, index: int) -> np.ndarray:
        """Return the pixels of an image, H x W x 3; a view."""
        start, width, height = self.places[index].item()
        return self.pixels[start : start + 3 * width * height].reshape(height, width, 3)


class ImageWriter:
    """Writes an image file under a temporary name, and gives it its own when it is whole.

    Args:
        path: The final name. The caller sees to it that nobody else writes there.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._part = path, part_of(path)
        self._file = open(self._part, "wb")  # noqa: SIM115  (closed by finish or __exit__)
        self._places: list[tuple[int, int, int]] = []
        self._end_bytes = 0

    def __enter__(self) -> ImageWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self._part.unlink(missing_ok=True)

    def add(self, pixels: np.ndarray, sizes: Iterable[tuple[int, int]]) -> None:
        """Append images: their pixels one after another, and their (width, height)."""
        for width, height in sizes:
            self._places.append((self._end_bytes, width, height))
            self._end_bytes += 3 * width * height
        self._file.write(np.ascontiguousarray(pixels).data)

    def clear(self) -> None:
        """Drop all images."""
        self._places, self._end_bytes = [], 0
        self._file.truncate(self._file.seek(0))

    def finish(self, digest: str, unreadable: dict[int, str], too_large: bool, origin: str) -> None:
        """Complete the file, force it to disk and give it its name; `origin` tells people what it is of."""
        facts = {
            "digest": digest,
            "unreadable": unreadable,
            "too_large": too_large,
            "origin": origin,
        }
        tail = np.array(self._places, dtype=_PLACE).tobytes() + json.dumps(facts).encode()
        facts_bytes = len(tail) - len(self._places) * _PLACE.itemsize
        self._file.write(tail)
        self._file.write(
            FOOTER.pack(MAGIC, _VERSION, zlib.crc32(tail), len(self._places), facts_bytes)
        )
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._part, self._path)


def read_table(path: Path, digest: str) -> ImageTable | None:
    """Map a file; None where there is none, or one that is torn, foreign or made from other images."""
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as file:
            return _read(path, file, size_bytes, digest) if share(file) else None
    except (OSError, struct.error, ValueError, KeyError):
        return None


def _read(path: Path, file: Any, size_bytes: int, digest: str) -> ImageTable | None:
    file.seek(size_bytes - FOOTER.size)
    magic, version, checksum, images, facts_bytes = FOOTER.unpack(file.read())
    tail_bytes = images * _PLACE.itemsize + facts_bytes
    pixels_bytes = size_bytes - FOOTER.size - tail_bytes
    if (magic, version) != (MAGIC, _VERSION) or pixels_bytes < 0:
        return None
    file.seek(pixels_bytes)
    tail = file.read(tail_bytes)
    if zlib.crc32(tail) != checksum:
        return None
    facts = json.loads(tail[images * _PLACE.itemsize :])
    if facts["digest"] != digest:
        return None
    places = np.frombuffer(tail, _PLACE, images)
    if _end_of(places) != pixels_bytes:
        return None
    pixels = np.empty(0, np.uint8)
    if pixels_bytes:  # as a plain array: indexing a np.memmap takes longer
        # Of this very file object: its map keeps the lock of `share` until it is closed.
        pixels = np.asarray(np.memmap(file, np.uint8, "r", 0, (pixels_bytes,)))
    unreadable = {int(index): reason for index, reason in facts["unreadable"].items()}
    return ImageTable(pixels, places, unreadable, facts["too_large"], path, digest)


def _end_of(places: np.ndarray) -> int:
    if len(places) == 0:
        return 0
    start, width, height = places[-1].item()
    return int(start + 3 * width * height)


def in_memory(images: Iterable[Image.Image]) -> ImageTable:
    """Return a table of images that are held in memory."""
    arrays = [np.asarray(image) for image in images]
    sizes = [(array.shape[1], array.shape[0]) for array in arrays]
    starts = np.cumsum([0, *(array.size for array in arrays)])
    places = [(start, *size) for start, size in zip(starts[:-1].tolist(), sizes, strict=True)]
    pixels = np.concatenate([array.reshape(-1) for array in arrays])
    return ImageTable(pixels, np.array(places, dtype=_PLACE), {})
