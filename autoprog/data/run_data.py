"""What a run is fed with: training batches by step, validation, the held-out slice, a probe batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from autoprog.data.cache import CacheSettings, open_cached
from autoprog.data.decode import BadImages
from autoprog.data.images import ImageSource, SlicedSource, stratified_holdout, whole_of
from autoprog.data.loader import Batch, TrainLoader, cache_batches, eval_batches
from autoprog.data.loader_workers import resolve_workers
from autoprog.data.progress import Progress, progress_on_stderr
from autoprog.data.sources import DataSource, OpenedData, open_source, sliced
from autoprog.data.stream import Part, StreamLoader, StreamSource
from autoprog.data.transforms import Cell, TransformSettings
from autoprog.errors import RunError
from autoprog.settings import DataSettings, RunSettings

__all__ = [
    "PROBE_IMAGES",
    "Feed",
    "MapFeed",
    "Place",
    "StreamFeed",
    "max_held_out",
    "open_data",
    "open_feed",
]


# --------------------------------------------------------------------------------------------------
# The feed of images that can be read in any order.


PROBE_IMAGES = 64


@dataclass(frozen=True)
class Place:
    """The place of this process among those that train together."""

    rank: int
    world_size: int
    local_world_size: int


class MapFeed:
    """Images that can be read in any order: exact whatever the workers and wherever a run resumes.

    Unreadable training images are skipped, up to ``max_bad_images`` distinct ones that this rank
    meets, also in the held-out slice and the probe. One in the validation set stops the run.
    """

    def __init__(
        self,
        opened: OpenedData,
        train: ImageSource,
        val: ImageSource,
        transform: TransformSettings,
        settings: RunSettings,
        pin_memory: bool,
        place: Place,
    ) -> None:
        self.class_names, self.num_images = opened.class_names, len(train)
        self.num_classes = len(opened.class_names)
        train, self._all = whole_of(train)
        self._val, self._evaluated = whole_of(val)
        self.num_validation_images = len(self._evaluated)
        self._train, self._transform = train, transform
        self._place, self._bad_images = place, BadImages(settings.max_bad_images)
        self._batch_size, self._full_px = settings.recipe.batch_size, settings.model.img_size
        self.workers, self._val_workers = (
            resolve_workers(settings.workers, source, place.local_world_size, pin_memory)
            for source in (train, self._val)
        )
        cap = max_held_out(settings, self.num_images)
        targets = train.targets[self._all]
        kept, held = stratified_holdout(targets, settings.seed, cap=cap)
        self._kept, self._held = self._all[kept], self._all[held]
        self._loader = TrainLoader(
            train,
            transform,
            settings.seed,
            self.workers,
            place.rank,
            place.world_size,
            pin_memory,
            self._bad_images,
        )

    def batches(
        self,
        first_sample: int,
        batch_size: int,
        steps: int,
        cell_at: Callable[[int], Cell],
        held_out: bool,
    ) -> Iterator[Batch]:
        """Return training batches; see :class:`Feed`."""
        indices = self._kept if held_out else self._all
        return self._loader.batches(indices, first_sample, batch_size, steps, cell_at)

    def validation(self) -> Iterator[Batch]:
        """Return every so many-th image of the validation set; see :class:`Feed`."""
        fraction = self._evaluated[self._place.rank :: self._place.world_size]
        return eval_batches(
            self._val, self._transform, self._full_px, self._batch_size, self._val_workers, fraction
        )

    def held_out_batches(self) -> list[Batch]:
        """Return the held-out slice at the full image size."""
        return self._held_out_batches

    @cached_property
    def _held_out_batches(self) -> list[Batch]:
        return self._cache(self._held, _even_batch_size(len(self._held)))

    def probe(self) -> Batch:
        """Return the first images of the training set."""
        return self._probe

    @cached_property
    def _probe(self) -> Batch:
        spread = np.linspace(0, self.num_images - 1, min(PROBE_IMAGES, self.num_images))
        return self._cache(self._all[spread.astype(np.int64)], PROBE_IMAGES)[0]

    def complaints(self) -> list[str]:
        """Return new messages about unreadable images; see :class:`Feed`."""
        return self._bad_images.complaints()

    def close(self) -> None:
        """End the workers."""
        self._loader.close()

    def _cache(self, indices: np.ndarray, batch_size: int) -> list[Batch]:
        if len(indices) == 0:
            return []
        batches = cache_batches(
            self._train, self._transform, self._full_px, batch_size, 0, indices, self._bad_images
        )
        if not batches:
            raise RunError(
                f"{self._train.name(int(indices[-1]))}: no image of its slice is readable"
            )
        return batches


def _even_batch_size(num_images: int) -> int:
    """Return the size of at least 8 batches of nearly equal weight, of at most 64 images each."""
    return max(1, -(-num_images // max(8, -(-num_images // PROBE_IMAGES))))


def max_held_out(settings: RunSettings, num_images: int) -> int:
    """Return how many training images may be held out for the estimates of a search; 0 without one."""
    if settings.search is None:
        return 0
    run_images = settings.recipe.epochs * num_images
    return settings.search.images_to_estimate(run_images)


# --------------------------------------------------------------------------------------------------
# The feed of images that come in the order of their reader.


class StreamFeed:
    """Images that come in the reader's order: a resume starts at the beginning of its epoch.

    Ranks: in training timm's reader gives each rank its part of the shards. All that is evaluated
    is read whole by every rank, since the readers repeat or drop images to make the ranks' numbers
    equal; of the validation set a rank then passes on its fraction, each image once over all ranks.

    Unreadable images are the reader's business: wds logs and skips them, tfds and hfids stop.
    """

    def __init__(
        self,
        opened: OpenedData,
        train: StreamSource,
        val: StreamSource,
        transform: TransformSettings,
        settings: RunSettings,
        pin_memory: bool,
        place: Place,
    ) -> None:
        self.class_names, self.num_images = opened.class_names, len(train)
        self.num_classes = len(opened.class_names)
        self.num_validation_images = len(val)
        self._batch_size, self._full_px = settings.recipe.batch_size, settings.model.img_size
        self._cap = max_held_out(settings, len(train))
        workers = resolve_workers(settings.workers, train, place.local_world_size)
        self.workers = workers
        fixed = transform, settings.seed, workers, place.world_size, pin_memory, place.rank
        self._loader, self._val_loader = (StreamLoader(source, *fixed) for source in (train, val))

    def batches(
        self,
        first_sample: int,
        batch_size: int,
        steps: int,
        cell_at: Callable[[int], Cell],
        held_out: bool,
    ) -> Iterator[Batch]:
        """Return training batches at the largest size asked for; the network resizes them as it needs."""
        ahead = range(min(steps, 1000))  # nobody knows how many steps a time budget allows
        cell = max((cell_at(k) for k in ahead), key=lambda cell: cell.img_size)
        first_pass = first_sample // max(1, self.num_images)
        part: Part = "training" if held_out else "all"
        return self._loader.batches(first_pass, batch_size, steps, cell, part)

    def validation(self) -> Iterator[Batch]:
        """Return this rank's fraction of the validation set; see :class:`Feed`."""
        return self._val_loader.eval_batches(self._full_px, self._batch_size, divided=True)

    def held_out_batches(self) -> list[Batch]:
        """Return the held-out slice at the full image size."""
        return self._held_out_batches

    @cached_property
    def _held_out_batches(self) -> list[Batch]:
        return list(
            self._loader.eval_batches(self._full_px, PROBE_IMAGES, "held_out", limit=self._cap)
        )

    def probe(self) -> Batch:
        """Return the first images of the training set."""
        return self._probe

    @cached_property
    def _probe(self) -> Batch:
        return next(self._loader.eval_batches(self._full_px, PROBE_IMAGES, limit=PROBE_IMAGES))

    def complaints(self) -> list[str]:
        """Return nothing: readers tell nobody what they skip."""
        return []

    def close(self) -> None:
        """Do nothing: workers end with each pass."""


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
        """Return this rank's fraction of the validation set, at the full image size; may be empty.

        The fractions of all ranks are the whole set, each image once.
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
    named = data.model_dump(exclude={"fraction", "on_held_out"})
    opened = open_source(DataSource(**named))
    if data.fraction == 1 and not data.on_held_out:
        return opened
    return sliced(opened, data.fraction, data.on_held_out)


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
