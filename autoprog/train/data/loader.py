"""The training loader: augmented batches, bit-exact whatever the number of workers or restarts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from autoprog.errors import RunError
from autoprog.train.data.bad_images import (
    NO_IMAGES,
    BadImages,
    Delivery,
    Unreadable,
    read_or_note,
    stand_ins,
)
from autoprog.train.data.batchwise.augment import BatchAugment, can_augment_by_batch
from autoprog.train.data.cache.source import CachedSource
from autoprog.train.data.images import ImageSource
from autoprog.train.data.sampler import Sample, SampleStream, plan_batches, seed_sample
from autoprog.train.data.transforms import Cell, TransformSettings, train_transform
from autoprog.train.data.workers import WorkerPool

__all__ = ["Batch", "TrainLoader"]

Batch: TypeAlias = tuple[Tensor, Tensor]
"""(images float32 B x 3 x H x W, targets int64 B)."""


class _Augmented:
    """Augments whole batches: a batch of samples in, its tensors out."""

    def __init__(self, source: ImageSource, settings: TransformSettings, seed: int) -> None:
        self._source, self._settings, self._seed = source, settings, seed

    def __call__(self, samples: list[Sample]) -> Delivery:
        found: list[Unreadable] = []
        pairs = read_or_note(lambda place: self._load(*samples[place]), range(len(samples)), found)
        unreadable = [Unreadable(samples[place][0], reason) for place, reason in found]
        kept = [
            pair
            for place in stand_ins(np.array([pair is not None for pair in pairs]))
            if (pair := pairs[place]) is not None
        ]
        if not kept:
            return *NO_IMAGES, unreadable
        targets = torch.tensor([target for _, target in kept])
        return torch.stack([image for image, _ in kept]), targets, unreadable

    def _load(self, index: int, cell: Cell, draw: int) -> tuple[Tensor, int]:
        image, target = self._source.load(index)
        seed_sample(self._seed, draw, index)
        return train_transform(cell, self._settings)(image), target


class _AugmentedThumbnails:
    """The same for decoded thumbnails, which are augmented together."""

    def __init__(self, source: CachedSource, settings: TransformSettings, seed: int) -> None:
        self._source, self._augment = source, BatchAugment(source, settings, seed)

    def __call__(self, samples: list[Sample]) -> Delivery:
        unreadable = self._source.unreadable_of(index for index, _, _ in samples)
        bad = {index for index, _ in unreadable}
        places = stand_ins(np.array([index not in bad for index, _, _ in samples]))
        if len(places) == 0:
            return *NO_IMAGES, unreadable
        indices = np.array([index for index, _, _ in samples], dtype=np.int64)[places]
        passes = np.array([draw for _, _, draw in samples], dtype=np.int64)[places]
        images = self._augment(indices, passes, samples[0][1])  # one cell a batch
        return images, torch.from_numpy(self._source.targets[indices]), unreadable


def _augmented(
    source: ImageSource, settings: TransformSettings, seed: int
) -> Callable[[list[Sample]], Delivery]:
    if isinstance(source, CachedSource) and can_augment_by_batch(source, settings):
        return _AugmentedThumbnails(source, settings, seed)
    return _Augmented(source, settings, seed)


class TrainLoader:
    """Batches of augmented training images, by sample number.

    The images depend on (seed, pass, index, cell) alone: not on the number of workers, the rank
    or where the stream was entered. Workers live until :meth:`close`, over changes of stage, cell
    and batch size. With workers the generators of this process are left untouched. With 0 workers
    they are reseeded for each image and not restored, so seed them after fetching a batch.

    In the place of an image that cannot be read comes, once more, the next one of this process's
    share of the batch that can.

    Args:
        source: The images.
        settings: What stays fixed over the run.
        seed: At least 0.
        workers: Number of worker processes; 0 augments in this process, at each ``next``.
        rank: Of this process.
        world_size: Number of processes that share each batch.
        pin_memory: Put batches into page-locked memory, for CUDA.
        bad_images: Counts unreadable images; by default the first one stops the run.
    """

    def __init__(
        self,
        source: ImageSource,
        settings: TransformSettings,
        seed: int,
        workers: int,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
        bad_images: BadImages | None = None,
    ) -> None:
        self._settings, self._seed = settings, seed
        self._bad_images = BadImages(0) if bad_images is None else bad_images
        self._rank, self._world_size = rank, world_size
        self._pool: WorkerPool[list[Sample], Delivery] = WorkerPool(
            _augmented(source, settings, seed), workers, pin_memory
        )

    def batches(
        self,
        indices: np.ndarray,
        first_sample: int,
        batch_size: int,
        steps: int,
        cell_at: Callable[[int], Cell],
    ) -> Iterator[Batch]:
        """Return an iterator over ``steps`` batches; with workers they start at once.

        The iterator of an earlier call must not be used any more.

        Args:
            indices: The images to train on.
            first_sample: Number of the first sample of the first batch, over the run.
            batch_size: Over all ranks; this rank gets its contiguous share.
            steps: Number of batches.
            cell_at: The cell of batch k of this call, k from 0. Called ahead of the batches
                that are delivered.

        Raises:
            ConfigError: timm refuses an augmentation string; with workers it may come early.
            RunError: Too many images cannot be read, or none of a batch can; raised when the
                batch is fetched.
            WorkerDiedError: When a batch is fetched or waited for.
        """
        stream = SampleStream(indices, self._seed)
        plan = plan_batches(
            stream,
            first_sample,
            batch_size,
            steps,
            self._checked(cell_at),
            self._rank,
            self._world_size,
        )
        return self._deliver(self._pool.results(plan))

    def close(self) -> None:
        """End the workers."""
        self._pool.close()

    def _checked(self, cell_at: Callable[[int], Cell]) -> Callable[[int], Cell]:
        """Build each cell's transform here as well, so that a bad one raises in this process."""

        def checked(step: int) -> Cell:
            cell = cell_at(step)
            train_transform(cell, self._settings)
            return cell

        return checked

    def _deliver(self, deliveries: Iterator[Delivery]) -> Iterator[Batch]:
        for images, targets, unreadable in deliveries:
            self._bad_images.add(unreadable)
            if len(targets) == 0:
                raise RunError(f"{unreadable[-1].reason}; nor can any other of its batch")
            yield images, targets
