"""From recorded inputs to a decision: a pure function, the only place where the rules meet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import NamedTuple

from autoprog.decisions import (
    Candidate,
    Continuation,
    Decision,
    DecisionInputs,
    Estimate,
    FrontPoint,
)
from autoprog.pareto import pareto_front, pareto_knee
from autoprog.search.forecast import (
    CAPACITY_EXPONENT,
    ContinuationSearch,
    Forecast,
    ForecastInputs,
    PricedSubnet,
    ScalingLaw,
    flattening,
    interpolate_losses,
    learning_exponent,
    power_law_slope,
    start_continuations,
)
from autoprog.settings import Rule
from autoprog.space import SearchSpace
from autoprog.train.phase import step_seed
from supernet.config import SubnetConfig
from supernet.cost import relative_cost

__all__ = [
    "DECIDE_ONCE",
    "MIN_GENERALISED_FRACTION",
    "Chooser",
    "autoprog_scores",
    "decide",
    "estimates_of",
    "forced_decision",
    "forecast_inputs",
    "front_winner",
    "generalised_fraction",
    "paired_difference",
    "planned_now",
    "rollout_winner",
    "runner_up",
    "summarise",
    "time_exponent",
    "winner_of",
]

DECIDE_ONCE: tuple[Rule, ...] = ("pareto", "budget")
"""Rules that decide once, on the whole rest of the run."""

NUM_DATES = 20  # of growth, between which one decision for the whole run chooses
MAX_FRONT_POINTS = 24
_ONCE_TRIALS = 5  # a decision for the whole run is worth more thought

MIN_GENERALISED_FRACTION = 1.0
"""Below it training gains more than held-out images show: full regularisation from then on.

Augmented images are harder than held-out ones as they are, so what is learnt shows more on these. Measured
with `vit-xs` on CIFAR-10, regularisation ramped: 1.2 after some 40 passes over 2,375 images, where full
strength from the start gains nothing; 0.4 to 0.5 after some 90 over 1,250, where it gains 2 points. After 11
passes over 9,500 images full strength costs 3 points; there the held-out loss was read after the supernet
phase, which makes it worse, and the fraction was 1.3 and 1.4.
"""

_MIN_GAIN = 0.05
"""Of training loss, in nats: below it a fraction would be noise."""


@dataclass(frozen=True)
class Chooser:
    """How decisions are taken: the rule, the space, and the search for continuations."""

    rule: Rule
    space: SearchSpace
    sampler: str
    seed: int


class _Scored(NamedTuple):
    forecasts: list[Forecast]
    alpha: float
    winner: int
    reason: str
    front: list[Forecast]


def decide(chooser: Chooser, inputs: DecisionInputs) -> Decision:
    """Return the decision: the same inputs give the same decision, on any machine."""
    estimates = estimates_of(inputs)
    by_rule = _by_autoprog if chooser.rule == "autoprog" else _by_continuations
    scored = by_rule(chooser, inputs, estimates)
    winner, reason = scored.forecasts[scored.winner], scored.reason
    full_regularisation = False
    if chooser.rule == "rollout" and not inputs.full_regularisation:
        fraction = generalised_fraction(inputs)
        if fraction is not None and fraction < MIN_GENERALISED_FRACTION:
            full_regularisation = True
            reason += f"; held-out images show {fraction:.0%} of what training gained:"
            reason += " full regularisation from here"
    labels = {chooser.space.spec.full: "full", inputs.current: "stay"}
    candidates = tuple(
        Candidate(
            subnet=estimate.subnet,
            label=labels.get(estimate.subnet, "grow"),
            # AutoProg's estimate is the mean over the last epoch of the supernet (CVPR 2022).
            loss=estimate.loss if chooser.rule == "autoprog" else estimate.losses[-1],
            difference=estimate.difference,
            difference_se=estimate.difference_se,
            step_seconds=inputs.step_seconds[str(estimate.subnet)],
            predicted_loss=forecast.loss,
            remaining_seconds=forecast.seconds,
            score=forecast.score,
            continuation=forecast.continuation,
        )
        for estimate, forecast in zip(estimates, scored.forecasts, strict=True)
    )
    front = tuple(
        FrontPoint(
            predicted_loss=one.loss, remaining_seconds=one.seconds, continuation=one.continuation
        )
        for one in _thinned(scored.front, winner)
    )
    return Decision(
        index=inputs.index,
        step=inputs.step,
        epoch=inputs.epoch,
        rule=chooser.rule,
        current=inputs.current,
        candidates=candidates,
        winner=scored.winner,
        alpha=scored.alpha,
        reason=reason,
        continuation=winner.continuation,
        front=front,
        position=inputs.position,
        length=None if inputs.position is None else inputs.total_steps,
        full_regularisation=full_regularisation,
    )


def forced_decision(
    rule: Rule,
    current: SubnetConfig,
    subnet: SubnetConfig,
    place: tuple[int, int, float],
    why: str,
) -> Decision:
    """Return the decision where only one way to go on is left; ``place`` is its index, step and epoch."""
    index, step, epoch = place
    return Decision(
        index=index, step=step, epoch=epoch, rule=rule, current=current, forced=subnet, reason=why
    )


def estimates_of(inputs: DecisionInputs) -> list[Estimate]:
    """Return the estimates that the recorded losses come to; differences are against staying."""
    subnets = inputs.candidates
    baseline = subnets.index(inputs.current) if inputs.current in subnets else 0
    return summarise(subnets, inputs.losses, baseline)


def summarise(
    subnets: Sequence[SubnetConfig], points: Sequence[Sequence[Sequence[float]]], baseline: int
) -> list[Estimate]:
    """Return one estimate a subnet.

    Args:
        subnets: The candidates.
        points: Batch losses by time point, candidate and batch.
        baseline: Index of the candidate that differences are taken against.
    """
    estimates = []
    for index, subnet in enumerate(subnets):
        difference, error = paired_difference(points[-1][index], points[-1][baseline])
        estimates.append(
            Estimate(
                subnet=subnet,
                losses=tuple(fmean(point[index]) for point in points),
                difference=difference,
                difference_se=error,
            )
        )
    return estimates


def paired_difference(losses: Sequence[float], baseline: Sequence[float]) -> tuple[float, float]:
    """Return the mean of (loss - baseline) over batches and its standard error; 0 error below 2 batches."""
    differences = [a - b for a, b in zip(losses, baseline, strict=True)]
    if len(differences) < 2:
        return fmean(differences), 0.0
    return fmean(differences), stdev(differences) / math.sqrt(len(differences))


def _by_autoprog(
    chooser: Chooser, inputs: DecisionInputs, estimates: Sequence[Estimate]
) -> _Scored:
    """Return the candidate of the lowest loss · seconds^α, by losses as they are now (CVPR 2022)."""
    losses = [estimate.loss for estimate in estimates]
    seconds = [inputs.step_seconds[str(estimate.subnet)] for estimate in estimates]
    scores, alpha = autoprog_scores(losses, seconds)
    winner = winner_of(scores, seconds)
    left = inputs.total_steps - inputs.at
    forecasts = [
        Forecast(_until_full(chooser, inputs, estimate.subnet), loss, left * time, score)
        for estimate, loss, time, score in zip(estimates, losses, seconds, scores, strict=True)
    ]
    reason = f"lowest loss · seconds^{alpha:.3g}{_margin(estimates, scores, winner)}"
    return _Scored(forecasts, alpha, winner, reason, [])


def autoprog_scores(losses: Sequence[float], seconds: Sequence[float]) -> tuple[list[float], float]:
    """Return AutoProg's scores loss · seconds^α, lower is better, and α (CVPR 2022)."""
    alpha = time_exponent(seconds, losses)
    return [loss * time**alpha for loss, time in zip(losses, seconds, strict=True)], alpha


def time_exponent(seconds: Sequence[float], losses: Sequence[float]) -> float:
    """Return AutoProg's α = max(-slope, 0) of loss ~ seconds^slope; 0 where no fit can be made."""
    slope = power_law_slope(seconds, losses)
    return max(-slope, 0.0) if slope is not None else 0.0


def winner_of(scores: Sequence[float], seconds: Sequence[float]) -> int:
    """Return the index of the lowest score; exact ties go to the cheaper one."""
    return min(range(len(scores)), key=lambda i: (scores[i], seconds[i]))


def _by_continuations(
    chooser: Chooser, inputs: DecisionInputs, estimates: Sequence[Estimate]
) -> _Scored:
    """Return the candidate that the continuation chosen by the rule begins with."""
    made_from = forecast_inputs(chooser.space, inputs, estimates)
    forecasts = _all_continuations(chooser, inputs, made_from, [e.subnet for e in estimates])
    best = []
    for estimate in estimates:
        own = [forecast for forecast in forecasts if forecast.first == estimate.subnet]
        # A candidate that begins none, as where only the full model is due, is shown with the best of all and
        # cannot win. Of equal scores the continuation of fewer growths is taken.
        best.append(min(own or forecasts, key=lambda f: (f.score, len(f.continuation))))
    on_front = pareto_front([f.seconds for f in forecasts], [f.loss for f in forecasts])
    front = [forecasts[index] for index in on_front]
    if chooser.rule == "rollout":
        winner, reason = rollout_winner(made_from, inputs, estimates, best)
        reason += _margin(estimates, [forecast.score for forecast in best], winner)
    else:
        chosen, why = front_winner(chooser.rule, inputs, front)
        winner = next(i for i, e in enumerate(estimates) if e.subnet == chosen.first)
        best[winner] = chosen
        reason = f"{why}; full from step {chosen.full_step}"
    return _Scored(best, made_from.alpha, winner, reason, front)


def forecast_inputs(
    space: SearchSpace, inputs: DecisionInputs, estimates: Sequence[Estimate]
) -> ForecastInputs:
    """Return what forecasts are made from, with losses interpolated for subnets that were not estimated."""
    spec = space.spec
    losses = interpolate_losses(
        {estimate.subnet: estimate.losses[-1] for estimate in estimates},
        space.above(inputs.current),
    )
    subnets = {
        subnet: PricedSubnet(relative_cost(spec, subnet), loss, inputs.step_seconds[str(subnet)])
        for subnet, loss in losses.items()
    }
    steps, curve = [step for step, _ in inputs.curve], [loss for _, loss in inputs.curve]
    scaling_law = ScalingLaw(learning_exponent(steps, curve, inputs.loss_floor))
    if inputs.position is not None:
        capacity = CAPACITY_EXPONENT
        # Time that is saved goes into more steps of cheap subnets, so it matters how the first one's curve
        # goes on; the curve is of no other.
        if inputs.current == space.smallest:
            capacity += flattening(
                steps, curve, inputs.loss_floor, relative_cost(spec, space.smallest)
            )
        scaling_law = ScalingLaw(scaling_law.learning, capacity, inputs.chance_loss)
    trained = sum(
        scaling_law.progress(relative_cost(spec, subnet)) * count
        for subnet, count in inputs.steps_so_far
    )
    progress = scaling_law.progress_of_full(subnets[inputs.current], subnets[spec.full], trained)
    by_time = inputs.position is not None
    return ForecastInputs(scaling_law, subnets, spec.full, progress, inputs.total_steps, by_time)


def _all_continuations(
    chooser: Chooser, inputs: DecisionInputs, made_from: ForecastInputs, firsts: list[SubnetConfig]
) -> list[Forecast]:
    """Return the forecasts of all continuations with one jump, and of those that the sampler proposes.

    Only continuations that begin with one of `firsts`, which were estimated, can be chosen.
    """
    decides_once = chooser.rule in DECIDE_ONCE
    search = ContinuationSearch(
        space=chooser.space,
        current=inputs.current,
        step=inputs.at,
        full_step=max(inputs.at, inputs.full_step),
        total_steps=inputs.total_steps,
        # Where more decisions follow, dates about as far apart as these are enough.
        intervals=NUM_DATES if decides_once else max(1, inputs.num_points + 1),
    )
    if not search.leaves_time:
        left = [subnet for subnet in firsts if subnet == chooser.space.spec.full] or firsts
        return [made_from.forecast(_until_full(chooser, inputs, subnet)) for subnet in left]
    known = start_continuations(search)
    if inputs.incumbent:  # what is left of the plan that the decision before has made
        later = [(step, subnet) for step, subnet in inputs.incumbent if step > inputs.at]
        known.insert(0, search.arrivals_of(((inputs.at, planned_now(inputs)), *later)))
    # The word of the first version stays: it decides the draws.
    seed = step_seed(chooser.seed, "tails", inputs.index)
    trials = chooser.space.decisions.continuation_trials * (_ONCE_TRIALS if decides_once else 1)
    searched = search.searched(made_from, known, trials, chooser.sampler, seed)
    possible = [forecast for forecast in searched if forecast.first in firsts]
    return [*map(made_from.forecast, search.enumerated(firsts)), *possible]


def _until_full(chooser: Chooser, inputs: DecisionInputs, subnet: SubnetConfig) -> Continuation:
    """Return the continuation that stays at a subnet for as long as it may."""
    full = chooser.space.spec.full
    stay = (inputs.at, subnet)
    return (stay,) if subnet == full else (stay, (max(inputs.at, inputs.full_step), full))


def rollout_winner(
    made_from: ForecastInputs,
    inputs: DecisionInputs,
    estimates: Sequence[Estimate],
    best: Sequence[Forecast],
) -> tuple[int, str]:
    """Return the winner by the rule ``rollout``, and why: the lowest score, unless the lead is noise.

    A lead below the noise of the estimates is a tie, which the plan so far wins.

    Args:
        made_from: What the forecasts were made from.
        inputs: Of the decision.
        estimates: One a candidate.
        best: The best continuation of each candidate, which begins with another one where it has none.
    """
    scores = [forecast.score for forecast in best]
    own = [i for i, e in enumerate(estimates) if best[i].first == e.subnet]
    winner = own[winner_of([scores[i] for i in own], [best[i].seconds for i in own])]
    planned = planned_now(inputs)
    incumbent = next((i for i in own if estimates[i].subnet == planned), winner)
    # The noise is that of the paired difference of the two estimates, as the end loss follows them.
    _, error = paired_difference(inputs.losses[-1][winner], inputs.losses[-1][incumbent])
    noise = made_from.scaling_law.learning * error / estimates[winner].losses[-1]
    if winner != incumbent and scores[incumbent] <= scores[winner] * (1 + noise):
        name = "staying" if planned == inputs.current else f"the plan so far, {planned}"
        tied = f"a tie with {estimates[winner].subnet} within ±{noise:.1%}"
        return incumbent, f"{tied}, which {name} wins"
    full_from = best[winner].full_step
    if made_from.by_time:
        fraction = full_from / made_from.total_steps
        return winner, f"lowest end loss for the time there is, full from {fraction:.0%} of it"
    price = f"lowest end loss · seconds^{made_from.alpha:.3g}"
    return winner, f"{price}, full from step {full_from}"


def planned_now(inputs: DecisionInputs) -> SubnetConfig:
    """Return the subnet that the plan so far has for now; at the first decision that is staying."""
    begun = [subnet for step, subnet in inputs.incumbent if step <= inputs.at]
    return begun[-1] if begun else inputs.current


def front_winner(
    rule: Rule, inputs: DecisionInputs, front: Sequence[Forecast]
) -> tuple[Forecast, str]:
    """Return the point that the rule ``pareto`` or ``budget`` takes from the front, and why."""
    if rule == "pareto":
        knee = pareto_knee([one.seconds for one in front], [one.loss for one in front])
        return front[knee], f"the knee of a front of {len(front)}"
    left = inputs.seconds_left
    assert left is not None, "the rule budget comes with a budget"
    affordable = [one for one in front if one.seconds <= left]
    if not affordable:
        return front[0], f"the cheapest: none fits the {left:.0f} s that are left"
    best = min(affordable, key=lambda one: one.loss)
    return best, f"the lowest end loss within the {left:.0f} s that are left"


def runner_up(scores: Sequence[float], winner: int) -> int | None:
    """Return the index of the best of the others."""
    others = [index for index in range(len(scores)) if index != winner]
    return min(others, key=lambda i: scores[i]) if others else None


def _margin(estimates: Sequence[Estimate], scores: Sequence[float], winner: int) -> str:
    """Return how far the runner-up is behind, to be put after the reason."""
    second = runner_up(scores, winner)
    if second is None:
        return "; no other candidate"
    margin = scores[second] / scores[winner] - 1
    return f"; {margin:+.2%} against the runner-up {estimates[second].subnet}"


def _thinned(front: Sequence[Forecast], winner: Forecast) -> Sequence[Forecast]:
    """Return some points of a front, evenly picked: both ends, and the winner if it is there."""
    if len(front) <= MAX_FRONT_POINTS:
        return front
    last = len(front) - 1
    places = {round(k * last / (MAX_FRONT_POINTS - 1)) for k in range(MAX_FRONT_POINTS)}
    return [one for place, one in enumerate(front) if place in places or one == winner]


def generalised_fraction(inputs: DecisionInputs) -> float | None:
    """Return the fall of the held-out loss over that of the training loss, since the decision before.

    None if another subnet trained then, or if training has not gained enough since.
    """
    before, now = inputs.previous_losses, inputs.current_losses
    if before is None or now is None or before.subnet != now.subnet:
        return None
    gain = before.training_loss - now.training_loss
    return (before.held_out_loss - now.held_out_loss) / gain if gain >= _MIN_GAIN else None
