from __future__ import annotations

import math
from dataclasses import replace

import pytest

from autoprog.search.rollout import (
    Forecast,
    LossLaw,
    Option,
    Tail,
    forecast,
    learning_exponent,
    progress_of_full,
    transfer,
)

# The current subnet costs a quarter of the full model; the full model already has its loss.
LAW = LossLaw(learning=0.2, capacity=0.5)
CURRENT = Option(relative_cost=0.25, loss=2.0, step_seconds=0.25)
HALF = Option(relative_cost=0.5, loss=2.0, step_seconds=0.5)
FULL = Option(relative_cost=1.0, loss=2.0, step_seconds=1.0)
TAIL = Tail(step=1000, switch_steps=(2000, 5000, 8500), total_steps=10000)
SHORT = Tail(step=1000, switch_steps=(1100,), total_steps=1200)


def ahead(
    option: Option,
    full: Option = FULL,
    law: LossLaw = LAW,
    tail: Tail = TAIL,
    progress: float = 500.0,
) -> Forecast:
    return forecast(law, option, full, progress, tail)


def with_shock(option: Option, shock: float) -> Option:
    return replace(option, loss=option.loss * math.exp(shock))


def curve(exponent: float) -> tuple[list[float], list[float]]:
    steps = [float(step) for step in range(20, 2000, 20)]
    return steps, [5.0 * step**-exponent for step in steps]


def gain_of_growing(full: Option, law: LossLaw = LAW, tail: Tail = TAIL) -> float:
    """Score of staying over the score of growing now, after `tail.step` steps at the current subnet."""
    progress = progress_of_full(law, CURRENT, full, tail.step * law.progress(0.25))
    stay, grow = (ahead(option, full, law, tail, progress) for option in (CURRENT, full))
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


def test_a_small_step_is_worth_its_cost_to_the_capacity_exponent() -> None:
    assert LossLaw(learning=0.2).progress(0.5) == pytest.approx(0.5**0.2)
    assert LAW.progress(1.0) == 1.0
    assert LAW.progress(0.25) == pytest.approx(0.5)
    assert LAW.progress(0.25) < LAW.progress(0.5) < LAW.progress(1.0)


def test_time_is_priced_at_a_quarter_of_the_learning_exponent() -> None:
    assert LAW.alpha == pytest.approx(0.05)


def test_where_a_subnet_leads_the_ratio_of_the_losses_transfers() -> None:
    assert transfer(LAW, CURRENT, FULL) == 1.0
    assert transfer(LAW, CURRENT, replace(FULL, loss=4.0)) == 0.5


def test_where_a_subnet_falls_behind_its_place_on_the_curve_counts() -> None:
    """At loss ~ progress^-0.2 a loss that is twice as high belongs to a 32nd of the progress."""
    assert transfer(LAW, CURRENT, replace(FULL, loss=1.0)) == pytest.approx(1 / 32)


def test_the_full_model_has_learnt_what_its_loss_shows() -> None:
    """At loss ~ progress^-0.2 a loss that is twice as high belongs to a 32nd of the progress."""
    assert progress_of_full(LAW, CURRENT, FULL, 6400.0) == 6400.0
    assert progress_of_full(LAW, CURRENT, replace(FULL, loss=1.0), 6400.0) == 6400.0
    twice = replace(FULL, loss=4.0)
    assert progress_of_full(LAW, CURRENT, twice, 6400.0) == pytest.approx(200.0)
    assert progress_of_full(LAW, CURRENT, twice, 10.0) == 1.0


def test_the_forecast_of_the_full_model_is_the_formula() -> None:
    found = ahead(FULL, tail=SHORT)
    loss = 2.0 * (1 + 200 / 500) ** -0.2
    assert found.full_from_step == 1000
    assert found.seconds == pytest.approx(200.0)
    assert found.loss == pytest.approx(loss)
    assert found.score == pytest.approx(loss * 200.0**0.05)


def test_the_forecast_of_staying_counts_what_small_steps_are_worth() -> None:
    full = replace(FULL, loss=4.0)
    found = ahead(CURRENT, full, tail=SHORT)
    loss = 4.0 * (1 + (100 * 0.5 * 0.5 + 100) / 500) ** -0.2
    assert found.full_from_step == 1100
    assert found.seconds == pytest.approx(100 * 0.25 + 100)
    assert found.loss == pytest.approx(loss)
    assert found.score == pytest.approx(loss * 125.0**0.05)


def test_the_best_switch_step_is_chosen() -> None:
    ways = [
        ahead(CURRENT, tail=replace(TAIL, switch_steps=(switch,))) for switch in TAIL.switch_steps
    ]
    best = min(ways, key=lambda way: way.score)
    assert len({way.score for way in ways}) == 3
    assert ahead(CURRENT) == best


def test_the_full_model_is_full_from_now_on() -> None:
    assert ahead(FULL).full_from_step == TAIL.step


def test_growing_wins_at_the_end_though_it_is_worse_now() -> None:
    shocked = with_shock(FULL, 0.25)
    assert shocked.loss > CURRENT.loss
    assert ahead(shocked, shocked).loss < ahead(CURRENT, shocked).loss
    assert ahead(shocked, shocked).score < ahead(CURRENT, shocked).score


def test_staying_wins_where_a_small_step_teaches_nearly_as_much() -> None:
    law = LossLaw(learning=0.5, capacity=0.1)
    stay = ahead(CURRENT, law=law)
    assert ahead(FULL, law=law).loss < stay.loss
    assert ahead(FULL, law=law).score > stay.score
    assert stay.full_from_step == TAIL.switch_steps[-1]


@pytest.mark.parametrize(("full_seconds", "grows"), [(0.3, True), (100.0, False)])
def test_where_seconds_dominate_the_run_stays_small_as_long_as_it_may(
    full_seconds: float, grows: bool
) -> None:
    law = replace(LAW, capacity=0.25)
    full = replace(FULL, step_seconds=full_seconds)
    full_now, stay = ahead(full, full, law), ahead(CURRENT, full, law)
    assert (full_now.score < stay.score) is grows
    assert stay.full_from_step == (2000 if grows else 8500)


def test_where_larger_learns_much_faster_the_run_is_full_as_soon_as_it_may() -> None:
    law = LossLaw(learning=0.2, capacity=1.5)
    stay = ahead(CURRENT, law=law)
    assert stay.full_from_step == TAIL.switch_steps[0]
    assert ahead(FULL, law=law).score < stay.score


@pytest.mark.parametrize(("step", "lead", "grows"), [(2700, 0.0, False), (7700, 0.4, True)])
def test_a_late_run_becomes_full_once_larger_candidates_are_better(
    step: int, lead: float, grows: bool
) -> None:
    """Early on the losses do not differ between candidates; later the larger ones lead."""
    law = LossLaw(learning=0.3, capacity=0.17)
    full = with_shock(FULL, -lead)
    assert (gain_of_growing(full, law, Tail(step, (8500,), 10000)) > 1) is grows


def test_the_less_of_its_learning_the_full_model_shows_the_sooner_it_grows() -> None:
    """Every plan ends full; what does not transfer has to be learnt at full size."""
    law = LossLaw(learning=0.5, capacity=0.1)
    gains = [gain_of_growing(with_shock(FULL, shock), law) for shock in (0.0, 0.05, 0.2, 0.8)]
    assert gains == sorted(set(gains))
    assert gains[0] < 1 < gains[-1]


def test_the_further_the_full_model_leads_the_sooner_it_grows() -> None:
    law = LossLaw(learning=0.5, capacity=0.1)
    gains = [gain_of_growing(with_shock(FULL, -lead), law) for lead in (0.0, 0.1, 0.3, 1.0)]
    assert gains == sorted(set(gains))
    assert gains[0] < 1 < gains[-1]


def test_cheaper_steps_make_a_candidate_better() -> None:
    scores = [ahead(replace(HALF, step_seconds=seconds)).score for seconds in (0.1, 0.2, 0.4, 0.8)]
    assert scores == sorted(set(scores))


def test_of_equal_losses_and_seconds_the_larger_candidate_learns_more() -> None:
    costs = (0.25, 0.5, 0.75)
    losses = [ahead(replace(HALF, relative_cost=cost), tail=SHORT).loss for cost in costs]
    assert losses == sorted(set(losses), reverse=True)


def test_progress_that_lies_behind_makes_the_rest_matter_less() -> None:
    gains = [
        ahead(CURRENT, progress=progress).loss / ahead(FULL, progress=progress).loss
        for progress in (100.0, 1000.0, 5000.0)
    ]
    assert gains == sorted(set(gains), reverse=True)


def test_a_run_that_has_learnt_nothing_yet_has_a_forecast() -> None:
    begin = Tail(step=0, switch_steps=(10,), total_steps=20)
    progress = progress_of_full(LAW, CURRENT, FULL, 0.0)
    assert ahead(FULL, tail=begin, progress=progress).loss == pytest.approx(2.0 * 21**-0.2)
