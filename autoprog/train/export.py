"""Weights of a run in other formats, with the lines that load them and prepare images for them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from timm.models import model_entrypoint, save_for_hf
from torch import Tensor

import supernet.elastic  # registers the models of ours with timm
from autoprog.data.transforms import THUMBNAIL_PX, TransformSettings
from autoprog.errors import ConfigError, RunError
from autoprog.files import read_object
from autoprog.openfiles import folder_beside, kind_of, replacing, write_atomically
from autoprog.printable import one_line
from autoprog.settings import RunManifest, RunSettings
from autoprog.train.model import build_model, evaluation_images, transform_settings
from autoprog.train.weights import (
    WeightsFile,
    check_fits,
    description_of,
    loaded_network,
    num_outputs,
    write_weights,
)
from supernet.build import build_network
from supernet.config import SubnetConfig
from supernet.export import StaticViT, static_model
from supernet.positions import TABLES

__all__ = [
    "ExportedModel",
    "classes_of",
    "describe_beside",
    "export_folder",
    "export_onnx",
    "export_program",
    "export_weights",
    "is_exported_folder",
]


# --------------------------------------------------------------------------------------------------
# A subnet of elastic weights as a program that needs neither timm nor autoprog.


@dataclass(frozen=True)
class _Static:
    """A network of one subnet, images (2, C, H, W) that it takes, and how images are normalised."""

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
    static = _static(settings, file, subnet)
    batch = {0: torch.export.Dim("batch", min=1)}
    with torch.no_grad():
        program = torch.export.export(static.network, (static.images,), dynamic_shapes=(batch,))
    try:
        with replacing(output) as written:
            torch.export.save(program, written)
    except (OSError, RuntimeError) as error:
        raise RunError(f"{output}: the program cannot be written: {error}") from None
    return _usage(
        static, subnet, output, model, f"torch.export.load({str(output)!r}).module()(images)"
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
        problem, hint = "must have onnx and onnxscript installed", "pip install 'autoprog[onnx]'"
        raise ConfigError("--format", "", problem, "onnx", hint)
    static = _static(settings, file, subnet)
    with torch.no_grad():
        program = torch.onnx.export(
            static.network,
            (static.images,),
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
    return _usage(static, subnet, output, model, f"{session}.run(None, {{'images': images}})")


def _sort(scores: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
    """Translate a stable sort, which ONNX has not: its TopK puts the lower index first among equals."""
    from onnxscript import opset18 as op

    length = op.Shape(scores, start=dim, end=dim + 1)
    return op.TopK(scores, length, axis=dim, largest=int(descending), sorted=1)


def _static(settings: RunSettings, file: WeightsFile, subnet: SubnetConfig) -> _Static:
    """Return the network of a subnet with the weights of a file."""
    spec = settings.model.spec() if file.spec is None else file.spec
    tables = settings.table_sizes
    if spec.outlook is not None:
        problem, hint = f"must be weights or hf for {spec.name}", "programs are made of plain ViTs"
        raise ConfigError("--format", "", problem, hint=hint)
    model = loaded_network(file, spec, num_outputs(file), settings.seed, tables)
    # Two images: torch.export takes a dimension of one for a constant.
    images = torch.zeros(2, model.spec.in_chans, subnet.img_size, subnet.img_size)
    transform = transform_settings(model, settings.recipe)
    return _Static(static_model(model, subnet), images, transform)


def _usage(
    static: _Static, subnet: SubnetConfig, output: Path, model: ExportedModel, load: str
) -> str:
    """Say what was written, how to load it, and which images it takes; the same lies beside it as JSON.

    Raises:
        RunError: If that cannot be written.
    """
    mean, std = (
        " ".join(f"{value:.4g}" for value in values)
        for values in (static.transform.mean, static.transform.std)
    )
    _, channels, side, _ = static.images.shape
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


_KEPT_OF_TIMM = {  # of a pretrained_cfg, without what only timm's own weights can claim
    "classifier",
    "crop_mode",
    "crop_pct",
    "first_conv",
    "fixed_input_size",
    "input_size",
    "interpolation",
    "mean",
    "num_classes",
    "pool_size",
    "std",
}


_EXPORTED = ("config.json", "model.safetensors")
_TAG = "autoprog"
"""What a ``config.json`` says of the origin of the weights."""


@dataclass(frozen=True)
class ExportedModel:
    """A plain timm model of a run: how it is built, its weights, its classes and how it sees images.

    Attributes:
        timm: timm's name of it.
        kwargs: Further arguments of ``timm.create_model``.
        weights: Tensors under timm's names.
        class_names: In the order of the outputs; None where the run did not record them.
        images: ``img_size``, ``mean``, ``std``, ``interpolation`` and ``crop_pct`` of the run's evaluation.
        run_id: The run.
    """

    timm: str
    kwargs: Mapping[str, Any]
    weights: dict[str, Tensor]
    class_names: tuple[str, ...] | None
    images: Mapping[str, Any]
    run_id: str

    @classmethod
    def of(cls, file: WeightsFile, manifest: RunManifest) -> ExportedModel:
        """Return the model of a run's weights, of as many blocks as these have."""
        settings = manifest.settings
        spec = settings.model.spec() if file.spec is None else file.spec
        weights = {k: v for k, v in file.state.items() if not k.startswith(f"{TABLES}.")}
        num_classes = num_outputs(file)
        with torch.device("meta"):  # no weight is drawn
            elastic = build_model(spec, num_classes, settings.seed)
        check_fits(elastic, replace(file, state=weights))
        return cls(
            timm=spec.timm,
            kwargs={**spec.create_kwargs(), "num_classes": num_classes},
            weights=weights,
            class_names=file.class_names,
            images=evaluation_images(elastic, settings.recipe),
            run_id=manifest.run_id,
        )

    @property
    def transform_words(self) -> str:
        """Return the line of Python that prepares an image as the run's evaluation does."""
        images = self.images
        side, crop = images["img_size"], images["crop_pct"]
        mean, std = tuple(images["mean"]), tuple(images["std"])
        words = (
            f"timm.data.create_transform(input_size=(3, {side}, {side}),"
            f" interpolation={images['interpolation']!r}, mean={mean}, std={std}, crop_pct={crop})"
        )
        if crop == 1:
            return words
        return f"{words} (crop_pct=1.0 for square images of up to {THUMBNAIL_PX} px)"


def export_weights(model: ExportedModel, output: Path) -> str:
    """Write a plain timm state dict, with what it is for beside it; return how to load it.

    Raises:
        RunError: If a file cannot be written.
    """
    try:
        if output.suffix == ".safetensors":
            write_weights(output, model.weights, _metadata(model))
        else:
            with replacing(output) as file:
                torch.save(model.weights, file)
        beside = describe_beside(output, model)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise RunError(f"{output}: the weights cannot be exported: {error}") from None
    arguments = ", ".join(f"{key}={value!r}" for key, value in model.kwargs.items())
    build = f"timm.create_model({model.timm!r}, {arguments}, checkpoint_path={str(output)!r})"
    load = f"load with: {_needed_import(model.timm)}{build}"
    return "\n".join([str(output), load, f"images: {model.transform_words}", beside])


def export_folder(model: ExportedModel, output: Path) -> str:
    """Write a folder of ``config.json`` and ``model.safetensors``, which timm and the Hugging Face hub take.

    The configuration names the classes and how images are prepared, and claims nothing of timm's own weights
    of that model, such as their licence. Returns how to load it.

    Raises:
        RunError: If a file cannot be written.
    """
    try:
        with torch.device("meta"):  # no weight is drawn only to be overwritten
            arguments = {k: v for k, v in model.kwargs.items() if k != "num_classes"}
            network = build_network(model.timm, arguments, model.kwargs["num_classes"])
        network.load_state_dict(model.weights, strict=True, assign=True)
        about: dict[str, Any] = {"architecture": model.timm}
        if model.class_names is not None:
            about["label_names"] = list(model.class_names)
        images = {key: value for key, value in model.images.items() if key != "img_size"}
        side = model.images["img_size"]
        with folder_beside(output) as beside:
            new = beside / "export"
            save_for_hf(
                network,
                str(new),
                about,
                dict(model.kwargs),
                safe_serialization=True,
                data_config={**images, "input_size": (3, side, side)},
            )
            # What holds for timm's own weights alone (licence, paper, origin) is not claimed.
            config = new / "config.json"
            body = json.loads(config.read_text(encoding="utf-8"))
            kept = {k: v for k, v in body["pretrained_cfg"].items() if k in _KEPT_OF_TIMM}
            body["pretrained_cfg"] = {"tag": _TAG, **kept}
            write_atomically(config, json.dumps(body, indent=2, ensure_ascii=False) + "\n")
            write_weights(new / "model.safetensors", model.weights, _metadata(model))
            if is_exported_folder(output):  # a folder is not replaced as long as it holds something
                for name in _EXPORTED:
                    (output / name).unlink()
                output.rmdir()
            new.replace(output)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise RunError(f"{output}: the folder cannot be exported: {error}") from None
    build = f"timm.create_model({f'local-dir:{output}'!r}, pretrained=True)"
    load = f"load with: {_needed_import(model.timm)}{build}"
    return "\n".join([str(output), load, f"images: {model.transform_words}"])


def is_exported_folder(folder: Path) -> bool:
    """Return whether a folder holds what :func:`export_folder` writes, and nothing else."""
    if kind_of(folder) != "a folder":
        return False
    if {path.name: kind_of(path) for path in folder.iterdir()} != dict.fromkeys(
        _EXPORTED, "a regular file"
    ):
        return False
    try:
        images = read_object(folder / "config.json").get("pretrained_cfg")
    except ConfigError:
        return False
    return isinstance(images, Mapping) and images.get("tag") == _TAG


def classes_of(output: Path) -> Path:
    """Return the file beside an export with the names of its classes, a line each."""
    return output.with_name(f"{output.name}.classes.txt")


def describe_beside(output: Path, model: ExportedModel) -> str:
    """Write how images are prepared, and the class names, beside an export; return which files these are.

    Raises:
        OSError: If they cannot be written.
    """
    description, classes = description_of(output), classes_of(output)
    body = {
        "run": model.run_id,
        "timm": model.timm,
        "kwargs": dict(model.kwargs),
        **model.images,
        "input_range": [0.0, 1.0],
        "crops_from_px": THUMBNAIL_PX + 1,
        "class_names": None if model.class_names is None else list(model.class_names),
    }
    write_atomically(description, json.dumps(body, indent=1, ensure_ascii=False) + "\n")
    if model.class_names is None:
        classes.unlink(missing_ok=True)  # of an export that is replaced
        return f"beside it: {description} (the run did not record its classes)"
    lines = map(one_line, model.class_names)  # a line each, whoever reads it
    write_atomically(classes, "".join(f"{line}\n" for line in lines))
    return f"beside it: {description} and {classes}, in the order of the outputs"


def _metadata(model: ExportedModel) -> dict[str, str]:
    """Return what a safetensors file says of its weights, as the final weights of a run say it."""
    kwargs = {key: value for key, value in model.kwargs.items() if key != "num_classes"}
    metadata = {
        "timm": model.timm,
        "kwargs": json.dumps(kwargs),
        "num_classes": str(model.kwargs["num_classes"]),
        "images": json.dumps(dict(model.images)),
    }
    if model.class_names is not None:
        metadata["class_names"] = json.dumps(list(model.class_names))
    return metadata


def _needed_import(timm_name: str) -> str:
    """Return the statement without which timm does not know a model, or nothing for timm's own ones."""
    module = model_entrypoint(timm_name).__module__
    return f"import {module}; " if module.startswith(f"{supernet.__name__}.") else ""
