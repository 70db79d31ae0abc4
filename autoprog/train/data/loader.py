"""The training loader: augmented batches, bit-exact whatever the number of workers or restarts."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from autoprog.errors import RunError
from autoprog.train.data.bad_images import BadImages, Delivery, Unreadable, read_or_note, stand_ins
from autoprog.train.data.images import ImageSource
from autoprog.train.data.sampler import Sample, SampleStream, plan_batches, seed_sample
from autoprog.train.data.transforms import Cell, TransformSettings, train_transform

__all__ = ["Batch", "TrainLoader", "as_is", "resolve_workers", "start_worker"]

Batch: TypeAlias = tuple[Tensor, Tensor]
"""(images float32 B x 3 x H x W, targets int64 B)."""

_MOST_WORKERS = 8


def resolve_workers(
    workers: int | Literal["auto"], source: object, local_world_size: int = 1
) -> int:
    """Return the number of loader workers of each process.

    ``auto`` means none for images held in memory, which cost less to augment than to pass between
    processes, and else one for each core this process may use, up to 8. All cores, even when
    there are two: with an accelerator the main process mostly waits for it, so a core kept free
    would starve it; without one the operating system shares the cores, and what the workers do
    would otherwise be done by the main process, in turn with the training.

    Args:
        workers: The setting.
        source: The training images.
        local_world_size: Training processes on this machine, which share its cores.
    """
    if workers != "auto":
        return workers
    if getattr(source, "in_memory", False):
        return 0
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(cores // local_world_size, _MOST_WORKERS))


def as_is(batch: Any) -> Any:
    """Return what the dataset made: whole batches need no collating."""
    return batch


def start_worker(_: int) -> None:
    """Set a new worker process up.

    One thread each, since there are as many workers as cores. The main process alone answers to
    signals, which often reach the whole group: it still takes a checkpoint, and the death of a
    worker would break into that. So interrupts are ignored, and of two requests to terminate the
    first, so that a worker can still be ended by its parent.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _ignore_once)


def _ignore_once(signal_number: int, _: FrameType | None) -> None:
    signal.signal(signal_number, signal.SIG_DFL)


class _TrainDataset(Dataset[Delivery]):
    """Augment whole batches: a batch of samples in, its tensors out."""

    def __init__(self, source: ImageSource, settings: TransformSettings, seed: int) -> None:
        self._source, self._settings, self._seed = source, settings, seed

    def __getitems__(self, samples: list[Sample]) -> Delivery:
        found: list[Unreadable] = []
        pairs = read_or_note(lambda place: self._load(*samples[place]), range(len(samples)), found)
        unreadable = [Unreadable(samples[place][0], reason) for place, reason in found]
        kept = [
            pair
            for place in stand_ins(np.array([pair is not None for pair in pairs]))
            if (pair := pairs[place]) is not None
        ]
        if not kept:
            return torch.empty(0), torch.empty(0, dtype=torch.int64), unreadable
        targets = torch.tensor([target for _, target in kept])
        return torch.stack([image for image, _ in kept]), targets, unreadable

    def _load(self, index: int, cell: Cell, draw: int) -> tuple[Tensor, int]:
        image, target = self._source.load(index)
        seed_sample(self._seed, draw, index)
        return train_transform(cell, self._settings)(image), target


class _BatchPlan:
    """The batch sampler; the main process points it at new batches before each iteration."""

    def __init__(self) -> None:
        self.batches: Iterator[list[Sample]] = iter(())

    def __iter__(self) -> Iterator[list[Sample]]:
        return self.batches


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
        self._plan = _BatchPlan()
        self._call = 0
        self._fetched: Iterator[Delivery] = iter(())
        self._loader: DataLoader[Delivery] | None = DataLoader(
            _TrainDataset(source, settings, seed),
            batch_sampler=self._plan,
            num_workers=workers,
            collate_fn=as_is,
            pin_memory=pin_memory,
            worker_init_fn=start_worker,
            generator=torch.Generator(),  # else each iteration draws from the global one
            persistent_workers=workers > 0,
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
        """
        assert self._loader is not None, "closed"
        stream = SampleStream(indices, self._seed)
        self._plan.batches = plan_batches(
            stream,
            first_sample,
            batch_size,
            steps,
            self._checked(cell_at),
            self._rank,
            self._world_size,
        )
        self._call += 1
        self._fetched = iter(self._loader)  # drops what the last call left in the workers
        return self._deliver(steps, self._call)

    def close(self) -> None:
        """End the workers."""
        self._loader, self._fetched = None, iter(())  # nobody else holds the workers
        self._call += 1

    def _checked(self, cell_at: Callable[[int], Cell]) -> Callable[[int], Cell]:
        """Build each cell's transform here as well, so that a bad one raises in this process."""

        def checked(step: int) -> Cell:
            cell = cell_at(step)
            train_transform(cell, self._settings)
            return cell

        return checked

    def _deliver(self, steps: int, call: int) -> Iterator[Batch]:
        for _ in range(steps):
            assert call == self._call, "these batches were given up for a later call"
            images, targets, unreadable = next(self._fetched)
            self._bad_images.add(unreadable)
            if len(targets) == 0:
                raise RunError(f"{unreadable[-1].reason}; nor can any other of its batch")
            yield images, targets
