"""What an accuracy is worth (beside the largest class, by class, by the number of images); class names."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = [
    "balanced_accuracy",
    "class_accuracies",
    "class_difference",
    "is_unbalanced",
    "largest_class_fraction",
    "no_better_than_a_class",
    "order_of",
    "sampling_error",
    "some",
]


_Z = 1.96  # 95 % of a normal distribution
_UNBALANCED = 1.2
_MAX_NAMED = 3


# Class names of a run beside those of other images or other weights.


def class_difference(found: Sequence[str], expected: Sequence[str]) -> str:
    """Return in words how class names differ from the expected ones; empty for the same in the same order."""
    known, held = set(expected), set(found)
    new = [name for name in found if name not in known]
    missing = [name for name in expected if name not in held]
    parts = [
        f"{some(names)} {'is' if len(names) == 1 else 'are'} {word}"
        for names, word in ((new, "new"), (missing, "missing"))
        if names
    ]
    if parts or list(found) == list(expected):
        return " and ".join(parts)
    number = next(k for k, pair in enumerate(zip(found, expected, strict=True)) if len({*pair}) > 1)
    return f"in another order: class {number} is {found[number]!r}, not {expected[number]!r}"


def order_of(names: Sequence[str], among: Sequence[str]) -> list[int] | None:
    """Return the number that each name has among others; None if one is not there."""
    numbers = {name: number for number, name in enumerate(among)}
    if not all(name in numbers for name in names):
        return None
    return [numbers[name] for name in names]


def some(names: Sequence[str]) -> str:
    """Return the first few of some names, and how many more there are."""
    text = ", ".join(map(repr, names[:_MAX_NAMED]))
    more = len(names) - _MAX_NAMED
    return f"{text} and {more} more" if more > 0 else text


# Accuracies.


def class_accuracies(correct: Sequence[int], images: Sequence[int]) -> list[float | None]:
    """Return the accuracy in each class in per cent; None for a class without images."""
    return [
        100.0 * right / count if count else None
        for right, count in zip(correct, images, strict=True)
    ]


def balanced_accuracy(correct: Sequence[int], images: Sequence[int]) -> float:
    """Return the mean of the accuracies in the classes that have images, in per cent."""
    known = [value for value in class_accuracies(correct, images) if value is not None]
    return math.fsum(known) / len(known) if known else math.nan


def largest_class_fraction(images: Sequence[int]) -> float:
    """Return the fraction of the images that the largest class has: what naming it each time gets right."""
    return max(images, default=0) / max(1, sum(images))


def is_unbalanced(largest_fraction: float, num_classes: int) -> bool:
    """Return whether the largest class has a fifth more images than the mean one, or more."""
    return largest_fraction * num_classes >= _UNBALANCED


def no_better_than_a_class(
    top1: float, largest_fraction: float, num_images: int | None = None
) -> str | None:
    """Return a warning where `top1`, in per cent, is no more than the largest class alone would give.

    So it is where it is more by no more than the sampling error of `num_images`.
    """
    fraction = f"the fraction of the largest class ({100 * largest_fraction:.1f} % of the validation images)"
    if top1 <= 100.0 * largest_fraction + 1e-6:
        why = "the network has learnt nothing beyond it"
        return f"top-1 of {top1:.2f} % is not above {fraction}: {why}"
    if num_images and top1 - sampling_error(top1, num_images) <= 100.0 * largest_fraction:
        why = f"of {num_images:,} images that may be chance"
        return f"top-1 of {top1:.2f} % is hardly above {fraction}: {why}"
    return None


def sampling_error(top1: float, num_images: int) -> float:
    """Return half of Wilson's 95 % interval of an accuracy over `num_images`, in points.

    It is above 0 where all or none are right, where the normal approximation is not.
    """
    fraction, z2 = top1 / 100.0, _Z**2
    spread = math.sqrt(fraction * (1.0 - fraction) / num_images + z2 / (4.0 * num_images**2))
    return 100.0 * _Z * spread / (1.0 + z2 / num_images)
