"""A share of a data set to train on, and evaluation on training images that are not trained on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from autoprog.errors import ConfigError
from autoprog.train.data.holdout import stratified_holdout
from autoprog.train.data.report import PartReport
from autoprog.train.data.slices import SlicedSource
from autoprog.train.data.sources import AnySource, OpenedData
from autoprog.train.data.stream import StreamSource

__all__ = ["sliced"]

_SEED = 0
_HELD_OUT, _MOST_EVALUATED = 0.05, 2500


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
    kept = SlicedSource(train, indices)
    report = replace(
        opened.report,
        train=replace(opened.report.train, class_sizes=PartReport.of(kept).class_sizes),
        val=PartReport.of(val)
        if on_held_out and not isinstance(val, StreamSource)
        else opened.report.val,
    )
    return replace(opened, train=kept, val=val, description=text, report=report)


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
