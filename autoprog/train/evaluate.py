"""Accuracy and loss of one subnet on prepared batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from autoprog.accuracy import balanced_accuracy
from autoprog.train.device import Compute
from autoprog.train.phase import Choice
from autoprog.train.ranks import ONE_PROCESS, Ranks
from supernet.elastic import ElasticViT

__all__ = ["Scores", "batch_losses", "evaluate", "evaluate_choices"]


@dataclass(frozen=True)
class Scores:
    """What one network came to: mean cross-entropy, and by class the images and those it got right."""

    loss: float
    correct: tuple[int, ...]
    images: tuple[int, ...]

    @property
    def top1(self) -> float:
        """Return the accuracy in per cent; NaN without images."""
        return 100.0 * sum(self.correct) / sum(self.images) if any(self.images) else float("nan")

    @property
    def balanced(self) -> float:
        """Return the mean of the accuracies in the classes, in per cent; NaN without images."""
        return balanced_accuracy(self.correct, self.images)


def evaluate(
    models: tuple[ElasticViT, ...],
    batches: Iterable[tuple[Tensor, Tensor]],
    choice: Choice,
    compute: Compute,
    ranks: Ranks = ONE_PROCESS,
) -> list[Scores]:
    """Return the scores of each model over images and targets, in eval mode.

    Each batch is read once for all models; the modes of the models are restored. Each rank brings its part of
    the batches and gets the result over all of them.
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
    num_classes = networks[0][0].vit.num_classes
    # Sums over images, since batches and ranks differ in their number. Losses (networks,), right answers
    # (networks, classes), images (classes,).
    losses = torch.zeros(len(networks), dtype=torch.float64)
    correct = torch.zeros(len(networks), num_classes, dtype=torch.int64)
    images = torch.zeros(num_classes, dtype=torch.int64)
    # Eager, as averages are: a compiled network would need one more graph for this.
    with torch.compiler.set_stance("force_eager"):
        for batch, labels in batches:
            inputs, targets = batch.to(compute.device), labels.to(compute.device)
            images += torch.bincount(labels, minlength=num_classes)
            for index, (model, choice) in enumerate(networks):
                with compute.autocast():
                    logits = model.eval()(inputs, choice.subnet, choice.slots).float()
                loss = functional.cross_entropy(logits, targets, reduction="sum")
                losses[index] += loss.cpu().double()  # MPS has no doubles
                is_right = (logits.argmax(1) == targets).cpu()
                correct[index] += torch.bincount(labels[is_right], minlength=num_classes)
    for (model, _), training in zip(networks, modes, strict=True):
        model.train(training)
    losses, correct, images = map(ranks.total, (losses, correct, images))
    count = int(images.sum())
    return [
        Scores(loss / count if count else float("nan"), tuple(right), tuple(images.tolist()))
        for loss, right in zip(losses.tolist(), correct.tolist(), strict=True)
    ]


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
