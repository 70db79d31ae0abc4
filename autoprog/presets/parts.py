"""What presets share."""

from __future__ import annotations

from autoprog.files import parse
from autoprog.schedule import GrowthSchedule
from autoprog.stage import FullModel, Grow, LearningRate, Stage, depth_value
from supernet.config import ModelSpec

__all__ = ["full_stage", "schedule_of"]


def full_stage(spec: ModelSpec, length: float, grow: Grow = Grow()) -> Stage:
    """Return a stage of the full model."""
    return Stage(length=length, depth=depth_value(spec.depth), img_size=spec.img_size, grow=grow)


def schedule_of(
    spec: ModelSpec, lr: LearningRate, stages: list[Stage], **more: object
) -> GrowthSchedule:
    """Return the schedule of these stages; `more` are further keys of the file.

    Raises:
        ConfigError: If the model cannot be trained that way.
    """
    values = {"full": FullModel.of(spec), "lr": lr, "stages": tuple(stages), **more}
    return parse(GrowthSchedule, values, "--schedule")
