"""One cell of elastic weights as a program that needs neither timm nor autoprog."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from autoprog.errors import ConfigError, RunError
from autoprog.openfiles import folder_beside, replacing
from autoprog.settings import RunSettings
from autoprog.train.data import TransformSettings
from autoprog.train.export import ExportedModel, describe_beside
from autoprog.train.model import transform_settings
from autoprog.train.weights import WeightsFile, loaded_network, num_outputs
from supernet.config import SubnetConfig
from supernet.export import StaticViT, static_model

__all__ = ["export_onnx", "export_program"]


@dataclass(frozen=True)
class _Cell:
    """A network of one cell, images (2, C, H, W) that it takes, and how images are normalised."""

    network: StaticViT
    images: torch.Tensor
    transform: TransformSettings


def export_program(
    settings: RunSettings,
    file: WeightsFile,
    subnet: SubnetConfig,
    output: Path,
    model: ExportedModel,
) -> str:
    """Write what ``torch.export`` makes of a subnet, for batches of any size; return how to load it.

    Raises:
        ConfigError: If the weights are of another network, or the network is no plain ViT.
        RunError: If the file cannot be written.
    """
    cell = _cell(settings, file, subnet)
    batch = {0: torch.export.Dim("batch", min=1)}
    with torch.no_grad():
        program = torch.export.export(cell.network, (cell.images,), dynamic_shapes=(batch,))
    try:
        with replacing(output) as written:
            torch.export.save(program, written)
    except (OSError, RuntimeError) as error:
        raise RunError(f"{output}: the program cannot be written: {error}") from None
    return _usage(
        cell, subnet, output, model, f"torch.export.load({str(output)!r}).module()(images)"
    )


def export_onnx(
    settings: RunSettings,
    file: WeightsFile,
    subnet: SubnetConfig,
    output: Path,
    model: ExportedModel,
) -> str:
    """Write a subnet as ONNX, weights included, for batches of any size; return how to load it.

    Its input is ``images``, its output ``logits``.

    Raises:
        ConfigError: If the weights are of another network, it is no plain ViT, or the packages of the extra
            are missing.
        RunError: If the file cannot be written.
    """
    if find_spec("onnx") is None or find_spec("onnxscript") is None:
        law, cure = "must have onnx and onnxscript installed", "pip install 'autoprog[onnx]'"
        raise ConfigError("--format", "", law, "onnx", cure)
    cell = _cell(settings, file, subnet)
    with torch.no_grad():
        program = torch.onnx.export(
            cell.network,
            (cell.images,),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            custom_translation_table={torch.ops.aten.sort.stable: _sort},
        )
    assert program is not None, "the exporter of torch.export returns its program"
    try:
        with folder_beside(output) as beside:
            program.save(beside / output.name, external_data=False)
            (beside / output.name).replace(output)
    except OSError as error:
        raise RunError(f"{output}: the program cannot be written: {error}") from None
    session = f"onnxruntime.InferenceSession({str(output)!r})"
    return _usage(cell, subnet, output, model, f"{session}.run(None, {{'images': images}})")


def _sort(scores: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
    """Translate a stable sort, which ONNX has not: its TopK puts the lower index first among equals."""
    from onnxscript import opset18 as op

    length = op.Shape(scores, start=dim, end=dim + 1)
    return op.TopK(scores, length, axis=dim, largest=int(descending), sorted=1)


def _cell(settings: RunSettings, file: WeightsFile, subnet: SubnetConfig) -> _Cell:
    """Return the network of a subnet with the weights of a file."""
    spec = settings.model.spec() if file.spec is None else file.spec
    tables = settings.table_sizes
    if spec.outlook is not None:
        law, cure = f"must be weights or hf for {spec.name}", "programs are made of plain ViTs"
        raise ConfigError("--format", "", law, cure=cure)
    model = loaded_network(file, spec, num_outputs(file), settings.seed, tables)
    images = torch.zeros(2, model.spec.in_chans, subnet.img_size, subnet.img_size)
    transform = transform_settings(model, settings.recipe)
    return _Cell(static_model(model, subnet), images, transform)


def _usage(cell: _Cell, subnet: SubnetConfig, output: Path, model: ExportedModel, load: str) -> str:
    """Say what was written, how to load it, and which images it takes; the same lies beside it as JSON.

    Raises:
        RunError: If that cannot be written.
    """
    mean, std = (
        " ".join(f"{value:.4g}" for value in values)
        for values in (cell.transform.mean, cell.transform.std)
    )
    _, channels, side, _ = cell.images.shape
    prepared = replace(model, images={**model.images, "img_size": side})
    try:
        beside = describe_beside(output, prepared)
    except OSError as error:
        raise RunError(f"{output}: what lies beside it cannot be written: {error}") from None
    return (
        f"{output}: {subnet}\n"
        f"load with: {load}\n"
        f"images: B x {channels} x {side} x {side} in [0, 1], less {mean}, divided by {std};"
        f" {prepared.transform_words}\n"
        f"{beside}"
    )
