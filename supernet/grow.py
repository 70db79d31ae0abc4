"""Growth as one in-place gather over block slots: weights, buffers, EMAs, optimizer state.

Parameters keep their identity, so optimizer, EMA and checkpoints never change their layout.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from supernet.config import GrowthRule, Slots
from supernet.depthmap import MAPS, new_slots
from supernet.elastic import ElasticViT

__all__ = ["SlotOrigin", "compact", "grow"]


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
    maps = tuple(MAPS[rule.placement](*ends) for ends in zip(base, target, strict=True))
    for ema in emas:
        _fill(ema, maps)
    _fill(model, maps)
    if rule.init == "ema":
        _take_from_ema(model, emas[-1], maps, everything=rule.old_blocks == "ema")
    elif rule.init == "zero":
        for network in (model, *emas):
            _silence(network, maps)
    _grow_state(model, optimizer, maps, rule.optimizer_state)
    _drop_gradients((model, *emas))
    return _origins(maps, rule, has_optimizer=optimizer is not None)


def check_state(rule: GrowthRule, optimizer: torch.optim.Optimizer) -> None:
    """Refuse a rule that does not go with the state of an optimizer which has taken a step.

    Zero moments that meet the step count of others would overshoot (Lamb, Adan). From the initial weights in
    the state of its source the next step would make a silenced block that source again (MADGRAD).

    Raises:
        ValueError: Where the rule and the optimizer do not go together.
    """
    name = type(optimizer).__name__
    if rule.optimizer_state == "fresh" and any("step" in group for group in optimizer.param_groups):
        problem = "optimizer_state fresh must have a step count per parameter"
        raise ValueError(f"{problem}, but {name} counts per group; use copy or reset")
    silences = rule.init == "zero" and rule.optimizer_state == "copy"
    if silences and any("x0" in entry for entry in optimizer.state.values()):
        problem = "init zero must go with an optimizer that keeps no initial weights"
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
    _drop_gradients((model, *emas))


def _fill(network: ElasticViT, maps: Slots) -> None:
    """Gather in place from the deep end: a map never reads above its own slot."""
    for stage, source_map in zip(network.stages, maps, strict=True):
        for slot in reversed(range(len(source_map))):
            _copy_block(stage[slot], stage[source_map[slot]])


def _take_from_ema(model: ElasticViT, ema: ElasticViT, maps: Slots, everything: bool) -> None:
    """Overwrite the new blocks, or the whole network, by those of an EMA that has grown already."""
    if everything:
        _copy_block(model.vit, ema.vit)
        return
    for stage, grown, source_map in zip(model.stages, ema.stages, maps, strict=True):
        for slot in new_slots(source_map):
            _copy_block(stage[slot], grown[slot])


def _silence(network: ElasticViT, maps: Slots) -> None:
    """Set the last layer of both residual branches of every new block to 0."""
    for stage, source_map in zip(network.stages, maps, strict=True):
        for slot in new_slots(source_map):
            for layer in ("attn.proj", "mlp.fc2"):
                for parameter in stage[slot].get_submodule(layer).parameters():
                    parameter.zero_()


def _copy_block(target: nn.Module, source: nn.Module) -> None:
    """Copy parameters and persistent buffers; drop-path rates belong to the slot and stay."""
    if target is source:
        return
    tensors = source.state_dict()
    for name, tensor in target.state_dict().items():
        tensor.copy_(tensors[name])


def _grow_state(
    model: ElasticViT, optimizer: torch.optim.Optimizer | None, maps: Slots, mode: str
) -> None:
    if optimizer is None:
        return
    if mode == "reset":
        optimizer.state.clear()
        for group in optimizer.param_groups:
            group.pop("step", None)
        return
    _move_state(model, optimizer, maps, clone_new=mode == "copy")


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
                if entry:
                    optimizer.state[parameter] = _clone(entry) if slot in new else entry


def _clone(entry: dict[str, Any]) -> dict[str, Any]:
    """Copy one parameter's state so deeply that no tensor, the step count included, is shared."""
    return {
        key: value.clone() if isinstance(value, Tensor) else copy.deepcopy(value)
        for key, value in entry.items()
    }


def _drop_gradients(networks: Iterable[nn.Module]) -> None:
    for network in networks:
        network.zero_grad(set_to_none=True)


def _origins(maps: Slots, rule: GrowthRule, has_optimizer: bool) -> tuple[SlotOrigin, ...]:
    origins = []
    for stage, source_map in enumerate(maps):
        new = set(new_slots(source_map))
        origins += [
            SlotOrigin(
                stage=stage,
                slot=slot,
                source_slot=source,
                is_new=slot in new,
                weights=_weights_origin(rule, slot in new),
                state=_state_origin(rule, slot in new) if has_optimizer else "none",
            )
            for slot, source in enumerate(source_map)
        ]
    return tuple(origins)


def _weights_origin(rule: GrowthRule, is_new: bool) -> Literal["kept", "online", "ema", "zero"]:
    if rule.old_blocks == "ema":
        return "ema"
    if not is_new:
        return "kept"
    return {"ema": "ema", "copy": "online", "zero": "zero"}[rule.init]  # type: ignore[return-value]


def _state_origin(rule: GrowthRule, is_new: bool) -> Literal["carried", "fresh", "reset"]:
    if rule.optimizer_state == "reset":
        return "reset"
    return "fresh" if is_new and rule.optimizer_state == "fresh" else "carried"
