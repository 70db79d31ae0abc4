"""Rank correlation: do two numbers of each subnet put the subnets into the same order?

Legend: n subnets. Signs (n, n) hold -1, 0 or 1 for each ordered pair; masks (n, n) say which pairs count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np

from autoprog.fidelity import Agreement, Judged

__all__ = [
    "COST_RATIO",
    "FEWEST_SUBNETS",
    "agreement",
    "bootstrap_interval",
    "equal_cost",
    "kendall_tau",
    "spread_over_cost",
    "told_apart",
]

COST_RATIO = 1.15
"""Subnets whose multiply-accumulates differ by no more than this factor count as equally expensive."""

FEWEST_SUBNETS = 6
"""Below that no interval is given: two that are in order would be in order in all draws."""

_DRAWS = 2000


def kendall_tau(
    x: Sequence[float], y: Sequence[float], among: np.ndarray | None = None
) -> float | None:
    """Return Kendall's tau-b of two lists of numbers, in -1..1.

    It is the mean of sign(x_i - x_j) · sign(y_i - y_j) over pairs, over the geometric mean of the shares
    of pairs that are not tied in x and in y (Kendall 1945).

    Args:
        x: One number a subnet; infinite ones are equal to each other.
        y: The other number.
        among: Mask of the pairs to compare; None compares all.

    Returns:
        The correlation, None where all pairs are tied in x or in y.
    """
    return _tau(_signs(x), _signs(y), _everything(len(x)) if among is None else among)


def bootstrap_interval(
    count: int, statistic: Callable[[np.ndarray], float | None], seed: int = 0
) -> tuple[float, float] | None:
    """Return the 95 % percentile interval of a statistic of `count` subnets over resampled ones.

    Draws for which it is not defined are left out. With few subnets such an interval is rather too short
    than too long.

    Args:
        count: Number of subnets.
        statistic: Is given the indices (count) of the subnets drawn, some of them more than once.
        seed: Of the draws.

    Returns:
        Lower and upper end, None where the statistic is defined for less than half of the draws.
    """
    generator = np.random.default_rng(seed)
    values = (statistic(generator.integers(0, count, count)) for _ in range(_DRAWS))
    found = [value for value in values if value is not None]
    if 2 * len(found) < _DRAWS:
        return None
    low, high = np.percentile(found, (2.5, 97.5))
    return float(low), float(high)


def equal_cost(costs: Sequence[float], ratio: float = COST_RATIO) -> np.ndarray:
    """Return the mask of the pairs whose costs differ by a factor of at most `ratio`."""
    logs = np.log(np.asarray(costs, dtype=float))
    near = np.abs(logs[:, None] - logs[None, :]) <= math.log(ratio) + 1e-9
    return near & _everything(len(costs))


def told_apart(subnets: Sequence[Judged]) -> np.ndarray | None:
    """Return the mask of the pairs whose mean losses differ by more than two standard errors.

    Trainings of one seed share their images, drops and mixes, so what a seed does to all subnets alike does
    not blur their differences: the error is that of a difference of means, from what is left of the losses
    after the means of subnets and of seeds (two-way layout without interaction). A training that was not
    finite is told apart from those that were. None with one seed, of which no error is known.
    """
    if min(len(one.losses) for one in subnets) < 2:
        return None
    finite = np.array([one.loss is not None for one in subnets])
    means = np.array([one.loss or 0.0 for one in subnets])
    losses = np.array([one.losses for one in subnets if one.loss is not None], dtype=float)
    apart = np.abs(means[:, None] - means[None, :]) > 2 * _difference_error(losses)
    return np.where(finite[:, None] & finite[None, :], apart, finite[:, None] != finite[None, :])


def _difference_error(losses: np.ndarray) -> float:
    """Return the standard error of a difference of the means of two rows (subnets, seeds)."""
    if len(losses) < 2:
        return math.inf
    rows, seeds = losses.shape
    left = losses - losses.mean(1, keepdims=True) - losses.mean(0) + losses.mean()
    return math.sqrt(2 * float((left**2).sum()) / ((rows - 1) * (seeds - 1)) / seeds)


def agreement(subnets: Sequence[Judged], among: np.ndarray | None = None) -> Agreement:
    """Return how estimates, cost alone and one more real training agree with the real trainings.

    Args:
        subnets: The subnets, at least one.
        among: Mask of the pairs to compare; None compares all.
    """
    mask = _everything(len(subnets)) if among is None else among
    estimates = _signs([subnet.estimate for subnet in subnets])
    cheapness = _signs([-subnet.relative_cost for subnet in subnets])
    real = _signs([_or_worst(subnet.loss) for subnet in subnets])

    def of(signs: np.ndarray, drawn: np.ndarray) -> float | None:
        pairs = np.ix_(drawn, drawn)  # a subnet drawn twice is no pair with itself
        return _tau(signs[pairs], real[pairs], mask[pairs])

    def gain(drawn: np.ndarray) -> float | None:
        tau, null = of(estimates, drawn), of(cheapness, drawn)
        return None if tau is None or null is None else tau - null

    count = len(subnets)
    low, high = _interval(count, lambda drawn: of(estimates, drawn))
    gain_low, gain_high = _interval(count, gain)
    return Agreement(
        pairs=int(mask.sum()) // 2,
        tau=_tau(estimates, real, mask),
        low=low,
        high=high,
        null_tau=_tau(cheapness, real, mask),
        gain_low=gain_low,
        gain_high=gain_high,
        seeds_tau=_tau_of_seeds(subnets, mask),
    )


def _interval(
    count: int, statistic: Callable[[np.ndarray], float | None]
) -> tuple[float | None, float | None]:
    """Return the bootstrap interval; nothing of few subnets, of which any order may be by chance."""
    found = bootstrap_interval(count, statistic) if count >= FEWEST_SUBNETS else None
    return found or (None, None)


def spread_over_cost(costs: Sequence[float], count: int) -> list[int]:
    """Return which `count` subnets to look at, by rising cost: the ends, and near pairs in between.

    What lies between the ends is cut into strata of equal numbers, and each gives the two neighbours whose
    costs differ least: so that estimates are judged over the whole range, but also where cost tells
    nothing. An odd one is the subnet furthest from all others.
    """
    order = sorted(range(len(costs)), key=lambda index: (costs[index], index))
    if count >= len(order):
        return order
    if count < 2:
        return order[:count]
    inner, num_pairs = order[1:-1], (count - 2) // 2
    chosen = {order[0], order[-1]}
    for number in range(num_pairs):
        stratum = inner[number * len(inner) // num_pairs : (number + 1) * len(inner) // num_pairs]
        start = min(
            range(len(stratum) - 1), key=lambda i: costs[stratum[i + 1]] / costs[stratum[i]]
        )
        chosen.update(stratum[start : start + 2])
    if len(chosen) < count:
        chosen.add(max((i for i in order if i not in chosen), key=lambda i: _gap(costs, i, chosen)))
    return [index for index in order if index in chosen]


def _gap(costs: Sequence[float], index: int, chosen: set[int]) -> float:
    """Return how far a cost is from the nearest chosen one, on a logarithmic scale."""
    return min(abs(math.log(costs[index] / costs[other])) for other in chosen)


def _tau_of_seeds(subnets: Sequence[Judged], mask: np.ndarray) -> float | None:
    """Return the mean correlation of two real trainings of each subnet; None with one seed."""
    columns = list(zip(*(subnet.losses for subnet in subnets), strict=True))
    worst = [[_or_worst(loss) for loss in column] for column in columns]
    taus = [kendall_tau(a, b, mask) for a, b in combinations(worst, 2)]
    known = [tau for tau in taus if tau is not None]
    return sum(known) / len(known) if known else None


def _or_worst(loss: float | None) -> float:
    return math.inf if loss is None else loss


def _signs(values: Sequence[float]) -> np.ndarray:
    numbers = np.asarray(values, dtype=float)
    return np.greater.outer(numbers, numbers).astype(int) - np.less.outer(numbers, numbers)


def _everything(count: int) -> np.ndarray:
    return ~np.eye(count, dtype=bool)


def _tau(signs_x: np.ndarray, signs_y: np.ndarray, mask: np.ndarray) -> float | None:
    x, y = signs_x[mask], signs_y[mask]
    untied = math.sqrt(int((x * x).sum()) * int((y * y).sum()))
    return float((x * y).sum()) / untied if untied else None
