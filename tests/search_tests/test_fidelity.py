"""Real trainings beside a search: what they are, that they leave the run alone and are made once."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from torch import Tensor

from autoprog.data import loader
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
from autoprog.fidelity_report import (
    ComparedSubnet,
    FidelityReport,
    FidelitySettings,
    read_fidelity,
    read_trainings,
)
from autoprog.runs import load_run
from autoprog.search import fidelity
from autoprog.search.estimate import held_out_losses
from autoprog.search.fidelity import (
    ShortTrainings,
    agreement,
    beyond_seed_noise,
    bootstrap_interval,
    equal_cost,
    kendall_tau,
    spread_over_cost,
)
from autoprog.search.plan import check_fidelity
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


def report_of(attempt: Any) -> FidelityReport:
    report = read_fidelity(attempt.path)
    assert report is not None
    return report


def told(attempt: Any) -> list[Event]:
    """Return what holds of a log after all attempts, but for what real trainings add to it."""
    added = (SubnetTrained, CheckpointSaved)
    return [event for event in load_run(attempt.path).events() if not isinstance(event, added)]


def same_but_seconds(one: FidelityReport, other: FidelityReport) -> bool:
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


@pytest.fixture(scope="module")
def stopped_run(new_lab: Callable[[], Any]) -> Path:
    """The folder of a search that was stopped before its first decision."""
    lab = new_lab()
    return Path(lab.search(checked(lab, None), stop_at=10).path)


@pytest.fixture
def trainings(lab: Any, stopped_run: Path) -> ShortTrainings:
    """Trainings from the network of a search at its first decision."""
    settings = checked(lab, None)
    shutil.copytree(stopped_run, lab.folder / "run")
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


def judged(*rows: tuple[float, float, float | None, float | None]) -> list[ComparedSubnet]:
    """Subnets of (cost, estimate, losses of two seeds)."""
    return [
        ComparedSubnet(
            subnet=SubnetConfig(depth, 8),
            relative_cost=cost,
            estimate=estimate,
            losses=losses,
        )
        for depth, (cost, estimate, *losses) in enumerate(rows, 1)
    ]


@pytest.mark.parametrize(
    ("x", "y", "tau"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 40], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 2, 3, 4], [1, 3, 2, 4], 4 / 6),  # 5 pairs agree, 1 does not
        ([1, 2, 2, 3], [1, 2, 3, 3], 4 / 5),  # 4 agree; 1 of 6 is tied in x, 1 in y
        ([1, 1, 2], [1, 2, 2], 1 / 2),  # 1 agrees; 2 of 3 are untied in each
        ([1, 2], [5, 3], -1.0),
        ([math.inf, math.inf, 1.0], [3.0, 2.0, 1.0], 2 / math.sqrt(6)),
    ],
)
def test_tau_of_examples_by_hand(x: list[float], y: list[float], tau: float) -> None:
    assert kendall_tau(x, y) == pytest.approx(tau)
    assert kendall_tau(y, x) == pytest.approx(tau)


@pytest.mark.parametrize("x", [[], [1.0], [2.0, 2.0, 2.0]])
def test_what_is_in_no_order_has_no_tau(x: list[float]) -> None:
    assert kendall_tau(x, list(range(len(x)))) is None
    assert kendall_tau(list(range(len(x))), x) is None


def test_tau_is_that_of_scipy_with_and_without_ties() -> None:
    generator = np.random.default_rng(0)
    for levels in (3, 1000):
        for count in (2, 5, 12, 30):
            x, y = generator.integers(0, levels, (2, count)).tolist()
            expected = kendalltau(x, y).statistic
            assert (kendall_tau(x, y) or 0.0) == pytest.approx(
                0.0 if math.isnan(expected) else expected
            )


def test_pairs_of_equal_cost_differ_by_the_ratio_at_most() -> None:
    mask = equal_cost([1.0, 1.15, 1.3, 2.0])
    pairs = {(a, b) for a, b in zip(*np.nonzero(mask), strict=True) if a < b}
    assert pairs == {(0, 1), (1, 2)}
    assert (mask == mask.T).all()
    assert not mask.diagonal().any()


def test_tau_among_some_pairs_ignores_the_others() -> None:
    mask = equal_cost([1.0, 1.0, 5.0, 5.0])
    assert kendall_tau([1, 2, 3, 4], [4, 3, 1, 2], mask) == 0.0  # one agrees, one does not
    assert kendall_tau([1, 2, 3, 4], [4, 3, 2, 1], mask) == -1.0
    assert kendall_tau([1, 2], [1, 2], equal_cost([1.0, 2.0])) is None


def test_an_interval_is_that_of_the_draws() -> None:
    mean = bootstrap_interval(400, lambda drawn: float(np.mean(drawn)))
    assert mean is not None
    low, high = mean
    error = math.sqrt(400**2 / 12 / 400)  # of the mean of 400 draws of 0..399
    assert low == pytest.approx(199.5 - 1.96 * error, abs=1.5)
    assert high == pytest.approx(199.5 + 1.96 * error, abs=1.5)
    assert bootstrap_interval(400, lambda drawn: float(np.mean(drawn))) == mean
    assert bootstrap_interval(400, lambda drawn: float(np.mean(drawn)), seed=1) != mean


def test_there_is_no_interval_of_what_most_draws_lack() -> None:
    calls = iter(range(10_000))
    assert bootstrap_interval(5, lambda _: None if next(calls) % 3 else 1.0) is None
    assert bootstrap_interval(5, lambda _: None if next(calls) % 3 == 0 else 1.0) == (1.0, 1.0)


def test_agreement_by_hand() -> None:
    subnets = judged(
        (0.25, 3.0, 1.9, 2.1),  # means 2.0, 1.5, 1.6, 1.0
        (0.50, 2.0, 1.4, 1.6),
        (0.52, 2.5, 1.6, 1.6),
        (1.00, 2.2, 1.2, 0.8),
    )
    found = agreement(subnets)
    assert found.pairs == 6
    assert found.tau == pytest.approx(4 / 6)  # all but 2.0 and 2.2
    assert found.null_tau == pytest.approx(4 / 6)  # all but 0.50 and 0.52
    assert found.seeds_tau == pytest.approx(5 / math.sqrt(6 * 5))  # the second seed ties 2 and 3
    assert (found.low, found.gain_low) == (None, None)  # too few for an interval
    near = agreement(subnets, equal_cost([subnet.relative_cost for subnet in subnets]))
    assert (near.pairs, near.tau, near.null_tau, near.seeds_tau) == (1, 1.0, -1.0, None)
    assert (near.low, near.gain_low) == (None, None)  # most draws lack one of the two


def test_intervals_hold_tau_and_need_six_subnets() -> None:
    rows = [(0.1 * i, float(loss), float(i), float(i)) for i, loss in enumerate([1, 3, 2, 4, 6, 5])]
    found = agreement(judged(*rows))
    assert found.tau == pytest.approx(11 / 15)  # two of 15 pairs are the wrong way round
    assert found.low is not None
    assert found.high is not None
    assert -1 <= found.low < 11 / 15 < found.high <= 1
    few = agreement(judged(*rows[:5]))
    assert few.tau is not None
    assert (few.low, few.high, few.gain_low, few.gain_high) == (None, None, None, None)


def test_a_gain_over_cost_is_told_from_none() -> None:
    costs = [1.0, 0.2, 0.9, 0.3, 0.8, 0.4, 0.7, 0.5, 0.6, 0.45]
    better = judged(*((cost, float(i), float(i), float(i)) for i, cost in enumerate(costs)))
    found = agreement(better)
    assert (found.tau, found.low, found.high) == (1.0, 1.0, 1.0)
    assert found.gain_low is not None
    assert found.gain_low > 0
    same = judged(*((1 - 0.1 * i, float(i), float(i), float(i)) for i in range(8)))
    assert (agreement(same).gain_low, agreement(same).gain_high) == (0.0, 0.0)


def test_a_training_that_diverged_is_the_worst() -> None:
    subnets = judged((0.1, 1.0, 1.0, 1.0), (0.2, 2.0, 3.0, 3.0), (0.3, 3.0, None, 2.0))
    assert subnets[2].loss is None
    found = agreement(subnets)
    assert found.tau == 1.0
    assert found.seeds_tau == pytest.approx(1 / 3)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_pairs_are_beyond_seed_noise_by_what_seeds_differ_in(shift: float) -> None:
    """Left over are ∓1/30, ±2/30, ∓1/30: a variance of 1/150, an error of 0.0816 of a difference of means.

    What the second seed adds to all of them makes no difference.
    """
    subnets = judged(
        (0.1, 1.0, 1.0, 1.2 + shift), (0.2, 2.0, 1.2, 1.2 + shift), (0.3, 3.0, 1.17, 1.37 + shift)
    )
    mask = beyond_seed_noise(subnets)
    assert mask is not None
    assert mask.tolist() == [[False, False, True], [False, False, False], [True, False, False]]
    assert agreement(subnets, mask).pairs == 1
    assert agreement(subnets, mask).tau == 1.0


def test_two_subnets_are_beyond_seed_noise_as_by_paired_differences() -> None:
    """Differences of -0.2 and -0.1 over two seeds: a mean of -0.15 with a standard error of 0.05."""
    apart = beyond_seed_noise(judged((0.1, 1.0, 1.0, 2.0), (0.2, 2.0, 1.2, 2.1)))
    near = beyond_seed_noise(judged((0.1, 1.0, 1.0, 2.0), (0.2, 2.0, 1.2, 2.0)))  # -0.1 ± 0.1
    assert apart is not None
    assert apart.tolist() == [[False, True], [True, False]]
    assert near is not None
    assert not near.any()


def test_what_diverged_is_beyond_seed_noise_from_what_did_not() -> None:
    mask = beyond_seed_noise(
        judged((0.1, 1.0, 1.0, 1.2), (0.2, 2.0, None, 1.2), (0.3, 3.0, None, None))
    )
    assert mask is not None
    assert mask.tolist() == [[False, True, True], [True, False, False], [True, False, False]]


def test_one_seed_tells_nothing_apart() -> None:
    one = [
        subnet.model_copy(update={"losses": subnet.losses[:1]})
        for subnet in judged((0.1, 1.0, 1.0, 1.0))
    ]
    assert beyond_seed_noise(one) is None


def test_one_subnet_has_no_agreement() -> None:
    found = agreement(judged((0.1, 1.0, 1.0, 1.0)))
    assert set(found.model_dump().values()) == {0, None}


def test_one_seed_has_no_ceiling() -> None:
    rows = [
        ComparedSubnet(subnet=SubnetConfig(d, 8), relative_cost=d, estimate=d, losses=(float(d),))
        for d in (1, 2, 3)
    ]
    assert agreement(rows).seeds_tau is None


@pytest.mark.parametrize(
    ("costs", "count", "chosen"),
    [
        ([3.0, 1.0, 2.0], 5, [1, 2, 0]),  # all, by cost
        ([3.0, 1.0, 2.0], 3, [1, 2, 0]),
        ([1, 2, 2.1, 4, 8], 4, [0, 1, 2, 4]),  # the ends and the nearest pair
        ([1, 2, 3.5, 4, 8], 4, [0, 2, 3, 4]),
        ([1, 2, 2.1, 4, 8], 2, [0, 4]),
        ([1, 2, 2.1, 4, 8], 3, [0, 2, 4]),  # an odd one: furthest from both, on a logarithmic scale
        ([1, 1.1, 1.9, 2.0, 10, 10.1, 16, 20], 6, [0, 2, 3, 4, 5, 7]),  # a pair of each half
        ([1, 2, 3], 1, [0]),
    ],
)
def test_subnets_are_spread_over_cost(costs: list[float], count: int, chosen: list[int]) -> None:
    assert spread_over_cost(costs, count) == chosen


def test_any_number_is_met_and_near_pairs_are_among_them() -> None:
    generator = np.random.default_rng(1)
    for size in range(2, 30):
        costs = np.exp(generator.uniform(-2, 0, size)).tolist()
        for count in range(2, size + 3):
            chosen = spread_over_cost(costs, count)
            assert len(set(chosen)) == min(count, size)
            assert [costs[i] for i in chosen] == sorted(costs[i] for i in chosen)
            assert {costs.index(min(costs)), costs.index(max(costs))} <= set(chosen)
