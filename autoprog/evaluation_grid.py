"""What one set of weights is worth over image sizes and keep-rates: the cells of a grid, and their front."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autoprog.pareto import pareto_front
from supernet.config import SubnetConfig, TokenRule

__all__ = ["EvaluatedCell", "EvaluationGrid", "cells_of", "front"]


@dataclass(frozen=True, slots=True)
class EvaluatedCell:
    """One way to use the weights, and what it came to.

    Attributes:
        subnet: Depth, image size and token rule.
        top1: Accuracy in per cent.
        loss: Mean cross-entropy.
        macs: Multiply-accumulates of one image.
        images_per_second: Median speed, with the resizing of images; None where it was not measured.
        balanced_top1: Mean of the accuracies in the classes, in per cent.
    """

    subnet: SubnetConfig
    top1: float
    loss: float
    macs: int
    images_per_second: float | None = None
    balanced_top1: float | None = None


@dataclass(frozen=True)
class EvaluationGrid:
    """All cells of one evaluation, and how they were evaluated: ``held_out`` for training images.

    ``class_images`` counts the images of each class.
    """

    model: str
    weights: str
    device: str
    amp: str
    batch_size: int
    num_images: int
    cells: tuple[EvaluatedCell, ...]
    held_out: bool = False
    class_images: tuple[int, ...] = ()


def cells_of(
    full: SubnetConfig, sizes: Iterable[int], rules: Iterable[TokenRule]
) -> list[SubnetConfig]:
    """Return a subnet of full depth for every size under every rule, largest first and none twice."""
    return [
        SubnetConfig(full.depth, size, rule)
        for size in sorted(set(sizes), reverse=True)
        for rule in sorted(set(rules), key=lambda rule: -rule.keep_rate)
    ]


def front(cells: Sequence[EvaluatedCell]) -> tuple[bool, ...]:
    """Return for each cell whether it is on the Pareto front: no other is as accurate for fewer MACs.

    Of cells that are equal in both, all are on it.
    """
    errors = [-cell.top1 for cell in cells]
    on_front = set(pareto_front([cell.macs for cell in cells], errors, keep_ties=True))
    return tuple(index in on_front for index in range(len(cells)))
