"""Reading the validation images once before a run, which would else meet a broken one at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from autoprog.train.data.bad_images import Unreadable, read_or_note
from autoprog.train.data.cache.progress import Progress
from autoprog.train.data.images import ImageSource
from autoprog.train.data.workers import WorkerPool

__all__ = ["CheckedImages", "check_images"]

_CHUNK_IMAGES = 16
_QUIET_SECONDS = 2.0


@dataclass(frozen=True)
class CheckedImages:
    """How many images have been read, and which of them cannot be."""

    num_read: int
    unreadable: list[Unreadable]


def check_images(
    source: ImageSource,
    workers: int,
    most_seconds: float,
    progress: Progress,
    clock: Callable[[], float] = time.monotonic,
    part: str = "validation",
) -> CheckedImages:
    """Decode images, all of them where the time allows it, else some from all over the source.

    Args:
        source: The images.
        workers: Number of worker processes.
        most_seconds: After which no more are begun.
        progress: Is shown how far it is, once it takes long.
        clock: Seconds.
        part: What they are called there.
    """
    start, num_read, found = clock(), 0, list[Unreadable]()
    pool: WorkerPool[list[int], tuple[int, list[Unreadable]]] = WorkerPool(_Read(source), workers)
    with ExitStack() as stack:
        stack.callback(pool.close)
        advance = None
        for count, unreadable in pool.results(_chunks(len(source))):
            num_read += count
            found += unreadable
            seconds = clock() - start
            if seconds > most_seconds:
                break
            if advance is None and seconds > _QUIET_SECONDS:
                text = f"{part} images: reading each once, for at most {most_seconds:.0f} seconds"
                advance = stack.enter_context(progress(text, len(source)))
            if advance is not None:
                advance(num_read)
    return CheckedImages(num_read, sorted(found))


def _chunks(num_images: int) -> Iterator[list[int]]:
    """Yield the numbers of all images, some neighbours at a time, in an order that looks everywhere soon."""
    starts = np.arange(0, num_images, _CHUNK_IMAGES)
    for start in np.random.RandomState(0).permutation(starts).tolist():
        yield list(range(start, min(start + _CHUNK_IMAGES, num_images)))


class _Read:
    """Reads images and tells how many there were, and which of them cannot be read."""

    def __init__(self, source: ImageSource) -> None:
        self._source = source

    def __call__(self, indices: list[int]) -> tuple[int, list[Unreadable]]:
        found: list[Unreadable] = []
        read_or_note(self._load, indices, found)
        return len(indices), found

    def _load(self, index: int) -> None:
        self._source.load(index)
