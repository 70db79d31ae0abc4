"""Schedules with a name: each preset is a few lines that return a :class:`GrowthSchedule`.

The docstring of a preset is what ``autoprog list presets`` says of it; a variant has a sentence of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Literal

from autoprog.errors import ConfigError, suggest
from autoprog.files import parse
from autoprog.schedule import GrowthSchedule
from autoprog.stage import (
    Curriculum,
    FullModel,
    Grow,
    KeepCurve,
    LearningRate,
    Ramp,
    Sandwich,
    SandwichSizes,
    Stage,
    Tokens,
    Unfrozen,
    curve_value,
    depth_value,
    linspace,
)
from supernet.config import ModelSpec
from supernet.depthmap import make_divisible

__all__ = [
    "PRESETS",
    "constant",
    "efficienttrain",
    "late_jump",
    "linear",
    "linear_ramp",
    "patch_sampling",
    "preset",
    "progressive_resizing",
    "pruning_places",
    "size_curriculum",
    "size_curriculum_of_time",
    "size_on_grid",
    "summary_of",
    "supervit",
    "unfreezing",
]


# All presets have one signature, so that a name is all that a caller needs; most use a part of it. The
# epochs of those whose lengths are fractions come when they are resolved, and `late_jump` and
# `efficienttrain` have a learning rate of their own, without which they are not what was published.


# Depth, and which blocks train.
def constant(
    spec: ModelSpec, epochs: float, strength: Curriculum, lr: LearningRate = LearningRate()
) -> GrowthSchedule:
    """The baseline: the full model for the whole run."""
    return schedule_of(spec, lr, [full_stage(spec, epochs)])


def linear(
    spec: ModelSpec,
    epochs: float,
    strength: Curriculum,
    lr: LearningRate = LearningRate(),
    num_stages: int = 4,
    start: float = 0.5,
) -> GrowthSchedule:
    """AutoProg's hand-made ramp of depth, size and regularisation over equal stages (CVPR 2022, "Prog")."""
    # Two patches, 32 px as published; one for small images, which would have too few sizes.
    divisor = spec.patch_size * (2 if spec.img_size >= 8 * spec.patch_size else 1)
    sizes = linear_ramp(start, num_stages, spec.img_size, divisor)
    depths = [spec.split(n) for n in linear_ramp(start, num_stages, sum(spec.depth), 1)]
    lengths = stage_lengths(epochs, num_stages)
    stages = [
        Stage(
            length=lengths[index],
            depth=depth_value(depths[index]),
            img_size=min(sizes[index], spec.img_size),
            curriculum=strength.ramped(index, num_stages),
        )
        for index in range(num_stages)
    ]
    return schedule_of(spec, lr, stages)


def late_jump(
    spec: ModelSpec, epochs: float, strength: Curriculum, lr: LearningRate = LearningRate()
) -> GrowthSchedule:
    """Half the depth, then one late jump to all of it while the rate is still high (arXiv 2511.04981).

    The learning rate is held and decays at the end (WSD); the jump comes at 70 % of the run.
    """
    depth = depth_value(spec.split(max(1, sum(spec.depth) // 2)))
    stages = [
        Stage(length=0.7 * epochs, depth=depth, img_size=spec.img_size),
        full_stage(spec, 0.3 * epochs, Grow(init="copy")),
    ]
    return schedule_of(spec, LearningRate(shape="wsd"), stages)


def unfreezing(
    spec: ModelSpec, epochs: float, strength: Curriculum, lr: LearningRate = LearningRate()
) -> GrowthSchedule:
    """For fine-tuning: every fourth block trains, then two, three and all of four (AutoProg-Zero)."""
    lengths = stage_lengths(epochs, 4)
    stages = [
        Stage(
            length=length,
            depth=depth_value(spec.depth),
            img_size=spec.img_size,
            trainable="all" if level == 4 else Unfrozen(every=4, level=level),
        )
        for level, length in enumerate(lengths, 1)
    ]
    return schedule_of(spec, lr, stages)


# The image size.


def size_curriculum(
    spec: ModelSpec,
    epochs: float,
    strength: Curriculum,
    lr: LearningRate = LearningRate(),
    steps: Literal["linear", "exponential"] = "linear",
) -> GrowthSchedule:
    """Image sizes that rise by two patches every 5 epochs from 2 x 2 on (ViT in 24 h, arXiv 2211.05187).

    Every 5 epochs as published, or at epochs 2, 4, 8, 12, 20, 36, 52, … (exponential); in runs too short for
    that the same dates over the first 60 % of the run. Warm-up and learning rate are the recipe's, where
    the published runs have no warm-up; one table of positions is resampled to every size.
    """
    sizes = _rising_sizes(spec)
    if steps == "linear":
        dates = [5.0 * rung for rung in range(len(sizes))]
    else:
        gaps = [2.0, 2.0, 4.0, 4.0, 8.0, 16.0]
        gaps += [16.0] * (len(sizes) - len(gaps))
        dates = [sum(gaps[:rung]) for rung in range(len(sizes))]
    scale = min(1.0, 0.6 * epochs / dates[-1]) if dates[-1] else 1.0
    ends = [*(date * scale for date in dates[1:]), epochs]
    stages = [
        Stage(length=stop - start, depth=depth_value(spec.depth), img_size=size)
        for size, (start, stop) in zip(sizes, pairwise([0.0, *ends]), strict=True)
    ]
    return schedule_of(spec, lr, stages)


def size_curriculum_of_time(
    spec: ModelSpec, epochs: float, strength: Curriculum, lr: LearningRate = LearningRate()
) -> GrowthSchedule:
    """The sizes of size-curriculum by the time of --time-budget: equal parts of 80 % of it, then full size.

    The published run of a day reaches its full size shortly before the day is over.
    """
    *smaller, full = _rising_sizes(spec)
    fractions = [0.8 / len(smaller)] * len(smaller) + [0.2] if smaller else [1.0]
    stages = [
        Stage(length=fraction, depth=depth_value(spec.depth), img_size=size)
        for fraction, size in zip(fractions, [*smaller, full], strict=True)
    ]
    return schedule_of(spec, lr, stages, length_unit="budget_fraction")


def efficienttrain(
    spec: ModelSpec,
    epochs: float,
    strength: Curriculum,
    lr: LearningRate = LearningRate(),
    shrink_by: Literal["resize", "fourier"] = "resize",
) -> GrowthSchedule:
    """EfficientTrain++: tenths of equal compute, images resized to rising sizes (arXiv 2405.08768).

    Sizes are 96, 96, 160 four times, 192, 192, 224, 224 px for 224: for every model the ladder that is
    released for DeiT. RandAugment's magnitude rises from 0 to the recipe's. Images are cropped straight to
    the small size and augmented there, where the release crops and augments at full size and resizes then;
    or they are cut out of the low frequencies of full-size images (fourier), as in the paper. Compute is
    counted in multiply-accumulates, where the release counts pixels. Warm-up and learning rate are the
    recipe's, and there is no replay buffer.
    """
    fractions = [6 / 14] * 2 + [10 / 14] * 4 + [12 / 14] * 2 + [1.0] * 2
    top = strength.randaug
    magnitudes = None if top is None else linspace(0.0, curve_value(top, 1.0), 10)
    stages = [
        Stage(
            length=0.1,
            depth=depth_value(spec.depth),
            img_size=size_on_grid(spec, fraction),
            shrink_by="resize" if fraction == 1.0 else shrink_by,
            curriculum=Curriculum(randaug=None if magnitudes is None else magnitudes[tenth]),
        )
        for tenth, fraction in enumerate(fractions)
    ]
    clock = LearningRate(shape=lr.shape, clock="compute")
    return schedule_of(spec, clock, stages, length_unit="compute_fraction")


def progressive_resizing(
    spec: ModelSpec, epochs: float, strength: Curriculum, lr: LearningRate = LearningRate()
) -> GrowthSchedule:
    """Composer's and fastai's progressive resizing: half size for half the run, a ramp, full size at 80 %.

    Composer raises the size steadily and rounds it to the grid, here of patches. So for an even number
    of patches a side, its first and last size last half as long on the ramp as those between.
    """
    side = spec.img_size // spec.patch_size
    half = min(max(1, round(side / 2)), side)
    # The scale rises from 0.5 at half of the run to 1 at 80 %; a size begins where it is the nearest.
    scales = [(smaller + 0.5) / side for smaller in range(half, side)]
    dates = [0.5 + 0.3 * (scale - 0.5) / 0.5 for scale in scales]
    if not dates:
        return schedule_of(spec, lr, [full_stage(spec, epochs)])
    depth, rung = depth_value(spec.depth), spec.patch_size
    stages = [Stage(length=dates[0] * epochs, depth=depth, img_size=half * rung)]
    if len(dates) > 1:
        ramp = Ramp(
            ramp="linear",
            start=(half + 1) * rung,
            to=(side - 1) * rung,
            every_epochs=(dates[1] - dates[0]) * epochs,
        )
        size = ramp if len(dates) > 2 else (side - 1) * rung
        stages.append(Stage(length=(dates[-1] - dates[0]) * epochs, depth=depth, img_size=size))
    return schedule_of(spec, lr, [*stages, full_stage(spec, (1 - dates[-1]) * epochs)])


def _rising_sizes(spec: ModelSpec) -> list[int]:
    step = 2 * spec.patch_size
    return [*range(step, spec.img_size, step), spec.img_size]


# The number of tokens.


def patch_sampling(
    spec: ModelSpec,
    epochs: float,
    strength: Curriculum,
    lr: LearningRate = LearningRate(),
    curve: Literal["cyclic", "linear", "cosine", "fixed"] = "cyclic",
) -> GrowthSchedule:
    """Patch Sampling Schedule: 20 to 100 % of the tokens, up and down in each epoch (arXiv 2208.09520).

    The keep-rate goes up and down in each epoch (cyclic), rises over the run (linear, cosine) or stays at
    60 % (fixed), in quanta of 20 %. All but fixed train the last thirtieth on all tokens, as the released
    runs of DeiT do; fixed keeps 60 % to the end, as the released fine-tunings of SimMIM do, and is
    evaluated on all tokens like the others.
    The model is trained as it is: the released networks have relative positions, mean pooling and
    initial weights of their own.
    """
    depth, size = depth_value(spec.depth), spec.img_size
    if curve == "fixed":
        whole = Stage(length=epochs, depth=depth, img_size=size, tokens=Tokens(keep_rate=0.6))
        return schedule_of(spec, lr, [whole], end="free")
    cooldown = epochs / 30
    tokens = Tokens(keep_rate=KeepCurve(curve=curve))
    sampled = Stage(length=epochs - cooldown, depth=depth, img_size=size, tokens=tokens)
    return schedule_of(spec, lr, [sampled, full_stage(spec, cooldown)], monotone=curve != "cyclic")


def supervit(
    spec: ModelSpec, epochs: float, strength: Curriculum, lr: LearningRate = LearningRate()
) -> GrowthSchedule:
    """SuperViT: one set of weights for many sizes and keep-rates, four subnets a step (arXiv 2205.11397).

    Costs more than plain training, and stays elastic: see ``autoprog evaluate --grid``.
    One table of positions is resampled to every size; SuperViT learns a table for each, as does
    ``--pos-embed per-size``.
    """
    sizes = sorted({size_on_grid(spec, side / 14) for side in (8, 10, 12)} - {spec.img_size})
    stage = Stage(
        length=epochs,
        depth=depth_value(spec.depth),
        img_size=spec.img_size,
        tokens=Tokens(by="class_attention", at_blocks=pruning_places(spec)),
        step=Sandwich(sandwich=SandwichSizes(sizes=tuple(sizes), keep_rates=(0.5, 0.7))),
    )
    return schedule_of(spec, lr, [stage], end="free")


def pruning_places(spec: ModelSpec) -> tuple[int, ...]:
    """Return the blocks in which SuperViT drops tokens: a quarter, half and three quarters of the way."""
    blocks = sum(spec.depth)
    return tuple(sorted({quarter * blocks // 4 for quarter in (1, 2, 3)}))


# What they share.


def schedule_of(
    spec: ModelSpec, lr: LearningRate, stages: list[Stage], **more: object
) -> GrowthSchedule:
    """Return the schedule of these stages; `more` are further keys of the file.

    Raises:
        ConfigError: If the model cannot be trained that way.
    """
    values = {"full": FullModel.of(spec), "lr": lr, "stages": tuple(stages), **more}
    return parse(GrowthSchedule, values, "--schedule")


def full_stage(spec: ModelSpec, length: float, grow: Grow = Grow()) -> Stage:
    """Return a stage of the full model."""
    return Stage(length=length, depth=depth_value(spec.depth), img_size=spec.img_size, grow=grow)


def stage_lengths(epochs: float, num_stages: int) -> list[float]:
    """Return lengths that start stage k at floor(k·E/K) epochs; short runs keep fractional stages."""
    whole = epochs >= 2 * num_stages
    starts = [
        math.floor(k * epochs / num_stages) if whole else k * epochs / num_stages
        for k in range(num_stages)
    ]
    return [stop - start for start, stop in zip(starts, [*starts[1:], epochs], strict=True)]


def linear_ramp(start: float, count: int, top: int, divisor: int) -> list[int]:
    """Return `count` values from `start`·top to top on the grid of `divisor`."""
    return [make_divisible(fraction * top, divisor) for fraction in linspace(start, 1.0, count)]


def size_on_grid(spec: ModelSpec, fraction: float) -> int:
    """Return the image size of `fraction` of the full number of patches a side, at least one patch."""
    side = spec.img_size // spec.patch_size
    return spec.patch_size * max(1, round(fraction * side))


Preset = Callable[[ModelSpec, float, Curriculum, LearningRate], GrowthSchedule]

PRESETS: dict[str, Preset] = {
    "constant": constant,
    "linear": linear,
    "size-curriculum": size_curriculum,
    "size-curriculum:exponential": partial(size_curriculum, steps="exponential"),
    "size-curriculum:time": size_curriculum_of_time,
    "patch-sampling": patch_sampling,
    "patch-sampling:linear": partial(patch_sampling, curve="linear"),
    "patch-sampling:cosine": partial(patch_sampling, curve="cosine"),
    "patch-sampling:fixed": partial(patch_sampling, curve="fixed"),
    "efficienttrain": efficienttrain,
    "efficienttrain:fourier": partial(efficienttrain, shrink_by="fourier"),
    "progressive-resizing": progressive_resizing,
    "late-jump": late_jump,
    "unfreezing": unfreezing,
    "supervit": supervit,
}


# The summaries of presets that have no function, and so no docstring, of their own.
_VARIANTS = {
    "size-curriculum:exponential": "The sizes of size-curriculum at dates further and further apart: epochs"
    " 2, 4, 8, 12, 20, 36 (arXiv 2211.05187).",
    "patch-sampling:linear": "Patch Sampling Schedule whose fraction of tokens rises evenly over the run,"
    " from 20 to 100 %.",
    "patch-sampling:cosine": "Patch Sampling Schedule whose fraction of tokens rises over the run along a"
    " cosine, from 20 to 100 %.",
    "patch-sampling:fixed": "Patch Sampling Schedule's control: 60 % of the tokens from the first step to the"
    " last.",
    "efficienttrain:fourier": "EfficientTrain++ with images cut out of the low frequencies of full-size ones,"
    " as in the paper.",
}


def summary_of(name: str) -> str:
    """Return what a preset is, in one sentence."""
    if name in _VARIANTS:
        return _VARIANTS[name]
    made = PRESETS[name]
    assert not isinstance(made, partial), name
    assert made.__doc__ is not None
    return made.__doc__.splitlines()[0]


def preset(
    name: str,
    spec: ModelSpec,
    epochs: float,
    strength: Curriculum,
    lr: LearningRate = LearningRate(),
) -> GrowthSchedule:
    """Return the preset `name` for a model.

    Args:
        name: One of :data:`PRESETS`.
        spec: The full model.
        epochs: Length of the run.
        strength: The recipe's full regularisation, which presets may ramp.
        lr: The shape of the learning rate.

    Raises:
        ConfigError: If there is no such preset, or it cannot be made for this model.
    """
    if name not in PRESETS:
        raise ConfigError(
            "--schedule", "", "unknown preset or missing file", name, suggest(name, PRESETS)
        )
    return PRESETS[name](spec, epochs, strength, lr)
