"""Building the file of decoded images: once for all processes, in parallel, whole or not at all."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from autoprog.cachefolder import file_lock, lock_of, note_use
from autoprog.errors import ResumableError, RunError, tell_at_once
from autoprog.train.data.bad_images import (
    BadImages,
    Unreadable,
    read_or_note,
    validation_refusal,
)
from autoprog.train.data.cache.fingerprint import origin_of
from autoprog.train.data.cache.image_file import ImageTable, ImageWriter, read_table
from autoprog.train.data.cache.progress import Progress
from autoprog.train.data.images import ImageSource, load_at_most
from autoprog.train.data.workers import WorkerPool

__all__ = ["CacheBuild"]

_GIB = 2**30
_SAMPLED_IMAGES = 200
_CHUNK_BYTES = 2**22
_Chunk = tuple[Tensor, list[tuple[int, int]], list[Unreadable], bool]


@dataclass(frozen=True)
class CacheBuild:
    """How a file is made.

    Args:
        source: The images.
        part: What they are called in messages.
        short_px: Larger images are made smaller until their shorter side has so many pixels.
        whole_only: Write no images at all as soon as one would have to be made smaller.
        workers: Number of worker processes.
        max_bad_images: More unreadable images stop the build.
        progress: Is shown how far it is.
    """

    source: ImageSource
    part: str
    short_px: int
    whole_only: bool
    workers: int
    max_bad_images: int
    progress: Progress

    def open(self, path: Path, digest: str) -> ImageTable:
        """Return the images of a file, which is built first unless it is there and up to date.

        While one process builds a file, all others that want it wait, and then find it.

        Raises:
            RunError: The folder cannot be written, the disk is too small, or too many images are bad.
        """
        table = read_table(path, digest, len(self.source))
        if table is not None:
            note_use(path)
            return table
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _stoppable(), file_lock(lock_of(path)):
                table = read_table(path, digest, len(self.source))
                if table is None:
                    self._build(path, digest)
        except OSError as error:
            reason = error.strerror or str(error)
            raise RunError(f"{path}: the cache cannot be written: {reason}") from error
        table = table or read_table(path, digest, len(self.source))
        if table is None:
            raise RunError(f"{path}: the cache cannot be read back; is its disk in order?")
        return table

    def _build(self, path: Path, digest: str) -> None:
        total = len(self.source)
        reason = "the file is out of date or damaged" if path.exists() else "the first time"
        text = f"cache: decoding {total:,} {self.part} images into {path} ({reason})"
        with ExitStack() as stack:
            writer = stack.enter_context(ImageWriter(path))  # drops what a killed build left
            mean_bytes, too_large = self._sample()
            if not too_large:
                self._check_room(path.parent, mean_bytes)
                advance = stack.enter_context(self.progress(text, total))
                unreadable, too_large = self._fill(writer, mean_bytes, advance)
            if too_large:
                writer.clear()
            unreadable = {} if too_large else unreadable
            writer.finish(digest, unreadable, too_large, origin_of(self.source))

    def _fill(
        self, writer: ImageWriter, mean_bytes: float, advance: Callable[[int], None]
    ) -> tuple[dict[int, str], bool]:
        """Write all images; return the unreadable ones, and whether one was too large for a whole copy."""
        bad_images = BadImages(self.max_bad_images)
        unreadable: dict[int, str] = {}
        done = 0
        for pixels, sizes, found, some_shrunk in self._chunks(mean_bytes):
            if some_shrunk and self.whole_only:
                return {}, True
            if found and self.part == "validation":
                raise ResumableError(validation_refusal(found))
            bad_images.add(found)
            unreadable |= dict(found)
            writer.add(pixels.numpy(), sizes)
            done += len(sizes)
            advance(done)
        return unreadable, False

    def _sample(self) -> tuple[float, bool]:
        """Return the mean bytes of some images, and whether one is too large for a whole copy."""
        spread = np.linspace(0, len(self.source) - 1, min(_SAMPLED_IMAGES, len(self.source)))
        read = _Reader(self.source, self.short_px)
        chunks = [read([index]) for index in spread.astype(int).tolist()]
        mean_bytes = float(np.mean([len(pixels) for pixels, *_ in chunks]))
        return mean_bytes, self.whole_only and any(some_shrunk for *_, some_shrunk in chunks)

    def _check_room(self, folder: Path, mean_bytes: float) -> None:
        needed, free = mean_bytes * len(self.source), shutil.disk_usage(folder).free
        if needed > free:
            figures = (
                f"needs {needed / _GIB:.1f} GiB in {folder}, which has {free / _GIB:.1f} GiB free"
            )
            cure = "make room, name another folder with --cache DIR, or do without"
            raise RunError(f"the cache of the {self.part} images {figures}; {cure}")

    def _chunks(self, mean_bytes: float) -> Iterator[_Chunk]:
        size = int(np.clip(_CHUNK_BYTES / max(1.0, mean_bytes), 1, 256))
        numbers = range(len(self.source))
        pool: WorkerPool[list[int], _Chunk] = WorkerPool(
            _Reader(self.source, self.short_px), self.workers
        )
        try:
            yield from pool.results(list(numbers[k : k + size]) for k in numbers[::size])
        finally:
            pool.close()


@dataclass(frozen=True)
class _Reader:
    """Reads images: their pixels one after another, (width, height) of each, bad ones, any shrunk."""

    source: ImageSource
    short_px: int

    def __call__(self, indices: list[int]) -> _Chunk:
        found: list[Unreadable] = []
        images = read_or_note(self._read, indices, found)
        read = [image for image in images if image is not None]
        pixels = np.frombuffer(bytearray().join(data for data, _, _ in read), np.uint8)
        sizes = [(0, 0) if image is None else image[1] for image in images]
        return torch.from_numpy(pixels), sizes, found, any(is_shrunk for *_, is_shrunk in read)

    def _read(self, index: int) -> tuple[bytes, tuple[int, int], bool]:
        image, size = load_at_most(self.source, index, self.short_px)
        return image.tobytes(), image.size, image.size != size


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let the signals that stop a job do so at once: a run takes note of them only between steps."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers: dict[signal.Signals, Callable[[int, FrameType | None], NoReturn]] = {
        signal.SIGINT: _interrupt,
        signal.SIGTERM: _terminate,
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _interrupt(number: int, _: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _terminate(number: int, _: FrameType | None) -> NoReturn:
    tell_at_once("autoprog: stopped by SIGTERM while the cache was built")
    raise SystemExit(128 + number)
