"""Balanced accuracy against scikit-learn's, sampling error against Wilson's interval by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from autoprog.accuracy import (
    balanced_accuracy,
    class_accuracies,
    is_unbalanced,
    largest_class_fraction,
    no_better_than_a_class,
    sampling_error,
)


@pytest.mark.parametrize("seed", range(5))
def test_balanced_accuracy_is_that_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets = rng.choice(6, size=200, p=[0.5, 0.3, 0.1, 0.06, 0.04, 0.0])
    found = np.where(rng.random(200) < 0.6, targets, rng.integers(0, 5, 200))
    images = np.bincount(targets, minlength=6).tolist()
    correct = np.bincount(targets[found == targets], minlength=6).tolist()
    expected = 100 * balanced_accuracy_score(targets, found)
    assert balanced_accuracy(correct, images) == pytest.approx(expected, abs=1e-12)


def test_a_class_without_images_has_no_accuracy_and_counts_for_nothing() -> None:
    assert class_accuracies([3, 0, 0], [4, 2, 0]) == [75.0, 0.0, None]
    assert balanced_accuracy([3, 0, 0], [4, 2, 0]) == 37.5
    assert math.isnan(balanced_accuracy([0], [0]))


def test_two_classes_of_which_one_is_always_named_are_told() -> None:
    fraction = largest_class_fraction([64, 16])
    assert (fraction, balanced_accuracy([64, 0], [64, 16])) == (0.8, 50.0)
    assert no_better_than_a_class(80.0, fraction) is not None
    assert no_better_than_a_class(100 * 65 / 80, fraction) is None
    assert no_better_than_a_class(float("nan"), fraction) is None


@pytest.mark.parametrize(
    ("images", "unbalanced"), [((64, 16), True), ((36, 37, 35), False), ((50,), False)]
)
def test_unbalanced_is_where_the_largest_class_stands_out(
    images: tuple[int, ...], unbalanced: bool
) -> None:
    assert is_unbalanced(largest_class_fraction(images), len(images)) is unbalanced


def test_the_sampling_error_is_half_of_wilsons_interval() -> None:
    n, z = 736, 1.96
    low, high = (
        (0.8 + z * z / (2 * n) + sign * z * math.sqrt(0.8 * 0.2 / n + z * z / (4 * n * n)))
        / (1 + z * z / n)
        for sign in (-1, 1)
    )
    assert sampling_error(80.0, n) == pytest.approx(50 * (high - low))
    assert sampling_error(100.0, 20) > 5  # all right, and yet not certain
