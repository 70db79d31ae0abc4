"""A run that was stopped, killed or fed by other workers ends in the same bits as one that was not."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

import pytest
from safetensors.torch import load_file

from autoprog.errors import RunError
from autoprog.events import CheckpointSaved, Event
from autoprog.train.checkpoint import publish, write_pending
from autoprog.train.run import train_schedule
from autoprog.train.stop import InterruptedRunError

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
