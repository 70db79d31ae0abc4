"""Weights of a file, whoever wrote it: tensors by name, read without unpickling."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from timm.models import clean_state_dict
from torch import Tensor

from autoprog.errors import ConfigError, RunError
from autoprog.train.checkpoint import UNREADABLE
from supernet.config import ModelSpec
from supernet.elastic import ElasticViT, describe
from supernet.export import plain_state_dict, table_state_dict

__all__ = [
    "WeightsFile",
    "load_weights",
    "metadata_of",
    "read_weights",
    "saved_weights",
    "with_tables",
    "write_weights",
]

_AVERAGED, _ONLINE = ("state_dict_ema", "model_ema"), ("state_dict", "model")


@dataclass(frozen=True)
class WeightsFile:
    """What a file holds. ``spec`` is the model that it says it is for; None where it says nothing."""

    path: Path
    state: dict[str, Tensor]
    spec: ModelSpec | None


def read_weights(path: Path, averaged: bool) -> WeightsFile:
    """Read a ``.safetensors`` file or what ``torch.save`` wrote; of timm's checkpoints one of both networks.

    Raises:
        ConfigError: If it cannot be read, or holds no weights.
    """
    if not path.is_file():
        raise ConfigError(str(path), "", "must be an existing weights file or a run folder")
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        with torch.serialization.safe_globals(
            [argparse.Namespace]
        ):  # timm's train.py keeps its flags
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (*UNREADABLE, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        law = f"must be a readable weights file ({reason[:100]})"
        raise ConfigError(str(path), "", law) from None
    return WeightsFile(path, _tensors(found, averaged, str(path)), spec=None)


def with_tables(file: WeightsFile) -> WeightsFile:
    """Return the weights of a run's file together with the position tables beside it, if there are."""
    beside = file.path.with_name(f"{file.path.stem}_tables.safetensors")
    if not beside.is_file():
        return file
    return replace(file, state={**file.state, **read_weights(beside, averaged=True).state})


def saved_weights(
    networks: Mapping[str, ElasticViT], has_tables: bool
) -> dict[str, dict[str, Tensor]]:
    """Return what is written of networks, by file name: plain timm weights, and position tables if any."""
    tables = {f"{name}_tables": table_state_dict(one) for name, one in networks.items()}
    plain = {name: plain_state_dict(one) for name, one in networks.items()}
    return {**(tables if has_tables else {}), **plain}


def write_weights(
    folder: Path, files: Mapping[str, Mapping[str, Tensor]], metadata: Mapping[str, str]
) -> None:
    """Write ``.safetensors`` files by name, each replaced as a whole.

    Raises:
        RunError: If they cannot be written.
    """
    for name, weights in files.items():
        path = folder / f"{name}.safetensors"
        temporary = path.with_name(f".{path.name}")
        try:
            save_file(dict(weights), temporary, metadata=dict(metadata))
            temporary.replace(path)
        except (OSError, SafetensorError) as error:
            raise RunError(f"{path}: the weights cannot be written: {error}") from None


def metadata_of(path: Path) -> dict[str, str]:
    """Return what a ``.safetensors`` file says of itself; nothing if it cannot be read or is missing."""
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError):
        return {}


def load_weights(model: ElasticViT, file: WeightsFile) -> None:
    """Put the weights of a file into a network.

    Raises:
        ConfigError: If they are those of another network.
    """
    own = model.vit.state_dict()
    complaints = [
        f"{len(keys)} {kind}, such as {keys[0]}"
        for kind, keys in (
            ("missing", [key for key in own if key not in file.state]),
            ("too many", [key for key in file.state if key not in own]),
            ("of another shape", [key for key in own if _differs(file.state.get(key), own[key])]),
        )
        if keys
    ]
    if complaints:
        law = f"must hold the weights of {model.spec.name} ({'; '.join(complaints)})"
        cure = f"at {model.spec.img_size} px with {model.vit.num_classes} classes"
        raise ConfigError(str(file.path), "", f"{law}, {cure}")
    model.vit.load_state_dict(file.state)


def _differs(found: Tensor | None, own: Tensor) -> bool:
    return found is not None and found.shape != own.shape


def _read_safetensors(path: Path) -> WeightsFile:
    with safe_open(path, framework="pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        about = file.metadata() or {}
    return WeightsFile(path, state, _spec_of(about))


def _spec_of(about: Mapping[str, str]) -> ModelSpec | None:
    """Return the model that a file of ours says it is for."""
    if "timm" not in about or "kwargs" not in about:
        return None
    try:
        return describe(about["timm"], **json.loads(about["kwargs"]))
    except (ValueError, TypeError):  # of another version
        return None


def _tensors(found: Any, averaged: bool, where: str) -> dict[str, Tensor]:
    """Return the weights among what a file holds."""
    if isinstance(found, Mapping) and {"optimizer", "emas"} <= found.keys():
        law, cure = "must hold weights, not the state of a run", "give the run folder"
        raise ConfigError(where, "", law, cure=cure)
    keys = (*_AVERAGED, *_ONLINE) if averaged else _ONLINE
    if isinstance(found, Mapping):
        found = next((found[key] for key in keys if isinstance(found.get(key), Mapping)), found)
    if not isinstance(found, Mapping) or not all(torch.is_tensor(v) for v in found.values()):
        raise ConfigError(where, "", "must hold tensors by name")
    return dict(clean_state_dict(dict(found)))
