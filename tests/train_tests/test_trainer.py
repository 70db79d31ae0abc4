"""The trainer: evaluations and the best weights, early stops, resumes to the bit, rollbacks."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from autoprog.cli import main
from autoprog.errors import RunError
from autoprog.events import CheckpointSaved, Event, StepLogged, WarningRaised
from autoprog.runs import load_run
from autoprog.schedule import GrowthSchedule
from autoprog.stage import FullModel, Stage, evaluation_macs
from autoprog.train.checkpoint import publish, write_pending
from autoprog.train.evaluate import Scores
from autoprog.train.run import train_schedule
from autoprog.train.step import Stepper
from autoprog.train.stop import InterruptedRunError
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


@pytest.fixture(scope="module")
def straight_ramped(module_bench: Any) -> Any:
    return module_bench.carry_out(*trainer(module_bench))


@pytest.fixture(scope="module")
def straight_constant(module_bench: Any) -> Any:
    return module_bench.carry_out(*constant(module_bench))


@pytest.mark.parametrize("stop", [12, 13, 24, 25, 28])
def test_a_stopped_run_is_evaluated_where_the_straight_one_is(
    bench: Any, straight_ramped: Any, stop: int
) -> None:
    stopped, schedule = trainer(bench)
    bench.signal_during(stopped, stop - 1)
    path = bench.carry_out(stopped, schedule).path
    finished = bench.carry_out(reopened(bench, path, schedule, stopped), schedule)
    assert steps_of(finished, "evaluated") == steps_of(straight_ramped, "evaluated")
    assert bench.differences(finished.exact, straight_ramped.exact) == []


@pytest.mark.parametrize("stop", [39, 40, 41, 44])
def test_a_stopped_run_keeps_the_same_best_weights(
    bench: Any, straight_constant: Any, stop: int
) -> None:
    """Also where the signal came at a step that is to be evaluated."""
    stopped, schedule = constant(bench)
    bench.signal_during(stopped, stop - 1)
    path = bench.carry_out(stopped, schedule).path
    finished = bench.carry_out(reopened(bench, path, schedule, stopped), schedule)
    assert steps_of(finished, "evaluated") == steps_of(straight_constant, "evaluated")
    assert bench.differences(finished.exact, straight_constant.exact) == []
    one, other = (
        load_file(run.path / "checkpoints" / "best.safetensors")
        for run in (finished, straight_constant)
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


# --- A run that was stopped, killed or fed by other workers ends in the same bits as one that was not.


# Last step of the run: 40. Growth at 12 and 24, image sizes change at 16 and 20, epochs end at 10, 20, 30.
STOPS = {
    "within an epoch": (7,),
    "after the last step before growth": (12,),
    "after the first step of a grown network": (13,),
    "where the image size changes": (16,),
    "after the last step": (40,),
    "six times": (1, 10, 18, 24, 25, 39),
}

VARIANTS: dict[str, dict[str, Any]] = {
    "micro-batches and a clipped gradient": {"grad_accum_steps": 4, "clip_grad": 0.5},
    "uneven ones and lamb, which counts steps by group": {"grad_accum_steps": 3, "opt": "lamb"},
}
GROWTHS = {
    "new blocks start fresh and at zero": {
        "init": "zero",
        "optimizer_state": "fresh",
        "placement": "stack",
    },
    "as AutoProg was released": {"init": "ema", "old_blocks": "ema", "optimizer_state": "reset"},
}


def told(events: list[Event]) -> list[tuple[Any, ...]]:
    """Return what a reader learns of the training itself; a stage may be announced anew by a resume."""
    facts: list[tuple[Any, ...]] = []
    for event in events:
        match event.kind:
            case "stage_started":
                stage = ("stage", event.stage, event.subnet, event.stop_step)
                facts += [] if stage in facts else [stage]
            case "step_logged":
                facts.append(("progress", event.step, event.epoch, event.loss, event.lr))
            case "grown":
                facts.append(("growth", event.step, event.origins, event.delta_loss))
            case "evaluated":
                facts.append(("evaluation", event.step, event.top1, event.loss_ema))
    return facts


def assert_same(bench: Any, stopped: Any, whole: Any) -> None:
    assert bench.differences(stopped.exact, whole.exact) == []
    for name in ("final.safetensors", "final_ema.safetensors"):
        one, two = (load_file(run.path / "checkpoints" / name) for run in (stopped, whole))
        assert bench.differences(one, two) == []
    for name in ("top1", "top1_ema", "loss", "loss_ema", "epochs", "macs", "image_epochs"):
        assert getattr(stopped.result, name) == getattr(whole.result, name)


@pytest.mark.parametrize("stops", STOPS.values(), ids=STOPS)
def test_a_stopped_run_equals_the_straight_one(
    bench: Any, straight: Callable[..., Any], stops: tuple[int, ...]
) -> None:
    settings, schedule = bench.settings(bench.rich), bench.ramped()
    trainer = bench.trainer(settings, schedule)
    for stop in stops:
        bench.signal_during(trainer, stop - 1)
        stopped = bench.carry_out(trainer, schedule)
        assert stopped.state["step"] == stop
        assert stopped.events[-1].kind == "interrupted"
        trainer = bench.reopened(stopped.path, schedule, settings)
    finished, whole = bench.carry_out(trainer, schedule), straight(settings, schedule)
    assert_same(bench, finished, whole)
    assert all(event.step < event.stop_step for event in finished.of("stage_started"))
    without_progress = [fact for fact in told(finished.events) if fact[0] != "progress"]
    assert without_progress == [fact for fact in told(whole.events) if fact[0] != "progress"]


@pytest.mark.parametrize("recipe", VARIANTS.values(), ids=VARIANTS)
def test_a_stop_changes_nothing_whatever_the_recipe(bench: Any, recipe: dict[str, Any]) -> None:
    settings, schedule = bench.settings({**bench.rich, **recipe}), bench.ramped("wsd")
    trainer = bench.trainer(settings, schedule)
    bench.signal_during(trainer, 17)
    stopped = bench.carry_out(trainer, schedule)
    finished = bench.resume(stopped.path, schedule, settings)
    assert_same(bench, finished, bench.run(settings, schedule))


@pytest.mark.parametrize("grow", GROWTHS.values(), ids=GROWTHS)
def test_a_stop_changes_nothing_however_the_network_grows(bench: Any, grow: dict[str, str]) -> None:
    settings, schedule = bench.settings(bench.rich), bench.ramped(grow=grow)
    trainer = bench.trainer(settings, schedule)
    bench.signal_during(trainer, 24)
    stopped = bench.carry_out(trainer, schedule)
    finished = bench.resume(stopped.path, schedule, settings)
    assert_same(bench, finished, bench.run(settings, schedule))


MOMENTS = [
    ("checkpoint_saved", 1),
    ("checkpoint_saved", 5),
    ("grown", 2),
    ("run_finished", 1),
]


@pytest.mark.parametrize(("kind", "number"), MOMENTS)
def test_a_killed_run_equals_the_straight_one(
    bench: Any, straight: Callable[..., Any], kind: str, number: int
) -> None:
    """Killed before the event's effect: at ``checkpoint_saved`` the file has not appeared yet."""
    settings, schedule = bench.settings(bench.rich), bench.ramped()
    often = bench.settings(bench.rich, checkpoint_minutes=0)
    seen: list[Event] = []

    def is_the_moment(event: Event) -> bool:
        seen.extend([event] if event.kind == kind else [])
        return len(seen) == number

    killed = bench.carry_out(bench.trainer(often, schedule), schedule, until=is_the_moment)
    assert not (killed.path / "result.json").exists()
    if kind == "checkpoint_saved":
        assert killed.state.get("step", 0) < seen[-1].step
    finished, whole = bench.resume(killed.path, schedule, settings), straight(settings, schedule)
    assert_same(bench, finished, whole)
    assert told(finished.events) == told(whole.events)


def test_checkpoints_come_at_every_reading_of_the_losses_when_no_minutes_lie_between(
    bench: Any,
) -> None:
    schedule = bench.ramped()
    finished = bench.run(bench.settings(checkpoint_minutes=0), schedule)
    saved = {event.step for event in finished.of("checkpoint_saved")}
    assert saved == set(range(4, 44, 4))
    seldom = bench.run(bench.settings(), schedule)
    # Before and after each evaluation.
    assert [event.step for event in seldom.of("checkpoint_saved")] == [12, 12, 24, 24, 40, 40]


def test_evaluations_within_stages_keep_their_distance_over_a_resume(bench: Any) -> None:
    settings = bench.settings(eval_every_epochs=0.8, checkpoint_minutes=0)
    schedule = bench.ramped()
    whole = bench.run(settings, schedule)
    assert [event.step for event in whole.of("evaluated")] == [8, 12, 20, 24, 32, 40]

    def just_saved(event: Event) -> bool:
        return isinstance(event, CheckpointSaved) and event.step == 28

    killed = bench.carry_out(bench.trainer(settings, schedule), schedule, until=just_saved)
    finished = bench.resume(killed.path, schedule, settings)
    assert told(finished.events) == told(whole.events)


def test_the_number_of_workers_changes_nothing(bench: Any, straight: Callable[..., Any]) -> None:
    schedule = bench.ramped()
    with_two = bench.settings(bench.rich, workers=2)
    trainer = bench.trainer(with_two, schedule)
    bench.signal_during(trainer, 16)
    stopped = bench.carry_out(trainer, schedule)
    assert multiprocessing.active_children() == []
    finished = bench.resume(stopped.path, schedule, with_two)
    assert multiprocessing.active_children() == []
    assert_same(bench, finished, straight(bench.settings(bench.rich), schedule))


def test_the_same_seed_gives_the_same_weights_and_another_one_others(
    bench: Any, straight: Callable[..., Any]
) -> None:
    schedule = bench.ramped()
    first = straight(bench.settings(bench.rich), schedule)
    again = bench.run(bench.settings(bench.rich), schedule)
    other = bench.run(bench.settings(bench.rich, seed=1), schedule)
    assert_same(bench, again, first)
    for part in ("model", "emas"):
        changed = bench.differences(other.state[part], first.state[part])
        names = [name for name in changed if "weight" in name]
        assert len(names) >= 4 * 4  # all matrices of all blocks


def test_the_reading_of_losses_does_not_change_them(
    bench: Any, straight: Callable[..., Any]
) -> None:
    schedule = bench.ramped()
    often = bench.run(bench.settings(bench.rich, log_every_steps=1), schedule)
    assert_same(bench, often, straight(bench.settings(bench.rich), schedule))


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_stop_says_how_to_go_on(bench: Any, name: str, code: int) -> None:
    schedule = bench.ramped()
    trainer = bench.trainer(bench.settings(), schedule)
    bench.signal_during(trainer, 2, name)
    with pytest.raises(InterruptedRunError) as stopped:
        list(train_schedule(trainer, schedule))
    trainer.folder.close()
    assert stopped.value.exit_code == code
    assert str(stopped.value) == (
        f"stopped by {name} after a checkpoint; go on with --resume {trainer.folder.path}"
    )


def test_a_checkpoint_of_another_network_is_refused_in_one_line(bench: Any) -> None:
    schedule = bench.ramped()
    trainer = bench.trainer(bench.settings(), schedule)
    state = trainer.snapshot()
    state["model"].pop("head.bias")
    publish(trainer.folder.checkpoints, write_pending(trainer.folder.checkpoints, state))
    with pytest.raises(RunError, match="does not fit this run") as refusal:
        next(train_schedule(trainer, schedule))
    assert "\n" not in str(refusal.value)


def test_a_resume_may_turn_loss_scaling_on(bench: Any) -> None:
    schedule = bench.ramped()
    trainer = bench.trainer(bench.settings(), schedule)
    bench.signal_during(trainer, 5)
    stopped = bench.carry_out(trainer, schedule)
    finished = bench.resume(stopped.path, schedule, bench.settings(amp="float16"))
    assert finished.result.amp == "float16"
    assert finished.state["scaler"]["scale"] > 0


# --- A run that diverges can go back to its last checkpoint and on at half the learning rate.


WORDS = [
    *("train", "--schedule", "linear", "--model", "vit-mu", "--epochs", "4", "--device", "cpu"),
    *("--threads", "1", "--workers", "0", "-q", "--sched", "constant", "--warmup-fraction", "0"),
    *("--log-every-steps", "4", "--checkpoint-minutes", "0"),
]


def spoil(monkeypatch: pytest.MonkeyPatch, at_step: int, times: int) -> list[float]:
    """Let the loss of a step be NaN so many times; return the learning rates that it is tried with."""
    take, tried = Stepper.step, []

    def step(self: Stepper, images: Any, targets: Any, choice: Any, slots: Any, now: int) -> Any:
        loss = take(self, images, targets, choice, slots, now)
        if now == at_step:
            tried.append(self.optimizer.param_groups[0]["lr"])
            if len(tried) <= times:
                return loss * torch.nan
        return loss

    monkeypatch.setattr(Stepper, "step", step)
    return tried


def run(tmp_path: Path, *words: str) -> tuple[int, Any]:
    code = main([*WORDS, "--runs-dir", str(tmp_path), *words])
    (folder,) = tmp_path.iterdir()
    return code, load_run(folder)


def test_a_diverged_run_stops_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = spoil(monkeypatch, 30, 1)
    code, found = run(tmp_path)
    assert (code, len(tried), found.result) == (1, 1, None)


def test_rollback_halves_the_learning_rate_from_the_last_checkpoint_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = spoil(monkeypatch, 30, 2)
    code, found = run(tmp_path, "--on-divergence", "rollback")
    assert code == 0
    assert tried[1:] == [pytest.approx(tried[0] / 2), pytest.approx(tried[0] / 4)]
    events = list(found.events())
    told = [event.message for event in events if isinstance(event, WarningRaised)]
    assert told == [
        "the run diverged: rolled back to step 28, learning rate x 0.25 from now on"
    ]  # of the first rollback nothing is left: the second went back to the same step
    rates = {event.step: event.lr for event in events if isinstance(event, StepLogged)}
    assert rates[28] == pytest.approx(tried[0])
    assert rates[32] == pytest.approx(tried[0] / 4)
    assert rates[88] == pytest.approx(tried[0] / 4)
    assert found.result.epochs == 4


def test_a_rollback_later_counts_from_the_rate_of_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, 30, 1)
    tried = spoil(monkeypatch, 50, 1)
    code, found = run(tmp_path, "--on-divergence", "rollback")
    assert code == 0
    assert tried[1] == pytest.approx(tried[0] / 2)
    scales = [e.message.split(" x ")[1] for e in found.events() if isinstance(e, WarningRaised)]
    assert scales == ["0.5 from now on", "0.25 from now on"]


def test_a_run_that_diverges_again_and_again_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = spoil(monkeypatch, 30, 99)
    code, found = run(tmp_path, "--on-divergence", "rollback")
    assert (code, len(tried), found.result) == (1, 4, None)
    assert "the loss is nan at step 30 (stage 1, epoch 1.3" in capsys.readouterr().err


def test_without_a_checkpoint_the_run_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, 3, 1)
    code, found = run(tmp_path, "--on-divergence", "rollback")
    told = [event.message for event in found.events() if isinstance(event, WarningRaised)]
    assert code == 0
    assert told == ["the run diverged: rolled back to step 0, learning rate x 0.5 from now on"]
