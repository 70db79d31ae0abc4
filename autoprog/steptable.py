"""A schedule in steps: what the runner, the views and the cost model read, and nothing else."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

from autoprog.curves import Curriculum, Plateau, plateaus
from autoprog.errors import ConfigError
from autoprog.stage import FRACTION_UNITS, FullModel, Grow, Stage, Training, relative_step_cost
from supernet.config import SubnetConfig, as_depth

if TYPE_CHECKING:
    from autoprog.schedule import GrowthSchedule

__all__ = ["Segment", "StepTable", "but_for_tokens", "resolve_steps"]


@dataclass(frozen=True, slots=True)
class Segment:
    """Steps ``start_step`` to ``stop_step`` (exclusive) of a run, in which nothing changes."""

    start_step: int
    stop_step: int
    stage: int
    subnet: SubnetConfig
    curriculum: Curriculum
    grow: Grow
    training: Training = field(default_factory=Training)

    @property
    def steps(self) -> int:
        """Return the number of steps."""
        return self.stop_step - self.start_step


@dataclass(frozen=True)
class StepTable:
    """A schedule in steps: consecutive segments from step 0 to the end.

    ``weights`` says how far a step of each segment moves the clock of the learning rate, in any unit; None
    where all steps move it alike.
    """

    segments: tuple[Segment, ...]
    steps_per_epoch: int
    weights: tuple[float, ...] | None = None

    @property
    def total_steps(self) -> int:
        """Return the number of optimizer steps of the run."""
        return self.segments[-1].stop_step

    @property
    def image_epochs(self) -> float:
        """Return how often the run sees each training image."""
        steps = sum(segment.steps * segment.training.batch_scale for segment in self.segments)
        return steps / self.steps_per_epoch

    def at(self, step: int) -> Segment:
        """Return the segment that holds `step`."""
        if not 0 <= step < self.total_steps:
            raise IndexError(f"step must lie in [0, {self.total_steps}), but got {step}")
        return self.segments[self._segment_number(step)]

    def stage_starts(self) -> Iterator[Segment]:
        """Yield the first segment of each stage."""
        stage = -1
        for segment in self.segments:
            if segment.stage != stage:
                stage = segment.stage
                yield segment

    def clock(self, step: int) -> float:
        """Return where the learning rate stands before `step`, from 0 to ``total_steps``."""
        if self.weights is None or step >= self.total_steps:
            return step
        number = self._segment_number(step)
        since = (step - self.segments[number].start_step) * self.weights[number]
        return (self._passed[number] + since) / self._passed[-1] * self.total_steps

    def _segment_number(self, step: int) -> int:
        return bisect_right(self._starts, step) - 1

    @cached_property
    def _starts(self) -> list[int]:
        return [segment.start_step for segment in self.segments]

    @cached_property
    def _passed(self) -> list[float]:
        """Return the clock at the start of each segment, and at the end."""
        assert self.weights is not None
        moved = (s.steps * weight for s, weight in zip(self.segments, self.weights, strict=True))
        return list(accumulate(moved, initial=0.0))


def but_for_tokens(segment: Segment) -> Segment:
    """Return what two segments of one phase have in common."""
    subnet = SubnetConfig(segment.subnet.depth, segment.subnet.img_size)
    return replace(segment, subnet=subnet, start_step=0, stop_step=0)


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
    return StepTable(tuple(segments), steps_per_epoch, _clock_weights(schedule, segments))


def _clock_weights(
    schedule: GrowthSchedule, segments: Sequence[Segment]
) -> tuple[float, ...] | None:
    """Return how far a step of each segment moves the learning rate: by its images or its compute."""
    if schedule.lr.clock == "compute":
        spec = schedule.full.spec()
        return tuple(relative_step_cost(spec, s.subnet, s.training) for s in segments)
    scales = tuple(segment.training.batch_scale for segment in segments)
    return scales if len(set(scales)) > 1 else None


def _stage_bounds(
    schedule: GrowthSchedule, steps_per_epoch: int, epochs: float | None
) -> list[int]:
    """Return the first step of each stage and the total: floor(k · E / K) for K equal stages.

    Lengths are counted in steps of the recipe's batch size first; a stage of larger batches then has fewer.
    """
    in_fractions = schedule.length_unit in FRACTION_UNITS
    unit = 1.0 if schedule.length_unit == "steps" else float(steps_per_epoch)
    lengths = [stage.length for stage in schedule.stages]
    fixed = sum(length for length in lengths if not isinstance(length, str))
    open_end = lengths[-1] == "rest"
    if epochs is None and (open_end or in_fractions):
        raise ConfigError(
            "--epochs", "", "must be given for a schedule in fractions or with 'rest'"
        )
    total_steps = fixed * unit if epochs is None else epochs * steps_per_epoch
    as_written = total_steps if in_fractions else unit
    scale = as_written if open_end else total_steps / fixed
    ends = list(accumulate(float(length) * scale for length in lengths[:-1]))
    spans = [stop - start for start, stop in zip([0.0, *ends], [*ends, total_steps], strict=True)]
    _check_changes(schedule, spans, steps_per_epoch)
    factors = [
        _steps_a_unit(schedule, stage, span, steps_per_epoch)
        for stage, span in zip(schedule.stages, spans, strict=True)
    ]
    positions = accumulate(span * factor for span, factor in zip(spans, factors, strict=True))
    return [0, *(math.floor(position + 1e-6) for position in positions)]


def _check_changes(schedule: GrowthSchedule, spans: Sequence[float], steps_per_epoch: int) -> None:
    """Refuse more changes than can be built, before any is."""
    changes = 0
    for index, (stage, span) in enumerate(zip(schedule.stages, spans, strict=True)):
        steps = max(1, round(span / stage.batch_scale))
        sizes, rates, curricula = _levels(stage, steps, steps_per_epoch)
        changes += sum(len(levels) - 1 for levels in (sizes, rates, *curricula.values()))
        if changes > _MAX_CHANGES:
            raise _too_many_changes(index)


def _steps_a_unit(
    schedule: GrowthSchedule, stage: Stage, nominal_steps: float, steps_per_epoch: int
) -> float:
    """Return the optimizer steps that stand for one nominal step of a stage's length."""
    if schedule.length_unit == "steps":
        return 1.0
    if schedule.length_unit != "compute_fraction":
        return 1.0 / stage.batch_scale
    spec, steps = schedule.full.spec(), nominal_steps / stage.batch_scale
    for _ in range(3):  # plateaus are counted in epochs, so their fractions move with the length
        table = list(_segments(schedule.full, stage, 0, 0, max(1, round(steps)), steps_per_epoch))
        cost = sum(s.steps * relative_step_cost(spec, s.subnet, s.training) for s in table)
        steps = nominal_steps * table[-1].stop_step / cost
    return steps / nominal_steps


def _segments(
    full: FullModel, stage: Stage, index: int, start: int, stop: int, steps_per_epoch: int
) -> Iterator[Segment]:
    """Yield the plateaus of one stage; neighbours that came out equal are merged."""
    steps, training = stop - start, Training.of(stage)
    sizes, rates, curricula = _levels(stage, steps, steps_per_epoch)
    firsts = sorted(
        {first for levels in (sizes, rates, *curricula.values()) for first, _ in levels}
    )
    if len(firsts) > _MAX_CHANGES:
        raise _too_many_changes(index)
    pending: Segment | None = None
    for first, last in zip(firsts, [*firsts[1:], steps], strict=True):
        subnet = SubnetConfig(
            as_depth(stage.depth),
            _on_grid(_level(sizes, first), full.stride),
            stage.tokens.rule(_level(rates, first)),
        )
        curriculum = Curriculum(**{name: _level(own, first) for name, own in curricula.items()})
        if pending and (pending.subnet, pending.curriculum) == (subnet, curriculum):
            pending = replace(pending, stop_step=start + last)
            continue
        if pending:
            yield pending
        pending = Segment(
            start + first, start + last, index, subnet, curriculum, stage.grow, training
        )
    assert pending is not None
    yield pending


def _levels(
    stage: Stage, steps: int, steps_per_epoch: int
) -> tuple[list[Plateau], list[Plateau], dict[str, list[Plateau]]]:
    """Return the plateaus of a stage's image size and keep-rate, and of its curriculum by name."""
    own_epoch = max(1.0, steps_per_epoch / stage.batch_scale)
    curricula = {
        name: plateaus(curve, steps, own_epoch)
        for name, curve in stage.curriculum
        if curve is not None
    }
    sizes = plateaus(stage.img_size, steps, own_epoch)
    return sizes, plateaus(stage.tokens.keep_rate, steps, own_epoch), curricula


_MAX_CHANGES = 20_000
"""Of a run, ten an epoch over 2,000 epochs: each makes a segment, which is built and looked at."""


def _too_many_changes(stage: int) -> ConfigError:
    problem = (
        f"must change sizes, keep-rates and regularisation at most {_MAX_CHANGES:,} times a run"
    )
    return ConfigError("schedule", f"stages[{stage}]", problem, hint="make its plateaus longer")


def _level(levels: Sequence[Plateau], step: int) -> float:
    """Return the value of the plateau that holds `step`."""
    return levels[bisect_right(levels, (step, math.inf)) - 1][1]


def _on_grid(size: float, stride: int) -> int:
    return max(stride, round(size / stride) * stride)
