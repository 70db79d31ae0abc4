"""The growth schedule: which network, at which size, with which augmentation, at every step of a run.

A schedule is data. It is written by hand, made by a preset or found by a search, checked without torch,
and resolved once into a :class:`StepTable`, which is all that the runner, the views and the cost model read.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from autoprog.curves import Curriculum, Ramp, curve_ends
from autoprog.errors import ConfigError
from autoprog.files import FileModel, dump_yaml, parse, read_yaml
from autoprog.steptable import StepTable, resolve_steps
from supernet.config import GrowthRule, ModelSpec, as_depth

__all__ = [
    "FoundBy",
    "FullModel",
    "GrowthSchedule",
    "LearningRate",
    "Stage",
    "depth_value",
    "load_schedule",
    "nearest_multiples",
]

SCHEMA = 1
Depth = int | tuple[int, ...]
LengthUnit = Literal["epochs", "steps", "share"]


class FullModel(FileModel):
    """What the schedule ends at, in enough detail to check the file and count its cost without torch."""

    model: str
    timm: str
    depth: Depth
    img_size: int = Field(gt=0)
    stride: int = Field(gt=0)
    embed_dim: int = Field(gt=0)
    num_heads: int = Field(gt=0)
    mlp_ratio: float = Field(default=4.0, gt=0)
    num_prefix_tokens: int = Field(default=1, ge=0)
    in_chans: int = Field(default=3, gt=0)
    overrides: dict[str, int | float | str | bool] = Field(default_factory=dict)

    @field_validator("depth")
    @classmethod
    def _whole_blocks(cls, depth: Depth) -> Depth:
        return _checked_depth(depth)

    @model_validator(mode="after")
    def _is_a_model(self) -> FullModel:
        self.spec()
        return self

    @classmethod
    def of(cls, spec: ModelSpec) -> FullModel:
        """Return the file's form of a model."""
        return cls(
            model=spec.name,
            timm=spec.timm,
            depth=depth_value(spec.depth),
            img_size=spec.img_size,
            stride=spec.patch_size,
            embed_dim=spec.embed_dim,
            num_heads=spec.num_heads,
            mlp_ratio=spec.mlp_ratio,
            num_prefix_tokens=spec.num_prefix_tokens,
            in_chans=spec.in_chans,
            overrides=dict(spec.overrides),
        )

    def spec(self) -> ModelSpec:
        """Return the model that this stands for."""
        return ModelSpec(
            name=self.model,
            timm=self.timm,
            depth=as_depth(self.depth),
            embed_dim=self.embed_dim,
            num_heads=self.num_heads,
            mlp_ratio=self.mlp_ratio,
            patch_size=self.stride,
            img_size=self.img_size,
            num_prefix_tokens=self.num_prefix_tokens,
            in_chans=self.in_chans,
            overrides=tuple(self.overrides.items()),
        )


class LearningRate(FileModel):
    """The shape of the learning rate; it belongs to the schedule because growth needs rate left to learn."""

    shape: Literal["cosine", "wsd", "constant"] = "cosine"
    clock: Literal["epochs"] = "epochs"


class Grow(FileModel):
    """How the blocks that a stage adds are filled; see :class:`supernet.config.GrowthRule`."""

    op: Literal["mogrow", "copy", "zero"] = "mogrow"
    map: Literal["interpolate", "stack"] = "interpolate"
    source: Literal["online", "ema"] = "online"
    state: Literal["carry", "fresh", "reset"] = "carry"

    @model_validator(mode="after")
    def _legal_rule(self) -> Grow:
        if self.source == "ema" and self.op != "mogrow":
            raise ConfigError("", "source", "must be 'online' unless op is 'mogrow'", self.source)
        return self

    def rule(self) -> GrowthRule:
        """Return the growth rule of the supernet."""
        return GrowthRule(op=self.op, map=self.map, source=self.source, state=self.state)


class Stage(FileModel):
    """One piece of training at one depth. ``length`` counts in the file's ``length_unit``."""

    length: float | Literal["rest"]
    depth: Depth
    img_size: int | Ramp
    grow: Grow = Grow()
    curriculum: Curriculum = Curriculum()

    @field_validator("length")
    @classmethod
    def _positive(cls, length: float | str) -> float | str:
        if not isinstance(length, str) and not (length > 0 and math.isfinite(length)):
            raise ConfigError("", "", "must be above 0 or 'rest'", length)
        return length

    @field_validator("depth")
    @classmethod
    def _whole_blocks(cls, depth: Depth) -> Depth:
        return _checked_depth(depth)


class FoundBy(FileModel):
    """Where a schedule comes from."""

    run: str
    rule: str
    seed: int
    costs: str = "costs.json"


class GrowthSchedule(FileModel):
    """A whole training run as a list of stages that ends at the full model.

    Laws: the last stage has the model's full depth and image size; capacity never falls unless
    ``monotone`` is false; image sizes are multiples of the stride; only the last length may be 'rest'.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    full: FullModel
    length_unit: LengthUnit = "epochs"
    lr: LearningRate = LearningRate()
    monotone: bool = True
    stages: tuple[Stage, ...] = Field(min_length=1)
    found_by: FoundBy | None = None

    @model_validator(mode="after")
    def _laws(self) -> GrowthSchedule:
        _check_lengths(self)
        for index, stage in enumerate(self.stages):
            _check_stage(self.full, stage, f"stages[{index}]")
        _check_end(self.full, self.stages[-1], len(self.stages) - 1)
        if self.monotone:
            _check_monotone(self.stages)
        return self

    def resolve(self, steps_per_epoch: int, epochs: float | None = None) -> StepTable:
        """Return the step table for a run of `epochs`.

        Args:
            steps_per_epoch: Optimizer steps in one pass over the training images.
            epochs: Length of the run; stretches stages that count in epochs or steps, and is needed
                where lengths are shares or 'rest'. None takes the sum of the lengths.

        Raises:
            ConfigError: If `epochs` is needed and missing, or a stage is shorter than one step.
        """
        return resolve_steps(self, steps_per_epoch, epochs)

    def own_epochs(self, steps_per_epoch: int) -> float | None:
        """Return the sum of the lengths in epochs; None for a file in shares or with 'rest'."""
        lengths = [stage.length for stage in self.stages if not isinstance(stage.length, str)]
        if self.length_unit == "share" or len(lengths) < len(self.stages):
            return None
        return sum(lengths) / (steps_per_epoch if self.length_unit == "steps" else 1)

    def to_yaml(self) -> str:
        """Return the file's text; loading it again gives an equal schedule."""
        body = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return dump_yaml({"schema": SCHEMA, **body})


def load_schedule(path: str | Path) -> GrowthSchedule:
    """Read and check one schedule file.

    Raises:
        ConfigError: If it is missing, not YAML or breaks a law of :class:`GrowthSchedule`.
    """
    return parse(GrowthSchedule, read_yaml(Path(path)), str(path))


def nearest_multiples(value: int, stride: int) -> tuple[int, int]:
    """Return the multiples of `stride` around `value`; the lower is at least one stride."""
    low = max(stride, value // stride * stride)
    return low, low + stride


def _check_lengths(schedule: GrowthSchedule) -> None:
    for index, stage in enumerate(schedule.stages[:-1]):
        if stage.length == "rest":
            raise ConfigError("", f"stages[{index}].length", "only the last stage may be 'rest'")
    lengths = [stage.length for stage in schedule.stages if not isinstance(stage.length, str)]
    if schedule.length_unit == "share":
        total = sum(lengths)
        open_end = schedule.stages[-1].length == "rest"
        if open_end and total >= 1:
            law, cure = "shares must sum to less than 1 before 'rest'", "leave some for 'rest'"
            raise ConfigError("", "stages", law, round(total, 6), cure)
        if not open_end and abs(total - 1) > 1e-6:
            cure = "or end with length: rest"
            raise ConfigError("", "stages", "shares must sum to 1", round(total, 6), cure)


def _check_stage(full: FullModel, stage: Stage, key: str) -> None:
    depth, full_depth = as_depth(stage.depth), as_depth(full.depth)
    if len(depth) != len(full_depth):
        law = f"must have one entry for each stage of {full.model}, {len(full_depth)} in all"
        raise ConfigError("", f"{key}.depth", law, _shown(depth))
    if any(value > top for value, top in zip(depth, full_depth, strict=True)):
        law = f"must lie in 1 to {_shown(full_depth)}"
        raise ConfigError("", f"{key}.depth", law, _shown(depth))
    ends = [stage.img_size] if isinstance(stage.img_size, int) else curve_ends(stage.img_size)
    for size in ends:
        if size % full.stride or size < full.stride:
            low, high = nearest_multiples(int(size), full.stride)
            raise ConfigError(
                "",
                f"{key}.img_size",
                f"must be a multiple of the stride {full.stride}",
                int(size) if float(size).is_integer() else size,
                f"nearest are {low} and {high}",
            )
        if size > full.img_size:
            raise ConfigError("", f"{key}.img_size", f"must be at most {full.img_size}", int(size))


def _check_end(full: FullModel, last: Stage, index: int) -> None:
    key, cure = f"stages[{index}]", "make the last stage the full model"
    depth, full_depth = as_depth(last.depth), as_depth(full.depth)
    if depth != full_depth:
        law = f"must end at the full depth {_shown(full_depth)}"
        raise ConfigError("", f"{key}.depth", law, _shown(depth), cure)
    size = int(curve_ends(last.img_size)[-1])
    if size != full.img_size:
        law = f"must end at the full size {full.img_size}"
        raise ConfigError("", f"{key}.img_size", law, size, cure)


def _check_monotone(stages: tuple[Stage, ...]) -> None:
    before: tuple[int, ...] = ()
    size_before, cure = 0.0, "set monotone: false to allow it"
    for index, stage in enumerate(stages):
        key, depth, sizes = f"stages[{index}]", as_depth(stage.depth), curve_ends(stage.img_size)
        if before and any(now < old for now, old in zip(depth, before, strict=True)):
            law = f"must not fall below {_shown(before)}"
            raise ConfigError("", f"{key}.depth", law, _shown(depth), cure)
        if sizes[0] < size_before or sizes[-1] < sizes[0]:
            law = f"must not fall below {max(size_before, sizes[0]):g}"
            raise ConfigError("", f"{key}.img_size", law, int(min(sizes)), cure)
        before, size_before = depth, sizes[-1]


def _checked_depth(depth: Depth) -> Depth:
    blocks = [depth] if isinstance(depth, int) else list(depth)
    if not blocks or min(blocks) < 1:
        raise ConfigError("", "", "must be at least 1 block", _shown(tuple(blocks)))
    return depth


def _shown(depth: tuple[int, ...]) -> int | list[int]:
    """Return a depth as files write it."""
    return depth[0] if len(depth) == 1 else list(depth)


def depth_value(depth: tuple[int, ...]) -> Depth:
    """Return the file's form of a depth: a number for a model of one stage."""
    return depth[0] if len(depth) == 1 else depth
