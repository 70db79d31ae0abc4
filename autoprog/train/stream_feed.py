"""The feed of images that come in the order of their reader."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

from autoprog.settings import RunSettings
from autoprog.train.data import (
    Batch,
    Cell,
    OpenedData,
    Part,
    StreamLoader,
    StreamSource,
    TransformSettings,
    resolve_workers,
)
from autoprog.train.map_feed import PROBE_IMAGES, Place, most_held_out

__all__ = ["StreamFeed"]


class StreamFeed:
    """Images that come in the reader's order: a resume starts at the beginning of its epoch.

    Ranks: in training timm's reader gives each rank its part of the shards. All that is evaluated
    is read whole by every rank, since the readers repeat or drop images to make the ranks' numbers
    equal; of the validation set a rank then passes on its share, each image once over all ranks.

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
        self._cap = most_held_out(settings, len(train))
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
        """Return this rank's share of the validation set; see :class:`Feed`."""
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
