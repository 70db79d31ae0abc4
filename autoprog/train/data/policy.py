"""timm's augmentation policies (RandAugment, AutoAugment, AugMix) on a batch of cropped images."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image
from timm.data.auto_augment import RandAugment

from autoprog.train.data.draws import Draws
from autoprog.train.data.sampler import seed_sample
from autoprog.train.data.transforms import Cell, TransformSettings, policy_steps

__all__ = ["apply_policy"]


def apply_policy(
    pixels: np.ndarray,
    cell: Cell,
    settings: TransformSettings,
    draws: Draws,
    samples: tuple[int, np.ndarray, np.ndarray],
    first_slot: int,
) -> np.ndarray:
    """Return the images after the policy, uint8 B x P x P x 3.

    Pillow works on them one by one, as timm has it do. RandAugment without weights takes its choice of
    operations from the draws, so that images without any, a quarter by default, cost nothing; what an
    operation itself draws comes from the global generator of ``random``, seeded for each image. Other
    policies get all three global generators seeded.

    Args:
        pixels: uint8 B x P x P x 3.
        cell: Names the policy.
        settings: What stays fixed over the run.
        draws: Of the B samples.
        samples: The seed of the run, and passes and indices of the samples.
        first_slot: All slots of the draws from here on may be taken.
    """
    steps = _steps(cell, settings)
    if len(steps) == 1 and isinstance(steps[0], RandAugment) and steps[0].choice_weights is None:
        return _changed(pixels, _RandAugment(steps[0], draws, first_slot))
    return _changed(pixels, _Seeded(steps, *samples))


@lru_cache(maxsize=64)
def _steps(cell: Cell, settings: TransformSettings) -> list[Any]:
    return policy_steps(cell, settings)


class _RandAugment:
    """timm's RandAugment with its choices drawn for the whole batch."""

    def __init__(self, policy: RandAugment, draws: Draws, first_slot: int) -> None:
        layers = policy.num_layers
        chances = draws.uniform(range(first_slot, first_slot + 2 * layers))
        numbers = (chances[:, :layers] * len(policy.ops)).astype(np.int64)
        rates = np.array([operation.prob for operation in policy.ops])
        self._chosen = np.where(chances[:, layers:] <= rates[numbers], numbers, -1).tolist()
        self._operations = [_certain(operation) for operation in policy.ops]
        self._seeds = draws.keys.tolist()

    def __call__(self, image: Image.Image, row: int) -> Image.Image:
        chosen = [number for number in self._chosen[row] if number >= 0]
        if chosen:
            random.seed(self._seeds[row])
        for number in chosen:
            image = self._operations[number](image)
        return image

    def changes(self, row: int) -> bool:
        """Tell whether an image gets any operation."""
        return any(number >= 0 for number in self._chosen[row])


def _certain(operation: Any) -> Any:
    """Return timm's operation without its own draw of whether it is applied."""
    certain = copy.copy(operation)
    certain.prob = 1.0
    return certain


class _Seeded:
    """timm's steps one after another, for each image with its own seeds."""

    def __init__(
        self, steps: Sequence[Any], seed: int, passes: np.ndarray, indices: np.ndarray
    ) -> None:
        self._steps, self._seed = steps, seed
        self._samples = list(zip(passes.tolist(), indices.tolist(), strict=True))

    def __call__(self, image: Image.Image, row: int) -> Image.Image:
        seed_sample(self._seed, *self._samples[row])
        for step in self._steps:
            image = step(image)
        return image

    def changes(self, row: int) -> bool:
        """Tell whether an image may be changed."""
        return True


def _changed(pixels: np.ndarray, change: _RandAugment | _Seeded) -> np.ndarray:
    """Apply ``change`` to each image that it changes.

    All images are one tall image: cutting out and pasting take half the time of conversions.
    """
    batch, side = pixels.shape[:2]
    tall = Image.frombuffer("RGB", (side, batch * side), pixels, "raw", "RGB", 0, 1)
    result = tall.copy()
    for row in range(batch):
        if change.changes(row):
            box = (0, row * side, side, (row + 1) * side)
            result.paste(change(tall.crop(box), row), box)
    return np.array(result).reshape(pixels.shape)  # a copy, which may be written to
