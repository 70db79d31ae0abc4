"""The weights that a run starts from where it does not draw them: timm's, a file's or another run's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import resample_abs_pos_embed_nhwc
from timm.models import is_model_pretrained
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

from autoprog.errors import ConfigError, RunError
from autoprog.settings import RunSettings
from autoprog.train.checkpoint import UNREADABLE
from autoprog.train.weights import read_weights, with_tables
from supernet.config import ModelSpec
from supernet.elastic import ElasticViT, create_elastic
from supernet.positions import TABLES, resample_tables

__all__ = ["InitialWeights", "find_initial", "load_initial"]

_FINAL = Path("checkpoints") / "final_ema.safetensors"


@dataclass(frozen=True)
class InitialWeights:
    """Weights under the network's own keys, all but a head that starts afresh.

    ``notes`` tells in words what was not taken over as it was.
    """

    state: dict[str, Tensor]
    notes: tuple[str, ...]


def find_initial(settings: RunSettings, num_classes: int) -> InitialWeights | None:
    """Read the weights that the settings name; None where a run draws its own.

    The head starts afresh where the number of classes differs, the position table is resampled where the
    image size does, and so are tables of further sizes that the weights do not have.

    Raises:
        ConfigError: If there are no such weights, or they are those of another network.
        RunError: If timm cannot get its weights.
    """
    spec, source = settings.model.spec(), settings.initial_checkpoint
    if settings.pretrained:
        weights, flag, value = _weights_of_timm(spec), "--pretrained", ConfigError.NO_VALUE
    elif source is not None:
        weights, flag, value = _weights_of_file(source), "--initial-checkpoint", source
    else:
        return None
    with torch.device("meta"):
        vit = create_elastic(spec, num_classes, table_sizes=settings.table_sizes).vit
    try:
        return _fitted(weights, vit)
    except _MisfitError as misfit:
        law = f"must hold the weights of {spec.name} ({misfit})"
        raise ConfigError(flag, "", law, value) from None


def load_initial(
    networks: tuple[ElasticViT, ...], settings: RunSettings, num_classes: int
) -> tuple[str, ...]:
    """Put initial weights, if there are any, into the online network and its averages; return the notes.

    Raises:
        ConfigError: As :func:`find_initial` does.
        RunError: So too.
    """
    found = find_initial(settings, num_classes)
    if found is None:
        return ()
    online, *averages = networks
    online.vit.load_state_dict(found.state, strict=False)  # without a fresh head and fresh tables
    tables = {size: f"{TABLES}.{size}" for size in settings.table_sizes}
    resample_tables(online.vit, (size for size, key in tables.items() if key not in found.state))
    for average in averages:
        average.vit.load_state_dict(online.vit.state_dict())
    return found.notes


def _weights_of_timm(spec: ModelSpec) -> dict[str, Tensor]:
    if spec.overrides or not is_model_pretrained(spec.timm):
        law, cure = "timm must have weights of the model", "or give --initial-checkpoint"
        raise ConfigError("--pretrained", "", law, spec.name, f"take deit-s, {cure}")
    try:
        with torch.random.fork_rng(devices=[]):  # what it draws first is of no use
            weights: dict[str, Tensor] = timm.create_model(spec.timm, pretrained=True).state_dict()
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RunError(f"--pretrained: {spec.timm} cannot be loaded: {reason}") from None
    return weights


def _weights_of_file(source: str) -> dict[str, Any]:
    """Read a weights file, with the tables beside it; averaged weights go before others in it."""
    path = Path(source)
    if path.is_dir():
        path = path / _FINAL
    if not path.is_file():
        law = "must be a weights file or a finished run"
        raise ConfigError("--initial-checkpoint", "", law, source)
    try:
        return with_tables(read_weights(path, averaged=True)).state
    except ConfigError as error:
        raise ConfigError("--initial-checkpoint", "", error.law, source, error.cure) from None


class _MisfitError(ValueError):
    """Says in what weights differ from those of a network."""


def _fitted(weights: Mapping[str, Any], vit: Any) -> InitialWeights:
    """Bring weights into the shape of a network; raises :class:`_MisfitError` where they are another's."""
    own = dict(vit.state_dict())
    try:
        state = _in_timm_format(weights, vit)
    except UNREADABLE:
        state = {}
    notes = [
        f"{head} starts afresh"
        for head in ("head", "aux_head")
        if _set_aside(state, own, head, as_a_whole=True)
    ]
    if _set_aside(state, own, TABLES, as_a_whole=False) & weights.keys():
        notes.append(f"{TABLES} does not fit and is left out")
    _refuse_misfit(state, own)
    notes += [
        f"{key} is resampled from {_shape(weights[key])} to {_shape(state[key])}"
        for key in state
        if key in weights and weights[key].shape != state[key].shape
    ]
    return InitialWeights(state, tuple(notes))


def _set_aside(
    state: dict[str, Any], own: dict[str, Tensor], part: str, *, as_a_whole: bool
) -> set[str]:
    """Drop what one of them lacks or has in another shape, or then all of the part; return its keys."""
    keys = {key for key in (*own, *state) if key.startswith(f"{part}.")}
    dropped = {key for key in keys if not _same_shape(state, own, key)}
    if dropped and as_a_whole:
        dropped = keys
    for key in dropped:
        own.pop(key, None)
        state.pop(key, None)
    return dropped


def _in_timm_format(weights: Mapping[str, Any], vit: Any) -> dict[str, Tensor]:
    """Return weights as timm names them now, with the position table of the network's size."""
    if isinstance(vit, VisionTransformer):
        return dict(checkpoint_filter_fn(dict(weights), vit))
    state, positions = dict(weights), weights.get("pos_embed")
    if isinstance(positions, Tensor) and positions.ndim == 4:  # a VOLO's (1, H, W, D)
        state["pos_embed"] = resample_abs_pos_embed_nhwc(positions, vit.pos_embed.shape[1:3])
    return state


def _refuse_misfit(state: Mapping[str, Any], own: Mapping[str, Tensor]) -> None:
    foreign = [key for key in state if key not in own]
    missing = [key for key in own if key not in state]
    other = [key for key in own if key in state and not _same_shape(state, own, key)]
    what = [
        f"{len(keys)} {kind}, such as {keys[0]}"
        for kind, keys in (("missing", missing), ("too many", foreign), ("of another shape", other))
        if keys
    ]
    if what:
        raise _MisfitError("; ".join(what))


def _same_shape(state: Mapping[str, Any], own: Mapping[str, Tensor], key: str) -> bool:
    """Tell whether both have a tensor of that name and shape."""
    if key not in own or not isinstance(state.get(key), Tensor):
        return False
    same: bool = state[key].shape == own[key].shape
    return same


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))
