"""Where the seconds go, by a clock that the tests turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from autoprog.train.meter import Ledger, Meter, typical_seconds
from autoprog.train.ranks import ONE_PROCESS
from supernet.config import SubnetConfig

SMALL, LARGE = SubnetConfig(2, 8), SubnetConfig(4, 16)


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_ledger_charges_each_purpose_with_its_time(clock: Clock) -> None:
    ledger = Ledger(clock)
    for purpose, seconds in (("train", 3.0), ("evaluate", 2.0), ("train", 0.5)):
        with ledger.charge(purpose):
            clock.now += seconds
        clock.now += 10.0  # nobody's
    assert dict(ledger.seconds) == {"train": 3.5, "evaluate": 2.0}
    assert ledger.wall_seconds() == 5.5


def test_a_purpose_pays_for_what_failed(clock: Clock) -> None:
    ledger = Ledger(clock)

    def fail() -> None:
        with ledger.charge("lost"):
            clock.now += 4.0
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert ledger.seconds["lost"] == 4.0


def test_supernet_seconds_are_part_of_training_and_not_counted_twice(clock: Clock) -> None:
    ledger = Ledger(clock)
    ledger.seconds.update(train=8.0, supernet=5.0, search=1.0)
    assert ledger.wall_seconds() == 9.0


def test_the_meter_gives_the_seconds_of_each_step_once(clock: Clock) -> None:
    meter = Meter(torch.device("cpu"), Ledger(clock), ONE_PROCESS)
    for subnet, seconds in ((SMALL, 1.0), (LARGE, 4.0), (SMALL, 2.0)):
        start = meter.now()
        clock.now += seconds
        meter.add(torch.tensor(1.0), subnet, start)
        clock.now += 0.5  # waiting for images
    reading = meter.read(next_step=3, epoch=1.0, stage=0)
    assert reading is not None
    assert reading.timed == ((SMALL, 1.0), (LARGE, 4.0), (SMALL, 2.0))
    assert meter.read(next_step=3, epoch=1.0, stage=0) is None


def test_typical_seconds_leave_out_the_warm_up() -> None:
    assert typical_seconds([9.0, 1.0, 2.0, 3.0]) == 2.0
    assert typical_seconds([9.0, 1.0, 2.0, 3.0], warmup=3) == 3.0
    assert typical_seconds([9.0]) is None
    assert typical_seconds([]) is None


def ticking(trainer: Any, clock: Clock, step_seconds: Callable[[int], float]) -> None:
    """Let the trainer's clock run only inside steps (as long as given) and for a quarter second a batch."""
    take, batches = trainer.stepper.step, trainer.data.batches

    def step(images: Any, targets: Any, choice: Any, slots: Any, now: int) -> Any:
        clock.now += step_seconds(now)
        return take(images, targets, choice, slots, now)

    def slow(*arguments: Any, **named: Any) -> Any:
        for batch in batches(*arguments, **named):
            clock.now += 0.25
            yield batch

    trainer.clock = trainer.ledger.clock = clock
    trainer._saved_at = clock()
    trainer.stepper.step, trainer.data.batches = step, slow


def test_progress_tells_seconds_and_speed_without_the_wait_for_data(
    bench: Any, clock: Clock
) -> None:
    schedule = bench.ramped()
    trainer = bench.trainer(bench.settings(), schedule)
    ticking(trainer, clock, lambda step: 0.75)
    outcome = bench.carry_out(trainer, schedule)
    for event in outcome.of("step_logged"):
        assert event.step_seconds == pytest.approx(0.75)
        assert event.images_per_second == pytest.approx(16 / 0.75)
        assert event.data_wait_fraction == pytest.approx(0.25)
        assert event.train_seconds == pytest.approx(0.75 * event.step)
    result = outcome.result
    assert (result.train_seconds, result.data_wait_seconds) == (30.0, 10.0)
    assert result.wall_seconds == pytest.approx(40.0)


def test_seconds_go_on_counting_over_a_resume(bench: Any, clock: Clock) -> None:
    schedule, settings = bench.ramped(), bench.settings()
    trainer = bench.trainer(settings, schedule)
    ticking(trainer, clock, lambda step: 0.75)
    bench.signal_during(trainer, 17)
    stopped = bench.carry_out(trainer, schedule)
    assert stopped.state["seconds"]["train"] == 0.75 * 18
    trainer = bench.reopened(stopped.path, schedule, settings)
    ticking(trainer, clock, lambda step: 1.75)
    finished = bench.carry_out(trainer, schedule)
    assert finished.result.train_seconds == pytest.approx(0.75 * 18 + 1.75 * 22)
    fractions = [
        event.data_wait_fraction for event in finished.of("step_logged") if event.step > 18
    ]
    assert fractions == pytest.approx([0.125] * len(fractions))


def test_checkpoints_come_when_the_minutes_are_over(bench: Any, clock: Clock) -> None:
    schedule = bench.ramped()
    trainer = bench.trainer(bench.settings(checkpoint_minutes=1.0), schedule)
    ticking(
        trainer, clock, lambda step: 4.75
    )  # five seconds a step with its batch: twelve a minute
    outcome = bench.carry_out(trainer, schedule)
    # At stage ends 12, 24 and 40 anyway; 60 seconds after 24 is 36, where the losses are read.
    # Before and after an evaluation there is one each.
    saved = [event.step for event in outcome.of("checkpoint_saved")]
    assert saved == [12, 12, 24, 24, 36, 40, 40]
