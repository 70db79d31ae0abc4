"""Augmenting by batch: Pillow's pixels, timm's distributions, and draws that depend on the sample alone."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torchvision.transforms import ColorJitter
from torchvision.transforms import functional as tvf

from autoprog.data.batch_augment import (
    BatchAugment,
    Jitter,
    apply_policy,
    draw_erasures,
    draw_jitter,
    erase_,
    jitter_,
)
from autoprog.data.batch_crops import (
    FILTERS,
    Crops,
    Draws,
    crop_and_resize,
    draw_crops,
    weight_table,
)
from autoprog.data.cache import CachedSource, in_memory
from autoprog.data.image_sources import open_digits
from autoprog.data.loader import TrainLoader, can_augment_by_batch
from autoprog.data.transforms import InputConfig, TransformSettings, policy_steps, seed_sample

SETTINGS = TransformSettings()
RICH = InputConfig(24, "rand-m9-mstd0.5-inc1", 0.5)
MANY = 20_000
FIRST_DRAWS = [0.1300857086, 0.4373184320]
SPLITMIX_OF_0 = 0xE220A8397B1DCDAF


class Pictures:
    """Noise of given (width, height)."""

    in_memory = True
    class_names = ("a", "b")

    def __init__(self, sizes: list[tuple[int, int]]) -> None:
        self.targets = np.arange(len(sizes)) % 2
        self._images = [noise(*size, seed) for seed, size in enumerate(sizes)]

    def __len__(self) -> int:
        return len(self.targets)

    def name(self, index: int) -> str:
        return f"noise {index}"

    def load(self, index: int) -> tuple[Image.Image, int]:
        return self._images[index], int(self.targets[index])


def noise(width: int, height: int, seed: int) -> Image.Image:
    """Half smooth, half extreme: bicubic filters overshoot on the latter."""
    rng = np.random.RandomState(seed)
    pixels = rng.randint(0, 256, (height, width, 3), dtype=np.uint8)
    if seed % 2:
        pixels = np.where(pixels > 127, 255, 0).astype(np.uint8)
    return Image.fromarray(pixels)


def planes(image: Image.Image) -> np.ndarray:
    return np.asarray(image).transpose(2, 0, 1)


def cached(sizes: list[tuple[int, int]]) -> CachedSource:
    source = Pictures(sizes)
    return CachedSource(
        source, in_memory(image for image, _ in map(source.load, range(len(sizes))))
    )


def many_draws(count: int = MANY) -> Draws:
    return Draws.of(0, np.zeros(count, np.int64), np.arange(count))


def assert_alike(one: Any, two: Any, tolerance: float = 0.03) -> None:
    """Compare two samples by the largest distance of their distribution functions.

    0.03 is the Kolmogorov-Smirnov bound at 0.003 % for 15,000 and 5,000 numbers.
    """
    first, second = np.sort(np.asarray(one, float)), np.sort(np.asarray(two, float))
    points = np.concatenate([first, second])
    gap = np.searchsorted(first, points, "right") / len(first)
    gap -= np.searchsorted(second, points, "right") / len(second)
    assert np.abs(gap).max() < tolerance


def test_draws_are_uniform_and_independent_and_the_same_in_every_version() -> None:
    chances = many_draws().uniform(range(6))
    assert chances.shape == (MANY, 6)
    assert chances.min() >= 0.0
    assert chances.max() < 1.0
    assert_alike(chances.reshape(-1), np.linspace(0, 1, 9999), 0.01)
    correlation = np.corrcoef(np.concatenate([chances[1:], chances[:-1]], axis=1).T)
    assert np.abs(correlation - np.eye(12)).max() < 0.03
    first = Draws.of(1, np.array([2]), np.array([3])).uniform([0, 1])[0]
    assert first == pytest.approx(FIRST_DRAWS, abs=1e-9)
    known = Draws(np.zeros(1, np.uint64)).uniform([0])
    assert known == (SPLITMIX_OF_0 >> 11) * 2.0**-53


def test_draws_depend_on_seed_pass_index_and_slot() -> None:
    def one(seed: int, number: int, index: int, slot: int) -> float:
        return float(Draws.of(seed, np.array([number]), np.array([index])).uniform([slot])[0, 0])

    keys = [(1, 2, 3, 4), (2, 1, 3, 4), (1, 3, 2, 4), (1, 2, 4, 3), (0, 2, 3, 4), (1, 2, 3, 5)]
    assert len({one(*key) for key in keys}) == len(keys)
    assert Draws.of(1, np.zeros(3, int), np.arange(3))[np.array([2])].uniform([7]) == one(
        1, 0, 2, 7
    )


def pillow_crop(image: Image.Image, box: np.ndarray, out_px: int, name: str) -> np.ndarray:
    mode = tvf.InterpolationMode(name)
    return np.asarray(tvf.resized_crop(image, *box.tolist(), [out_px, out_px], mode)).astype(int)


@pytest.mark.parametrize("name", list(FILTERS))
@pytest.mark.parametrize("out_px", [7, 16, 24, 32, 48])
@pytest.mark.parametrize("size", [(32, 32), (20, 33), (64, 41)])
def test_crops_are_resized_and_flipped_as_by_pillow(
    name: str, out_px: int, size: tuple[int, int]
) -> None:
    rng = np.random.RandomState(out_px)
    images = [noise(*size, seed) for seed in range(40)]
    extents = rng.randint(1, [size[1] + 1, size[0] + 1], (40, 2))
    extents[0] = size[1], size[0]
    corners = (rng.rand(40, 2) * ([size[1] + 1, size[0] + 1] - extents)).astype(int)
    boxes = np.concatenate([corners, extents], axis=1)
    hflip, vflip = rng.rand(2, 40) < 0.5
    crops = Crops(boxes, hflip, vflip, np.zeros(40, np.int64))
    pixels = np.stack([np.asarray(image) for image in images])
    ours = crop_and_resize(pixels, crops, out_px, (name,)).permute(0, 2, 3, 1).numpy().astype(int)
    off = []
    for row, image in enumerate(images):
        expected = pillow_crop(image, boxes[row], out_px, name)
        expected = expected[:, ::-1] if hflip[row] else expected
        expected = expected[::-1] if vflip[row] else expected
        off.append(np.abs(ours[row] - expected))
    assert np.max(off) <= 2
    assert np.mean(np.array(off) > 0) < 0.05


def test_each_image_has_its_own_filter() -> None:
    pixels = np.stack([np.asarray(noise(32, 32, 1))] * 2)
    box = np.array([[3, 4, 20, 11]] * 2)
    off = np.zeros(2, bool)
    both = crop_and_resize(pixels, Crops(box, off, off, np.array([0, 1])), 16, tuple(FILTERS))
    for row, name in enumerate(FILTERS):
        expected = torch.from_numpy(pillow_crop(noise(32, 32, 1), box[0], 16, name))
        assert (both[row].permute(1, 2, 0) - expected).abs().max() <= 2


@pytest.mark.parametrize("name", list(FILTERS))
@pytest.mark.parametrize("sides", [(64, 64), (64, 7), (33, 48), (5, 64)])
def test_weights_are_coarse_enough_for_exact_sums(name: str, sides: tuple[int, int]) -> None:
    table = weight_table((name,), *sides)
    assert np.array_equal(table * 2.0**15, np.rint(table * 2.0**15))
    assert np.abs(table.astype(float)).sum(axis=-1).max() < 2.0


def timms_boxes(size: tuple[int, int], scale: Any, ratio: Any, count: int) -> np.ndarray:
    random.seed(0)
    image = Image.new("RGB", size)
    get = RandomResizedCropAndInterpolation.get_params
    return np.array([get(image, scale, ratio) for _ in range(count)])


@pytest.mark.parametrize(
    ("size", "scale", "ratio"),
    [
        ((32, 32), (0.08, 1.0), (3 / 4, 4 / 3)),
        ((40, 21), (0.5, 1.0), (3 / 4, 4 / 3)),
        ((32, 32), (0.9, 1.0), (0.3, 0.5)),
        ((64, 8), (0.9, 1.0), (3 / 4, 4 / 3)),
        ((8, 64), (0.9, 1.0), (3 / 4, 4 / 3)),
    ],
    ids=["small crops", "wide image", "narrow crops", "too wide for any", "too tall for any"],
)
def test_boxes_are_distributed_as_timms(size: tuple[int, int], scale: Any, ratio: Any) -> None:
    sizes = np.tile([size[1], size[0]], (MANY, 1))
    boxes = draw_crops(many_draws(), sizes, scale, ratio, (0.5, 0.0), 1).boxes
    expected = timms_boxes(size, scale, ratio, 5000)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= sizes).all()
    for ours, theirs in zip(boxes.T, expected.T, strict=True):
        assert_alike(ours, theirs)
    assert_alike(boxes[:, 2] * boxes[:, 3], expected[:, 2] * expected[:, 3])
    assert_alike(boxes[:, 3] / boxes[:, 2], expected[:, 3] / expected[:, 2])


def test_flips_and_filters_come_as_often_as_asked() -> None:
    sizes = np.full((MANY, 2), 32)
    crops = draw_crops(many_draws(), sizes, (0.1, 1.0), (0.7, 1.4), (0.5, 0.2), 2)
    assert crops.hflip.mean() == pytest.approx(0.5, abs=0.02)
    assert crops.vflip.mean() == pytest.approx(0.2, abs=0.02)
    assert np.bincount(crops.filters) / MANY == pytest.approx([0.5, 0.5], abs=0.02)
    never = draw_crops(many_draws(), sizes, (0.1, 1.0), (0.7, 1.4), (0.0, 0.0), 1)
    always = draw_crops(many_draws(), sizes, (0.1, 1.0), (0.7, 1.4), (1.0, 1.0), 1)
    assert not (never.hflip | never.vflip).any()
    assert (always.hflip & always.vflip).all()


def test_jitter_is_drawn_as_torchvisions() -> None:
    jitter = draw_jitter(many_draws(), (0.4, 1.2, 0.0), 50)
    torch.manual_seed(0)
    theirs = ColorJitter(0.4, 1.2, 0.0)
    params = [
        ColorJitter.get_params(theirs.brightness, theirs.contrast, None, None) for _ in range(5000)
    ]
    for column in (0, 1):
        assert_alike(jitter.factors[:, column], [values[column + 1] for values in params])
    assert (jitter.factors[:, 2] == 1.0).all()
    orders, counts = np.unique(jitter.orders, axis=0, return_counts=True)
    assert len(orders) == 6
    assert counts / MANY == pytest.approx([1 / 6] * 6, abs=0.015)


def test_jitter_changes_colours_as_pillow_does() -> None:
    draws = many_draws(60)
    jitter = draw_jitter(draws, (0.6, 0.6, 0.6), 50)
    images = [noise(16, 16, seed) for seed in range(59)] + [Image.new("RGB", (16, 16), (99,) * 3)]
    ours = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    ours = ours.permute(0, 3, 1, 2).to(torch.float32).contiguous()
    jitter_(ours, jitter)
    enhance = (tvf.adjust_brightness, tvf.adjust_contrast, tvf.adjust_saturation)
    off = []
    for row, image in enumerate(images):
        for kind in jitter.orders[row]:
            image = enhance[kind](image, jitter.factors[row, kind])
        off.append(np.abs(ours[row].permute(1, 2, 0).numpy() - np.asarray(image)))
    assert np.max(off) <= 2  # 1 in a first step may be enlarged by the next two
    assert np.mean(np.array(off) > 0) < 0.005


def test_a_jitter_of_one_changes_nothing() -> None:
    images = torch.randint(0, 256, (4, 3, 8, 8)).float()
    before = images.clone()
    jitter_(images, Jitter(np.ones((4, 3)), np.tile([2, 0, 1], (4, 1))))
    assert images.equal(before)


@pytest.mark.parametrize("count", [1, 3])
def test_boxes_to_erase_are_distributed_as_timms(count: int) -> None:
    found: list[tuple[int, ...]] = []

    class Recorder:
        def __setitem__(self, place: tuple[slice, ...], value: Tensor) -> None:
            _, rows, columns = place
            found.append((rows.start, columns.start, rows.stop - rows.start, value.shape[2]))

    random.seed(0)
    eraser = RandomErasing(0.4, mode="pixel", max_count=count, device="cpu")
    for _ in range(MANY):
        eraser._erase(Recorder(), 3, 32, 32, torch.float32)
    boxes = draw_erasures(many_draws(), 0.4, count, 32, 100)
    assert len(boxes) == pytest.approx(len(found), rel=0.05)
    erased = len(np.unique(boxes[:, 0])) / MANY
    assert erased == pytest.approx(0.4, abs=0.015)
    assert (np.diff(boxes[:, 0]) >= 0).all()
    for ours, theirs in zip(boxes[:, 1:].T, np.array(found).T, strict=True):
        assert_alike(ours, theirs)


@pytest.mark.parametrize("mode", ["const", "rand", "pixel"])
def test_erasing_fills_the_box_and_nothing_else(mode: str) -> None:
    images = torch.full((3, 3, 32, 32), 9.0)
    boxes = np.array([[0, 2, 3, 20, 22], [2, 0, 0, 5, 6], [2, 8, 8, 16, 16]])
    erase_(images, boxes, mode, many_draws(3))
    kept = torch.ones(3, 32, 32, dtype=torch.bool)
    for row, top, left, height, width in boxes.tolist():
        kept[row, top : top + height, left : left + width] = False
    assert (images.permute(0, 2, 3, 1)[kept] == 9.0).all()
    patch = images[0, :, 2:22, 3:25]
    if mode == "const":
        assert (patch == 0).all()
    elif mode == "rand":
        assert (patch == patch[:, :1, :1]).all()
        assert len(patch.unique()) == 3
        assert not patch[:, 0, 0].equal(images[2, :, 0, 0])
    else:
        assert patch.mean().item() == pytest.approx(0.0, abs=0.1)
        assert patch.std().item() == pytest.approx(1.0, abs=0.1)


def policy_names(source: Any) -> list[str]:
    return [operation.name for operation in source.ops]


def test_randaugment_applies_as_many_operations_and_the_same_ones_as_timm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from timm.data.auto_augment import AugmentOp

    names: list[str] = []
    apply = AugmentOp.__call__

    def note(self: AugmentOp, image: Image.Image) -> Image.Image:
        if self.prob < 1.0 and random.random() > self.prob:
            return image
        names.append(self.name)
        certain = copy.copy(self)
        certain.prob = 1.0
        return apply(certain, image)

    monkeypatch.setattr(AugmentOp, "__call__", note)
    config = InputConfig(4, "rand-m9-mstd0.5-inc1-n3")
    draws, pixels = many_draws(4000), np.zeros((4000, 3, 4, 4), np.uint8)
    apply_policy(pixels, config, SETTINGS, draws, (0, np.zeros(1), np.zeros(1)), 60)
    ours, names = names, []
    (policy,) = policy_steps(config, SETTINGS)
    random.seed(0), np.random.seed(0)
    for _ in range(4000):
        policy(Image.new("RGB", (4, 4)))
    assert len(ours) == pytest.approx(6000, rel=0.03)
    assert len(names) == pytest.approx(6000, rel=0.03)
    assert set(ours) == set(names) == set(policy_names(policy))
    for name in set(names):
        assert ours.count(name) == pytest.approx(400, rel=0.25)


def test_randaugment_is_timms_operations_on_pixels() -> None:
    config = InputConfig(16, "rand-m9-n1-inc1")
    pixels = np.stack([planes(noise(16, 16, seed)) for seed in range(200)])
    draws = many_draws(200)
    ours = apply_policy(pixels, config, SETTINGS, draws, (0, np.zeros(1), np.zeros(1)), 60)
    changed = (ours != pixels).any(axis=(1, 2, 3))
    assert 0.3 < changed.mean() < 0.55
    (policy,) = policy_steps(config, SETTINGS)
    for row in np.flatnonzero(changed)[:40]:
        results = []
        for operation in policy.ops:
            operation.prob = 1.0
            random.seed(int(draws.keys[row]))
            results.append(planes(operation(noise(16, 16, int(row)))))
        assert any(np.array_equal(result, ours[row]) for result in results)


@pytest.mark.parametrize("aa", ["augmix-m3-w3", "v0", "3a", "rand-m9-tweights"])
def test_other_policies_are_timms_on_the_crop_with_the_samples_own_seeds(aa: str) -> None:
    pixels = np.stack([planes(noise(16, 16, seed)) for seed in range(6)])
    passes, indices = np.array([0, 0, 1, 1, 2, 2]), np.array([5, 6, 5, 6, 5, 6])
    draws = Draws.of(9, passes, indices)
    config = InputConfig(16, aa)
    ours = apply_policy(pixels, config, SETTINGS, draws, (9, passes, indices), 60)
    for row in range(6):
        image: Any = noise(16, 16, row)
        seed_sample(9, int(passes[row]), int(indices[row]))
        for step in policy_steps(config, SETTINGS):
            image = step(image)
        assert np.array_equal(planes(image), ours[row])


CONFIGS = [
    InputConfig(16),
    InputConfig(24, reprob=0.7),
    RICH,
    InputConfig(20, "augmix-m3-w3", 0.3),
    InputConfig(20, "v0"),
]


@pytest.mark.parametrize("config", CONFIGS, ids=["jitter", "erase", "rand", "augmix", "v0"])
@pytest.mark.parametrize(
    "sizes",
    [[(32, 32)] * 40, [(30 + n % 7, 33 - n % 5) for n in range(40)]],
    ids=["one size", "many sizes"],
)
def test_a_sample_is_the_same_alone_and_in_any_batch(
    config: InputConfig, sizes: list[tuple[int, int]]
) -> None:
    settings = TransformSettings(interpolation="random", vflip=0.3)
    augment = BatchAugment(cached(sizes), settings, 3)
    indices, passes = np.arange(40), np.arange(40) % 3
    together = augment(indices, passes, config)
    assert together.shape == (40, 3, config.img_size, config.img_size)
    assert together.is_contiguous()
    order = np.random.RandomState(0).permutation(40)
    assert augment(indices[order], passes[order], config).equal(together[order])
    for row in range(0, 40, 7):
        alone = augment(indices[row : row + 1], passes[row : row + 1], config)
        assert alone[0].equal(together[row])


def test_a_large_batch_is_the_same_as_its_parts() -> None:
    augment = BatchAugment(cached([(12, 12)] * 300), SETTINGS, 3)
    indices, passes = np.arange(300), np.zeros(300, np.int64)
    whole = augment(indices, passes, InputConfig(8, reprob=0.5))
    assert whole.is_contiguous()
    for rows in (slice(0, 100), slice(100, 290), slice(290, 300)):
        assert whole[rows].equal(augment(indices[rows], passes[rows], InputConfig(8, reprob=0.5)))


@pytest.mark.parametrize("threads", [1, 2])
def test_pixels_do_not_depend_on_the_number_of_threads(threads: int) -> None:
    augment = BatchAugment(cached([(32, 32)] * 64), SETTINGS, 3)
    indices, passes = np.arange(64), np.zeros(64, np.int64)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        result = augment(indices, passes, InputConfig(24, reprob=0.5))
    finally:
        torch.set_num_threads(before)
    assert result.equal(augment(indices, passes, InputConfig(24, reprob=0.5)))


def draw(source: CachedSource, first: int, steps: int, workers: int) -> list[tuple[Tensor, Tensor]]:
    loader = TrainLoader(source, SETTINGS, 4, workers)
    batches = list(loader.batches(np.arange(5, 95), first, 32, steps, lambda step: RICH))
    loader.close()
    return batches


def test_batches_are_the_same_for_any_workers_and_from_any_entry_point() -> None:
    source = cached([(32, 32)] * 100)
    straight = draw(source, 0, 6, 0)
    for workers in (1, 2):
        for one, two in zip(straight, draw(source, 0, 6, workers), strict=True):
            assert one[0].equal(two[0])
            assert one[1].equal(two[1])
    images, targets = (torch.cat(parts) for parts in zip(*straight, strict=True))
    for first in (32, 77, 89, 90):  # a pass ends at 90
        resumed, labels = draw(source, first, 1, 0)[0]
        assert resumed.equal(images[first : first + 32])
        assert labels.equal(targets[first : first + 32])


def test_which_sources_and_settings_are_augmented_by_batch() -> None:
    digits, _ = open_digits()
    small, large = cached([(96, 40)] * 3), cached([(97, 40)] * 3)
    assert can_augment_by_batch(small, SETTINGS)
    assert not can_augment_by_batch(digits, SETTINGS)
    assert not can_augment_by_batch(large, SETTINGS)
    assert not can_augment_by_batch(small, TransformSettings(interpolation="lanczos"))
    assert not can_augment_by_batch(small, TransformSettings(color_jitter=(0.1, 0.1, 0.1, 0.1)))
    assert can_augment_by_batch(small, TransformSettings(color_jitter=(0.1, 0.1, 0.1)))
    assert (small.in_memory, large.in_memory) == (True, False)


def test_large_images_are_augmented_one_by_one_from_the_cache() -> None:
    source = Pictures([(120, 70)] * 6)
    held = CachedSource(source, in_memory(source.load(index)[0] for index in range(6)))
    batches = [
        list(TrainLoader(one, SETTINGS, 4, 0).batches(np.arange(6), 0, 3, 2, lambda step: RICH))
        for one in (source, held)
    ]
    assert all(a[0].equal(b[0]) for a, b in zip(*batches, strict=True))


STATISTICS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda images: images.mean(dim=(1, 2, 3)),
    "spread": lambda images: images.std(dim=(1, 2, 3)),
    "red": lambda images: images[:, 0].mean(dim=(1, 2)),
    "left minus right": lambda images: (images[..., :8] - images[..., 8:]).mean(dim=(1, 2, 3)),
    "corner": lambda images: images[:, 1, 0, 0],
    "roughness": lambda images: images.diff(dim=3).abs().mean(dim=(1, 2, 3)),
}


@pytest.mark.parametrize(
    "config",
    [InputConfig(16), InputConfig(16, "rand-m9-mstd0.5-inc1", 0.5)],
    ids=["jitter", "rand and erase"],
)
def test_images_are_distributed_as_without_the_cache(config: InputConfig) -> None:
    digits, _ = open_digits()
    held = CachedSource(digits, in_memory(digits.load(index)[0] for index in range(len(digits))))
    drawn = []
    for source in (digits, held):
        loader = TrainLoader(source, SETTINGS, 4, 0)
        batches = loader.batches(np.arange(len(digits)), 0, 479, 6, lambda step: config)
        drawn.append(torch.cat([images for images, _ in batches]))
    for name, statistic in STATISTICS.items():
        gap = math.sqrt(2 / len(drawn[0])) * 2.1  # Kolmogorov-Smirnov at 0.03 %
        assert_alike(*(statistic(images) for images in drawn), gap), name
