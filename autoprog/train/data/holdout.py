"""Which images are set aside: stratified, and a pure function of the targets and a seed."""

from __future__ import annotations

import numpy as np

__all__ = ["apportion", "stratified_holdout", "stratified_split"]


def apportion(class_sizes: np.ndarray, count: int) -> np.ndarray:
    """Return how many images to take from each class, in proportion to its size.

    Each class that has two or more gives at least one when ``count`` allows it, and each class
    keeps at least one, so fewer than ``count`` may come out. Ties go to the lower class number.
    """
    share = class_sizes * (count / max(1, class_sizes.sum()))
    most = np.maximum(class_sizes - 1, 0)
    least = np.minimum(most, 1) if count >= np.count_nonzero(most) else np.zeros_like(most)
    taken = least.copy()
    for _ in range(min(count, int(most.sum())) - int(taken.sum())):
        # The class that is furthest below its share, of those that can still give.
        taken[np.argmax(np.where(taken < most, share - taken, -np.inf))] += 1
    return taken


def stratified_split(targets: np.ndarray, seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (kept, taken) indices, int64 and sorted, with ``count`` taken as :func:`apportion` says."""
    # RandomState, because numpy promises that its stream never changes between versions.
    order = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed)))
    shuffled = order.permutation(len(targets))
    by_class = shuffled[np.argsort(targets[shuffled], kind="stable")]
    class_sizes = np.bincount(targets)
    starts = np.cumsum(class_sizes) - class_sizes
    rank_in_class = np.arange(len(targets)) - np.repeat(starts, class_sizes)
    is_taken = rank_in_class < np.repeat(apportion(class_sizes, count), class_sizes)
    return np.sort(by_class[~is_taken]), np.sort(by_class[is_taken])


def stratified_holdout(
    targets: np.ndarray, seed: int, fraction: float = 0.05, cap: int = 10_000
) -> tuple[np.ndarray, np.ndarray]:
    """Return (training, held-out) indices of the training images, int64 and sorted.

    The held-out slice has min(``fraction`` of the images, ``cap``) images, at least one a class
    where that size allows it; every class keeps training images. Given the indices of a whole
    data set, validation images are never involved.

    Args:
        targets: Class numbers from 0, one an image.
        seed: Same seed and targets, same slice.
        fraction: Of the images, from 0 to below 1.
        cap: The most images to hold out.
    """
    assert 0.0 <= fraction < 1.0, fraction
    return stratified_split(targets, seed, min(int(fraction * len(targets)), cap))
