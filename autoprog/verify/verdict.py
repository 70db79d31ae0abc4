"""What the pairs of a verification come to: bounds, ratios, and a verdict; pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any, Literal

from scipy.special import stdtrit

from autoprog.runs import Result
from autoprog.verify.arms import Arm
from autoprog.verify.compare import Spread, charged_parts, spread
from autoprog.verify.plan import ARMS, Pair, Plan

__all__ = [
    "NEAR_CONVERGENCE_POINTS",
    "SURENESS",
    "ArmSummary",
    "Margin",
    "Outcome",
    "Ratio",
    "judge",
    "pairs_needed",
    "ratio",
    "summarise",
    "summarise_arms",
    "time_to_accuracy",
]

SURENESS = 0.95
"""How surely a one-sided bound holds, and a two-sided interval."""
NEAR_CONVERGENCE_POINTS = 2.0
"""A baseline that more epochs lift by less was trained for long enough to be compared with."""
_LARGEST_LOGARITHM = 709.0  # exp of 710 is no float any more

Outcome = Literal["non-inferior", "inferior", "undecided"]


def summarise(pairs: Sequence[Pair], plan: Plan) -> dict[str, Any] | None:
    """Return everything that follows from complete pairs; None without one.

    Ratios are candidate over baseline. ``wall`` has everything charged, the search of a schedule too;
    ``wall_amortised`` leaves that search out.
    """
    if not pairs:
        return None

    def cost_ratio(cost: Callable[[Result], float], extra_seconds: float = 0.0) -> dict[str, Any]:
        candidates = [cost(pair.candidate) + extra_seconds for pair in pairs]
        return asdict(ratio(candidates, [cost(pair.baseline) for pair in pairs]))

    charged_seconds = {}
    for arm in ARMS:
        runs = [pair.run(arm) for pair in pairs]
        extra = plan.search_seconds if arm == "candidate" else 0.0
        parts = [charged_parts(run) for run in runs]
        means = {name: fmean(one[name] for one in parts) for name in parts[0]}
        charged_seconds[arm] = {
            **means,
            "search": means["search"] + extra,
            "wall": fmean(run.wall_seconds for run in runs) + extra,
            "supernet": fmean(run.supernet_seconds for run in runs),  # a part of "train"
        }
    return {
        **asdict(judge([pair.difference for pair in pairs], plan.margin)),
        "margin": plan.margin,
        "top1_ema": {arm: fmean(pair.run(arm).top1_ema for pair in pairs) for arm in ARMS},
        "ratios": {
            "wall": cost_ratio(lambda run: run.wall_seconds, plan.search_seconds),
            "wall_amortised": cost_ratio(lambda run: run.wall_seconds),
            "image_epochs": cost_ratio(lambda run: run.image_epochs),
            "macs": cost_ratio(lambda run: run.macs),
            "peak_memory": cost_ratio(lambda run: float(run.peak_memory_bytes)),
        },
        "charged_seconds": charged_seconds,
        "time_to_baseline_accuracy": time_to_accuracy(pairs, plan),
        "arms": [asdict(arm) for arm in summarise_arms(pairs, plan, plan.arms)],
    }


def time_to_accuracy(pairs: Sequence[Pair], plan: Plan) -> dict[str, Any]:
    """Return the cheapest of the candidate's lengths whose mean reaches the baseline's mean.

    Every length is a complete, annealed run of its own. Choosing among several is a choice: `lower`, the
    bound of the difference of the chosen one, holds for all of them together (Bonferroni).
    """
    target = fmean(pair.baseline.top1_ema for pair in pairs)
    arms = summarise_arms(pairs, plan, _candidates(plan))
    # By means and not by bounds: five seeds bound a difference to within about a standard deviation.
    enough = [arm for arm in arms if arm.top1_ema.mean >= target]
    if not enough:
        return {"reached": False, "seconds": None, "lengths": len(arms)}
    best = min(enough, key=lambda arm: arm.seconds)
    assert best.difference is not None, "no candidate is the baseline"
    return {
        "reached": True,
        "seconds": best.seconds,
        "lengths": len(arms),
        "arm": best.arm,
        "ratio": best.wall.mean,
        "lower": best.difference.lower,
    }


@dataclass(frozen=True)
class ArmSummary:
    """An arm over the seeds that it was trained for.

    Attributes:
        arm: Its name.
        role: ``baseline``, ``candidate``, or that of another arm.
        seeds: The number of seeds that it was trained for.
        about: What it is, in a few words.
        image_epochs: How often it saw each training image.
        top1_ema: Top-1 of the averaged network over seeds, in per cent.
        seconds: The seconds of its mean run, everything charged.
        wall: Seconds over those of the baseline.
        macs: Multiply-accumulates over those of the baseline.
        against: The arm that its accuracy is compared with: the candidate for a control, else the baseline.
        difference: Its top-1 (EMA) minus that arm's, paired by seed, in points; None for the baseline.
        sureness: How surely each bound of the difference holds.
    """

    arm: Arm
    role: str
    seeds: int
    about: str
    image_epochs: float
    top1_ema: Spread
    seconds: float
    wall: Ratio
    macs: Ratio
    against: Arm | None
    difference: Margin | None
    sureness: float


def summarise_arms(pairs: Sequence[Pair], plan: Plan, arms: Sequence[Arm]) -> list[ArmSummary]:
    """Return the summaries of arms, after at least one pair."""
    others = {one.name: one for one in plan.others}
    candidates = _candidates(plan)
    summaries = []
    for arm in arms:
        other = others.get(arm)
        role = arm if other is None else other.role
        against = {"baseline": None, "control": "candidate"}.get(role, "baseline")
        # Bonferroni: the cheapest length that is good enough is chosen among all of them.
        sureness = 1 - (1 - SURENESS) / (len(candidates) if arm in candidates else 1)
        own = [pair for pair in pairs if pair.has(arm)]
        runs = [pair.run(arm) for pair in own]
        seconds = [plan.charged_seconds(arm, run) for run in runs]
        difference = None
        if against is not None:
            points = [pair.run(arm).top1_ema - pair.run(against).top1_ema for pair in own]
            difference = judge(points, plan.margin, sureness)
        summaries.append(
            ArmSummary(
                arm=arm,
                role=role,
                seeds=len(runs),
                about="" if other is None else other.about,
                image_epochs=fmean(run.image_epochs for run in runs),
                top1_ema=spread([run.top1_ema for run in runs]),
                seconds=fmean(seconds),
                wall=ratio(seconds, [pair.baseline.wall_seconds for pair in own]),
                macs=ratio([run.macs for run in runs], [pair.baseline.macs for pair in own]),
                against=against,
                difference=difference,
                sureness=sureness,
            )
        )
    return summaries


def _candidates(plan: Plan) -> list[Arm]:
    """Return the arms that are the candidate, at its own length and at others."""
    return ["candidate", *(arm.name for arm in plan.others if arm.role == "length")]


@dataclass(frozen=True)
class Margin:
    """How a candidate stands against a margin, in points of top-1, candidate minus baseline.

    ``lower`` and ``upper`` are each a one-sided bound, at 95 % unless asked otherwise; they, and ``sd``,
    are None below two pairs. ``more_seeds`` would decide if mean and standard deviation stayed; 0 once
    decided, None where no number would, or nothing is known yet.
    """

    outcome: Outcome
    pairs: int
    mean: float
    sd: float | None
    lower: float | None
    upper: float | None
    more_seeds: int | None


@dataclass(frozen=True)
class Ratio:
    """A geometric mean of paired ratios, with the two-sided 95 % interval by Student's t on logarithms.

    The interval is None below two pairs.
    """

    mean: float
    low: float | None
    high: float | None


def judge(differences: Sequence[float], margin: float, sureness: float = SURENESS) -> Margin:
    """Return the verdict on paired differences (at least one), candidate minus baseline, in points.

    Each bound holds as surely as `sureness`. Non-inferior if the lower one lies above ``-margin``, inferior
    if the upper one lies below it.
    """
    count, mean = len(differences), fmean(differences)
    if count < 2:  # one difference has no spread, so it says nothing of chance
        return Margin("undecided", count, mean, None, None, None, None)
    sd = stdev(differences)
    # scipy.stats.ttest_rel gives the same bounds up to 6e-15, and not to the bit of what was published.
    reach = _reach(sd, count, sureness)
    lower, upper = mean - reach, mean + reach
    if lower > -margin:
        outcome: Outcome = "non-inferior"
    elif upper < -margin:
        outcome = "inferior"
    else:
        outcome = "undecided"
    needed = count if outcome != "undecided" else pairs_needed(mean, sd, margin, sureness)
    more = None if needed is None else needed - count
    return Margin(outcome, count, mean, sd, lower, upper, more)


def pairs_needed(mean: float, sd: float, margin: float, sureness: float = SURENESS) -> int | None:
    """Return the fewest pairs whose bound clears ``-margin`` at this mean and standard deviation.

    None where the mean lies on the margin itself: then no number does.
    """
    gap = abs(mean + margin)
    if gap <= 1e-9 * max(sd, margin):  # zero, but for rounding
        return None
    # The reach of a bound falls with the number of pairs, so doubling and then halving finds the fewest.
    enough = 2
    while _reach(sd, enough, sureness) >= gap:
        enough *= 2
    too_few = max(1, enough // 2)
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        if _reach(sd, middle, sureness) < gap:
            enough = middle
        else:
            too_few = middle
    return enough


def ratio(candidate: Sequence[float], baseline: Sequence[float]) -> Ratio:
    """Return candidate over baseline of paired positive values (at least one pair)."""
    # On logarithms twice as long and half as long cancel out, whichever of the two is the baseline.
    logs = [math.log(c) - math.log(b) for c, b in zip(candidate, baseline, strict=True)]
    mean, count = fmean(logs), len(logs)
    if count < 2:
        return Ratio(_exp(mean), None, None)
    reach = float(stdtrit(count - 1, (1 + SURENESS) / 2)) * stdev(logs) / math.sqrt(count)
    return Ratio(_exp(mean), _exp(mean - reach), _exp(mean + reach))


def _exp(logarithm: float) -> float:
    """Return the number of a logarithm, at most about the greatest float there is.

    Two pairs of very unlike costs have an interval that reaches beyond it.
    """
    return math.exp(min(logarithm, _LARGEST_LOGARITHM))


def _reach(sd: float, count: int, sureness: float) -> float:
    """Return how far a one-sided bound of Student's t lies from the mean of `count` pairs (at least two)."""
    return float(stdtrit(count - 1, sureness)) * sd / math.sqrt(count)
