"""Batches for evaluation: fixed order, nothing random."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from autoprog.errors import ResumableError
from autoprog.train.data.bad_images import (
    NO_IMAGES,
    BadImages,
    Delivery,
    Unreadable,
    read_or_note,
    validation_refusal,
)
from autoprog.train.data.cache.source import CachedSource
from autoprog.train.data.images import ImageSource
from autoprog.train.data.loader import Batch
from autoprog.train.data.transforms import (
    THUMBNAIL_PX,
    TransformSettings,
    eval_transform,
    normalize_,
)
from autoprog.train.data.workers import WorkerPool

__all__ = ["cache_batches", "eval_batches"]


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


def cache_batches(
    source: ImageSource,
    settings: TransformSettings,
    img_size: int,
    batch_size: int,
    workers: int,
    indices: np.ndarray | None = None,
    bad_images: BadImages | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """Return :func:`eval_batches` as a list, such as the held-out slice that candidates share.

    It takes 12 bytes a pixel of ``img_size`` squared and image: 10,000 images of 224 px are 6 GB.
    """
    return list(eval_batches(source, settings, img_size, batch_size, workers, indices, bad_images))


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
