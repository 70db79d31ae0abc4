"""timm's RandAugment on a batch: images that get the same operation at the same turn go through together."""

from __future__ import annotations

import copy
import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from PIL import Image
from timm.data.auto_augment import RandAugment

from autoprog.train.data.batchwise.operations import OPERATIONS, Operation
from autoprog.train.data.batchwise.slides import slide

__all__ = ["BatchRandAugment", "Change", "paste_changed"]

Change: TypeAlias = Callable[[Image.Image], Image.Image]
"""What Pillow does to an image."""
_Function: TypeAlias = Callable[[np.ndarray, Any], np.ndarray]

_MOVES = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
_FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)


class BatchRandAugment:
    """timm's RandAugment for images whose operations have been chosen.

    Args:
        policy: One that :meth:`knows` tells of.
    """

    def __init__(self, policy: RandAugment) -> None:
        self._steps = [_step(operation) for operation in policy.ops]

    @staticmethod
    def knows(policy: RandAugment) -> bool:
        """Tell whether each operation of the policy can be done by batch."""
        return all(
            operation.name in OPERATIONS
            or (operation.name in _MOVES and _filters(operation) <= set(_FILTERS))
            for operation in policy.ops
        )

    def __call__(self, pixels: np.ndarray, chosen: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """Return the images after their operations, uint8 B x 3 x P x P.

        Args:
            pixels: uint8 B x 3 x P x P.
            chosen: Numbers of operations in their order, -1 for none, int64 B x layers.
            keys: Seeds of what the operations draw, uint64 B.
        """
        result = pixels.copy()
        for turn in self._turns(chosen, keys):
            for function, (rows, levels) in turn.items():
                result[rows] = function(result[rows], levels)
        return result

    def _turns(
        self, chosen: np.ndarray, keys: np.ndarray
    ) -> list[dict[_Function, tuple[list[int], list[Any]]]]:
        """Draw levels, and return all first operations, all second ones, ..., with rows and levels."""
        turns: list[Any] = [defaultdict(lambda: ([], [])) for _ in range(chosen.shape[1])]
        touched = np.flatnonzero((chosen >= 0).any(axis=1))
        samples = zip(
            touched.tolist(), chosen[touched].tolist(), keys[touched].tolist(), strict=True
        )
        for row, numbers, key in samples:
            random.seed(key)
            number_of_turn = 0
            for number in numbers:
                if number >= 0:
                    function, level = self._steps[number](_ASKED)
                    rows, levels = turns[number_of_turn][function]
                    rows.append(row)
                    levels.append(level)
                    number_of_turn += 1
        return turns


class _Asked:
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


_ASKED = _Asked()


def _step(operation: Any) -> Callable[[_Asked], tuple[_Function, Any]]:
    """Return timm's operation as one that draws as it does, but returns what is to be called.

    That is a function of a group of images and their levels, and the level of this image. Whether the
    operation is applied is not drawn.
    """
    step = copy.copy(operation)
    step.prob = 1.0
    if operation.name in OPERATIONS:
        step.aug_fn = _with_level(OPERATIONS[operation.name])
    return step


def _with_level(function: Operation) -> Callable[..., tuple[_Function, float]]:
    def apply(pixels: np.ndarray, levels: list[float]) -> np.ndarray:
        return function(pixels, np.array(levels, dtype=np.float64))

    return lambda _, level=0.0, **__: (apply, level)


@lru_cache(maxsize=64)
def _slider(resample: int, fill: tuple[int, ...]) -> _Function:
    is_bicubic = resample == Image.Resampling.BICUBIC

    def apply(pixels: np.ndarray, levels: list[tuple[float, float, bool]]) -> np.ndarray:
        return slide(pixels, np.array(levels), is_bicubic=is_bicubic, fill=fill)

    return apply


def _change_each(pixels: np.ndarray, changes: list[Change]) -> np.ndarray:
    return paste_changed(pixels, enumerate(changes))


def _filters(operation: Any) -> set[int]:
    resample = operation.kwargs["resample"]
    return set(resample) if isinstance(resample, list | tuple) else {resample}


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
