"""What a run is fed with: training batches by step, validation, the held-out slice, a probe batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from autoprog.settings import DataSettings, RunSettings
from autoprog.train.data import (
    Batch,
    CacheSettings,
    Cell,
    DataSource,
    ImageSource,
    OpenedData,
    SlicedSource,
    StreamSource,
    TransformSettings,
    open_cached,
    open_source,
    sliced,
    whole_of,
)
from autoprog.train.data.cache.progress import Progress, progress_on_stderr
from autoprog.train.map_feed import MapFeed, Place
from autoprog.train.stream_feed import StreamFeed

__all__ = ["Feed", "MapFeed", "StreamFeed", "open_data", "open_feed"]


class Feed(Protocol):
    """The images of a run. Batches are (B, 3, H, W) float32 and (B,) int64, on the CPU.

    ``num_images`` are those of the training set, ``workers`` is the number of loader processes of each rank.
    """

    class_names: tuple[str, ...]
    num_classes: int
    num_images: int
    num_validation_images: int
    workers: int

    def batches(
        self,
        first_sample: int,
        batch_size: int,
        steps: int,
        cell_at: Callable[[int], Cell],
        held_out: bool,
    ) -> Iterator[Batch]:
        """Return `steps` training batches of `batch_size` over all ranks, the k-th in ``cell_at(k)``.

        They begin at `first_sample` of the run. With `held_out`, the slice that serves the search is
        kept out of them.
        """

    def validation(self) -> Iterator[Batch]:
        """Return this rank's share of the validation set, at the full image size; may be empty.

        The shares of all ranks are the whole set, each image once.
        """

    def held_out_batches(self) -> list[Batch]:
        """Return the whole held-out slice at the full image size, the same objects at each call."""

    def probe(self) -> Batch:
        """Return some training images without augmentation, at the full image size.

        They are the same on all ranks.
        """

    def complaints(self) -> list[str]:
        """Return a line for each unreadable image that is new since the last call."""

    def close(self) -> None:
        """End the workers."""


def open_data(data: DataSettings) -> OpenedData:
    """Open the data that the settings name.

    Raises:
        ConfigError: If it is missing, empty or inconsistent.
    """
    named = data.model_dump(exclude={"share", "on_held_out"})
    opened = open_source(DataSource(**named))
    if data.share == 1 and not data.on_held_out:
        return opened
    return sliced(opened, data.share, data.on_held_out)


def open_feed(
    opened: OpenedData,
    transform: TransformSettings,
    settings: RunSettings,
    pin_memory: bool,
    rank: int = 0,
    world_size: int = 1,
    local_world_size: int = 1,
    progress: Progress = progress_on_stderr,
) -> Feed:
    """Return the feed of a run over opened data; with ``cache``, or of images in memory, from decoded ones.

    Where the cache is missing or out of date one process of a machine builds it, while the others
    wait. Streams are never cached, nor are validation images where one is too large to be kept whole.

    Args:
        opened: Both parts.
        transform: What stays fixed over the run.
        settings: Of the run.
        pin_memory: Put batches into page-locked memory, for CUDA.
        rank: Of this process.
        world_size: Processes that train together.
        local_world_size: Those of them on this machine, which share its cores.
        progress: Is shown how far the building of the cache is.

    Raises:
        RunError: The cache cannot be built.
    """
    train, val = opened.train, opened.val
    place = Place(rank, world_size, local_world_size)
    if isinstance(train, StreamSource):
        assert isinstance(val, StreamSource)
        return StreamFeed(opened, train, val, transform, settings, pin_memory, place)
    assert not isinstance(val, StreamSource)
    if settings.cache is not None or whole_of(train)[0].in_memory:
        full_px, limit = settings.model.img_size, settings.max_bad_images
        folder = settings.cache or "auto"  # nothing is written of what is in memory
        cache = CacheSettings(folder, full_px, settings.workers, limit, progress)
        train, val = _cached(train, val, cache, settings.data.on_held_out)
    return MapFeed(opened, train, val, transform, settings, pin_memory, place)


def _cached(
    train: ImageSource, val: ImageSource, cache: CacheSettings, on_held_out: bool
) -> tuple[ImageSource, ImageSource]:
    """Return both parts from decoded images; slices are slices of what is decoded as a whole."""
    whole, indices = whole_of(train)
    decoded = open_cached(whole, "training", cache)
    cut = SlicedSource(decoded, indices) if whole is not train else decoded
    if on_held_out and isinstance(val, SlicedSource):
        return cut, SlicedSource(decoded, val.indices)
    return cut, open_cached(val, "validation", cache, exact=True)
