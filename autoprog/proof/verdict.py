"""The arithmetic of a verdict: paired differences, one-sided bounds, ratios with intervals; pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from scipy.special import stdtrit

__all__ = [
    "SURENESS",
    "Margin",
    "Outcome",
    "Ratio",
    "judge",
    "pairs_needed",
    "ratio",
    "t_quantile",
]

SURENESS = 0.95
"""How surely a one-sided bound holds, and a two-sided interval."""

_LARGEST_LOGARITHM = 709.0

Outcome = Literal["non-inferior", "inferior", "undecided"]


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


def t_quantile(probability: float, degrees: int) -> float:
    """Return the value that Student's t with so many degrees of freedom stays below with a probability."""
    return float(stdtrit(degrees, probability))


def judge(differences: Sequence[float], margin: float, sureness: float = SURENESS) -> Margin:
    """Return the verdict on paired differences (at least one), candidate minus baseline, in points.

    Each bound holds as surely as `sureness`. Non-inferior if the lower one lies above ``-margin``, inferior
    if the upper one lies below it.
    """
    count, mean = len(differences), fmean(differences)
    if count < 2:
        return Margin("undecided", count, mean, None, None, None, None)
    sd = stdev(differences)
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
    if gap <= 1e-9 * max(sd, margin):
        return None
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
    logs = [math.log(c) - math.log(b) for c, b in zip(candidate, baseline, strict=True)]
    mean, count = fmean(logs), len(logs)
    if count < 2:
        return Ratio(_exp(mean), None, None)
    reach = t_quantile((1 + SURENESS) / 2, count - 1) * stdev(logs) / math.sqrt(count)
    return Ratio(_exp(mean), _exp(mean - reach), _exp(mean + reach))


def _exp(logarithm: float) -> float:
    """Return the number of a logarithm, at most about the greatest that there is."""
    return math.exp(min(logarithm, _LARGEST_LOGARITHM))


def _reach(sd: float, count: int, sureness: float) -> float:
    """Return how far a one-sided bound lies from the mean of so many pairs (at least two)."""
    return t_quantile(sureness, count - 1) * sd / math.sqrt(count)
