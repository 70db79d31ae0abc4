"""Tails: the ways to go on to the end of a run, enumerated and searched for, each with its forecast."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from autoprog.decisions import Tail
from autoprog.encoding import AxisRange, Encoding, Timeline
from autoprog.search.controller import IntDistribution, Plan, create_sampler, search_in_memory
from autoprog.search.rollout import Leg, LossLaw, Option, end_loss, legs_seconds, score_of
from autoprog.space import SearchSpace
from supernet.config import SubnetConfig

__all__ = ["Forecast", "Outlook", "TailSearch", "front_of", "knee_of", "published_arrivals"]

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
    """A tail and what it is predicted to come to. ``score`` is lower for better ones."""

    tail: Tail
    loss: float
    seconds: float
    score: float


@dataclass(frozen=True)
class Outlook:
    """What forecasts are made from: the law, what each subnet is like now, and how far the run is.

    With ``by_time`` tails count time, in steps of the full model.
    """

    law: LossLaw
    options: Mapping[SubnetConfig, Option]
    full: SubnetConfig
    progress: float
    total_steps: int
    by_time: bool = False

    def forecast(self, tail: Tail) -> Forecast:
        """Return the forecast of a tail, from its first step on."""
        stops = [step for step, _ in tail[1:]] + [self.total_steps]
        legs = [
            Leg(self.options[subnet], (stop - step) / self._unit(subnet))
            for (step, subnet), stop in zip(tail, stops, strict=True)
        ]
        loss = end_loss(self.law, legs, self.options[self.full], self.progress)
        seconds = self._time(tail[0][0], legs) if self.by_time else legs_seconds(legs)
        score = loss if self.by_time else score_of(self.law, loss, seconds)
        return Forecast(tail, loss, seconds, score)

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
        """Return what a step of a subnet counts for in a tail."""
        if not self.by_time:
            return 1.0
        return min(1.0, self.options[subnet].step_seconds / self.options[self.full].step_seconds)


@dataclass(frozen=True)
class TailSearch:
    """The tails from one point of a run on.

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

    def enumerated(self, firsts: Sequence[SubnetConfig]) -> Iterator[Tail]:
        """Yield for each first subnet the tails that become full in one jump, at each date."""
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
        """Return the forecasts of `trials` tails that Optuna proposes, of any number of growths.

        Args:
            outlook: What a tail is forecast from.
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
            found.append(outlook.forecast(self.tail_of(encoding.decode(vector))))
            return found[-1].loss, found[-1].seconds

        space = {key: IntDistribution(low, high) for key, (low, high) in bounds.items()}
        enqueued = tuple(encoding.encode(arrivals) for arrivals in first)
        plan = Plan("tails", ("loss", "seconds"), space, enqueued)
        search_in_memory(plan, evaluate, trials, create_sampler(sampler, seed, space))
        return found

    @property
    def leaves_time(self) -> bool:
        """Tell whether there is time before only the full model trains."""
        return self.step < self.full_step

    @property
    def encoding(self) -> Encoding:
        """Return the vectors of the tails."""
        tops = (len(self.space.depths), len(self.space.sizes), len(self.space.keep_rates))
        axes = tuple(
            AxisRange(name, first, top - 1)
            for name, first, top in zip(AXES, self._numbers(), tops, strict=True)
        )
        total = self.total_steps
        return Encoding(axes, self.step / total, self.full_step / total, self.cells)

    def tail_of(self, timeline: Timeline) -> Tail:
        """Return the tail that a timeline stands for; stretches without a step are left out."""
        stretches = [
            (round(share * self.total_steps), self._subnet(numbers)) for share, numbers in timeline
        ]
        tail: list[tuple[int, SubnetConfig]] = []
        for step, subnet in stretches:
            if tail and tail[-1][0] == step:
                tail.pop()
            if not tail or tail[-1][1] != subnet:
                tail.append((step, subnet))
        return tuple(tail)

    def arrivals_of(self, tail: Tail) -> dict[str, list[float]]:
        """Return when each value that is left comes into force on a tail, as shares of the run."""
        numbers = self._numbers()
        steps = [(step, self._numbers_of(subnet)) for step, subnet in tail]
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


def published_arrivals(search: TailSearch) -> list[dict[str, list[float]]]:
    """Return the schedules that are known to be good, as far as they lie ahead, to begin a search with.

    Full at once; an even ramp of all axes (AutoProg's "Prog"); image size first and depth first; depth in one
    late jump; sizes held at their smallest for as long as can be.
    """
    axes, encoding = search.encoding.axes, search.encoding
    start, end = encoding.start_share, encoding.full_share
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
