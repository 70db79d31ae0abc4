"""Forecasts: what each continuation of a run would come to, from one-shot estimates and a training curve.

Everything is counted in *progress*: steps of the full model that would have taught as much. Three
relations, each with numbers that are measured or limited:

- *Learning.* The full model's loss falls as progress^-b; b is the slope of this run's own training curve.
- *Transfer.* The one-shot losses say how far the full model is: were its loss that of the subnet trained so
  far, it has learnt all of it; if it is higher, what the curve says of that loss. They also say what training
  a subnet is worth from now on. Where it is ahead of the full model, the fraction loss(subnet) / loss(full)
  is kept: a low loss at a small image size is worth little where the full size has next to nothing of it.
  Where it falls behind, the progress that the curve gives to its loss: it has not the capacity to follow.
- *Capacity.* A step at relative cost c teaches c^γ as much as a full one.

A continuation is priced by the seconds that it still takes: score = loss at the end · seconds^α with
α = TIME_WEIGHT · b.

In a run of so much *time* all continuations take as long, so the loss at the end decides: what cheap steps
save is spent on more of them. How much of these carries over is counted from guessing: with ℓ₀ the loss of
that, the fraction is log(ℓ₀ / loss(full)) / log(ℓ₀ / loss(subnet)). For how long they go on teaching is
measured: where the subnet's own curve falls more slowly than its power law, by a factor f, a step is worth f
times less, and one of another subnet f^(log c / log c of the current one): the full model is as good as new.
That is a larger γ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoprog.decisions import Continuation
from autoprog.search.controller import IntDistribution, Plan, create_sampler, search_in_memory
from autoprog.search.encoding import AxisRange, Encoding, Timeline
from autoprog.space import SearchSpace
from supernet.config import SubnetConfig

__all__ = [
    "CAPACITY_EXPONENT",
    "TIME_WEIGHT",
    "ContinuationSearch",
    "Forecast",
    "ForecastInputs",
    "ForecastSegment",
    "PricedSubnet",
    "ScalingLaw",
    "flattening",
    "interpolate_losses",
    "learning_exponent",
    "power_law_slope",
    "start_continuations",
    "target_entropy",
]

TIME_WEIGHT = 0.25
"""At weight 1 a shorter run would count as much as a better one: with L ~ t^-b, loss · t^b is the same for
all lengths. Whoever chose the number of epochs has said that loss counts more."""

CAPACITY_EXPONENT = 0.15
"""γ, a prior: a step at half the cost is worth 90 % of a full one, at an eighth 73 %. Trainings on CIFAR-10
gave 0 to 0.25."""

_RIDGE = 1e-3
_LEARNING_RANGE, _LEARNING_DEFAULT = (0.1, 0.5), 0.2
_MIN_FLATTENING = 0.05
_FLATTENING_POINTS = 8

# What log losses may differ by and mean nothing: without it, two that have learnt nothing had no ratio.
_CARRIED_NOISE = 0.1


def interpolate_losses(
    known: Mapping[SubnetConfig, float], wanted: Sequence[SubnetConfig]
) -> dict[SubnetConfig, float]:
    """Return a loss for each of `wanted`: the known one, or that of a plane through the known ones.

    The plane is log loss over the logarithms of depth, image size and keep-rate, by least squares with a
    little ridge; it never leaves the range of the known losses.
    """
    missing = [subnet for subnet in wanted if subnet not in known]
    if not missing:
        return {subnet: known[subnet] for subnet in wanted}

    def features(subnet: SubnetConfig) -> list[float]:
        sizes = (subnet.total_depth, subnet.img_size, subnet.tokens.keep_rate)
        return [math.log(size) for size in sizes]

    rows = np.array([features(subnet) for subnet in known])  # (subnets, 3)
    targets = np.log(np.array(list(known.values())))
    centre, mean = rows.mean(axis=0), targets.mean()
    x = rows - centre
    # The ridge makes an axis on which all known subnets agree count for nothing, instead of a singular fit.
    weights = np.linalg.solve(x.T @ x + _RIDGE * np.eye(x.shape[1]), x.T @ (targets - mean))
    low, high = min(known.values()), max(known.values())

    def interpolated(subnet: SubnetConfig) -> float:
        value = math.exp(mean + float((np.array(features(subnet)) - centre) @ weights))
        return min(max(value, low), high)

    return {subnet: known[subnet] if subnet in known else interpolated(subnet) for subnet in wanted}


def power_law_slope(costs: Sequence[float], losses: Sequence[float]) -> float | None:
    """Return the least-squares slope of log loss over log cost; None below 3 points or 2 % of spread."""
    if len(costs) < 3 or max(costs) < 1.02 * min(costs) or min(losses) <= 0:
        return None
    x, y = [math.log(cost) for cost in costs], [math.log(loss) for loss in losses]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - mean_x) ** 2 for a in x)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread


def learning_exponent(steps: Sequence[float], losses: Sequence[float], floor: float = 0.0) -> float:
    """Return b of loss - floor ~ steps^-b over a training curve, limited to 0.1 to 0.5; 0.2 without a fit.

    ``floor`` is what the loss cannot fall below, such as the entropy of smoothed targets.
    """
    slope = power_law_slope(steps, [loss - floor for loss in losses])
    low, high = _LEARNING_RANGE
    return _LEARNING_DEFAULT if slope is None else min(max(-slope, low), high)


def flattening(
    steps: Sequence[float], losses: Sequence[float], floor: float, relative_cost: float
) -> float:
    """Return what a curve that falls more slowly than before adds to the capacity exponent, 0 or more.

    With f the slope of log (loss - floor) over log steps in the later half of the steps, as a fraction of
    that before, a step of this subnet teaches f of what its power law says; so c^x = f, 0.05 ≤ f ≤ 1.

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
    fraction = min(max(later / before, _MIN_FLATTENING), 1.0)
    return math.log(fraction) / math.log(relative_cost)


def target_entropy(smoothing: float, num_classes: int) -> float:
    """Return the entropy of smoothed targets, in nats: no cross-entropy against them is lower."""
    others = smoothing / num_classes
    true = 1.0 - smoothing + others
    return -sum(
        n * p * math.log(p) for n, p in ((1, true), (num_classes - 1, others)) if n and p > 0
    )


@dataclass(frozen=True)
class PricedSubnet:
    """What a forecast knows of a subnet: cost relative to the full model, estimated loss, step seconds."""

    relative_cost: float
    loss: float
    step_seconds: float


@dataclass(frozen=True)
class ForecastSegment:
    """Some steps of one subnet; a number that is not whole where steps share out time."""

    subnet: PricedSubnet
    steps: float

    @property
    def seconds(self) -> float:
        """Return the seconds that the segment takes."""
        return self.steps * self.subnet.step_seconds


@dataclass(frozen=True)
class ScalingLaw:
    """How loss follows from training: loss ~ progress^-b, and what a step of a subnet is worth.

    Attributes:
        learning: The exponent b.
        capacity: The exponent γ.
        chance_loss: The loss of guessing, where what carries over is counted from it.
    """

    learning: float
    capacity: float = CAPACITY_EXPONENT
    chance_loss: float | None = None

    @property
    def alpha(self) -> float:
        """Return the exponent that seconds are priced with."""
        return TIME_WEIGHT * self.learning

    def progress(self, relative_cost: float) -> float:
        """Return how many full steps one step is worth, if all of it transfers: c^γ."""
        return relative_cost**self.capacity

    def transfer(self, subnet: PricedSubnet, full: PricedSubnet) -> float:
        """Return the fraction of what a subnet learns that the full model keeps, at most 1."""
        ratio = subnet.loss / full.loss
        if ratio > 1.0:
            return ratio ** (-1.0 / self.learning)
        if self.chance_loss is None:
            return ratio
        learnt, kept = (math.log(self.chance_loss / one.loss) for one in (subnet, full))
        return (max(kept, 0.0) + _CARRIED_NOISE) / (max(learnt, 0.0) + _CARRIED_NOISE)

    def progress_of_full(self, current: PricedSubnet, full: PricedSubnet, trained: float) -> float:
        """Return the progress of the full model, at least one step.

        ``trained`` is the progress of the subnets trained so far.
        """
        fraction = min(1.0, current.loss / full.loss) ** (1.0 / self.learning)
        return max(1.0, trained * fraction)

    def end_loss(
        self, segments: Sequence[ForecastSegment], full: PricedSubnet, progress: float
    ) -> float:
        """Return the full model's loss after `segments`.

        Args:
            segments: The continuation; what is trained and for how long.
            full: The full model as it is now.
            progress: Of the full model so far, from :meth:`progress_of_full`.
        """
        gained = sum(
            one.steps * (self.progress(one.subnet.relative_cost) * self.transfer(one.subnet, full))
            for one in segments
        )
        return full.loss * (1.0 + gained / progress) ** -self.learning

    def score(self, loss: float, seconds: float) -> float:
        """Return the price loss · seconds^α, lower being better."""
        return loss * max(seconds, 1e-9) ** self.alpha


@dataclass(frozen=True)
class Forecast:
    """A continuation and what it is predicted to come to. ``score`` is lower for better ones."""

    continuation: Continuation
    loss: float
    seconds: float
    score: float

    @property
    def first(self) -> SubnetConfig:
        """Return the subnet that the continuation begins with."""
        return self.continuation[0][1]

    @property
    def full_step(self) -> int:
        """Return from which step on the continuation trains the full model."""
        return self.continuation[-1][0]


@dataclass(frozen=True)
class ForecastInputs:
    """What forecasts are made from: the scaling law, what each subnet is like now, how far the run is.

    With ``by_time`` continuations count time, in steps of the full model.
    """

    scaling_law: ScalingLaw
    subnets: Mapping[SubnetConfig, PricedSubnet]
    full: SubnetConfig
    progress: float
    total_steps: int
    by_time: bool = False

    @property
    def alpha(self) -> float:
        """Return the exponent that seconds are priced with: 0 where all continuations take as long."""
        return 0.0 if self.by_time else self.scaling_law.alpha

    def forecast(self, continuation: Continuation) -> Forecast:
        """Return the forecast of a continuation, from its first step on."""
        full = self.subnets[self.full]
        stops = [step for step, _ in continuation[1:]] + [self.total_steps]
        segments = []
        for (step, subnet), stop in zip(continuation, stops, strict=True):
            priced = self.subnets[subnet]
            unit = min(1.0, priced.step_seconds / full.step_seconds) if self.by_time else 1.0
            segments.append(ForecastSegment(priced, (stop - step) / unit))
        loss = self.scaling_law.end_loss(segments, full, self.progress)
        if not self.by_time:
            seconds = sum(one.seconds for one in segments)
            return Forecast(continuation, loss, seconds, self.scaling_law.score(loss, seconds))
        # By time all continuations take exactly as long; only a subnet whose step takes longer than one of
        # the full model, which counts for no more than a step, adds the difference.
        longer = (max(0.0, one.subnet.step_seconds - full.step_seconds) for one in segments)
        spare = sum(one.steps * more for one, more in zip(segments, longer, strict=True))
        seconds = full.step_seconds * (self.total_steps - continuation[0][0]) + spare
        return Forecast(continuation, loss, seconds, loss)


AXES = ("depth", "img_size", "keep_rate")


@dataclass(frozen=True)
class ContinuationSearch:
    """The continuations from one point of a run on.

    Attributes:
        space: The growth space.
        current: The subnet trained so far.
        step: Where the run stands.
        full_step: From where on only the full model trains.
        total_steps: The end.
        intervals: Of the grid of dates between ``step`` and ``full_step`` at which a growth may be.
    """

    space: SearchSpace
    current: SubnetConfig
    step: int
    full_step: int
    total_steps: int
    intervals: int

    @property
    def leaves_time(self) -> bool:
        """Tell whether there is time before only the full model trains."""
        return self.step < self.full_step

    def enumerated(self, firsts: Sequence[SubnetConfig]) -> Iterator[Continuation]:
        """Yield for each first subnet the continuations that become full in one jump, at each date."""
        full, span = self.space.spec.full, self.full_step - self.step
        dates = [
            self.step + round(span * number / self.intervals)
            for number in range(self.intervals + 1)
        ]
        for subnet in firsts:
            if subnet == full:
                yield ((self.step, full),)
            else:
                yield from (
                    ((self.step, subnet), (date, full)) for date in dates if date > self.step
                )

    def searched(
        self,
        inputs: ForecastInputs,
        first: Sequence[Mapping[str, Sequence[float]]],
        trials: int,
        sampler: str,
        seed: int,
    ) -> list[Forecast]:
        """Return the forecasts of `trials` continuations that Optuna proposes, of any number of growths.

        Args:
            inputs: What a continuation is forecast from.
            first: Arrivals to begin with, such as those of published schedules.
            trials: How many.
            sampler: One that :func:`autoprog.search.controller.create_sampler` knows.
            seed: Of the sampler.
        """
        encoding = self.encoding
        bounds = encoding.bounds()
        if not bounds or not self.leaves_time:
            return []
        found: list[Forecast] = []

        def evaluate(vector: Mapping[str, Any], _: object) -> tuple[float, float]:
            found.append(inputs.forecast(self.continuation_of(encoding.decode(vector))))
            return found[-1].loss, found[-1].seconds

        space = {key: IntDistribution(low, high) for key, (low, high) in bounds.items()}
        enqueued = tuple(encoding.encode(arrivals) for arrivals in first)
        # Two objectives, of which the samplers look for the front; the rules take their point from it.
        plan = Plan("continuations", ("loss", "seconds"), space, enqueued)
        search_in_memory(plan, evaluate, trials, create_sampler(sampler, seed, space))
        return found

    @property
    def encoding(self) -> Encoding:
        """Return the vectors of the continuations."""
        numbers = self._numbers_of(self.current)
        axes = tuple(
            AxisRange(name, first, count - 1)
            for name, first, count in zip(AXES, numbers, self._counts(), strict=True)
        )
        total = self.total_steps
        return Encoding(axes, self.step / total, self.full_step / total, self.intervals)

    def continuation_of(self, timeline: Timeline) -> Continuation:
        """Return the continuation that a timeline stands for; segments without a step are left out."""
        space = self.space
        continuation: list[tuple[int, SubnetConfig]] = []
        for fraction, (depth, size, rate) in timeline:
            step = round(fraction * self.total_steps)
            subnet = SubnetConfig(space.depths[depth], space.sizes[size], space.keep_rates[rate])
            # Rounding to steps may put two dates on one: the later of them is the one that counts.
            if continuation and continuation[-1][0] == step:
                continuation.pop()
            if not continuation or continuation[-1][1] != subnet:
                continuation.append((step, subnet))
        return tuple(continuation)

    def arrivals_of(self, continuation: Continuation) -> dict[str, list[float]]:
        """Return when each value that is left comes into force on a continuation, as fractions of the run."""
        first, counts = self._numbers_of(self.current), self._counts()
        steps = [(step, self._numbers_of(subnet)) for step, subnet in continuation]
        return {
            name: [
                next(step for step, own in steps if own[axis] >= value) / self.total_steps
                for value in range(first[axis] + 1, counts[axis])
            ]
            for axis, name in enumerate(AXES)
        }

    def _counts(self) -> tuple[int, int, int]:
        return len(self.space.depths), len(self.space.sizes), len(self.space.keep_rates)

    def _numbers_of(self, subnet: SubnetConfig) -> tuple[int, int, int]:
        """Return the number of the subnet's value on each axis."""
        return (
            self.space.depths.index(subnet.depth),
            self.space.sizes.index(subnet.img_size),
            self.space.keep_rates.index(subnet.tokens),
        )


def start_continuations(search: ContinuationSearch) -> list[dict[str, list[float]]]:
    """Return the arrivals of published schedules, as far as they lie ahead, to begin a search with.

    Full at once; an even ramp of all axes (AutoProg's "Prog"); image size first and depth first; depth in one
    late jump; sizes held at their smallest for as long as can be.
    """
    axes, encoding = search.encoding.axes, search.encoding
    start, end = encoding.start_fraction, encoding.full_fraction

    def evenly(stop: float, count: int) -> list[float]:
        return [start + (stop - start) * (number + 1) / count for number in range(count)]

    at_once = {axis.name: [start] * len(axis.keys) for axis in axes}
    late = {axis.name: [end] * len(axis.keys) for axis in axes}
    even = {axis.name: evenly(end, len(axis.keys)) for axis in axes}
    middle = start + (end - start) / 2
    # The order decides what a sampler draws after them.
    return [
        at_once,
        even,
        late,
        {**at_once, "img_size": late["img_size"]},
        {**at_once, "img_size": even["img_size"]},
        {**at_once, "depth": late["depth"]},
        {**even, "depth": evenly(middle, len(even["depth"]))},
        {**even, "img_size": evenly(middle, len(even["img_size"]))},
    ]
