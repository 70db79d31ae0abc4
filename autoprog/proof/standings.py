"""How each arm of a verification stands to the one that it is set against; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from autoprog.proof.compare import Spread, spread
from autoprog.proof.rounds import Arm
from autoprog.proof.verdict import SURENESS, Margin, Ratio, judge, ratio

if TYPE_CHECKING:
    from autoprog.proof.pairs import Pair, Plan

__all__ = ["NEAR_CONVERGENCE_POINTS", "Standing", "lengths_of", "standings", "time_to_accuracy"]

NEAR_CONVERGENCE_POINTS = 2.0
"""A baseline that more epochs lift by less was trained for long enough to be compared with."""


@dataclass(frozen=True)
class Standing:
    """An arm over the seeds that it was trained for.

    Attributes:
        arm: Its name.
        role: ``baseline``, ``candidate``, or that of another arm.
        seeds: How many it was trained for.
        about: What it is, in a few words.
        image_epochs: How often it saw each training image.
        top1_ema: In per cent, over seeds.
        seconds: Of its mean run, everything charged.
        wall: Seconds over those of the baseline.
        macs: Multiply-accumulates over those of the baseline.
        against: What its accuracy is set against: the candidate for a control, else the baseline.
        difference: Its top-1 (EMA) minus that, paired by seed, in points; None for the baseline.
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


def lengths_of(plan: Plan) -> list[Arm]:
    """Return the arms that are the candidate, at its own length and at others."""
    return ["candidate", *(arm.name for arm in plan.others if arm.role == "length")]


def standings(pairs: Sequence[Pair], plan: Plan) -> list[Standing]:
    """Return the standing of each arm, after at least one pair."""
    return [_standing(pairs, plan, arm) for arm in plan.arms]


def time_to_accuracy(pairs: Sequence[Pair], plan: Plan) -> dict[str, Any]:
    """Return the cheapest of the candidate's lengths whose mean reaches the baseline's mean.

    Every length is a complete, annealed run of its own. Choosing among several is a choice: `lower`, the
    bound of the difference of the chosen one, holds for all of them together (Bonferroni).
    """
    target = fmean(pair.baseline.top1_ema for pair in pairs)
    arms = [_standing(pairs, plan, arm) for arm in lengths_of(plan)]
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


def _standing(pairs: Sequence[Pair], plan: Plan, arm: Arm) -> Standing:
    other = next((one for one in plan.others if one.name == arm), None)
    role = other.role if other is not None else arm
    against = {"baseline": None, "control": "candidate"}.get(role, "baseline")
    choices = len(lengths_of(plan)) if role in ("candidate", "length") else 1
    sureness = 1 - (1 - SURENESS) / choices
    pairs = [pair for pair in pairs if pair.has(arm)]
    runs = [pair.run(arm) for pair in pairs]
    seconds = [plan.charged_seconds(arm, run) for run in runs]
    return Standing(
        arm=arm,
        role=role,
        seeds=len(runs),
        about="" if other is None else other.about,
        image_epochs=fmean(run.image_epochs for run in runs),
        top1_ema=spread([run.top1_ema for run in runs]),
        seconds=fmean(seconds),
        wall=ratio(seconds, [pair.baseline.wall_seconds for pair in pairs]),
        macs=ratio([run.macs for run in runs], [pair.baseline.macs for pair in pairs]),
        against=against,
        difference=None if against is None else _difference(pairs, plan, arm, against, sureness),
        sureness=sureness,
    )


def _difference(
    pairs: Sequence[Pair], plan: Plan, arm: Arm, against: Arm, sureness: float
) -> Margin:
    differences = [pair.run(arm).top1_ema - pair.run(against).top1_ema for pair in pairs]
    return judge(differences, plan.margin, sureness)
