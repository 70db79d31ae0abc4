"""When a run is evaluated by itself, which weights are kept as the best, and what ends a run early."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from autoprog.schedule import GrowthSchedule
from autoprog.stage import FullModel, Stage, evaluation_macs
from autoprog.train.evaluate import Scores
from supernet.config import SubnetConfig
from supernet.cost import macs
from supernet.zoo import ZOO

SPEC = ZOO["vit-mu"]
CLASSES = 10
TRAINED = (((2, 8), 12), ((3, 8), 4), ((3, 12), 4), ((3, 16), 4))
"""Depth and size of the first two stages of the fixture's schedule, and their steps."""


def affordable_images(batch_size: int) -> int:
    """Return the most images whose evaluation is 5 % of the first two stages, by hand."""
    spent = sum(
        steps * batch_size * 3 * macs(SPEC, SubnetConfig(*subnet), CLASSES)
        for subnet, steps in TRAINED
    )
    return int(0.05 * spent / (2 * macs(SPEC, SubnetConfig(3, 16), CLASSES)))


def trainer(bench: Any, more_images: int = 0) -> tuple[Any, Any]:
    settings, schedule = bench.settings(eval_every_epochs=None), bench.ramped()
    made = bench.trainer(settings, schedule)
    made.data.num_validation_images = affordable_images(settings.recipe.batch_size) + more_images
    return made, schedule


def constant(bench: Any, steps: int = 80, **changes: Any) -> tuple[Any, GrowthSchedule]:
    """Return a trainer of the full model, whose evaluations count as free, and its schedule."""
    stage = Stage.model_validate({"length": "rest", "depth": 4, "img_size": 16})
    full = FullModel.of(SPEC)
    schedule = GrowthSchedule(full=full, length_unit="steps", stages=(stage,))
    settings = bench.settings(
        {**bench.plain, "epochs": steps / 10}, **{"eval_every_epochs": None, **changes}
    )
    made = bench.trainer(settings, schedule)
    made.data.num_validation_images = 1
    return made, schedule


def reopened(bench: Any, path: Path, schedule: GrowthSchedule, before: Any) -> Any:
    made = bench.reopened(path, schedule, before.settings)
    made.data.num_validation_images = before.data.num_validation_images
    return made


def steps_of(outcome: Any, kind: str) -> list[int]:
    return [event.step for event in outcome.of(kind)]


def score(monkeypatch: pytest.MonkeyPatch, averaged: Sequence[int], online: int = 50) -> None:
    """Let the evaluations of the averaged network come to `averaged` right ones of 100, by their order."""
    left = iter(averaged)

    def scores(*_: Any) -> list[Scores]:
        return [Scores(1.0, (right, 0), (100, 0)) for right in (online, next(left))]

    monkeypatch.setattr("autoprog.train.trainer.evaluate", scores)


def test_an_evaluation_is_a_forward_of_two_networks() -> None:
    subnet = SubnetConfig(3, 12)
    assert evaluation_macs(SPEC, subnet, 7, CLASSES) == 14 * macs(SPEC, subnet, CLASSES)


@pytest.mark.parametrize(("more_images", "at_24"), [(0, True), (1, False)])
def test_it_waits_until_twenty_times_as_much_was_trained(
    bench: Any, more_images: int, at_24: bool
) -> None:
    outcome = bench.carry_out(*trainer(bench, more_images))
    evaluated = steps_of(outcome, "evaluated")
    assert (24 in evaluated, evaluated[-1]) == (at_24, 40)


def test_where_it_is_cheap_it_comes_at_each_twentieth_of_the_run(bench: Any) -> None:
    made, schedule = constant(bench, steps=160)
    assert steps_of(bench.carry_out(made, schedule), "evaluated") == list(range(8, 161, 8))


def test_where_losses_are_seldom_read_it_comes_when_they_are(bench: Any) -> None:
    made, schedule = constant(bench, log_every_steps=30)
    assert steps_of(bench.carry_out(made, schedule), "evaluated") == [30, 60, 80]


@pytest.mark.parametrize(
    ("end", "expected"), [(37, [32, 37, 41, 45, 49]), (39, [32, 36, 39, 43, 47])]
)
def test_near_the_end_of_a_stage_it_comes_at_the_end(
    bench: Any, end: int, expected: list[int]
) -> None:
    lengths = [{"length": end, "depth": 2}, {"length": 80 - end, "depth": 4}]
    stages = [{**stage, "img_size": 16} for stage in lengths]
    schedule = GrowthSchedule.model_validate(
        {"full": FullModel.of(SPEC), "length_unit": "steps", "stages": stages}
    )
    settings = bench.settings(
        {**bench.plain, "epochs": 8.0}, eval_every_epochs=None, log_every_steps=1
    )
    made = bench.trainer(settings, schedule)
    made.data.num_validation_images = 1
    evaluated = steps_of(bench.carry_out(made, schedule), "evaluated")
    assert [step for step in evaluated if 30 < step < 50] == expected
    assert evaluated[-1] == 80


def test_zero_evaluates_once_at_the_end(bench: Any) -> None:
    made, schedule = constant(bench, eval_every_epochs=0.0)
    assert steps_of(bench.carry_out(made, schedule), "evaluated") == [80]


def test_a_stage_keeps_a_checkpoint_where_it_is_evaluated(bench: Any) -> None:
    outcome = bench.carry_out(*trainer(bench))
    assert steps_of(outcome, "evaluated") == [24, 36, 40]
    assert steps_of(outcome, "checkpoint_saved") == [
        24,
        24,
        36,
        40,
        40,
    ]  # before, at stage ends also after
    kept = {path.name for path in (outcome.path / "checkpoints").glob("stage-*.pt")}
    assert len(kept) == 2


def test_evaluations_on_the_way_change_no_weight(bench: Any) -> None:
    often = bench.carry_out(*constant(bench))
    once = bench.carry_out(*constant(bench, eval_every_epochs=0.0))
    for part in ("model", "emas", "optimizer"):
        assert bench.differences(often.state[part], once.state[part]) == []


@pytest.mark.parametrize("stop", [12, 13, 24, 25, 28])
def test_a_stopped_run_is_evaluated_where_the_straight_one_is(bench: Any, stop: int) -> None:
    stopped, schedule = trainer(bench)
    bench.signal_during(stopped, stop - 1)
    path = bench.carry_out(stopped, schedule).path
    finished = bench.carry_out(reopened(bench, path, schedule, stopped), schedule)
    straight = bench.carry_out(*trainer(bench))
    assert steps_of(finished, "evaluated") == steps_of(straight, "evaluated")
    assert bench.differences(finished.exact, straight.exact) == []


@pytest.mark.parametrize("stop", [39, 40, 41, 44])
def test_a_stopped_run_keeps_the_same_best_weights(bench: Any, stop: int) -> None:
    """Also where the signal came at a step that is to be evaluated."""
    stopped, schedule = constant(bench)
    bench.signal_during(stopped, stop - 1)
    path = bench.carry_out(stopped, schedule).path
    finished = bench.carry_out(reopened(bench, path, schedule, stopped), schedule)
    straight = bench.carry_out(*constant(bench))
    assert steps_of(finished, "evaluated") == steps_of(straight, "evaluated")
    assert bench.differences(finished.exact, straight.exact) == []
    one, other = (
        load_file(run.path / "checkpoints" / "best.safetensors") for run in (finished, straight)
    )
    assert bench.differences(one, other) == []


def test_the_best_weights_are_the_average_of_the_best_evaluation(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    score(monkeypatch, [10, 30, 20, 30, 25], online=99)
    made, schedule = constant(bench, eval_every_epochs=1.6, log_every_steps=16)
    seen: dict[int, Any] = {}

    def until(event: Any) -> bool:
        if event.kind == "evaluated":
            weights = made.stepper.emas[-1].module.vit.state_dict()
            seen[event.step] = {name: tensor.clone() for name, tensor in weights.items()}
        return False

    outcome = bench.carry_out(made, schedule, until)
    result = outcome.result
    assert (result.best_top1, result.best_step, result.best_epoch) == (30.0, 32, 3.2)
    path = outcome.path / "checkpoints" / "best.safetensors"
    assert bench.differences(load_file(path), seen[32]) == []
    with (
        safe_open(path, "pt") as best,
        safe_open(path.with_name("final_ema.safetensors"), "pt") as final,
    ):
        assert best.metadata() == {**final.metadata(), "step": "32"}
    assert not list(path.parent.glob(".*"))


def test_a_network_of_fewer_blocks_is_never_the_best(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    score(monkeypatch, [90, 80, 20])
    settings, schedule = bench.settings(), bench.ramped()
    result = bench.carry_out(bench.trainer(settings, schedule), schedule).result
    assert (result.best_top1, result.best_step) == (20.0, 40)


def test_a_best_whose_weights_were_replaced_is_forgotten(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run was killed after a better evaluation, and comes to a worse one when it goes on."""
    score(monkeypatch, [10, 60, 20, 40, 30])
    made, schedule = constant(bench, eval_every_epochs=3.2, checkpoint_minutes=0)

    def second(event: Any) -> bool:
        return bool(event.kind == "evaluated" and event.step == 64)

    path = bench.carry_out(made, schedule, until=second).path
    result = bench.resume(path, schedule, made.settings).result
    weights = path / "checkpoints" / "best.safetensors"
    with safe_open(weights, "pt") as file:
        assert file.metadata()["step"] == str(result.best_step)
    assert result.best_top1 != 10.0


def test_patience_ends_a_run_with_its_weights_and_result(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    score(monkeypatch, [10, 30, 20, 30, 25, 99])
    made, schedule = constant(bench, eval_every_epochs=0.8, log_every_steps=8, patience=3)
    outcome = bench.carry_out(made, schedule)
    result = outcome.result
    assert steps_of(outcome, "evaluated") == [8, 16, 24, 32, 40]
    assert (result.stopped_early, result.epochs, result.best_step) == (True, 4.0, 16)
    warned = outcome.of("warning_raised")[0]
    assert warned.message.startswith(
        "stopped early: no evaluation was better than 30.00 % (EMA) at epoch 1.6 for 3 times"
    )
    assert (outcome.path / "checkpoints" / "final_ema.safetensors").exists()
    assert outcome.state["step"] == 40


def test_a_run_that_was_stopped_early_stays_so_when_it_is_killed_then(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    score(monkeypatch, [30, 20, 10])
    made, schedule = constant(bench, eval_every_epochs=0.8, log_every_steps=8, patience=1)

    killed = bench.carry_out(made, schedule, until=lambda event: event.kind == "run_finished")
    assert not (killed.path / "result.json").exists()
    finished = bench.resume(killed.path, schedule, made.settings)
    assert (finished.result.stopped_early, finished.result.epochs) == (True, 1.6)


def test_patience_does_not_count_while_the_network_is_small(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    score(monkeypatch, [90, 80, 20])
    settings, schedule = bench.settings(patience=1), bench.ramped()
    outcome = bench.carry_out(bench.trainer(settings, schedule), schedule)
    assert (steps_of(outcome, "evaluated"), outcome.result.stopped_early) == ([12, 24, 40], False)


def test_a_network_that_names_one_class_is_warned_of_and_judged_by_class(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = [Scores(0.6, (64, 0), (64, 16)), Scores(0.6, (63, 1), (64, 16))]
    monkeypatch.setattr("autoprog.train.trainer.evaluate", lambda *_: scores)
    outcome = bench.carry_out(*constant(bench, eval_every_epochs=0.0))
    result = outcome.result
    assert (result.num_validation_images, result.largest_class_fraction) == (80, 0.8)
    assert (result.balanced_top1, result.class_top1) == (50.0, (100.0, 0.0))
    assert (result.class_top1_ema, result.class_images) == ((98.4375, 6.25), (64, 16))
    (warned,) = (event for event in outcome.events if event.kind == "warning_raised")
    assert warned.message == (
        "top-1 of 80.00 % is not above the fraction of the largest class (80.0 % of the validation images):"
        " the network has learnt nothing beyond it"
    )
    lines = (outcome.path / "result.json").read_text().splitlines()
    assert ' "class_images": [ 64, 16 ],' in lines


def test_the_full_model_is_predicted_from_its_steps_where_the_schedule_is_not_constant(
    bench: Any,
) -> None:
    settings, schedule = bench.settings(), bench.ramped()
    made = bench.trainer(settings, schedule)
    result = bench.carry_out(made, schedule).result
    step = made.phase_seconds[SPEC.full]
    assert result.full_model_epochs == 4.0
    least = 40 * min(step)
    spent = result.eval_seconds + 40 * result.data_wait_seconds + 1.0
    assert least <= result.full_model_seconds <= 40 * max(step) + spent
    assert bench.carry_out(*constant(bench)).result.full_model_seconds is None
