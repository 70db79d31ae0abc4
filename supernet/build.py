"""The one place where a description becomes a network of timm, after everything in it has been checked."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import timm
import torch
from torch import nn

from supernet.limits import check_arguments, check_name, check_num_classes

__all__ = ["build_network", "check_known", "machine_bytes"]

_ANSWERS = (  # of timm and torch to arguments that do not go together
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
)


def build_network(
    timm_name: str,
    arguments: Mapping[str, Any],
    num_classes: int | None = None,
    drop_path_rate: float | None = None,
    dynamic_img_size: bool | None = None,
) -> Any:
    """Build a network of timm, with weights from torch's global generator, or none on the meta device.

    Before any weight is drawn, it is built on the meta device, and its bytes are compared with the memory of
    the machine, which must hold two of it: the network, and the weights or gradients that go with it.

    Args:
        timm_name: A name of timm's registry.
        arguments: Those of ``timm.create_model`` that a description gives.
        num_classes: Outputs; timm's own number when left out, as are the other two.
        drop_path_rate: Of the deepest block.
        dynamic_img_size: Whether a plain ViT takes images of any size.

    Raises:
        ValueError: If the name or an argument is refused, they do not go together, or it is too large.
    """
    check_known(timm_name)
    check_arguments(timm_name, arguments)
    if num_classes is not None:
        check_num_classes(num_classes)
    own = {
        "num_classes": num_classes,
        "drop_path_rate": drop_path_rate,
        "dynamic_img_size": dynamic_img_size,
    }
    every = {**arguments, **{key: value for key, value in own.items() if value is not None}}
    if torch.get_default_device().type != "meta":
        with torch.device("meta"):
            state = _create(timm_name, every).state_dict()
        size = sum(tensor.nbytes for tensor in state.values())
        if 2 * size > machine_bytes():
            held = f"the machine has {machine_bytes() / 2**30:.3g} GiB"
            problem = f"must fit twice into memory, but its weights take {size / 2**30:,.3g} GiB"
            raise ValueError(f"{timm_name}: {problem}, and {held}")
    return _create(timm_name, every)


def check_known(timm_name: Any) -> None:
    """Refuse a name that is not in timm's registry, and name the nearest ones."""
    check_name("model", timm_name)
    if timm.is_model(timm_name):
        return
    near = difflib.get_close_matches(timm_name, timm.list_models(), n=3)
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    raise ValueError(f"model must be a short name or a timm model, but got {timm_name!r}{hint}")


@lru_cache(maxsize=1)
def machine_bytes() -> int:
    """Return the memory of the machine in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _create(timm_name: str, arguments: Mapping[str, Any]) -> nn.Module:
    try:
        return timm.create_model(timm_name, **arguments)
    except _ANSWERS as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        problem = "overrides must be arguments of that model"
        raise ValueError(f"{timm_name}: {problem}: {reason}") from None
