from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product

import pytest

from autoprog.decisions import Continuation, DecisionInputs
from autoprog.pareto import pareto_front, pareto_knee
from autoprog.search.decide import Chooser, decide
from autoprog.search.forecast import (
    CAPACITY_EXPONENT,
    ContinuationSearch,
    Forecast,
    ForecastInputs,
    ForecastSegment,
    PricedSubnet,
    ScalingLaw,
    flattening,
    interpolate_losses,
    learning_exponent,
    start_continuations,
    target_entropy,
)
from autoprog.space import SpaceFile
from supernet.config import ALL_TOKENS, SubnetConfig, TokenRule
from supernet.cost import relative_cost
from supernet.zoo import ZOO

SPEC = ZOO["vit-mu"]
SPACE = SpaceFile.model_validate(
    {"axes": {"depth": {"values": [1, 2, 3, 4]}, "img_size": {"values": [8, 12, 16]}}}
).space(SPEC, "test")
SMALL, FULL = SPACE.smallest, SPEC.full
SAMPLERS = ("nsga2", "tpe", "random")
STEP, FULL_STEP, TOTAL = 1000, 9000, 10_000
SEARCH = ContinuationSearch(SPACE, SMALL, STEP, FULL_STEP, TOTAL, intervals=20)


def net(depth: int, size: int) -> SubnetConfig:
    return SubnetConfig(depth, size)


def made_from(learning: float = 0.3, progress: float = 500.0) -> ForecastInputs:
    """Every subnet has the loss of the full model and takes the seconds of its cost."""
    subnets = {
        subnet: PricedSubnet(relative_cost(SPEC, subnet), 2.0, relative_cost(SPEC, subnet))
        for subnet in SPACE.above(SMALL)
    }
    return ForecastInputs(ScalingLaw(learning), subnets, FULL, progress, TOTAL)


def front_of(points: Sequence[Forecast]) -> list[Forecast]:
    front = pareto_front([one.seconds for one in points], [one.loss for one in points])
    return [points[index] for index in front]


def knee_of(front: Sequence[Forecast]) -> Forecast:
    return front[pareto_knee([one.seconds for one in front], [one.loss for one in front])]


def decoded(search: ContinuationSearch, arrivals: dict[str, list[float]]) -> Continuation:
    return search.continuation_of(search.encoding.decode(search.encoding.encode(arrivals)))


def drawn(search: ContinuationSearch, draw: random.Random) -> Continuation:
    bounds = search.encoding.bounds()
    vector = {key: draw.randint(low, high) for key, (low, high) in bounds.items()}
    return search.continuation_of(search.encoding.decode(vector))


def is_way_on(search: ContinuationSearch, continuation: Continuation) -> bool:
    steps, subnets = zip(*continuation, strict=True)
    return (
        steps[0] == search.step
        and search.current.within(subnets[0])
        and all(a < b for a, b in pairwise(steps))
        and all(a.within(b) and a != b for a, b in pairwise(subnets))
        and subnets[-1] == FULL
        and steps[-1] <= max(search.step, search.full_step)
    )


# --- What is enumerated


def test_continuations_of_one_jump_are_enumerated_at_each_date_for_each_first_subnet() -> None:
    firsts = (SMALL, net(2, 12), FULL)
    continuations = list(SEARCH.enumerated(firsts))
    dates = [STEP + 400 * cell for cell in range(1, 21)]
    expected = [((STEP, first), (date, FULL)) for first in firsts[:2] for date in dates]
    assert continuations == [*expected, ((STEP, FULL),)]
    assert dates[-1] == FULL_STEP


def test_no_date_lies_where_the_run_stands() -> None:
    """Three steps have twenty dates, most of which are the same step."""
    short = replace(SEARCH, full_step=STEP + 3)
    assert {continuation[1][0] for continuation in short.enumerated([SMALL])} == {
        STEP + 1,
        STEP + 2,
        STEP + 3,
    }


def test_without_time_only_the_full_model_is_enumerated() -> None:
    late = replace(SEARCH, full_step=STEP)
    assert not late.leaves_time
    assert list(late.enumerated([SMALL, FULL])) == [((STEP, FULL),)]
    assert late.searched(made_from(), [], 10, "random", 0) == []


# --- Timelines and continuations


def test_a_timeline_becomes_steps_and_subnets() -> None:
    timeline = ((0.1, (0, 0, 0)), (0.35, (2, 0, 0)), (0.9, (3, 2, 0)))
    assert SEARCH.continuation_of(timeline) == ((1000, SMALL), (3500, net(3, 8)), (9000, FULL))


def test_stretches_without_a_step_are_left_out() -> None:
    timeline = (
        (0.1, (0, 0, 0)),
        (0.10001, (1, 0, 0)),
        (0.5, (1, 1, 0)),
        (0.50004, (2, 2, 0)),
        (0.9, (3, 2, 0)),
    )
    assert SEARCH.continuation_of(timeline) == ((1000, net(2, 8)), (5000, net(3, 16)), (9000, FULL))


def test_stretches_in_which_nothing_changes_are_one() -> None:
    timeline = ((0.1, (0, 0, 0)), (0.2, (0, 0, 0)), (0.3, (3, 2, 0)), (0.4, (3, 2, 0)))
    assert SEARCH.continuation_of(timeline) == ((1000, SMALL), (3000, FULL))


@pytest.mark.parametrize("cells", [1, 3, 20, 97])
@pytest.mark.parametrize("current", [SMALL, net(2, 12), net(4, 8), FULL], ids=str)
def test_whatever_is_proposed_is_a_way_on(current: SubnetConfig, cells: int) -> None:
    draw = random.Random(f"{current} {cells}")
    search = replace(SEARCH, current=current, intervals=cells, step=draw.randrange(FULL_STEP))
    assert all(is_way_on(search, drawn(search, draw)) for _ in range(200))


@pytest.mark.parametrize("current", [SMALL, net(2, 12), net(4, 8)], ids=str)
def test_arrivals_of_a_continuation_lead_back_to_it(current: SubnetConfig) -> None:
    search, draw = replace(SEARCH, current=current), random.Random(0)
    for _ in range(200):
        continuation = drawn(search, draw)
        assert decoded(search, search.arrivals_of(continuation)) == continuation


def test_arrivals_are_fractions_of_the_run_one_for_each_value_that_is_left() -> None:
    continuation = ((1000, net(1, 12)), (4000, net(3, 12)), (7000, FULL))
    assert SEARCH.arrivals_of(continuation) == {
        "depth": [0.4, 0.4, 0.7],
        "img_size": [0.1, 0.7],
        "keep_rate": [],
    }
    late = replace(SEARCH, current=net(3, 12), step=4000)
    assert late.arrivals_of(continuation[1:]) == {
        "depth": [0.7],
        "img_size": [0.7],
        "keep_rate": [],
    }


def test_a_continuation_off_the_grid_goes_to_its_nearest_dates() -> None:
    continuation = ((1000, SMALL), (4150, net(3, 12)), (8850, FULL))
    near = decoded(SEARCH, SEARCH.arrivals_of(continuation))
    assert near == ((1000, SMALL), (4200, net(3, 12)), (9000, FULL))


def test_keep_rates_are_an_axis_of_continuations() -> None:
    axes = {
        "depth": {"values": [2, 4]},
        "img_size": {"values": [16]},
        "keep_rate": {"values": [0.5, 0.7, 1.0]},
    }
    space = SpaceFile.model_validate({"axes": axes}).space(SPEC, "test")
    search = replace(SEARCH, space=space, current=space.smallest)
    assert set(search.encoding.bounds()) == {"depth.1", "keep_rate.1", "keep_rate.2"}
    arrivals = {"depth": [0.5], "img_size": [], "keep_rate": [0.1, 0.9]}
    assert decoded(search, arrivals) == (
        (1000, SubnetConfig(2, 16, TokenRule(0.7))),
        (5000, SubnetConfig(4, 16, TokenRule(0.7))),
        (9000, FULL),
    )


# --- Published schedules


def test_published_schedules_are_what_they_are_said_to_be() -> None:
    """Depths come in at thirds of the rest, sizes at halves of it: dates of a grid of 24 cells."""
    search = replace(SEARCH, intervals=24)
    found = [decoded(search, arrivals) for arrivals in start_continuations(search)]
    at_once, even, late, small_images, growing_images, deep_late, deep_first, large_first = found
    third, half = (FULL_STEP - STEP) / 3, (FULL_STEP - STEP) / 2
    assert at_once == ((STEP, FULL),)
    assert even == (
        (STEP, SMALL),
        (round(STEP + third), net(2, 8)),
        (round(STEP + half), net(2, 12)),
        (round(STEP + 2 * third), net(3, 12)),
        (FULL_STEP, FULL),
    )
    assert late == ((STEP, SMALL), (FULL_STEP, FULL))
    assert small_images == ((STEP, net(4, 8)), (FULL_STEP, FULL))
    assert growing_images == ((STEP, net(4, 8)), (5000, net(4, 12)), (FULL_STEP, FULL))
    assert deep_late == ((STEP, net(1, 16)), (FULL_STEP, FULL))
    assert deep_first == (
        (STEP, SMALL),
        (round(STEP + half / 3), net(2, 8)),
        (round(STEP + 2 * half / 3), net(3, 8)),
        (5000, net(4, 12)),
        (FULL_STEP, FULL),
    )
    assert large_first == (
        (STEP, SMALL),
        (3000, net(1, 12)),
        (round(STEP + third), net(2, 12)),
        (5000, net(2, 16)),
        (round(STEP + 2 * third), net(3, 16)),
        (FULL_STEP, FULL),
    )


@pytest.mark.parametrize("current", [net(2, 12), net(4, 8), net(1, 16), FULL], ids=str)
def test_published_schedules_are_cut_to_what_lies_ahead(current: SubnetConfig) -> None:
    search = replace(SEARCH, current=current)
    for arrivals in start_continuations(search):
        continuation = decoded(search, arrivals)
        assert is_way_on(search, continuation)
        assert continuation[0][1] in (
            current,
            FULL,
            net(4, current.img_size),
            net(*current.depth, 16),
        )


# --- Fronts


def at(seconds: float, loss: float) -> Forecast:
    return Forecast(((0, FULL),), loss, seconds, 0.0)


def beats(one: Forecast, other: Forecast) -> bool:
    no_worse = one.loss <= other.loss and one.seconds <= other.seconds
    return no_worse and (one.loss, one.seconds) != (other.loss, other.seconds)


@pytest.mark.parametrize("seed", range(20))
def test_a_front_holds_what_nothing_beats_and_nothing_else(seed: int) -> None:
    draw = random.Random(seed)
    cloud = [at(draw.randint(1, 12), draw.randint(1, 12)) for _ in range(40)]
    front = front_of(cloud)
    unbeaten = {(o.seconds, o.loss) for o in cloud if not any(beats(other, o) for other in cloud)}
    assert {(one.seconds, one.loss) for one in front} == unbeaten
    assert len(front) == len(unbeaten)
    assert [one.seconds for one in front] == sorted(one.seconds for one in front)
    assert front[0].seconds == min(one.seconds for one in cloud)
    assert front[-1].loss == min(one.loss for one in cloud)


def test_a_front_of_forecasts_runs_from_the_cheapest_to_the_best() -> None:
    firsts = SPACE.above(SMALL)
    forecasts = [made_from().forecast(continuation) for continuation in SEARCH.enumerated(firsts)]
    front = front_of(forecasts)
    assert front[0].continuation == ((STEP, SMALL), (FULL_STEP, FULL))
    assert front[-1].continuation == ((STEP, FULL),)


BENT = [at(1.0, 8.0), at(2.0, 3.0), at(4.0, 2.5), at(8.0, 2.3), at(16.0, 2.0)]


def test_the_knee_is_where_the_front_bends() -> None:
    assert knee_of(BENT) == BENT[1]


def test_the_knee_does_not_depend_on_units() -> None:
    scaled = [at(60 * one.seconds, one.loss / 7) for one in BENT]
    assert knee_of(scaled) == scaled[1]


@pytest.mark.parametrize("place", range(1, 6))
def test_a_planted_knee_is_found(place: int) -> None:
    """Losses fall as seconds^-1 up to the knee and as seconds^-0.1 from there on."""
    seconds = [2.0**k for k in range(7)]
    bend = seconds[place]
    front = [at(s, 100 / min(s, bend) / max(1.0, s / bend) ** 0.1) for s in seconds]
    assert knee_of(front) == front[place]


@pytest.mark.parametrize("front", [BENT[:1], BENT[:2]])
def test_a_front_that_cannot_bend_is_taken_at_its_best(front: list[Forecast]) -> None:
    assert knee_of(front) == front[-1]


# --- What is searched


def best_score(forecasts: Sequence[Forecast]) -> float:
    return min(forecast.score for forecast in forecasts)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_is_known_to_be_good_is_looked_at_first(sampler: str) -> None:
    known = start_continuations(SEARCH)
    found = SEARCH.searched(made_from(), known, 12, sampler, 0)
    assert len(found) == 12
    continuations = [forecast.continuation for forecast in found]
    assert continuations[: len(known)] == [decoded(SEARCH, arrivals) for arrivals in known]
    for forecast in found:
        assert is_way_on(SEARCH, forecast.continuation)
        assert forecast == made_from().forecast(forecast.continuation)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_seed_proposes_the_same_continuations_and_another_one_others(sampler: str) -> None:
    first, second, other = (SEARCH.searched(made_from(), [], 70, sampler, s) for s in (3, 3, 4))
    assert first == second
    assert first != other


def test_more_that_is_known_than_there_are_trials_is_cut() -> None:
    assert len(SEARCH.searched(made_from(), start_continuations(SEARCH), 3, "random", 0)) == 3


def test_where_nothing_is_left_to_grow_nothing_is_searched() -> None:
    grown = replace(SEARCH, current=FULL)
    assert grown.searched(made_from(), [], 10, "nsga2", 0) == []


PLANTED: Continuation = ((STEP, SMALL), (4200, net(3, 12)), (7800, FULL))


@dataclass(frozen=True)
class PlantedForecastInputs(ForecastInputs):
    """Forecasts how far a continuation is from the planted one, in steps, values of axes and losses alike."""

    def forecast(self, continuation: Continuation) -> Forecast:
        steps = range(STEP, FULL_STEP, 100)
        miss = sum(_distance(_on(continuation, step), _on(PLANTED, step)) for step in steps) / len(
            steps
        )
        return Forecast(continuation, 1.0 + miss, 1.0 + miss, miss)


def _on(continuation: Continuation, step: int) -> SubnetConfig:
    return [subnet for start, subnet in continuation if start <= step][-1]


def _distance(one: SubnetConfig, other: SubnetConfig) -> float:
    return abs(one.total_depth - other.total_depth) + abs(one.img_size - other.img_size) / 4


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_planted_continuation_of_two_growths_is_found_better_than_by_single_jumps(
    sampler: str, seed: int
) -> None:
    planted = PlantedForecastInputs(ScalingLaw(0.3), {}, FULL, 1.0, TOTAL)
    assert planted.forecast(PLANTED).score == 0.0
    jumps = [
        planted.forecast(continuation) for continuation in SEARCH.enumerated(SPACE.above(SMALL))
    ]
    found = SEARCH.searched(planted, [], 300, sampler, seed)
    best = min(found, key=lambda forecast: forecast.score)
    assert best.score < 0.75 * best_score(jumps)
    assert len(best.continuation) >= 3


@pytest.mark.parametrize("sampler", ["nsga2", "tpe"])
def test_samplers_that_learn_come_closer_than_drawing_at_random(sampler: str) -> None:
    planted = PlantedForecastInputs(ScalingLaw(0.3), {}, FULL, 1.0, TOTAL)

    def mean_of_the_last(name: str) -> float:
        last = SEARCH.searched(planted, [], 300, name, 0)[-50:]
        return sum(forecast.score for forecast in last) / len(last)

    assert mean_of_the_last(sampler) < 0.6 * mean_of_the_last("random")


def test_growths_in_several_steps_widen_the_front() -> None:
    """Between two subnets that may each stay to the end lie continuations that pass from one to the other."""
    firsts = SPACE.above(SMALL)
    jumps = front_of(
        [made_from().forecast(continuation) for continuation in SEARCH.enumerated(firsts)]
    )
    found = SEARCH.searched(made_from(), start_continuations(SEARCH), 300, "nsga2", 0)
    better = [one for one in found if any(beats(one, jump) for jump in jumps)]
    assert any(len(one.continuation) > 2 for one in better)


# --- Rules that take a point of the front


def inputs(**fields: object) -> DecisionInputs:
    firsts = SPACE.above(SMALL)
    values = {
        "index": 0,
        "step": STEP,
        "steps_per_epoch": 100,
        "total_steps": TOTAL,
        "full_step": FULL_STEP,
        "current": SMALL,
        "steps_so_far": ((SMALL, STEP),),
        "curve": tuple((float(step), 6.0 * step**-0.3) for step in range(100, STEP, 50)),
        "candidates": firsts,
        "losses": (tuple((2.0,) for _ in firsts),),
        "step_seconds": {str(subnet): relative_cost(SPEC, subnet) for subnet in firsts},
    }
    return DecisionInputs.model_validate({**values, **fields})


def chooser(rule: str, sampler: str = "nsga2") -> Chooser:
    decisions = SPACE.decisions.model_copy(update={"continuation_trials": 40})
    space = SPACE.model_copy(update={"decisions": decisions})
    return Chooser(rule, space, sampler, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_rule_pareto_takes_the_knee(sampler: str) -> None:
    decision = decide(chooser("pareto", sampler), inputs())
    front = [at(p.remaining_seconds, p.predicted_loss) for p in decision.front]
    knee = decision.front[front.index(knee_of(front))]
    assert decision.continuation == decision.chosen.continuation == knee.continuation
    assert decision.chosen.predicted_loss == knee.predicted_loss
    assert decision.chosen.remaining_seconds == knee.remaining_seconds
    full_from = decision.continuation[-1][0]
    assert decision.reason.startswith("the knee of a front of ")
    assert decision.reason.endswith(f"; full from step {full_from}")


@pytest.mark.parametrize("seconds", [2000.0, 2500.0, 4000.0, 6000.0, 8900.0])
def test_the_rule_budget_takes_the_best_that_fits(seconds: float) -> None:
    decision = decide(chooser("budget"), inputs(seconds_left=seconds))
    chosen = decision.chosen
    affordable = [p for p in decision.front if p.remaining_seconds <= seconds]
    assert 0 < len(affordable) < len(decision.front)
    assert chosen.remaining_seconds <= seconds
    assert chosen.predicted_loss == min(p.predicted_loss for p in affordable)
    assert decision.reason.startswith(f"the lowest end loss within the {seconds:.0f} s")


def test_more_money_buys_a_lower_loss() -> None:
    budgets = (1800.0, 2500.0, 4000.0, 6000.0, 9100.0)
    found = [decide(chooser("budget"), inputs(seconds_left=seconds)) for seconds in budgets]
    losses = [decision.chosen.predicted_loss for decision in found]
    assert losses == sorted(set(losses), reverse=True)
    assert found[-1].continuation == ((STEP, FULL),)


def test_the_rule_budget_says_so_where_nothing_fits() -> None:
    decision = decide(chooser("budget"), inputs(seconds_left=1.0))
    cheapest = decision.front[0]
    assert decision.continuation == cheapest.continuation == ((STEP, SMALL), (FULL_STEP, FULL))
    assert decision.reason.startswith("the cheapest: none fits the 1 s that are left")


def test_the_rule_budget_grows_in_several_steps_where_that_buys_more() -> None:
    """More than to stay small to the end costs, less than to be of the next size to the end."""
    option = {subnet: relative_cost(SPEC, subnet) for subnet in SPACE.above(SMALL)}
    rest = TOTAL - FULL_STEP
    small, middle = ((FULL_STEP - STEP) * option[s] + rest for s in (SMALL, net(4, 8)))
    budget = (small + middle) / 2
    decision = decide(chooser("budget"), inputs(seconds_left=budget))
    jumps = [
        p for p in decision.front if len(p.continuation) == 2 and p.remaining_seconds <= budget
    ]
    assert len(decision.continuation) >= 3
    assert all(decision.chosen.predicted_loss < jump.predicted_loss for jump in jumps)


def test_a_budget_is_no_number_that_a_decision_can_do_without() -> None:
    with pytest.raises(AssertionError, match="comes with a budget"):
        decide(chooser("budget"), inputs(seconds_left=None))


def test_scores_of_continuations_are_finite_to_the_last_step() -> None:
    last = replace(SEARCH, step=TOTAL - 2, full_step=TOTAL - 1)
    forecasts = [
        made_from().forecast(continuation) for continuation in last.enumerated([SMALL, FULL])
    ]
    assert all(math.isfinite(forecast.score) for forecast in forecasts)


# The current subnet costs a quarter of the full model; the full model already has its loss.
LAW = ScalingLaw(learning=0.2, capacity=0.5)
CURRENT = PricedSubnet(relative_cost=0.25, loss=2.0, step_seconds=0.25)
HALF = PricedSubnet(relative_cost=0.5, loss=2.0, step_seconds=0.5)
PRICED_FULL = PricedSubnet(relative_cost=1.0, loss=2.0, step_seconds=1.0)
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
    full: PricedSubnet = PRICED_FULL,
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
    assert LAW.transfer(CURRENT, PRICED_FULL) == 1.0
    assert LAW.transfer(CURRENT, replace(PRICED_FULL, loss=4.0)) == 0.5


def test_where_a_subnet_falls_behind_its_place_on_the_curve_counts() -> None:
    """At loss ~ progress^-0.2 a loss that is twice as high belongs to a 32nd of the progress."""
    assert LAW.transfer(CURRENT, replace(PRICED_FULL, loss=1.0)) == pytest.approx(1 / 32)


def test_what_carries_over_is_counted_from_guessing() -> None:
    """A subnet that has learnt what the full model shows nothing of is worth next to nothing."""
    law = replace(LAW, chance_loss=4.0)
    assert law.transfer(CURRENT, PRICED_FULL) == 1.0
    none = law.transfer(replace(CURRENT, loss=0.4), replace(PRICED_FULL, loss=4.0))
    assert none == pytest.approx(0.1 / (math.log(10) + 0.1))
    half = law.transfer(replace(CURRENT, loss=1.0), replace(PRICED_FULL, loss=2.0))
    assert half == pytest.approx((math.log(2) + 0.1) / (math.log(4) + 0.1))
    neither = law.transfer(replace(CURRENT, loss=4.1), replace(PRICED_FULL, loss=4.2))
    assert neither == 1.0  # nothing learnt, nothing lost
    assert law.transfer(CURRENT, replace(PRICED_FULL, loss=1.0)) == pytest.approx(1 / 32)


def test_the_full_model_has_learnt_what_its_loss_shows() -> None:
    """At loss ~ progress^-0.2 a loss that is twice as high belongs to a 32nd of the progress."""
    assert LAW.progress_of_full(CURRENT, PRICED_FULL, 6400.0) == 6400.0
    assert LAW.progress_of_full(CURRENT, replace(PRICED_FULL, loss=1.0), 6400.0) == 6400.0
    twice = replace(PRICED_FULL, loss=4.0)
    assert LAW.progress_of_full(CURRENT, twice, 6400.0) == pytest.approx(200.0)
    assert LAW.progress_of_full(CURRENT, twice, 10.0) == 1.0


def test_the_forecast_of_the_full_model_is_the_formula() -> None:
    found = ahead(PRICED_FULL, dates=SHORT)
    loss = 2.0 * (1 + 200 / 500) ** -0.2
    assert full_from(found) == 1000
    assert found.seconds == pytest.approx(200.0)
    assert found.loss == pytest.approx(loss)
    assert found.score == pytest.approx(loss * 200.0**0.05)


def test_the_forecast_of_staying_counts_what_small_steps_are_worth() -> None:
    full = replace(PRICED_FULL, loss=4.0)
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
    assert full_from(ahead(PRICED_FULL)) == DATES.step


def test_growing_wins_at_the_end_though_it_is_worse_now() -> None:
    shocked = with_shock(PRICED_FULL, 0.25)
    assert shocked.loss > CURRENT.loss
    assert ahead(shocked, shocked).loss < ahead(CURRENT, shocked).loss
    assert ahead(shocked, shocked).score < ahead(CURRENT, shocked).score


def test_staying_wins_where_a_small_step_teaches_nearly_as_much() -> None:
    law = ScalingLaw(learning=0.5, capacity=0.1)
    stay = ahead(CURRENT, law=law)
    assert ahead(PRICED_FULL, law=law).loss < stay.loss
    assert ahead(PRICED_FULL, law=law).score > stay.score
    assert full_from(stay) == DATES.switch_steps[-1]


@pytest.mark.parametrize(("full_seconds", "grows"), [(0.3, True), (100.0, False)])
def test_where_seconds_dominate_the_run_stays_small_as_long_as_it_may(
    full_seconds: float, grows: bool
) -> None:
    law = replace(LAW, capacity=0.25)
    full = replace(PRICED_FULL, step_seconds=full_seconds)
    full_now, stay = ahead(full, full, law), ahead(CURRENT, full, law)
    assert (full_now.score < stay.score) is grows
    assert full_from(stay) == (2000 if grows else 8500)


def test_where_larger_learns_much_faster_the_run_is_full_as_soon_as_it_may() -> None:
    law = ScalingLaw(learning=0.2, capacity=1.5)
    stay = ahead(CURRENT, law=law)
    assert full_from(stay) == DATES.switch_steps[0]
    assert ahead(PRICED_FULL, law=law).score < stay.score


@pytest.mark.parametrize(("step", "lead", "grows"), [(2700, 0.0, False), (7700, 0.4, True)])
def test_a_late_run_becomes_full_once_larger_candidates_are_better(
    step: int, lead: float, grows: bool
) -> None:
    """Early on the losses do not differ between candidates; later the larger ones lead."""
    law = ScalingLaw(learning=0.3, capacity=0.17)
    full = with_shock(PRICED_FULL, -lead)
    assert (gain_of_growing(full, law, Dates(step, (8500,), 10000)) > 1) is grows


def test_the_less_of_its_learning_the_full_model_shows_the_sooner_it_grows() -> None:
    """Every plan ends full; what does not transfer has to be learnt at full size."""
    law = ScalingLaw(learning=0.5, capacity=0.1)
    gains = [
        gain_of_growing(with_shock(PRICED_FULL, shock), law) for shock in (0.0, 0.05, 0.2, 0.8)
    ]
    assert gains == sorted(set(gains))
    assert gains[0] < 1 < gains[-1]


def test_the_further_the_full_model_leads_the_sooner_it_grows() -> None:
    law = ScalingLaw(learning=0.5, capacity=0.1)
    gains = [gain_of_growing(with_shock(PRICED_FULL, -lead), law) for lead in (0.0, 0.1, 0.3, 1.0)]
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
        ahead(CURRENT, progress=progress).loss / ahead(PRICED_FULL, progress=progress).loss
        for progress in (100.0, 1000.0, 5000.0)
    ]
    assert gains == sorted(set(gains), reverse=True)


def test_a_run_that_has_learnt_nothing_yet_has_a_forecast() -> None:
    begin = Dates(step=0, switch_steps=(10,), total_steps=20)
    progress = LAW.progress_of_full(CURRENT, PRICED_FULL, 0.0)
    assert ahead(PRICED_FULL, dates=begin, progress=progress).loss == pytest.approx(2.0 * 21**-0.2)


def test_a_way_without_steps_leaves_the_loss_where_it_is() -> None:
    assert LAW.end_loss([], PRICED_FULL, 500.0) == PRICED_FULL.loss
    assert LAW.end_loss([ForecastSegment(CURRENT, 0)], PRICED_FULL, 500.0) == PRICED_FULL.loss
    assert seconds_of([]) == seconds_of([ForecastSegment(CURRENT, 0)]) == 0.0
    assert math.isfinite(LAW.score(PRICED_FULL.loss, 0.0))


def test_a_segment_is_the_sum_of_its_parts() -> None:
    whole, parts = (
        [ForecastSegment(CURRENT, 700), ForecastSegment(HALF, 300)],
        [ForecastSegment(CURRENT, 400), ForecastSegment(CURRENT, 300)],
    )
    parts = [*parts, ForecastSegment(HALF, 300)]
    assert LAW.end_loss(whole, PRICED_FULL, 500.0) == pytest.approx(
        LAW.end_loss(parts, PRICED_FULL, 500.0)
    )
    assert seconds_of(whole) == pytest.approx(seconds_of(parts)) == 700 * 0.25 + 300 * 0.5


@pytest.mark.parametrize("option", [CURRENT, HALF, PRICED_FULL])
def test_every_step_lowers_the_loss_and_takes_its_seconds(option: PricedSubnet) -> None:
    ways = [[ForecastSegment(option, steps)] for steps in (1, 10, 100, 1000)]
    losses = [LAW.end_loss(way, PRICED_FULL, 500.0) for way in ways]
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
    subnets = {SUBNET: CURRENT, half: HALF, FULL_SUBNET: PRICED_FULL}
    inputs = ForecastInputs(LAW, subnets, FULL_SUBNET, 500.0, 10_000)
    continuation = ((1000, SUBNET), (3000, half), (8000, FULL_SUBNET))
    found = inputs.forecast(continuation)
    segments = [
        ForecastSegment(CURRENT, 2000),
        ForecastSegment(HALF, 5000),
        ForecastSegment(PRICED_FULL, 2000),
    ]
    assert (found.continuation, found.seconds) == (continuation, seconds_of(segments))
    assert found.loss == LAW.end_loss(segments, PRICED_FULL, 500.0)
    assert found.score == LAW.score(found.loss, found.seconds)


DEPTHS, SIZES = (6, 8, 10, 12), (128, 160, 192, 224)
RATES = (TokenRule(0.5), TokenRule(0.7), ALL_TOKENS)
GRID = tuple(SubnetConfig(*point) for point in product(DEPTHS, SIZES, RATES))
CORNERS = tuple(
    SubnetConfig(*point) for point in product((6, 12), (128, 224), (RATES[0], RATES[2]))
)
Plane = Callable[[SubnetConfig], float]


def plane(depth: float, size: float, rate: float) -> Plane:
    """Return a loss that is a power law in each axis."""
    return lambda subnet: (
        9.0 * subnet.total_depth**depth * subnet.img_size**size * subnet.tokens.keep_rate**rate
    )


@pytest.mark.parametrize(
    "planted",
    [plane(-0.1, -0.2, -0.05), plane(0.0, -0.3, 0.0), plane(0.15, 0.02, -0.4)],
    ids=["all better", "size alone", "deeper is worse"],
)
def test_losses_on_a_plane_are_recovered(planted: Plane) -> None:
    known = {subnet: planted(subnet) for subnet in CORNERS}
    filled = interpolate_losses(known, GRID)
    assert tuple(filled) == GRID
    for subnet, loss in filled.items():
        assert math.log(loss) == pytest.approx(math.log(planted(subnet)), abs=1e-3)


def test_known_losses_stay_as_they_are() -> None:
    known = {subnet: 2.0 + 0.1 * (number % 3) for number, subnet in enumerate(CORNERS)}
    filled = interpolate_losses(known, GRID)
    assert {subnet: filled[subnet] for subnet in known} == known
    assert interpolate_losses(known, CORNERS[:3]) == {s: known[s] for s in CORNERS[:3]}


def test_noise_does_not_move_the_plane_by_more_than_itself() -> None:
    planted = plane(-0.1, -0.2, -0.05)
    noisy = {s: planted(s) * math.exp(0.01 * (-1) ** n) for n, s in enumerate(GRID[::5])}
    for subnet, loss in interpolate_losses(noisy, GRID).items():
        assert math.log(loss / planted(subnet)) == pytest.approx(0.0, abs=0.02)


def test_nothing_leaves_the_range_of_what_is_known() -> None:
    """Beyond the largest known subnet the plane would go on falling."""
    planted = plane(-0.5, -0.5, 0.0)
    known = {s: planted(s) for s in GRID if s.total_depth <= 8 and s.img_size <= 160}
    filled = interpolate_losses(known, GRID)
    assert min(filled.values()) == min(known.values())
    assert max(filled.values()) == max(known.values())
    assert filled[SubnetConfig(12, 224)] == min(known.values())


def test_an_axis_of_which_nothing_is_known_plays_no_part() -> None:
    known = {SubnetConfig(depth, 160): 8.0 / depth for depth in DEPTHS}
    filled = interpolate_losses(known, [SubnetConfig(8, 128), SubnetConfig(8, 224)])
    assert list(filled.values()) == pytest.approx([1.0, 1.0], rel=1e-2)


def test_one_known_loss_is_that_of_all() -> None:
    filled = interpolate_losses({GRID[0]: 2.5}, GRID)
    assert list(filled.values()) == pytest.approx([2.5] * len(GRID))


def test_stages_count_by_all_their_blocks() -> None:
    known = {SubnetConfig((2, 6), 224): 3.0, SubnetConfig((4, 12), 224): 2.0}
    between = interpolate_losses(known, [SubnetConfig((3, 9), 224)])[SubnetConfig((3, 9), 224)]
    assert 2.0 < between < 3.0


def test_the_order_of_what_is_known_changes_nothing_that_counts() -> None:
    planted = plane(-0.1, -0.2, -0.05)
    known = {subnet: planted(subnet) for subnet in CORNERS}
    backwards = dict(reversed(known.items()))
    one, two = (interpolate_losses(given, GRID) for given in (known, backwards))
    assert list(one.values()) == pytest.approx(list(two.values()), rel=1e-12)
