"""Tensors that are weights: dense floating point numbers, each with a place of its own in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autoprog.printable import brief

__all__ = ["check_dense", "differs", "first_not_finite", "shown_key"]

_FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_COUNTER = "num_batches_tracked"
"""The one whole number among weights: that of a batch norm."""
_MOST_DIMENSIONS = 8
_LONGEST_KEY = 80


def check_dense(state: Mapping[Any, Any]) -> None:
    """Refuse what cannot be the weights of a network.

    Raises:
        ValueError: With the first key and what is wrong with it.
    """
    for key, value in state.items():
        if not isinstance(key, str):
            raise ValueError(f"the names of tensors must be words, but one is {brief(key)}")
        problem = _problem(key, value)
        if problem:
            raise ValueError(
                f"{shown_key(key)} must be a dense tensor of floating point numbers, but {problem}"
            )


def differs(found: Any, own: Tensor) -> bool:
    """Tell whether a value is no tensor of that shape, or whole numbers where the network has others."""
    if not isinstance(found, Tensor) or found.shape != own.shape:
        return True
    return found.is_floating_point() != own.is_floating_point()


def first_not_finite(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str | None:
    """Return the first key whose values are not finite as the network holds them (1e300 in float32)."""
    for key, tensor in own.items():
        if tensor.is_floating_point() and key in state:
            with torch.no_grad():
                if not torch.isfinite(state[key].to(tensor.dtype)).all():
                    return key
    return None


def shown_key(key: str) -> str:
    """Return the name of a tensor short enough for a message."""
    return key if len(key) <= _LONGEST_KEY else f"{key[: _LONGEST_KEY - 1]}…"


def _problem(key: str, value: Any) -> str:
    """Return what keeps a value from being weights; nothing where it may be."""
    if not isinstance(value, Tensor):
        return f"it is a {type(value).__name__}"
    if type(value) not in (Tensor, nn.Parameter):
        return f"it is a {type(value).__name__}"
    if value.is_nested:
        return "it is nested"
    if value.is_quantized:
        return "it is quantised"
    if value.layout != torch.strided:
        return f"it is {_word(value.layout)}"
    if value.device.type != "cpu":
        return f"it is on the device {value.device.type}"
    is_counter = value.dtype == torch.int64 and value.ndim == 0 and key.endswith(_COUNTER)
    if value.dtype not in _FLOATING and not is_counter:
        return f"it is of {_word(value.dtype)}"
    if value.ndim > _MOST_DIMENSIONS:
        return f"it has {value.ndim} dimensions"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return f"it repeats few numbers as {value.numel():,}"
    if value.is_conj() or value.is_neg():
        return "it is a view of others"
    return ""


def _word(kind: torch.dtype | torch.layout) -> str:
    return str(kind).removeprefix("torch.")
