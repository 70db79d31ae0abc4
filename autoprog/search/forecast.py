"""Continuations: the ways to go on to the end of a run, enumerated and searched for, each with its forecast."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol, TypeVar

import numpy as np

from autoprog.decisions import Continuation
from autoprog.search.controller import IntDistribution, Plan, create_sampler, search_in_memory
from autoprog.space import SearchSpace
from supernet.config import SubnetConfig

__all__ = [
    "CAPACITY_EXPONENT",
    "TIME_WEIGHT",
    "AxisRange",
    "ContinuationSearch",
    "Encoding",
    "Forecast",
    "Leg",
    "LossLaw",
    "Option",
    "Outlook",
    "Timeline",
    "autoprog_scores",
    "end_loss",
    "filled_losses",
    "flattening",
    "front_of",
    "knee_of",
    "learning_exponent",
    "legs_seconds",
    "power_law_slope",
    "progress_of_full",
    "published_arrivals",
    "runner_up",
    "score_of",
    "target_entropy",
    "time_exponent",
    "transfer",
    "winner_of",
]


# --------------------------------------------------------------------------------------------------
# Schedules as vectors of whole numbers, of which every one is a valid growing schedule.
#
# Each axis has its values in the order in which a run goes through them, and for each value but the
# first the
# date at which it comes into force. A vector holds the *increments* between dates, in cells of a
# grid that ends
# where the full model is due at the latest. So dates rise, values may be skipped (an increment of
# 0) and the
# end is always the full model.


Timeline = tuple[tuple[float, tuple[int, ...]], ...]
"""Stretches of a run: from which fraction of it on, and the number of the value on each axis."""


@dataclass(frozen=True)
class AxisRange:
    """An axis with the values that are left of it: numbers ``first`` to ``last``."""

    name: str
    first: int
    last: int

    @property
    def keys(self) -> list[str]:
        """Return the names of its increments."""
        return [f"{self.name}.{number}" for number in range(self.first + 1, self.last + 1)]


@dataclass(frozen=True)
class Encoding:
    """The vectors for a set of axes over a part of a run.

    Attributes:
        axes: What may grow.
        start_fraction: Where the part begins, as a fraction of the run.
        full_fraction: Where all axes have arrived at the latest.
        cells: The number of grid cells between the two; with none, everything arrives at the start.
    """

    axes: tuple[AxisRange, ...]
    start_fraction: float
    full_fraction: float
    cells: int

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return the least and greatest value of each increment."""
        return {key: (0, self.cells) for axis in self.axes for key in axis.keys}

    def decode(self, vector: Mapping[str, int]) -> Timeline:
        """Return the stretches of a vector; any vector within the bounds is valid."""
        dates = [self._dates(axis, vector) for axis in self.axes]
        cells = sorted({0}.union(*dates))
        return tuple(
            (
                self._fraction(cell),
                tuple(
                    axis.first + sum(date <= cell for date in own)
                    for axis, own in zip(self.axes, dates, strict=True)
                ),
            )
            for cell in cells
        )

    def encode(self, arrivals: Mapping[str, Sequence[float]]) -> dict[str, int]:
        """Return the vector whose values come into force at the grid cells nearest to the fractions given.

        Args:
            arrivals: For each axis the fraction of the run at which each value but the first comes into
                force, rising; values that the part of the run begins with are left out.
        """
        vector: dict[str, int] = {}
        for axis in self.axes:
            before = 0
            for key, fraction in zip(axis.keys, arrivals[axis.name], strict=True):
                cell = max(before, min(self.cells, self._cell(fraction)))
                vector[key], before = cell - before, cell
        return vector

    def _dates(self, axis: AxisRange, vector: Mapping[str, int]) -> list[int]:
        increments = [vector[key] for key in axis.keys]
        return [min(self.cells, date) for date in accumulate(increments)]

    def _fraction(self, cell: int) -> float:
        part = cell / max(1, self.cells)
        return self.start_fraction * (1 - part) + self.full_fraction * part  # exact at both ends

    def _cell(self, fraction: float) -> int:
        span = self.full_fraction - self.start_fraction
        return round((fraction - self.start_fraction) / span * self.cells) if span > 0 else 0


# --------------------------------------------------------------------------------------------------
# How a winner is chosen: scores and ties, as functions that a test calls with a few numbers.


def power_law_slope(costs: Sequence[float], losses: Sequence[float]) -> float | None:
    """Return the least-squares slope of log loss over log cost; None below 3 points or 2 % of spread."""
    if len(costs) < 3 or max(costs) < 1.02 * min(costs) or min(losses) <= 0:
        return None
    x, y = [math.log(cost) for cost in costs], [math.log(loss) for loss in losses]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - mean_x) ** 2 for a in x)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread


def time_exponent(seconds: Sequence[float], losses: Sequence[float]) -> float:
    """Return AutoProg's α = max(-slope, 0) of loss ~ seconds^slope; 0 where no fit can be made."""
    slope = power_law_slope(seconds, losses)
    return max(-slope, 0.0) if slope is not None else 0.0


def autoprog_scores(losses: Sequence[float], seconds: Sequence[float]) -> tuple[list[float], float]:
    """Return AutoProg's scores loss · seconds^α, lower is better, and α (CVPR 2022)."""
    alpha = time_exponent(seconds, losses)
    return [loss * time**alpha for loss, time in zip(losses, seconds, strict=True)], alpha


def winner_of(scores: Sequence[float], seconds: Sequence[float]) -> int:
    """Return the index of the lowest score; exact ties go to the cheaper one."""
    return min(range(len(scores)), key=lambda i: (scores[i], seconds[i]))


def runner_up(scores: Sequence[float], winner: int) -> int | None:
    """Return the index of the best of the others."""
    others = [index for index in range(len(scores)) if index != winner]
    return min(others, key=lambda i: scores[i]) if others else None


# --------------------------------------------------------------------------------------------------
# Losses of subnets that were not estimated, from those that were.


_RIDGE = 1e-3


def filled_losses(
    known: Mapping[SubnetConfig, float], wanted: Sequence[SubnetConfig]
) -> dict[SubnetConfig, float]:
    """Return a loss for each of `wanted`: the known one, or that of a plane through the known ones.

    The plane is log loss over the logarithms of depth, image size and keep-rate, by least squares with a
    little ridge; it never leaves the range of the known losses.
    """
    missing = [subnet for subnet in wanted if subnet not in known]
    if not missing:
        return {subnet: known[subnet] for subnet in wanted}
    rows = np.array([_features(subnet) for subnet in known])
    targets = np.log(np.array(list(known.values())))
    centre, mean = rows.mean(axis=0), targets.mean()
    x = rows - centre
    weights = np.linalg.solve(x.T @ x + _RIDGE * np.eye(x.shape[1]), x.T @ (targets - mean))
    low, high = min(known.values()), max(known.values())

    def guess(subnet: SubnetConfig) -> float:
        value = math.exp(mean + float((np.array(_features(subnet)) - centre) @ weights))
        return min(max(value, low), high)

    return {subnet: known[subnet] if subnet in known else guess(subnet) for subnet in wanted}


def _features(subnet: SubnetConfig) -> list[float]:
    return [
        math.log(subnet.total_depth),
        math.log(subnet.img_size),
        math.log(subnet.tokens.keep_rate),
    ]


# --------------------------------------------------------------------------------------------------
# The roll-out: what a way to go on would come to at the end of the run.
#
# Everything is counted in *progress*: steps of the full model that would have taught as much. Three
# laws, each
# with numbers that are measured or guarded:
#
# - *Learning.* The full model's loss falls as progress^-b; b is the slope of this run's own
# training curve.
# - *Transfer.* The one-shot losses say how far the full model is: were its loss that of the subnet
# trained so
#   far, it has learnt all of it; if it is higher, what the curve says of that loss. They also say
# what training
#   a subnet is worth from now on. Where it leads the full model, the fraction loss(subnet) /
# loss(full) is kept:
#   a low loss at a small image size is worth little where the full size shows next to nothing of
# it. Where it
#   falls behind, the progress that the curve gives to its loss: it has not the capacity to follow.
# - *Capacity.* A step at relative cost c teaches c^γ as much as a full one; γ = 0.15 is a prior: a
# step at half
#   the cost is worth 90 % of a full one, at an eighth 73 %. Trainings on CIFAR-10 gave 0 to 0.25.
#
# A way is priced by the seconds that it still takes: score = loss at the end · seconds^α with
# α = TIME_WEIGHT · b. At weight 1 a shorter run would count as much as a better one; whoever chose
# the number
# of epochs has said that loss counts more.
#
# In a run of so much *time* all ways take as long, so the loss at the end decides: what cheap steps
# save is
# spent on more of them. What of these carries over is counted from guessing: with ℓ₀ the loss of
# that, the
# share is log(ℓ₀ / loss(full)) / log(ℓ₀ / loss(subnet)). For how long they go on teaching is
# measured: where
# the subnet's own curve falls more slowly than its power law, by a factor f, a step is worth f
# times less, and
# one of another subnet f^(log c / log c of the current one): the full model is as good as new. That
# is a larger
# γ.


TIME_WEIGHT = 0.25
CAPACITY_EXPONENT = 0.15
_MIN_FRACTION = 0.05
_FLATTENING_POINTS = 8
_CARRIED_NOISE = 0.1
"""What log losses may differ by and tell nothing: without it, two that have learnt nothing had no ratio."""

_LEARNING_RANGE, _LEARNING_DEFAULT = (0.1, 0.5), 0.2


@dataclass(frozen=True)
class Option:
    """A subnet as the roll-out sees it: cost relative to the full model, estimated loss, step seconds."""

    relative_cost: float
    loss: float
    step_seconds: float


@dataclass(frozen=True)
class Leg:
    """Some steps of one subnet; a number that is not whole where compute is shared out."""

    option: Option
    steps: float


@dataclass(frozen=True)
class LossLaw:
    """The learning exponent b, the capacity exponent γ, and the loss of guessing, if that counts."""

    learning: float
    capacity: float = CAPACITY_EXPONENT
    chance_loss: float | None = None

    @property
    def alpha(self) -> float:
        """Return the exponent that seconds are priced with."""
        return TIME_WEIGHT * self.learning

    def progress(self, relative_cost: float) -> float:
        """Return how many full steps one step is worth, if all of it transfers."""
        return relative_cost**self.capacity


def learning_exponent(steps: Sequence[float], losses: Sequence[float], floor: float = 0.0) -> float:
    """Return b of loss - floor ~ steps^-b over a training curve, in a sane range; 0.2 without a fit.

    ``floor`` is what the loss cannot fall below, such as the entropy of smoothed targets.
    """
    slope = power_law_slope(steps, [loss - floor for loss in losses])
    low, high = _LEARNING_RANGE
    return _LEARNING_DEFAULT if slope is None else min(max(-slope, low), high)


def flattening(
    steps: Sequence[float], losses: Sequence[float], floor: float, relative_cost: float
) -> float:
    """Return what a curve that falls more slowly than before adds to the capacity exponent, 0 or more.

    With f the slope of log (loss - floor) over log steps in the later half of the steps, as a fraction of that
    before, a step of this subnet teaches f of what its power law says; so c^x = f, 0.05 ≤ f ≤ 1.

    Args:
        steps: Of the points of the curve.
        losses: Of the subnet that the curve is of.
        floor: What the loss cannot fall below.
        relative_cost: c of that subnet, below 1 for any effect.
    """
    middle = sum(step <= steps[-1] / 2 for step in steps) if steps else 0
    excess = [loss - floor for loss in losses]
    if min(middle, len(steps) - middle) < _FLATTENING_POINTS:
        return 0.0
    before = power_law_slope(steps[:middle], excess[:middle])
    later = power_law_slope(steps[middle:], excess[middle:])
    if before is None or later is None or before >= 0 or relative_cost >= 1:
        return 0.0
    fraction = min(max(later / before, _MIN_FRACTION), 1.0)
    return math.log(fraction) / math.log(relative_cost)


def target_entropy(smoothing: float, num_classes: int) -> float:
    """Return the entropy of smoothed targets, in nats: no cross-entropy against them is lower."""
    others = smoothing / num_classes
    true = 1.0 - smoothing + others
    return -sum(
        n * p * math.log(p) for n, p in ((1, true), (num_classes - 1, others)) if n and p > 0
    )


def transfer(law: LossLaw, option: Option, full: Option) -> float:
    """Return the fraction of what `option` learns that the full model keeps, at most 1."""
    ratio = option.loss / full.loss
    if ratio > 1.0:
        return ratio ** (-1.0 / law.learning)
    if law.chance_loss is None:
        return ratio
    learnt, kept = (math.log(law.chance_loss / one.loss) for one in (option, full))
    return (max(kept, 0.0) + _CARRIED_NOISE) / (max(learnt, 0.0) + _CARRIED_NOISE)


def progress_of_full(law: LossLaw, current: Option, full: Option, progress_so_far: float) -> float:
    """Return the progress of the full model, given that of the subnet trained so far; at least one step."""
    shown = min(1.0, current.loss / full.loss) ** (1.0 / law.learning)
    return max(1.0, progress_so_far * shown)


def end_loss(law: LossLaw, legs: Sequence[Leg], full: Option, progress: float) -> float:
    """Return the full model's loss after `legs`.

    Args:
        law: The fitted numbers.
        legs: The way on; what is trained and for how long.
        full: The full model as it is now.
        progress: Of the full model so far, from :func:`progress_of_full`.
    """
    gained = sum(leg.steps * _worth(law, leg.option, full) for leg in legs)
    return full.loss * (1.0 + gained / progress) ** -law.learning


def legs_seconds(legs: Sequence[Leg]) -> float:
    """Return the seconds that `legs` take."""
    return sum(leg.steps * leg.option.step_seconds for leg in legs)


def score_of(law: LossLaw, loss: float, seconds: float) -> float:
    """Return the price of a way on, lower being better."""
    return loss * max(seconds, 1e-9) ** law.alpha


def _worth(law: LossLaw, option: Option, full: Option) -> float:
    """Return how many full steps a step of `option` is worth to the full model."""
    return law.progress(option.relative_cost) * transfer(law, option, full)


AXES = ("depth", "img_size", "keep_rate")


class HasPrice(Protocol):
    """Something with a loss that takes seconds."""

    @property
    def loss(self) -> float:
        """Return the loss."""

    @property
    def seconds(self) -> float:
        """Return the seconds."""


Priced = TypeVar("Priced", bound=HasPrice)


@dataclass(frozen=True)
class Forecast:
    """A continuation and what it is predicted to come to. ``score`` is lower for better ones."""

    continuation: Continuation
    loss: float
    seconds: float
    score: float


@dataclass(frozen=True)
class Outlook:
    """What forecasts are made from: the law, what each subnet is like now, and how far the run is.

    With ``by_time`` continuations count time, in steps of the full model.
    """

    law: LossLaw
    options: Mapping[SubnetConfig, Option]
    full: SubnetConfig
    progress: float
    total_steps: int
    by_time: bool = False

    def forecast(self, continuation: Continuation) -> Forecast:
        """Return the forecast of a continuation, from its first step on."""
        stops = [step for step, _ in continuation[1:]] + [self.total_steps]
        legs = [
            Leg(self.options[subnet], (stop - step) / self._unit(subnet))
            for (step, subnet), stop in zip(continuation, stops, strict=True)
        ]
        loss = end_loss(self.law, legs, self.options[self.full], self.progress)
        seconds = self._time(continuation[0][0], legs) if self.by_time else legs_seconds(legs)
        score = loss if self.by_time else score_of(self.law, loss, seconds)
        return Forecast(continuation, loss, seconds, score)

    @property
    def alpha(self) -> float:
        """Return the exponent that seconds are priced with: 0 where all ways on take as long."""
        return 0.0 if self.by_time else self.law.alpha

    def _time(self, start: int, legs: Sequence[Leg]) -> float:
        """Return the seconds of legs that share out time: exactly as many for all ways on.

        Only a subnet whose step takes longer than one of the full model adds the difference.
        """
        full = self.options[self.full].step_seconds
        spare = sum(leg.steps * max(0.0, leg.option.step_seconds - full) for leg in legs)
        return full * (self.total_steps - start) + spare

    def _unit(self, subnet: SubnetConfig) -> float:
        """Return what a step of a subnet counts for in a continuation."""
        if not self.by_time:
            return 1.0
        return min(1.0, self.options[subnet].step_seconds / self.options[self.full].step_seconds)


@dataclass(frozen=True)
class ContinuationSearch:
    """The continuations from one point of a run on.

    Attributes:
        space: The growth space.
        current: The subnet trained so far.
        step: Where the run stands.
        full_step: From where on only the full model trains.
        total_steps: The end.
        cells: Dates that a growth may have between ``step`` and ``full_step``.
    """

    space: SearchSpace
    current: SubnetConfig
    step: int
    full_step: int
    total_steps: int
    cells: int

    def enumerated(self, firsts: Sequence[SubnetConfig]) -> Iterator[Continuation]:
        """Yield for each first subnet the continuations that become full in one jump, at each date."""
        full = self.space.spec.full
        dates = [date for date in self._dates() if date > self.step]
        for subnet in firsts:
            if subnet == full:
                yield ((self.step, full),)
            else:
                yield from (((self.step, subnet), (date, full)) for date in dates)

    def searched(
        self,
        outlook: Outlook,
        first: Sequence[Mapping[str, Sequence[float]]],
        trials: int,
        sampler: str,
        seed: int,
    ) -> list[Forecast]:
        """Return the forecasts of `trials` continuations that Optuna proposes, of any number of growths.

        Args:
            outlook: What a continuation is forecast from.
            first: Arrivals to begin with, such as those of published schedules.
            trials: How many.
            sampler: One of :data:`autoprog.search.controller.SAMPLERS`.
            seed: Of the sampler.
        """
        encoding = self.encoding
        bounds = encoding.bounds()
        if not bounds or not self.leaves_time:
            return []
        found: list[Forecast] = []

        def evaluate(vector: Mapping[str, Any], _: object) -> tuple[float, float]:
            found.append(outlook.forecast(self.continuation_of(encoding.decode(vector))))
            return found[-1].loss, found[-1].seconds

        space = {key: IntDistribution(low, high) for key, (low, high) in bounds.items()}
        enqueued = tuple(encoding.encode(arrivals) for arrivals in first)
        plan = Plan("continuations", ("loss", "seconds"), space, enqueued)
        search_in_memory(plan, evaluate, trials, create_sampler(sampler, seed, space))
        return found

    @property
    def leaves_time(self) -> bool:
        """Tell whether there is time before only the full model trains."""
        return self.step < self.full_step

    @property
    def encoding(self) -> Encoding:
        """Return the vectors of the continuations."""
        tops = (len(self.space.depths), len(self.space.sizes), len(self.space.keep_rates))
        axes = tuple(
            AxisRange(name, first, top - 1)
            for name, first, top in zip(AXES, self._numbers(), tops, strict=True)
        )
        total = self.total_steps
        return Encoding(axes, self.step / total, self.full_step / total, self.cells)

    def continuation_of(self, timeline: Timeline) -> Continuation:
        """Return the continuation that a timeline stands for; stretches without a step are left out."""
        stretches = [
            (round(fraction * self.total_steps), self._subnet(numbers))
            for fraction, numbers in timeline
        ]
        continuation: list[tuple[int, SubnetConfig]] = []
        for step, subnet in stretches:
            if continuation and continuation[-1][0] == step:
                continuation.pop()
            if not continuation or continuation[-1][1] != subnet:
                continuation.append((step, subnet))
        return tuple(continuation)

    def arrivals_of(self, continuation: Continuation) -> dict[str, list[float]]:
        """Return when each value that is left comes into force on a continuation, as fractions of the run."""
        numbers = self._numbers()
        steps = [(step, self._numbers_of(subnet)) for step, subnet in continuation]
        tops = [len(self.space.depths), len(self.space.sizes), len(self.space.keep_rates)]
        return {
            name: [
                next(step for step, own in steps if own[axis] >= value) / self.total_steps
                for value in range(numbers[axis] + 1, tops[axis])
            ]
            for axis, name in enumerate(AXES)
        }

    def _dates(self) -> list[int]:
        span = self.full_step - self.step
        return [self.step + round(span * cell / self.cells) for cell in range(self.cells + 1)]

    def _numbers(self) -> tuple[int, int, int]:
        return self._numbers_of(self.current)

    def _numbers_of(self, subnet: SubnetConfig) -> tuple[int, int, int]:
        space = self.space
        return (
            space.depths.index(subnet.depth),
            space.sizes.index(subnet.img_size),
            space.keep_rates.index(subnet.tokens),
        )

    def _subnet(self, numbers: Sequence[int]) -> SubnetConfig:
        depth, size, rate = numbers
        space = self.space
        return SubnetConfig(space.depths[depth], space.sizes[size], space.keep_rates[rate])


def published_arrivals(search: ContinuationSearch) -> list[dict[str, list[float]]]:
    """Return the schedules that are known to be good, as far as they lie ahead, to begin a search with.

    Full at once; an even ramp of all axes (AutoProg's "Prog"); image size first and depth first; depth in one
    late jump; sizes held at their smallest for as long as can be.
    """
    axes, encoding = search.encoding.axes, search.encoding
    start, end = encoding.start_fraction, encoding.full_fraction
    at_once = {axis.name: [start] * len(axis.keys) for axis in axes}
    late = {axis.name: [end] * len(axis.keys) for axis in axes}
    even = {axis.name: _evenly(start, end, len(axis.keys)) for axis in axes}
    middle = start + (end - start) / 2
    mixed = [
        {**at_once, "img_size": late["img_size"]},
        {**at_once, "img_size": even["img_size"]},
        {**at_once, "depth": late["depth"]},
        {**even, "depth": _evenly(start, middle, len(even["depth"]))},
        {**even, "img_size": _evenly(start, middle, len(even["img_size"]))},
    ]
    return [at_once, even, late, *mixed]


def _evenly(start: float, stop: float, count: int) -> list[float]:
    return [start + (stop - start) * (number + 1) / count for number in range(count)]


def front_of(forecasts: Sequence[Priced]) -> list[Priced]:
    """Return what nothing beats in both loss and seconds, cheapest first."""
    front: list[Priced] = []
    for one in sorted(forecasts, key=lambda f: (f.seconds, f.loss)):
        if not front or one.loss < front[-1].loss:
            front.append(one)
    return front


def knee_of(front: Sequence[Priced]) -> Priced:
    """Return the point of a front furthest below the line between its ends, both axes logarithmic."""
    first, last = front[0], front[-1]
    if len(front) < 3:
        return last
    width = math.log(last.seconds / first.seconds)
    height = math.log(first.loss / last.loss)

    def gain(one: Priced) -> float:
        spent = math.log(one.seconds / first.seconds) / width
        won = math.log(first.loss / one.loss) / height
        return won - spent

    return max(front, key=gain)
