"""Colour jitter of a whole batch: brightness, contrast and saturation, as torchvision has Pillow do it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from torch import Tensor

from autoprog.train.data.batchwise.draws import Draws

__all__ = ["Jitter", "draw_jitter", "jitter_"]

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


def draw_jitter(draws: Draws, strengths: tuple[float, float, float], first_slot: int) -> Jitter:
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
        other = grey.mul_(_column(kinds == _SATURATION))
        other.add_(mean_grey.mul_(_column(kinds == _CONTRAST)))
        other.mul_(1.0 - factors).add_(_EPSILON)
        flat.mul_(factors).add_(other).clamp_(0.0, 255.0).floor_()


def _column(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).view(-1, 1, 1)
