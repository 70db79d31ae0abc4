"""Which of the ways on a rule takes, and the reason that it gives."""

from __future__ import annotations

from collections.abc import Sequence

from autoprog.decisions import DecisionInputs, Estimate
from autoprog.search.estimate import paired_difference
from autoprog.search.rules import runner_up, winner_of
from autoprog.search.tails import Forecast, Outlook, knee_of
from autoprog.settings import Rule
from supernet.config import SubnetConfig

__all__ = ["against", "first_of", "from_front", "planned_now", "settle"]


def first_of(forecast: Forecast) -> SubnetConfig:
    """Return the subnet that a way on begins with."""
    return forecast.tail[0][1]


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
    full_from = ways[best].tail[-1][0]
    if outlook.by_time:
        share = full_from / outlook.total_steps
        return best, f"lowest end loss for the time there is, full from {share:.0%} of it"
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
