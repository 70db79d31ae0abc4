"""From recorded inputs to a decision: a pure function, the only place where the rules meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from autoprog.decisions import (
    Candidate,
    Continuation,
    Decision,
    DecisionInputs,
    Estimate,
    FrontPoint,
)
from autoprog.search.estimate import paired_difference, summarise
from autoprog.search.forecast import (
    CAPACITY_EXPONENT,
    ContinuationSearch,
    Forecast,
    LossLaw,
    Option,
    Outlook,
    autoprog_scores,
    filled_losses,
    flattening,
    front_of,
    knee_of,
    learning_exponent,
    progress_of_full,
    published_arrivals,
    runner_up,
    winner_of,
)
from autoprog.settings import Rule
from autoprog.space import SearchSpace
from autoprog.train.phase import step_seed
from supernet.config import ModelSpec, SubnetConfig
from supernet.cost import relative_cost

__all__ = [
    "MIN_FRACTION",
    "ONCE",
    "Chooser",
    "against",
    "decide",
    "first_of",
    "forced_decision",
    "from_front",
    "generalised_fraction",
    "planned_now",
    "settle",
]


# --------------------------------------------------------------------------------------------------
# Does training still teach what holds for images that it does not see? Pure.


MIN_FRACTION = 1.0
"""Below it training gains more than held-out images show: regularisation is of full strength from then on.

Augmented images are harder than held-out ones as they are, so what is learnt shows more on these. Measured
with `vit-xs` on CIFAR-10, regularisation ramped: 1.2 after some 40 passes over 2,375 images, where full
strength from the start gains nothing; 0.4 to 0.5 after some 90 over 1,250, where it gains 2 points. After 11
passes over 9,500 images full strength costs 3 points; there the held-out loss was read after the supernet
phase, which makes it worse, and the fraction was 1.3 and 1.4.
"""

_MIN_GAIN = 0.05
"""Of training loss, in nats: below it a fraction would be noise."""


def generalised_fraction(inputs: DecisionInputs) -> float | None:
    """Return the fall of the held-out loss over that of the training loss, since the decision before.

    None if another subnet trained then, or if training has not gained enough since to tell.
    """
    before, now = inputs.previous_losses, inputs.current_losses
    if before is None or now is None or before.subnet != now.subnet:
        return None
    gain = before.training_loss - now.training_loss
    return (before.held_out_loss - now.held_out_loss) / gain if gain >= _MIN_GAIN else None


# --------------------------------------------------------------------------------------------------
# Which of the ways on a rule takes, and the reason that it gives.


def first_of(forecast: Forecast) -> SubnetConfig:
    """Return the subnet that a way on begins with."""
    return forecast.continuation[0][1]


def planned_now(inputs: DecisionInputs) -> SubnetConfig:
    """Return the subnet that the plan so far has for now; at the first decision that is staying."""
    begun = [subnet for step, subnet in inputs.incumbent if step <= inputs.at]
    return begun[-1] if begun else inputs.current


def settle(
    outlook: Outlook,
    inputs: DecisionInputs,
    estimates: Sequence[Estimate],
    ways: Sequence[Forecast],
) -> tuple[int, str]:
    """Return the winner and why; a lead below the noise of the estimates is a tie: the plan so far wins.

    The noise is that of the paired difference of the two estimates, as the end loss follows them.
    """
    scores = [way.score for way in ways]
    own = [i for i, e in enumerate(estimates) if first_of(ways[i]) == e.subnet]
    best = own[winner_of([scores[i] for i in own], [ways[i].seconds for i in own])]
    planned = planned_now(inputs)
    incumbent = next((i for i in own if estimates[i].subnet == planned), best)
    _, error = paired_difference(inputs.losses[-1][best], inputs.losses[-1][incumbent])
    noise = outlook.law.learning * error / estimates[best].losses[-1]
    if best != incumbent and scores[incumbent] <= scores[best] * (1 + noise):
        name = "staying" if planned == inputs.current else f"the plan so far, {planned}"
        tied = f"a tie with {estimates[best].subnet} within ±{noise:.1%}"
        return incumbent, f"{tied}, which {name} wins"
    full_from = ways[best].continuation[-1][0]
    if outlook.by_time:
        fraction = full_from / outlook.total_steps
        return best, f"lowest end loss for the time there is, full from {fraction:.0%} of it"
    return best, f"lowest end loss · seconds^{outlook.alpha:.3g}, full from step {full_from}"


def from_front(
    rule: Rule, inputs: DecisionInputs, front: Sequence[Forecast]
) -> tuple[Forecast, str]:
    """Return the point that a rule takes from the front, and why."""
    if rule == "pareto":
        return knee_of(front), f"the knee of a front of {len(front)}"
    left = inputs.seconds_left
    assert left is not None, "the rule budget comes with a budget"
    affordable = [one for one in front if one.seconds <= left]
    if not affordable:
        return front[0], f"the cheapest: none fits the {left:.0f} s that are left"
    best = min(affordable, key=lambda one: one.loss)
    return best, f"the lowest end loss within the {left:.0f} s that are left"


def against(estimates: Sequence[Estimate], scores: Sequence[float], winner: int) -> str:
    """Return how far the runner-up is behind, to be put after the reason."""
    second = runner_up(scores, winner)
    if second is None:
        return "; no other candidate"
    margin = scores[second] / scores[winner] - 1
    return f"; {margin:+.2%} against the runner-up {estimates[second].subnet}"


ONCE: tuple[Rule, ...] = ("pareto", "budget")
"""Rules that decide once, on the whole rest of the run."""

DATE_CELLS = 20
_ONCE_TRIALS = 5  # a decision for the whole run is worth more thought
MAX_FRONT_POINTS = 24
_STRENGTHENED = (
    "; held-out images show {:.0%} of what training gained: full regularisation from here"
)


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
    chosen = scored.forecasts[scored.winner]
    fraction = _fraction_to_strengthen_by(chooser, inputs)
    return Decision(
        index=inputs.index,
        step=inputs.step,
        epoch=inputs.epoch,
        rule=chooser.rule,
        current=inputs.current,
        candidates=_candidates(chooser, inputs, estimates, scored),
        winner=scored.winner,
        alpha=scored.alpha,
        reason=scored.reason + ("" if fraction is None else _STRENGTHENED.format(fraction)),
        continuation=chosen.continuation,
        front=tuple(_front_point(one) for one in _thinned(scored.front, chosen)),
        position=inputs.position,
        length=None if inputs.position is None else inputs.total_steps,
        full_regularisation=fraction is not None,
    )


def _fraction_to_strengthen_by(chooser: Chooser, inputs: DecisionInputs) -> float | None:
    """Return the fraction that calls for full regularisation from here on; None if none does."""
    if chooser.rule != "rollout" or inputs.full_regularisation:
        return None
    fraction = generalised_fraction(inputs)
    return fraction if fraction is not None and fraction < MIN_FRACTION else None


def forced_decision(
    rule: Rule,
    current: SubnetConfig,
    subnet: SubnetConfig,
    inputs: tuple[int, int, float],
    why: str,
) -> Decision:
    """Return the decision for the only way to go on; ``inputs`` are its index, step and epoch."""
    index, step, epoch = inputs
    return Decision(
        index=index, step=step, epoch=epoch, rule=rule, current=current, forced=subnet, reason=why
    )


def estimates_of(inputs: DecisionInputs) -> list[Estimate]:
    """Return the estimates that the recorded losses come to; differences are against staying."""
    subnets = inputs.candidates
    baseline = subnets.index(inputs.current) if inputs.current in subnets else 0
    return summarise(subnets, inputs.losses, baseline)


def _candidates(
    chooser: Chooser, inputs: DecisionInputs, estimates: Sequence[Estimate], scored: _Scored
) -> tuple[Candidate, ...]:
    published = chooser.rule == "autoprog"
    return tuple(
        Candidate(
            subnet=estimate.subnet,
            label=_label(estimate.subnet, inputs.current, chooser.space.spec.full),
            loss=estimate.loss if published else estimate.losses[-1],
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


def _by_autoprog(
    chooser: Chooser, inputs: DecisionInputs, estimates: Sequence[Estimate]
) -> _Scored:
    losses = [estimate.loss for estimate in estimates]
    seconds = [inputs.step_seconds[str(estimate.subnet)] for estimate in estimates]
    scores, alpha = autoprog_scores(losses, seconds)
    winner = winner_of(scores, seconds)
    left = inputs.total_steps - inputs.at
    forecasts = [
        Forecast(_until_full(chooser, inputs, estimate.subnet), loss, left * time, score)
        for estimate, loss, time, score in zip(estimates, losses, seconds, scores, strict=True)
    ]
    reason = f"lowest loss · seconds^{alpha:.3g}{against(estimates, scores, winner)}"
    return _Scored(forecasts, alpha, winner, reason, [])


def _until_full(chooser: Chooser, inputs: DecisionInputs, subnet: SubnetConfig) -> Continuation:
    """Return the continuation that stays at a subnet for as long as it may."""
    full = chooser.space.spec.full
    stay = (inputs.at, subnet)
    return (stay,) if subnet == full else (stay, (max(inputs.at, inputs.full_step), full))


def _by_continuations(
    chooser: Chooser, inputs: DecisionInputs, estimates: Sequence[Estimate]
) -> _Scored:
    outlook = outlook_of(chooser.space, inputs, estimates)
    everything = _all_continuations(chooser, inputs, outlook, [e.subnet for e in estimates])
    best = [_best_from(estimate.subnet, everything) for estimate in estimates]
    front = front_of(everything)
    if chooser.rule == "rollout":
        winner, reason = settle(outlook, inputs, estimates, best)
    else:
        chosen, why = from_front(chooser.rule, inputs, front)
        winner = next(i for i, e in enumerate(estimates) if e.subnet == first_of(chosen))
        best[winner] = chosen
        reason = f"{why}; full from step {chosen.continuation[-1][0]}"
    scores = [forecast.score for forecast in best]
    if chooser.rule == "rollout":
        reason += against(estimates, scores, winner)
    return _Scored(best, outlook.alpha, winner, reason, front)


def outlook_of(
    space: SearchSpace, inputs: DecisionInputs, estimates: Sequence[Estimate]
) -> Outlook:
    """Return what forecasts are made from, with losses filled in for subnets that were not estimated."""
    spec = space.spec
    losses = filled_losses(
        {estimate.subnet: estimate.losses[-1] for estimate in estimates},
        space.above(inputs.current),
    )
    options = {
        subnet: Option(relative_cost(spec, subnet), loss, inputs.step_seconds[str(subnet)])
        for subnet, loss in losses.items()
    }
    law = _law(inputs, spec, space.smallest)
    done = sum(
        law.progress(relative_cost(spec, subnet)) * steps for subnet, steps in inputs.steps_so_far
    )
    progress = progress_of_full(law, options[inputs.current], options[spec.full], done)
    by_time = inputs.position is not None
    return Outlook(law, options, spec.full, progress, inputs.total_steps, by_time)


def _law(inputs: DecisionInputs, spec: ModelSpec, first: SubnetConfig) -> LossLaw:
    """Return the law of a run; where its length is a time, it matters how the first one's curve goes on."""
    curve = _columns(inputs.curve)
    learning = learning_exponent(*curve, inputs.loss_floor)
    if inputs.position is None:
        return LossLaw(learning)
    capacity = CAPACITY_EXPONENT
    if inputs.current == first:
        capacity += flattening(*curve, inputs.loss_floor, relative_cost(spec, first))
    return LossLaw(learning, capacity, inputs.chance_loss)


def _columns(curve: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [step for step, _ in curve], [loss for _, loss in curve]


def _all_continuations(
    chooser: Chooser, inputs: DecisionInputs, outlook: Outlook, firsts: Sequence[SubnetConfig]
) -> list[Forecast]:
    """Return the forecasts of all continuations with one jump, and of those that the sampler proposes.

    Only continuations that begin with one of `firsts`, which were estimated, can be chosen.
    """
    cells = DATE_CELLS if chooser.rule in ONCE else max(1, inputs.num_points + 1)
    search = ContinuationSearch(
        space=chooser.space,
        current=inputs.current,
        step=inputs.at,
        full_step=max(inputs.at, inputs.full_step),
        total_steps=inputs.total_steps,
        cells=cells,
    )
    if not search.leaves_time:
        left = [subnet for subnet in firsts if subnet == chooser.space.spec.full] or firsts
        return [outlook.forecast(_until_full(chooser, inputs, subnet)) for subnet in left]
    known = published_arrivals(search)
    if inputs.incumbent:
        known.insert(0, search.arrivals_of(_from_now(inputs)))
    seed = step_seed(
        chooser.seed, "tails", inputs.index
    )  # the word of the first version: it decides the draws
    trials = chooser.space.decisions.continuation_trials * (
        _ONCE_TRIALS if chooser.rule in ONCE else 1
    )
    searched = search.searched(outlook, known, trials, chooser.sampler, seed)
    possible = [forecast for forecast in searched if first_of(forecast) in firsts]
    return [*map(outlook.forecast, search.enumerated(firsts)), *possible]


def _from_now(inputs: DecisionInputs) -> Continuation:
    """Return what is left of the plan that the decision before has made."""
    later = tuple((step, subnet) for step, subnet in inputs.incumbent if step > inputs.at)
    return ((inputs.at, planned_now(inputs)), *later)


def _best_from(subnet: SubnetConfig, forecasts: Sequence[Forecast]) -> Forecast:
    own = [forecast for forecast in forecasts if first_of(forecast) == subnet]
    return min(own or forecasts, key=lambda f: (f.score, len(f.continuation)))


def _label(subnet: SubnetConfig, current: SubnetConfig, full: SubnetConfig) -> str:
    if subnet == current:
        return "stay"
    return "full" if subnet == full else "grow"


def _front_point(one: Forecast) -> FrontPoint:
    return FrontPoint(
        predicted_loss=one.loss, remaining_seconds=one.seconds, continuation=one.continuation
    )


def _thinned(front: Sequence[Forecast], chosen: Forecast) -> Sequence[Forecast]:
    """Return some points of a front, evenly picked: both ends, and the chosen one if it is there."""
    if len(front) <= MAX_FRONT_POINTS:
        return front
    last = len(front) - 1
    places = {round(k * last / (MAX_FRONT_POINTS - 1)) for k in range(MAX_FRONT_POINTS)}
    return [one for place, one in enumerate(front) if place in places or one == chosen]
