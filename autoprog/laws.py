"""The laws of a schedule: what its stages must fulfil together, each broken one told with place and cure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprog.curves import KeepCurve, curve_ends
from autoprog.errors import ConfigError
from autoprog.stage import FullModel, Sandwich, SandwichSizes, Stage, Unfrozen, shown_depth
from supernet.config import as_depth

if TYPE_CHECKING:
    from autoprog.schedule import GrowthSchedule

__all__ = ["SHARES", "check_schedule", "nearest_multiples"]

SHARES = ("share", "time_share", "compute_share")
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
    if schedule.length_unit in SHARES:
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
        raise ConfigError("", f"{key}.depth", law, shown_depth(depth))
    if any(value > top for value, top in zip(depth, full_depth, strict=True)):
        law = f"must lie in 1 to {shown_depth(full_depth)}"
        raise ConfigError("", f"{key}.depth", law, shown_depth(depth))
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
        law = f"must be below the depth {blocks}"
        raise ConfigError("", f"{key}.tokens.at_blocks", law, last)
    if stage.tokens.by == "class_attention" and not full.spec().class_token:
        law = f"must be magnitude, l2_magnitude or random: {full.model} has no class token"
        raise ConfigError("", f"{key}.tokens.by", law, stage.tokens.by)
    if full.spec().needs_grid:
        law = f"must keep all tokens: {full.model} needs the whole grid"
        raise ConfigError("", f"{key}.tokens.keep_rate", law)


def _check_sandwich(full: FullModel, sizes: SandwichSizes, stage_px: int, key: str) -> None:
    for size in sizes.sizes:
        if size % full.stride or size >= stage_px:
            law = f"must be multiples of the stride {full.stride} below {stage_px}"
            raise ConfigError("", f"{key}.step.sandwich.sizes", law, size)


def _check_end(full: FullModel, last: Stage, index: int) -> None:
    key, cure = f"stages[{index}]", "make the last stage the full model"
    depth, full_depth = as_depth(last.depth), as_depth(full.depth)
    if depth != full_depth:
        law = f"must end at the full depth {shown_depth(full_depth)}"
        raise ConfigError("", f"{key}.depth", law, shown_depth(depth), cure)
    size = int(curve_ends(last.img_size)[-1])
    if size != full.img_size:
        law = f"must end at the full size {full.img_size}"
        raise ConfigError("", f"{key}.img_size", law, size, cure)


def _check_full_training(last: Stage, index: int) -> None:
    key, cure = f"stages[{index}]", "add a last stage that does, or set end: free"
    if min(curve_ends(last.tokens.keep_rate)) < 1:
        rate = min(curve_ends(last.tokens.keep_rate))
        raise ConfigError("", f"{key}.tokens.keep_rate", "must end at 1", rate, cure)
    if isinstance(last.trainable, Unfrozen) and last.trainable.share < 1:
        law, level = "must train all blocks", last.trainable.level
        raise ConfigError("", f"{key}.trainable.level", law, level, cure)
    if last.step != "plain":
        raise ConfigError("", f"{key}.step", "must be plain", "sandwich", cure)


def _check_monotone(stages: tuple[Stage, ...]) -> None:
    before: tuple[int, ...] = ()
    size_before, rate_before, cure = 0.0, 0.0, "set monotone: false to allow it"
    for index, stage in enumerate(stages):
        key, depth, sizes = f"stages[{index}]", as_depth(stage.depth), curve_ends(stage.img_size)
        rates = curve_ends(stage.tokens.keep_rate)
        cyclic = isinstance(stage.tokens.keep_rate, KeepCurve) and (
            stage.tokens.keep_rate.curve == "cyclic"
        )
        if before and any(now < old for now, old in zip(depth, before, strict=True)):
            law = f"must not fall below {shown_depth(before)}"
            raise ConfigError("", f"{key}.depth", law, shown_depth(depth), cure)
        if sizes[0] < size_before or sizes[-1] < sizes[0]:
            law = f"must not fall below {max(size_before, sizes[0]):g}"
            raise ConfigError("", f"{key}.img_size", law, int(min(sizes)), cure)
        if cyclic or rates[0] < rate_before or rates[-1] < rates[0]:
            law = "must not fall"
            raise ConfigError("", f"{key}.tokens.keep_rate", law, min(rates), cure)
        before, size_before, rate_before = depth, sizes[-1], rates[-1]
