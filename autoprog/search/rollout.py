"""The roll-out: what a way to go on would come to at the end of the run.

Everything is counted in *progress*: steps of the full model that would have taught as much. Three laws, each
with numbers that are measured or guarded:

- *Learning.* The full model's loss falls as progress^-b; b is the slope of this run's own training curve.
- *Transfer.* The one-shot losses say how far the full model is: were its loss that of the subnet trained so
  far, it has learnt all of it; if it is higher, what the curve says of that loss. They also say what training
  a subnet is worth from now on. Where it leads the full model, the share loss(subnet) / loss(full) is kept:
  a low loss at a small image size is worth little where the full size shows next to nothing of it. Where it
  falls behind, the progress that the curve gives to its loss: it has not the capacity to follow.
- *Capacity.* A step at relative cost c teaches c^γ as much as a full one; γ = 0.15 is a prior: a step at half
  the cost is worth 90 % of a full one, at an eighth 73 %. Trainings on CIFAR-10 gave 0 to 0.25.

A way is priced by the seconds that it still takes: score = loss at the end · seconds^α with
α = TIME_WEIGHT · b. At weight 1 a shorter run would count as much as a better one; whoever chose the number
of epochs has said that loss counts more.

In a run of so much *time* all ways take as long, so the loss at the end decides: what cheap steps save is
spent on more of them. What of these carries over is counted from guessing: with ℓ₀ the loss of that, the
share is log(ℓ₀ / loss(full)) / log(ℓ₀ / loss(subnet)). For how long they go on teaching is measured: where
the subnet's own curve falls more slowly than its power law, by a factor f, a step is worth f times less, and
one of another subnet f^(log c / log c of the current one): the full model is as good as new. That is a larger
γ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autoprog.search.rules import power_law_slope

__all__ = [
    "CAPACITY_EXPONENT",
    "TIME_WEIGHT",
    "Leg",
    "LossLaw",
    "Option",
    "end_loss",
    "flattening",
    "learning_exponent",
    "legs_seconds",
    "progress_of_full",
    "score_of",
    "target_entropy",
    "transfer",
]

TIME_WEIGHT = 0.25
CAPACITY_EXPONENT = 0.15
_LEAST_SHARE = 0.05
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

    With f the slope of log (loss - floor) over log steps in the later half of the steps, as a share of that
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
    share = min(max(later / before, _LEAST_SHARE), 1.0)
    return math.log(share) / math.log(relative_cost)


def target_entropy(smoothing: float, num_classes: int) -> float:
    """Return the entropy of smoothed targets, in nats: no cross-entropy against them is lower."""
    others = smoothing / num_classes
    true = 1.0 - smoothing + others
    return -sum(
        n * p * math.log(p) for n, p in ((1, true), (num_classes - 1, others)) if n and p > 0
    )


def transfer(law: LossLaw, option: Option, full: Option) -> float:
    """Return the share of what `option` learns that the full model keeps, at most 1."""
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
