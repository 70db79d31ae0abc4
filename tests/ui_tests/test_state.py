from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest

from autoprog.decisions import Candidate, Decision
from autoprog.events import (
    CostsKnown,
    CostsMeasured,
    Decided,
    Evaluated,
    Event,
    Interrupted,
    RunFinished,
    RunStarted,
    StageStarted,
    StepLogged,
    WarningRaised,
)
from autoprog.presets import preset
from autoprog.recipe import RECIPES
from autoprog.stage import Curriculum
from autoprog.ui.state import MAX_POINTS, MAX_WARNINGS, RunState, fold, reduce
from supernet.config import SubnetConfig
from supernet.cost import relative_cost
from supernet.zoo import ZOO

SPEC = ZOO["deit-s"]
SCHEDULE = preset("linear", SPEC, 40, RECIPES["deit"].strength)
SMALL = SubnetConfig(6, 128)


def started(**changes: object) -> RunStarted:
    values = {
        "step": 0,
        "run_id": "r",
        "run_kind": "train",
        "model": "deit-s",
        "total_steps": 4000,
        "steps_per_epoch": 100,
        "epochs": 40.0,
        "num_images": 12_800,
        "device": "cpu",
        "amp": "none",
        "seed": 0,
    }
    return RunStarted(**{**values, **changes})


def progressed(step: int, subnet: SubnetConfig = SMALL, **changes: float) -> StepLogged:
    values = {
        "epoch": step / 100,
        "loss": 2.0,
        "lr": 1e-3,
        "step_seconds": 0.1,
        "images_per_second": 1280.0,
        "data_wait_fraction": 0.0,
        "train_seconds": step * 0.1,
    }
    return StepLogged(step=step, subnet=subnet, **{**values, **changes})


def test_a_whole_run_folds_to_what_its_events_said(events: list[Event]) -> None:
    state = fold(events)
    assert (state.phase, state.step, state.fraction_done) == ("complete", 4000, 1.0)
    assert (state.model, state.seed, state.device, state.amp) == ("deit-s", 3, "cuda", "bfloat16")
    assert (state.stage, state.subnet) == (3, SubnetConfig(12, 224))
    assert len(state.evaluations) == 20
    assert [decision.index for decision in state.decisions] == [0, 1, 2]
    assert [growth.step for growth in state.growths] == [1000, 3000]
    assert state.warnings == ("the data loader is slower than the model",)
    assert state.result is not None
    assert state.result["top1"] == 73.25
    assert state.eta_seconds == 0.0


def test_the_state_in_the_middle_is_the_last_report(
    events_until: Callable[[int], list[Event]],
) -> None:
    state = fold(events_until(2300))
    assert (state.phase, state.step, state.epoch, state.stage) == ("training", 2300, 23.0, 2)
    assert state.lr == pytest.approx(0.000383277, abs=1e-9)
    assert state.images_per_second == 1600.0
    assert state.data_wait_fraction == 0.2
    assert state.train_seconds == pytest.approx(1000 * 0.05 + 1300 * 0.08)


def test_a_supernet_phase_is_a_phase_and_a_segment(
    events_until: Callable[[int], list[Event]],
) -> None:
    state = fold(events_until(900))
    assert state.phase == "supernet"
    assert [(p.start_step, p.stop_step, p.supernet) for p in state.segments] == [
        (0, 800, False),
        (800, 1000, True),
    ]


def test_without_a_plan_what_remains_costs_the_speed_now() -> None:
    state = fold([started(), progressed(1000)])
    assert state.eta_seconds == pytest.approx(3000 * 0.1)


def test_waiting_for_data_is_part_of_what_remains() -> None:
    state = fold([started(), progressed(1000, data_wait_fraction=0.5)])
    assert state.eta_seconds == pytest.approx(3000 * 0.1 / 0.5)


def test_stages_not_seen_are_priced_by_their_relative_cost() -> None:
    state = fold([started(), progressed(500)], RunState(schedule=SCHEDULE))
    later = [SubnetConfig(8, 160), SubnetConfig(10, 192), SubnetConfig(12, 224)]
    scale = [relative_cost(SPEC, subnet) / relative_cost(SPEC, SMALL) for subnet in later]
    assert state.eta_seconds == pytest.approx(500 * 0.1 + 1000 * 0.1 * sum(scale))


def test_stages_that_were_seen_cost_what_was_measured() -> None:
    seen = progressed(400, SubnetConfig(12, 224), step_seconds=0.7)
    state = fold([started(), seen, progressed(3000, SubnetConfig(10, 192))], RunState(SCHEDULE))
    assert state.eta_seconds == pytest.approx(1000 * 0.7)


def test_a_step_time_is_smoothed() -> None:
    state = fold([started(), progressed(20), progressed(40, step_seconds=0.2)])
    assert state.step_seconds[SMALL] == pytest.approx(0.1 + 0.3 * 0.1)


def test_nothing_is_promised_before_a_speed_is_known() -> None:
    assert fold([started()], RunState(schedule=SCHEDULE)).eta_seconds is None


def test_points_are_bounded_and_keep_the_whole_run() -> None:
    state = fold([started(total_steps=100_000), *map(progressed, range(20, 100_001, 20))])
    steps = [point.step for point in state.points]
    assert MAX_POINTS // 2 <= len(steps) <= MAX_POINTS
    assert steps[0] == 20
    assert steps[-1] > 99_000
    assert max(b - a for a, b in pairwise(steps)) <= 400


def test_an_event_costs_little() -> None:
    state = fold([started(total_steps=10**6), *map(progressed, range(1, 2000))])
    begin = time.process_time()
    for step in range(2000, 7000):
        state = reduce(state, progressed(step))
    assert (time.process_time() - begin) / 5000 < 200e-6


def test_warnings_are_counted_but_only_the_last_are_kept() -> None:
    state = fold([started(), *(WarningRaised(step=1, message=str(n)) for n in range(50))])
    assert state.num_warnings == 50
    assert state.warnings == tuple(str(n) for n in range(50 - MAX_WARNINGS, 50))


def test_going_on_continues_the_segment_that_was_interrupted() -> None:
    stage = StageStarted(
        step=0, stage=0, subnet=SMALL, stop_step=1000, curriculum=Curriculum(randaug=4.0)
    )
    again = stage.model_copy(update={"step": 300})
    state = fold([started(), stage, Interrupted(step=300, signal="SIGTERM")])
    assert state.phase == "interrupted"
    state = reduce(reduce(state, started(step=300)), again)
    assert state.phase == "training"
    assert [(p.start_step, p.stop_step) for p in state.segments] == [(0, 1000)]


def test_a_decision_that_is_told_again_counts_once(events: list[Event]) -> None:
    state = fold(events)
    again = next(event for event in events if event.kind == "decided")
    assert len(reduce(state, again).decisions) == 3


def test_a_plan_that_does_not_fit_the_run_is_left_aside() -> None:
    state = fold([started(epochs=0.02, total_steps=2)], RunState(schedule=SCHEDULE))
    assert state.table is None
    assert replace(state, phase="complete").eta_seconds == 0.0


def under_a_budget(*more: Event) -> RunState:
    """Return the state of a run of 200 s that was configured for 4,000 steps."""
    begin = [started(time_budget_seconds=200.0), stage_from(0, 0)]
    return fold([*begin, *more], RunState(schedule=SCHEDULE))


def stage_from(step: int, stage: int, stop_step: int = 0) -> StageStarted:
    subnet = SCHEDULE.resolve(100, 40).segments[0].subnet if stage == 0 else SPEC.full
    return StageStarted(
        step=step, stage=stage, subnet=subnet, stop_step=stop_step, curriculum=Curriculum()
    )


def test_under_a_time_budget_fraction_and_eta_are_those_of_the_time() -> None:
    state = under_a_budget(progressed(300, budget_fraction=0.25))
    assert state.fraction_done == 0.25
    assert state.eta_seconds == pytest.approx(150.0)
    assert state.total_steps == 1200  # at the speed so far
    assert state.num_stages == len(SCHEDULE.stages)


def test_under_a_time_budget_stages_end_where_the_next_begin() -> None:
    state = under_a_budget(
        progressed(300, budget_fraction=0.25),
        stage_from(320, 1, stop_step=900),
        progressed(700, budget_fraction=0.9),
    )
    spans = [(segment.start_step, segment.stop_step) for segment in state.segments]
    assert spans == [(0, 320), (320, 778)]
    done = reduce(state, RunFinished(step=800, result={}))
    spans = [(segment.start_step, segment.stop_step) for segment in done.segments]
    assert (done.total_steps, done.fraction_done, spans[-1]) == (800, 1.0, (320, 800))


FULL = SPEC.full
COSTS = CostsKnown(
    step=0, step_seconds=((SMALL, 0.1), (SubnetConfig(8, 160), 0.2), (FULL, 1.0)), num_estimated=1
)


def by_time(*more: Event) -> RunState:
    """Return the state of a search that is as long as 400 steps of the full model."""
    return fold([started(cost_fraction=0.5, total_steps=400), *more])


def decided(
    step: int, position: int, continuation: tuple[tuple[int, SubnetConfig], ...]
) -> Decided:
    candidate = Candidate(
        subnet=continuation[0][1],
        label="stay",
        loss=1.0,
        difference=0.0,
        difference_se=0.0,
        step_seconds=0.1,
        predicted_loss=0.5,
        remaining_seconds=1.0,
        score=0.5,
        continuation=continuation,
    )
    decision = Decision(
        index=0,
        step=step,
        epoch=step / 100,
        rule="rollout",
        current=SMALL,
        candidates=(candidate,),
        reason="",
        continuation=continuation,
        position=position,
        length=400,
    )
    return Decided(step=step, decision=decision)


def at_fraction(
    step: int, fraction: float, trained: float, subnet: SubnetConfig = SMALL
) -> StepLogged:
    return progressed(step, subnet, budget_fraction=fraction, train_seconds=trained)


def test_while_costs_are_measured_a_forecast_counts_what_is_left_of_that() -> None:
    told = CostsMeasured(step=0, num_measured=0, num_subnets=3, left_seconds=20.0)
    state = by_time(told)
    assert (state.phase, state.eta_seconds) == ("measuring", None)
    told = told.model_copy(update={"num_measured": 2, "left_seconds": 8.0, "run_seconds": 300.0})
    assert reduce(state, told).eta_seconds == 308.0
    assert reduce(state, COSTS).phase == "training"


def test_a_search_by_time_forecasts_by_measured_costs_from_its_first_step_on() -> None:
    assert by_time(COSTS).eta_seconds == pytest.approx(400.0)
    state = by_time(COSTS, at_fraction(100, 0.025, trained=10.0))
    assert state.eta_seconds == pytest.approx(390.0)


def test_a_forecast_trusts_costs_at_first_and_what_was_seen_later() -> None:
    """Steps take twice as long as measured: after a tenth of the run that is half believed."""
    begin = at_fraction(1, 0.0, trained=0.0)
    early = by_time(COSTS, begin, at_fraction(400, 0.1, trained=80.0)).eta_seconds
    assert early == pytest.approx(360.0 * 1.5)
    late = by_time(COSTS, begin, at_fraction(3600, 0.9, trained=720.0)).eta_seconds
    assert late == pytest.approx(40.0 * 1.9)


def test_a_run_that_goes_on_compares_what_it_sees_itself() -> None:
    """Steps of another attempt may have been made by another machine."""
    state = by_time(
        COSTS, at_fraction(2000, 0.5, trained=500.0), at_fraction(2400, 0.6, trained=540.0)
    )
    assert state.eta_seconds == pytest.approx(160.0)


def test_the_time_left_of_a_growing_search_does_not_rise() -> None:
    """Small steps first, full ones at the end, each as measured, estimates and evaluations between them."""
    wall, fraction, step = 0.0, 0.0, 0
    forecasts = []
    state = by_time(COSTS)
    for subnet, seconds, until in ((SMALL, 0.1, 0.5), (FULL, 1.0, 1.0)):
        while fraction < until - 1e-9:
            step, wall, fraction = step + 20, wall + 20 * seconds, fraction + 20 * seconds / 400
            state = reduce(state, at_fraction(step, fraction, wall * 1.03, subnet))
            forecasts.append((wall, state.eta_seconds or 0.0))
    ends = [wall + left for wall, left in forecasts]
    assert max(ends) < 1.05 * min(ends)
    assert all(after <= 1.01 * before for (_, before), (_, after) in pairwise(forecasts))


def test_steps_of_a_search_by_time_are_told_when_there_is_a_plan() -> None:
    state = by_time(COSTS, at_fraction(400, 0.1, trained=40.0))
    assert state.shown_total_steps is None
    planned = decided(400, 40, ((40, SMALL), (200, FULL)))
    state = reduce(reduce(state, planned), at_fraction(600, 0.15, trained=60.0))
    assert state.shown_total_steps == 600 + 1400 + 200  # 140 full steps' time at a tenth, then 200
    later = reduce(state, at_fraction(2000, 0.5, trained=200.0))
    assert later.shown_total_steps == 2200


def test_a_search_by_epochs_forecasts_by_its_plan() -> None:
    plan = decided(1000, 1000, ((1000, SMALL), (3000, FULL)))
    state = fold([started(), COSTS, progressed(1000), plan])
    assert state.eta_seconds == pytest.approx(2000 * 0.1 + 1000 * 1.0)


def test_evaluations_to_come_are_part_of_what_remains() -> None:
    evaluated = Evaluated(
        step=1000,
        epoch=10.0,
        subnet=SMALL,
        loss=1.0,
        top1=50.0,
        loss_ema=1.0,
        top1_ema=50.0,
        seconds=5.0,
        train_seconds=100.0,
        wall_seconds=105.0,
    )
    state = fold([started(), progressed(1000), evaluated])
    assert state.eta_seconds == pytest.approx(3000 * 0.1 + 3 * 5.0)


def test_what_was_seen_of_two_subnets_is_carried_on_to_larger_ones() -> None:
    """Steps have a fixed part, so the full model is cheaper than multiply-accumulates alone say."""
    middle = SubnetConfig(8, 160)
    cost = {one: relative_cost(SPEC, one) for one in (SMALL, middle, FULL)}
    seconds = {one: 0.5 + cost[one] for one in cost}
    events = [
        started(),
        progressed(980, SMALL, step_seconds=seconds[SMALL]),
        progressed(1000, middle, step_seconds=seconds[middle]),
        progressed(3000, SubnetConfig(10, 192), step_seconds=1.0),
    ]
    state = fold(events[:3], RunState(schedule=SCHEDULE))
    expected = 1000 * seconds[middle] + sum(
        1000 * (0.5 + relative_cost(SPEC, one)) for one in (SubnetConfig(10, 192), FULL)
    )
    assert state.eta_seconds == pytest.approx(expected)
