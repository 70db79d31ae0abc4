"""The sandwich step of SuperViT (arXiv 2205.11397): four subnets in one step, two distilled from two.

Legend: B images, b images of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from autoprog.stage import SandwichSizes, Tokens
from autoprog.train.phase import Choice, step_seed
from supernet.config import ALL_TOKENS, SubnetConfig

__all__ = ["Pass", "accumulate", "distillation_loss", "sandwich_passes"]

T = TypeVar("T")


@dataclass(frozen=True)
class Pass:
    """One forward and backward of a sandwich step.

    Attributes:
        choice: The subnet that it trains.
        distilled: Whether it learns from the logits of the last pass that learnt from labels, not from these.
    """

    choice: Choice
    distilled: bool = False


def sandwich_passes(
    sizes: SandwichSizes, tokens: Tokens, choice: Choice, seed: int, step: int
) -> tuple[Pass, ...]:
    """Return the four passes of a step: each of two image sizes on all tokens, then on some of them.

    The first size is that of `choice`; the second one and both keep-rates are drawn, uniformly and
    independently, by a hash of (seed, step), on which all ranks and resumes agree. Every pass runs the depth
    and the slots of `choice`; `tokens` says which tokens are kept and where the others are dropped.
    """

    def draw(purpose: str, values: Sequence[T]) -> T:
        return values[step_seed(seed, f"sandwich-{purpose}", step) % len(values)]

    def of_size(img_size: int, purpose: str) -> tuple[Pass, Pass]:
        rules = ALL_TOKENS, tokens.rule(draw(purpose, sizes.keep_rates))
        subnets = (SubnetConfig(choice.subnet.depth, img_size, rule) for rule in rules)
        full, pruned = (Choice(subnet, choice.slots) for subnet in subnets)
        return Pass(full), Pass(pruned, distilled=True)

    smaller = draw("size", sizes.sizes)
    return (
        *of_size(choice.subnet.img_size, "keep-rate"),
        *of_size(smaller, "keep-rate of the smaller"),
    )


def distillation_loss(logits: Tensor, teacher: Tensor) -> Tensor:
    """Return KL(teacher || student) at temperature 1, mean over images, of logits (B, classes)."""
    return functional.kl_div(
        functional.log_softmax(logits, dim=1),
        functional.log_softmax(teacher, dim=1),
        reduction="batchmean",
        log_target=True,
    )


def accumulate(
    passes: Sequence[Pass],
    parts: Sequence[tuple[Tensor, Tensor]],
    forward: Callable[[Tensor, Choice], Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    scale: Callable[[Tensor], Tensor],
    surround: Callable[[bool], AbstractContextManager[None]],
) -> Tensor:
    """Add up the gradient of all passes over the micro-batches of a batch; return the loss of each pass.

    The objective is the plain sum over passes of their mean losses. A pass that is distilled meets the logits
    of its teacher on the same images, detached: no gradient reaches the teacher through it.

    Args:
        passes: The first must learn from labels.
        parts: Micro-batches of images (b, C, H, W) and targets, which labels or mixed targets may be.
        forward: Returns the logits (b, classes) in float32.
        loss: Of logits and targets, mean over images.
        scale: What a loss is multiplied by before its backward, as a gradient scaler does.
        surround: The context of one forward and backward, given whether it is the last of the step.
    """
    assert not passes[0].distilled, "the first pass has no teacher"
    num_images = sum(len(images) for images, _ in parts)
    losses = [parts[0][0].new_zeros((), dtype=torch.float32) for _ in passes]
    for part, (images, targets) in enumerate(parts, 1):
        weight, teacher = len(images) / num_images, torch.empty(0)
        for number, one in enumerate(passes):
            is_last = part == len(parts) and number + 1 == len(passes)
            with surround(is_last):
                logits = forward(images, one.choice)
                learn, answer = (distillation_loss, teacher) if one.distilled else (loss, targets)
                own = learn(logits, answer) * weight
                # One backward a pass: the graphs of four forwards are never in memory together.
                scale(own).backward()
            losses[number] += own.detach()
            teacher = teacher if one.distilled else logits.detach()
    return torch.stack(losses)
