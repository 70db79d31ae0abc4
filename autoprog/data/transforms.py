"""From a decoded image to a tensor: timm's transforms, in training and evaluation."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from timm.data import auto_augment, create_transform
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torchvision.transforms import Compose, RandomHorizontalFlip, RandomVerticalFlip

from autoprog.errors import ConfigError

__all__ = [
    "LOOKUPS",
    "THUMBNAIL_PX",
    "InputConfig",
    "Transform",
    "TransformSettings",
    "eval_transform",
    "normalize_",
    "policy_steps",
    "sample_seeds",
    "seed_sample",
    "train_transform",
]

Transform: TypeAlias = Callable[[Image.Image], Tensor]

# Square images up to this side are evaluated whole, whatever `crop_pct` says.
THUMBNAIL_PX = 64

# An image that is so many times as long as it is wide is cut before it is resized for an evaluation.
_MAX_ASPECT = 16


@dataclasses.dataclass(frozen=True, slots=True)
class InputConfig:
    """What a schedule changes about the images of a batch: their size and augmentation.

    Args:
        img_size: Side of the images, in pixels.
        aa: timm's AutoAugment or RandAugment string, such as ``rand-m9-mstd0.5-inc1``.
        reprob: Probability of random erasing.
    """

    img_size: int
    aa: str | None = None
    reprob: float = 0.0


@dataclasses.dataclass(frozen=True)
class TransformSettings:
    """What stays fixed over a run, by timm's names and with its defaults, but for DeiT's bicubic.

    Args:
        crop_pct: Part of the side that the evaluation crop keeps; timm's 0.875 when None.
    """

    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD
    interpolation: str = "bicubic"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3.0 / 4.0, 4.0 / 3.0)
    hflip: float = 0.5
    vflip: float = 0.0
    color_jitter: float | tuple[float, ...] | None = 0.4
    remode: str = "pixel"
    crop_pct: float | None = None


@lru_cache(maxsize=256)
def train_transform(config: InputConfig, settings: TransformSettings) -> Transform:
    """Return the random transform from an RGB image to a float32 tensor 3 x img_size x img_size.

    It draws from the global generators of ``random``, numpy and torch, as timm's transforms do: call
    :func:`seed_sample` before each image. Built once in each process.

    Raises:
        ConfigError: timm refuses ``config.aa``.
    """
    steps = _timm_train_steps(config, settings)
    steps.append(_Normalize(settings.mean, settings.std))
    if config.reprob > 0.0:
        steps.append(RandomErasing(config.reprob, mode=settings.remode, device="cpu"))
    return Compose(steps)


def policy_steps(config: InputConfig, settings: TransformSettings) -> list[Any]:
    """Return what timm does to the cropped and flipped PIL image.

    Raises:
        ConfigError: timm refuses ``config.aa``.
    """
    before = (RandomResizedCropAndInterpolation, RandomHorizontalFlip, RandomVerticalFlip)
    return [step for step in _timm_train_steps(config, settings) if not isinstance(step, before)]


def _timm_train_steps(config: InputConfig, settings: TransformSettings) -> list[Any]:
    """Return timm's steps on the PIL image, without its last one, the conversion to a tensor."""
    names = ("mean", "std", "interpolation", "scale", "ratio", "hflip", "vflip", "color_jitter")
    fixed = {name: getattr(settings, name) for name in names}
    try:
        chain = create_transform(
            config.img_size, is_training=True, auto_augment=config.aa, normalize=False, **fixed
        )
    except (AssertionError, KeyError, ValueError, IndexError) as error:
        problem = "must be an augmentation string that timm knows"
        hint = "for example 'rand-m9-mstd0.5-inc1', 'augmix-m3-w3' or 'v0'"
        raise ConfigError("--aa", "", problem, config.aa, hint) from error
    steps = list(chain.transforms[:-1])  # the last one makes a tensor, as _Normalize does
    for step in steps:
        operations: list[auto_augment.AugmentOp] = []
        if isinstance(step, auto_augment.AutoAugment):
            operations = [operation for policy in step.policy for operation in policy]
        elif isinstance(step, auto_augment.RandAugment | auto_augment.AugMixAugment):
            operations = step.ops
        for operation in operations:
            operation.aug_fn = LOOKUPS.get(operation.aug_fn, operation.aug_fn)
    return steps


@lru_cache(maxsize=64)
def eval_transform(img_size: int, settings: TransformSettings) -> Transform:
    """Return the fixed transform from an RGB image to a float32 tensor 3 x img_size x img_size.

    Photographs are resized to ``img_size / crop_pct`` and cropped to the centre. Square images of
    at most :data:`THUMBNAIL_PX` are resized straight to ``img_size``, or not at all: their object
    fills the frame, and enlarging 32 px to 36 to cut out 32 would only blur them.
    """
    # "random" is for training: an evaluation must not hang on a draw.
    interpolation = "bicubic" if settings.interpolation == "random" else settings.interpolation
    chain = create_transform(
        img_size, interpolation=interpolation, crop_pct=settings.crop_pct, normalize=False
    )
    resize = _EvalResize(img_size, Compose(chain.transforms[:-1]), interpolation)
    return Compose([resize, _Normalize(settings.mean, settings.std)])


class _EvalResize:
    """Resize thumbnails straight to the size, all other images by timm's chain."""

    def __init__(self, img_size: int, chain: Compose, interpolation: str) -> None:
        self._img_size, self._chain = img_size, chain
        self._resample = Image.Resampling[interpolation.upper()]

    def __call__(self, image: Image.Image) -> Image.Image:
        if image.width != image.height or image.width > THUMBNAIL_PX:
            longest = _MAX_ASPECT * min(image.size)
            if max(image.size) > longest:
                # The crop to the centre drops the ends anyway, but only after they were resized: 1 x 100,000
                # pixels would become 256 x 25,600,000.
                width, height = (min(side, longest) for side in image.size)
                left, top = (image.width - width) // 2, (image.height - height) // 2
                image = image.crop((left, top, left + width, top + height))
            return self._chain(image)
        if image.width == self._img_size:
            return image
        return image.resize((self._img_size, self._img_size), self._resample)


class _Normalize:
    """Turn an RGB image into (pixels / 255 - mean) / std, in two passes over the pixels.

    Measured at 32 px on one busy core: 24 us, against 52 us for torchvision's ToTensor and Normalize.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self._mean, self._scale = _mean_and_scale(mean, std)

    def __call__(self, image: Image.Image) -> Tensor:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # HW3 -> 3HW
        planes = torch.empty(pixels.shape)  # without it the result would keep the strides of HW3
        return torch.sub(pixels, self._mean, out=planes).mul_(self._scale)


def normalize_(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Turn pixels of 0 to 255 into (pixels / 255 - mean) / std, in place; float32 B x 3 x H x W."""
    mean_255, scale = _mean_and_scale(mean, std)
    images.sub_(mean_255).mul_(scale)


@lru_cache(maxsize=8)
def _mean_and_scale(mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    mean_255 = torch.tensor(mean, dtype=torch.float32).mul_(255.0).view(-1, 1, 1)
    return mean_255, (1.0 / (torch.tensor(std, dtype=torch.float32) * 255.0)).view(-1, 1, 1)


def seed_sample(seed: int, pass_number: int, index: int) -> None:
    """Seed the global CPU generators of ``random``, numpy and torch for one sample.

    Measured: 8 us. The generators of accelerators are left alone.
    """
    for_random, for_numpy, for_torch = sample_seeds(seed, pass_number, index)
    random.seed(for_random)
    np.random.seed(for_numpy)
    torch.default_generator.manual_seed(for_torch)


def sample_seeds(seed: int, pass_number: int, index: int) -> tuple[int, int, int]:
    """Return seeds for ``random``, numpy and torch (64, 32 and 63 bits), by a stable hash."""
    digest = hashlib.blake2b(struct.pack("<Qqq", seed, pass_number, index), digest_size=20).digest()
    for_random, for_torch, for_numpy = struct.unpack("<QQI", digest)
    return for_random, for_numpy, for_torch >> 1


# timm's augmentations that replace each value by another. timm and Pillow build each table in Python, value
# by value; made by numpy and kept, with the same result, measured at 16 px: 17 us instead of 60 us, and for
# the contrast, whose table hangs on the image, 50 us instead of 140 us.
_VALUES = np.arange(256)
_CHANNEL_STARTS = np.array([0, 256, 512])


def _look_up(image: Image.Image, tables: np.ndarray) -> Image.Image:
    """Replace the values of an RGB image by the 3 x 256 tables of its channels, or by one for all."""
    pixels = np.asarray(image)
    if tables.ndim == 1:
        return Image.fromarray(tables[pixels])
    return Image.fromarray(tables.reshape(-1)[pixels + _CHANNEL_STARTS])


def _by_table(values: Callable[..., np.ndarray]) -> Callable[..., Image.Image]:
    """Return a function of an image and levels that replaces each value v by `values(*levels)[v]`."""
    table = lru_cache(maxsize=512)(lambda *levels: _table(values(*levels)))

    def apply(image: Image.Image, *levels: int, **_: Any) -> Image.Image:
        return _look_up(image, table(*levels))

    return apply


def _table(values: np.ndarray) -> np.ndarray:
    table = values.clip(0, 255).astype(np.uint8)
    table.setflags(write=False)
    return table


def _auto_contrast(image: Image.Image, **_: Any) -> Image.Image:
    low, high = np.array(image.getextrema()).T[..., None]
    is_flat = high <= low
    scale = 255.0 / np.where(is_flat, 1, high - low)
    stretched = (_VALUES * scale + -low * scale).astype(np.int64)
    return _look_up(image, _table(np.where(is_flat, _VALUES, stretched)))


# What to call instead of timm's functions.
LOOKUPS: dict[Any, Callable[..., Image.Image]] = {
    auto_augment.invert: _by_table(lambda: 255 - _VALUES),
    auto_augment.solarize: _by_table(
        lambda threshold: np.where(threshold > _VALUES, _VALUES, 255 - _VALUES)
    ),
    auto_augment.solarize_add: _by_table(
        lambda added, threshold=128: np.where(threshold > _VALUES, _VALUES + added, _VALUES)
    ),
    # Also to 0 bits, which timm asks for and Pillow 13 refuses.
    auto_augment.posterize: _by_table(
        lambda bits: _VALUES & (256 - 2 ** (8 - min(max(bits, 0), 8)))
    ),
    auto_augment.auto_contrast: _auto_contrast,
}
