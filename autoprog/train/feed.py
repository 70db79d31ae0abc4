"""What a run is fed with: training batches by step, validation, the held-out slice, a probe batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Protocol

import numpy as np

from autoprog.settings import DataSettings, RunSettings
from autoprog.train.data import (
    Batch,
    Cell,
    DataSource,
    ImageSource,
    OpenedData,
    Part,
    StreamLoader,
    StreamSource,
    TrainLoader,
    TransformSettings,
    cache_batches,
    eval_batches,
    open_source,
    resolve_workers,
    stratified_holdout,
)

__all__ = ["Feed", "MapFeed", "StreamFeed", "open_data", "open_feed"]

PROBE_IMAGES = 64


class Feed(Protocol):
    """The images of a run. Batches are (B, 3, H, W) float32 and (B,) int64, on the CPU."""

    num_classes: int
    num_images: int

    def batches(
        self, first_step: int, steps: int, cell_at: Callable[[int], Cell], held_out: bool
    ) -> Iterator[Batch]:
        """Return training batches from `first_step` on, the k-th in ``cell_at(k)``.

        With `held_out`, the slice that serves the search is kept out of them.
        """

    def validation(self) -> Iterator[Batch]:
        """Return the validation set at the full image size."""

    def held_out_batches(self) -> list[Batch]:
        """Return the held-out slice at the full image size, the same objects at each call."""

    def probe(self) -> Batch:
        """Return some training images without augmentation, at the full image size."""

    def close(self) -> None:
        """End the workers."""


class MapFeed:
    """Images that can be read in any order: exact whatever the workers and wherever a run resumes."""

    def __init__(
        self,
        opened: OpenedData,
        train: ImageSource,
        val: ImageSource,
        transform: TransformSettings,
        settings: RunSettings,
        pin_memory: bool,
    ) -> None:
        self.num_classes, self.num_images = len(opened.class_names), len(train)
        self._train, self._val, self._transform = train, val, transform
        self._batch_size, self._full_px = settings.recipe.batch_size, settings.model.img_size
        self._workers = resolve_workers(settings.workers, train)
        self._all = np.arange(len(train))
        cap = settings.search.space.decisions.estimate_images if settings.search else 0
        self._kept, self._held = stratified_holdout(train.targets, settings.seed, cap=cap)
        self._loader = TrainLoader(
            train, transform, settings.seed, self._workers, pin_memory=pin_memory
        )

    def batches(
        self, first_step: int, steps: int, cell_at: Callable[[int], Cell], held_out: bool
    ) -> Iterator[Batch]:
        """Return training batches; see :class:`Feed`."""
        indices = self._kept if held_out else self._all
        first_sample = first_step * self._batch_size
        return self._loader.batches(indices, first_sample, self._batch_size, steps, cell_at)

    def validation(self) -> Iterator[Batch]:
        """Return the validation set at the full image size."""
        return eval_batches(
            self._val, self._transform, self._full_px, self._batch_size, self._workers
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
        spread = np.linspace(0, len(self._train) - 1, min(PROBE_IMAGES, len(self._train)))
        return self._cache(spread.astype(np.int64), PROBE_IMAGES)[0]

    def close(self) -> None:
        """End the workers."""
        self._loader.close()

    def _cache(self, indices: np.ndarray, batch_size: int) -> list[Batch]:
        return cache_batches(self._train, self._transform, self._full_px, batch_size, 0, indices)


def _even_batch_size(num_images: int) -> int:
    """Return the size of at least 8 batches of nearly equal weight, of at most 64 images each."""
    return max(1, -(-num_images // max(8, -(-num_images // PROBE_IMAGES))))


class StreamFeed:
    """Images that come in the reader's order: a resume starts at the beginning of its epoch."""

    def __init__(
        self,
        opened: OpenedData,
        train: StreamSource,
        val: StreamSource,
        transform: TransformSettings,
        settings: RunSettings,
        pin_memory: bool,
    ) -> None:
        self.num_classes, self.num_images = len(opened.class_names), len(train)
        self._batch_size, self._full_px = settings.recipe.batch_size, settings.model.img_size
        self._cap = settings.search.space.decisions.estimate_images if settings.search else 0
        workers = resolve_workers(settings.workers, train)
        self._loader, self._val_loader = (
            StreamLoader(source, transform, settings.seed, workers, pin_memory=pin_memory)
            for source in (train, val)
        )

    def batches(
        self, first_step: int, steps: int, cell_at: Callable[[int], Cell], held_out: bool
    ) -> Iterator[Batch]:
        """Return training batches at the largest size asked for; the network resizes them as it needs."""
        cell = max((cell_at(k) for k in range(steps)), key=lambda cell: cell.img_size)
        first_pass = first_step * self._batch_size // max(1, self.num_images)
        part: Part = "training" if held_out else "all"
        return self._loader.batches(first_pass, self._batch_size, steps, cell, part)

    def validation(self) -> Iterator[Batch]:
        """Return the validation set at the full image size."""
        return self._val_loader.eval_batches(self._full_px, self._batch_size)

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

    def close(self) -> None:
        """Do nothing: workers end with each pass."""


def open_data(data: DataSettings) -> OpenedData:
    """Open the data that the settings name.

    Raises:
        ConfigError: If it is missing, empty or inconsistent.
    """
    return open_source(DataSource(**data.model_dump()))


def open_feed(
    opened: OpenedData, transform: TransformSettings, settings: RunSettings, pin_memory: bool
) -> Feed:
    """Return the feed of a run over opened data."""
    train, val = opened.train, opened.val
    if isinstance(train, StreamSource):
        assert isinstance(val, StreamSource)
        return StreamFeed(opened, train, val, transform, settings, pin_memory)
    assert not isinstance(val, StreamSource)
    return MapFeed(opened, train, val, transform, settings, pin_memory)
