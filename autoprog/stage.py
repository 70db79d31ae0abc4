"""One stage of a schedule and what it is made of: the values that a user writes, checked one by one."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator, model_validator

from autoprog.bounds import (
    BlockNumber,
    Blocks,
    Channels,
    Count,
    Heads,
    Length,
    Measured,
    PositiveFraction,
    PrefixTokens,
    Px,
    SomeScale,
    Width,
    WidthRatio,
)
from autoprog.curves import Curriculum, KeepCurve, Ramp, curve_ends
from autoprog.errors import ConfigError
from autoprog.files import FileModel
from autoprog.options import Option
from supernet.config import GrowthRule, ModelSpec, Outlook, SubnetConfig, TokenRule, as_depth
from supernet.cost import macs

if TYPE_CHECKING:
    from autoprog.schedule import GrowthSchedule

__all__ = [
    "FRACTION_UNITS",
    "Depth",
    "FullModel",
    "Grow",
    "LearningRate",
    "Sandwich",
    "SandwichSizes",
    "Stage",
    "Tokens",
    "Training",
    "Unfrozen",
    "check_schedule",
    "depth_value",
    "evaluation_macs",
    "image_macs",
    "nearest_multiples",
    "relative_step_cost",
    "shown_depth",
]


# --------------------------------------------------------------------------------------------------
# What a training step takes in multiply-accumulates: forward and backward, whatever it trains.


_EVALUATED_NETWORKS = 2


def image_macs(
    spec: ModelSpec, subnet: SubnetConfig, training: Training, num_classes: int = 1000
) -> int:
    """Return the multiply-accumulates that a step spends on one image.

    Three forward passes' worth: one forward, and two backward, for inputs and for weights. Frozen blocks
    have no gradient of weights; what lies outside blocks is counted as they are. A sandwich step is
    counted by the mean over its draws.
    """
    if training.sandwich is not None:
        return round(3 * _sandwich_macs(spec, subnet, training, training.sandwich, num_classes))
    blocks, unfrozen = subnet.total_depth, training.unfrozen
    trained = blocks if unfrozen is None else sum(map(unfrozen.trains, range(blocks)))
    return _macs(spec, subnet, num_classes) * (2 * blocks + trained) // blocks


def relative_step_cost(
    spec: ModelSpec, subnet: SubnetConfig, training: Training, num_classes: int = 1000
) -> float:
    """Return the multiply-accumulates of a step as a fraction of those of a plain full one."""
    full = image_macs(spec, spec.full, Training(), num_classes)
    return training.batch_scale * image_macs(spec, subnet, training, num_classes) / full


def evaluation_macs(
    spec: ModelSpec, subnet: SubnetConfig, num_images: int, num_classes: int = 1000
) -> int:
    """Return the multiply-accumulates of one evaluation: a forward of the online and the averaged network."""
    return _EVALUATED_NETWORKS * num_images * _macs(spec, subnet, num_classes)


def _sandwich_macs(
    spec: ModelSpec,
    full: SubnetConfig,
    training: Training,
    smaller: SandwichSizes,
    num_classes: int,
) -> float:
    """Return the forward multiply-accumulates of (full, 1), (full, k), (size, 1) and (size, k)."""
    rates = [training.tokens.rule(rate) for rate in smaller.keep_rates]

    def of(size: int, pruned: bool) -> float:
        nets = [SubnetConfig(full.depth, size, rule) for rule in rates]
        whole = SubnetConfig(full.depth, size)
        return fmean(_macs(spec, net, num_classes) for net in (nets if pruned else [whole]))

    sizes = smaller.sizes
    at_full = of(full.img_size, False) + of(full.img_size, True)
    return at_full + fmean(of(size, False) + of(size, True) for size in sizes)


_macs = lru_cache(maxsize=1024)(macs)


Depth = Blocks | tuple[Blocks, ...]
Argument = bool | Count | Measured | str


class OutlookPart(FileModel):
    """What a VOLO has beside its transformers; see :class:`supernet.config.Outlook`."""

    embed_dim: Width
    num_heads: Heads
    stem_dim: Width = 64
    class_blocks: Blocks = 2


class FullModel(FileModel):
    """What the schedule ends at, in enough detail to check the file and count its cost without torch."""

    model: str
    timm: str
    depth: Depth
    img_size: Px
    stride: Px
    embed_dim: Width
    num_heads: Heads
    mlp_ratio: WidthRatio = 4.0
    num_prefix_tokens: PrefixTokens = 1
    in_chans: Channels = 3
    overrides: dict[str, Argument | tuple[Argument, ...]] = Field(default_factory=dict)
    outlook: OutlookPart | None = None
    class_token: bool = True

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
            outlook=None if spec.outlook is None else OutlookPart(**asdict(spec.outlook)),
            class_token=spec.class_token,
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
            outlook=None if self.outlook is None else Outlook(**self.outlook.model_dump()),
            class_token=self.class_token,
        )


class LearningRate(FileModel):
    """The shape of the learning rate; it belongs to the schedule because growth needs rate left to learn.

    ``clock`` is what the shape runs over: images seen (``epochs``) or multiply-accumulates spent
    (``compute``). Under a time budget it is always the time used.
    """

    shape: Literal["cosine", "wsd", "constant"] = "cosine"
    clock: Literal["epochs", "compute"] = "epochs"


class Grow(FileModel):
    """How the blocks that a stage adds are filled; see :class:`supernet.config.GrowthRule`."""

    init: Annotated[
        Literal["ema", "copy", "zero"], Option("weights of new blocks", flag="grow-init")
    ] = "ema"
    placement: Annotated[
        Literal["interpolate", "stack"],
        Option("where blocks are inserted", flag="grow-placement"),
    ] = "interpolate"
    old_blocks: Annotated[
        Literal["keep", "ema"], Option("weights of old blocks", flag="grow-old-blocks")
    ] = "keep"
    optimizer_state: Annotated[
        Literal["copy", "fresh", "reset"],
        Option("optimizer's moments of new blocks", flag="grow-optimizer-state"),
    ] = "copy"

    @model_validator(mode="after")
    def _legal_rule(self) -> Grow:
        if self.old_blocks == "ema" and self.init != "ema":
            problem = "must be 'keep' unless init is 'ema'"
            raise ConfigError("", "old_blocks", problem, self.old_blocks)
        return self

    def rule(self) -> GrowthRule:
        """Return the growth rule of the supernet."""
        return GrowthRule(**self.model_dump())


class Tokens(FileModel):
    """Which patch tokens a stage trains on; see :class:`supernet.config.TokenRule`."""

    keep_rate: PositiveFraction | KeepCurve = 1.0
    by: Literal["magnitude", "l2_magnitude", "random", "class_attention"] = "magnitude"
    at_blocks: tuple[BlockNumber, ...] = (0,)

    @model_validator(mode="after")
    def _legal_rule(self) -> Tokens:
        for rate in curve_ends(self.keep_rate):
            self.rule(rate)
        return self

    @classmethod
    def of(cls, rule: TokenRule) -> Tokens:
        """Return the file's form of a token rule."""
        return cls(keep_rate=rule.keep_rate, by=rule.by, at_blocks=rule.at_blocks)

    def rule(self, keep_rate: float) -> TokenRule:
        """Return the token rule at one keep-rate."""
        return TokenRule(keep_rate, self.by, self.at_blocks)


class Unfrozen(FileModel):
    """Blocks whose number modulo ``every`` is below ``level`` train, and all that is outside blocks.

    AutoProg-Zero's axis for fine-tuning (arXiv 2410.00350): the level grows from stage to stage.
    """

    every: Blocks = 4
    level: Blocks

    @model_validator(mode="after")
    def _within_the_group(self) -> Unfrozen:
        if self.level > self.every:
            raise ConfigError("", "level", f"must be at most every, {self.every}", self.level)
        return self

    def trains(self, block: int) -> bool:
        """Tell whether block number `block` trains."""
        return block % self.every < self.level

    def blocks(self, depth: int) -> list[int]:
        """Return the numbers of the blocks that train, of so many."""
        return [block for block in range(depth) if self.trains(block)]

    @property
    def fraction(self) -> float:
        """Return the fraction of blocks that train."""
        return self.level / self.every


class SandwichSizes(FileModel):
    """The smaller image sizes and keep-rates that a sandwich step draws from, rising."""

    sizes: tuple[Px, ...] = Field(min_length=1, max_length=64)
    keep_rates: tuple[PositiveFraction, ...] = Field(min_length=1, max_length=64)

    @model_validator(mode="after")
    def _rising(self) -> SandwichSizes:
        for key, values in (("sizes", self.sizes), ("keep_rates", self.keep_rates)):
            if list(values) != sorted(set(values)) or values[0] <= 0:
                raise ConfigError("", key, "must be rising and above 0", list(values))
        if self.keep_rates[-1] >= 1:
            problem, hint = "must be below 1", "keep-rate 1 is always trained"
            raise ConfigError("", "keep_rates", problem, self.keep_rates[-1], hint)
        return self


class Sandwich(FileModel):
    """A step that trains four subnets to one set of weights (SuperViT, arXiv 2205.11397)."""

    sandwich: SandwichSizes


class Stage(FileModel):
    """One piece of training at one depth. ``length`` counts in the file's ``length_unit``.

    ``shrink_by`` is how images come to the stage's size: resized in the loader, or the low frequencies of
    full-size ones cut out on the device (EfficientTrain++). A stage trains on ``batch_scale`` times as
    many images a step as the recipe says, at ``lr_scale`` times the learning rate; without a value that is
    the square root of ``batch_scale``, the rule for adaptive optimizers.
    """

    length: Length
    depth: Depth
    img_size: Px | Ramp
    tokens: Tokens = Tokens()
    grow: Grow = Grow()
    curriculum: Curriculum = Curriculum()
    shrink_by: Literal["resize", "fourier"] = "resize"
    batch_scale: SomeScale = 1.0
    lr_scale: SomeScale | None = None
    trainable: Literal["all"] | Unfrozen = "all"
    step: Literal["plain"] | Sandwich = "plain"

    @field_validator("depth")
    @classmethod
    def _whole_blocks(cls, depth: Depth) -> Depth:
        return _checked_depth(depth)


@dataclass(frozen=True, slots=True)
class Training:
    """How a step trains, beside its subnet: parts of a stage that hold for all of it.

    Attributes:
        shrink_by: How images come to the subnet's size: ``resize`` or ``fourier``.
        batch_scale: Images a step, as a multiple of the recipe's batch size.
        lr_scale: Learning rate, as a multiple of the run's.
        unfrozen: Which blocks train; None for all.
        sandwich: The smaller subnets of a sandwich step; None for a plain step.
        tokens: How a sandwich step drops tokens; a plain step's subnet says it all.
    """

    shrink_by: Literal["resize", "fourier"] = "resize"
    batch_scale: float = 1.0
    lr_scale: float = 1.0
    unfrozen: Unfrozen | None = None
    sandwich: SandwichSizes | None = None
    tokens: Tokens = field(default_factory=Tokens)

    @classmethod
    def of(cls, stage: Stage) -> Training:
        """Return how a stage trains."""
        scale = stage.lr_scale
        return cls(
            shrink_by=stage.shrink_by,
            batch_scale=stage.batch_scale,
            lr_scale=math.sqrt(stage.batch_scale) if scale is None else scale,
            unfrozen=None if stage.trainable == "all" else stage.trainable,
            sandwich=stage.step.sandwich if isinstance(stage.step, Sandwich) else None,
            tokens=stage.tokens,
        )


def _checked_depth(depth: Depth) -> Depth:
    blocks = [depth] if isinstance(depth, int) else list(depth)
    if not blocks or min(blocks) < 1:
        raise ConfigError("", "", "must be at least 1 block", shown_depth(tuple(blocks)))
    return depth


def shown_depth(depth: tuple[int, ...]) -> int | list[int]:
    """Return a depth as files write it."""
    return depth[0] if len(depth) == 1 else list(depth)


def depth_value(depth: tuple[int, ...]) -> Depth:
    """Return the file's form of a depth: a number for a model of one stage."""
    return depth[0] if len(depth) == 1 else depth


# --------------------------------------------------------------------------------------------------
# The laws of a schedule: what its stages must fulfil together, each broken one told with place and
# cure.


FRACTION_UNITS = ("fraction", "budget_fraction", "compute_fraction")
"""Units of length in which the stages sum to 1."""


def check_schedule(schedule: GrowthSchedule) -> None:
    """Check all laws.

    Raises:
        ConfigError: If one is broken.
    """
    _check_lengths(schedule)
    for index, stage in enumerate(schedule.stages):
        _check_stage(schedule.full, stage, f"stages[{index}]")
    last = len(schedule.stages) - 1
    _check_end(schedule.full, schedule.stages[-1], last)
    if schedule.end == "full":
        _check_full_training(schedule.stages[-1], last)
    if schedule.monotone:
        _check_monotone(schedule.stages)


def nearest_multiples(value: int, stride: int) -> tuple[int, int]:
    """Return the multiples of `stride` around `value`; the lower is at least one stride."""
    low = max(stride, value // stride * stride)
    return low, low + stride


def _check_lengths(schedule: GrowthSchedule) -> None:
    for index, stage in enumerate(schedule.stages[:-1]):
        if stage.length == "rest":
            raise ConfigError("", f"stages[{index}].length", "only the last stage may be 'rest'")
    lengths = [stage.length for stage in schedule.stages if not isinstance(stage.length, str)]
    if schedule.length_unit in FRACTION_UNITS:
        total = sum(lengths)
        open_end = schedule.stages[-1].length == "rest"
        if open_end and total >= 1:
            problem, hint = (
                "fractions must sum to less than 1 before 'rest'",
                "leave some for 'rest'",
            )
            raise ConfigError("", "stages", problem, round(total, 6), hint)
        if not open_end and abs(total - 1) > 1e-6:
            hint = "or end with length: rest"
            raise ConfigError("", "stages", "fractions must sum to 1", round(total, 6), hint)


def _check_stage(full: FullModel, stage: Stage, key: str) -> None:
    depth, full_depth = as_depth(stage.depth), as_depth(full.depth)
    if len(depth) != len(full_depth):
        problem = f"must have one entry for each stage of {full.model}, {len(full_depth)} in all"
        raise ConfigError("", f"{key}.depth", problem, shown_depth(depth))
    if any(value > top for value, top in zip(depth, full_depth, strict=True)):
        problem = f"must lie in 1 to {shown_depth(full_depth)}"
        raise ConfigError("", f"{key}.depth", problem, shown_depth(depth))
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
    _check_tokens(full, stage, key)
    if isinstance(stage.step, Sandwich):
        _check_sandwich(full, stage.step.sandwich, int(min(ends)), key)


def _check_tokens(full: FullModel, stage: Stage, key: str) -> None:
    if min(curve_ends(stage.tokens.keep_rate)) == 1 and not isinstance(stage.step, Sandwich):
        return
    last, blocks = stage.tokens.at_blocks[-1], sum(as_depth(stage.depth))
    if last >= blocks:
        problem = f"must be below the depth {blocks}"
        raise ConfigError("", f"{key}.tokens.at_blocks", problem, last)
    if stage.tokens.by == "class_attention" and not full.spec().class_token:
        problem = f"must be magnitude, l2_magnitude or random: {full.model} has no class token"
        raise ConfigError("", f"{key}.tokens.by", problem, stage.tokens.by)
    if full.spec().needs_grid:
        problem = f"must keep all tokens: {full.model} needs the whole grid"
        raise ConfigError("", f"{key}.tokens.keep_rate", problem)


def _check_sandwich(full: FullModel, sizes: SandwichSizes, stage_px: int, key: str) -> None:
    for size in sizes.sizes:
        if size % full.stride or size >= stage_px:
            problem = f"must be multiples of the stride {full.stride} below {stage_px}"
            raise ConfigError("", f"{key}.step.sandwich.sizes", problem, size)


def _check_end(full: FullModel, last: Stage, index: int) -> None:
    key, hint = f"stages[{index}]", "make the last stage the full model"
    depth, full_depth = as_depth(last.depth), as_depth(full.depth)
    if depth != full_depth:
        problem = f"must end at the full depth {shown_depth(full_depth)}"
        raise ConfigError("", f"{key}.depth", problem, shown_depth(depth), hint)
    size = int(curve_ends(last.img_size)[-1])
    if size != full.img_size:
        problem = f"must end at the full size {full.img_size}"
        raise ConfigError("", f"{key}.img_size", problem, size, hint)


def _check_full_training(last: Stage, index: int) -> None:
    key, hint = f"stages[{index}]", "add a last stage that does, or set end: free"
    if min(curve_ends(last.tokens.keep_rate)) < 1:
        rate = min(curve_ends(last.tokens.keep_rate))
        raise ConfigError("", f"{key}.tokens.keep_rate", "must end at 1", rate, hint)
    if isinstance(last.trainable, Unfrozen) and last.trainable.fraction < 1:
        problem, level = "must train all blocks", last.trainable.level
        raise ConfigError("", f"{key}.trainable.level", problem, level, hint)
    if last.step != "plain":
        raise ConfigError("", f"{key}.step", "must be plain", "sandwich", hint)


def _check_monotone(stages: tuple[Stage, ...]) -> None:
    before: tuple[int, ...] = ()
    size_before, rate_before, hint = 0.0, 0.0, "set monotone: false to allow it"
    for index, stage in enumerate(stages):
        key, depth, sizes = f"stages[{index}]", as_depth(stage.depth), curve_ends(stage.img_size)
        rates = curve_ends(stage.tokens.keep_rate)
        cyclic = isinstance(stage.tokens.keep_rate, KeepCurve) and (
            stage.tokens.keep_rate.curve == "cyclic"
        )
        if before and any(now < old for now, old in zip(depth, before, strict=True)):
            problem = f"must not fall below {shown_depth(before)}"
            raise ConfigError("", f"{key}.depth", problem, shown_depth(depth), hint)
        if sizes[0] < size_before or sizes[-1] < sizes[0]:
            problem = f"must not fall below {max(size_before, sizes[0]):g}"
            raise ConfigError("", f"{key}.img_size", problem, int(min(sizes)), hint)
        if cyclic or rates[0] < rate_before or rates[-1] < rates[0]:
            problem = "must not fall"
            raise ConfigError("", f"{key}.tokens.keep_rate", problem, min(rates), hint)
        before, size_before, rate_before = depth, sizes[-1], rates[-1]
