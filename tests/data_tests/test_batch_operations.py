"""RandAugment by batch: bit for bit what timm has Pillow make of each image."""

from __future__ import annotations

import copy
import platform
import random
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from timm.data import auto_augment

from autoprog.data.batch_augment import OPERATIONS, apply_policy
from autoprog.data.batch_crops import Draws, slide
from autoprog.data.transforms import InputConfig, TransformSettings, policy_steps

FUSES = platform.machine().lower() not in ("x86_64", "amd64")
"""Whether Pillow's compiler may have fused products and sums; then a blend may be off by one."""
EXTREMES = (0.0, 1e-9, 0.5, 5.0, 10.0, 30.0)
FILL = (124, 116, 104)
FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
BLACK_FROM_BITS = 1  # Pillow 13 refuses to keep no bits


def pictures(side: int, count: int) -> np.ndarray:
    """Noise, black and white, smooth, grey, of few values, and of one colour: uint8 N x 3 x P x P."""
    rng = np.random.RandomState(side)
    noise = rng.randint(0, 256, (count, 3, side, side), dtype=np.uint8)
    corners = noise[:, :, :3, :3].transpose(0, 2, 3, 1)
    for row, kind in enumerate(np.arange(count) % 6):
        if kind == 1:
            noise[row] = np.where(noise[row] > 127, 255, 0)
        elif kind == 2:
            small = Image.fromarray(np.ascontiguousarray(corners[row]))
            noise[row] = planes(small.resize((side, side), Image.Resampling.BICUBIC))
        elif kind == 3:
            noise[row] = noise[row, :1]
        elif kind == 4:
            noise[row] = noise[row] // 60 + rng.randint(0, 250)
        elif kind == 5:
            noise[row] = noise[row, :, :1, :1] if row % 2 else rng.choice([0, 255])
    return noise


def planes(image: Image.Image) -> np.ndarray:
    return np.asarray(image).transpose(2, 0, 1)


def picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def levels_of(name: str, count: int, seed: int) -> np.ndarray:
    """What timm hands to its function, for random and for extreme magnitudes."""
    level_of = auto_augment.LEVEL_TO_ARG[name]
    if level_of is None:
        return np.zeros(count)
    random.seed(seed)
    magnitudes = [*EXTREMES, *(random.uniform(0, 12) for _ in range(count - len(EXTREMES)))]
    random.shuffle(magnitudes)
    return np.array([level_of(magnitude, {})[0] for magnitude in magnitudes], dtype=float)


def by_timm(name: str, image: Image.Image, level: float) -> np.ndarray:
    if name.startswith("Posterize") and level < BLACK_FROM_BITS:
        return np.zeros((3, *image.size), np.uint8)
    arguments = () if auto_augment.LEVEL_TO_ARG[name] is None else (level,)
    if name.startswith(("Posterize", "Solarize")):
        arguments = tuple(int(argument) for argument in arguments)
    return planes(auto_augment.NAME_TO_OP[name](image, *arguments))


def assert_same(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.dtype == np.uint8
    assert np.abs(ours.astype(int) - theirs).max(initial=0) <= int(FUSES)


@pytest.mark.parametrize("side", [1, 2, 8, 16, 17, 33, 64, 96])
@pytest.mark.parametrize("name", list(OPERATIONS))
def test_an_operation_is_timms_bit_for_bit(name: str, side: int) -> None:
    pixels = pictures(side, 48)
    before = pixels.copy()
    levels = levels_of(name, 48, zlib.crc32(name.encode()) + side)
    ours = OPERATIONS[name](pixels, levels)
    theirs = [
        by_timm(name, picture(image), level)
        for image, level in zip(pixels, levels.tolist(), strict=True)
    ]
    assert_same(ours, np.stack(theirs))
    assert np.array_equal(pixels, before)


@pytest.mark.parametrize("name", list(OPERATIONS))
def test_an_operation_does_not_mix_images(name: str) -> None:
    pixels, levels = pictures(32, 30), levels_of(name, 30, 5)
    together = OPERATIONS[name](pixels, levels)
    for row in range(30):
        alone = OPERATIONS[name](pixels[row : row + 1], levels[row : row + 1])
        assert np.array_equal(alone[0], together[row])


SLIDES: dict[str, tuple[Callable[..., Image.Image], bool, bool]] = {
    "ShearX": (auto_augment.shear_x, True, False),
    "ShearY": (auto_augment.shear_y, True, True),
    "TranslateXRel": (auto_augment.translate_x_rel, False, False),
    "TranslateYRel": (auto_augment.translate_y_rel, False, True),
}
"""timm's function, whether the level is the slope, whether columns slide."""


def slide_levels(side: int) -> np.ndarray:
    """Usual and extreme levels, whole pixels, and what rounds to whole pixels for a part of a row."""
    rng = np.random.RandomState(side)
    whole = np.arange(-3, 4) / side
    nearly = np.concatenate([np.nextafter(whole, -9), np.nextafter(whole, 9), whole * (1 + 3e-16)])
    return np.concatenate([rng.uniform(-0.5, 0.5, 20), whole, nearly, [0.999, -1.0, 1.5, -7.0]])


@pytest.mark.parametrize("resample", FILTERS)
@pytest.mark.parametrize("side", [1, 8, 16, 20, 33, 96])
@pytest.mark.parametrize("name", list(SLIDES))
def test_a_slide_is_timms_bit_for_bit(name: str, side: int, resample: int) -> None:
    function, is_shear, is_down = SLIDES[name]
    fractions = slide_levels(side)
    pixels = pictures(side, len(fractions))
    before = pixels.copy()
    still = np.zeros(len(fractions))
    parts = [fractions, still] if is_shear else [still, fractions]
    levels = np.stack([*parts, np.full(len(fractions), float(is_down))], axis=1)
    is_bicubic = resample == Image.Resampling.BICUBIC
    ours = slide(pixels, levels, is_bicubic=is_bicubic, fill=FILL)
    for row, fraction in enumerate(fractions.tolist()):
        theirs = function(picture(pixels[row]), fraction, resample=resample, fillcolor=FILL)
        assert_same(ours[row], planes(theirs))
        alone = slide(
            pixels[row : row + 1], levels[row : row + 1], is_bicubic=is_bicubic, fill=FILL
        )
        assert np.array_equal(alone[0], ours[row])
    assert np.array_equal(pixels, before)


def one_by_one(pixels: np.ndarray, policy: Any, draws: Draws, first_slot: int) -> np.ndarray:
    """RandAugment with timm's operations on one Pillow image after another, by the same draws."""
    layers = policy.num_layers
    chances = draws.uniform(range(first_slot, first_slot + 2 * layers))
    result = pixels.copy()
    for row, image in enumerate(map(picture, pixels)):
        random.seed(int(draws.keys[row]))
        for choice, chance in zip(chances[row, :layers], chances[row, layers:], strict=True):
            operation = copy.copy(policy.ops[int(choice * len(policy.ops))])
            if chance <= operation.prob:
                operation.prob = 1.0
                image = operation(image)
        result[row] = planes(image)
    return result


POLICIES = (
    "rand-m2-mstd0.5-inc1",
    "rand-m5-mstd0.5-inc1",
    "rand-m9-mstd0.5",
    "rand-m10-inc1",
    "rand-m9-mstd101-n3-inc1-p0.9",
    "rand-m25-mmax30-mstd1-inc1",
    "rand-m7-mstd0.5-t3a",
)


@pytest.mark.skipif(
    FUSES, reason="a pixel that is off by one may be stretched by the next operation"
)
@pytest.mark.parametrize("interpolation", ["bicubic", "random"])
@pytest.mark.parametrize("aa", POLICIES)
def test_the_policy_is_timms_operations_one_by_one(aa: str, interpolation: str) -> None:
    settings = TransformSettings(interpolation=interpolation, color_jitter=None)
    for side in (9, 16, 32):
        pixels, passes = pictures(side, 150), np.arange(150) % 2
        draws = Draws.of(4, passes, np.arange(150))
        samples = (4, passes, np.arange(150))
        ours = apply_policy(pixels, InputConfig(side, aa), settings, draws, samples, 60)
        (policy,) = policy_steps(InputConfig(side, aa), settings)
        assert np.array_equal(ours, one_by_one(pixels, policy, draws, 60))
        assert 0.4 < (ours != pixels).any(axis=(1, 2, 3)).mean() < 1.0


@pytest.mark.parametrize("aa", POLICIES)
def test_the_policy_makes_the_same_of_an_image_whatever_its_batch(aa: str) -> None:
    config, settings, pixels = InputConfig(16, aa), TransformSettings(), pictures(16, 90)
    everything = np.arange(90)
    draws = Draws.of(4, everything, everything)

    def apply(rows: np.ndarray) -> np.ndarray:
        samples = (4, rows, rows)
        return apply_policy(pixels[rows], config, settings, draws[rows], samples, 60)

    together = apply(everything)
    order = np.random.RandomState(0).permutation(90)
    assert np.array_equal(apply(order), together[order])
    for row in range(0, 90, 4):
        assert np.array_equal(apply(everything[row : row + 1])[0], together[row])
