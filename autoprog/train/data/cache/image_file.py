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
from typing import IO, Any

import numpy as np
from PIL import Image

from autoprog.cachefolder import FOOTER, MAGIC, MOST_FACTS_BYTES, new_part_of, remove_parts, share
from autoprog.errors import ConfigError, RunError
from autoprog.jsonlines import json_object
from autoprog.openfiles import open_regular

__all__ = ["ImageTable", "ImageWriter", "in_memory", "read_table"]

_VERSION = 1
_PLACE = np.dtype([("start", "<i8"), ("width", "<i4"), ("height", "<i4")])

_MOST_PIXELS = 2**27
"""Of an image: 400 MB when it is copied. Pillow refuses to decode larger ones than 1.3 times that."""


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
        table = read_table(self.path, self.digest, len(self.places))
        if table is None:
            raise RunError(f"{self.path}: the cache was replaced during the run; start it again")
        self.pixels = table.pixels

    def image(self, index: int) -> np.ndarray:
        """Return the pixels of an image, H x W x 3; a view."""
        start, width, height = self.places[index].item()
        return self.pixels[start : start + 3 * width * height].reshape(height, width, 3)


class ImageWriter:
    """Writes an image file under a temporary name, and gives it its own when it is whole.

    What killed builds left is removed first.

    Args:
        path: The final name. The caller sees to it that nobody else writes there.
    """

    def __init__(self, path: Path) -> None:
        remove_parts(path)
        self._path, self._part = path, new_part_of(path)
        self._file = open(self._part, "xb")  # noqa: SIM115  (closed by finish or __exit__)
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


def read_table(path: Path, digest: str, num_images: int) -> ImageTable | None:
    """Map a file; None where there is none, or one that is torn, foreign or made from other images.

    Args:
        path: The file, which may come from anybody.
        digest: What it must have been made from.
        num_images: How many images it must have, unless they were too large.
    """
    try:
        with open_regular(path, follow_links=False) as file:
            return _read(path, file, digest, num_images) if share(file) else None
    except (OSError, struct.error, ValueError):
        return None


def _read(path: Path, file: IO[bytes], digest: str, num_images: int) -> ImageTable | None:
    size_bytes = os.fstat(file.fileno()).st_size
    file.seek(size_bytes - FOOTER.size)
    magic, version, checksum, images, facts_bytes = FOOTER.unpack(file.read(FOOTER.size))
    tail_bytes = images * _PLACE.itemsize + facts_bytes
    pixels_bytes = size_bytes - FOOTER.size - tail_bytes
    is_foreign = (magic, version) != (MAGIC, _VERSION) or images not in (0, num_images)
    if is_foreign or facts_bytes > MOST_FACTS_BYTES or pixels_bytes < 0:
        return None
    file.seek(pixels_bytes)
    tail = file.read(tail_bytes)
    if zlib.crc32(tail) != checksum:
        return None
    facts = _facts(tail[images * _PLACE.itemsize :])
    if facts is None or facts.digest != digest or facts.too_large != (images != num_images):
        return None
    places = np.frombuffer(tail, _PLACE, images)
    if not _fills(places, pixels_bytes) or not _are_bad(places, facts.unreadable):
        return None
    pixels = np.empty(0, np.uint8)
    if pixels_bytes:  # as a plain array: indexing a np.memmap takes longer
        # Of this very file object: its map keeps the lock of `share` until it is closed.
        pixels = np.asarray(np.memmap(file, np.uint8, "r", 0, (pixels_bytes,)))
    return ImageTable(pixels, places, facts.unreadable, facts.too_large, path, digest)


@dataclasses.dataclass(frozen=True)
class _Facts:
    digest: str
    unreadable: dict[int, str]
    too_large: bool


def _facts(text: bytes) -> _Facts | None:
    """Return what a file says of itself; None for anything that no build has written."""
    try:
        body = json_object(text, "")
        unreadable = {int(index): reason for index, reason in body["unreadable"].items()}
        facts = _Facts(body["digest"], unreadable, body["too_large"])
    except (ConfigError, KeyError, ValueError, AttributeError):
        return None
    is_text = all(isinstance(one, str) for one in (facts.digest, *unreadable.values()))
    return facts if is_text and isinstance(facts.too_large, bool) else None


def _fills(places: np.ndarray, num_bytes: int) -> bool:
    """Tell whether images lie one behind another from the first byte to the last one."""
    widths, heights = (places[key].astype(np.int64) for key in ("width", "height"))
    pixels = widths * heights
    if (
        min(widths.min(initial=0), heights.min(initial=0)) < 0
        or pixels.max(initial=0) > _MOST_PIXELS
    ):
        return False
    starts = np.concatenate([[0], np.cumsum(3 * pixels)])
    return bool((places["start"] == starts[:-1]).all() and starts[-1] == num_bytes)


def _are_bad(places: np.ndarray, unreadable: dict[int, str]) -> bool:
    """Tell whether the images without pixels are those that could not be read."""
    empty = np.flatnonzero((places["width"] == 0) | (places["height"] == 0))
    return unreadable.keys() == set(empty.tolist())


def in_memory(images: Iterable[Image.Image]) -> ImageTable:
    """Return a table of images that are held in memory."""
    arrays = [np.asarray(image) for image in images]
    sizes = [(array.shape[1], array.shape[0]) for array in arrays]
    starts = np.cumsum([0, *(array.size for array in arrays)])
    places = [(start, *size) for start, size in zip(starts[:-1].tolist(), sizes, strict=True)]
    pixels = np.concatenate([array.reshape(-1) for array in arrays])
    return ImageTable(pixels, np.array(places, dtype=_PLACE), {})
