"""Schedules with a name: each preset is a few lines that return a :class:`GrowthSchedule`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from autoprog.curves import Curriculum
from autoprog.errors import ConfigError, suggest
from autoprog.schedule import GrowthSchedule
from autoprog.stage import FullModel, LearningRate, Stage, depth_value
from supernet.config import ModelSpec

__all__ = [
    "PRESETS",
    "constant",
    "linear",
    "linear_ramp",
    "make_divisible",
    "preset",
    "ramped_curriculum",
]

Preset = Callable[[ModelSpec, float, Curriculum, LearningRate], GrowthSchedule]


def constant(
    spec: ModelSpec, epochs: float, strength: Curriculum, lr: LearningRate = LearningRate()
) -> GrowthSchedule:
    """The baseline: the full model for the whole run."""
    stage = Stage(length=epochs, depth=depth_value(spec.depth), img_size=spec.img_size)
    return GrowthSchedule(full=FullModel.of(spec), lr=lr, stages=(stage,))


def linear(
    spec: ModelSpec,
    epochs: float,
    strength: Curriculum,
    lr: LearningRate = LearningRate(),
    num_stages: int = 4,
    start: float = 0.5,
) -> GrowthSchedule:
    """AutoProg's hand-made ramp of depth, size and regularisation over equal stages (CVPR 2022, "Prog")."""
    divisor = size_divisor(spec)
    sizes = linear_ramp(start, num_stages, spec.img_size, divisor)
    depths = [linear_ramp(start, num_stages, blocks, 1) for blocks in spec.depth]
    lengths = stage_lengths(epochs, num_stages)
    stages = tuple(
        Stage(
            length=lengths[index],
            depth=depth_value(tuple(depth[index] for depth in depths)),
            img_size=min(sizes[index], spec.img_size),
            curriculum=ramped_curriculum(strength, index, num_stages),
        )
        for index in range(num_stages)
    )
    return GrowthSchedule(full=FullModel.of(spec), lr=lr, stages=stages)


def stage_lengths(epochs: float, num_stages: int) -> list[float]:
    """Return lengths that start stage k at floor(k·E/K) epochs; short runs keep fractional stages."""
    whole = epochs >= 2 * num_stages
    starts = [
        math.floor(k * epochs / num_stages) if whole else k * epochs / num_stages
        for k in range(num_stages)
    ]
    return [stop - start for start, stop in zip(starts, [*starts[1:], epochs], strict=True)]


def size_divisor(spec: ModelSpec) -> int:
    """Return the grid of image sizes: two patches (32 px, as published), one for small images."""
    return spec.patch_size * (2 if spec.img_size >= 8 * spec.patch_size else 1)


def linear_ramp(start: float, count: int, top: int, divisor: int) -> list[int]:
    """Return `count` values from `start`·top to top on the grid of `divisor`."""
    return [make_divisible(share * top, divisor) for share in _linspace(start, 1.0, count)]


def make_divisible(value: float, divisor: int) -> int:
    """Round to the grid of `divisor`, never below 0.9 of `value`, at least one `divisor`."""
    rounded = max(divisor, math.floor((value + divisor / 2) / divisor + 1e-9) * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def ramped_curriculum(strength: Curriculum, index: int, count: int) -> Curriculum:
    """Return stage `index`'s regularisation: RandAugment from half strength, drop-path and erasing from 0.

    Magnitudes are whole numbers with halves rounded down, which gives the published 4, 6, 7, 9.
    """
    values = strength.at(1.0)
    randaug = _share(0.5, index, count, values.randaug)
    return Curriculum(
        randaug=None if randaug is None else math.ceil(randaug - 0.5 - 1e-9),
        drop_path=_share(0.0, index, count, values.drop_path),
        reprob=_share(0.0, index, count, values.reprob),
    )


def _share(start: float, index: int, count: int, top: object) -> float | None:
    if top is None:
        return None
    assert isinstance(top, int | float)
    return round(_linspace(start, 1.0, count)[index] * top, 6)


def _linspace(start: float, stop: float, count: int) -> Sequence[float]:
    if count == 1:
        return [stop]
    return [start + (stop - start) * index / (count - 1) for index in range(count)]


PRESETS: dict[str, Preset] = {"constant": constant, "linear": linear}


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
        ConfigError: If there is no such preset.
    """
    if name not in PRESETS:
        raise ConfigError(
            "--schedule", "", "unknown preset or missing file", name, suggest(name, PRESETS)
        )
    return PRESETS[name](spec, epochs, strength, lr)
