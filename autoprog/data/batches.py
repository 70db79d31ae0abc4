"""What workers deliver: batches of images, and which images they could not read, up to a limit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from autoprog.errors import RunError

__all__ = [
    "NO_IMAGES",
    "BadImages",
    "Batch",
    "Delivery",
    "Unreadable",
    "read_each",
    "replacement_places",
    "validation_refusal",
]

T = TypeVar("T")

# (images float32 B x 3 x H x W, targets int64 B).
Batch: TypeAlias = tuple[Tensor, Tensor]


class Unreadable(NamedTuple):
    """An image that cannot be read, as a worker reports it."""

    image_index: int
    # One line that names the image, as the source's error does.
    reason: str


# What a worker makes of a batch: images, targets, and which images it could not read.
Delivery: TypeAlias = tuple[Tensor, Tensor, Sequence[Unreadable]]

# Images and targets of a batch of which none can be read.
NO_IMAGES = torch.empty(0), torch.empty(0, dtype=torch.int64)


class BadImages:
    """The distinct unreadable training images that this process has met.

    Args:
        limit: The most that a run goes on with; 0 stops it at the first.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: set[int] = set()
        self._unsaid: list[str] = []

    def add(self, found: Iterable[Unreadable]) -> None:
        """Take note of images.

        Raises:
            RunError: They are more than the limit; names the last.
        """
        for index, reason in found:
            if index in self._known:
                continue
            self._known.add(index)
            count = len(self._known)
            if count > self._limit:
                images = "image" if count == 1 else "images"
                text = f"{count} unreadable {images}, and --max-bad-images is {self._limit}"
                raise RunError(f"{reason}; that makes {text}")
            self._unsaid.append(f"{reason}; skipped ({count} of at most {self._limit})")

    def new_warnings(self) -> list[str]:
        """Return a line for each image that is new since the last call."""
        said, self._unsaid = self._unsaid, []
        return said


def read_each(
    read: Callable[[int], T], indices: Iterable[int], found: list[Unreadable]
) -> list[T | None]:
    """Return what ``read`` makes of each index; None where it fails, which goes to ``found``."""
    results: list[T | None] = []
    for index in indices:
        try:
            results.append(read(index))
        except RunError as error:
            found.append(Unreadable(index, str(error)))
            results.append(None)
    return results


def validation_refusal(unreadable: Sequence[Unreadable]) -> str:
    """Return in a line that validation images cannot be read, and what to do."""
    (_, reason), *others = unreadable
    if not others:
        return f"a validation image cannot be read: {reason}; repair or remove it"
    count = f"{len(unreadable):,} validation images cannot be read"
    return f"{count}, the first: {reason}; repair or remove them"


def replacement_places(is_readable: np.ndarray) -> np.ndarray:
    """Return for each place of a batch the place it is filled from: its own, or the next readable.

    The next one after the last place is the first. Empty when nothing is readable.
    """
    places = np.flatnonzero(is_readable)
    if len(places) == 0:
        return places
    following = np.searchsorted(places, np.arange(len(is_readable)))
    return places[following % len(places)]
