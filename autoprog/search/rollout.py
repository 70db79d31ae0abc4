"""The roll-out: what each way to go on would come to at the end of the run.

Three small laws, each with one number that is measured or guarded:

- *Progress.* A step at a subnet of relative cost c teaches as much as c^γ full steps, γ = κ / b. This is
  what a scaling law loss ~ cost^-κ · steps^-b says of two subnets at equal loss.
- *Learning.* The loss falls as progress^-b; b is the slope of this run's own training curve.
- *Shock.* Growth leaves a subnet above the trend that its cost predicts; the excess of its one-shot
  estimate over that trend decays as exp(-steps / recovery).

A candidate is priced by the seconds that its best tail still takes: score = loss at the end · seconds^α with
α = TIME_WEIGHT · b. At weight 1 a shorter run would count as much as a better one; whoever chose the number
of epochs has said that loss counts more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autoprog.search.rules import power_law_slope

__all__ = ["Forecast", "LossLaw", "Option", "Tail", "fit_law", "forecast", "learning_exponent"]

TIME_WEIGHT = 0.25
_LEARNING_RANGE, _LEARNING_DEFAULT = (0.05, 0.5), 0.2
_CAPACITY_RANGE = (0.05, 0.3)


@dataclass(frozen=True)
class Option:
    """A subnet as the roll-out sees it: cost relative to the full model, estimated loss, step seconds."""

    relative_cost: float
    loss: float
    step_seconds: float


@dataclass(frozen=True)
class LossLaw:
    """The fitted numbers: learning exponent b, capacity exponent κ, recovery in steps."""

    learning: float
    capacity: float
    recovery_steps: float

    @property
    def alpha(self) -> float:
        """Return the exponent that seconds are priced with."""
        return TIME_WEIGHT * self.learning

    def progress(self, relative_cost: float) -> float:
        """Return how many full steps one step is worth."""
        return relative_cost ** (self.capacity / self.learning)

    def shock(self, option: Option, current: Option) -> float:
        """Return by how much the log loss of `option` lies above the trend from the current subnet."""
        gain = self.capacity * math.log(option.relative_cost / current.relative_cost)
        return max(0.0, math.log(option.loss / current.loss) + gain)


@dataclass(frozen=True)
class Tail:
    """What is left of the run: the steps at which it may jump to the full model, and where it ends."""

    step: int
    switch_steps: tuple[int, ...]
    total_steps: int
    progress_so_far: float


@dataclass(frozen=True)
class Forecast:
    """The best tail of one candidate: when it becomes full, and what it comes to."""

    full_from_step: int
    loss: float
    seconds: float
    score: float


def learning_exponent(steps: Sequence[float], losses: Sequence[float]) -> float:
    """Return b of loss ~ steps^-b over a training curve, guarded to a sane range; 0.2 without a fit."""
    slope = power_law_slope(steps, losses)
    low, high = _LEARNING_RANGE
    return _LEARNING_DEFAULT if slope is None else min(max(-slope, low), high)


def fit_law(
    curve: Sequence[tuple[float, float]], options: Sequence[Option], recovery_steps: float
) -> LossLaw:
    """Fit the law.

    Args:
        curve: (step, training loss) of this run so far, steps above 0.
        options: All candidates with their one-shot losses.
        recovery_steps: How long growth is felt; the length of a supernet phase.
    """
    costs, losses = [o.relative_cost for o in options], [o.loss for o in options]
    slope = power_law_slope(costs, losses)
    low, high = _CAPACITY_RANGE
    return LossLaw(
        learning=learning_exponent([s for s, _ in curve], [loss for _, loss in curve]),
        capacity=low if slope is None else min(max(-slope, low), high),
        recovery_steps=recovery_steps,
    )


def forecast(law: LossLaw, option: Option, current: Option, full: Option, tail: Tail) -> Forecast:
    """Return the best way on through `option`: stay there until some switch step, then be full.

    The predicted loss is the current one, scaled by the progress still made and by what is left of the
    shocks at the end; a common factor cancels between candidates.
    """
    is_full = option.relative_cost >= full.relative_cost
    switches = (tail.step,) if is_full else tail.switch_steps
    ways = [_way(law, option, current, full, tail, switch) for switch in switches]
    return min(ways, key=lambda way: way.score)


def _way(
    law: LossLaw, option: Option, current: Option, full: Option, tail: Tail, switch: int
) -> Forecast:
    small_steps, full_steps = switch - tail.step, tail.total_steps - switch
    gained = small_steps * law.progress(option.relative_cost) + full_steps
    grown = (tail.progress_so_far + gained) / max(tail.progress_so_far, 1.0)
    left = [
        law.shock(option, current) * math.exp(-(tail.total_steps - tail.step) / law.recovery_steps),
        max(0.0, law.shock(full, current) - law.shock(option, current))
        * math.exp(-full_steps / law.recovery_steps),
    ]
    to_full = (full.relative_cost / current.relative_cost) ** -law.capacity
    loss = current.loss * to_full * grown**-law.learning * math.exp(sum(left))
    seconds = small_steps * option.step_seconds + full_steps * full.step_seconds
    return Forecast(switch, loss, seconds, loss * max(seconds, 1e-9) ** law.alpha)
