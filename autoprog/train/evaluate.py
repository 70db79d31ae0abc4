"""Accuracy and loss of one subnet on prepared batches."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional

from autoprog.train.device import Compute
from autoprog.train.phase import Choice
from autoprog.train.ranks import ONE_PROCESS, Ranks
from supernet.elastic import ElasticViT

__all__ = ["batch_losses", "evaluate"]


@torch.no_grad()
def evaluate(
    models: tuple[ElasticViT, ...],
    batches: Iterable[tuple[Tensor, Tensor]],
    choice: Choice,
    compute: Compute,
    ranks: Ranks = ONE_PROCESS,
) -> list[tuple[float, float]]:
    """Return (mean cross-entropy, top-1 in per cent) of each model over images and targets, in eval mode.

    Each batch is read once for all models; the modes of the models are restored. Each rank brings its share
    of the batches and gets the result over all of them.
    """
    # Eager, as averages are: a compiled network would need one more graph for this.
    with torch.compiler.set_stance("force_eager"):
        totals, count = _totals(models, batches, choice, compute)
    totals, count = ranks.total(totals), int(ranks.total(torch.tensor(count)))
    if count == 0:
        return [(float("nan"), float("nan"))] * len(models)
    return [(loss / count, 100.0 * correct / count) for loss, correct in totals.tolist()]


def _totals(
    models: tuple[ElasticViT, ...],
    batches: Iterable[tuple[Tensor, Tensor]],
    choice: Choice,
    compute: Compute,
) -> tuple[Tensor, int]:
    """Return the sums of (loss, correct) of each model, float64 (models, 2), and the number of images."""
    totals = torch.zeros(len(models), 2, dtype=torch.float64)
    count = 0
    modes = [model.training for model in models]
    for images, targets in batches:
        images, targets = images.to(compute.device), targets.to(compute.device)
        count += len(targets)
        for index, model in enumerate(models):
            with compute.autocast():
                logits = model.eval()(images, choice.subnet, choice.slots).float()
            loss = functional.cross_entropy(logits, targets, reduction="sum")
            correct = (logits.argmax(1) == targets).sum()
            totals[index] += torch.stack([loss, correct]).cpu().double()  # MPS has no doubles
    for model, training in zip(models, modes, strict=True):
        model.train(training)
    return totals, count


@torch.no_grad()
def batch_losses(
    model: ElasticViT, batches: Iterable[tuple[Tensor, Tensor]], choice: Choice, compute: Compute
) -> list[float]:
    """Return the mean cross-entropy of each batch, in eval mode: the paired samples of an estimate."""
    training = model.training
    model.eval()
    losses = []
    for images, targets in batches:
        with compute.autocast():
            logits = model(images, choice.subnet, choice.slots).float()
        losses.append(functional.cross_entropy(logits, targets))
    model.train(training)
    return torch.stack(losses).tolist()
