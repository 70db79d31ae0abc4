"""Presets that change the image size."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from autoprog.curves import Curriculum, Ramp, curve_value
from autoprog.presets.parts import full_stage, schedule_of
from autoprog.ramps import linspace, size_on_grid
from autoprog.schedule import GrowthSchedule
from autoprog.stage import LearningRate, Stage, depth_value
from supernet.config import ModelSpec

__all__ = ["efficienttrain", "progressive_resizing", "size_curriculum", "size_curriculum_of_time"]


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
    dates = _size_dates(len(sizes), steps)
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
    """The sizes of size-curriculum by the clock of --time-budget: equal shares of 80 % of it, then full size.

    The published run of a day reaches its full size shortly before the day is over.
    """
    *smaller, full = _rising_sizes(spec)
    shares = [0.8 / len(smaller)] * len(smaller) + [0.2] if smaller else [1.0]
    stages = [
        Stage(length=share, depth=depth_value(spec.depth), img_size=size)
        for share, size in zip(shares, [*smaller, full], strict=True)
    ]
    return schedule_of(spec, lr, stages, length_unit="time_share")


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
    shares = [6 / 14] * 2 + [10 / 14] * 4 + [12 / 14] * 2 + [1.0] * 2
    top = strength.randaug
    magnitudes = None if top is None else linspace(0.0, curve_value(top, 1.0), 10)
    stages = [
        Stage(
            length=0.1,
            depth=depth_value(spec.depth),
            img_size=size_on_grid(spec, share),
            shrink_by="resize" if share == 1.0 else shrink_by,
            curriculum=Curriculum(randaug=None if magnitudes is None else magnitudes[tenth]),
        )
        for tenth, share in enumerate(shares)
    ]
    clock = LearningRate(shape=lr.shape, clock="compute")
    return schedule_of(spec, clock, stages, length_unit="compute_share")


def progressive_resizing(
    spec: ModelSpec, epochs: float, strength: Curriculum, lr: LearningRate = LearningRate()
) -> GrowthSchedule:
    """Composer's and fastai's progressive resizing: half size for half the run, a ramp, full size at 80 %.

    Composer raises the size steadily and rounds it to the grid, here of patches. So for an even number
    of patches a side, its first and last size last half as long on the ramp as those between.
    """
    side = spec.img_size // spec.patch_size
    half = min(max(1, round(side / 2)), side)
    dates = [
        _date_above(smaller, side) for smaller in range(half, side)
    ]  # each size begins at its date
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


def _date_above(patches: int, side: int) -> float:
    """Return the share of the run at which Composer goes from `patches` a side to one more of `side`."""
    scale = (patches + 0.5) / side  # rises from 0.5 at 50 % of the run to 1 at 80 %
    return 0.5 + 0.3 * (scale - 0.5) / 0.5


def _rising_sizes(spec: ModelSpec) -> list[int]:
    step = 2 * spec.patch_size
    return [*range(step, spec.img_size, step), spec.img_size]


def _size_dates(count: int, steps: str) -> list[float]:
    """Return the epochs at which each of `count` sizes begins, as published for runs that are long enough."""
    if steps == "linear":
        return [5.0 * rung for rung in range(count)]
    gaps = [2.0, 2.0, 4.0, 4.0, 8.0, 16.0]
    gaps += [16.0] * (count - len(gaps))
    return [sum(gaps[:rung]) for rung in range(count)]
