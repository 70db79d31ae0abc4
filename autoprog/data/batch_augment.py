"""timm's training transform for a whole batch of decoded thumbnails: the same distribution, drawn together.

Measured at 32 px: 1 to 8 times as many images a second as one by one. Legend: B images of a batch, N images
of a group that get the same operation, P x P pixels after the crop.
"""

from __future__ import annotations

import copy
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import permutations
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import RandAugment
from torch import Tensor

from autoprog.data.batch_crops import CROP_SLOTS, FILTERS, Draws, crop_and_resize, draw_crops, slide
from autoprog.data.transforms import (
    InputConfig,
    TransformSettings,
    normalize_,
    policy_steps,
    seed_sample,
)

__all__ = [
    "OPERATIONS",
    "BatchAugment",
    "Change",
    "Jitter",
    "Operation",
    "Thumbnails",
    "apply_policy",
    "draw_erasures",
    "draw_jitter",
    "erase_",
    "jitter_",
    "paste_changed",
]

# Where in a sample's draws each step begins; a policy takes two slots for each of its layers.
_JITTER_SLOT = CROP_SLOTS
_POLICY_SLOT = _JITTER_SLOT + 4
_ERASE_SLOT = 2**16

# Images at a time: what is computed in between takes several times the memory of the result.
_MAX_AT_ONCE = 256


class Thumbnails(Protocol):
    """Decoded images that can be read many at a time."""

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return pixels, uint8 B x H x W x 3, and (height, width) of each, int64 B x 2."""


@dataclass(frozen=True)
class BatchAugment:
    """timm's training transform for a batch: the same distribution, drawn and computed together.

    What a sample becomes depends on (seed, pass, index, config) alone.

    Args:
        source: Thumbnails.
        settings: What stays fixed over the run.
        seed: Of the run.
    """

    source: Thumbnails
    settings: TransformSettings
    seed: int

    def __call__(self, indices: np.ndarray, passes: np.ndarray, config: InputConfig) -> Tensor:
        """Return images, float32 B x 3 x P x P.

        Args:
            indices: Numbers of readable images, int64 B.
            passes: Number of the pass of each, int64 B.
            config: Their size and augmentation.
        """
        if len(indices) <= _MAX_AT_ONCE:
            return self._some(indices, passes, config)
        starts = range(0, len(indices), _MAX_AT_ONCE)
        parts = [slice(start, start + _MAX_AT_ONCE) for start in starts]
        return torch.cat([self._some(indices[part], passes[part], config) for part in parts])

    def _some(self, indices: np.ndarray, passes: np.ndarray, config: InputConfig) -> Tensor:
        fixed, draws = self.settings, Draws.of(self.seed, passes, indices)
        is_random = fixed.interpolation == "random"
        filters = tuple(FILTERS) if is_random else (fixed.interpolation,)
        thumbnails, sizes = self.source.gather(indices)
        rates = (fixed.hflip, fixed.vflip)
        crops = draw_crops(draws, sizes, fixed.scale, fixed.ratio, rates, len(filters))
        images = crop_and_resize(thumbnails, crops, config.img_size, filters)
        jitter = fixed.color_jitter or 0.0
        strengths = jitter if isinstance(jitter, tuple) else (jitter, jitter, jitter)
        if config.aa is not None:  # as in timm, in place of the colour jitter
            samples = (self.seed, passes, indices)
            pixels = images.to(torch.uint8).numpy()
            changed = apply_policy(pixels, config, fixed, draws, samples, _POLICY_SLOT)
            images.copy_(torch.from_numpy(changed))
        elif any(strengths):
            jitter_(images, draw_jitter(draws, strengths, _JITTER_SLOT))
        normalize_(images, fixed.mean, fixed.std)
        if config.reprob > 0.0:
            boxes = draw_erasures(draws, config.reprob, 1, config.img_size, _ERASE_SLOT)
            erase_(images, boxes, fixed.remode, draws)
        return images


# --------------------------------------------------------------------------------------------------
# Colour jitter: brightness, contrast and saturation, as torchvision has Pillow do it.

_BRIGHTNESS, _CONTRAST, _SATURATION = range(3)
_ORDERS = np.array(list(permutations(range(3))))
_LUMA = (19595.0, 38470.0, 7471.0)  # Pillow's, in units of 2^-16; sums of 8-bit pixels are exact
_EPSILON = 2.0**-13  # so that rounding errors do not make 99 of what must be 100


@dataclass(frozen=True)
class Jitter:
    """How the colours of B images change.

    Args:
        factors: Of brightness, contrast and saturation; float64 B x 3.
        orders: Which of the three comes first, second and last; int64 B x 3.
    """

    factors: np.ndarray
    orders: np.ndarray


def draw_jitter(draws: Draws, strengths: tuple[float, ...], first_slot: int) -> Jitter:
    """Draw what torchvision's ColorJitter would.

    Args:
        draws: Of B samples.
        strengths: Of brightness, contrast and saturation; factors lie so far around 1, at least at 0.
        first_slot: Four slots of the draws are taken from here.
    """
    chances = draws.uniform(range(first_slot, first_slot + 4))
    low = np.maximum(1.0 - np.array(strengths), 0.0)
    high = 1.0 + np.array(strengths)
    return Jitter(
        factors=low + (high - low) * chances[:, :3],
        orders=_ORDERS[(chances[:, 3] * len(_ORDERS)).astype(np.int64)],
    )


def jitter_(images: Tensor, jitter: Jitter) -> None:
    """Change colours in place.

    Each of the three blends the image with another: with black, with its mean grey, with its own grey
    version. As in Pillow every step is cut to whole numbers from 0 to 255.

    Args:
        images: Whole numbers from 0 to 255, float32 B x 3 x H x W.
        jitter: What to do.
    """
    batch = len(images)
    flat = images.view(batch, 3, -1)
    luma = torch.tensor(_LUMA).view(1, 1, 3).expand(batch, 1, 3)
    for place in range(3):
        kinds = jitter.orders[:, place]
        factors = _column(jitter.factors[np.arange(batch), kinds])
        grey = torch.bmm(luma, flat).add_(32768.0).mul_(2.0**-16).floor_()
        mean_grey = grey.mean(dim=2, keepdim=True).add_(0.5).floor_()
        # What the image is blended with: its grey version, its mean grey or, of neither kind, black.
        other = grey.mul_(_column(kinds == _SATURATION))
        other.add_(mean_grey.mul_(_column(kinds == _CONTRAST)))
        other.mul_(1.0 - factors).add_(_EPSILON)
        flat.mul_(factors).add_(other).clamp_(0.0, 255.0).floor_()


def _column(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).view(-1, 1, 1)


# --------------------------------------------------------------------------------------------------
# Random erasing, distributed as timm's RandomErasing draws it: by default a box of 2 to 33 % of the area, of
# aspect 0.3 to 1 / 0.3, in at most 10 tries.

_TRIES, _PER_TRY = 10, 4
_LOW_AREA, _HIGH_AREA, _LOW_ASPECT = 0.02, 1 / 3, 0.3


def draw_erasures(
    draws: Draws, probability: float, max_boxes: int, img_size: int, first_slot: int
) -> np.ndarray:
    """Draw the boxes to erase; return (number of the sample, top, left, height, width), int64 K x 5.

    Args:
        draws: Of B samples.
        probability: That anything is erased in a sample.
        max_boxes: Each gets one to so many boxes, which are the smaller the more they are.
        img_size: Side of the images, in pixels.
        first_slot: All slots of the draws from here on may be taken.
    """
    chances = draws.uniform((first_slot, first_slot + 1))
    rows = np.flatnonzero(chances[:, 0] <= probability)
    counts = 1 + (chances[rows, 1] * max_boxes).astype(np.int64)
    found = [np.empty((0, 5), np.int64)]
    for number in range(max_boxes):
        wanted = rows[counts > number]
        slot = first_slot + 2 + number * _TRIES * _PER_TRY
        found.append(_draw_boxes(draws, wanted, counts[counts > number], img_size, slot))
    boxes = np.concatenate(found)
    return boxes[np.argsort(boxes[:, 0], kind="stable")]


def _draw_boxes(
    draws: Draws, rows: np.ndarray, counts: np.ndarray, img_size: int, first_slot: int
) -> np.ndarray:
    """Return a box for each row, but for those where none of the tries fits."""
    found = [np.empty((0, 5), np.int64)]
    for attempt in range(_TRIES):
        slot = first_slot + attempt * _PER_TRY
        chances = draws[rows].uniform(range(slot, slot + _PER_TRY))
        areas = (_LOW_AREA + (_HIGH_AREA - _LOW_AREA) * chances[:, 0]) * img_size**2 / counts
        root = np.exp(np.log(_LOW_ASPECT) * (0.5 - chances[:, 1]))
        sides = np.sqrt(areas)
        extents = np.rint(np.stack([sides * root, sides / root], 1)).astype(np.int64)
        fits = (extents < img_size).all(axis=1)
        corners = (chances[:, 2:] * (img_size - extents + 1)).astype(np.int64)
        found.append(np.concatenate([rows[:, None], corners, extents], axis=1)[fits])
        rows, counts = rows[~fits], counts[~fits]
        if len(rows) == 0:
            break
    return np.concatenate(found)


def erase_(images: Tensor, boxes: np.ndarray, mode: str, draws: Draws) -> None:
    """Erase in place.

    Args:
        images: Normalised, float32 B x 3 x H x W.
        boxes: As :func:`draw_erasures` gives them.
        mode: ``const`` for 0, ``rand`` for one normal colour a box, ``pixel`` for one a pixel.
        draws: Of the B samples; seed the colours.
    """
    pixels, generator, last_row = images.numpy(), torch.Generator(), -1
    for row, top, left, height, width in boxes.tolist():
        target = pixels[row, :, top : top + height, left : left + width]
        if mode == "const":
            target[:] = 0.0
            continue
        if row != last_row:
            generator.manual_seed(int(draws.keys[row] >> np.uint64(1)))
            last_row = row
        shape = (3, height, width) if mode == "pixel" else (3, 1, 1)
        target[:] = torch.empty(shape).normal_(generator=generator).numpy()


# --------------------------------------------------------------------------------------------------
# timm's augmentations that keep every pixel in its place, for a group of images at once.
#
# Each function gives bit for bit what timm has Pillow make of the images one by one, where compilers
# do not fuse a product and a sum (x86-64); elsewhere a blend may be off by one. Images are planes, uint8
# N x 3 x H x W, and each has its own level, float64 N: the argument that timm hands on. Nothing is changed in
# place.

Operation: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]

_LUMA_ROW = np.array([_LUMA], dtype=np.float32)
_SOLARIZE_ADD_BELOW = 128


def auto_contrast(pixels: np.ndarray, _: np.ndarray) -> np.ndarray:
    """Stretch each channel to 0..255: trunc(v s - low s) with s = 255 / (high - low), in doubles."""
    flat = pixels.reshape(len(pixels), 3, -1)
    low = flat.min(axis=2, keepdims=True).astype(np.float64)
    span = flat.max(axis=2, keepdims=True) - low
    scale = np.where(span > 0, 255.0 / np.maximum(span, 1.0), 1.0)
    values = flat * scale
    values += np.where(span > 0, -low * scale, 0.0)
    return _to_8_bits(values).reshape(pixels.shape)


def equalize(pixels: np.ndarray, _: np.ndarray) -> np.ndarray:
    """Make the histogram of each channel even.

    A value becomes (step // 2 + number of smaller values) // step, at most 255, where step is a 255th
    of the pixels, without those of the highest value. A channel with step 0 is left as it is.
    """
    planes = pixels.reshape(len(pixels) * 3, -1)
    highest = planes.max(axis=1, keepdims=True)
    steps = (planes.shape[1] - np.count_nonzero(planes == highest, axis=1)) // 255
    rows = np.flatnonzero(steps)
    result = planes.copy()
    if len(rows):
        steps = steps[rows, None]
        places = planes[rows] + 256 * np.arange(len(rows))[:, None]
        counts = np.bincount(places.reshape(-1), minlength=256 * len(rows)).reshape(-1, 256)
        smaller = np.cumsum(counts, axis=1) - counts
        tables = np.minimum((steps // 2 + smaller) // steps, 255).astype(np.uint8)
        result[rows] = tables.reshape(-1)[places]
    return result.reshape(pixels.shape)


def invert(pixels: np.ndarray, _: np.ndarray) -> np.ndarray:
    """255 - v."""
    return ~pixels


def posterize(pixels: np.ndarray, bits_to_keep: np.ndarray) -> np.ndarray:
    """Keep so many of the highest bits: all from 8 on, none from 0 down."""
    dropped = 8 - bits_to_keep.clip(0, 8).astype(np.int64)
    return pixels & _each(256 - 2**dropped).astype(np.uint8)


def solarize(pixels: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """v below the threshold, 255 - v from there on."""
    return np.where(pixels < _each(thresholds).astype(np.int16), pixels, ~pixels)


def solarize_add(pixels: np.ndarray, added: np.ndarray) -> np.ndarray:
    """min(v + added, 255) for v < 128, else v."""
    added_8_bits = _each(added).astype(np.uint8)  # timm adds 128 at most, so that nothing overflows
    return pixels + added_8_bits * (pixels < _SOLARIZE_ADD_BELOW)


def color(pixels: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Blend with the grey version."""
    return _blend(_grey(pixels), pixels, factors)


def contrast(pixels: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Blend with the mean of the grey version, rounded."""
    means = _grey(pixels).mean(axis=(1, 2, 3), dtype=np.float64)
    return _blend(_each(np.floor(means + 0.5)).astype(np.float32), pixels, factors)


def brightness(pixels: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Blend with black."""
    return _blend(np.zeros((1, 1, 1, 1), dtype=np.float32), pixels, factors)


def sharpness(pixels: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Blend with the version smoothed by weights of 1, and 5 in the centre, over 13.

    Borders stay. Pillow rounds sums of floats, which are never near to half a unit: s / 13 is not.
    """
    whole = pixels.astype(np.uint16)
    inner = whole[:, :, 1:-1, 1:-1]
    threes = whole[:, :, :-2] + whole[:, :, 1:-1] + whole[:, :, 2:]
    sums = threes[..., :-2] + threes[..., 1:-1] + threes[..., 2:] + 4 * inner
    smooth = pixels.astype(np.float32)
    smooth[:, :, 1:-1, 1:-1] = (sums + 6) // 13
    return _blend(smooth, pixels, factors)


def _blend(grounds: np.ndarray, pixels: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Return ground + factor (v - ground) in single precision, clipped and truncated."""
    values = pixels.astype(np.float32)
    values -= grounds
    values *= _each(factors).astype(np.float32)
    values += grounds
    return _to_8_bits(values)


def _grey(pixels: np.ndarray) -> np.ndarray:
    """Return Pillow's conversion to L, as float32 N x 1 x H x W; the sums of products are exact."""
    batch, _, height, width = pixels.shape
    grey = np.matmul(_LUMA_ROW, pixels.reshape(batch, 3, -1).astype(np.float32))
    grey += np.float32(2**15)
    grey *= np.float32(2**-16)
    return np.floor(grey, out=grey).reshape(batch, 1, height, width)


def _each(levels: np.ndarray) -> np.ndarray:
    return levels.reshape(-1, 1, 1, 1)


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0.0, 255.0, out=values).astype(np.uint8)


# What to call on a group of images, by timm's name of the operation.
OPERATIONS: dict[str, Operation] = {
    "AutoContrast": auto_contrast,
    "Equalize": equalize,
    "Invert": invert,
    "Posterize": posterize,
    "PosterizeIncreasing": posterize,
    "PosterizeOriginal": posterize,
    "Solarize": solarize,
    "SolarizeIncreasing": solarize,
    "SolarizeAdd": solarize_add,
    "Color": color,
    "ColorIncreasing": color,
    "Contrast": contrast,
    "ContrastIncreasing": contrast,
    "Brightness": brightness,
    "BrightnessIncreasing": brightness,
    "Sharpness": sharpness,
    "SharpnessIncreasing": sharpness,
}


# --------------------------------------------------------------------------------------------------
# timm's augmentation policies (RandAugment, AutoAugment, AugMix) on a batch of cropped images.

# What Pillow does to an image.
Change: TypeAlias = Callable[[Image.Image], Image.Image]
_Function: TypeAlias = Callable[[np.ndarray, Any], np.ndarray]

_MOVES = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
_FILTERS = {Image.Resampling.BILINEAR, Image.Resampling.BICUBIC}


def apply_policy(
    pixels: np.ndarray,
    config: InputConfig,
    settings: TransformSettings,
    draws: Draws,
    samples: tuple[int, np.ndarray, np.ndarray],
    first_slot: int,
) -> np.ndarray:
    """Return the images after the policy, uint8 B x 3 x P x P.

    RandAugment without weights takes its choice of operations from the draws, so that images without
    any, a quarter by default, cost nothing; what an operation itself draws comes from the global
    generator of ``random``, seeded for each image. If all its operations are known they are done
    together, else Pillow works on the images one by one, as timm has it do. So it does for other
    policies, which get all three global generators seeded.

    Args:
        pixels: uint8 B x 3 x P x P.
        config: Names the policy.
        settings: What stays fixed over the run.
        draws: Of the B samples.
        samples: The seed of the run, and passes and indices of the samples.
        first_slot: All slots of the draws from here on may be taken.
    """
    policy = _policy_of(config, settings)
    if isinstance(policy, _RandAugment):
        return policy(pixels, draws, first_slot)
    seed, passes, indices = samples
    seeds = (
        partial(seed_sample, seed, number, index)
        for number, index in zip(passes.tolist(), indices.tolist(), strict=True)
    )
    return paste_changed(pixels, enumerate(partial(_seeded, policy, own) for own in seeds))


@lru_cache(maxsize=64)
def _policy_of(config: InputConfig, settings: TransformSettings) -> _RandAugment | list[Any]:
    steps = policy_steps(config, settings)
    if len(steps) == 1 and isinstance(steps[0], RandAugment) and steps[0].choice_weights is None:
        return _RandAugment(steps[0])
    return steps


class _RandAugment:
    """timm's RandAugment on a batch: images that get the same k-th operation go through it together."""

    def __init__(self, policy: RandAugment) -> None:
        self._layers = policy.num_layers
        self._rates = np.array([operation.prob for operation in policy.ops])
        self._is_known = True  # else all of the policy is left to Pillow
        for operation in policy.ops:
            resample = operation.kwargs["resample"]
            filters = set(resample) if isinstance(resample, list | tuple) else {resample}
            is_move = operation.name in _MOVES and filters <= _FILTERS
            self._is_known &= operation.name in OPERATIONS or is_move
        self._operations = []
        for operation in policy.ops:
            always = copy.copy(operation)
            always.prob = 1.0  # whether it is applied is drawn here, for the whole batch
            if self._is_known and operation.name in OPERATIONS:
                always.aug_fn = partial(_with_level, OPERATIONS[operation.name])
            self._operations.append(always)

    def __call__(self, pixels: np.ndarray, draws: Draws, first_slot: int) -> np.ndarray:
        """Return the images after the policy; see :func:`apply_policy`."""
        chances = draws.uniform(range(first_slot, first_slot + 2 * self._layers))
        numbers = (chances[:, : self._layers] * len(self._rates)).astype(np.int64)
        is_applied = chances[:, self._layers :] <= self._rates[numbers]  # B x layers
        rows = np.flatnonzero(is_applied.any(axis=1))
        of_images = (values[rows].tolist() for values in (numbers, is_applied, draws.keys))
        chosen = [
            (
                row,
                [self._operations[k] for k, applied in zip(*of_image, strict=True) if applied],
                key,
            )
            for row, *of_image, key in zip(rows.tolist(), *of_images, strict=True)
        ]
        if not self._is_known:
            changes = (
                (row, partial(_seeded, operations, partial(random.seed, key)))
                for row, operations, key in chosen
            )
            return paste_changed(pixels, changes)
        # Levels are drawn image by image, as by timm; then the first operations of all, then the second ones.
        rounds: list[dict[_Function, tuple[list[int], list[Any]]]]
        rounds = [defaultdict(lambda: ([], [])) for _ in range(self._layers)]
        for row, operations, key in chosen:
            random.seed(key)
            for group, operation in zip(rounds, operations, strict=False):
                function, level = operation(_RECORDER)
                of_rows, levels = group[function]
                of_rows.append(row)
                levels.append(level)
        result = pixels.copy()
        for group in rounds:
            for function, (of_rows, levels) in group.items():
                result[of_rows] = function(result[of_rows], levels)
        return result


class _Recorder:
    """Stands for an image of one pixel, and returns what timm asks of it as a function and its level.

    Thus timm itself draws the filter of a move.
    """

    size = (1, 1)

    def transform(
        self, _size: Any, _method: Any, matrix: tuple[float, ...], *, fillcolor: Any, resample: Any
    ) -> tuple[_Function, tuple[float, float, bool]]:
        """Return a slide: the affine matrix is 1, slope, offset, 0, 1, 0 or that of columns."""
        _, slope_across, offset_across, slope_down, _, offset_down = matrix
        is_down = slope_down != 0.0 or offset_down != 0.0
        levels = (slope_across + slope_down, offset_across + offset_down, is_down)
        return _slider(resample, fillcolor), levels

    def rotate(self, degrees: float, **options: Any) -> tuple[_Function, Change]:
        """Return Pillow's own rotation."""
        return _change_each, lambda image: image.rotate(degrees, **options)


_RECORDER = _Recorder()


def _with_level(
    operation: Operation, _: _Recorder, level: float = 0.0, **__: Any
) -> tuple[_Function, float]:
    return _on_array(operation), level


# Kept, since images are grouped by the very function that they go through.
@lru_cache(maxsize=64)
def _on_array(operation: Operation) -> _Function:
    return lambda pixels, levels: operation(pixels, np.array(levels, dtype=np.float64))


@lru_cache(maxsize=64)
def _slider(resample: int, fill: tuple[int, ...]) -> _Function:
    is_bicubic = resample == Image.Resampling.BICUBIC
    return lambda pixels, levels: slide(pixels, np.array(levels), is_bicubic=is_bicubic, fill=fill)


def _change_each(pixels: np.ndarray, changes: list[Change]) -> np.ndarray:
    return paste_changed(pixels, enumerate(changes))


def _seeded(steps: Sequence[Change], seed: Callable[[], None], image: Image.Image) -> Image.Image:
    seed()
    for step in steps:
        image = step(image)
    return image


def paste_changed(pixels: np.ndarray, changes: Iterable[tuple[int, Change]]) -> np.ndarray:
    """Return the images, some of them changed by Pillow, uint8 N x 3 x P x P.

    All images are one tall image: cutting out and pasting take half the time of conversions.

    Args:
        pixels: uint8 N x 3 x P x P.
        changes: Which image is changed, and how.
    """
    count, _, side, _ = pixels.shape
    rows = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))  # N3HW -> NHW3
    tall = Image.frombuffer("RGB", (side, count * side), rows, "raw", "RGB", 0, 1)
    result = tall.copy()
    for number, change in changes:
        box = (0, number * side, side, (number + 1) * side)
        result.paste(change(tall.crop(box)), box)
    return np.array(result).reshape(rows.shape).transpose(0, 3, 1, 2)
