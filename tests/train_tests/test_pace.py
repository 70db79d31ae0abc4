"""Time budgets: positions follow the time used, and a run under one ends when it is used up."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from autoprog.budget_record import budget_record
from autoprog.environment import usable_cores
from autoprog.errors import RunError
from autoprog.train.optim import ElasticEma, decay_of
from autoprog.train.pace import BudgetPace, CostPace, StepPace
from supernet.config import SubnetConfig
from supernet.elastic import create_elastic
from supernet.zoo import ZOO


def test_without_a_budget_the_position_is_the_step() -> None:
    pace = StepPace()
    pace.update(3, 100.0, 5.0)
    pace.reserve(1e9)
    assert pace.position(7) == 7
    assert pace.projected_step(7, 40.0) == 40


def test_by_known_costs_a_step_moves_a_run_by_what_it_takes() -> None:
    small, full = SubnetConfig(2, 8), SubnetConfig(4, 16)
    steps, now = {small: 0}, [small]
    pace = CostPace(steps, {small: 0.1, full: 1.0}, lambda: now[0], total_steps=10)
    assert not pace.counts_steps
    assert (pace.position(0), pace.projected_step(0, 7.0)) == (0.0, 70)
    steps[small] = 70
    assert pace.position(70) == 7.0  # seventy tenths, without the error of a running sum
    now[0] = full
    assert pace.projected_step(70, 10.0) == 73
    steps[full] = 4
    pace.update(74, 1e9, 1e9)
    pace.reserve(1e9)
    assert (pace.position(74), pace.lr_position(74)) == (11.0, 10.0)
    assert pace.projected_step(74, 10.0) == 74


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a pace trust the first step that it sees."""
    monkeypatch.setattr("autoprog.train.pace._SETTLING_UPDATES", 1)


@pytest.mark.usefixtures("settled")
def test_positions_follow_the_fraction_of_the_budget() -> None:
    pace = BudgetPace(100.0, 1000)
    assert pace.position(0) == 0.0
    pace.update(10, 20.0, 0.5)
    assert pace.position(10) == pytest.approx(200.0)
    assert pace.position(14) == pytest.approx(220.0)  # four steps of half a second
    pace.reserve(20.0)
    pace.update(20, 40.0, 0.25)
    assert pace.position(20) == pytest.approx(500.0)
    assert pace.position(1000) == 1000.0


@pytest.mark.usefixtures("settled")
def test_a_position_never_falls() -> None:
    pace = BudgetPace(100.0, 1000)
    pace.update(10, 10.0, 1.0)
    guessed = pace.position(30)
    pace.update(30, 12.0, 0.1)  # much faster than foreseen
    assert pace.position(30) == guessed == pytest.approx(300.0)
    assert pace.position(31) == guessed


@pytest.mark.usefixtures("settled")
def test_steps_of_unknown_length_do_not_forget_the_last_ones() -> None:
    pace = BudgetPace(100.0, 1000)
    pace.update(10, 10.0, 1.0)
    pace.update(12, 12.0, 0.0)
    assert pace.position(13) == pytest.approx(130.0)


def test_the_end_is_projected_from_the_speed_now() -> None:
    pace = BudgetPace(100.0, 1000)
    assert pace.projected_step(0, 1000.0) == 0  # nothing is known yet
    pace.update(10, 20.0, 0.5)
    assert pace.projected_step(10, 1000.0) == 170
    assert pace.projected_step(10, 100.0) == 10


def test_a_budget_that_the_last_evaluation_would_eat_is_refused() -> None:
    pace = BudgetPace(60.0, 1000)
    with pytest.raises(RunError, match=r"--time-budget: 60 s are too short.*at least 124 s"):
        pace.reserve(31.0, is_start=True)


def test_a_slow_evaluation_later_does_not_end_the_run() -> None:
    pace = BudgetPace(60.0, 1000)
    pace.update(10, 20.0, 1.0)
    before = pace.position(10)
    pace.reserve(50.0)
    assert pace.position(10) == pytest.approx(1000 * 20 / 30)
    pace.reserve(1.0)
    assert pace.position(10) >= before  # it does not fall when less is kept back
    assert pace.position(10) == pytest.approx(1000 * 20 / 30)


def test_the_first_steps_foresee_nothing() -> None:
    pace = BudgetPace(600.0, 1000)
    assert pace.is_settling
    for step, seconds in enumerate([60.0, 0.05, 0.05, 0.05, 0.05, 0.05], 1):
        pace.update(step, 60.0 + 0.05 * step, seconds)
    assert not pace.is_settling
    assert pace.position(26) == pytest.approx(1000 * (60.3 + 20 * 0.05) / 600)


def test_an_average_does_not_reach_back_over_more_than_a_40th_of_the_run() -> None:
    ema = ElasticEma(create_elastic(ZOO["vit-mu"], 10), 50.0)
    ema.limit(100.0)
    assert ema.decay == decay_of(2.5)
    ema.limit(1e6)
    assert ema.decay == decay_of(50.0)


class Ticking:
    """A clock that only steps and evaluations move, so that a budget run is exact to the step."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


STEP_SECONDS = 0.5
BATCH_SIZE = 16


def budgeted(bench: Any, budget: float, lr: str, **settings: Any) -> tuple[Any, Any, Ticking]:
    schedule = bench.ramped(lr)
    changes = {"time_budget_seconds": budget, **settings}
    trainer = bench.trainer(bench.settings(**changes), schedule)
    return trainer, schedule, tick(trainer)


def tick(trainer: Any) -> Ticking:
    clock, take = Ticking(), trainer.stepper.step

    def step(*arguments: Any) -> torch.Tensor:
        clock.now += STEP_SECONDS
        return take(*arguments)

    trainer.clock = trainer.ledger.clock = clock
    trainer._saved_at, trainer.stepper.step = 0.0, step
    return clock


@pytest.mark.parametrize("lr", ["cosine", "wsd"])
def test_a_run_takes_its_time_and_no_more(bench: Any, lr: str) -> None:
    trainer, schedule, _ = budgeted(bench, 100.0, lr)
    outcome = bench.carry_out(trainer, schedule)
    assert 200 <= trainer.step <= 220  # 100 s of half a second each
    assert outcome.result.wall_seconds == pytest.approx(100.0, abs=20 * STEP_SECONDS)
    rates = [event.lr for event in outcome.of("step_logged")]
    recipe = trainer.recipe
    assert max(rates) == pytest.approx(recipe.peak_lr, rel=0.05)
    assert rates[-1] == pytest.approx(recipe.min_lr, rel=0.2)
    fractions = [event.budget_fraction for event in outcome.of("step_logged")]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def test_the_learning_rate_is_that_of_the_fraction_used(bench: Any) -> None:
    trainer, schedule, _ = budgeted(bench, 200.0, "cosine", log_every_steps=20)
    outcome = bench.carry_out(trainer, schedule)
    peak, low = trainer.recipe.peak_lr, min(trainer.recipe.min_lr, trainer.recipe.peak_lr)
    for event in outcome.of("step_logged"):
        fraction = (event.step - 1) * STEP_SECONDS / 200.0
        if 0.2 < fraction < 0.99:
            expected = low + 0.5 * (peak - low) * (1 + math.cos(math.pi * fraction))
            assert event.lr == pytest.approx(expected, rel=1e-3)


def test_stages_get_their_fraction_of_the_time(bench: Any) -> None:
    trainer, schedule, _ = budgeted(bench, 200.0, "cosine")
    outcome = bench.carry_out(trainer, schedule)
    starts = [event.step * STEP_SECONDS / 200.0 for event in outcome.of("stage_started")]
    assert starts[0] == 0.0
    assert starts[1] == pytest.approx(12 / 40, abs=0.02)
    assert starts[-1] == pytest.approx(24 / 40, abs=0.02)
    assert outcome.of("stage_started")[-1].subnet == ZOO["vit-mu"].full


def test_a_stopped_run_goes_on_with_what_is_left_of_the_time(bench: Any) -> None:
    trainer, schedule, _ = budgeted(bench, 100.0, "cosine")
    bench.signal_during(trainer, 90)
    stopped = bench.carry_out(trainer, schedule)
    assert stopped.state["seconds"]["train"] == pytest.approx(91 * STEP_SECONDS)
    again = bench.reopened(stopped.path, schedule, trainer.settings)
    tick(again)
    finished = bench.carry_out(again, schedule)
    assert 200 <= again.step <= 220
    assert finished.result.wall_seconds == pytest.approx(100.0, abs=20 * STEP_SECONDS)


def test_time_is_kept_for_the_last_evaluation(bench: Any) -> None:
    trainer, schedule, clock = budgeted(bench, 100.0, "cosine")
    validation = trainer.data.validation

    def slow() -> Any:
        clock.now += 10.0
        yield from validation()

    trainer.data.validation = slow
    outcome = bench.carry_out(trainer, schedule)
    evaluations = outcome.of("evaluated")
    assert [event.seconds for event in evaluations] == [10.0] * 4  # before the start and 3 stages
    assert 88.0 <= outcome.result.wall_seconds <= 100.0 + 20 * STEP_SECONDS
    last_step_seconds = outcome.result.wall_seconds - 10.0
    assert last_step_seconds == pytest.approx(88.0, abs=20 * STEP_SECONDS)


def test_a_real_clock_is_kept_to(bench: Any, tmp_path: Path) -> None:
    schedule = bench.ramped()
    trainer = bench.trainer(bench.settings(time_budget_seconds=4.0), schedule)
    outcome = bench.carry_out(trainer, schedule)
    assert 2.5 < outcome.result.wall_seconds < 5.0
    assert outcome.result.top1 >= 0.0


def test_what_is_reported_is_the_network_that_is_handed_over(bench: Any) -> None:
    """Also where slow evaluations leave no time for a step of the last stage."""
    trainer, schedule, clock = budgeted(bench, 40.0, "cosine")
    validation = trainer.data.validation

    def slow() -> Any:
        clock.now += 12.0
        yield from validation()

    trainer.data.validation = slow
    outcome = bench.carry_out(trainer, schedule)
    assert outcome.of("grown")[-1].after == ZOO["vit-mu"].full
    assert outcome.of("evaluated")[-1].subnet == ZOO["vit-mu"].full


def test_the_record_is_written_at_the_end_and_tells_of_all_attempts(bench: Any) -> None:
    trainer, schedule, _ = budgeted(bench, 100.0, "cosine", eval_every_epochs=3.0)
    bench.signal_during(trainer, 90)
    stopped = bench.carry_out(trainer, schedule)
    assert not (stopped.path / "budget.json").exists()
    again = bench.reopened(stopped.path, schedule, trainer.settings)
    tick(again)
    finished = bench.carry_out(again, schedule)
    record = budget_record(finished.events)
    assert record is not None
    assert (finished.path / "budget.json").read_text() == record.to_json()
    assert (finished.path / "budget.csv").read_text() == record.to_csv()
    assert record.hardware == (trainer.compute.hardware(),)
    assert record.hardware[0].endswith(f"{usable_cores()} cores")
    assert {speed.img_size for speed in record.speeds} == {8, 12, 16}
    assert sum(speed.steps for speed in record.speeds) == again.step
    rates = [speed.images_per_second for speed in record.speeds]
    assert rates == pytest.approx([BATCH_SIZE / STEP_SECONDS] * len(rates))
    assert len(record.scores) == len(finished.of("evaluated")) > 4
    hours = [score.hours for score in record.scores]
    assert hours == sorted(hours)
    assert hours[-1] * 3600 == pytest.approx(finished.result.wall_seconds, abs=1.0)
    assert record.scores[-1].top1 == finished.result.top1


def test_a_run_without_a_budget_leaves_no_record(bench: Any) -> None:
    outcome = bench.run(bench.settings(), bench.ramped())
    assert not list(outcome.path.glob("budget.*"))
