"""Weights of a file or a folder, whoever wrote it: tensors by name, read without unpickling."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from timm.models import clean_state_dict
from torch import Tensor

from autoprog.classes import some
from autoprog.errors import ConfigError, RunError
from autoprog.events import CheckpointSaved, StageStarted, SupernetStarted
from autoprog.jsonlines import read_object
from autoprog.openfiles import replacing
from autoprog.runs import Run, load_run
from autoprog.train.checkpoint import UNREADABLE
from autoprog.train.file_kinds import is_safetensors, what_else_it_is, why_it_is_not_loaded
from supernet.config import ModelSpec, SubnetConfig
from supernet.elastic import ElasticViT, create_elastic, describe
from supernet.export import export_subnet, plain_state_dict, table_state_dict

__all__ = [
    "WeightsFile",
    "description_of",
    "load_weights",
    "metadata_of",
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
    """

    path: Path
    state: dict[str, Tensor]
    spec: ModelSpec | None
    class_names: tuple[str, ...] | None = None
    images: Mapping[str, Any] | None = None
    taken: str = ""


def read_weights(path: Path, averaged: bool) -> WeightsFile:
    """Read weights: averaged ones where that is asked for and they are there, else the online ones.

    Takes a ``.safetensors`` file, what ``torch.save`` wrote, a checkpoint of timm's script or of a run, a
    finished run, and a folder of the Hugging Face hub with its ``config.json``.

    Raises:
        ConfigError: If it cannot be read, or holds no weights; says what it is instead.
    """
    if path.is_dir():
        return _read_folder(path, averaged)
    if not path.is_file():
        raise ConfigError(str(path), "", "must be an existing weights file or a run folder")
    try:
        _refuse(path, what_else_it_is(path))
        file = _read_safetensors(path) if is_safetensors(path) else _read_torch(path, averaged)
    except OSError as error:
        raise ConfigError(str(path), "", f"must be readable: {error.strerror}") from None
    run = run_of(path)
    if run is not None and file.class_names is None:
        return replace(file, class_names=run.manifest.class_names)
    return _described_beside(file)


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


def _differs(found: Tensor | None, own: Tensor) -> bool:
    return found is not None and found.shape != own.shape


def _refuse(path: Path, found: tuple[str, str] | None) -> None:
    """Raise where a file is something else than weights."""
    if found is not None:
        what, cure = found
        raise ConfigError(str(path), "", f"must hold weights, but it is {what}", cure=cure)


def _read_folder(folder: Path, averaged: bool) -> WeightsFile:
    checkpoints = folder if folder.name == "checkpoints" else folder / "checkpoints"
    final = checkpoints / ("final_ema.safetensors" if averaged else "final.safetensors")
    if final.is_file():
        return with_tables(read_weights(final, averaged))
    if run_of(folder) is not None:
        law, last = "must be a finished run", checkpoints / "last.pt"
        cure = "go on with --resume first" + (f", or give {last}" if last.exists() else "")
        raise ConfigError(str(folder), "", law, cure=cure)
    weights = next((folder / n for n in _HUB_WEIGHTS if (folder / n).is_file()), None)
    if weights is None or not (folder / "config.json").is_file():
        held = sorted(path.name for path in folder.iterdir())
        law = "must be a run folder, or one with config.json and model.safetensors"
        cure = f"it holds {some(held) if held else 'nothing'}"
        raise ConfigError(str(folder), "", law, cure=cure)
    return _with_config(read_weights(weights, averaged), folder / "config.json")


def _with_config(file: WeightsFile, config: Path) -> WeightsFile:
    """Return weights with what the ``config.json`` of the Hugging Face hub says of them."""
    body = read_object(config)
    images = body.get("pretrained_cfg") or {}
    kwargs = {k: v for k, v in (body.get("model_args") or {}).items() if k != "num_classes"}
    if images.get("input_size") is not None:
        kwargs.setdefault("img_size", images["input_size"][-1])
    if isinstance(kwargs.get("img_size"), list) and len({*kwargs["img_size"]}) == 1:
        kwargs["img_size"] = kwargs["img_size"][0]
    names, spec = body.get("label_names"), file.spec
    if isinstance(names, dict):
        names = [names[key] for key in sorted(names, key=int)]
    if spec is None and "architecture" in body:
        spec = _described(str(body["architecture"]), kwargs)
    wanted = {key: images[key] for key in _OF_IMAGES if key in images}
    return replace(
        file,
        spec=spec,
        class_names=tuple(map(str, names)) if isinstance(names, list) else file.class_names,
        images={"img_size": kwargs["img_size"], **wanted}
        if wanted and "img_size" in kwargs
        else None,
    )


_OF_IMAGES = ("mean", "std", "interpolation", "crop_pct")


def description_of(path: Path) -> Path:
    """Return the JSON file beside exported weights that says what they are for."""
    return path.with_name(f"{path.name}.json")


def _described_beside(file: WeightsFile) -> WeightsFile:
    """Return weights with what the file beside an export says, where they do not say it themselves."""
    beside = description_of(file.path)
    if file.spec is not None or not beside.is_file():
        return file
    body = read_object(beside)
    if "timm" not in body:
        return file
    kwargs = {k: v for k, v in body.get("kwargs", {}).items() if k != "num_classes"}
    names = body.get("class_names")
    return replace(
        file,
        spec=_described(str(body["timm"]), kwargs),
        class_names=tuple(map(str, names)) if isinstance(names, list) else None,
        images=body,
    )


def _read_safetensors(path: Path) -> WeightsFile:
    try:
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            about = file.metadata() or {}
    except (SafetensorError, *UNREADABLE):
        _refuse(path, ("a damaged safetensors file", "copy or download it again"))
        raise
    names, images = (_json_of(about, key) for key in ("class_names", "images"))
    return WeightsFile(
        path,
        state,
        _spec_of(about),
        class_names=tuple(map(str, names)) if isinstance(names, list) else None,
        images=images if isinstance(images, dict) else None,
    )


def _json_of(about: Mapping[str, str], key: str) -> Any:
    try:
        return json.loads(about.get(key, "null"))
    except ValueError:  # of another program
        return None


def _spec_of(about: Mapping[str, str]) -> ModelSpec | None:
    """Return the model that a file of ours says it is for."""
    kwargs = _json_of(about, "kwargs")
    return _described(about["timm"], kwargs) if "timm" in about and kwargs is not None else None


def _described(name: str, kwargs: Any) -> ModelSpec | None:
    try:
        return describe(name, **kwargs)
    except (ValueError, TypeError):  # of another version, or no model that can grow
        return None


def _read_torch(path: Path, averaged: bool) -> WeightsFile:
    try:
        # Namespace, as timm's train.py keeps its flags; opened here, as torch goes by the ending of a name
        with torch.serialization.safe_globals([argparse.Namespace]), path.open("rb") as file:
            found = torch.load(file, map_location="cpu", weights_only=True)
    except UNREADABLE:
        _refuse(path, why_it_is_not_loaded(path))
        raise
    if isinstance(found, Mapping) and {"optimizer", "emas", "model"} <= found.keys():
        return _of_checkpoint(path, found, averaged)
    state, key = _tensors(found, averaged, str(path))
    kind = "averaged" if key in _AVERAGED else "online"
    taken = f"{kind} weights, {key!r} of {path.name}" if key else ""
    return WeightsFile(path, state, spec=None, taken=taken)


def _of_checkpoint(path: Path, found: Mapping[str, Any], averaged: bool) -> WeightsFile:
    """Return the weights in the whole state of a run: a network of the depth that the run has reached.

    Raises:
        ConfigError: If that is not the full one, and the blocks that run cannot be told from the others.
    """
    emas, run = found["emas"], run_of(path)
    step, is_averaged = found.get("step", 0), averaged and bool(emas)
    taken = f"{'averaged' if is_averaged else 'online'} weights of step {step:,}, in {path.name}"
    file = WeightsFile(path, dict(emas[-1] if is_averaged else found["model"]), None, taken=taken)
    if run is None:
        return file
    spec = run.manifest.settings.model.spec()
    depth, is_supernet = _depth_at(run, step)
    if depth is None or depth == spec.depth:
        return replace(file, spec=spec)
    if is_supernet or spec.outlook is not None:
        full, now = ("+".join(map(str, blocks)) for blocks in (spec.depth, depth))
        law = f"must have all {full} blocks, but {now} are trained at step {step}"
        raise ConfigError(str(path), "", law, cure="go on with --resume first")
    return _cut(file, spec, depth, run.manifest.settings.table_sizes)


def _cut(
    file: WeightsFile, spec: ModelSpec, depth: tuple[int, ...], tables: Sequence[int]
) -> WeightsFile:
    """Return the weights of the blocks that run in a network that has not grown to its full depth."""
    model = create_elastic(spec, len(file.state["head.weight"]), table_sizes=tables)
    model.vit.load_state_dict(file.state)
    vit = export_subnet(model, SubnetConfig(depth, spec.img_size))
    cut = describe(spec.timm, **{**spec.create_kwargs(), "depth": sum(depth)})
    taken = f"{file.taken}: {sum(depth)} of {spec.full.total_depth} blocks, as far as it has grown"
    return replace(file, state=dict(vit.state_dict()), spec=cut, taken=taken)


def _depth_at(run: Run, step: int) -> tuple[tuple[int, ...] | None, bool]:
    """Return the depth of a run's checkpoint of a step, and whether it is that of a supernet phase.

    The depth is None where the events do not tell. A stage may begin at the very step at which the one
    before it was saved.
    """
    now: tuple[tuple[int, ...] | None, bool] = (None, False)
    saved = now
    for event in run.events():
        if isinstance(event, StageStarted):
            now = event.subnet.depth, False
        elif isinstance(event, SupernetStarted):
            now = event.current.depth, True
        elif isinstance(event, CheckpointSaved) and event.step == step:
            saved = now
    return saved


def _tensors(found: Any, averaged: bool, where: str) -> tuple[dict[str, Tensor], str]:
    """Return the weights among what a file holds, and the key that they were under."""
    held, part = found, ""
    if isinstance(found, Mapping):
        keys = (*_AVERAGED, *_ONLINE) if averaged else (*_ONLINE, *_AVERAGED)
        part = next((key for key in keys if isinstance(found.get(key), Mapping)), "")
        held = found[part] if part else found
    if isinstance(held, Mapping) and held and all(torch.is_tensor(v) for v in held.values()):
        return dict(clean_state_dict(dict(held))), part
    law = f"must hold tensors by name, but it holds {_content(held)}"
    cure = f"save torch.save(model.state_dict(), FILE), or that under {_ONLINE[0]!r}"
    raise ConfigError(where, "", law, cure=cure)


def _content(held: Any) -> str:
    """Return in words what a file holds that are no weights."""
    if torch.is_tensor(held):
        return "a single tensor"
    if not isinstance(held, Mapping):
        return f"a {type(held).__name__}"
    if {"state", "param_groups"} <= held.keys():
        return "the state of an optimizer"
    return f"only {some(list(map(str, held)))}" if held else "nothing"
