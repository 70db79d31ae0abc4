"""Final weights in other formats, with the line that loads them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from timm.models import model_entrypoint, save_for_hf

import supernet.elastic  # registers the models of ours with timm
from autoprog.errors import RunError
from autoprog.recipe import Recipe

__all__ = ["export_folder", "export_weights"]


def export_weights(source: Path, output: Path) -> str:
    """Write the weights of a run's safetensors file as a plain timm state dict; return how to load them.

    Raises:
        RunError: If a file cannot be read or written.
    """
    try:
        metadata, weights = _read(source)
        temporary = output.with_name(f".{output.name}")
        if output.suffix == ".safetensors":
            save_file(weights, temporary, metadata=metadata)
        else:
            torch.save(weights, temporary)
        temporary.replace(output)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise RunError(f"{output}: the weights cannot be exported: {error}") from None
    kwargs = _kwargs(metadata)
    arguments = ", ".join(f"{key}={value!r}" for key, value in kwargs.items())
    build = f"timm.create_model({metadata['timm']!r}, {arguments}, checkpoint_path={str(output)!r})"
    return f"{output}\nload with: {_needed_import(metadata['timm'])}{build}"


def export_folder(source: Path, recipe: Recipe, output: Path) -> str:
    """Write a folder of ``config.json`` and ``model.safetensors``, which timm and the Hugging Face hub take.

    Its image size, normalisation, crop and filter are those that the run evaluated with. Returns how to
    load it.

    Raises:
        RunError: If a file cannot be read or written.
    """
    temporary = output.with_name(f".{output.name}")
    try:
        metadata, weights = _read(source)
        name, kwargs = metadata["timm"], _kwargs(metadata)
        with torch.device("meta"):  # no weight is drawn only to be overwritten
            model = timm.create_model(name, **kwargs)
        model.load_state_dict(weights, strict=True, assign=True)
        images = _evaluation_images(model.pretrained_cfg, kwargs, recipe)
        about = {"architecture": name}
        save_for_hf(
            model, str(temporary), about, kwargs, safe_serialization=True, data_config=images
        )
        temporary.replace(output)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise RunError(f"{output}: the folder cannot be exported: {error}") from None
    build = f"timm.create_model({f'local-dir:{output}'!r}, pretrained=True)"
    return f"{output}\nload with: {_needed_import(name)}{build}"


def _evaluation_images(
    pretrained: Mapping[str, Any], kwargs: Mapping[str, Any], recipe: Recipe
) -> dict[str, Any]:
    """Return timm's data configuration of the run's own evaluation."""
    _, *sides = pretrained["input_size"]
    side = kwargs.get("img_size", sides[0])
    filtered = "bicubic" if recipe.interpolation == "random" else recipe.interpolation
    return {
        "input_size": (3, side, side),
        "mean": tuple(pretrained["mean"]),
        "std": tuple(pretrained["std"]),
        "interpolation": filtered,
        "crop_pct": recipe.crop_pct,
    }


def _read(source: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Return what a run's safetensors file says of its model, and the weights."""
    with safe_open(source, framework="pt") as file:
        return file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def _kwargs(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments of ``timm.create_model`` that build the model."""
    return json.loads(metadata["kwargs"]) | {"num_classes": int(metadata["num_classes"])}


def _needed_import(timm_name: str) -> str:
    """Return the statement without which timm does not know a model, or nothing for timm's own ones."""
    module = model_entrypoint(timm_name).__module__
    return f"import {module}; " if module.startswith(f"{supernet.__name__}.") else ""
