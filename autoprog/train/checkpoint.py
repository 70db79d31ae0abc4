"""Checkpoints: the whole training state in one file, replaced atomically, read without unpickling."""

from __future__ import annotations

import math
import os
import shutil
import zipfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from autoprog import migration
from autoprog.bounds import MAX_STEPS
from autoprog.decisions import ReachedLosses
from autoprog.errors import RunError
from autoprog.events import Evaluated
from autoprog.openfiles import open_regular, replacing
from autoprog.printable import brief
from autoprog.train.torch_files import (
    NotLoadedError,
    check_dense,
    differs,
    first_not_finite,
    load_torch,
    shown_key,
)
from supernet.config import SubnetConfig, TokenRule
from supernet.elastic import ElasticViT

__all__ = ["MisfitStateError", "check_state", "load_newest", "publish", "write_pending"]


SCHEMA = migration.SCHEMA


def write_pending(folder: Path, state: dict[str, Any]) -> Path:
    """Write a checkpoint beside the published ones and wait until it is on disk.

    Raises:
        RunError: If the disk is full or the folder cannot be written; published files stay as they are.
    """
    pending = folder / ".next.pt"
    try:
        with replacing(pending) as file:
            torch.save({"schema": SCHEMA, **state}, file)
    except (OSError, RuntimeError) as error:
        raise _unwritable(folder, error) from None
    return pending


def publish(folder: Path, pending: Path, keep_as: str | None = None) -> None:
    """Make a written checkpoint the last one, the last one the previous, and keep a copy by name.

    Raises:
        RunError: If the folder cannot be written.
    """
    last = folder / "last.pt"
    try:
        # Two renames: a death between them leaves the previous one, which a resume then takes.
        if last.exists():
            last.replace(folder / "previous.pt")
        pending.replace(last)
        if keep_as is None:
            return
        kept = folder / f"{keep_as}.pt"
        kept.unlink(missing_ok=True)
        try:
            os.link(last, kept)  # a second name takes no space
        except OSError:  # a file system without hard links
            with last.open("rb") as whole, replacing(kept) as copy:
                shutil.copyfileobj(whole, copy)
    except OSError as error:
        raise _unwritable(folder, error) from None


class MisfitStateError(ValueError):
    """A checkpoint that is whole, but whose values are not those of the run; says which."""


def load_newest(
    folder: Path, check: Callable[[dict[str, Any]], None] | None = None
) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the newest readable checkpoint, and in words why others were passed over; None if none is left.

    Its tensors are on the CPU. Those that belong elsewhere are put there by whoever takes them; the step
    counters of an optimizer stay, for on a GPU some optimizers would wait for them in each step.

    Args:
        folder: Of the checkpoints.
        check: Raises :class:`MisfitStateError` for values that a run cannot be put into.
    """
    complaints: list[str] = []
    for path in (folder / "last.pt", folder / "previous.pt"):
        if not path.exists():
            continue
        try:
            # Ours are zip files; anything else would go to the reader of torch's older format, a bare pickle.
            with open_regular(path) as file:
                if file.read(4) != b"PK\x03\x04" or not zipfile.is_zipfile(file):
                    raise NotLoadedError("damaged, or not a checkpoint")
            state = load_torch(path)
            if isinstance(state, dict):
                state = migration.checkpoint(state)
            schema = state.get("schema") if isinstance(state, dict) else None
            if not isinstance(schema, int) or schema != SCHEMA:  # a tensor is neither equal nor not
                raise NotLoadedError("not a checkpoint of this version")
            if check is not None:
                check(state)
            return state, complaints
        except MisfitStateError as error:
            complaints.append(f"{path.name} does not fit this run ({error})")
        except (NotLoadedError, OSError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            complaints.append(f"{path.name} cannot be read ({reason})")
    if complaints:
        complaints.append("no checkpoint can be read: the run starts from the beginning")
    return None, complaints


def _unwritable(folder: Path, error: Exception) -> RunError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return RunError(f"{folder}: the checkpoint cannot be written: {reason}")


# --------------------------------------------------------------------------------------------------
# What a checkpoint holds is compared with the run before anything of it is taken over: a run folder may
# come from others, and half a restored state would be worse than none.


class _Values(BaseModel):
    """Plain values, of exactly these types; more of them may be there."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class _Best(_Values):
    step: int = Field(ge=0, le=MAX_STEPS)
    epoch: float = Field(ge=0)
    top1: float = Field(ge=0, le=100)


class _SearchState(_Values):
    """What a search keeps with checkpoints; see :mod:`autoprog.search.searcher`."""

    recent: dict[str, list[list[float]]] = Field(default_factory=dict)
    curve: list[list[float]] = Field(default_factory=list)
    reached_losses: dict[str, dict[str, Any]] = Field(default_factory=dict)
    estimates: dict[str, list[list[list[float]]]] = Field(default_factory=dict)


class _State(_Values):
    """What ``Trainer.snapshot`` returns; what older checkpoints lack is optional."""

    step: int = Field(ge=0, le=MAX_STEPS)
    samples: int = Field(ge=0, le=10**18)
    macs: int = Field(ge=0, le=10**30)
    phase: int = Field(ge=-1, le=10**6)
    model: dict[str, Any]
    emas: list[dict[str, Any]]
    optimizer: dict[str, Any]
    scaler: dict[str, float]
    seconds: dict[str, float]
    steps_by_subnet: list[list[Any]]
    phase_seconds: list[list[Any]]
    last_evaluation: dict[str, Any] | None
    marked_at: int = Field(ge=0, le=MAX_STEPS)
    evaluated_macs: int = Field(default=0, ge=0, le=10**30)
    evaluated_position: float = 0.0
    best: _Best | None = None
    evaluations_since_best: int = Field(default=0, ge=0)
    stopped_early: bool = False
    by_class: dict[str, list[int]] = Field(default_factory=dict)
    search_state: _SearchState
    micro_batches: int = Field(ge=1, le=10**6)
    rollbacks: int = Field(ge=0, le=1_000)


_SCALER = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")
_BY_CLASS = {"images", "correct", "correct_ema"}


def check_state(
    state: Mapping[str, Any],
    networks: Sequence[ElasticViT],
    optimizer: torch.optim.Optimizer,
    examples: Sequence[tuple[Tensor, Mapping[str, Any]]],
) -> None:
    """Compare a loaded checkpoint with what a trainer would restore.

    Args:
        state: The checkpoint.
        networks: The online network, then its averages.
        optimizer: Of the online network.
        examples: Parameters with the states that such an optimizer keeps of them.

    Raises:
        MisfitStateError: With the first value that the trainer cannot be put into.
    """
    try:
        found = _State.model_validate(dict(state))
        if len(found.emas) != len(networks) - 1:
            raise ValueError(f"emas must be {len(networks) - 1}, but are {len(found.emas)}")
        for network, weights in zip(networks, (found.model, *found.emas), strict=True):
            own = network.vit.state_dict()
            check_dense(weights)
            wrong = [key for key in own if key not in weights or differs(weights[key], own[key])]
            wrong += [key for key in weights if key not in own]
            if wrong:
                raise ValueError(f"{shown_key(wrong[0])} is not that of the run's network")
            key = first_not_finite(weights, own)
            if key is not None:
                raise ValueError(f"{key} has NaN or infinity")
        _check_optimizer(optimizer, found.optimizer, _Kinds(examples))
        if found.scaler and not set(_SCALER) <= found.scaler.keys():
            raise ValueError("scaler must have all of its values")
        for row in (*found.steps_by_subnet, *found.phase_seconds):
            depth, img_size, tokens, _ = row
            if not SubnetConfig(depth, img_size, TokenRule(*tokens)).within(networks[0].spec.full):
                raise ValueError(
                    f"a subnet must be a part of the model, but one is {brief(row[:3])}"
                )
        for row in found.steps_by_subnet:
            if type(row[-1]) is not int or row[-1] < 0:
                raise ValueError(f"steps must be whole numbers, but got {brief(row[-1])}")
        for row in found.phase_seconds:
            if not isinstance(row[-1], list) or not all(_is_number(s) and s >= 0 for s in row[-1]):
                raise ValueError(f"seconds must be numbers, but got {brief(row[-1])}")
        if found.last_evaluation is not None:
            Evaluated.model_validate(found.last_evaluation)
        for losses in found.search_state.reached_losses.values():
            ReachedLosses.model_validate(losses)
        for points in (found.search_state.curve, *found.search_state.recent.values()):
            if any(len(point) != 2 for point in points):
                raise ValueError("a point of a curve must be a step and a loss")
        lengths = {len(counts) for counts in found.by_class.values()}
        if found.by_class and (set(found.by_class) != _BY_CLASS or len(lengths) != 1):
            raise ValueError("by_class must have the images and right answers of each class")
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))[:80]
        raise MisfitStateError(f"{place}: {first['msg'].lower()}") from None
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise MisfitStateError(str(error)[:300]) from None


def _check_optimizer(
    optimizer: torch.optim.Optimizer, saved: Mapping[str, Any], kinds: _Kinds
) -> None:
    groups, states = saved["param_groups"], saved["state"]
    own = optimizer.state_dict()["param_groups"]
    if not isinstance(groups, list) or not isinstance(states, dict) or len(groups) != len(own):
        raise ValueError("the optimizer is another")
    parameters: dict[Any, Tensor] = {}
    for group, now, there in zip(groups, own, optimizer.param_groups, strict=True):
        _check_group(group, now)
        parameters |= dict(zip(group["params"], there["params"], strict=True))
    always = set.intersection(*(set(keys) for keys in kinds.per_parameter))
    for number, state in states.items():
        if number not in parameters or not isinstance(state, dict):
            raise ValueError("the state of the optimizer is that of other parameters")
        if state and not always <= state.keys():
            raise ValueError(f"the state of the optimizer must have {', '.join(sorted(always))}")
        for key, value in state.items():
            kinds.check(key, value, parameters[number])


def _check_group(group: Any, own: Mapping[str, Any]) -> None:
    """Compare the options of a group of parameters; new releases of torch add some that are off."""
    if not isinstance(group, dict) or not isinstance(group.get("params"), list):
        raise ValueError("a group of the optimizer must be a mapping")
    if len(group["params"]) != len(own["params"]) or not all(
        type(number) is int for number in group["params"]
    ):
        raise ValueError("a group of the optimizer is of other parameters")
    for key, now in own.items():
        is_new = key not in group and isinstance(now, bool | None)
        if key != "params" and not is_new and not _is_alike(group[key], now):
            problem = f"{key} of the optimizer must be like {brief(now)}"
            raise ValueError(f"{problem}, but got {brief(group[key])}")
    for key in group.keys() - own.keys():  # such as the step count of LAMB
        value = group[key]
        is_single = (
            isinstance(value, Tensor) and value.shape == () and value.dtype.is_floating_point
        )
        if not (isinstance(value, bool | None) or _is_number(value) or is_single):
            raise ValueError(f"{brief(key)} of the optimizer must be a number")


def _is_alike(value: Any, now: Any) -> bool:
    """Return whether an option is of the kind of the one that it would replace."""
    if isinstance(now, bool | None):
        return isinstance(value, bool | None)
    if isinstance(now, int | float):
        return _is_number(value)
    if isinstance(now, tuple | list):
        same = isinstance(value, tuple | list) and len(value) == len(now)
        return same and all(map(_is_alike, value, now))
    return type(value) is type(now) and value == now if isinstance(now, str) else True


class _Kinds:
    """What the states of an optimizer look like, learned from one that has taken a step.

    A tensor is as large as its parameter, of one number, or of another shape (as factored moments are).
    """

    def __init__(self, examples: Sequence[tuple[Tensor, Mapping[str, Any]]]) -> None:
        self.per_parameter = [list(state) for _, state in examples] or [[]]
        self.of_key: dict[str, set[str]] = defaultdict(set)
        for parameter, state in examples:
            for key, value in state.items():
                self.of_key[key].add(self._kind(value, parameter))

    @staticmethod
    def _kind(value: Any, parameter: Tensor) -> str:
        if isinstance(value, Tensor):
            if value.shape == parameter.shape:
                return "whole"
            return "single" if value.numel() == 1 else "other"
        return "number" if _is_number(value) else "plain"

    def check(self, key: Any, value: Any, parameter: Tensor) -> None:
        """Compare one value; raises ValueError."""
        if key not in self.of_key:
            raise ValueError(f"the optimizer has no state {brief(key)}")
        if isinstance(value, Tensor):
            check_dense({key: value})
            if value.numel() > max(1, parameter.numel()):
                raise ValueError(f"the state {key} of the optimizer is too large")
        kind, known = self._kind(value, parameter), self.of_key[key]
        is_right = kind in known or (parameter.numel() == 1 and {kind, *known} <= _TENSORS)
        if not is_right and "other" not in known:
            raise ValueError(f"the state {key} of the optimizer is of another kind")
        if "other" in known and kind not in _TENSORS:
            raise ValueError(f"the state {key} of the optimizer must be a tensor")


_TENSORS = {"whole", "single", "other"}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
