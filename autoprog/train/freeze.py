"""Which parameters train: those of the slots in use, or of some of their blocks (unfreezing)."""

from __future__ import annotations

from autoprog.stage import Unfrozen
from supernet.config import Slots
from supernet.elastic import ElasticViT

__all__ = ["set_trainable"]


def set_trainable(model: ElasticViT, slots: Slots, unfrozen: Unfrozen | None) -> None:
    """Freeze what a phase does not train; without a gradient the optimizer leaves it alone.

    Everything outside blocks trains. Of the blocks in `slots`, counted through all stages in running order,
    those that `unfrozen` names train; all of them when it is None.
    """
    model.requires_grad_(True)
    for parameter in model.idle_parameters(slots):
        parameter.requires_grad_(False)
    if unfrozen is None:
        return
    running = [stage[slot] for stage, own in zip(model.stages, slots, strict=True) for slot in own]
    for number, block in enumerate(running):
        if not unfrozen.trains(number):
            block.requires_grad_(False)
