from __future__ import annotations

import multiprocessing
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from autoprog.data.image_sources import DigitsSource, FolderSource, open_digits, stratified_holdout
from autoprog.data.loader import TrainLoader, eval_batches
from autoprog.data.opening import open_data
from autoprog.data.transforms import InputConfig, TransformSettings
from autoprog.data.workers import resolve_workers
from autoprog.errors import ConfigError, RunError
from autoprog.settings import DataSettings

SETTINGS = TransformSettings()
RICH = InputConfig(16, "rand-m9-mstd0.5-inc1", 0.5)
INDICES = np.arange(5, 95)


@pytest.fixture(scope="module")
def digits() -> tuple[DigitsSource, DigitsSource]:
    return open_digits()


@pytest.fixture
def two_workers(digits: tuple[DigitsSource, DigitsSource]) -> Iterator[TrainLoader]:
    loader = TrainLoader(digits[0], SETTINGS, seed=4, workers=2)
    yield loader
    loader.close()


def draw(
    source: DigitsSource, first_sample: int, steps: int, workers: int = 0, seed: int = 4
) -> list[tuple[Tensor, Tensor]]:
    loader = TrainLoader(source, SETTINGS, seed, workers)
    batches = list(loader.batches(INDICES, first_sample, 32, steps, lambda step: RICH))
    loader.close()
    return batches


def assert_same(one: list[tuple[Tensor, Tensor]], two: list[tuple[Tensor, Tensor]]) -> None:
    assert len(one) == len(two)
    for (images_1, targets_1), (images_2, targets_2) in zip(one, two, strict=True):
        assert images_1.equal(images_2)
        assert targets_1.equal(targets_2)


def test_batches_have_the_promised_shapes_and_types(digits: tuple[DigitsSource, ...]) -> None:
    images, targets = draw(digits[0], 0, 1)[0]
    assert (images.shape, images.dtype) == ((32, 3, 16, 16), torch.float32)
    assert images.is_contiguous()
    assert (targets.shape, targets.dtype) == ((32,), torch.int64)


def test_batches_do_not_depend_on_the_number_of_workers(digits: tuple[DigitsSource, ...]) -> None:
    none = draw(digits[0], 0, 6)
    assert_same(none, draw(digits[0], 0, 6, workers=1))
    assert_same(none, draw(digits[0], 0, 6, workers=2))


def test_another_seed_gives_other_batches(digits: tuple[DigitsSource, ...]) -> None:
    assert not draw(digits[0], 0, 1)[0][0].equal(draw(digits[0], 0, 1, seed=5)[0][0])


def test_the_second_pass_augments_the_same_image_differently(
    digits: tuple[DigitsSource, ...],
) -> None:
    loader = TrainLoader(digits[0], SETTINGS, 0, 0)
    first, second = loader.batches(np.array([3]), 0, 1, 2, lambda step: RICH)
    assert not first[0].equal(second[0])


def test_stop_and_resume_at_any_sample_equals_the_straight_run(
    digits: tuple[DigitsSource, ...],
) -> None:
    straight = draw(digits[0], 0, 6)
    images, targets = (torch.cat(parts) for parts in zip(*straight, strict=True))
    for first_sample in (32, 64, 77, 89, 90, 128):  # a pass ends at 90
        resumed, labels = draw(digits[0], first_sample, 1)[0]
        assert resumed.equal(images[first_sample : first_sample + 32])
        assert labels.equal(targets[first_sample : first_sample + 32])


def test_two_ranks_together_are_one_process(digits: tuple[DigitsSource, ...]) -> None:
    whole = draw(digits[0], 0, 4)
    fractions = []
    for rank in (0, 1):
        loader = TrainLoader(digits[0], SETTINGS, 4, 0, rank=rank, world_size=2)
        fractions.append(list(loader.batches(INDICES, 0, 32, 4, lambda step: RICH)))
    joined = [
        (torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]])) for a, b in zip(*fractions, strict=True)
    ]
    assert_same(whole, joined)


def test_configs_change_within_a_call_inside_live_workers(two_workers: TrainLoader) -> None:
    configs = [
        InputConfig(8),
        InputConfig(8),
        InputConfig(16),
        InputConfig(16, "rand-m9-n4-inc1"),
        InputConfig(16, None, 1.0),
    ]
    list(two_workers.batches(INDICES, 0, 8, 4, lambda step: InputConfig(32)))
    before = {child.pid for child in multiprocessing.active_children()}
    batches = list(two_workers.batches(INDICES, 0, 8, 5, configs.__getitem__))
    assert [batch[0].shape[-1] for batch in batches] == [8, 8, 16, 16, 16]
    assert {child.pid for child in multiprocessing.active_children()} == before
    plain = list(two_workers.batches(INDICES, 0, 8, 5, lambda step: InputConfig(16)))
    assert batches[2][0].equal(plain[2][0])
    assert not batches[3][0].equal(plain[3][0])
    assert not batches[4][0].equal(plain[4][0])


def test_an_abandoned_iterator_leaves_nothing_behind(
    two_workers: TrainLoader, digits: tuple[DigitsSource, ...]
) -> None:
    expected = draw(digits[0], 32, 3)
    for consumed in (0, 1, 3):
        abandoned = two_workers.batches(INDICES, 0, 16, 20, lambda step: InputConfig(8))
        for _ in range(consumed):
            next(abandoned)
        assert_same(list(two_workers.batches(INDICES, 32, 32, 3, lambda step: RICH)), expected)
    with pytest.raises(AssertionError, match="given up"):
        next(abandoned)


def test_a_call_for_no_steps_gives_none_and_does_no_harm(two_workers: TrainLoader) -> None:
    assert list(two_workers.batches(INDICES, 0, 8, 0, lambda step: RICH)) == []
    assert len(list(two_workers.batches(INDICES, 0, 8, 2, lambda step: RICH))) == 2


def test_with_workers_the_generators_of_this_process_are_untouched(
    digits: tuple[DigitsSource, ...],
) -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = (
        random.getstate(),
        np.random.get_state(legacy=False)["state"]["key"].tolist(),
        torch.get_rng_state(),
    )
    draw(digits[0], 0, 3, workers=1)
    list(eval_batches(digits[1], SETTINGS, 16, 128, workers=1))
    after = (
        random.getstate(),
        np.random.get_state(legacy=False)["state"]["key"].tolist(),
        torch.get_rng_state(),
    )
    assert before[0] == after[0]
    assert before[1] == after[1]
    assert before[2].equal(after[2])


def test_close_ends_the_workers(digits: tuple[DigitsSource, ...]) -> None:
    before = {child.pid for child in multiprocessing.active_children()}
    loader = TrainLoader(digits[0], SETTINGS, 0, 2)
    batches = loader.batches(INDICES, 0, 8, 9, lambda step: RICH)
    next(batches)
    assert len({child.pid for child in multiprocessing.active_children()} - before) == 2
    loader.close()
    assert {child.pid for child in multiprocessing.active_children()} == before


def test_workers_outlive_the_signals_that_stop_a_job(two_workers: TrainLoader) -> None:
    before = {child.pid for child in multiprocessing.active_children()}
    batches = two_workers.batches(INDICES, 0, 8, 30, lambda step: RICH)
    next(batches)
    mine = {child.pid for child in multiprocessing.active_children()} - before
    assert len(mine) == 2
    for pid in mine:
        assert pid is not None
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
    assert len(list(batches)) == 29


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_stops_with_its_name_and_index(tmp_path: Path, workers: int) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "0.png")
    (tmp_path / "b" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    loader = TrainLoader(FolderSource(tmp_path), SETTINGS, 0, workers)
    with pytest.raises(RunError, match=r"b/1\.png: image 2 cannot be read") as caught:
        list(loader.batches(np.arange(3), 0, 3, 1, lambda step: InputConfig(8)))
    assert "\n" not in str(caught.value)
    loader.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_augmentation_string_is_a_config_error(
    digits: tuple[DigitsSource, ...], workers: int
) -> None:
    loader = TrainLoader(digits[0], SETTINGS, 0, workers)
    with pytest.raises(ConfigError, match="--aa"):
        list(loader.batches(INDICES, 0, 8, 2, lambda step: InputConfig(16, "rand-x1")))
    loader.close()


def test_eval_batches_keep_the_order_and_the_rest(digits: tuple[DigitsSource, ...]) -> None:
    batches = list(eval_batches(digits[1], SETTINGS, 32, 100, workers=0))
    assert [len(targets) for _, targets in batches] == [100, 100, 100, 60]
    assert torch.cat([t for _, t in batches]).tolist() == digits[1].targets.tolist()
    assert_same(batches, list(eval_batches(digits[1], SETTINGS, 32, 100, workers=2)))


def test_the_cached_slice_is_the_held_out_images(digits: tuple[DigitsSource, ...]) -> None:
    train, held = stratified_holdout(digits[0].targets, seed=0)
    batches = list(eval_batches(digits[0], SETTINGS, 16, 32, 0, indices=held))
    assert [len(targets) for _, targets in batches] == [32, 32, 7]
    assert torch.cat([t for _, t in batches]).tolist() == digits[0].targets[held].tolist()
    assert set(train) & set(held) == set()


def test_auto_workers_are_none_in_memory_and_at_most_the_cores(
    monkeypatch: pytest.MonkeyPatch, digits: tuple[DigitsSource, ...], tmp_path: Path
) -> None:
    folder = FolderSource(tmp_path)
    assert resolve_workers("auto", digits[0]) == 0
    assert resolve_workers(3, digits[0]) == 3
    assert resolve_workers("auto", digits[0], has_accelerator=True) > 0
    for cores, local_world_size, expected in [(2, 1, 2), (64, 1, 8), (8, 4, 2), (2, 4, 1)]:
        monkeypatch.setattr(
            os, "sched_getaffinity", lambda pid, n=cores: set(range(n)), raising=False
        )
        assert resolve_workers("auto", folder, local_world_size) == expected


def test_the_whole_way_from_the_default_source() -> None:
    data = open_data(DataSettings())
    train, _ = data.images
    loader = TrainLoader(train, SETTINGS, 0, 0)
    images, _ = next(loader.batches(np.arange(len(train)), 0, 4, 1, lambda step: InputConfig(32)))
    assert images.shape == (4, 3, 32, 32)
