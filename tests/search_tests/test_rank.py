from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import kendalltau

from autoprog.decisions import Judged
from autoprog.search.fidelity import (
    agreement,
    beyond_seed_noise,
    bootstrap_interval,
    equal_cost,
    kendall_tau,
    spread_over_cost,
)
from supernet.config import SubnetConfig


def judged(*rows: tuple[float, float, float | None, float | None]) -> list[Judged]:
    """Subnets of (cost, estimate, losses of two seeds)."""
    return [
        Judged(
            subnet=SubnetConfig(depth, 8),
            relative_cost=cost,
            estimate=estimate,
            losses=losses,
        )
        for depth, (cost, estimate, *losses) in enumerate(rows, 1)
    ]


@pytest.mark.parametrize(
    ("x", "y", "tau"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 40], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 2, 3, 4], [1, 3, 2, 4], 4 / 6),  # 5 pairs agree, 1 does not
        ([1, 2, 2, 3], [1, 2, 3, 3], 4 / 5),  # 4 agree; 1 of 6 is tied in x, 1 in y
        ([1, 1, 2], [1, 2, 2], 1 / 2),  # 1 agrees; 2 of 3 are untied in each
        ([1, 2], [5, 3], -1.0),
        ([math.inf, math.inf, 1.0], [3.0, 2.0, 1.0], 2 / math.sqrt(6)),
    ],
)
def test_tau_of_examples_by_hand(x: list[float], y: list[float], tau: float) -> None:
    assert kendall_tau(x, y) == pytest.approx(tau)
    assert kendall_tau(y, x) == pytest.approx(tau)


@pytest.mark.parametrize("x", [[], [1.0], [2.0, 2.0, 2.0]])
def test_what_is_in_no_order_has_no_tau(x: list[float]) -> None:
    assert kendall_tau(x, list(range(len(x)))) is None
    assert kendall_tau(list(range(len(x))), x) is None


def test_tau_is_that_of_scipy_with_and_without_ties() -> None:
    generator = np.random.default_rng(0)
    for levels in (3, 1000):
        for count in (2, 5, 12, 30):
            x, y = generator.integers(0, levels, (2, count)).tolist()
            expected = kendalltau(x, y).statistic
            assert (kendall_tau(x, y) or 0.0) == pytest.approx(
                0.0 if math.isnan(expected) else expected
            )


def test_pairs_of_equal_cost_differ_by_the_ratio_at_most() -> None:
    mask = equal_cost([1.0, 1.15, 1.3, 2.0])
    pairs = {(a, b) for a, b in zip(*np.nonzero(mask), strict=True) if a < b}
    assert pairs == {(0, 1), (1, 2)}
    assert (mask == mask.T).all()
    assert not mask.diagonal().any()


def test_tau_among_some_pairs_ignores_the_others() -> None:
    mask = equal_cost([1.0, 1.0, 5.0, 5.0])
    assert kendall_tau([1, 2, 3, 4], [4, 3, 1, 2], mask) == 0.0  # one agrees, one does not
    assert kendall_tau([1, 2, 3, 4], [4, 3, 2, 1], mask) == -1.0
    assert kendall_tau([1, 2], [1, 2], equal_cost([1.0, 2.0])) is None


def test_an_interval_is_that_of_the_draws() -> None:
    mean = bootstrap_interval(400, lambda drawn: float(np.mean(drawn)))
    assert mean is not None
    low, high = mean
    error = math.sqrt(400**2 / 12 / 400)  # of the mean of 400 draws of 0..399
    assert low == pytest.approx(199.5 - 1.96 * error, abs=1.5)
    assert high == pytest.approx(199.5 + 1.96 * error, abs=1.5)
    assert bootstrap_interval(400, lambda drawn: float(np.mean(drawn))) == mean
    assert bootstrap_interval(400, lambda drawn: float(np.mean(drawn)), seed=1) != mean


def test_there_is_no_interval_of_what_most_draws_lack() -> None:
    calls = iter(range(10_000))
    assert bootstrap_interval(5, lambda _: None if next(calls) % 3 else 1.0) is None
    assert bootstrap_interval(5, lambda _: None if next(calls) % 3 == 0 else 1.0) == (1.0, 1.0)


def test_agreement_by_hand() -> None:
    subnets = judged(
        (0.25, 3.0, 1.9, 2.1),  # means 2.0, 1.5, 1.6, 1.0
        (0.50, 2.0, 1.4, 1.6),
        (0.52, 2.5, 1.6, 1.6),
        (1.00, 2.2, 1.2, 0.8),
    )
    found = agreement(subnets)
    assert found.pairs == 6
    assert found.tau == pytest.approx(4 / 6)  # all but 2.0 and 2.2
    assert found.null_tau == pytest.approx(4 / 6)  # all but 0.50 and 0.52
    assert found.seeds_tau == pytest.approx(5 / math.sqrt(6 * 5))  # the second seed ties 2 and 3
    assert (found.low, found.gain_low) == (None, None)  # too few for an interval
    near = agreement(subnets, equal_cost([subnet.relative_cost for subnet in subnets]))
    assert (near.pairs, near.tau, near.null_tau, near.seeds_tau) == (1, 1.0, -1.0, None)
    assert (near.low, near.gain_low) == (None, None)  # most draws lack one of the two


def test_intervals_hold_tau_and_need_six_subnets() -> None:
    rows = [(0.1 * i, float(loss), float(i), float(i)) for i, loss in enumerate([1, 3, 2, 4, 6, 5])]
    found = agreement(judged(*rows))
    assert found.tau == pytest.approx(11 / 15)  # two of 15 pairs are the wrong way round
    assert found.low is not None
    assert found.high is not None
    assert -1 <= found.low < 11 / 15 < found.high <= 1
    few = agreement(judged(*rows[:5]))
    assert few.tau is not None
    assert (few.low, few.high, few.gain_low, few.gain_high) == (None, None, None, None)


def test_a_gain_over_cost_is_told_from_none() -> None:
    costs = [1.0, 0.2, 0.9, 0.3, 0.8, 0.4, 0.7, 0.5, 0.6, 0.45]
    better = judged(*((cost, float(i), float(i), float(i)) for i, cost in enumerate(costs)))
    found = agreement(better)
    assert (found.tau, found.low, found.high) == (1.0, 1.0, 1.0)
    assert found.gain_low is not None
    assert found.gain_low > 0
    same = judged(*((1 - 0.1 * i, float(i), float(i), float(i)) for i in range(8)))
    assert (agreement(same).gain_low, agreement(same).gain_high) == (0.0, 0.0)


def test_a_training_that_diverged_is_the_worst() -> None:
    subnets = judged((0.1, 1.0, 1.0, 1.0), (0.2, 2.0, 3.0, 3.0), (0.3, 3.0, None, 2.0))
    assert subnets[2].loss is None
    found = agreement(subnets)
    assert found.tau == 1.0
    assert found.seeds_tau == pytest.approx(1 / 3)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_pairs_are_beyond_seed_noise_by_what_seeds_differ_in(shift: float) -> None:
    """Left over are ∓1/30, ±2/30, ∓1/30: a variance of 1/150, an error of 0.0816 of a difference of means.

    What the second seed adds to all of them makes no difference.
    """
    subnets = judged(
        (0.1, 1.0, 1.0, 1.2 + shift), (0.2, 2.0, 1.2, 1.2 + shift), (0.3, 3.0, 1.17, 1.37 + shift)
    )
    mask = beyond_seed_noise(subnets)
    assert mask is not None
    assert mask.tolist() == [[False, False, True], [False, False, False], [True, False, False]]
    assert agreement(subnets, mask).pairs == 1
    assert agreement(subnets, mask).tau == 1.0


def test_two_subnets_are_beyond_seed_noise_as_by_paired_differences() -> None:
    """Differences of -0.2 and -0.1 over two seeds: a mean of -0.15 with a standard error of 0.05."""
    apart = beyond_seed_noise(judged((0.1, 1.0, 1.0, 2.0), (0.2, 2.0, 1.2, 2.1)))
    near = beyond_seed_noise(judged((0.1, 1.0, 1.0, 2.0), (0.2, 2.0, 1.2, 2.0)))  # -0.1 ± 0.1
    assert apart is not None
    assert apart.tolist() == [[False, True], [True, False]]
    assert near is not None
    assert not near.any()


def test_what_diverged_is_beyond_seed_noise_from_what_did_not() -> None:
    mask = beyond_seed_noise(
        judged((0.1, 1.0, 1.0, 1.2), (0.2, 2.0, None, 1.2), (0.3, 3.0, None, None))
    )
    assert mask is not None
    assert mask.tolist() == [[False, True, True], [True, False, False], [True, False, False]]


def test_one_seed_tells_nothing_apart() -> None:
    one = [
        subnet.model_copy(update={"losses": subnet.losses[:1]})
        for subnet in judged((0.1, 1.0, 1.0, 1.0))
    ]
    assert beyond_seed_noise(one) is None


def test_one_subnet_has_no_agreement() -> None:
    found = agreement(judged((0.1, 1.0, 1.0, 1.0)))
    assert set(found.model_dump().values()) == {0, None}


def test_one_seed_has_no_ceiling() -> None:
    rows = [
        Judged(subnet=SubnetConfig(d, 8), relative_cost=d, estimate=d, losses=(float(d),))
        for d in (1, 2, 3)
    ]
    assert agreement(rows).seeds_tau is None


@pytest.mark.parametrize(
    ("costs", "count", "chosen"),
    [
        ([3.0, 1.0, 2.0], 5, [1, 2, 0]),  # all, by cost
        ([3.0, 1.0, 2.0], 3, [1, 2, 0]),
        ([1, 2, 2.1, 4, 8], 4, [0, 1, 2, 4]),  # the ends and the nearest pair
        ([1, 2, 3.5, 4, 8], 4, [0, 2, 3, 4]),
        ([1, 2, 2.1, 4, 8], 2, [0, 4]),
        ([1, 2, 2.1, 4, 8], 3, [0, 2, 4]),  # an odd one: furthest from both, on a logarithmic scale
        ([1, 1.1, 1.9, 2.0, 10, 10.1, 16, 20], 6, [0, 2, 3, 4, 5, 7]),  # a pair of each half
        ([1, 2, 3], 1, [0]),
    ],
)
def test_subnets_are_spread_over_cost(costs: list[float], count: int, chosen: list[int]) -> None:
    assert spread_over_cost(costs, count) == chosen


def test_any_number_is_met_and_near_pairs_are_among_them() -> None:
    generator = np.random.default_rng(1)
    for size in range(2, 30):
        costs = np.exp(generator.uniform(-2, 0, size)).tolist()
        for count in range(2, size + 3):
            chosen = spread_over_cost(costs, count)
            assert len(set(chosen)) == min(count, size)
            assert [costs[i] for i in chosen] == sorted(costs[i] for i in chosen)
            assert {costs.index(min(costs)), costs.index(max(costs))} <= set(chosen)
