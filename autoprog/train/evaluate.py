"""Accuracy and loss of one subnet on prepared batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from autoprog.train.device import Compute
from autoprog.train.phase import Choice
from autoprog.train.ranks import ONE_PROCESS, Ranks
from supernet.elastic import ElasticViT

__all__ = ["batch_losses", "evaluate", "evaluate_choices"]


Scores = tuple[float, float]
"""Mean cross-entropy, and top-1 in per cent."""


def evaluate(
    models: tuple[ElasticViT, ...],
    batches: Iterable[tuple[Tensor, Tensor]],
    choice: Choice,
    compute: Compute,
    ranks: Ranks = ONE_PROCESS,
) -> list[Scores]:
    """Return the scores of each model over images and targets, in eval mode.

    Each batch is read once for all models; the modes of the models are restored. Each rank brings its share
    of the batches and gets the result over all of them.
    """
    return _scores([(model, choice) for model in models], batches, compute, ranks)


def evaluate_choices(
    model: ElasticViT,
    batches: Iterable[tuple[Tensor, Tensor]],
    choices: Sequence[Choice],
    compute: Compute,
) -> list[Scores]:
    """Return the scores of each subnet of one model; each batch is read once for all of them."""
    return _scores([(model, choice) for choice in choices], batches, compute, ONE_PROCESS)


@torch.no_grad()
def _scores(
    networks: Sequence[tuple[ElasticViT, Choice]],
    batches: Iterable[tuple[Tensor, Tensor]],
    compute: Compute,
    ranks: Ranks,
) -> list[Scores]:
    modes = [model.training for model, _ in networks]
    # Eager, as averages are: a compiled network would need one more graph for this.
    with torch.compiler.set_stance("force_eager"):
        totals, count = _totals(networks, batches, compute)
    for (model, _), training in zip(networks, modes, strict=True):
        model.train(training)
    totals, count = ranks.total(totals), int(ranks.total(torch.tensor(count)))
    if count == 0:
        return [(float("nan"), float("nan"))] * len(networks)
    return [(loss / count, 100.0 * correct / count) for loss, correct in totals.tolist()]


def _totals(
    networks: Sequence[tuple[ElasticViT, Choice]],
    batches: Iterable[tuple[Tensor, Tensor]],
    compute: Compute,
) -> tuple[Tensor, int]:
    """Return the sums of (loss, correct) of each network, float64 (networks, 2), and the number of images."""
    totals = torch.zeros(len(networks), 2, dtype=torch.float64)
    count = 0
    for images, targets in batches:
        images, targets = images.to(compute.device), targets.to(compute.device)
        count += len(targets)
        for index, (model, choice) in enumerate(networks):
            with compute.autocast():
                logits = model.eval()(images, choice.subnet, choice.slots).float()
            loss = functional.cross_entropy(logits, targets, reduction="sum")
            correct = (logits.argmax(1) == targets).sum()
            totals[index] += torch.stack([loss, correct]).cpu().double()  # MPS has no doubles
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
