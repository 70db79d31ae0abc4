from __future__ import annotations

import numpy as np
import pytest

from autoprog.data.image_sources import apportion, stratified_holdout
from autoprog.data.loader import SampleStream, plan_batches
from autoprog.data.transforms import InputConfig, sample_seeds

CONFIG = InputConfig(8)
STREAM_1 = [4, 1, 3, 0, 2, 5, 2, 0, 3, 4, 1, 5]
SEEDS_1_2_3 = (15042326973487382245, 3345134951, 5618861835165894395)


def test_each_pass_visits_every_image_once_in_another_order() -> None:
    indices = np.arange(10, 60)
    stream = SampleStream(indices, seed=3)
    first, second = stream.index(0, 50), stream.index(50, 50)
    assert sorted(first.tolist()) == sorted(second.tolist()) == indices.tolist()
    assert first.tolist() != second.tolist()


def test_any_stretch_of_the_stream_equals_the_whole() -> None:
    stream = SampleStream(np.arange(7), seed=0)
    whole = stream.index(0, 40)
    for start in range(30):
        for count in (0, 1, 6, 7, 10):
            assert stream.index(start, count).tolist() == whole[start : start + count].tolist()
    assert stream.passes(5, 4).tolist() == [0, 0, 1, 1]


def test_the_stream_is_the_same_in_every_version() -> None:
    assert SampleStream(np.arange(6), seed=1).index(0, 12).tolist() == STREAM_1


def test_another_seed_is_another_stream() -> None:
    indices = np.arange(50)
    one, two = (SampleStream(indices, seed).index(0, 50).tolist() for seed in (1, 2))
    assert one != two


def test_ranks_share_a_batch_without_gap_or_overlap_even_when_it_does_not_divide() -> None:
    stream = SampleStream(np.arange(20), seed=0)
    whole = list(plan_batches(stream, 15, 7, 3, lambda step: CONFIG))
    fractions = [list(plan_batches(stream, 15, 7, 3, lambda step: CONFIG, r, 3)) for r in range(3)]
    assert [a + b + c for a, b, c in zip(*fractions, strict=True)] == whole
    assert [draw for _, _, draw in whole[0]] == [0, 0, 0, 0, 0, 1, 1]


def test_the_config_is_asked_for_each_batch_of_the_call() -> None:
    stream = SampleStream(np.arange(20), seed=0)
    plan = plan_batches(stream, 100, 2, 3, lambda step: InputConfig(8 + step))
    assert [[config.img_size for _, config, _ in batch] for batch in plan] == [
        [8, 8],
        [9, 9],
        [10, 10],
    ]


def test_sample_seeds_are_stable_and_depend_on_each_part() -> None:
    assert sample_seeds(1, 2, 3) == SEEDS_1_2_3
    others = {sample_seeds(*key) for key in [(1, 2, 3), (1, 3, 2), (2, 1, 3), (3, 2, 1)]}
    assert len(others) == 4


def test_holdout_is_stratified_disjoint_sorted_and_stable() -> None:
    targets = np.random.RandomState(0).permutation(np.repeat([0, 1, 2], [600, 300, 100]))
    train, held = stratified_holdout(targets, seed=5)
    assert np.bincount(targets[held]).tolist() == [30, 15, 5]
    assert np.array_equal(np.sort(np.concatenate([train, held])), np.arange(1000))
    assert train.dtype == held.dtype == np.int64
    assert np.all(np.diff(train) > 0)
    assert np.all(np.diff(held) > 0)
    assert stratified_holdout(targets, seed=5)[1].tolist() == held.tolist()
    assert stratified_holdout(targets, seed=6)[1].tolist() != held.tolist()


def test_holdout_is_capped() -> None:
    targets = np.repeat(np.arange(10), 100)
    assert len(stratified_holdout(targets, seed=0, fraction=0.5, cap=40)[1]) == 40


def test_holdout_gives_rare_classes_one_image_and_leaves_every_class_one() -> None:
    targets = np.repeat([0, 1, 2], [197, 2, 1])
    train, held = stratified_holdout(targets, seed=0)
    assert np.bincount(targets[held], minlength=3).tolist() == [9, 1, 0]
    assert np.bincount(targets[train], minlength=3).tolist() == [188, 1, 1]


@pytest.mark.parametrize(
    ("sizes", "count", "taken"),
    [
        ([10, 10, 10], 2, [1, 1, 0]),
        ([10, 10, 10], 4, [2, 1, 1]),
        ([2, 2, 2], 6, [1, 1, 1]),
        ([0, 5, 5], 4, [0, 2, 2]),
        ([90, 10], 0, [0, 0]),
    ],
)
def test_apportion(sizes: list[int], count: int, taken: list[int]) -> None:
    assert apportion(np.array(sizes), count).tolist() == taken
