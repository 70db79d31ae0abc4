"""A schedule in steps: what the runner, the views and the cost model read, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoprog.curves import Curriculum, Ramp
from autoprog.errors import ConfigError
from supernet.config import SubnetConfig, as_depth

if TYPE_CHECKING:
    from autoprog.schedule import FullModel, Grow, GrowthSchedule, Stage

__all__ = ["Segment", "StepTable", "resolve_steps"]


@dataclass(frozen=True, slots=True)
class Segment:
    """Steps ``start_step`` to ``stop_step`` (exclusive) of a run, in which nothing changes."""

    start_step: int
    stop_step: int
    stage: int
    subnet: SubnetConfig
    curriculum: Curriculum
    grow: Grow

    @property
    def steps(self) -> int:
        """Return the number of steps."""
        return self.stop_step - self.start_step


@dataclass(frozen=True)
class StepTable:
    """A schedule in steps: consecutive segments from step 0 to the end."""

    segments: tuple[Segment, ...]
    steps_per_epoch: int

    @property
    def total_steps(self) -> int:
        """Return the number of optimizer steps of the run."""
        return self.segments[-1].stop_step

    def at(self, step: int) -> Segment:
        """Return the segment that holds `step`."""
        for segment in self.segments:
            if segment.start_step <= step < segment.stop_step:
                return segment
        raise IndexError(f"step must lie in [0, {self.total_steps}), but got {step}")

    def stage_starts(self) -> Iterator[Segment]:
        """Yield the first segment of each stage."""
        stage = -1
        for segment in self.segments:
            if segment.stage != stage:
                stage = segment.stage
                yield segment


def resolve_steps(
    schedule: GrowthSchedule, steps_per_epoch: int, epochs: float | None
) -> StepTable:
    """Return the step table of a schedule; see :meth:`GrowthSchedule.resolve`."""
    bounds = _stage_bounds(schedule, steps_per_epoch, epochs)
    segments: list[Segment] = []
    for index, stage in enumerate(schedule.stages):
        start, stop = bounds[index], bounds[index + 1]
        if stop <= start:
            raise ConfigError(
                f"stages[{index}]",
                "length",
                f"must be at least one step of {steps_per_epoch} an epoch",
                stage.length,
                "train longer or drop the stage",
            )
        segments.extend(_segments(schedule.full, stage, index, start, stop, steps_per_epoch))
    return StepTable(tuple(segments), steps_per_epoch)


def _stage_bounds(
    schedule: GrowthSchedule, steps_per_epoch: int, epochs: float | None
) -> list[int]:
    """Return the first step of each stage and the total: floor(k · E / K) for K equal stages."""
    unit = {"epochs": float(steps_per_epoch), "steps": 1.0, "share": math.nan}[schedule.length_unit]
    lengths = [stage.length for stage in schedule.stages]
    fixed = sum(length for length in lengths if not isinstance(length, str))
    open_end = lengths[-1] == "rest"
    if epochs is None and (open_end or schedule.length_unit == "share"):
        raise ConfigError("--epochs", "", "must be given for a schedule in shares or with 'rest'")
    total_steps = fixed * unit if epochs is None else epochs * steps_per_epoch
    if schedule.length_unit == "share":
        scale = total_steps
    elif open_end:
        scale = unit
    else:
        scale = total_steps / fixed
    bounds, position = [0], 0.0
    for length in lengths:
        position = total_steps if isinstance(length, str) else position + length * scale
        bounds.append(math.floor(position + 1e-6))
    return bounds


def _segments(
    full: FullModel, stage: Stage, index: int, start: int, stop: int, steps_per_epoch: int
) -> Iterator[Segment]:
    """Yield the plateaus of one stage; neighbours that came out equal are merged."""
    plateau_steps = max(1, round(min(_plateau_epochs(stage) * steps_per_epoch, stop - start)))
    count = max(1, math.ceil((stop - start) / plateau_steps))
    pending: Segment | None = None
    for number in range(count):
        share = number / (count - 1) if count > 1 else 1.0
        first = start + number * plateau_steps
        last = min(stop, first + plateau_steps)
        subnet = SubnetConfig(as_depth(stage.depth), _size(stage.img_size, share, full.stride))
        curriculum = stage.curriculum.at(share)
        if pending and (pending.subnet, pending.curriculum) == (subnet, curriculum):
            first = pending.start_step
        elif pending:
            yield pending
        pending = Segment(first, last, index, subnet, curriculum, stage.grow)
    assert pending is not None
    yield pending


def _plateau_epochs(stage: Stage) -> float:
    curves = [stage.img_size, *(curve for _, curve in stage.curriculum)]
    return min((c.every_epochs for c in curves if isinstance(c, Ramp)), default=math.inf)


def _size(curve: int | Ramp, share: float, stride: int) -> int:
    if isinstance(curve, int):
        return curve
    return max(stride, round(curve.at(share) / stride) * stride)
