from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment, create_transform

from autoprog.data.transforms import (
    LOOKUPS,
    InputConfig,
    TransformSettings,
    eval_transform,
    seed_sample,
    train_transform,
)
from autoprog.errors import ConfigError

SETTINGS = TransformSettings()


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.RandomState(0).randint(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("aa", [None, "rand-m9-mstd0.5-inc1", "augmix-m3-w3", "v0"])
def test_train_transform_equals_timms_up_to_rounding(aa: str | None) -> None:
    ours = train_transform(InputConfig(24, aa, 0.5), SETTINGS)
    timms = create_transform(
        24, is_training=True, auto_augment=aa, re_prob=0.5, re_mode="pixel", interpolation="bicubic"
    )
    image, compared = picture(40, 30), 0
    for draw in range(12):
        seed_sample(0, draw, 0)
        result = ours(image)
        seed_sample(0, draw, 0)
        try:
            expected = timms(image)
        except ValueError:  # timm asks Pillow to posterize to 0 bits
            continue
        compared += 1
        torch.testing.assert_close(result, expected, atol=2e-6, rtol=0)
    assert compared > 6
    assert result.is_contiguous()
    assert result.dtype == torch.float32


@pytest.mark.parametrize("aa", ["rand-m10-inc1-n9", "rand-m0-n9", "v0"])
def test_posterizing_to_zero_bits_is_black_and_does_not_fail(aa: str) -> None:
    transform = train_transform(InputConfig(8, aa), SETTINGS)
    image = picture(8, 8)
    for draw in range(60):
        seed_sample(0, draw, 0)
        transform(image)


def test_posterize_of_the_strongest_magnitude_is_black() -> None:
    settings = TransformSettings(scale=(1.0, 1.0), ratio=(1.0, 1.0), hflip=0.0, mean=(0, 0, 0))
    steps = train_transform(InputConfig(8, "rand-m10-n1-inc1-p1"), settings).transforms  # type: ignore[attr-defined]
    operations = {op.name: op for step in steps for op in getattr(step, "ops", ())}
    assert operations["PosterizeIncreasing"].aug_fn(picture(8, 8), 0).getextrema() == ((0, 0),) * 3
    assert operations["PosterizeIncreasing"].aug_fn(Image.new("RGB", (8, 8), "white"), 1).getpixel(
        (0, 0)
    ) == (128, 128, 128)


def extreme_pictures() -> list[Image.Image]:
    rng = np.random.RandomState(0)
    noise = [rng.randint(low, high, (9, 16, 3)) for low, high in [(0, 256), (90, 130), (200, 256)]]
    flat = [np.full((8, 8, 3), value) for value in (0, 7, 255)]
    few = [rng.choice([0, 3, 250], (16, 16, 3)), rng.randint(0, 2, (40, 40, 3)) * 255]
    skewed = [(rng.rand(32, 32, 3) ** 8 * 256).astype(int), rng.randint(0, 256, (64, 64, 3)) // 3]
    mixed = [noise[0] * [1, 0, 0] + [0, 9, 0]]  # flat in two channels
    return [Image.fromarray(p.astype(np.uint8)) for p in noise + flat + few + skewed + mixed]


@pytest.mark.parametrize("name", ["auto_contrast", "invert"])
def test_tables_give_what_pillow_gives(name: str) -> None:
    timms = getattr(auto_augment, name)
    for image in extreme_pictures():
        assert LOOKUPS[timms](image, fillcolor=0).tobytes() == timms(image).tobytes()


@pytest.mark.parametrize("name", ["solarize", "solarize_add", "posterize"])
def test_tables_by_a_level_give_what_pillow_gives(name: str) -> None:
    timms = getattr(auto_augment, name)
    for image in extreme_pictures()[:3]:
        for level in range(1, 9) if name == "posterize" else [*range(0, 257, 8), 1, 129]:
            ours = LOOKUPS[timms](image, level, resample=3)
            assert ours.tobytes() == timms(image, level).tobytes()


def test_reprob_erases_and_zero_does_not() -> None:
    grey = Image.new("RGB", (16, 16), (124, 116, 104))
    plain = TransformSettings(color_jitter=None, remode="const", mean=(0, 0, 0), std=(1, 1, 1))
    seed_sample(0, 0, 0)
    assert torch.all(train_transform(InputConfig(16), plain)(grey) > 0)
    seed_sample(0, 0, 0)
    assert torch.any(train_transform(InputConfig(16, reprob=1.0), plain)(grey) == 0)


def test_transforms_are_built_once() -> None:
    assert train_transform(InputConfig(16), SETTINGS) is train_transform(
        InputConfig(16), TransformSettings()
    )
    assert eval_transform(16, SETTINGS) is eval_transform(16, TransformSettings())


def test_all_randomness_comes_from_the_seeds() -> None:
    transform, image = (
        train_transform(InputConfig(16, "rand-m9-mstd0.5-inc1", 1.0), SETTINGS),
        picture(40, 30),
    )
    results = []
    for noise in (0, 1):
        random.seed(noise), np.random.seed(noise), torch.manual_seed(noise)
        seed_sample(7, 3, 5)
        results.append(transform(image))
    assert results[0].equal(results[1])


@pytest.mark.parametrize("aa", ["rand-x9", "nonsense"])
def test_unknown_augmentation_is_refused(aa: str) -> None:
    with pytest.raises(ConfigError) as caught:
        train_transform(InputConfig(16, aa), SETTINGS)
    assert str(caught.value) == (
        f"--aa: must be an augmentation string that timm knows, but got {aa!r}; "
        "for example 'rand-m9-mstd0.5-inc1', 'augmix-m3-w3' or 'v0'"
    )


def test_photographs_are_evaluated_as_timm_does() -> None:
    image = picture(90, 70)
    timms = create_transform(48, interpolation="bicubic", crop_pct=0.9)
    ours = eval_transform(48, TransformSettings(crop_pct=0.9))
    torch.testing.assert_close(ours(image), timms(image), atol=2e-6, rtol=0)


def test_a_thumbnail_at_its_own_size_is_only_normalised() -> None:
    image = picture(32, 32)
    result = eval_transform(32, TransformSettings(mean=(0, 0, 0), std=(1, 1, 1)))(image)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    assert (result * 255).round().to(torch.uint8).equal(pixels)


@pytest.mark.parametrize("img_size", [16, 48])
def test_a_thumbnail_is_shown_whole_at_other_sizes(img_size: int) -> None:
    image = Image.new("RGB", (32, 32))
    image.paste((255, 255, 255), (0, 0, 32, 2))  # a border that a centre crop would cut away
    result = eval_transform(img_size, TransformSettings(mean=(0, 0, 0), std=(1, 1, 1)))(image)
    assert result.shape == (3, img_size, img_size)
    assert result[0, 0].min() > 0.8


def test_random_interpolation_is_for_training_alone() -> None:
    settings = TransformSettings(interpolation="random")
    bicubic = eval_transform(16, TransformSettings(interpolation="bicubic"))
    assert eval_transform(16, settings)(picture(32, 32)).equal(bicubic(picture(32, 32)))
