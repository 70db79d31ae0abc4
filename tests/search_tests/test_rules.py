from __future__ import annotations

import math

import pytest

from autoprog.search.decide import autoprog_scores, runner_up, time_exponent, winner_of
from autoprog.search.forecast import power_law_slope

COSTS = (1.0, 2.0, 4.0, 8.0, 16.0)


def power_law(exponent: float, costs: tuple[float, ...] = COSTS) -> list[float]:
    return [3.0 * cost**exponent for cost in costs]


@pytest.mark.parametrize("exponent", [-0.5, -0.03, 0.0, 0.2])
def test_the_slope_of_a_power_law_is_its_exponent(exponent: float) -> None:
    assert power_law_slope(COSTS, power_law(exponent)) == pytest.approx(exponent, abs=1e-12)


def test_the_slope_is_that_of_least_squares_in_logarithms() -> None:
    costs = [math.e**x for x in (0, 1, 2, 3)]
    losses = [math.e**y for y in (0, 2, 1, 3)]
    assert power_law_slope(costs, losses) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("costs", "losses"),
    [
        ([1.0, 2.0], [3.0, 2.0]),
        ([1.0, 1.01, 1.0199], [3.0, 2.0, 1.0]),
        ([1.0, 2.0, 4.0], [3.0, 2.0, 0.0]),
    ],
    ids=["two points", "no spread", "a loss of zero"],
)
def test_too_little_to_fit_gives_no_slope_and_no_price_on_time(
    costs: list[float], losses: list[float]
) -> None:
    assert power_law_slope(costs, losses) is None
    assert time_exponent(costs, losses) == 0.0


def test_a_spread_of_two_percent_is_enough() -> None:
    assert power_law_slope([1.0, 1.01, 1.02], [2.0, 2.0, 2.0]) == pytest.approx(0.0)


def test_the_time_exponent_flattens_falling_losses_and_is_never_negative() -> None:
    assert time_exponent(COSTS, power_law(-0.05)) == pytest.approx(0.05)
    assert time_exponent(COSTS, power_law(0.05)) == 0.0


def test_losses_on_one_power_law_all_get_the_same_score() -> None:
    scores, alpha = autoprog_scores(power_law(-0.05), COSTS)
    assert alpha == pytest.approx(0.05)
    assert scores == pytest.approx([3.0] * 5)


def test_where_larger_is_worse_the_scores_are_the_losses() -> None:
    losses = power_law(0.05)
    assert autoprog_scores(losses, COSTS) == (losses, 0.0)


@pytest.mark.parametrize("planted", range(5))
def test_the_candidate_below_the_fitted_power_law_wins(planted: int) -> None:
    losses = power_law(-0.05)
    losses[planted] *= 0.99
    scores, _ = autoprog_scores(losses, COSTS)
    assert winner_of(scores, COSTS) == planted


def test_exact_ties_go_to_the_cheaper_candidate() -> None:
    assert winner_of([2.0, 1.0, 1.0, 1.0], [1.0, 5.0, 3.0, 4.0]) == 2


def test_the_runner_up_is_the_best_of_the_others() -> None:
    assert runner_up([3.0, 1.0, 2.0], winner=1) == 2
    assert runner_up([3.0, 1.0, 2.0], winner=0) == 1
    assert runner_up([3.0], winner=0) is None
