"""One stage of a schedule as a user writes it, each value checked by itself, and what its steps cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from statistics import fmean
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from autoprog.bounds import (
    BlockNumber,
    Blocks,
    Channels,
    Correlation,
    Count,
    CurveValue,
    Heads,
    Length,
    LevelEpochs,
    Measured,
    PositiveFraction,
    PrefixTokens,
    Px,
    RampEnd,
    Range,
    SomeScale,
    Width,
    WidthRatio,
)
from autoprog.errors import ConfigError, command
from autoprog.files import FileModel
from autoprog.options import Option
from supernet.config import GrowthRule, ModelSpec, Outlook, SubnetConfig, TokenRule, as_depth
from supernet.cost import macs
from supernet.zoo import ZOO

__all__ = [
    "Curriculum",
    "Curve",
    "Depth",
    "FullModel",
    "Grow",
    "KeepCurve",
    "LearningRate",
    "Level",
    "Ramp",
    "Sandwich",
    "SandwichSizes",
    "Stage",
    "Tokens",
    "Training",
    "Unfrozen",
    "curve_ends",
    "curve_levels",
    "curve_value",
    "depth_value",
    "evaluation_macs",
    "image_macs",
    "linspace",
    "nearest_multiples",
    "relative_step_cost",
    "shown_depth",
]


# --------------------------------------------------------------------------------------------------
# Values that change within a stage: ramps, keep-rate curves, and the regularisation made of them.
#
# A curve is resolved into levels: the steps of its stage at which it takes a new value, and the values. So
# whatever follows a schedule meets constants only.


Level = tuple[int, float]
"""A step, counted from the start of its stage, and the value from there on."""

# Of one curve over one stage: ten times the changes that a run may have, which are counted later.
_MAX_LEVELS = 200_000


class Ramp(FileModel):
    """A value that climbs over its stage in levels of equal length; the last one is exactly ``to``.

    ``every_epochs`` is the length of a level in epochs of the run that carries the schedule out. Where it
    does not divide the stage, the levels are as many as come nearest to that length: a stage longer than
    it has at least two, a shorter one is at ``to`` throughout.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    ramp: Literal["linear", "exponential"]
    start: RampEnd = Field(alias="from")
    to: RampEnd
    every_epochs: LevelEpochs = 1.0

    @model_validator(mode="after")
    def _exponential_needs_positive_ends(self) -> Ramp:
        if self.ramp == "exponential" and min(self.start, self.to) <= 0:
            raise ConfigError("", "from", "must be above 0 for an exponential ramp", self.start)
        return self

    def levels(self, stage_steps: int, steps_per_epoch: float) -> list[Level]:
        """Return the levels over a stage of `stage_steps`, whose lengths differ by at most one step."""
        level_steps = self.every_epochs * steps_per_epoch
        # The ends of a stage are rounded down to steps, so a stage of one level can be a step longer.
        if stage_steps < level_steps + 1:
            count = 1
        else:
            # The length of a level is no whole number of steps in general. Only their count is rounded,
            # never the length, or the rounding of each adds up to one level too many.
            count = min(stage_steps, max(2, math.floor(stage_steps / level_steps + 0.5)))
        _refuse_too_many(count, "every_epochs", self.every_epochs)
        return [
            (number * stage_steps // count, self.at(number / (count - 1) if count > 1 else 1.0))
            for number in range(count)
        ]

    def at(self, fraction: float) -> float:
        """Return the value at `fraction` (0 to 1) of the way from the first level to the last."""
        if fraction == 1.0:
            return self.to  # the sums below can miss it by one rounding
        if self.ramp == "linear":
            return self.start + (self.to - self.start) * fraction
        return self.start * (self.to / self.start) ** fraction


class KeepCurve(FileModel):
    """A keep-rate that changes from step to step, as in Patch Sampling Schedule (arXiv 2208.09520).

    The fraction of tokens that is *dropped* runs from the first to the second value of ``drop``: over the
    whole stage (``linear``, ``cosine``), or to the second and back in each period (``cyclic``). It is cut to
    [0, 1] and then rounded to the nearest ``quantum``, so that there are few token counts. The end of -0.1
    that the paper uses makes the level of keep-rate 1 as long as the others.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    curve: Literal["linear", "cosine", "cyclic"]
    drop: tuple[Correlation, Correlation] = (0.8, -0.1)
    period_epochs: LevelEpochs = 1.0
    quantum: Annotated[float, Range(0.01, 1)] = 0.2

    @model_validator(mode="after")
    def _keeps_some(self) -> KeepCurve:
        if min(self.ends()) <= 0 or max(map(abs, self.drop)) > 1:
            problem = "must lie in [-1, 1] and leave some tokens when rounded to the quantum"
            raise ConfigError("", "drop", problem, list(self.drop))
        return self

    def ends(self) -> list[float]:
        """Return the keep-rates at both ends."""
        return [self._keep_rate(drop) for drop in self.drop]

    def levels(self, stage_steps: int, steps_per_epoch: float) -> list[Level]:
        """Return the levels over a stage of `stage_steps`."""
        if self.curve != "cyclic":
            rate_at = self._linear if self.curve == "linear" else self._cosine
            return list(_level_changes(lambda step: rate_at(step / stage_steps), 0, stage_steps))
        period = max(1, round(self.period_epochs * steps_per_epoch))
        half = period / 2

        def in_period(step: int) -> float:
            return self._linear((step if step <= half else period - step) / half)

        # Bisection needs a monotone function: the way there is one, and so is the way back.
        middle = period // 2 + 1
        wave = [*_level_changes(in_period, 0, middle), *_level_changes(in_period, middle, period)]
        starts = range(0, stage_steps, period)
        _refuse_too_many(len(starts) * len(wave), "period_epochs", self.period_epochs)
        levels = ((start + step, rate) for start in starts for step, rate in wave)
        return [level for level in levels if level[0] < stage_steps]

    def _linear(self, fraction: float) -> float:
        first, last = self.drop
        return self._keep_rate(first * (1 - fraction) + last * fraction)

    def _cosine(self, fraction: float) -> float:
        first, last = self.drop
        return self._keep_rate(last + (first - last) * (1 + math.cos(math.pi * fraction)) / 2)

    def _keep_rate(self, drop: float) -> float:
        # Halves are rounded to even numbers of quanta, as in the released code of the paper.
        quanta = 1 / self.quantum
        return round(1 - round(quanta * min(max(drop, 0.0), 1.0)) / quanta, 6)


def _level_changes(value_at: Callable[[int], float], start: int, stop: int) -> Iterator[Level]:
    """Yield where a monotone step function takes each of its values, found by bisection."""
    while start < stop:
        value, low, high = value_at(start), start, stop
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if value_at(middle) == value else (low, middle)
        yield start, value
        start = high


def _refuse_too_many(count: int, key: str, epochs: float) -> None:
    if count > _MAX_LEVELS:
        problem = f"must make at most {_MAX_LEVELS:,} levels a stage, not {count:,}"
        raise ConfigError("schedule", key, problem, epochs, "raise it")


Curve = CurveValue | Ramp


def curve_levels(
    curve: float | Ramp | KeepCurve, stage_steps: int, steps_per_epoch: float
) -> list[Level]:
    """Return the levels of any curve over a stage of `stage_steps`; a constant has one."""
    if isinstance(curve, Ramp | KeepCurve):
        return curve.levels(stage_steps, steps_per_epoch)
    return [(0, float(curve))]


def curve_value(curve: Curve, fraction: float) -> float:
    """Return a curve's value at `fraction` of its stage."""
    return curve.at(fraction) if isinstance(curve, Ramp) else float(curve)


def curve_ends(curve: float | Ramp | KeepCurve | None) -> list[float]:
    """Return the first and last value of a curve, the extremes of a cyclic one; none for None."""
    if curve is None:
        return []
    if isinstance(curve, KeepCurve):
        return curve.ends()
    return [curve.start, curve.to] if isinstance(curve, Ramp) else [float(curve)]


class Curriculum(FileModel):
    """Regularisation that may ramp with capacity; a key left out keeps the recipe's value.

    ``randaug`` is RandAugment's magnitude (0 to 10); the others carry timm's names.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    randaug: Curve | None = None
    drop_path: Curve | None = None
    reprob: Curve | None = None
    mixup: Curve | None = None
    cutmix: Curve | None = None

    @model_validator(mode="after")
    def _within_bounds(self) -> Curriculum:
        # The alphas of mixup and cutmix have no maximum of their own; drop-path 1 would drop every block.
        maximum = {"randaug": 10.0, "drop_path": 0.99, "reprob": 1.0}
        for name, curve in self:
            for value in curve_ends(curve):
                high = maximum.get(name, math.inf)
                if not 0 <= value <= high:
                    raise ConfigError("", name, f"must lie in [0, {high:g}]", value)
        return self

    def at(self, fraction: float) -> Curriculum:
        """Return the constant curriculum at `fraction` of the stage."""
        return Curriculum(
            **{name: curve_value(curve, fraction) for name, curve in self if curve is not None}
        )

    def ramped(self, index: int, count: int) -> Curriculum:
        """Return stage `index`'s regularisation on the way to this full one over `count` stages.

        RandAugment rises from half strength, drop-path and erasing from 0, as AutoProg ramps them.
        """
        full = self.at(1.0)

        def part(start: float, top: Curve | None) -> float | None:
            if top is None:
                return None
            return round(linspace(start, 1.0, count)[index] * curve_value(top, 1.0), 6)

        randaug = part(0.5, full.randaug)
        return Curriculum(
            # Magnitudes are whole numbers with halves rounded down: the published 4, 6, 7, 9.
            randaug=None if randaug is None else math.ceil(randaug - 0.5 - 1e-9),
            drop_path=part(0.0, full.drop_path),
            reprob=part(0.0, full.reprob),
        )


def linspace(start: float, stop: float, count: int) -> Sequence[float]:
    """Return `count` values from `start` to `stop`; only `stop` for one."""
    if count == 1:
        return [stop]
    return [start + (stop - start) * index / (count - 1) for index in range(count)]


def _some_blocks(depth: Any) -> Any:
    if depth == ():
        raise ConfigError("", "", "must be at least 1 block", [])
    return depth


Depth = Annotated[Blocks | tuple[Blocks, ...], AfterValidator(_some_blocks)]
"""Blocks of a model with one growing stage, or of each of them (a VOLO has outlookers and transformers)."""
Argument = bool | Count | Measured | str
"""Of ``timm.create_model``."""


def depth_value(depth: tuple[int, ...]) -> Depth:
    """Return the file's form of a depth: a number for a model of one stage."""
    return depth[0] if len(depth) == 1 else depth


def shown_depth(depth: tuple[int, ...]) -> int | list[int]:
    """Return a depth as errors write it, which is how a file has it."""
    return depth[0] if len(depth) == 1 else list(depth)


def nearest_multiples(value: int, stride: int) -> tuple[int, int]:
    """Return the multiples of `stride` around `value`; the lower is at least one stride."""
    low = max(stride, value // stride * stride)
    return low, low + stride


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

    @model_validator(mode="before")
    @classmethod
    def _is_whole(cls, data: Any) -> Any:
        # The name of a known model alone looks as if it were enough. It is not: a file must still mean the
        # same when the list of models has changed.
        if isinstance(data, Mapping) and data.keys() <= cls.model_fields.keys():
            required = (key for key, field in cls.model_fields.items() if field.is_required())
            missing = [key for key in required if key not in data]
            name = data.get("model")
            if missing and isinstance(name, str) and name in ZOO:
                hint = f"{command('init', 'schedule', '--model', name)} writes all keys of {name}"
                raise ConfigError("", missing[0], "must be given", hint=hint)
        return data

    @model_validator(mode="after")
    def _is_a_model(self) -> FullModel:
        self.spec()  # which refuses what fits together in no model
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
    """How a stage adds the blocks that the one before lacks; see :class:`supernet.config.GrowthRule`."""

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
        # The supernet refuses it as well, but without the place in the file.
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
        """Return whether block number `block` trains."""
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

    # A mapping of one key, so that a file says `step: plain` or `step: {sandwich: …}`.
    sandwich: SandwichSizes


class Stage(FileModel):
    """A part of a run at one depth. ``length`` counts in the file's ``length_unit``.

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

    @classmethod
    def of(cls, subnet: SubnetConfig, length: float, **more: Any) -> Stage:
        """Return the stage that trains one subnet; `more` are further keys of a stage."""
        tokens = Tokens.of(subnet.tokens)
        depth = depth_value(subnet.depth)
        return cls(length=length, depth=depth, img_size=subnet.img_size, tokens=tokens, **more)


@dataclass(frozen=True, slots=True)
class Training:
    """How a step trains, beside its subnet: what of a stage holds for all of its steps.

    Attributes:
        shrink_by: How images come to the subnet's size: ``resize`` or ``fourier``.
        batch_scale: Images a step, as a multiple of the recipe's batch size.
        lr_scale: Learning rate, as a multiple of the run's.
        unfrozen: Which blocks train; None for all.
        sandwich: The smaller subnets of a sandwich step; None for a plain step.
        tokens: How a sandwich step drops tokens; the subnet of a plain step says so itself.
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


# --------------------------------------------------------------------------------------------------
# Costs in multiply-accumulates: known before anything runs, and the same on every machine.

_macs = lru_cache(maxsize=1024)(macs)  # `show` asks for the same few subnets at every segment


def image_macs(
    spec: ModelSpec, subnet: SubnetConfig, training: Training, num_classes: int = 1000
) -> int:
    """Return the multiply-accumulates that a training step spends on one image.

    Three forward passes' worth: one forward, and two backward, for inputs and for weights. A sandwich step
    is counted by the mean over its draws.
    """
    if training.sandwich is not None:
        forward = _sandwich_macs(spec, subnet, training, training.sandwich, num_classes)
        return round(3 * forward)
    # Frozen blocks have no gradient of weights; what lies outside blocks is counted as they are.
    blocks, unfrozen = subnet.total_depth, training.unfrozen
    trained = blocks if unfrozen is None else len(unfrozen.blocks(blocks))
    return _macs(spec, subnet, num_classes) * (2 * blocks + trained) // blocks


def _sandwich_macs(
    spec: ModelSpec,
    full: SubnetConfig,
    training: Training,
    smaller: SandwichSizes,
    num_classes: int,
) -> float:
    """Return the forward multiply-accumulates of (full, 1), (full, k), (size, 1) and (size, k)."""
    rates = [training.tokens.rule(rate) for rate in smaller.keep_rates]

    def both(size: int) -> float:
        whole = float(_macs(spec, SubnetConfig(full.depth, size), num_classes))
        pruned = (_macs(spec, SubnetConfig(full.depth, size, rule), num_classes) for rule in rates)
        return whole + fmean(pruned)

    return both(full.img_size) + fmean(map(both, smaller.sizes))


def relative_step_cost(
    spec: ModelSpec, subnet: SubnetConfig, training: Training, num_classes: int = 1000
) -> float:
    """Return the multiply-accumulates of a step as a fraction of those of a plain full one."""
    full = image_macs(spec, spec.full, Training(), num_classes)
    return training.batch_scale * image_macs(spec, subnet, training, num_classes) / full


def evaluation_macs(
    spec: ModelSpec, subnet: SubnetConfig, num_images: int, num_classes: int = 1000
) -> int:
    """Return the multiply-accumulates of an evaluation: a forward of the online and the averaged network."""
    return 2 * num_images * _macs(spec, subnet, num_classes)
