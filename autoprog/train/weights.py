"""Weights of a file or a folder, whoever wrote it: tensors by name, read without unpickling."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from timm.models import clean_state_dict
from torch import Tensor

from autoprog.accuracy import some
from autoprog.errors import ConfigError, RunError
from autoprog.events import CheckpointSaved, StageStarted, SupernetStarted
from autoprog.files import parse, read_object
from autoprog.openfiles import NotRegularFileError, open_regular, replacing
from autoprog.printable import brief
from autoprog.runs import Run, load_run
from autoprog.train.model import build_model
from autoprog.train.torch_files import (
    UNREADABLE,
    NotLoadedError,
    check_dense,
    first_not_finite,
    is_safetensors,
    key_differences,
    load_torch,
    shown_key,
    what_else_it_is,
    why_it_is_not_loaded,
)
from supernet.config import ModelSpec, SubnetConfig
from supernet.elastic import ElasticViT, describe
from supernet.export import export_subnet, plain_state_dict, table_state_dict

__all__ = [
    "WeightsFile",
    "check_fits",
    "description_of",
    "loaded_network",
    "metadata_of",
    "num_outputs",
    "read_weights",
    "run_of",
    "saved_weights",
    "with_tables",
    "write_files",
    "write_weights",
]

_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict")
_ONLINE = ("state_dict", "model", "model_state_dict", "net")
_HUB_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class WeightsFile:
    """What a file holds.

    Attributes:
        path: The file.
        state: Tensors under timm's names.
        spec: The model that it says it is for; None where it says nothing.
        class_names: Of the outputs, in order; None where it does not name them.
        images: How images are prepared: ``img_size``, ``mean``, ``std``, ``interpolation`` and ``crop_pct``;
            None where it says nothing.
        taken: In words, which weights were taken of a file that holds more; empty for nothing else in it.
        refused: Why the model that it says it is for cannot be built; empty where it can, or says nothing.
    """

    path: Path
    state: dict[str, Tensor]
    spec: ModelSpec | None
    class_names: tuple[str, ...] | None = None
    images: Mapping[str, Any] | None = None
    taken: str = ""
    refused: str = ""


def read_weights(path: Path, averaged: bool) -> WeightsFile:
    """Read weights: averaged ones where that is asked for and they are there, else the online ones.

    Takes a ``.safetensors`` file, what ``torch.save`` wrote, a checkpoint of timm's script or of a run, a
    finished run, and a folder of the Hugging Face hub with its ``config.json``.

    Raises:
        ConfigError: If it cannot be read, or holds no weights; says what it is instead.
    """
    if not os.path.exists(path):
        raise ConfigError(str(path), "", "must be an existing weights file or a run folder")
    try:
        if path.is_dir():
            return _read_folder(path, averaged)
        _refuse(path, what_else_it_is(path))  # before a reader that would fail in its own words
        file = _read_safetensors(path) if is_safetensors(path) else _read_torch(path, averaged)
    except NotRegularFileError as error:
        problem = f"must be a weights file or a run folder, but it is {error.strerror}"
        raise ConfigError(str(path), "", problem) from None
    except OSError as error:
        raise ConfigError(str(path), "", f"must be readable: {error.strerror}") from None
    run = run_of(path)
    if run is not None and file.class_names is None:
        return replace(file, class_names=run.manifest.class_names)
    beside = description_of(file.path)
    if file.spec is not None or not beside.is_file():
        return file
    images = read_object(beside)
    body = parse(_Beside, {**images, "arguments": images.get("kwargs") or {}}, str(beside))
    if body.timm is None:
        return file
    kwargs = {k: v for k, v in body.arguments.items() if k != "num_classes"}
    file = _described(file, body.timm, kwargs)
    return replace(file, class_names=_names(body.class_names), images=images)


def run_of(path: Path) -> Run | None:
    """Return the run that a folder is, or that a file of its checkpoints belongs to; None for others."""
    path = path.absolute()
    folders = (path, path.parent) if path.name == "checkpoints" else (path, path.parent.parent)
    of_a_file = path.parent.name == "checkpoints" or path.name == "checkpoints"
    for folder in folders[: 2 if of_a_file else 1]:
        if (folder / "run.yaml").is_file():
            return load_run(folder)
    return None


def with_tables(file: WeightsFile) -> WeightsFile:
    """Return the weights of a run's file together with the position tables beside it, if there are."""
    beside = file.path.with_name(f"{file.path.stem}_tables.safetensors")
    if not beside.is_file():
        return file
    return replace(file, state={**file.state, **_read_safetensors(beside).state})


def saved_weights(
    networks: Mapping[str, ElasticViT], has_tables: bool
) -> dict[str, dict[str, Tensor]]:
    """Return what is written of networks, by file name: plain timm weights, and position tables if any."""
    tables = {f"{name}_tables": table_state_dict(one) for name, one in networks.items()}
    plain = {name: plain_state_dict(one) for name, one in networks.items()}
    return {**(tables if has_tables else {}), **plain}


def write_files(
    folder: Path, files: Mapping[str, Mapping[str, Tensor]], metadata: Mapping[str, str]
) -> None:
    """Write ``.safetensors`` files by name, each replaced as a whole.

    Raises:
        RunError: If they cannot be written.
    """
    for name, weights in files.items():
        path = folder / f"{name}.safetensors"
        try:
            write_weights(path, dict(weights), metadata)
        except (OSError, SafetensorError) as error:
            raise RunError(f"{path}: the weights cannot be written: {error}") from None


def metadata_of(path: Path) -> dict[str, str]:
    """Return what a ``.safetensors`` file says of itself; nothing if it cannot be read or is missing."""
    try:
        with open_regular(path), safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError):
        return {}


def loaded_network(
    file: WeightsFile,
    spec: ModelSpec,
    num_classes: int,
    seed: int = 0,
    table_sizes: Sequence[int] = (),
) -> ElasticViT:
    """Return a network with the weights of a file, whose shapes are compared before any memory is taken.

    Raises:
        ConfigError: If they are those of another network, or are not finite.
    """
    with torch.device("meta"):  # a description may be of a network far too large
        check_fits(build_model(spec, num_classes, seed, table_sizes), file)
    model = build_model(spec, num_classes, seed, table_sizes)
    model.vit.load_state_dict(file.state)
    return model


def num_outputs(file: WeightsFile) -> int:
    """Return for how many classes the head of weights has a row.

    Raises:
        ConfigError: If they have no head.
    """
    head = file.state.get("head.weight")
    if head is None or head.ndim == 0:
        problem = "must hold the weights of a network with a head"
        raise ConfigError(
            str(file.path), "", problem, hint="it has no head.weight of one row a class"
        )
    return len(head)


def check_fits(model: ElasticViT, file: WeightsFile) -> None:
    """Compare weights with a network, which may be on the meta device.

    Raises:
        ConfigError: If they are those of another network, or are not finite.
    """
    own = model.vit.state_dict()
    misfits = key_differences(own, file.state)
    if misfits:
        problem = f"must hold the weights of {model.spec.name} ({misfits})"
        hint = f"at {model.spec.img_size} px with {model.vit.num_classes} classes"
        raise ConfigError(str(file.path), "", f"{problem}, {hint}")
    key = first_not_finite(file.state, own)
    if key is not None:
        problem = f"must hold finite numbers, but {key} has NaN or infinity"
        raise ConfigError(str(file.path), "", problem, hint="take weights from before it diverged")


def write_weights(path: Path, weights: dict[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all.

    Not by ``save_file``, whose files nobody but their owner can read, whatever the umask.

    Raises:
        OSError: If it cannot be written.
        SafetensorError: If the tensors cannot be stored.
    """
    data = save(weights, metadata=dict(metadata))
    with replacing(path) as file:
        file.write(data)


def _refuse(path: Path, found: tuple[str, str] | None) -> None:
    """Raise where a file is something else than weights."""
    if found is not None:
        what, hint = found
        raise ConfigError(str(path), "", f"must hold weights, but it is {what}", hint=hint)


def _read_folder(folder: Path, averaged: bool) -> WeightsFile:
    checkpoints = folder if folder.name == "checkpoints" else folder / "checkpoints"
    # Not last.pt, where there is both: a finished run hands over its final weights.
    final = checkpoints / ("final_ema.safetensors" if averaged else "final.safetensors")
    if os.path.lexists(final):
        return with_tables(read_weights(final, averaged))
    if run_of(folder) is not None:
        problem, last = "must be a finished run", checkpoints / "last.pt"
        hint = "go on with --resume first" + (f", or give {last}" if last.exists() else "")
        raise ConfigError(str(folder), "", problem, hint=hint)
    weights = next((folder / n for n in _HUB_WEIGHTS if (folder / n).is_file()), None)
    if weights is None or not (folder / "config.json").is_file():
        held = sorted(path.name for path in folder.iterdir())
        problem = "must be a run folder, or one with config.json and model.safetensors"
        hint = f"it holds {some(held) if held else 'nothing'}"
        raise ConfigError(str(folder), "", problem, hint=hint)
    # A folder of the Hugging Face hub: its config.json says what the weights are for.
    file, config = read_weights(weights, averaged), folder / "config.json"
    body = parse(_HubConfig, read_object(config), str(config))
    images = body.pretrained_cfg or _HubImages()
    kwargs = {k: v for k, v in (body.model_args or {}).items() if k != "num_classes"}
    if images.input_size is not None:
        kwargs.setdefault("img_size", images.input_size[-1])
    side = kwargs.get("img_size")  # JSON has a list where timm was given a pair
    if isinstance(side, list) and side and all(one == side[0] for one in side):
        kwargs["img_size"] = side[0]
    if file.spec is None and body.architecture is not None:
        file = _described(file, body.architecture, kwargs)
    wanted = images.model_dump(mode="json", exclude={"input_size"}, exclude_none=True)
    says_all = wanted and isinstance(kwargs.get("img_size"), int)
    return replace(
        file,
        class_names=_names(body.label_names) or file.class_names,
        images={"img_size": kwargs["img_size"], **wanted} if says_all else None,
    )


class _Foreign(BaseModel):
    """What a file of others says; they may say more than is asked for."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class _HubImages(_Foreign):
    """``pretrained_cfg`` of a ``config.json``."""

    input_size: tuple[int, int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str | None = None
    crop_pct: float | None = None


class _HubConfig(_Foreign):
    """``config.json`` of the Hugging Face hub, as timm writes it."""

    architecture: str | None = None
    model_args: dict[str, Any] | None = None
    pretrained_cfg: _HubImages | None = None
    label_names: dict[int, str] | list[str] | None = None


class _Beside(_Foreign):
    """The JSON file beside exported weights."""

    timm: str | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    class_names: list[str] | None = None


def _names(found: Any) -> tuple[str, ...] | None:
    """Return the names of classes, in order, where a file has some."""
    if isinstance(found, dict):
        found = [found[key] for key in sorted(found)]
    if not isinstance(found, list) or not found:
        return None
    return tuple(str(name)[:_LONGEST_CLASS_NAME] for name in found)


_LONGEST_CLASS_NAME = 1_000


def description_of(path: Path) -> Path:
    """Return the JSON file beside exported weights that says what they are for."""
    return path.with_name(f"{path.name}.json")


def _read_safetensors(path: Path) -> WeightsFile:
    try:
        with open_regular(path), safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            about = file.metadata() or {}
    except NotRegularFileError:
        raise
    except (SafetensorError, *UNREADABLE):
        _refuse(path, ("a damaged safetensors file", "copy or download it again"))
        raise
    said: dict[str, Any] = {}
    for key in ("class_names", "images", "kwargs"):
        with suppress(ValueError, RecursionError):  # metadata of another program is no JSON of ours
            said[key] = json.loads(about.get(key, "null"))
    images, arguments = said.get("images"), said.get("kwargs")
    found = WeightsFile(
        path,
        _dense(path, state),
        spec=None,
        class_names=_names(said.get("class_names")),
        images=images if isinstance(images, dict) else None,
    )
    says_model = "timm" in about and arguments is not None
    return _described(found, about["timm"], arguments) if says_model else found


def _dense(path: Path, state: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Return tensors that may be weights.

    Raises:
        ConfigError: If one of them cannot be.
    """
    try:
        check_dense(state)
    except ValueError as error:
        raise ConfigError(str(path), "", str(error)) from None
    return dict(state)


def _described(file: WeightsFile, name: str, kwargs: Any) -> WeightsFile:
    """Return weights with the model that they are said to be for, if it can be built and can grow."""
    if not isinstance(kwargs, Mapping):
        return replace(file, refused=f"arguments must be a mapping, but got {brief(kwargs)}")
    try:
        return replace(file, spec=describe(name, **kwargs))
    except (ValueError, TypeError) as error:  # of another version, or hostile
        return replace(file, refused=str(error))


def _read_torch(path: Path, averaged: bool) -> WeightsFile:
    try:
        found = load_torch(path)
    except NotLoadedError as error:
        _refuse(path, why_it_is_not_loaded(error))
        raise
    if isinstance(found, Mapping) and {"optimizer", "emas", "model"} <= found.keys():
        return _of_checkpoint(path, found, averaged)
    # timm's script and others keep the tensors under a key, beside the optimizer and what else there is.
    held, key = found, ""
    if isinstance(found, Mapping):
        keys = (*_AVERAGED, *_ONLINE) if averaged else (*_ONLINE, *_AVERAGED)
        key = next((key for key in keys if isinstance(found.get(key), Mapping)), "")
        held = found[key] if key else found
    is_state = isinstance(held, Mapping) and held and all(torch.is_tensor(v) for v in held.values())
    if not is_state:
        problem = f"must hold tensors by name, but it holds {_content(held)}"
        hint = f"save torch.save(model.state_dict(), FILE), or that under {_ONLINE[0]!r}"
        raise ConfigError(str(path), "", problem, hint=hint)
    state = dict(clean_state_dict(_dense(path, held)))  # without the prefixes of wrappers
    kind = "averaged" if key in _AVERAGED else "online"
    taken = f"{kind} weights, {key!r} of {path.name}" if key else ""
    return WeightsFile(path, state, spec=None, taken=taken)


def _of_checkpoint(path: Path, found: Mapping[str, Any], averaged: bool) -> WeightsFile:
    """Return the weights in the whole state of a run: a network of the depth that the run has reached.

    Raises:
        ConfigError: If that is not the full one, and which blocks run is not certain.
    """
    emas, step, run = found["emas"], found.get("step", 0), run_of(path)
    if not isinstance(emas, list) or not isinstance(step, int):
        problem = "must hold weights, but it is the state of no run"
        raise ConfigError(str(path), "", problem, hint="copy it again")
    is_averaged = averaged and bool(emas)
    state = emas[-1] if is_averaged else found["model"]
    if not isinstance(state, Mapping):
        problem = "must hold tensors by name, but it holds"
        raise ConfigError(str(path), "", f"{problem} {_content(state)}")
    taken = f"{'averaged' if is_averaged else 'online'} weights of step {step:,}, in {path.name}"
    file = WeightsFile(path, _dense(path, state), None, taken=taken)
    if run is None:
        return file
    spec = run.manifest.settings.model.spec()
    # The depth of the checkpoint is that of the stage or supernet phase entered before it was written, by the
    # order of the events: a stage may begin at the very step at which the one before it was saved.
    depth: tuple[int, ...] | None = None
    now, is_supernet, in_supernet = depth, False, False
    for event in run.events():
        if isinstance(event, StageStarted):
            now, in_supernet = event.subnet.depth, False
        elif isinstance(event, SupernetStarted):
            now, in_supernet = event.current.depth, True
        elif isinstance(event, CheckpointSaved) and event.step == step:
            depth, is_supernet = now, in_supernet
    if depth is None or depth == spec.depth:
        return replace(file, spec=spec)
    if is_supernet or spec.outlook is not None:
        full, so_far = ("+".join(map(str, blocks)) for blocks in (spec.depth, depth))
        problem = f"must have all {full} blocks, but {so_far} are trained at step {step}"
        raise ConfigError(str(path), "", problem, hint="go on with --resume first")
    if len(depth) != len(spec.depth) or not SubnetConfig(depth, spec.img_size).within(spec.full):
        problem = f"must be of a run of {spec.name}, but its events name other depths"
        raise ConfigError(str(path), "", problem)
    # Only the blocks that run: the others still hold what they were drawn with.
    tables = run.manifest.settings.table_sizes
    model = loaded_network(file, spec, num_outputs(file), table_sizes=tables)
    vit = export_subnet(model, SubnetConfig(depth, spec.img_size))
    shallow = describe(spec.timm, **{**spec.create_kwargs(), "depth": sum(depth)})
    taken = f"{file.taken}: {sum(depth)} of {spec.full.total_depth} blocks, as far as it has grown"
    return replace(file, state=dict(vit.state_dict()), spec=shallow, taken=taken)


def _content(held: Any) -> str:
    """Return in words what a file holds that are no weights."""
    if torch.is_tensor(held):
        return "a single tensor"
    if not isinstance(held, Mapping):
        return f"a {type(held).__name__}"
    if {"state", "param_groups"} <= held.keys():
        return "the state of an optimizer"
    names = [shown_key(key) if isinstance(key, str) else brief(key) for key in held]
    return f"only {some(names)}" if names else "nothing"
