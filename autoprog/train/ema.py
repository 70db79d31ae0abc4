"""Averaged weights: timm's EMA, with decays given as time constants and idle slots left alone."""

from __future__ import annotations

import torch
from timm.utils import ModelEmaV3
from torch import Tensor

from supernet.config import Slots
from supernet.elastic import ElasticViT

__all__ = ["ElasticEma", "decay_of", "time_constants_steps"]

_LONGEST_SHARE = 1 / 40
"""Of a run. Where a network still learns fast at the end, a longer average lags behind it: on the embedded
digits (vit-mu, WSD, 8 to 32 epochs, schedules constant and linear, three seeds each) one of a tenth of the
run was 0.6 to 5.3 points below the online weights, one of a 16th 0.1 to 1.9, and one of a 40th between 0.8
below and 0.4 above. With cosine over 16 and 32 epochs a 40th was between 0.6 below and 0.6 above."""


def decay_of(time_constant_steps: float) -> float:
    """Return the decay whose average reaches back `time_constant_steps` (at least 1): 1 - 1/t."""
    return 1.0 - 1.0 / max(1.0, time_constant_steps)


def time_constants_steps(
    slow_epochs: float, supernet_steps: int | None, steps_per_epoch: int, total_steps: int
) -> tuple[float, ...]:
    """Return the EMAs' time constants, fast to slow.

    The fast one, a quarter of a supernet phase, serves the search's estimates; a run without a search has
    none. The slow one serves growth and evaluation; a 40th of the run clips it, so that the weights of
    the end are averaged over the end. Runs of 40 times ``slow_epochs`` and more have all of it.
    """
    slow = min(slow_epochs * steps_per_epoch, _longest_steps(total_steps))
    if supernet_steps is None:
        return (slow,)
    return (min(supernet_steps / 4, slow), slow)


def _longest_steps(total_steps: float) -> float:
    """Return the longest time constant in a run; below two steps nothing would be averaged."""
    return max(2.0, total_steps * _LONGEST_SHARE)


class ElasticEma(ModelEmaV3):
    """timm's EMA of an elastic model in float32, which only moves what a forward over `slots` uses."""

    module: ElasticViT

    def __init__(self, model: ElasticViT, time_constant_steps: float) -> None:
        super().__init__(
            model, decay=decay_of(time_constant_steps), use_warmup=True, dtype=torch.float32
        )
        self.module.requires_grad_(False)
        self._time_constant_steps = time_constant_steps
        self._slots: Slots | None = None
        self._pairs: tuple[list[Tensor], list[Tensor]] = ([], [])
        self._counts: tuple[list[Tensor], list[Tensor]] = ([], [])

    def limit(self, total_steps: float) -> None:
        """Let a 40th of the run clip the time constant, where its length is not known beforehand."""
        self.decay = decay_of(min(self._time_constant_steps, _longest_steps(total_steps)))

    @torch.no_grad()
    def update_active(self, model: ElasticViT, step: int, slots: Slots) -> None:
        """Move the average towards `model` after optimizer step `step`, counted from 1.

        Running statistics are averaged as weights are, since they belong to them; counts are copied.
        """
        if slots != self._slots:
            self._slots = slots
            self._pairs = (_averaged(self.module, slots), _averaged(model, slots))
            self._counts = (_counts(self.module), _counts(model))
        averaged, online = self._pairs
        self._foreach_lerp_(averaged, online, weight=1.0 - self.get_decay(step + 1))
        for copied, counted in zip(*self._counts, strict=True):
            copied.copy_(counted)


def _averaged(model: ElasticViT, slots: Slots) -> list[Tensor]:
    """Return active parameters and running statistics; these lie outside blocks."""
    statistics = [tensor for tensor in model.statistics() if tensor.is_floating_point()]
    return [*(parameter.data for parameter in model.active_parameters(slots)), *statistics]


def _counts(model: ElasticViT) -> list[Tensor]:
    return [tensor for tensor in model.statistics() if not tensor.is_floating_point()]
