"""Values that change within a stage: ramps, keep-rate curves, and the regularisation made of them.

A curve is resolved into levels: the steps of its stage at which it takes a new value, and the values. So
whatever follows a schedule meets constants only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from autoprog.bounds import Correlation, CurveValue, LevelEpochs, RampEnd, Range
from autoprog.errors import ConfigError
from autoprog.files import FileModel

__all__ = [
    "Curriculum",
    "Curve",
    "KeepCurve",
    "Level",
    "Ramp",
    "curve_ends",
    "curve_levels",
    "curve_value",
    "linspace",
]

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
