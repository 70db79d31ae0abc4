"""One-shot estimates: held-out losses of subnets under the supernet's fast average, in pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import fmean, stdev

from autoprog.data.loader import Batch
from autoprog.decisions import Estimate
from autoprog.train.evaluate import batch_losses
from autoprog.train.phase import Choice
from autoprog.train.trainer import Trainer
from supernet.config import SubnetConfig
from supernet.elastic import ElasticViT

__all__ = ["WORST_LOSS", "estimate_losses", "held_out_losses", "paired_difference", "summarise"]

WORST_LOSS = 1e30
"""Stands for a loss that is not finite where subnets are ranked: worse than any that is."""


def estimate_losses(trainer: Trainer, choice: Choice) -> list[float]:
    """Return a subnet's loss on every held-out batch: the same batches for all, EMA weights, eval mode.

    One that is not finite, as of a subnet that has diverged, is :data:`WORST_LOSS`.

    Raises:
        GaveUpError: If a stop was requested of this process.
    """
    losses = held_out_losses(trainer, trainer.stepper.emas[0].module, choice)
    return [min(loss, WORST_LOSS) if math.isfinite(loss) else WORST_LOSS for loss in losses]


def held_out_losses(trainer: Trainer, network: ElasticViT, choice: Choice) -> list[float]:
    """Return the loss of a subnet of any network on every held-out batch, in eval mode.

    Raises:
        GaveUpError: If a stop was requested of this process.
    """
    return batch_losses(network, _held_out(trainer), choice, trainer.compute)


def _held_out(trainer: Trainer) -> Iterator[Batch]:
    for images, targets in trainer.data.held_out_batches:
        trainer.stop.check()
        yield images.to(trainer.compute.device), targets.to(trainer.compute.device)


def paired_difference(losses: Sequence[float], baseline: Sequence[float]) -> tuple[float, float]:
    """Return the mean of (loss - baseline) over batches and its standard error; 0 error below 2 batches."""
    differences = [a - b for a, b in zip(losses, baseline, strict=True)]
    if len(differences) < 2:
        return fmean(differences), 0.0
    return fmean(differences), stdev(differences) / math.sqrt(len(differences))


def summarise(
    subnets: Sequence[SubnetConfig], points: Sequence[Sequence[Sequence[float]]], baseline: int
) -> list[Estimate]:
    """Return one estimate a subnet.

    Args:
        subnets: The candidates.
        points: Batch losses by time point, candidate and batch.
        baseline: Index of the candidate that differences are taken against.
    """
    estimates = []
    for index, subnet in enumerate(subnets):
        difference, error = paired_difference(points[-1][index], points[-1][baseline])
        estimates.append(
            Estimate(
                subnet=subnet,
                losses=tuple(fmean(point[index]) for point in points),
                difference=difference,
                difference_se=error,
            )
        )
    return estimates
