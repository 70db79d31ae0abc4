"""A source whose images are decoded already: in a memory-mapped file, or in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from autoprog.cachefolder import cache_folder
from autoprog.errors import RunError
from autoprog.train.data.bad_images import Unreadable
from autoprog.train.data.cache.build import CacheBuild
from autoprog.train.data.cache.fingerprint import content_digest, origin_of
from autoprog.train.data.cache.image_file import ImageTable, in_memory
from autoprog.train.data.cache.progress import Progress, progress_on_stderr
from autoprog.train.data.images import ImageSource
from autoprog.train.data.workers import resolve_workers

__all__ = ["MOST_BATCHWISE_PX", "CacheSettings", "CachedSource", "open_cached"]

MOST_BATCHWISE_PX = 96
"""Images up to this side are augmented by batch.

Measured, in relative time by batch and one by one: 1 to 8 at 32 px, 1 to 2.4 at 64, 1 to 1.5 at 96 and
equal at 128, where the products with the mostly empty columns of the matrices take over.
"""


class CachedSource:
    """The same images, decoded; up to a chosen size exactly the same.

    Reading takes neither decoding nor a copy: of a file, the pages that many processes map are in
    memory once.

    ``are_thumbnails`` tells whether all are small enough to be augmented by batch, ``one_size`` is the
    (height, width) that all of them have, if they have.

    Args:
        source: What the images were decoded from.
        table: The images.
    """

    def __init__(self, source: ImageSource, table: ImageTable) -> None:
        self.targets, self.class_names = source.targets, source.class_names
        self._source, self._table = source, table
        places = table.places
        widths, heights = places["width"], places["height"]
        self._largest = int(heights.max(initial=0)), int(widths.max(initial=0))
        self.are_thumbnails = 0 < max(self._largest) <= MOST_BATCHWISE_PX
        self.in_memory = self.are_thumbnails
        kinds = np.unique(places[["height", "width"]][widths > 0])
        self.one_size: tuple[int, int] | None = kinds[0].item() if len(kinds) == 1 else None

    def __len__(self) -> int:
        return len(self.targets)

    def name(self, index: int) -> str:
        """Return where the image came from."""
        return self._source.name(index)

    def load(self, index: int) -> tuple[Image.Image, int]:
        """Return the image, which shares the memory of the cache: do not write to it.

        Raises:
            RunError: It could not be read when the cache was built.
        """
        reason = self._table.unreadable.get(index)
        if reason is not None:
            raise RunError(reason)
        pixels = self._table.image(index)
        size = (pixels.shape[1], pixels.shape[0])
        image = Image.frombuffer("RGB", size, pixels, "raw", "RGB", 0, 1)
        return image, int(self.targets[index])

    def unreadable_of(self, indices: Iterable[int]) -> list[Unreadable]:
        """Return those of the images that could not be read when the cache was built."""
        reasons = self._table.unreadable
        return [Unreadable(index, reasons[index]) for index in indices if index in reasons]

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return pixels, uint8 B x H x W x 3, and (height, width) of each, int64 B x 2.

        H and W are the largest of the data set; smaller images are filled up with zeros at the
        right and below.

        Args:
            indices: Of readable images.
        """
        places = self._table.places[indices]
        sizes = np.stack([places["height"], places["width"]], 1).astype(np.int64)
        if self.one_size is not None:
            height, width = self.one_size
            whole = self._table.pixels.reshape(-1, height, width, 3)
            return whole[places["start"] // (3 * height * width)], sizes
        pixels = np.zeros((len(indices), *self._largest, 3), np.uint8)
        for row, index in zip(pixels, indices.tolist(), strict=True):
            image = self._table.image(index)
            row[: image.shape[0], : image.shape[1]] = image
        return pixels, sizes


@dataclass(frozen=True)
class CacheSettings:
    """Where decoded images are kept, and how they get there.

    Args:
        folder: The folder, or ``auto`` for the user's cache folder.
        full_px: The largest side that the run trains at.
        workers: The loader's setting.
        max_bad_images: More unreadable images stop the build.
        progress: Is shown how far it is.
    """

    folder: str
    full_px: int
    workers: int | str
    max_bad_images: int
    progress: Progress = progress_on_stderr

    @property
    def short_px(self) -> int:
        """Return the shorter side that larger images are reduced to.

        Twice the full size, from which even a crop of a quarter of the area need not be enlarged.
        """
        return 2 * self.full_px

    @property
    def path(self) -> Path:
        """Return the folder."""
        return cache_folder(self.folder)


def open_cached(
    source: ImageSource, part: str, settings: CacheSettings, exact: bool = False
) -> ImageSource:
    """Return the same images from the cache, which is built where it is missing or out of date.

    Images that are in memory already are only laid out anew, without a file.

    Args:
        source: The images.
        part: ``training`` or ``validation``.
        settings: Where and how.
        exact: Return ``source`` itself if one of its images is too large to be kept whole.

    Raises:
        RunError: The cache cannot be written, or too many images cannot be read.
    """
    if source.in_memory:
        return CachedSource(source, in_memory(source.load(k)[0] for k in range(len(source))))
    identity = hashlib.blake2b(f"{part} {origin_of(source)}".encode(), digest_size=6).hexdigest()
    path = settings.path / f"{part}-{identity}-{settings.short_px}px.images"
    build = CacheBuild(
        source,
        part,
        settings.short_px,
        exact,
        resolve_workers("auto" if settings.workers == "auto" else int(settings.workers), source),
        0 if exact else settings.max_bad_images,
        settings.progress,
    )
    table = build.open(path, f"{content_digest(source)} {settings.short_px} {exact}")
    return source if table.too_large else CachedSource(source, table)
