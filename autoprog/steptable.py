"""A schedule in steps: consecutive segments, which is all that the trainer, the views and costs read."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate

from autoprog.errors import ConfigError
from autoprog.stage import Curriculum, FullModel, Grow, Level, Stage, Training, curve_levels
from supernet.config import SubnetConfig, as_depth

__all__ = ["Segment", "StepTable", "but_for_tokens", "check_changes", "segments_of_stage"]


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

    def clock(self, step: int) -> float:
        """Return where the learning rate stands before `step`, from 0 to ``total_steps``."""
        if self.weights is None or step >= self.total_steps:
            return step
        number = self._segment_number(step)
        since = (step - self.segments[number].start_step) * self.weights[number]
        return (self._passed[number] + since) / self._passed[-1] * self.total_steps

    def _segment_number(self, step: int) -> int:
        return bisect_right(self._starts, step) - 1

    # Both are kept: the trainer asks for its segment and its learning rate at every step.
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
    """Return what the segments of one phase have in common: the trainer changes keep-rates on the way."""
    subnet = SubnetConfig(segment.subnet.depth, segment.subnet.img_size)
    return replace(segment, subnet=subnet, start_step=0, stop_step=0)


# Of a run, ten an epoch over 2,000 epochs: each makes a segment, which is built, checked and drawn.
_MAX_CHANGES = 20_000


def check_changes(stages: Sequence[Stage], spans: Sequence[float], steps_per_epoch: int) -> None:
    """Refuse more changes than can be built, before any is.

    Args:
        stages: Of a schedule.
        spans: Length of each in steps of the recipe's batch size.
        steps_per_epoch: Those steps in an epoch.
    """
    changes = 0
    for index, (stage, span) in enumerate(zip(stages, spans, strict=True)):
        steps = max(1, round(span / stage.batch_scale))
        sizes, rates, curricula = _levels(stage, steps, steps_per_epoch)
        changes += sum(len(levels) - 1 for levels in (sizes, rates, *curricula.values()))
        if changes > _MAX_CHANGES:
            raise _too_many_changes(index)


def segments_of_stage(
    full: FullModel, stage: Stage, index: int, start: int, stop: int, steps_per_epoch: int
) -> Iterator[Segment]:
    """Yield the segments of stage number `index` over steps `start` to `stop`, the equal ones merged."""
    steps, training = stop - start, Training.of(stage)
    sizes, rates, curricula = _levels(stage, steps, steps_per_epoch)
    firsts = sorted(
        {first for levels in (sizes, rates, *curricula.values()) for first, _ in levels}
    )
    if len(firsts) > _MAX_CHANGES:
        raise _too_many_changes(index)
    pending: Segment | None = None
    for first, last in zip(firsts, [*firsts[1:], steps], strict=True):
        # A linear ramp leaves the grid of the stride between its ends: the nearest size on it is trained.
        size = max(full.stride, round(_at(sizes, first) / full.stride) * full.stride)
        tokens = stage.tokens.rule(_at(rates, first))
        subnet = SubnetConfig(as_depth(stage.depth), size, tokens)
        curriculum = Curriculum(**{name: _at(own, first) for name, own in curricula.items()})
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
) -> tuple[list[Level], list[Level], dict[str, list[Level]]]:
    """Return the levels of a stage's image size and keep-rate, and of its curriculum by name."""
    # Steps of larger batches are fewer an epoch; every_epochs and period_epochs count epochs of images.
    own_epoch = max(1.0, steps_per_epoch / stage.batch_scale)
    curricula = {
        name: curve_levels(curve, steps, own_epoch)
        for name, curve in stage.curriculum
        if curve is not None
    }
    sizes = curve_levels(stage.img_size, steps, own_epoch)
    return sizes, curve_levels(stage.tokens.keep_rate, steps, own_epoch), curricula


def _at(levels: Sequence[Level], step: int) -> float:
    """Return the value of the level that holds `step`."""
    return levels[bisect_right(levels, (step, math.inf)) - 1][1]


def _too_many_changes(stage: int) -> ConfigError:
    problem = (
        f"must change sizes, keep-rates and regularisation at most {_MAX_CHANGES:,} times a run"
    )
    return ConfigError("schedule", f"stages[{stage}]", problem, hint="make its levels longer")
