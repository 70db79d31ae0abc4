"""A schedule in steps: what the runner, the views and the cost model read, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autoprog.curves import Curriculum, Ramp, curve_value
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
                "schedule",
                f"stages[{index}].length",
                f"must last at least one step at {steps_per_epoch} steps an epoch",
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
    as_written = total_steps if schedule.length_unit == "share" else unit
    scale = as_written if open_end else total_steps / fixed
    bounds, position = [0], 0.0
    for length in lengths[:-1]:
        assert not isinstance(length, str)
        position += length * scale
        bounds.append(math.floor(position + 1e-6))
    return [*bounds, math.floor(total_steps + 1e-6)]


def _segments(
    full: FullModel, stage: Stage, index: int, start: int, stop: int, steps_per_epoch: int
) -> Iterator[Segment]:
    """Yield the plateaus of one stage; neighbours that came out equal are merged."""
    curves = [stage.img_size, *(curve for _, curve in stage.curriculum)]
    ramps = {
        curve: _Plateaus.of(curve, stop - start, steps_per_epoch)
        for curve in curves
        if isinstance(curve, Ramp)
    }
    firsts = sorted({0}.union(*(plateaus.firsts() for plateaus in ramps.values())))
    pending: Segment | None = None
    for first, last in zip(firsts, [*firsts[1:], stop - start], strict=True):
        shares = {ramp: plateaus.share(first) for ramp, plateaus in ramps.items()}
        subnet = SubnetConfig(as_depth(stage.depth), _size(stage.img_size, shares, full.stride))
        curriculum = _curriculum(stage.curriculum, shares)
        if pending and (pending.subnet, pending.curriculum) == (subnet, curriculum):
            pending = replace(pending, stop_step=start + last)
            continue
        if pending:
            yield pending
        pending = Segment(start + first, start + last, index, subnet, curriculum, stage.grow)
    assert pending is not None
    yield pending


@dataclass(frozen=True, slots=True)
class _Plateaus:
    """The plateaus of one ramp in steps from the start of its stage; the last may be cut short."""

    steps: int
    count: int

    @classmethod
    def of(cls, ramp: Ramp, stage_steps: int, steps_per_epoch: int) -> _Plateaus:
        steps = max(1, round(min(ramp.every_epochs * steps_per_epoch, stage_steps)))
        return cls(steps, math.ceil(stage_steps / steps))

    def firsts(self) -> range:
        return range(0, self.steps * self.count, self.steps)

    def share(self, step: int) -> float:
        return step // self.steps / (self.count - 1) if self.count > 1 else 1.0


def _curriculum(curriculum: Curriculum, shares: dict[Ramp, float]) -> Curriculum:
    values = {
        name: curve_value(curve, shares.get(curve, 1.0))
        for name, curve in curriculum
        if curve is not None
    }
    return Curriculum(**values)


def _size(curve: int | Ramp, shares: dict[Ramp, float], stride: int) -> int:
    if isinstance(curve, int):
        return curve
    return max(stride, round(curve.at(shares[curve]) / stride) * stride)
