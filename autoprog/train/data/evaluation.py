"""Batches for evaluation: fixed order, nothing random."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from autoprog.errors import RunError
from autoprog.train.data.images import ImageSource
from autoprog.train.data.loader import Batch, Failure, as_is, start_worker, unwrap
from autoprog.train.data.transforms import TransformSettings, eval_transform

__all__ = ["cache_batches", "eval_batches"]


def eval_batches(
    source: ImageSource,
    settings: TransformSettings,
    img_size: int,
    batch_size: int,
    workers: int,
    indices: np.ndarray | None = None,
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

    Raises:
        RunError: An image cannot be read.
    """
    chosen = np.arange(len(source)) if indices is None else indices
    loader: DataLoader[Batch | Failure] = DataLoader(
        _EvalDataset(source, settings, img_size),
        batch_sampler=[
            chosen[start : start + batch_size].tolist()
            for start in range(0, len(chosen), batch_size)
        ],
        num_workers=workers,
        collate_fn=as_is,
        worker_init_fn=start_worker,
        generator=torch.Generator(),
    )
    for batch in loader:
        yield unwrap(batch)


def cache_batches(
    source: ImageSource,
    settings: TransformSettings,
    img_size: int,
    batch_size: int,
    workers: int,
    indices: np.ndarray | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """Return :func:`eval_batches` as a list, such as the held-out slice that candidates share.

    It takes 12 bytes a pixel of ``img_size`` squared and image: 10,000 images of 224 px are 6 GB.
    """
    return list(eval_batches(source, settings, img_size, batch_size, workers, indices))


class _EvalDataset(Dataset[Batch | Failure]):
    def __init__(self, source: ImageSource, settings: TransformSettings, img_size: int) -> None:
        self._source, self._settings, self._img_size = source, settings, img_size

    def __getitems__(self, indices: list[int]) -> Batch | Failure:
        transform = eval_transform(self._img_size, self._settings)
        try:
            pairs = [self._source.load(index) for index in indices]
        except RunError as error:
            return Failure(error)
        images = torch.stack([transform(image) for image, _ in pairs])
        return images, torch.tensor([target for _, target in pairs])
