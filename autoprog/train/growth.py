"""The growth transaction: grow, and measure on a probe batch what it did."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from autoprog.events import Grown
from autoprog.train.device import Compute
from autoprog.train.phase import Choice, GrowTo, plain_choice
from autoprog.train.step import Stepper
from supernet.elastic import ElasticViT
from supernet.grow import SlotOrigin, grow

__all__ = ["apply_growth", "fingerprint"]


def apply_growth(
    stepper: Stepper,
    probe: tuple[Tensor, Tensor],
    change: GrowTo,
    step: int,
    clock: Callable[[], float],
) -> Grown:
    """Grow the network, its averages and the optimizer state; return the event that tells of it.

    All ranks grow alike, each by itself; that they still agree is checked.

    Args:
        stepper: What is grown, in place.
        probe: Images (B, 3, H, W) and targets (B) that the change is measured on.
        change: From where to where, and how.
        step: The step at which it happens.
        clock: For the seconds that training stands still.

    Raises:
        RunError: If the ranks differ afterwards.
    """
    start = clock()
    before = _probe(stepper.model, probe, plain_choice(change.before), stepper.compute)
    origins = grow(
        stepper.model,
        [ema.module for ema in stepper.emas],
        stepper.optimizer,
        change.before.depth,
        change.after.depth,
        change.grow.rule(),
    )
    if not stepper.ranks.alone:
        what = "weights, averages or moments after a growth"
        stepper.ranks.check_equal(fingerprint(stepper), what)
    after = _probe(stepper.model, probe, plain_choice(change.after), stepper.compute)
    return Grown(
        step=step,
        before=change.before,
        after=change.after,
        **change.grow.model_dump(),
        origins=tuple(_origin_text(origin) for origin in origins),
        delta_loss=(after[0] - before[0]).item(),
        delta_logits=((after[1] - before[1]).norm() / before[1].norm()).item(),
        lost_seconds=clock() - start,
    )


@torch.no_grad()
def fingerprint(stepper: Stepper) -> Tensor:
    """Return the sum of the bits, as whole numbers, of each tensor of the run: int64, on the CPU.

    These are weights and running statistics, online and averaged, and moments.
    """
    moments = (stepper.optimizer.state.get(p, {}) for p in stepper.model.parameters())
    tensors = [
        *stepper.model.vit.state_dict().values(),
        *(tensor for ema in stepper.emas for tensor in ema.module.vit.state_dict().values()),
        *(v for state in moments for _, v in sorted(state.items()) if torch.is_tensor(v)),
    ]
    return torch.stack([_bits(tensor).sum(dtype=torch.int64).cpu() for tensor in tensors])


def _bits(tensor: Tensor) -> Tensor:
    sizes = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.detach().contiguous().view(sizes[tensor.element_size()])


@torch.no_grad()
def _probe(
    model: ElasticViT, probe: tuple[Tensor, Tensor], choice: Choice, compute: Compute
) -> tuple[Tensor, Tensor]:
    """Return the loss and the logits (B, classes) of one subnet in eval mode."""
    training = model.training
    images, targets = (part.to(compute.device) for part in probe)
    with compute.autocast(), torch.compiler.set_stance("force_eager"):
        logits = model.eval()(images, choice.subnet, choice.slots).float()
    model.train(training)
    return functional.cross_entropy(logits, targets), logits


def _origin_text(origin: SlotOrigin) -> str:
    stage = f"{origin.stage}." if origin.stage else ""
    return f"{stage}{origin.slot} <- {stage}{origin.source_slot} ({origin.weights})"
