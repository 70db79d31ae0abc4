from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest

from autoprog.search.forecast import (
    CAPACITY_EXPONENT,
    Forecast,
    ForecastInputs,
    ForecastSegment,
    PricedSubnet,
    ScalingLaw,
    flattening,
    learning_exponent,
    target_entropy,
)
from supernet.config import SubnetConfig

# The current subnet costs a quarter of the full model; the full model already has its loss.
LAW = ScalingLaw(learning=0.2, capacity=0.5)
CURRENT = PricedSubnet(relative_cost=0.25, loss=2.0, step_seconds=0.25)
HALF = PricedSubnet(relative_cost=0.5, loss=2.0, step_seconds=0.5)
FULL = PricedSubnet(relative_cost=1.0, loss=2.0, step_seconds=1.0)
SUBNET, FULL_SUBNET = SubnetConfig(6, 112), SubnetConfig(12, 224)


@dataclass(frozen=True)
class Dates:
    """Where a run stands, when it may become full, and when it ends."""

    step: int
    switch_steps: tuple[int, ...]
    total_steps: int


DATES = Dates(step=1000, switch_steps=(2000, 5000, 8500), total_steps=10000)
SHORT = Dates(step=1000, switch_steps=(1100,), total_steps=1200)


def ahead(
    option: PricedSubnet,
    full: PricedSubnet = FULL,
    law: ScalingLaw = LAW,
    dates: Dates = DATES,
    progress: float = 500.0,
) -> Forecast:
    """Return the best way that begins with `option` and becomes full at one of the dates."""
    subnets = {SUBNET: option, FULL_SUBNET: full}
    inputs = ForecastInputs(law, subnets, FULL_SUBNET, progress, dates.total_steps)
    if option == full:
        return inputs.forecast(((dates.step, FULL_SUBNET),))
    ways = [((dates.step, SUBNET), (switch, FULL_SUBNET)) for switch in dates.switch_steps]
    return min(map(inputs.forecast, ways), key=lambda way: way.score)


def full_from(way: Forecast) -> int:
    step, subnet = way.continuation[-1]
    assert subnet == FULL_SUBNET
    return step


def with_shock(option: PricedSubnet, shock: float) -> PricedSubnet:
    return replace(option, loss=option.loss * math.exp(shock))


def seconds_of(segments: list[ForecastSegment]) -> float:
    return sum(one.seconds for one in segments)


def curve(exponent: float) -> tuple[list[float], list[float]]:
    steps = [float(step) for step in range(20, 2000, 20)]
    return steps, [5.0 * step**-exponent for step in steps]


def gain_of_growing(full: PricedSubnet, law: ScalingLaw = LAW, dates: Dates = DATES) -> float:
    """Score of staying over the score of growing now, after `dates.step` steps at the current subnet."""
    progress = law.progress_of_full(CURRENT, full, dates.step * law.progress(0.25))
    stay, grow = (ahead(option, full, law, dates, progress) for option in (CURRENT, full))
    return stay.score / grow.score


@pytest.mark.parametrize("exponent", [0.1, 0.15, 0.2, 0.35, 0.5])
def test_the_learning_exponent_is_that_of_the_curve(exponent: float) -> None:
    assert learning_exponent(*curve(exponent)) == pytest.approx(exponent, abs=1e-12)


@pytest.mark.parametrize(
    ("exponent", "guarded"), [(2.0, 0.5), (0.01, 0.1), (0.0, 0.1), (-1.0, 0.1)]
)
def test_the_learning_exponent_is_kept_in_range(exponent: float, guarded: float) -> None:
    assert learning_exponent(*curve(exponent)) == guarded


def test_without_a_curve_the_learning_exponent_is_the_default() -> None:
    assert learning_exponent([], []) == 0.2
    assert learning_exponent([20.0, 40.0], [3.0, 2.0]) == 0.2
    assert learning_exponent([1000.0, 1001.0, 1002.0], [3.0, 2.0, 1.0]) == 0.2


def test_the_learning_exponent_is_that_above_the_floor() -> None:
    steps, losses = curve(0.3)
    raised = [loss + 0.5 for loss in losses]
    assert learning_exponent(steps, raised, floor=0.5) == pytest.approx(0.3, abs=1e-12)
    assert learning_exponent(steps, raised) < 0.25
    assert (
        learning_exponent(steps, raised, floor=10.0) == 0.2
    )  # below the floor nothing can be fitted


def test_smoothed_targets_have_the_entropy_of_their_distribution() -> None:
    assert target_entropy(0.0, 10) == 0.0
    probabilities = [0.91, *[0.01] * 9]
    by_hand = -sum(p * math.log(p) for p in probabilities)
    assert target_entropy(0.1, 10) == pytest.approx(by_hand)
    assert target_entropy(1.0, 10) == pytest.approx(math.log(10))


def bent(early: float, late: float) -> tuple[list[float], list[float]]:
    """Return a curve whose exponent changes from `early` to `late` in the middle of the steps."""
    steps = [float(step) for step in range(20, 2001, 20)]
    losses = [
        0.5 + (5.0 * s**-early if s <= 1000 else 5.0 * 1000**-early * (s / 1000) ** -late)
        for s in steps
    ]
    return steps, losses


def test_a_curve_that_is_a_power_law_does_not_flatten() -> None:
    assert flattening(*bent(0.3, 0.3), 0.5, 0.25) == pytest.approx(0.0, abs=1e-9)
    assert flattening(*bent(0.3, 0.6), 0.5, 0.25) == 0.0  # it falls faster than before
    assert flattening([], [], 0.5, 0.25) == 0.0
    steps, losses = bent(0.3, 0.0)
    assert flattening(steps[-8::7], losses[-8::7], 0.5, 0.25) == 0.0  # too few points to tell
    assert flattening(*bent(0.3, 0.1), 0.5, 1.0) == 0.0


def test_a_curve_that_flattens_lowers_the_worth_of_cheap_steps_by_as_much() -> None:
    """Where the slope is a third of what it was, a step of that subnet teaches a third."""
    added = flattening(*bent(0.3, 0.1), 0.5, 0.25)
    assert 0.25**added == pytest.approx(1 / 3, rel=1e-6)
    flat = flattening(*bent(0.3, 0.0), 0.5, 0.25)
    assert 0.25**flat == pytest.approx(0.05)


def test_a_small_step_is_worth_its_cost_to_the_capacity_exponent() -> None:
    assert ScalingLaw(learning=0.2).progress(0.5) == pytest.approx(0.5**CAPACITY_EXPONENT)
    assert LAW.progress(1.0) == 1.0
    assert LAW.progress(0.25) == pytest.approx(0.5)
    assert LAW.progress(0.25) < LAW.progress(0.5) < LAW.progress(1.0)


def test_time_is_priced_at_a_quarter_of_the_learning_exponent() -> None:
    assert LAW.alpha == pytest.approx(0.05)


def test_where_a_subnet_leads_the_ratio_of_the_losses_transfers() -> None:
    assert LAW.transfer(CURRENT, FULL) == 1.0
    assert LAW.transfer(CURRENT, replace(FULL, loss=4.0)) == 0.5


def test_where_a_subnet_falls_behind_its_place_on_the_curve_counts() -> None:
    """At loss ~ progress^-0.2 a loss that is twice as high belongs to a 32nd of the progress."""
    assert LAW.transfer(CURRENT, replace(FULL, loss=1.0)) == pytest.approx(1 / 32)


def test_what_carries_over_is_counted_from_guessing() -> None:
    """A subnet that has learnt what the full model shows nothing of is worth next to nothing."""
    law = replace(LAW, chance_loss=4.0)
    assert law.transfer(CURRENT, FULL) == 1.0
    none = law.transfer(replace(CURRENT, loss=0.4), replace(FULL, loss=4.0))
    assert none == pytest.approx(0.1 / (math.log(10) + 0.1))
    half = law.transfer(replace(CURRENT, loss=1.0), replace(FULL, loss=2.0))
    assert half == pytest.approx((math.log(2) + 0.1) / (math.log(4) + 0.1))
    neither = law.transfer(replace(CURRENT, loss=4.1), replace(FULL, loss=4.2))
    assert neither == 1.0  # nothing learnt, nothing lost
    assert law.transfer(CURRENT, replace(FULL, loss=1.0)) == pytest.approx(1 / 32)


def test_the_full_model_has_learnt_what_its_loss_shows() -> None:
    """At loss ~ progress^-0.2 a loss that is twice as high belongs to a 32nd of the progress."""
    assert LAW.progress_of_full(CURRENT, FULL, 6400.0) == 6400.0
    assert LAW.progress_of_full(CURRENT, replace(FULL, loss=1.0), 6400.0) == 6400.0
    twice = replace(FULL, loss=4.0)
    assert LAW.progress_of_full(CURRENT, twice, 6400.0) == pytest.approx(200.0)
    assert LAW.progress_of_full(CURRENT, twice, 10.0) == 1.0


def test_the_forecast_of_the_full_model_is_the_formula() -> None:
    found = ahead(FULL, dates=SHORT)
    loss = 2.0 * (1 + 200 / 500) ** -0.2
    assert full_from(found) == 1000
    assert found.seconds == pytest.approx(200.0)
    assert found.loss == pytest.approx(loss)
    assert found.score == pytest.approx(loss * 200.0**0.05)


def test_the_forecast_of_staying_counts_what_small_steps_are_worth() -> None:
    full = replace(FULL, loss=4.0)
    found = ahead(CURRENT, full, dates=SHORT)
    loss = 4.0 * (1 + (100 * 0.5 * 0.5 + 100) / 500) ** -0.2
    assert full_from(found) == 1100
    assert found.seconds == pytest.approx(100 * 0.25 + 100)
    assert found.loss == pytest.approx(loss)
    assert found.score == pytest.approx(loss * 125.0**0.05)


def test_the_best_switch_step_is_chosen() -> None:
    ways = [
        ahead(CURRENT, dates=replace(DATES, switch_steps=(switch,)))
        for switch in DATES.switch_steps
    ]
    best = min(ways, key=lambda way: way.score)
    assert len({way.score for way in ways}) == 3
    assert ahead(CURRENT) == best


def test_the_full_model_is_full_from_now_on() -> None:
    assert full_from(ahead(FULL)) == DATES.step


def test_growing_wins_at_the_end_though_it_is_worse_now() -> None:
    shocked = with_shock(FULL, 0.25)
    assert shocked.loss > CURRENT.loss
    assert ahead(shocked, shocked).loss < ahead(CURRENT, shocked).loss
    assert ahead(shocked, shocked).score < ahead(CURRENT, shocked).score


def test_staying_wins_where_a_small_step_teaches_nearly_as_much() -> None:
    law = ScalingLaw(learning=0.5, capacity=0.1)
    stay = ahead(CURRENT, law=law)
    assert ahead(FULL, law=law).loss < stay.loss
    assert ahead(FULL, law=law).score > stay.score
    assert full_from(stay) == DATES.switch_steps[-1]


@pytest.mark.parametrize(("full_seconds", "grows"), [(0.3, True), (100.0, False)])
def test_where_seconds_dominate_the_run_stays_small_as_long_as_it_may(
    full_seconds: float, grows: bool
) -> None:
    law = replace(LAW, capacity=0.25)
    full = replace(FULL, step_seconds=full_seconds)
    full_now, stay = ahead(full, full, law), ahead(CURRENT, full, law)
    assert (full_now.score < stay.score) is grows
    assert full_from(stay) == (2000 if grows else 8500)


def test_where_larger_learns_much_faster_the_run_is_full_as_soon_as_it_may() -> None:
    law = ScalingLaw(learning=0.2, capacity=1.5)
    stay = ahead(CURRENT, law=law)
    assert full_from(stay) == DATES.switch_steps[0]
    assert ahead(FULL, law=law).score < stay.score


@pytest.mark.parametrize(("step", "lead", "grows"), [(2700, 0.0, False), (7700, 0.4, True)])
def test_a_late_run_becomes_full_once_larger_candidates_are_better(
    step: int, lead: float, grows: bool
) -> None:
    """Early on the losses do not differ between candidates; later the larger ones lead."""
    law = ScalingLaw(learning=0.3, capacity=0.17)
    full = with_shock(FULL, -lead)
    assert (gain_of_growing(full, law, Dates(step, (8500,), 10000)) > 1) is grows


def test_the_less_of_its_learning_the_full_model_shows_the_sooner_it_grows() -> None:
    """Every plan ends full; what does not transfer has to be learnt at full size."""
    law = ScalingLaw(learning=0.5, capacity=0.1)
    gains = [gain_of_growing(with_shock(FULL, shock), law) for shock in (0.0, 0.05, 0.2, 0.8)]
    assert gains == sorted(set(gains))
    assert gains[0] < 1 < gains[-1]


def test_the_further_the_full_model_leads_the_sooner_it_grows() -> None:
    law = ScalingLaw(learning=0.5, capacity=0.1)
    gains = [gain_of_growing(with_shock(FULL, -lead), law) for lead in (0.0, 0.1, 0.3, 1.0)]
    assert gains == sorted(set(gains))
    assert gains[0] < 1 < gains[-1]


def test_cheaper_steps_make_a_candidate_better() -> None:
    scores = [ahead(replace(HALF, step_seconds=seconds)).score for seconds in (0.1, 0.2, 0.4, 0.8)]
    assert scores == sorted(set(scores))


def test_of_equal_losses_and_seconds_the_larger_candidate_learns_more() -> None:
    costs = (0.25, 0.5, 0.75)
    losses = [ahead(replace(HALF, relative_cost=cost), dates=SHORT).loss for cost in costs]
    assert losses == sorted(set(losses), reverse=True)


def test_progress_that_lies_behind_makes_the_rest_matter_less() -> None:
    gains = [
        ahead(CURRENT, progress=progress).loss / ahead(FULL, progress=progress).loss
        for progress in (100.0, 1000.0, 5000.0)
    ]
    assert gains == sorted(set(gains), reverse=True)


def test_a_run_that_has_learnt_nothing_yet_has_a_forecast() -> None:
    begin = Dates(step=0, switch_steps=(10,), total_steps=20)
    progress = LAW.progress_of_full(CURRENT, FULL, 0.0)
    assert ahead(FULL, dates=begin, progress=progress).loss == pytest.approx(2.0 * 21**-0.2)


def test_a_way_without_steps_leaves_the_loss_where_it_is() -> None:
    assert LAW.end_loss([], FULL, 500.0) == FULL.loss
    assert LAW.end_loss([ForecastSegment(CURRENT, 0)], FULL, 500.0) == FULL.loss
    assert seconds_of([]) == seconds_of([ForecastSegment(CURRENT, 0)]) == 0.0
    assert math.isfinite(LAW.score(FULL.loss, 0.0))


def test_a_segment_is_the_sum_of_its_parts() -> None:
    whole, parts = (
        [ForecastSegment(CURRENT, 700), ForecastSegment(HALF, 300)],
        [ForecastSegment(CURRENT, 400), ForecastSegment(CURRENT, 300)],
    )
    parts = [*parts, ForecastSegment(HALF, 300)]
    assert LAW.end_loss(whole, FULL, 500.0) == pytest.approx(LAW.end_loss(parts, FULL, 500.0))
    assert seconds_of(whole) == pytest.approx(seconds_of(parts)) == 700 * 0.25 + 300 * 0.5


@pytest.mark.parametrize("option", [CURRENT, HALF, FULL])
def test_every_step_lowers_the_loss_and_takes_its_seconds(option: PricedSubnet) -> None:
    ways = [[ForecastSegment(option, steps)] for steps in (1, 10, 100, 1000)]
    losses = [LAW.end_loss(way, FULL, 500.0) for way in ways]
    assert losses == sorted(set(losses), reverse=True)
    assert [seconds_of(way) for way in ways] == [
        steps * option.step_seconds for steps in (1, 10, 100, 1000)
    ]


def test_the_score_is_the_loss_with_its_seconds_priced() -> None:
    assert LAW.score(2.0, 100.0) == pytest.approx(2.0 * 100.0**0.05)
    assert LAW.score(2.0, 100.0) < LAW.score(2.0, 101.0)
    assert LAW.score(2.0, 100.0) < LAW.score(2.01, 100.0)


def test_the_forecast_of_a_way_of_three_segments_is_that_of_its_segments() -> None:
    half = SubnetConfig(9, 160)
    subnets = {SUBNET: CURRENT, half: HALF, FULL_SUBNET: FULL}
    inputs = ForecastInputs(LAW, subnets, FULL_SUBNET, 500.0, 10_000)
    continuation = ((1000, SUBNET), (3000, half), (8000, FULL_SUBNET))
    found = inputs.forecast(continuation)
    segments = [
        ForecastSegment(CURRENT, 2000),
        ForecastSegment(HALF, 5000),
        ForecastSegment(FULL, 2000),
    ]
    assert (found.continuation, found.seconds) == (continuation, seconds_of(segments))
    assert found.loss == LAW.end_loss(segments, FULL, 500.0)
    assert found.score == LAW.score(found.loss, found.seconds)
