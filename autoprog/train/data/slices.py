"""Parts of a data set: a share of the training images, and evaluation on some that are not trained on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from autoprog.errors import ConfigError
from autoprog.train.data.holdout import stratified_holdout
from autoprog.train.data.images import ImageSource
from autoprog.train.data.sources import AnySource, OpenedData
from autoprog.train.data.stream import StreamSource

__all__ = ["SlicedSource", "sliced", "whole_of"]

_SEED = 0
_HELD_OUT, _MOST_EVALUATED = 0.05, 2500


class SlicedSource:
    """Some images of a source, by their numbers in it."""

    def __init__(self, source: ImageSource, indices: np.ndarray) -> None:
        self.source, self.indices = source, indices
        self.targets, self.class_names = source.targets[indices], source.class_names
        self.in_memory = source.in_memory

    def __len__(self) -> int:
        return len(self.indices)

    def load(self, index: int) -> tuple[Image.Image, int]:
        """Return an image of the slice and its target."""
        return self.source.load(int(self.indices[index]))

    def name(self, index: int) -> str:
        """Return where an image of the slice comes from."""
        return self.source.name(int(self.indices[index]))


def sliced(opened: OpenedData, share: float, on_held_out: bool) -> OpenedData:
    """Return a share of the training images, the same in every run and alike in all classes.

    What is held out is left out of the share, which else stays the same but for a few images.

    Args:
        opened: The whole data.
        share: Of the training images, in (0, 1].
        on_held_out: Evaluate on 5 % of the training images, at most 2,500, which are then not trained on.

    Raises:
        ConfigError: If the data come as a stream, or are too few to hold any out.
    """
    train = opened.train
    if isinstance(train, StreamSource):
        law, cure = (
            "must be data that can be read in any order",
            "or leave out --held-out and shares",
        )
        raise ConfigError("--dataset", "", law, cure=cure)
    val: AnySource = opened.val
    indices = np.arange(len(train))
    if on_held_out:
        indices, held = stratified_holdout(train.targets, _SEED, _HELD_OUT, _MOST_EVALUATED)
        val = SlicedSource(train, held)
    if share < 1:
        indices = _stratified_share(train.targets, indices, share)
    if len(val) == 0:
        law = f"must have images to hold out: {_HELD_OUT:.0%} of them are none"
        raise ConfigError("data", "train", law, len(train), "give more images")
    text = f"{opened.description}; trained on {len(indices):,}"
    text += f", evaluated on {len(val):,} other training images" if on_held_out else ""
    return replace(opened, train=SlicedSource(train, indices), val=val, description=text)


def whole_of(source: ImageSource) -> tuple[ImageSource, np.ndarray]:
    """Return the source behind a slice and the numbers of its images in it; all of them for no slice."""
    if isinstance(source, SlicedSource):
        return source.source, source.indices
    return source, np.arange(len(source))


def _stratified_share(targets: np.ndarray, among: np.ndarray, share: float) -> np.ndarray:
    """Return about `share` of each class `among` some numbers of images, at least one, rising.

    Which ones go first hangs on all images, so that it is alike whichever are held out.
    """
    order = np.random.RandomState(_SEED).permutation(len(targets))
    order = order[np.isin(order, among)]
    kept = [
        own[: max(1, round(share * len(own)))]
        for label in np.unique(targets)
        for own in [order[targets[order] == label]]
    ]
    return np.sort(np.concatenate(kept))
