"""The feed of images that can be read in any order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from autoprog.errors import RunError
from autoprog.settings import RunSettings
from autoprog.train.data import (
    BadImages,
    Batch,
    Cell,
    ImageSource,
    OpenedData,
    TrainLoader,
    TransformSettings,
    cache_batches,
    eval_batches,
    resolve_workers,
    stratified_holdout,
    whole_of,
)

__all__ = ["PROBE_IMAGES", "MapFeed", "Place", "most_held_out"]

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
        cap = most_held_out(settings, self.num_images)
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
        share = self._evaluated[self._place.rank :: self._place.world_size]
        return eval_batches(
            self._val, self._transform, self._full_px, self._batch_size, self._val_workers, share
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


def most_held_out(settings: RunSettings, num_images: int) -> int:
    """Return how many training images may be held out for the estimates of a search; 0 without one."""
    if settings.search is None:
        return 0
    run_images = settings.recipe.epochs * num_images
    return settings.search.images_to_estimate(run_images)
