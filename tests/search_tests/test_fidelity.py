"""Real trainings beside a search: what they are, that they leave the run alone and are made once."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import Tensor

from autoprog.data import loader
from autoprog.decisions import Fidelity, FidelitySettings, read_fidelity, read_trainings
from autoprog.errors import ConfigError
from autoprog.events import (
    CheckpointSaved,
    Decided,
    Event,
    Interrupted,
    SubnetTrained,
    SupernetStarted,
    WarningRaised,
)
from autoprog.runs import load_run
from autoprog.search import fidelity
from autoprog.search.estimate import held_out_losses
from autoprog.search.fidelity import ShortTrainings, check_fidelity
from autoprog.search.searcher import Searcher
from autoprog.settings import RunSettings
from autoprog.train.phase import plain_choice
from autoprog.train.step import Stepper
from autoprog.train.stop import StopRequest
from supernet.config import SubnetConfig
from supernet.cost import relative_cost
from supernet.grow import grow

SMALL = SubnetConfig(1, 8)
STEPS, SEEDS = 3, 2
CHECK = FidelitySettings(candidates=4, epochs=STEPS / 8, seeds=SEEDS)


@pytest.fixture(scope="module")
def straight(new_lab: Callable[[], Any]) -> Any:
    """A search with the settings below that nothing interrupts."""
    lab = new_lab()
    return lab.search(checked(lab, CHECK))


@pytest.fixture
def settings(lab: Any) -> RunSettings:
    """A search over 6 subnets that trains 4 of them twice, for three steps each, at its first decision."""
    return checked(lab, CHECK)


def checked(lab: Any, fidelity: FidelitySettings | None, rule: str = "rollout") -> RunSettings:
    space = lab.space([1, 2, 4], [8, 16])
    plain: RunSettings = lab.settings(rule, space, costs=lab.costs())
    assert plain.search is not None
    search = plain.search.model_copy(update={"fidelity": fidelity})
    return plain.model_copy(update={"search": search})


def report_of(attempt: Any) -> Fidelity:
    report = read_fidelity(attempt.path)
    assert report is not None
    return report


def told(attempt: Any) -> list[Event]:
    """Return what holds of a log after all attempts, but for what real trainings add to it."""
    added = (SubnetTrained, CheckpointSaved)
    return [event for event in load_run(attempt.path).events() if not isinstance(event, added)]


def same_but_seconds(one: Fidelity, other: Fidelity) -> bool:
    return one.model_copy(update={"seconds": 0.0}) == other.model_copy(update={"seconds": 0.0})


def test_a_report_says_what_was_trained_and_how_it_agrees(straight: Any) -> None:
    done = straight
    report = report_of(done)
    spec = done.searcher.search.space.spec
    assert (report.decision, report.begin, report.epochs) == (0, "start", STEPS / 8)
    assert report.step == done.run.decisions[0].step
    assert [one.relative_cost for one in report.subnets] == sorted(
        relative_cost(spec, one.subnet) for one in report.subnets
    )
    assert {SMALL, spec.full} < {one.subnet for one in report.subnets}
    assert len(report.subnets) == 4
    rows = {(row.subnet, row.seed): row.loss for row in read_trainings(done.path)}
    assert len(rows) == 4 * SEEDS
    for one in report.subnets:
        assert one.losses == tuple(rows[one.subnet, seed] for seed in range(SEEDS))
        assert len(set(one.losses)) == SEEDS
    assert report.overall.pairs == 6
    assert report.overall.tau is not None
    assert not (done.path / "checkpoints" / "fidelity").exists()


def test_estimates_are_those_of_the_decision(straight: Any) -> None:
    done = straight
    decided = {c.subnet: c.loss for c in done.run.decisions[0].candidates}
    for one in report_of(done).subnets:
        assert one.estimate == decided[one.subnet]


def test_by_autoprog_an_estimate_is_the_mean_over_time_points(lab: Any) -> None:
    done = lab.search(checked(lab, FidelitySettings(candidates=4, epochs=0.2, seeds=1), "autoprog"))
    decided = {c.subnet: c.loss for c in done.run.decisions[0].candidates}
    for one in report_of(done).subnets:
        assert one.estimate == pytest.approx(decided[one.subnet])


def test_a_run_that_looks_is_the_run_that_does_not(lab: Any, straight: Any) -> None:
    seeing = straight
    blind = lab.search(checked(lab, None), "blind")
    assert all(seeing.weights[name].equal(weight) for name, weight in blind.weights.items())
    bare = [d.model_copy(update={"reason": ""}) for d in seeing.run.decisions]
    assert bare == [d.model_copy(update={"reason": ""}) for d in blind.run.decisions]
    assert seeing.best.stages == blind.best.stages
    assert [type(event) for event in told(seeing)] == [type(event) for event in told(blind)]
    last, other = seeing.run.result, blind.run.result
    assert last is not None
    assert other is not None
    assert (last.macs, last.image_epochs, last.top1) == (other.macs, other.image_epochs, other.top1)


def test_what_it_takes_is_charged_as_search(straight: Any) -> None:
    done = straight
    spent = report_of(done).seconds
    assert spent == pytest.approx(sum(event.seconds for event in done.of(SubnetTrained)))
    assert done.run.result is not None
    assert done.run.result.search_seconds >= 0.9 * spent


def test_the_schedule_says_how_far_its_estimates_could_be_trusted(
    straight: Any,
) -> None:
    done = straight
    found_by, overall = done.best.found_by, report_of(done).overall
    assert found_by is not None
    assert found_by.fidelity is not None
    assert found_by.fidelity.model_dump() == {
        "tau": overall.tau,
        "low": overall.low,
        "high": overall.high,
        "n": 4,
        "null_tau": overall.null_tau,
    }


class StopAfter(StopRequest):
    """A signal that comes right after so many real trainings."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count

    def after(self, event: Event) -> bool:
        self._count -= isinstance(event, SubnetTrained)
        self.signal_name = "SIGTERM" if self._count <= 0 else None
        return False


def interrupted(lab: Any, settings: RunSettings, name: str, count: int) -> Any:
    """Carry out a search whose signal comes in the middle of a real training."""
    stop = StopAfter(count)
    return lab.search(settings, name, crash_when=stop.after, stop=stop)


@pytest.mark.parametrize("count", [1, 5])
def test_a_signal_between_trainings_loses_none_of_them(
    lab: Any, settings: RunSettings, straight: Any, count: int
) -> None:
    first = interrupted(lab, settings, "stopped", count)
    assert isinstance(first.events[-1], Interrupted)
    assert len(read_trainings(first.path)) == count
    second = lab.search(settings, "stopped")
    assert len(second.of(SubnetTrained)) == 4 * SEEDS - count
    assert same_but_seconds(report_of(second), report_of(straight))
    assert all(second.weights[name].equal(weight) for name, weight in straight.weights.items())
    assert sum(isinstance(event, Decided) for event in told(second)) == len(second.run.decisions)


def test_a_crash_in_the_middle_of_a_line_costs_one_training(
    lab: Any, settings: RunSettings, straight: Any
) -> None:
    count = iter(range(100))
    crash = lab.search(
        settings,
        "crashed",
        crash_when=lambda event: isinstance(event, SubnetTrained) and next(count) == 2,
    )
    log = crash.path / "fidelity.jsonl"
    log.write_bytes(log.read_bytes()[:-20])
    again = lab.search(settings, "crashed")
    assert len(again.of(SubnetTrained)) == 4 * SEEDS - 2
    assert same_but_seconds(report_of(again), report_of(straight))
    assert len(read_trainings(again.path)) == 4 * SEEDS


def test_a_stop_inside_the_supernet_phase_keeps_the_network_from_before_it(
    lab: Any, settings: RunSettings, straight: Any
) -> None:
    start = lab.prepare(settings, "plan").plan.points[0].start_step
    first = lab.search(settings, "stopped", stop_at=start + 2)
    assert first.interrupted
    assert (first.path / "checkpoints" / "fidelity" / "last.pt").exists()
    assert same_but_seconds(report_of(lab.search(settings, "stopped")), report_of(straight))


def test_without_that_network_there_is_a_warning_and_no_report(
    lab: Any, settings: RunSettings
) -> None:
    start = lab.prepare(settings, "plan").plan.points[0].start_step
    first = lab.search(settings, "stopped", stop_at=start + 2)
    shutil.rmtree(first.path / "checkpoints" / "fidelity")
    second = lab.search(settings, "stopped")
    warned = [
        event.message for event in second.of(WarningRaised) if "largest class" not in event.message
    ]
    assert ["no fidelity" in message for message in warned] == [True]
    assert read_fidelity(second.path) is None
    assert second.best.found_by is not None
    assert second.best.found_by.fidelity is None


def test_a_measured_decision_is_not_measured_again(lab: Any, settings: RunSettings) -> None:
    first = lab.search(settings, crash_when=lambda event: isinstance(event, Decided))
    assert len(first.of(SubnetTrained)) == 4 * SEEDS
    assert lab.search(settings).of(SubnetTrained) == []


def test_a_later_decision_can_be_looked_at(lab: Any) -> None:
    lab.script[0] = SubnetConfig(2, 8)
    settings = checked(lab, FidelitySettings(candidates=12, at=1, epochs=0.2, seeds=1))
    report = report_of(lab.search(settings))
    assert report.decision == 1
    assert {one.subnet for one in report.subnets} == {
        SubnetConfig(depth, size) for depth in (2, 4) for size in (8, 16)
    }


def test_a_decision_that_is_not_planned_is_refused(lab: Any) -> None:
    plan = lab.prepare(checked(lab, None)).plan
    check_fidelity(None, plan)
    check_fidelity(FidelitySettings(candidates=4, at=1), plan)
    with pytest.raises(ConfigError, match=r"--fidelity-at: must be below 2, .* but got 2"):
        check_fidelity(FidelitySettings(candidates=4, at=2), plan)


def test_trainings_are_as_long_as_the_supernet_phase_unless_said(lab: Any) -> None:
    settings = checked(lab, FidelitySettings(candidates=4, seeds=1))
    done = lab.search(settings)
    point = done.searcher.plan.points[0]
    assert report_of(done).epochs == (point.stop_step - point.start_step) / 8


@pytest.mark.parametrize("crash", [None, "supernet", "trainings"])
def test_a_search_by_time_is_checked_likewise(lab: Any, crash: str | None) -> None:
    settings = lab.settings(costs=lab.costs(), cost_fraction=0.75)
    assert settings.search is not None
    search = settings.search.model_copy(
        update={"fidelity": FidelitySettings(candidates=4, seeds=1)}
    )
    settings = settings.model_copy(update={"search": search})
    if crash == "supernet":
        lab.search(settings, crash_when=lambda event: isinstance(event, SupernetStarted))
    elif crash == "trainings":
        lab.search(settings, crash_when=lambda event: isinstance(event, SubnetTrained))
    done = lab.search(settings)
    assert [one for one in done.of(WarningRaised) if "largest class" not in one.message] == []
    report, events = report_of(done), list(load_run(done.path).events())
    steps = {
        type(event): event.step
        for event in events
        if (isinstance(event, SupernetStarted) and event.decision == report.decision)
        or (isinstance(event, Decided) and event.decision.index == report.decision)
    }
    assert report.epochs == (steps[Decided] - steps[SupernetStarted]) / 8
    assert all(loss is not None for one in report.subnets for loss in one.losses)


def test_from_scratch_they_begin_with_new_weights_of_each_seed(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first: list[Tensor] = []
    lrs: list[float] = []
    step_of = Stepper.step

    def stepped(self: Stepper, *rest: Any) -> Tensor:
        if rest[-1] == 0 and isinstance(self.emas, tuple) and len(self.emas) == 1:
            first.append(self.model.vit.head.weight.detach().clone())
        loss = step_of(self, *rest)
        if len(self.emas) == 1:
            lrs.append(self.optimizer.param_groups[0]["lr"])
        return loss

    monkeypatch.setattr(Stepper, "step", stepped)
    done = lab.search(checked(lab, FidelitySettings(candidates=4, epochs=1, begin="scratch")))
    assert report_of(done).begin == "scratch"
    assert len(first) == 8
    assert all(weight.equal(first[0]) for weight in first[:4])
    assert all(weight.equal(first[4]) for weight in first[4:])
    assert not first[0].equal(first[4])
    peak = done.trainer.recipe.peak_lr
    assert max(lrs[:8]) == pytest.approx(peak, rel=0.05)
    assert lrs[0] < lrs[1]  # a warm-up of its own
    assert lrs[7] < 0.2 * peak


@pytest.fixture
def trainings(lab: Any) -> ShortTrainings:
    """Trainings from the network of a search at its first decision."""
    settings = checked(lab, None)
    lab.search(settings, stop_at=10)
    searcher: Searcher = lab.prepare(settings)
    searcher.trainer.resume()
    return ShortTrainings(
        trainer=searcher.trainer,
        start=searcher.trainer.snapshot(),
        before=SMALL,
        step=searcher.trainer.step,
        steps=4,
        run_steps=searcher.trainer.total_steps,
        curriculum=searcher.curriculum(0),
        grow=searcher.search.space.decisions.grow,
    )


def finished(training: Iterator[Event]) -> Any:
    while True:
        try:
            next(training)
        except StopIteration as end:
            return end.value


BIG = SubnetConfig(4, 16)


def test_trainings_leave_the_run_and_each_other_alone(trainings: ShortTrainings) -> None:
    before = trainings.trainer.stepper.fingerprint()
    start = copy.deepcopy(trainings.start)
    alone = finished(trainings.train(BIG, 1))
    for subnet in (SMALL, BIG):
        finished(trainings.train(subnet, 0))
    assert finished(trainings.train(BIG, 1)) == alone
    assert trainings.trainer.stepper.fingerprint().equal(before)
    for name, weight in start["model"].items():  # type: ignore[index]
        assert trainings.start["model"][name].equal(weight)  # type: ignore[index]


@pytest.mark.parametrize("init", ["ema", "copy"])
def test_they_begin_with_the_network_grown_by_the_rule(
    trainings: ShortTrainings, init: Any
) -> None:
    rule = trainings.grow.model_copy(update={"init": init})
    still = replace(trainings, grow=rule)
    stepper = still.trainer.stepper
    stepper.lr_scale = 0.0
    model, average = copy.deepcopy(stepper.model), copy.deepcopy(stepper.emas[-1].module)
    grow(model, [average], None, SMALL.depth, BIG.depth, rule.rule())
    expected = fmean(held_out_losses(still.trainer, model, plain_choice(BIG)))
    assert finished(still.train(BIG, 0)) == pytest.approx(expected, abs=1e-6)


def test_the_learning_rate_is_that_of_the_run_and_falls_to_0(
    trainings: ShortTrainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    lrs = []
    step_of = Stepper.step

    def stepped(self: Stepper, *rest: Any) -> Tensor:
        loss = step_of(self, *rest)
        lrs.append(self.optimizer.param_groups[0]["lr"])
        return loss

    monkeypatch.setattr(Stepper, "step", stepped)
    finished(trainings.train(SMALL, 0))
    scheduler, step = trainings.trainer.stepper.scheduler, trainings.step
    of_the_run = [scheduler._get_lr(step + k)[0] for k in range(4)]
    assert lrs == pytest.approx([lr * (1 - k / 4) for k, lr in enumerate(of_the_run)])


def test_they_see_images_that_the_run_never_sees_and_none_that_are_held_out(
    trainings: ShortTrainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    plan_batches = loader.plan_batches

    def planned(*args: Any) -> Iterator[Any]:
        for batch in plan_batches(*args):
            seen.extend((index, draw) for index, _, draw in batch)
            yield batch

    monkeypatch.setattr(loader, "plan_batches", planned)
    drawn = []
    for subnet, seed in ((SMALL, 0), (BIG, 0), (BIG, 1)):
        seen.clear()
        finished(trainings.train(subnet, seed))
        drawn.append(list(seen))
    assert drawn[0] == drawn[1]
    assert not set(drawn[1]) & set(drawn[2])
    trainer = trainings.trainer
    held = set(trainer.data._held.tolist())  # type: ignore[attr-defined]
    assert not held & {index for index, _ in drawn[0] + drawn[2]}
    passes = trainer.total_steps * trainer.recipe.batch_size // len(trainer.data._kept)  # type: ignore[attr-defined]
    assert min(draw for _, draw in drawn[0]) >= passes


def test_a_training_that_diverges_has_no_loss_and_stops_nothing(
    lab: Any, settings: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = fidelity.held_out_losses

    def broken(trainer: Any, network: Any, choice: Any) -> list[float]:
        values = losses(trainer, network, choice)
        return [math.nan] if choice.subnet == SMALL else values

    monkeypatch.setattr(fidelity, "held_out_losses", broken)
    done = lab.search(settings)
    report = report_of(done)
    assert report.subnets[0].losses == (None, None)
    assert report.overall.tau is not None
    assert (
        json.loads((done.path / "fidelity.json").read_text())["subnets"][0]["losses"] == [None] * 2
    )
    assert read_fidelity(done.path) == report


def test_settings_refuse_what_cannot_be_told_apart() -> None:
    wrong: list[Callable[[], FidelitySettings]] = [
        lambda: FidelitySettings(candidates=3),
        lambda: FidelitySettings(candidates=4, seeds=0),
        lambda: FidelitySettings(candidates=4, epochs=0),
        lambda: FidelitySettings(candidates=4, at=-1),
    ]
    for make in wrong:
        with pytest.raises(ValueError, match=r"must be a (whole )?number from"):
            make()


def test_the_start_is_kept_only_where_it_is_needed(lab: Any) -> None:
    torch.manual_seed(0)
    settings = checked(lab, FidelitySettings(candidates=4, begin="scratch", epochs=0.2))
    start = lab.prepare(settings, "plan").plan.points[0].start_step
    first = lab.search(settings, "stopped", stop_at=start + 2)
    assert not (first.path / "checkpoints" / "fidelity").exists()
