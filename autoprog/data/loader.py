"""Batches of images: training batches by sample number, evaluation batches in order, and images read once.

Sample number q, counted from 0 over the run, belongs to pass q // n over the n training images and is number
q % n of that pass's permutation, a pure function of the seed. Nothing is dropped; a batch may straddle two
passes. So a resume needs the number of the next sample alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from autoprog.data.batch_augment import BatchAugment
from autoprog.data.batch_crops import FILTERS
from autoprog.data.batches import (
    NO_IMAGES,
    BadImages,
    Batch,
    Delivery,
    Unreadable,
    read_each,
    replacement_places,
    validation_refusal,
)
from autoprog.data.cache import CachedSource
from autoprog.data.image_sources import ImageSource
from autoprog.data.progress import Progress
from autoprog.data.transforms import (
    THUMBNAIL_PX,
    InputConfig,
    TransformSettings,
    eval_transform,
    normalize_,
    seed_sample,
    train_transform,
)
from autoprog.data.workers import WorkerPool
from autoprog.errors import ResumableError, RunError

__all__ = [
    "CheckedImages",
    "Sample",
    "SampleStream",
    "TrainLoader",
    "can_augment_by_batch",
    "check_images",
    "eval_batches",
    "plan_batches",
]

# (index of the image, size and augmentation, pass number).
Sample: TypeAlias = tuple[int, InputConfig, int]

# Images that a worker checks before it reports, and seconds after which a check shows how far it is.
_CHECKED_AT_ONCE, _QUIET_SECONDS = 16, 2.0


class TrainLoader:
    """Batches of augmented training images, by sample number.

    The images depend on (seed, pass, index, config) alone: not on the number of workers, the rank
    or where the stream was entered. Workers live until :meth:`close`, over changes of stage, config
    and batch size. With workers the generators of this process are left alone. With 0 workers
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
        augment: _AugmentTogether | _AugmentEach = _AugmentEach(source, settings, seed)
        if isinstance(source, CachedSource) and can_augment_by_batch(source, settings):
            augment = _AugmentTogether(source, settings, seed)
        self._pool: WorkerPool[list[Sample], Delivery] = WorkerPool(augment, workers, pin_memory)

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
            batch_size: Over all ranks; this rank gets its contiguous part.
            steps: Number of batches.
            config_at: The config of batch k of this call, k from 0. Called ahead of the batches
                that are delivered.

        Raises:
            ConfigError: timm refuses an augmentation string; with workers it may come early.
            RunError: Too many images cannot be read, or none of a batch can; raised when the
                batch is fetched.
            WorkerDiedError: When a batch is fetched or waited for.
        """

        def checked(step: int) -> InputConfig:
            config = config_at(step)
            train_transform(config, self._settings)  # so that a bad one raises in this process
            return config

        stream, rank, world_size = SampleStream(indices, self._seed), self._rank, self._world_size
        plan = plan_batches(stream, first_sample, batch_size, steps, checked, rank, world_size)
        # Not within a generator, which would start the workers with the first batch that is asked for.
        return self._deliver(self._pool.results(plan))

    def close(self) -> None:
        """End the workers."""
        self._pool.close()

    def _deliver(self, deliveries: Iterator[Delivery]) -> Iterator[Batch]:
        for images, targets, unreadable in deliveries:
            self._bad_images.add(unreadable)
            if len(targets) == 0:
                raise RunError(f"{unreadable[-1].reason}; nor can any other of its batch")
            yield images, targets


def can_augment_by_batch(source: ImageSource, settings: TransformSettings) -> bool:
    """Return whether these images and settings are ones that :class:`BatchAugment` knows."""
    is_small = isinstance(source, CachedSource) and source.are_thumbnails
    is_known = settings.interpolation == "random" or settings.interpolation in FILTERS
    jitter = settings.color_jitter
    has_hue = isinstance(jitter, tuple) and len(jitter) != 3
    return is_small and is_known and not has_hue


class _AugmentEach:
    """Augments the images of a batch one by one: samples in, their tensors out."""

    def __init__(self, source: ImageSource, settings: TransformSettings, seed: int) -> None:
        self._source, self._settings, self._seed = source, settings, seed

    def __call__(self, samples: list[Sample]) -> Delivery:
        def load(place: int) -> tuple[Tensor, int]:
            index, config, pass_number = samples[place]
            image, target = self._source.load(index)
            seed_sample(self._seed, pass_number, index)
            return train_transform(config, self._settings)(image), target

        found: list[Unreadable] = []
        pairs = read_each(load, range(len(samples)), found)
        unreadable = [Unreadable(samples[place][0], reason) for place, reason in found]
        kept = [
            pair
            for place in replacement_places(np.array([pair is not None for pair in pairs]))
            if (pair := pairs[place]) is not None
        ]
        if not kept:
            return *NO_IMAGES, unreadable
        targets = torch.tensor([target for _, target in kept])
        return torch.stack([image for image, _ in kept]), targets, unreadable


class _AugmentTogether:
    """Augments the thumbnails of a batch, which are decoded already, by operations on the whole batch."""

    def __init__(self, source: CachedSource, settings: TransformSettings, seed: int) -> None:
        self._source, self._augment = source, BatchAugment(source, settings, seed)

    def __call__(self, samples: list[Sample]) -> Delivery:
        unreadable = self._source.unreadable_of(index for index, _, _ in samples)
        bad = {index for index, _ in unreadable}
        places = replacement_places(np.array([index not in bad for index, _, _ in samples]))
        if len(places) == 0:
            return *NO_IMAGES, unreadable
        indices = np.array([index for index, _, _ in samples], dtype=np.int64)[places]
        passes = np.array([draw for _, _, draw in samples], dtype=np.int64)[places]
        images = self._augment(indices, passes, samples[0][1])  # one config a batch
        return images, torch.from_numpy(self._source.targets[indices]), unreadable


class SampleStream:
    """The endless sequence of training images.

    Args:
        indices: The images of a pass, int64.
        seed: At least 0; same seed and indices, same stream.
    """

    def __init__(self, indices: np.ndarray, seed: int) -> None:
        assert len(indices) > 0, "a stream of no images"
        self._indices, self._seed = indices, seed

    def passes(self, q_start: int, count: int) -> np.ndarray:
        """Return the pass numbers of samples ``q_start`` to ``q_start + count``, int64."""
        return np.arange(q_start, q_start + count, dtype=np.int64) // len(self._indices)

    def index(self, q_start: int, count: int) -> np.ndarray:
        """Return the image indices of samples ``q_start`` to ``q_start + count``, int64."""
        size, q_stop = len(self._indices), q_start + count
        parts = [
            _permutation(self._seed, number, size)[
                max(q_start - number * size, 0) : q_stop - number * size
            ]
            for number in range(q_start // size, -(-q_stop // size))
        ]
        return self._indices[np.concatenate(parts)] if parts else self._indices[:0]


@lru_cache(maxsize=4)
def _permutation(seed: int, pass_number: int, count: int) -> np.ndarray:
    sequence = np.random.SeedSequence((seed, pass_number))
    # RandomState, because numpy promises that its stream never changes between versions.
    order = np.random.RandomState(np.random.MT19937(sequence)).permutation(count)
    order.setflags(write=False)
    return order


def plan_batches(
    stream: SampleStream,
    first_sample: int,
    batch_size: int,
    steps: int,
    config_at: Callable[[int], InputConfig],
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[list[Sample]]:
    """Yield the samples of ``rank``'s contiguous fraction of each of ``steps`` batches.

    Args:
        stream: Where the samples come from.
        first_sample: Number of the first sample of the first batch.
        batch_size: Over all ranks.
        steps: Number of batches.
        config_at: The config of batch k of this call, k from 0.
        rank: Of this process.
        world_size: Number of processes.
    """
    start, stop = rank * batch_size // world_size, (rank + 1) * batch_size // world_size
    for step in range(steps):
        q_start = first_sample + step * batch_size + start
        config = config_at(step)
        indices = stream.index(q_start, stop - start).tolist()
        passes = stream.passes(q_start, stop - start).tolist()
        yield [(index, config, number) for index, number in zip(indices, passes, strict=True)]


def eval_batches(
    source: ImageSource,
    settings: TransformSettings,
    img_size: int,
    batch_size: int,
    workers: int,
    indices: np.ndarray | None = None,
    bad_images: BadImages | None = None,
) -> Iterator[Batch]:
    """Yield batches in order, with the evaluation transform; the last may be smaller.

    Takes nothing from the random generators of this process. Kept in a list, they take 12 bytes a pixel.

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
    """Prepares batches for evaluation: the numbers of images in, their tensors out."""

    def __init__(self, source: ImageSource, settings: TransformSettings, img_size: int) -> None:
        self._source, self._settings, self._img_size = source, settings, img_size

    def __call__(self, indices: list[int]) -> Delivery:
        source, px = self._source, self._img_size
        unreadable: list[Unreadable] = []
        if (
            isinstance(source, CachedSource)
            and source.are_thumbnails
            and source.one_size == (px, px)
            and px <= THUMBNAIL_PX
        ):
            # Thumbnails that have the size already: the same as one by one, only faster.
            unreadable = source.unreadable_of(indices)
            bad = {index for index, _ in unreadable}
            kept = np.array([index for index in indices if index not in bad], dtype=np.int64)
            if len(kept) == 0:
                return *NO_IMAGES, unreadable
            pixels = torch.from_numpy(source.gather(kept)[0])
            images = pixels.permute(0, 3, 1, 2).to(torch.float32).contiguous()  # BHW3 -> B3HW
            normalize_(images, self._settings.mean, self._settings.std)
            return images, torch.from_numpy(source.targets[kept]), unreadable
        transform = eval_transform(px, self._settings)
        read = read_each(source.load, indices, unreadable)
        pairs = [pair for pair in read if pair is not None]
        if not pairs:
            return *NO_IMAGES, unreadable
        images = torch.stack([transform(image) for image, _ in pairs])
        return images, torch.tensor([target for _, target in pairs]), unreadable


@dataclass(frozen=True)
class CheckedImages:
    """How many images have been read, and which of them cannot be."""

    num_read: int
    unreadable: list[Unreadable]


def check_images(
    source: ImageSource,
    workers: int,
    max_seconds: float,
    progress: Progress,
    clock: Callable[[], float] = time.monotonic,
    part: str = "validation",
) -> CheckedImages:
    """Decode images, all of them where the time allows it, else some from all over the source.

    Args:
        source: The images.
        workers: Number of worker processes.
        max_seconds: After which no more are begun.
        progress: Is shown how far it is, once it takes long.
        clock: Seconds.
        part: What they are called there.
    """
    start, num_read, found = clock(), 0, list[Unreadable]()
    # Some neighbours at a time, as they lie together on a disk, in an order that looks everywhere soon.
    starts = np.random.RandomState(0).permutation(np.arange(0, len(source), _CHECKED_AT_ONCE))
    chunks = (
        list(range(first, min(first + _CHECKED_AT_ONCE, len(source)))) for first in starts.tolist()
    )
    pool: WorkerPool[list[int], tuple[int, list[Unreadable]]] = WorkerPool(_Read(source), workers)
    with ExitStack() as stack:
        stack.callback(pool.close)
        advance = None
        for count, unreadable in pool.results(chunks):
            num_read += count
            found += unreadable
            seconds = clock() - start
            if seconds > max_seconds:
                break
            if advance is None and seconds > _QUIET_SECONDS:
                text = f"{part} images: reading each once, for at most {max_seconds:.0f} seconds"
                advance = stack.enter_context(progress(text, len(source)))
            if advance is not None:
                advance(num_read)
    return CheckedImages(num_read, sorted(found))


class _Read:
    """Reads images and reports how many there were, and which of them cannot be read."""

    def __init__(self, source: ImageSource) -> None:
        self._source = source

    def __call__(self, indices: list[int]) -> tuple[int, list[Unreadable]]:
        found: list[Unreadable] = []
        for index in indices:  # one after another: a list of all would hold all images at a time
            read_each(self._source.load, [index], found)
        return len(indices), found
