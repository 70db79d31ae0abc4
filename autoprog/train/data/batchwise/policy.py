"""timm's augmentation policies (RandAugment, AutoAugment, AugMix) on a batch of cropped images."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
from PIL import Image
from timm.data.auto_augment import RandAugment

from autoprog.train.data.batchwise.draws import Draws
from autoprog.train.data.batchwise.randaugment import BatchRandAugment, Change, paste_changed
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
    """Return the images after the policy, uint8 B x 3 x P x P.

    RandAugment without weights takes its choice of operations from the draws, so that images without
    any, a quarter by default, cost nothing; what an operation itself draws comes from the global
    generator of ``random``, seeded for each image. If all its operations are known they are done
    together, else Pillow works on the images one by one, as timm has it do. So it does for other
    policies, which get all three global generators seeded.

    Args:
        pixels: uint8 B x 3 x P x P.
        cell: Names the policy.
        settings: What stays fixed over the run.
        draws: Of the B samples.
        samples: The seed of the run, and passes and indices of the samples.
        first_slot: All slots of the draws from here on may be taken.
    """
    steps = _steps(cell, settings)
    if not isinstance(steps, _RandAugment):
        return paste_changed(pixels, _seeded_changes(steps, *samples))
    chosen = steps.choose(draws, first_slot)
    if steps.by_batch is not None:
        return steps.by_batch(pixels, chosen, draws.keys)
    return paste_changed(pixels, steps.changes(chosen, draws.keys))


@lru_cache(maxsize=64)
def _steps(cell: Cell, settings: TransformSettings) -> _RandAugment | list[Any]:
    steps = policy_steps(cell, settings)
    if len(steps) == 1 and isinstance(steps[0], RandAugment) and steps[0].choice_weights is None:
        return _RandAugment(steps[0])
    return steps


class _RandAugment:
    """timm's RandAugment, told what to apply.

    ``by_batch`` does so if all operations can be done by batch, else it is None.
    """

    def __init__(self, policy: RandAugment) -> None:
        self.by_batch = BatchRandAugment(policy) if BatchRandAugment.knows(policy) else None
        self._layers = policy.num_layers
        self._rates = np.array([operation.prob for operation in policy.ops])
        self._operations = [_certain(operation) for operation in policy.ops]

    def choose(self, draws: Draws, first_slot: int) -> np.ndarray:
        """Return numbers of operations, -1 for none, int64 B x layers."""
        chances = draws.uniform(range(first_slot, first_slot + 2 * self._layers))
        numbers = (chances[:, : self._layers] * len(self._rates)).astype(np.int64)
        return np.where(chances[:, self._layers :] <= self._rates[numbers], numbers, -1)

    def changes(self, chosen: np.ndarray, keys: np.ndarray) -> Iterator[tuple[int, Change]]:
        """Yield the rows of images with any operation, and what applies those."""
        for row in np.flatnonzero((chosen >= 0).any(axis=1)).tolist():
            operations = [self._operations[k] for k in chosen[row].tolist() if k >= 0]
            yield row, partial(_in_turn, operations, partial(random.seed, int(keys[row])))


def _certain(operation: Any) -> Any:
    """Return timm's operation without its own draw of whether it is applied."""
    certain = copy.copy(operation)
    certain.prob = 1.0
    return certain


def _seeded_changes(
    steps: Sequence[Any], seed: int, passes: np.ndarray, indices: np.ndarray
) -> Iterator[tuple[int, Change]]:
    """Yield each row and timm's steps one after another, for each image with its own seeds."""
    samples = zip(passes.tolist(), indices.tolist(), strict=True)
    for row, sample in enumerate(samples):
        yield row, partial(_in_turn, steps, partial(seed_sample, seed, *sample))


def _in_turn(steps: Sequence[Change], seed: Callable[[], None], image: Image.Image) -> Image.Image:
    seed()
    for step in steps:
        image = step(image)
    return image
