"""From estimates and costs to a decision: the only place where the rules meet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from autoprog.decisions import Candidate, Decision, Estimate
from autoprog.search.rollout import (
    Forecast,
    LossLaw,
    Option,
    Tail,
    forecast,
    learning_exponent,
    progress_of_full,
)
from autoprog.search.rules import autoprog_scores, runner_up, winner_of
from autoprog.settings import Rule
from supernet.config import ModelSpec, SubnetConfig
from supernet.cost import relative_cost

__all__ = ["Situation", "decide", "forced_decision"]


@dataclass(frozen=True)
class Situation:
    """Where a run stands when it decides.

    Attributes:
        index: Number of the decision.
        step: Finished steps.
        steps_per_epoch: Steps in an epoch.
        total_steps: Steps of the whole run.
        current: The subnet trained so far.
        switch_steps: Later steps at which the run can become full.
        progress_so_far: Steps so far, each by the relative cost of its subnet: (cost, steps) pairs.
        curve: (step, training loss) of the first subnet.
    """

    index: int
    step: int
    steps_per_epoch: int
    total_steps: int
    current: SubnetConfig
    switch_steps: tuple[int, ...]
    progress_so_far: tuple[tuple[float, int], ...]
    curve: tuple[tuple[float, float], ...]


class _Scored(NamedTuple):
    losses: list[float]
    remaining_seconds: list[float]
    scores: list[float]
    alpha: float
    winner: int
    reason: str


def decide(
    rule: Rule,
    spec: ModelSpec,
    situation: Situation,
    estimates: Sequence[Estimate],
    seconds_of: Callable[[SubnetConfig], float],
) -> Decision:
    """Return the decision: a pure function of the estimates, the recorded costs and the situation.

    Args:
        rule: ``rollout`` or ``autoprog``.
        spec: The full model.
        situation: Where the run stands.
        estimates: One a candidate.
        seconds_of: Recorded step seconds of a subnet; must know the candidates and the full model.
    """
    seconds = [seconds_of(estimate.subnet) for estimate in estimates]
    if rule == "autoprog":
        scored = _by_autoprog(situation, estimates, seconds)
    else:
        scored = _by_rollout(spec, situation, estimates, seconds, seconds_of(spec.full))
    candidates = tuple(
        Candidate(
            subnet=estimate.subnet,
            label=_label(estimate.subnet, situation.current, spec.full),
            loss=estimate.loss if rule == "autoprog" else estimate.losses[-1],
            difference=estimate.difference,
            difference_se=estimate.difference_se,
            step_seconds=seconds[index],
            predicted_loss=scored.losses[index],
            remaining_seconds=scored.remaining_seconds[index],
            score=scored.scores[index],
        )
        for index, estimate in enumerate(estimates)
    )
    return _decision(rule, situation, candidates, scored.winner, scored.alpha, scored.reason)


def forced_decision(rule: Rule, spec: ModelSpec, situation: Situation, why: str) -> Decision:
    """Return the decision for the full model where it is the only candidate."""
    return Decision(
        index=situation.index,
        step=situation.step,
        epoch=situation.step / situation.steps_per_epoch,
        rule=rule,
        current=situation.current,
        forced=spec.full,
        reason=why,
    )


def _decision(
    rule: Rule,
    situation: Situation,
    candidates: tuple[Candidate, ...],
    winner: int,
    alpha: float,
    reason: str,
) -> Decision:
    return Decision(
        index=situation.index,
        step=situation.step,
        epoch=situation.step / situation.steps_per_epoch,
        rule=rule,
        current=situation.current,
        candidates=candidates,
        winner=winner,
        alpha=alpha,
        reason=reason,
    )


def _by_autoprog(
    situation: Situation, estimates: Sequence[Estimate], seconds: list[float]
) -> _Scored:
    losses = [estimate.loss for estimate in estimates]
    scores, alpha = autoprog_scores(losses, seconds)
    winner = winner_of(scores, seconds)
    left = situation.total_steps - situation.step
    reason = f"lowest loss · seconds^{alpha:.3g}{_against(estimates, scores, winner)}"
    return _Scored(losses, [left * s for s in seconds], scores, alpha, winner, reason)


def _by_rollout(
    spec: ModelSpec,
    situation: Situation,
    estimates: Sequence[Estimate],
    seconds: list[float],
    full_seconds: float,
) -> _Scored:
    options = [
        Option(relative_cost(spec, estimate.subnet), estimate.losses[-1], step_seconds)
        for estimate, step_seconds in zip(estimates, seconds, strict=True)
    ]
    steps, losses = [s for s, _ in situation.curve], [loss for _, loss in situation.curve]
    law = LossLaw(learning_exponent(steps, losses))
    stay = _index_of(situation.current, estimates)
    full = Option(1.0, options[_index_of(spec.full, estimates)].loss, full_seconds)
    done = sum(law.progress(cost) * steps for cost, steps in situation.progress_so_far)
    progress = progress_of_full(law, options[stay], full, done)
    tail = Tail(situation.step, situation.switch_steps, situation.total_steps)
    ways = [forecast(law, option, full, progress, tail) for option in options]
    scores = [way.score for way in ways]
    winner, reason = _settle(law, estimates, ways, seconds, stay)
    return _Scored(
        [way.loss for way in ways],
        [way.seconds for way in ways],
        scores,
        law.alpha,
        winner,
        f"{reason}{_against(estimates, scores, winner)}",
    )


def _settle(
    law: LossLaw,
    estimates: Sequence[Estimate],
    ways: Sequence[Forecast],
    seconds: list[float],
    stay: int,
) -> tuple[int, str]:
    """Return the winner and why; a lead below the noise of its estimate is a tie, and ties stay."""
    scores = [way.score for way in ways]
    best = winner_of(scores, seconds)
    noise = law.learning * estimates[best].difference_se / estimates[best].losses[-1]
    if best != stay and scores[stay] <= scores[best] * (1 + noise):
        return stay, f"a tie with {estimates[best].subnet} within ±{noise:.1%}, and ties stay"
    return (
        best,
        f"lowest end loss · seconds^{law.alpha:.3g}, full from step {ways[best].full_from_step}",
    )


def _against(estimates: Sequence[Estimate], scores: Sequence[float], winner: int) -> str:
    second = runner_up(scores, winner)
    if second is None:
        return "; no other candidate"
    margin = scores[second] / scores[winner] - 1
    return f"; {margin:+.2%} against the runner-up {estimates[second].subnet}"


def _index_of(subnet: SubnetConfig, estimates: Sequence[Estimate]) -> int:
    return next(index for index, estimate in enumerate(estimates) if estimate.subnet == subnet)


def _label(subnet: SubnetConfig, current: SubnetConfig, full: SubnetConfig) -> str:
    if subnet == current:
        return "stay"
    return "full" if subnet == full else "grow"
