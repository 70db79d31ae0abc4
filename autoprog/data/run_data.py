"""The data of a run: training batches by step, validation, the held-out slice, a probe batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from autoprog.data.batches import BadImages, Batch
from autoprog.data.cache import CacheSettings, open_cached
from autoprog.data.dataset import OpenedData
from autoprog.data.image_sources import ImageSource, SlicedSource, stratified_holdout, whole_of
from autoprog.data.loader import TrainLoader, eval_batches
from autoprog.data.progress import Progress, progress_on_stderr
from autoprog.data.stream import Part, StreamLoader, StreamSource
from autoprog.data.transforms import InputConfig, TransformSettings
from autoprog.data.workers import resolve_workers
from autoprog.errors import RunError
from autoprog.settings import RunSettings

__all__ = [
    "PROBE_IMAGES",
    "MapData",
    "Place",
    "RunData",
    "StreamData",
    "max_held_out",
    "open_run_data",
]

PROBE_IMAGES = 64


@dataclass(frozen=True)
class Place:
    """The place of this process among those that train together.

    Args:
        rank: Of this process.
        world_size: Processes that train together.
        local_world_size: Those of them on this machine, which share its cores.
    """

    rank: int = 0
    world_size: int = 1
    local_world_size: int = 1


ONE_PROCESS = Place()


def open_run_data(
    opened: OpenedData,
    transform: TransformSettings,
    settings: RunSettings,
    pin_memory: bool,
    place: Place = ONE_PROCESS,
    progress: Progress = progress_on_stderr,
) -> RunData:
    """Return the data of a run; with ``cache``, and of images in memory, batches of images decoded before.

    Where the cache is missing or out of date one process of a machine builds it, while the others
    wait. Streams are never cached, nor are validation images where one is too large to be kept whole.

    Args:
        opened: Both parts.
        transform: What stays fixed over the run.
        settings: Of the run.
        pin_memory: Put batches into page-locked memory, for CUDA.
        place: Of this process among those that train together.
        progress: Is shown how far the building of the cache is.

    Raises:
        RunError: The cache cannot be built.
    """
    train, val = opened.train, opened.val
    if isinstance(train, StreamSource):
        assert isinstance(val, StreamSource)
        return StreamData(opened, train, val, transform, settings, pin_memory, place)
    assert not isinstance(val, StreamSource)
    if settings.cache is not None or whole_of(train)[0].in_memory:
        full_px, limit = settings.model.img_size, settings.max_bad_images
        folder = settings.cache or "auto"  # nothing is written of what is in memory
        cache = CacheSettings(folder, full_px, settings.workers, limit, progress)
        # Slices are slices of what is decoded as a whole: one cache file serves runs on any fraction.
        whole, indices = whole_of(train)
        decoded = open_cached(whole, "training", cache)
        train = SlicedSource(decoded, indices) if whole is not train else decoded
        if settings.data.on_held_out and isinstance(val, SlicedSource):
            val = SlicedSource(decoded, val.indices)
        else:
            val = open_cached(val, "validation", cache, exact=True)
    return MapData(opened, train, val, transform, settings, pin_memory, place)


class RunData(ABC):
    """The images of a run. Batches are (B, 3, H, W) float32 and (B,) int64, on the CPU.

    ``num_images`` are those of the training set, ``workers`` is the number of loader processes of each rank.
    """

    def __init__(
        self, opened: OpenedData, settings: RunSettings, num_images: int, num_validation_images: int
    ) -> None:
        self.class_names = opened.class_names
        self.num_classes = len(opened.class_names)
        self.num_images, self.num_validation_images = num_images, num_validation_images
        self.workers = 0
        self._batch_size, self._full_px = settings.recipe.batch_size, settings.model.img_size

    @abstractmethod
    def batches(
        self,
        first_sample: int,
        batch_size: int,
        steps: int,
        config_at: Callable[[int], InputConfig],
        held_out: bool,
    ) -> Iterator[Batch]:
        """Return `steps` training batches of `batch_size` over all ranks, the k-th as ``config_at(k)`` says.

        They begin at `first_sample` of the run. With `held_out`, the slice that serves the search is
        kept out of them.
        """

    @abstractmethod
    def validation(self) -> Iterator[Batch]:
        """Return this rank's fraction of the validation set, at the full image size; may be empty.

        The fractions of all ranks are the whole set, each image once.
        """

    @property
    @abstractmethod
    def held_out_batches(self) -> list[Batch]:
        """The whole held-out slice at the full image size, the same objects at each call."""

    @property
    @abstractmethod
    def probe(self) -> Batch:
        """Some training images without augmentation, at the full image size; the same on all ranks."""

    def new_warnings(self) -> list[str]:
        """Return a line for each unreadable image that is new since the last call."""
        return []

    @abstractmethod
    def close(self) -> None:
        """End the workers."""


class MapData(RunData):
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
        # The loader reads the whole source by index, so that one pool of workers serves every slice of it.
        whole, self._all = whole_of(train)
        self._val, self._evaluated = whole_of(val)
        super().__init__(opened, settings, len(train), len(self._evaluated))
        self._train, self._transform = whole, transform
        self._place, self._bad_images = place, BadImages(settings.max_bad_images)
        self.workers, self._val_workers = (
            resolve_workers(settings.workers, source, place.local_world_size, pin_memory)
            for source in (whole, self._val)
        )
        cap = max_held_out(settings, self.num_images)
        kept, held = stratified_holdout(whole.targets[self._all], settings.seed, cap=cap)
        self._kept, self._held = self._all[kept], self._all[held]
        self._loader = TrainLoader(
            whole,
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
        config_at: Callable[[int], InputConfig],
        held_out: bool,
    ) -> Iterator[Batch]:
        """Return training batches; see :class:`RunData`."""
        indices = self._kept if held_out else self._all
        return self._loader.batches(indices, first_sample, batch_size, steps, config_at)

    def validation(self) -> Iterator[Batch]:
        """Return every so many-th image of the validation set; see :class:`RunData`."""
        own = self._evaluated[self._place.rank :: self._place.world_size]
        return eval_batches(
            self._val, self._transform, self._full_px, self._batch_size, self._val_workers, own
        )

    @cached_property
    def held_out_batches(self) -> list[Batch]:
        """The held-out slice at the full image size."""
        count = len(self._held)
        # At least 8 batches of nearly equal weight: the spread of their losses is the estimates' error.
        num_batches = max(8, -(-count // PROBE_IMAGES))
        return self._fixed_batches(self._held, max(1, -(-count // num_batches)))

    @cached_property
    def probe(self) -> Batch:
        """Training images evenly spread over the set, which class folders list class by class."""
        spread = np.linspace(0, self.num_images - 1, min(PROBE_IMAGES, self.num_images))
        return self._fixed_batches(self._all[spread.astype(np.int64)], PROBE_IMAGES)[0]

    def new_warnings(self) -> list[str]:
        """Return new messages about unreadable images; see :class:`RunData`."""
        return self._bad_images.new_warnings()

    def close(self) -> None:
        """End the workers."""
        self._loader.close()

    def _fixed_batches(self, indices: np.ndarray, batch_size: int) -> list[Batch]:
        """Return training images without augmentation; 12 bytes a pixel: 10,000 of 224 px are 6 GB."""
        batches = list(
            eval_batches(
                self._train,
                self._transform,
                self._full_px,
                batch_size,
                0,
                indices,
                self._bad_images,
            )
        )
        if len(indices) and not batches:
            raise RunError(
                f"{self._train.name(int(indices[-1]))}: no image of its slice is readable"
            )
        return batches


def max_held_out(settings: RunSettings, num_images: int) -> int:
    """Return how many training images may be held out for the estimates of a search; 0 without one."""
    if settings.search is None:
        return 0
    run_images = settings.recipe.epochs * num_images
    return settings.search.images_to_estimate(run_images)


class StreamData(RunData):
    """Images that come in the reader's order: a resume starts at the beginning of its epoch.

    Ranks: in training timm's reader gives each rank its part of the shards. All that is evaluated
    is read whole by every rank, since the readers repeat or drop images to make the ranks' numbers
    equal; of the validation set a rank then passes on its fraction, each image once over all ranks.

    Unreadable images are the reader's business: wds logs and skips them, tfds and hfids stop; so there are
    no complaints.
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
        super().__init__(opened, settings, len(train), len(val))
        self._cap = max_held_out(settings, len(train))
        self.workers = resolve_workers(settings.workers, train, place.local_world_size)
        fixed = transform, settings.seed, self.workers, place.world_size, pin_memory, place.rank
        self._loader, self._val_loader = (StreamLoader(source, *fixed) for source in (train, val))

    def batches(
        self,
        first_sample: int,
        batch_size: int,
        steps: int,
        config_at: Callable[[int], InputConfig],
        held_out: bool,
    ) -> Iterator[Batch]:
        """Return training batches at the largest size asked for; the network resizes them as it needs."""
        ahead = range(min(steps, 1000))  # nobody knows how many steps a time budget allows
        config = max((config_at(k) for k in ahead), key=lambda config: config.img_size)
        first_pass = first_sample // max(1, self.num_images)
        part: Part = "training" if held_out else "all"
        return self._loader.batches(first_pass, batch_size, steps, config, part)

    def validation(self) -> Iterator[Batch]:
        """Return this rank's fraction of the validation set; see :class:`RunData`."""
        return self._val_loader.eval_batches(self._full_px, self._batch_size, divided=True)

    @cached_property
    def held_out_batches(self) -> list[Batch]:
        """The held-out slice at the full image size."""
        return list(
            self._loader.eval_batches(self._full_px, PROBE_IMAGES, "held_out", limit=self._cap)
        )

    @cached_property
    def probe(self) -> Batch:
        """The first images of the training set."""
        return next(self._loader.eval_batches(self._full_px, PROBE_IMAGES, limit=PROBE_IMAGES))

    def close(self) -> None:
        """Do nothing: workers end with each pass."""
