"""Values that may change within a stage, and the regularisation that is made of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from autoprog.bounds import Correlation, CurveValue, PlateauEpochs, RampEnd, Range
from autoprog.errors import ConfigError
from autoprog.files import FileModel
from supernet.config import ModelSpec
from supernet.depthmap import make_divisible

__all__ = [
    "Curriculum",
    "Curve",
    "KeepCurve",
    "Plateau",
    "Ramp",
    "curve_ends",
    "curve_value",
    "linear_ramp",
    "linspace",
    "plateaus",
    "ramped_curriculum",
    "size_divisor",
    "size_on_grid",
    "stage_lengths",
]


# --------------------------------------------------------------------------------------------------
# The arithmetic of ramps: values that rise over equal stages, on the grid that they must lie on.


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
    return [make_divisible(fraction * top, divisor) for fraction in linspace(start, 1.0, count)]


def ramped_curriculum(strength: Curriculum, index: int, count: int) -> Curriculum:
    """Return stage `index`'s regularisation: RandAugment from half strength, drop-path and erasing from 0.

    Magnitudes are whole numbers with halves rounded down, which gives the published 4, 6, 7, 9.
    """
    values = strength.at(1.0)
    randaug = _fraction(0.5, index, count, values.randaug)
    return Curriculum(
        randaug=None if randaug is None else math.ceil(randaug - 0.5 - 1e-9),
        drop_path=_fraction(0.0, index, count, values.drop_path),
        reprob=_fraction(0.0, index, count, values.reprob),
    )


def _fraction(start: float, index: int, count: int, top: object) -> float | None:
    if top is None:
        return None
    assert isinstance(top, int | float)
    return round(linspace(start, 1.0, count)[index] * top, 6)


def linspace(start: float, stop: float, count: int) -> Sequence[float]:
    """Return `count` values from `start` to `stop`; only `stop` for one."""
    if count == 1:
        return [stop]
    return [start + (stop - start) * index / (count - 1) for index in range(count)]


def size_on_grid(spec: ModelSpec, fraction: float) -> int:
    """Return the image size of `fraction` of the full number of patches a side, at least one patch."""
    side = spec.img_size // spec.patch_size
    return spec.patch_size * max(1, round(fraction * side))


Plateau = tuple[int, float]
"""A step, counted from the start of its stage, and the value from there on."""


class Ramp(FileModel):
    """A value that climbs over its stage in plateaus of equal length; the last one is exactly ``to``.

    ``every_epochs`` is the length of a plateau in epochs of the run that carries the schedule out. Where it
    does not divide the stage, the plateaus are as many as come nearest to that length: a stage longer than
    it has at least two, a shorter one is at ``to`` throughout.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    ramp: Literal["linear", "exponential"]
    start: RampEnd = Field(alias="from")
    to: RampEnd
    every_epochs: PlateauEpochs = 1.0

    @model_validator(mode="after")
    def _exponential_needs_positive_ends(self) -> Ramp:
        if self.ramp == "exponential" and min(self.start, self.to) <= 0:
            raise ConfigError("", "from", "must be above 0 for an exponential ramp", self.start)
        return self

    def at(self, fraction: float) -> float:
        """Return the value at `fraction` (0 to 1) of the way from the first plateau to the last."""
        if fraction == 1.0:
            return self.to  # the sums below can miss it by one rounding
        if self.ramp == "linear":
            return self.start + (self.to - self.start) * fraction
        return self.start * (self.to / self.start) ** fraction

    def plateaus(self, stage_steps: int, steps_per_epoch: float) -> list[Plateau]:
        """Return the plateaus over a stage of `stage_steps`, whose lengths differ by at most one step."""
        count = self._num_plateaus(stage_steps, self.every_epochs * steps_per_epoch)
        _refuse_too_many(count, "every_epochs", self.every_epochs)
        return [
            (number * stage_steps // count, self.at(number / (count - 1) if count > 1 else 1.0))
            for number in range(count)
        ]

    @staticmethod
    def _num_plateaus(stage_steps: int, plateau_steps: float) -> int:
        # A stage's ends are rounded down to steps, so a stage of one plateau can be a step longer
        # than it.
        if stage_steps < plateau_steps + 1:
            return 1
        # The length in steps is no whole number in general: only their count is rounded, never the
        # length,
        # or the rounding of each plateau adds up to one plateau too many.
        return min(stage_steps, max(2, math.floor(stage_steps / plateau_steps + 0.5)))


class KeepCurve(FileModel):
    """A keep-rate that changes from step to step, as in Patch Sampling Schedule (arXiv 2208.09520).

    The fraction of tokens that is *dropped* runs from the first to the second value of ``drop``: over the
    whole stage (``linear``, ``cosine``), or to the second and back in each period (``cyclic``). It is cut to
    [0, 1] and then rounded to the nearest ``quantum``, so that there are few token counts. The end of -0.1
    that the paper uses makes the plateau of keep-rate 1 as long as the others.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    curve: Literal["linear", "cosine", "cyclic"]
    drop: tuple[Correlation, Correlation] = (0.8, -0.1)
    period_epochs: PlateauEpochs = 1.0
    quantum: Annotated[float, Range(0.01, 1)] = 0.2

    @model_validator(mode="after")
    def _keeps_some(self) -> KeepCurve:
        if min(self.ends()) <= 0 or max(map(abs, self.drop)) > 1:
            problem = "must lie in [-1, 1] and leave some tokens when rounded to the quantum"
            raise ConfigError("", "drop", problem, list(self.drop))
        return self

    def ends(self) -> list[float]:
        """Return the keep-rates at both ends."""
        return [_keep_rate(drop, self.quantum) for drop in self.drop]

    def plateaus(self, stage_steps: int, steps_per_epoch: float) -> list[Plateau]:
        """Return the plateaus over a stage of `stage_steps`."""
        if self.curve != "cyclic":
            return list(_level_changes(lambda step: self._over(step / stage_steps), 0, stage_steps))
        period = max(1, round(self.period_epochs * steps_per_epoch))
        turn = period // 2 + 1  # the way there is monotone, and so is the way back
        wave = [
            *_level_changes(lambda step: self._in_period(step, period), 0, turn),
            *_level_changes(lambda step: self._in_period(step, period), turn, period),
        ]
        starts = range(0, stage_steps, period)
        _refuse_too_many(len(starts) * len(wave), "period_epochs", self.period_epochs)
        levels = ((start + step, rate) for start in starts for step, rate in wave)
        return [level for level in levels if level[0] < stage_steps]

    def _over(self, fraction: float) -> float:
        first, last = self.drop
        if self.curve == "linear":
            return _keep_rate(first * (1 - fraction) + last * fraction, self.quantum)
        drop = last + (first - last) * (1 + math.cos(math.pi * fraction)) / 2
        return _keep_rate(drop, self.quantum)

    def _in_period(self, step: int, period: int) -> float:
        half = period / 2
        fraction = (step if step <= half else period - step) / half
        first, last = self.drop
        return _keep_rate(first * (1 - fraction) + last * fraction, self.quantum)


def _keep_rate(drop: float, quantum: float) -> float:
    """Return 1 - drop, with drop cut to [0, 1] and rounded to the quantum (halves to even, as released)."""
    levels = 1 / quantum
    return round(1 - round(levels * min(max(drop, 0.0), 1.0)) / levels, 6)


def _level_changes(value_at: Callable[[int], float], start: int, stop: int) -> Iterator[Plateau]:
    """Yield where a monotone step function takes each of its values, found by bisection."""
    while start < stop:
        value, low, high = value_at(start), start, stop
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if value_at(middle) == value else (low, middle)
        yield start, value
        start = high


_MAX_PLATEAUS = 200_000


def _refuse_too_many(count: int, key: str, epochs: float) -> None:
    if count > _MAX_PLATEAUS:
        problem = f"must make at most {_MAX_PLATEAUS:,} plateaus a stage, not {count:,}"
        raise ConfigError("schedule", key, problem, epochs, "raise it")


Curve = CurveValue | Ramp


def plateaus(
    curve: float | Ramp | KeepCurve, stage_steps: int, steps_per_epoch: float
) -> list[Plateau]:
    """Return the plateaus of any curve over a stage of `stage_steps`; a constant has one."""
    if isinstance(curve, Ramp | KeepCurve):
        return curve.plateaus(stage_steps, steps_per_epoch)
    return [(0, float(curve))]


def curve_value(curve: Curve, fraction: float) -> float:
    """Return a curve's value at `fraction` of its stage."""
    return curve.at(fraction) if isinstance(curve, Ramp) else float(curve)


def curve_ends(curve: float | Ramp | KeepCurve | None) -> list[float]:
    """Return the first and last value of a curve, the extremes of one that comes and goes; none for None."""
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
        for name, curve in self:
            for value in curve_ends(curve):
                high = _CURRICULUM_MAXIMUM.get(name, math.inf)
                if not 0 <= value <= high:
                    raise ConfigError("", name, f"must lie in [0, {high:g}]", value)
        return self

    def at(self, fraction: float) -> Curriculum:
        """Return the constant curriculum at `fraction` of the stage."""
        return Curriculum(
            **{name: curve_value(curve, fraction) for name, curve in self if curve is not None}
        )


_CURRICULUM_MAXIMUM = {"randaug": 10.0, "drop_path": 0.99, "reprob": 1.0}
