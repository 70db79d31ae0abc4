"""One-shot estimates: held-out losses of subnets under the supernet's fast average, on the same batches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from autoprog.data.batches import Batch
from autoprog.train.evaluate import batch_losses
from autoprog.train.phase import Choice
from supernet.elastic import ElasticViT

if TYPE_CHECKING:
    from autoprog.train.trainer import Trainer

__all__ = ["WORST_LOSS", "estimate_losses", "held_out_losses"]

WORST_LOSS = 1e30
"""Stands for a loss that is not finite where subnets are ranked: worse than any that is."""


def estimate_losses(trainer: Trainer, choice: Choice) -> list[float]:
    """Return a subnet's loss on every held-out batch: the same batches for all, EMA weights, eval mode.

    One that is not finite, as of a subnet that has diverged, is :data:`WORST_LOSS`.

    Raises:
        GaveUpError: If a stop was requested of this process.
    """
    # The fast average: the slow ones still hold weights from before the supernet phase.
    losses = held_out_losses(trainer, trainer.stepper.emas[0].module, choice)
    return [min(loss, WORST_LOSS) if math.isfinite(loss) else WORST_LOSS for loss in losses]


def held_out_losses(trainer: Trainer, network: ElasticViT, choice: Choice) -> list[float]:
    """Return the loss of a subnet of any network on every held-out batch, in eval mode.

    Raises:
        GaveUpError: If a stop was requested of this process.
    """

    def batches() -> Iterator[Batch]:
        for images, targets in trainer.data.held_out_batches:
            trainer.stop.check()
            yield images.to(trainer.compute.device), targets.to(trainer.compute.device)

    return batch_losses(network, batches(), choice, trainer.compute)
