"""Steps that leave no trace: whatever they change is put back, to the bit."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoprog.train.loop import Stepper
from supernet.drop import DropPath

__all__ = ["untouched"]


@contextmanager
def untouched(stepper: Stepper) -> Iterator[None]:
    """Put back weights, averages, optimizer, scaler, generators and settings at the end of the block.

    Copies lie in the memory of the CPU, so that a batch that fits into that of the device still does. Only
    gradients are dropped: no step looks at those of another.
    """
    tensors = _tensors(stepper)
    copies = [tensor.detach().to("cpu", copy=True) for tensor in tensors]
    optimizer, kept = stepper.optimizer, _optimizer_state(stepper.optimizer)
    scaler = deepcopy(stepper.scaler.state_dict())
    trainable = [parameter.requires_grad for parameter in stepper.model.parameters()]
    rates = [(module, module.drop_prob) for module in _drop_paths(stepper)]
    training = stepper.model.training
    settings = dict(vars(stepper))
    generators = _generators(stepper.compute.device)
    try:
        yield
    finally:
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for tensor, copy in zip(tensors, copies, strict=True):
                tensor.copy_(copy)
        _put_back_optimizer(optimizer, kept)
        if scaler:
            stepper.scaler.load_state_dict(scaler)
        for parameter, flag in zip(stepper.model.parameters(), trainable, strict=True):
            parameter.requires_grad_(flag)
        for module, rate in rates:
            module.drop_prob = rate
        vars(stepper).update(settings)
        stepper.model.train(training)
        _put_back_generators(stepper.compute.device, generators)


def _tensors(stepper: Stepper) -> list[Tensor]:
    """Return every tensor of the network, its averages and the optimizer's state."""
    networks = [stepper.model, *(ema.module for ema in stepper.emas)]
    found = [t for net in networks for part in (net.parameters(), net.buffers()) for t in part]
    states = stepper.optimizer.state.values()
    return found + [v for state in states for v in state.values() if torch.is_tensor(v)]


def _drop_paths(stepper: Stepper) -> Iterator[DropPath]:
    """Yield the modules whose rate is a number beside its buffer."""
    return (module for module in stepper.model.modules() if isinstance(module, DropPath))


def _optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[Any, list[dict[str, Any]]]:
    """Return the state of each parameter and the settings of each group; tensors are the optimizer's own."""
    states = {
        parameter: {k: v if torch.is_tensor(v) else deepcopy(v) for k, v in state.items()}
        for parameter, state in optimizer.state.items()
    }
    groups = [
        {key: deepcopy(value) for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]
    return states, groups


def _put_back_optimizer(
    optimizer: torch.optim.Optimizer, kept: tuple[Any, list[dict[str, Any]]]
) -> None:
    states, groups = kept
    optimizer.state.clear()
    optimizer.state.update(states)
    for group, values in zip(optimizer.param_groups, groups, strict=True):
        for key in group.keys() - values.keys() - {"params"}:
            del group[key]  # such as the number of steps, which some optimizers keep here
        group.update(values)


def _generators(device: torch.device) -> dict[str, Any]:
    states = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        states["device"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["device"] = torch.mps.get_rng_state()
    return states


def _put_back_generators(device: torch.device, states: dict[str, Any]) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["device"], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(states["device"])
