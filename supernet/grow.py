"""Growth as one in-place gather over block slots: weights, buffers, EMAs, optimizer state.

Parameters keep their identity, so optimizer, EMA and checkpoints never change their layout.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from supernet.config import GrowthRule, Slots
from supernet.depthmap import PLACEMENTS, new_slots
from supernet.elastic import ElasticViT

__all__ = ["ALTERING_INITS", "SlotOrigin", "check_state", "compact", "grow"]

# Each init after which a new block differs from the block whose optimizer state it may get a copy of.
ALTERING_INITS = ("zero",)


@dataclass(frozen=True, slots=True)
class SlotOrigin:
    """Where the content of one slot came from.

    Args:
        stage: Index of the stage.
        slot: Index of the slot in its stage.
        source_slot: The slot, before growth, of the block that it repeats.
        is_new: Whether an earlier slot has the same source.
        weights: ``kept`` for old blocks of the online network, else what filled the slot: the
            ``online`` source block, the slowest ``ema``, or ``zero`` residual branches.
        state: ``carried`` with the weights, ``fresh`` (a new block starts without), ``reset`` (all
            cleared), or ``none`` when there is no optimizer.
    """

    stage: int
    slot: int
    source_slot: int
    is_new: bool
    weights: Literal["kept", "online", "ema", "zero"]
    state: Literal["carried", "fresh", "reset", "none"]


@torch.no_grad()
def grow(
    model: ElasticViT,
    emas: Sequence[ElasticViT],
    optimizer: torch.optim.Optimizer | None,
    base: tuple[int, ...],
    target: tuple[int, ...],
    rule: GrowthRule,
) -> tuple[SlotOrigin, ...]:
    """Grow ``model`` in place from ``base`` to ``target`` blocks per stage; EMAs run fast to slow.

    Every EMA is grown from itself by the same map. Gradients become None. Raises ValueError for
    ``init: ema`` without an EMA, and for ``fresh`` state in an optimizer that counts steps per group.
    """
    if rule.init == "ema" and not emas:
        raise ValueError("init ema must have at least one EMA to grow from, but got none")
    if optimizer is not None:
        check_state(rule, optimizer)
    maps = tuple(PLACEMENTS[rule.placement](*ends) for ends in zip(base, target, strict=True))
    for network in (model, *emas):
        for stage, source_map in zip(network.stages, maps, strict=True):
            # From the deep end: a map never reads above its own slot, so no source is overwritten before
            # it has been read.
            for slot in reversed(range(len(source_map))):
                _copy_block(stage[slot], stage[source_map[slot]])

    new_slots_of = [new_slots(source_map) for source_map in maps]
    if rule.old_blocks == "ema":
        # The new blocks are those of the EMA as well: GrowthRule refuses any other init here.
        _copy_block(model.vit, emas[-1].vit)
    elif rule.init == "ema":
        # The EMAs have grown already: each new slot holds a copy of its source.
        for stage, averaged, slots in zip(model.stages, emas[-1].stages, new_slots_of, strict=True):
            for slot in slots:
                _copy_block(stage[slot], averaged[slot])
    elif rule.init == "zero":
        # With its last layer at 0 a residual branch adds nothing: the network computes what it did before.
        # The EMAs too, or a growth would show in the averaged network alone.
        for network in (model, *emas):
            for stage, slots in zip(network.stages, new_slots_of, strict=True):
                for slot in slots:
                    for layer in ("attn.proj", "mlp.fc2"):
                        for parameter in stage[slot].get_submodule(layer).parameters():
                            parameter.zero_()

    if optimizer is not None and rule.optimizer_state == "reset":
        optimizer.state.clear()
        for group in optimizer.param_groups:  # some optimizers count steps here
            group.pop("step", None)
    elif optimizer is not None:
        _move_state(model, optimizer, maps, clone_new=rule.optimizer_state == "copy")
    for network in (model, *emas):
        network.zero_grad(set_to_none=True)

    weights_of_new: dict[str, Literal["ema", "online", "zero"]] = {
        "ema": "ema",
        "copy": "online",
        "zero": "zero",
    }
    origins = []
    for number, source_map in enumerate(maps):
        for slot, source in enumerate(source_map):
            is_new = slot in new_slots_of[number]
            weights = weights_of_new[rule.init] if is_new or rule.old_blocks == "ema" else "kept"
            state: Literal["carried", "fresh", "reset", "none"] = "carried"
            if optimizer is None:
                state = "none"
            elif rule.optimizer_state == "reset":
                state = "reset"
            elif rule.optimizer_state == "fresh" and is_new:
                state = "fresh"
            origins.append(SlotOrigin(number, slot, source, is_new, weights, state))
    return tuple(origins)


def check_state(rule: GrowthRule, optimizer: torch.optim.Optimizer) -> None:
    """Refuse a rule that does not go with the state of an optimizer which has taken a step.

    Zero moments that meet the step count of others would overshoot (Lamb, Adan). From the initial weights in
    the state of its source the next step would make an altered block that source again (MADGRAD).

    Raises:
        ValueError: Where the rule and the optimizer do not go together.
    """
    name = type(optimizer).__name__
    if rule.optimizer_state == "fresh" and any("step" in group for group in optimizer.param_groups):
        problem = "optimizer_state fresh must have a step count per parameter"
        raise ValueError(f"{problem}, but {name} counts per group; use copy or reset")
    copies_state_of_others = rule.init in ALTERING_INITS and rule.optimizer_state == "copy"
    if copies_state_of_others and any("x0" in entry for entry in optimizer.state.values()):
        problem = f"init {rule.init} must go with an optimizer that keeps no initial weights"
        raise ValueError(f"{problem}, but {name} does; use optimizer_state fresh or reset")


@torch.no_grad()
def compact(
    model: ElasticViT,
    emas: Sequence[ElasticViT],
    optimizer: torch.optim.Optimizer | None,
    slots: Slots,
) -> None:
    """Move the winner of a supernet to the front: slot ``i`` of a stage receives ``slots[stage][i]``.

    Optimizer state moves along; that of all other slots is dropped. Gradients become None.
    """
    for running in slots:
        assert list(running) == sorted(set(running)), f"slots must rise, but got {running}"
    for network in (model, *emas):
        for stage, running in zip(network.stages, slots, strict=True):
            # Rising slots never lie below their target: nothing is overwritten before it is read.
            for slot, source in enumerate(running):
                _copy_block(stage[slot], stage[source])
    if optimizer is not None:
        _move_state(model, optimizer, slots, clone_new=True)
    for network in (model, *emas):
        network.zero_grad(set_to_none=True)


def _copy_block(target: nn.Module, source: nn.Module) -> None:
    """Copy parameters and persistent buffers; drop-path rates belong to the slot and stay."""
    if target is source:
        return
    tensors = source.state_dict()
    for name, tensor in target.state_dict().items():
        tensor.copy_(tensors[name])


def _move_state(
    model: ElasticViT, optimizer: torch.optim.Optimizer, maps: Slots, clone_new: bool
) -> None:
    """Give each slot the state of its source: moved to the first copy, cloned or not for later ones."""
    for stage, source_map in zip(model.stages, maps, strict=True):
        states = [[optimizer.state.pop(p, None) for p in block.parameters()] for block in stage]
        new = set(new_slots(source_map))
        for slot, source in enumerate(source_map):
            if slot in new and not clone_new:
                continue
            for parameter, entry in zip(stage[slot].parameters(), states[source], strict=True):
                if not entry:
                    continue
                if slot in new:
                    # Shares no tensor with its source, not even the step count: optimizers change their
                    # state in place.
                    entry = {
                        key: value.clone() if isinstance(value, Tensor) else copy.deepcopy(value)
                        for key, value in entry.items()
                    }
                optimizer.state[parameter] = entry
