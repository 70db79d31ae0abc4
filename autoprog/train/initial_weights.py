"""The weights that a run starts from where it does not draw them: timm's, a file's or another run's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import resample_abs_pos_embed_nhwc
from timm.models import is_model_pretrained
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

from autoprog.accuracy import class_difference, order_of
from autoprog.errors import ConfigError, RunError
from autoprog.settings import RunSettings
from autoprog.train.model import build_model
from autoprog.train.torch_files import UNREADABLE, differs, first_not_finite, key_differences
from autoprog.train.weights import WeightsFile, read_weights, with_tables
from supernet.config import ModelSpec
from supernet.elastic import ElasticViT
from supernet.positions import TABLES, resample_tables

__all__ = ["InitialWeights", "find_initial", "load_initial", "weights_of_file"]


@dataclass(frozen=True)
class InitialWeights:
    """Weights under the network's own keys, all but a head that starts afresh.

    ``notes`` says in words what was not taken over as it was.
    """

    state: dict[str, Tensor]
    notes: tuple[str, ...]


def find_initial(settings: RunSettings, class_names: Sequence[str]) -> InitialWeights | None:
    """Read the weights that the settings name; None where a run draws its own.

    A head is kept where its classes are those of the run; in another order, its rows follow them. Where the
    weights do not name their classes, it is kept if there are as many: an equal number is nearly always that
    of the same data, whose head is worth keeping, and a wrong one costs little. The run says so, and
    ``fresh_head`` draws it anew. The position table is resampled where the image size differs, and so are
    tables of further sizes that the weights do not have.

    Args:
        settings: Of the run.
        class_names: The classes of its images, in order.

    Raises:
        ConfigError: If there are no such weights, or they are those of another network.
        RunError: If timm cannot get its weights.
    """
    spec, source = settings.model.spec(), settings.initial_checkpoint
    if settings.pretrained:
        file, flag, value = _weights_of_timm(spec), "--pretrained", ConfigError.NO_VALUE
    elif source is not None:
        file, flag, value = weights_of_file(source), "--initial-checkpoint", source
    else:
        return None
    with torch.device("meta"):  # shapes are all that is needed of the network
        vit = build_model(spec, len(class_names), settings.seed, settings.table_sizes).vit
    own, weights = dict(vit.state_dict()), file.state
    try:
        state = _in_timm_format(weights, vit)
    except UNREADABLE:
        state = {}  # which lacks every tensor of the network, and is refused below
    notes = [file.taken] if file.taken else []
    head = _head_of(file, settings, tuple(class_names))
    for part in ("head", "aux_head"):  # a VOLO has both
        notes += _settle_head(state, own, part, head)
    if _set_aside(state, own, TABLES, as_a_whole=False) & weights.keys():
        notes.append(f"{TABLES} does not fit and is left out")
    misfits = key_differences(own, state)
    if not misfits:
        key = first_not_finite(state, own)
        misfits = "" if key is None else f"{key} has NaN or infinity"
    if misfits:
        problem = f"must hold the weights of {spec.name} ({misfits})"
        raise ConfigError(flag, "", problem, value)
    notes += [
        f"{key} is resampled from {_shape(weights[key])} to {_shape(state[key])}"
        for key in state
        if key in weights and weights[key].shape != state[key].shape
    ]
    return InitialWeights(state, tuple(notes))


def load_initial(
    networks: tuple[ElasticViT, ...], settings: RunSettings, class_names: Sequence[str]
) -> tuple[str, ...]:
    """Put initial weights, if there are any, into the online network and its averages; return the notes.

    Raises:
        ConfigError: As :func:`find_initial` does.
        RunError: So too.
    """
    found = find_initial(settings, class_names)
    if found is None:
        return ()
    online, *averages = networks
    # The averages begin at the same weights: at what they were drawn with they would lag behind for long.
    online.vit.load_state_dict(found.state, strict=False)  # without a fresh head and fresh tables
    tables = {size: f"{TABLES}.{size}" for size in settings.table_sizes}
    resample_tables(online.vit, (size for size, key in tables.items() if key not in found.state))
    for average in averages:
        average.vit.load_state_dict(online.vit.state_dict())
    return found.notes


def weights_of_file(source: str) -> WeightsFile:
    """Read what ``--initial-checkpoint`` names; averaged weights go before others in it.

    Raises:
        ConfigError: If it is missing or holds no weights.
    """
    path = Path(source)
    if not path.exists():
        problem = (
            "must be a weights file, a finished run, or a folder that export --format hf wrote"
        )
        raise ConfigError("--initial-checkpoint", "", problem, source)
    try:
        return with_tables(read_weights(path, averaged=True))
    except ConfigError as error:
        raise ConfigError("--initial-checkpoint", source, error.problem, hint=error.hint) from None


@dataclass(frozen=True)
class _Head:
    """What becomes of a head: ``order`` has the row of each class of the run, None is for a fresh one."""

    order: tuple[int, ...] | None
    why: str


def _head_of(file: WeightsFile, settings: RunSettings, class_names: tuple[str, ...]) -> _Head:
    """Return what becomes of the head of weights in a network of these classes."""
    rows = file.state.get("head.weight")
    if rows is not None and rows.ndim == 0:  # of a hostile file: it has no rows
        rows = None
    own = file.class_names
    if settings.fresh_head:
        return _Head(None, "as --fresh-head says")
    if rows is None:
        return _Head(None, "the weights have none")
    if own is None or len(own) != len(rows) or not settings.data.has_names(class_names):
        if len(rows) != len(class_names):
            return _Head(None, f"it has {len(rows)} classes, the run {len(class_names)}")
        why = ", whose classes are not named, is kept as it is (--fresh-head for other ones)"
        return _Head(tuple(range(len(rows))), why)
    if own == class_names:
        return _Head(tuple(range(len(rows))), "")
    order = order_of(class_names, own)
    if order is None or len(own) != len(class_names):
        return _Head(
            None, f"its classes are others: in the run {class_difference(class_names, own)}"
        )
    return _Head(tuple(order), " is kept, its rows put into the order of the run's classes")


def _weights_of_timm(spec: ModelSpec) -> WeightsFile:
    if spec.overrides or not is_model_pretrained(spec.timm):
        problem, hint = "timm must have weights of the model", "or give --initial-checkpoint"
        raise ConfigError("--pretrained", "", problem, spec.name, f"take deit-s, {hint}")
    try:
        with torch.random.fork_rng(devices=[]):  # what it draws first is of no use
            weights: dict[str, Tensor] = timm.create_model(spec.timm, pretrained=True).state_dict()
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RunError(f"--pretrained: {spec.timm} cannot be loaded: {reason}") from None
    return WeightsFile(Path(spec.timm), weights, spec)


def _settle_head(
    state: dict[str, Any], own: dict[str, Tensor], part: str, head: _Head
) -> list[str]:
    """Keep a head, put its rows into the order of the classes, or drop it; return in words what was done."""
    keys = [key for key in {**own, **state} if key.startswith(f"{part}.")]
    if not keys:
        return []
    if head.order is None:
        for key in keys:
            own.pop(key, None)
            state.pop(key, None)
        return [f"{part} starts afresh: {head.why}"]
    for key in keys:
        if isinstance(state.get(key), Tensor) and len(state[key]) == len(head.order):
            state[key] = state[key][list(head.order)]
    if _set_aside(state, own, part, as_a_whole=True):
        return [f"{part} starts afresh: its shape is another"]
    return [f"{part}{head.why}"] if head.why else []


def _set_aside(
    state: dict[str, Any], own: dict[str, Tensor], part: str, *, as_a_whole: bool
) -> set[str]:
    """Drop from both the tensors of a part that do not fit, or then all of it; return their keys."""
    keys = {key for key in (*own, *state) if key.startswith(f"{part}.")}
    dropped = {key for key in keys if key not in own or differs(state.get(key), own[key])}
    if dropped and as_a_whole:
        dropped = keys
    for key in dropped:
        own.pop(key, None)
        state.pop(key, None)
    return dropped


_LARGEST_PATCH_PX = 64
"""Of a kernel that is resampled, which takes time with the fourth power of its side."""


def _in_timm_format(weights: Mapping[str, Any], vit: Any) -> dict[str, Tensor]:
    """Return weights as timm names them now, with the position table of the network's size."""
    # A stranger's kernel of 1,000 px would keep the resampling busy for hours.
    patches = weights.get("patch_embed.proj.weight")
    if isinstance(patches, Tensor) and max(patches.shape[2:], default=0) > _LARGEST_PATCH_PX:
        raise ValueError("patches that are too large to be resampled")
    if isinstance(vit, VisionTransformer):
        return dict(checkpoint_filter_fn(dict(weights), vit))
    state, positions = dict(weights), weights.get("pos_embed")
    if isinstance(positions, Tensor) and positions.ndim == 4:  # a VOLO's (1, H, W, D)
        state["pos_embed"] = resample_abs_pos_embed_nhwc(positions, vit.pos_embed.shape[1:3])
    return state


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))
