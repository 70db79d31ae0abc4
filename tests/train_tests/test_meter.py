"""Where the seconds go, by a clock that the tests move; and losses or weights that are not finite."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprog.errors import DivergedError
from autoprog.search import estimate
from autoprog.search.estimate import WORST_LOSS, estimate_losses
from autoprog.train.evaluate import Scores
from autoprog.train.meter import Ledger, Meter, check_weights, typical_seconds
from autoprog.train.phase import plain_choice
from autoprog.train.ranks import ONE_PROCESS
from autoprog.train.run import train_schedule
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


# --- A loss or a weight that is not finite stops the run and spoils no checkpoint.


def spoil(trainer: Any, step: int, how: str) -> None:
    """Make the loss, or a weight after its update, not a number at `step`, counted from 0."""
    take = trainer.stepper.step

    def spoilt(images: Tensor, targets: Tensor, choice: Any, slots: Any, now: int) -> Tensor:
        loss = take(images, targets, choice, slots, now)
        if now != step:
            return loss
        if how == "weight":
            with torch.no_grad():
                trainer.stepper.model.vit.blocks[1].mlp.fc1.weight[3, 5] = float("inf")
            return loss
        return loss * float(how)

    trainer.stepper.step = spoilt


def diverged(trainer: Any, schedule: Any) -> str:
    with pytest.raises(DivergedError) as error:
        list(map(trainer.folder.append, train_schedule(trainer, schedule)))
    trainer.folder.close()
    return str(error.value)


@pytest.mark.parametrize(
    ("how", "step", "message"),
    [
        ("nan", 0, "the loss is nan at step 0 (stage 0, epoch 0.00)"),
        ("nan", 17, "the loss is nan at step 17 (stage 1, epoch 1.70)"),
        ("inf", 39, "the loss is inf at step 39 (stage 2, epoch 3.90)"),
        ("weight", 11, "a weight is not finite after step 11 (stage 0, epoch 1.20)"),
        ("weight", 17, "the loss is nan at step 18 (stage 1, epoch 1.80)"),
    ],
)
def test_a_run_that_diverges_names_stage_epoch_and_step(
    bench: Any, how: str, step: int, message: str
) -> None:
    schedule = bench.ramped()
    trainer = bench.trainer(bench.settings(), schedule)
    spoil(trainer, step, how)
    hint = "checkpoints are from before; lower --lr or set --clip-grad"
    assert diverged(trainer, schedule) == f"{message}; {hint}"


def test_an_evaluation_whose_loss_is_not_finite_ends_the_run(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finite weights may make logits that are not, as in half precision."""
    schedule = bench.ramped()
    trainer = bench.trainer(bench.settings(), schedule)

    def overflowing(*_: Any) -> list[Scores]:
        return [Scores(loss, (1,), (2,)) for loss in (0.5, math.inf)]

    monkeypatch.setattr("autoprog.train.trainer.evaluate", overflowing)
    said = diverged(trainer, schedule)
    assert said.startswith("the loss of the averaged network on the validation images is inf at")
    log = (trainer.folder.path / "events.jsonl").read_text()
    assert "Infinity" not in log


def test_a_subnet_that_has_diverged_is_ranked_last(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = bench.trainer(bench.settings(), bench.ramped())
    model = trainer.stepper.model
    choice = plain_choice(model.spec.full)
    losses = iter([[1.5, math.nan], [math.inf, 1e35]])
    monkeypatch.setattr(estimate, "held_out_losses", lambda *_: next(losses))
    assert estimate_losses(trainer, choice) == [1.5, WORST_LOSS]
    assert estimate_losses(trainer, choice) == [WORST_LOSS, WORST_LOSS]


@pytest.mark.parametrize(("how", "step"), [("nan", 15), ("weight", 15), ("weight", 23)])
def test_the_last_checkpoint_is_from_before_and_good(
    bench: Any, straight: Callable[..., Any], how: str, step: int
) -> None:
    """A checkpoint is due at 12, 16, 20 and 24: right after the spoilt step, too."""
    schedule = bench.ramped()
    settings = bench.settings()
    trainer = bench.trainer(bench.settings(checkpoint_minutes=0), schedule)
    spoil(trainer, step, how)
    diverged(trainer, schedule)
    stopped = bench.outcome(trainer.folder.path)
    assert stopped.state["step"] == step // 4 * 4
    assert all(value.isfinite().all() for value in stopped.state["model"].values())
    finished = bench.resume(stopped.path, schedule, settings)
    assert bench.differences(finished.exact, straight(settings, schedule).exact) == []


def test_an_absurd_learning_rate_diverges(bench: Any) -> None:
    schedule = bench.ramped()
    settings = bench.settings({**bench.plain, "lr": 1000.0, "opt": "sgd"})
    message = diverged(bench.trainer(settings, schedule), schedule)
    assert re.match(r"the loss is nan at step \d \(stage 0, epoch 0\.\d\d\); ", message)


def meter_of(*losses: float) -> Meter:
    """Return a meter that has seen a step of each loss."""
    meter = Meter(torch.device("cpu"), Ledger(), ONE_PROCESS)
    add(meter, *losses)
    return meter


def add(meter: Meter, *losses: float) -> None:
    for loss in losses:
        meter.add(torch.tensor(loss), SubnetConfig(1, 8), meter.now())


def test_the_meter_returns_the_mean_since_the_last_reading() -> None:
    meter = meter_of()
    assert meter.read(next_step=0, epoch=0.0, stage=0) is None
    add(meter, 1.0, 2.0, 6.0)
    reading = meter.read(next_step=3, epoch=0.3, stage=0)
    assert reading is not None
    assert reading.loss == 3.0
    assert meter.read(next_step=3, epoch=0.3, stage=0) is None
    add(meter, 5.0)
    reading = meter.read(next_step=4, epoch=0.4, stage=0)
    assert reading is not None
    assert reading.loss == 5.0


@pytest.mark.parametrize("position", range(4))
def test_the_meter_names_the_first_step_that_is_not_finite(position: int) -> None:
    meter = meter_of(*(float("nan") if index >= position else 1.0 for index in range(4)))
    step = 96 + position
    where = f"the loss is nan at step {step} (stage 2, epoch {step / 10:.2f})"
    with pytest.raises(DivergedError, match=re.escape(where)):
        meter.read(next_step=100, epoch=10.0, stage=2)


def test_large_weights_are_finite_and_one_bad_one_among_many_is_found() -> None:
    first, last = nn.Linear(50, 50), nn.Linear(50, 50)
    network = nn.Sequential(first, last)
    with torch.no_grad():
        first.weight.fill_(3e38)
    check_weights(network, next_step=8, epoch=1.0, stage=0)
    for bad in (float("nan"), float("inf"), float("-inf")):
        with torch.no_grad():
            last.bias[49] = bad
        with pytest.raises(DivergedError, match="not finite after step 7"):
            check_weights(network, next_step=8, epoch=1.0, stage=0)
