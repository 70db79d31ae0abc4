"""Augmenting a whole batch of decoded thumbnails at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from autoprog.train.data.batchwise.crops import CROP_SLOTS, draw_crops
from autoprog.train.data.batchwise.draws import Draws
from autoprog.train.data.batchwise.erase import draw_erasures, erase_
from autoprog.train.data.batchwise.jitter import draw_jitter, jitter_
from autoprog.train.data.batchwise.policy import apply_policy
from autoprog.train.data.batchwise.resample import FILTERS, crop_and_resize
from autoprog.train.data.cache.source import CachedSource
from autoprog.train.data.transforms import Cell, TransformSettings, normalize_

__all__ = ["BatchAugment", "can_augment_by_batch"]

_JITTER_SLOT = CROP_SLOTS
_POLICY_SLOT = _JITTER_SLOT + 4
_MOST_AT_ONCE = 256  # what is computed in between takes several times the memory of the result
_ERASE_SLOT = 2**16  # a policy takes two slots for each of its layers


def can_augment_by_batch(source: object, settings: TransformSettings) -> bool:
    """Tell whether these images and settings are ones that :class:`BatchAugment` knows."""
    is_small = isinstance(source, CachedSource) and source.are_thumbnails
    is_known = settings.interpolation == "random" or settings.interpolation in FILTERS
    jitter = settings.color_jitter
    has_hue = isinstance(jitter, tuple) and len(jitter) != 3
    return is_small and is_known and not has_hue


@dataclass(frozen=True)
class BatchAugment:
    """timm's training transform for a batch: the same distribution, drawn and computed together.

    What a sample becomes depends on (seed, pass, index, cell) alone.

    Args:
        source: Thumbnails.
        settings: What stays fixed over the run.
        seed: Of the run.
    """

    source: CachedSource
    settings: TransformSettings
    seed: int

    def __call__(self, indices: np.ndarray, passes: np.ndarray, cell: Cell) -> Tensor:
        """Return images, float32 B x 3 x P x P.

        Args:
            indices: Numbers of readable images, int64 B.
            passes: Number of the pass of each, int64 B.
            cell: What to do with them.
        """
        if len(indices) <= _MOST_AT_ONCE:
            return self._some(indices, passes, cell)
        parts = range(0, len(indices), _MOST_AT_ONCE)
        return torch.cat(
            [
                self._some(indices[k : k + _MOST_AT_ONCE], passes[k : k + _MOST_AT_ONCE], cell)
                for k in parts
            ]
        )

    def _some(self, indices: np.ndarray, passes: np.ndarray, cell: Cell) -> Tensor:
        fixed = self.settings
        draws = Draws.of(self.seed, passes, indices)
        images = self._crop(indices, draws, cell.img_size)
        if cell.aa is not None:
            samples = (self.seed, passes, indices)
            pixels = images.to(torch.uint8).numpy()
            changed = apply_policy(pixels, cell, fixed, draws, samples, _POLICY_SLOT)
            images.copy_(torch.from_numpy(changed))
        elif any(strengths := self._jitter_strengths()):
            jitter_(images, draw_jitter(draws, strengths, _JITTER_SLOT))
        normalize_(images, fixed.mean, fixed.std)
        if cell.reprob > 0.0:
            most, side = fixed.recount, cell.img_size
            boxes = draw_erasures(draws, cell.reprob, most, side, _ERASE_SLOT)
            erase_(images, boxes, fixed.remode, draws)
        return images

    def _crop(self, indices: np.ndarray, draws: Draws, img_size: int) -> Tensor:
        fixed = self.settings
        is_random = fixed.interpolation == "random"
        filters = tuple(FILTERS) if is_random else (fixed.interpolation,)
        pixels, sizes = self.source.gather(indices)
        rates = (fixed.hflip, fixed.vflip)
        crops = draw_crops(draws, sizes, fixed.scale, fixed.ratio, rates, len(filters))
        return crop_and_resize(pixels, crops, img_size, filters)

    def _jitter_strengths(self) -> tuple[float, float, float]:
        jitter = self.settings.color_jitter or 0.0
        if isinstance(jitter, tuple):
            brightness, contrast, saturation = jitter
            return brightness, contrast, saturation
        return jitter, jitter, jitter
