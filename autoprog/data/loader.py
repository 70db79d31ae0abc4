"""Batches for evaluation: fixed order, nothing random."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from autoprog.data.batch_augment import BatchAugment, can_augment_by_batch
from autoprog.data.cache import CachedSource
from autoprog.data.decode import (
    NO_IMAGES,
    BadImages,
    Delivery,
    Unreadable,
    read_or_note,
    stand_ins,
    validation_refusal,
)
from autoprog.data.images import ImageSource
from autoprog.data.loader_workers import WorkerPool
from autoprog.data.sampler import Sample, SampleStream, plan_batches, seed_sample
from autoprog.data.transforms import (
    THUMBNAIL_PX,
    InputConfig,
    TransformSettings,
    eval_transform,
    normalize_,
    train_transform,
)
from autoprog.errors import ResumableError, RunError

__all__ = ["Batch", "TrainLoader", "eval_batches"]


# --------------------------------------------------------------------------------------------------
# The training loader: augmented batches, bit-exact whatever the number of workers or restarts.


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

    def _load(self, index: int, config: InputConfig, draw: int) -> tuple[Tensor, int]:
        image, target = self._source.load(index)
        seed_sample(self._seed, draw, index)
        return train_transform(config, self._settings)(image), target


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
        images = self._augment(indices, passes, samples[0][1])  # one config a batch
        return images, torch.from_numpy(self._source.targets[indices]), unreadable


def _augmented(
    source: ImageSource, settings: TransformSettings, seed: int
) -> Callable[[list[Sample]], Delivery]:
    if isinstance(source, CachedSource) and can_augment_by_batch(source, settings):
        return _AugmentedThumbnails(source, settings, seed)
    return _Augmented(source, settings, seed)


class TrainLoader:
    """Batches of augmented training images, by sample number.

    The images depend on (seed, pass, index, config) alone: not on the number of workers, the rank
    or where the stream was entered. Workers live until :meth:`close`, over changes of stage, config
    and batch size. With workers the generators of this process are left untouched. With 0 workers
    they are reseeded for each image and not restored, so seed them after fetching a batch.

    In the place of an image that cannot be read comes, once more, the next one of this process's
    fraction of the batch that can.

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
        config_at: Callable[[int], InputConfig],
    ) -> Iterator[Batch]:
        """Return an iterator over ``steps`` batches; with workers they start at once.

        The iterator of an earlier call must not be used any more.

        Args:
            indices: The images to train on.
            first_sample: Number of the first sample of the first batch, over the run.
            batch_size: Over all ranks; this rank gets its contiguous share.
            steps: Number of batches.
            config_at: The config of batch k of this call, k from 0. Called ahead of the batches
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
            self._checked(config_at),
            self._rank,
            self._world_size,
        )
        return self._deliver(self._pool.results(plan))

    def close(self) -> None:
        """End the workers."""
        self._pool.close()

    def _checked(self, config_at: Callable[[int], InputConfig]) -> Callable[[int], InputConfig]:
        """Build each config's transform here as well, so that a bad one raises in this process."""

        def checked(step: int) -> InputConfig:
            config = config_at(step)
            train_transform(config, self._settings)
            return config

        return checked

    def _deliver(self, deliveries: Iterator[Delivery]) -> Iterator[Batch]:
        for images, targets, unreadable in deliveries:
            self._bad_images.add(unreadable)
            if len(targets) == 0:
                raise RunError(f"{unreadable[-1].reason}; nor can any other of its batch")
            yield images, targets


def eval_batches(
    source: ImageSource,
    settings: TransformSettings,
    img_size: int,
    batch_size: int,
    workers: int,
    indices: np.ndarray | None = None,
    bad_images: BadImages | None = None,
) -> Iterator[Batch]:
    """Yield (images float32 B x 3 x H x W, targets int64 B) in order; the last may be smaller.

    Takes nothing from the random generators of this process.

    Args:
        source: The images.
        settings: Their normalisation, interpolation and ``crop_pct``.
        img_size: Side of the images, in pixels.
        batch_size: Of this process; divide ``indices`` among ranks beforehand.
        workers: Number of worker processes, started anew for each call.
        indices: Which images; all of them by default.
        bad_images: Counts unreadable images, which are left out; by default the first one stops
            the run, since without it a figure would be about other images.

    Raises:
        RunError: An image cannot be read, or too many cannot.
        WorkerDiedError: A worker is dead.
    """
    chosen = np.arange(len(source)) if indices is None else indices
    pool = WorkerPool(_Prepared(source, settings, img_size), workers)
    parts = (
        chosen[start : start + batch_size].tolist() for start in range(0, len(chosen), batch_size)
    )
    try:
        for images, targets, unreadable in pool.results(parts):
            if bad_images is not None:
                bad_images.add(unreadable)
            elif unreadable:
                raise ResumableError(validation_refusal(unreadable))
            if len(targets):
                yield images, targets
    finally:
        pool.close()


class _Prepared:
    """Prepares whole batches: the numbers of images in, their tensors out."""

    def __init__(self, source: ImageSource, settings: TransformSettings, img_size: int) -> None:
        self._source, self._settings, self._img_size = source, settings, img_size

    def __call__(self, indices: list[int]) -> Delivery:
        source, px = self._source, self._img_size
        if (
            isinstance(source, CachedSource)
            and source.are_thumbnails
            and source.one_size == (px, px)
            and px <= THUMBNAIL_PX
        ):
            return self._as_they_are(source, indices)
        transform = eval_transform(px, self._settings)
        unreadable: list[Unreadable] = []
        pairs = [
            pair for pair in read_or_note(source.load, indices, unreadable) if pair is not None
        ]
        if not pairs:
            return *NO_IMAGES, unreadable
        images = torch.stack([transform(image) for image, _ in pairs])
        return images, torch.tensor([target for _, target in pairs]), unreadable

    def _as_they_are(self, source: CachedSource, indices: list[int]) -> Delivery:
        """Return thumbnails that have the size already: the same as one by one, only faster."""
        unreadable = source.unreadable_of(indices)
        bad = {index for index, _ in unreadable}
        kept = np.array([index for index in indices if index not in bad], dtype=np.int64)
        if len(kept) == 0:
            return *NO_IMAGES, unreadable
        pixels = torch.from_numpy(source.gather(kept)[0])
        images = pixels.permute(0, 3, 1, 2).to(torch.float32).contiguous()
        normalize_(images, self._settings.mean, self._settings.std)
        return images, torch.from_numpy(source.targets[kept]), unreadable
