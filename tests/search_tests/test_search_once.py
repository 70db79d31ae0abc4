"""Rules that decide once: the run carries out the chosen continuation to its end, whatever happens."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from autoprog.decisions import Continuation
from autoprog.events import Decided, Event, Grown, StageStarted, SupernetStarted
from autoprog.runs import load_run
from autoprog.search.searcher import Searcher
from autoprog.settings import Rule
from autoprog.train import trainer
from autoprog.train.meter import Ledger
from autoprog.train.phase import Phase
from supernet.config import SubnetConfig

SMALL, FULL = SubnetConfig(1, 8), SubnetConfig(4, 16)
EPOCH, TOTAL, FULL_STEP = 8, 64, 48
START, STOP = 16, 22  # of the one supernet phase
PLANTED: Continuation = (
    (STOP, SubnetConfig(1, 12)),
    (27, SubnetConfig(3, 12)),
    (35, SubnetConfig(3, 16)),
    (43, FULL),
)
"""Grows in size, in depth and in size again, in the middle of epochs; then in depth."""

both_rules = pytest.mark.parametrize("rule", ["pareto", "budget"])


def settings(lab: Any, rule: Rule, budget: float = 0.3, **more: Any) -> Any:
    budget_seconds = budget if rule == "budget" else None
    return lab.settings(rule, costs=lab.costs(), budget_seconds=budget_seconds, **more)


@pytest.fixture(autouse=True)
def no_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of a budget is all of it: how long these searches take says nothing."""
    monkeypatch.setattr(Ledger, "wall_seconds", lambda self: 0.0)


def expected_stages(continuation: Continuation) -> list[tuple[int, SubnetConfig]]:
    """The smallest subnet; the first of the continuation, to which the supernet phase counts; the rest."""
    stages = [(0, SMALL), (START, continuation[0][1]), *continuation[1:]]
    return stages[:1] + [b for a, b in pairwise(stages) if a[1] != b[1]]


def stages_of(attempt: Any) -> list[tuple[int, SubnetConfig]]:
    table = attempt.best.resolve(EPOCH, TOTAL / EPOCH)
    assert table.total_steps == TOTAL
    return [(segment.start_step, segment.subnet) for segment in table.segments]


def assert_carried_out(attempt: Any, continuation: Continuation) -> None:
    """The schedule, the stages that were begun and the steps that were taken are the continuation's."""
    assert stages_of(attempt) == expected_stages(continuation)
    begun = [(event.step, event.subnet) for event in attempt.of(StageStarted)]
    assert begun == [(0, SMALL), *continuation]
    stops = [step for step, _ in continuation[1:]] + [TOTAL]
    outside = [SMALL] * START
    for (step, subnet), stop in zip(continuation, stops, strict=True):
        outside += [subnet] * (stop - step)
    trained = attempt.trainer.steps_by_subnet
    assert trained.total() == TOTAL == attempt.trainer.step
    for subnet in set(outside):
        assert 0 <= trained[subnet] - outside.count(subnet) <= STOP - START
    assert attempt.run.result is not None


@both_rules
def test_a_run_decides_once_and_carries_out_its_continuation(lab: Any, rule: Rule) -> None:
    attempt = lab.search(settings(lab, rule))
    (decision,) = attempt.run.decisions
    assert (decision.rule, decision.step, decision.forced) == (rule, STOP, None)
    assert [(e.step, e.stop_step) for e in attempt.of(SupernetStarted)] == [(START, STOP)]
    assert decision.continuation[0] == (STOP, decision.subnet)
    assert decision.continuation[-1][1] == FULL
    assert len(decision.continuation) > 1  # something is left to carry out
    assert_carried_out(attempt, decision.continuation)
    assert [point.continuation for point in decision.front].count(decision.continuation) == 1


def test_every_growth_of_a_continuation_is_carried_out_where_it_says(lab: Any) -> None:
    lab.continuation = PLANTED
    attempt = lab.search(settings(lab, "pareto"))
    assert [decision.continuation for decision in attempt.run.decisions] == [PLANTED]
    assert_carried_out(attempt, PLANTED)
    grown = [(event.step, event.before, event.after) for event in attempt.of(Grown)]
    in_depth = [
        (step, before, after)
        for (_, before), (step, after) in pairwise(PLANTED)
        if before.depth != after.depth
    ]
    assert grown[1:] == in_depth
    assert grown[0][0] == START


def test_held_out_images_are_trained_on_as_soon_as_all_is_decided(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out: dict[int, bool] = {}
    next_phase = Searcher.next_phase

    def noting(self: Searcher, stop: int, **fields: object) -> Phase:
        phase = next_phase(self, stop, **fields)
        held_out[phase.start_step] = phase.held_out
        return phase

    monkeypatch.setattr(Searcher, "next_phase", noting)
    lab.continuation = ((STOP, SMALL), (27, FULL))
    lab.search(settings(lab, "pareto"), crash_when=at(Grown, 27))
    assert held_out == {0: True, START: True, STOP: False, 27: False}


def test_a_continuation_that_is_full_at_once_needs_no_growth(lab: Any) -> None:
    lab.continuation = ((STOP, FULL),)
    attempt = lab.search(settings(lab, "pareto"))
    assert_carried_out(attempt, lab.continuation)
    assert [event.step for event in attempt.of(Grown)] == [START]


def test_a_growth_that_follows_at_once_grows_what_was_decided_for(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The supernet's winner is extracted first, though it trains for no step."""
    extracted = []
    compact = trainer.compact

    def noting(model: Any, averages: Any, optimizer: Any, slots: Any) -> None:
        extracted.append(len(slots[0]))
        compact(model, averages, optimizer, slots)

    monkeypatch.setattr(trainer, "compact", noting)
    lab.continuation = ((STOP, SubnetConfig(3, 16)), (STOP, FULL))
    attempt = lab.search(settings(lab, "pareto"), crash_when=at(Grown, STOP))
    assert extracted == [3]
    assert attempt.of(Grown)[-1].before == SubnetConfig(3, 16)


def test_a_tight_budget_makes_the_cheapest_run_and_a_wide_one_the_best(lab: Any) -> None:
    tight = lab.search(settings(lab, "budget", budget=0.01), name="tight")
    wide = lab.search(settings(lab, "budget", budget=1e6), name="wide", crash_when=decided)
    (poor,), (rich,) = tight.run.decisions, wide.run.decisions
    assert "none fits the 0 s" in poor.reason
    assert poor.continuation == ((STOP, SMALL), (FULL_STEP, FULL))
    assert_carried_out(tight, poor.continuation)
    assert stages_of(tight) == [(0, SMALL), (FULL_STEP, FULL)]  # staying goes on with the stage
    assert "within the 1000000 s" in rich.reason
    assert rich.chosen.predicted_loss == min(p.predicted_loss for p in rich.front)
    assert rich.chosen.remaining_seconds > poor.chosen.remaining_seconds
    assert tight.run.inputs()[0].seconds_left == 0.01


def test_time_that_was_spent_is_gone(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "wall_seconds", lambda self: 0.25)
    attempt = lab.search(settings(lab, "budget"), crash_when=decided)
    assert attempt.run.inputs()[0].seconds_left == pytest.approx(0.05)
    monkeypatch.setattr(Ledger, "wall_seconds", lambda self: 7.0)
    late = lab.search(settings(lab, "budget"), name="late", crash_when=decided)
    assert late.run.inputs()[0].seconds_left == 0.0


def decided(event: Event) -> bool:
    return isinstance(event, Decided)


def at(kind: type[Any], step: int) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, kind) and event.step >= step


STOPS = {
    "inside the supernet phase": 18,
    "right after the decision": 22,
    "between two growths": 30,
    "where the depth grows": 43,
}
CRASHES = {"after the decision was recorded": decided, "after a growth": at(Grown, 27)}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run without any stop has come to, by rule, kept from the first test that needs it."""
    return {}


def assert_same_end(lab: Any, rule: Rule, straight: dict[str, Any], resumed: Any) -> None:
    if rule not in straight:
        attempt = lab.search(settings(lab, rule), name="straight")
        texts = [(attempt.path / name).read_text() for name in ("inputs.jsonl", "best.yaml")]
        straight[rule] = attempt.run.decisions, texts, attempt.weights
    decisions, (inputs, best), weights = straight[rule]
    run = load_run(resumed.path)
    assert run.result is not None
    assert run.decisions == decisions
    assert (resumed.path / "inputs.jsonl").read_text() == inputs
    assert (resumed.path / "best.yaml").read_text().replace("run: run", "run: straight") == best
    assert weights.keys() == resumed.weights.keys()
    assert [key for key, weight in resumed.weights.items() if not weight.equal(weights[key])] == []


@pytest.mark.parametrize("place", STOPS)
def test_a_run_stopped_on_its_continuation_ends_like_a_straight_one(
    lab: Any, straight: dict[str, Any], place: str
) -> None:
    lab.continuation = PLANTED
    assert lab.search(settings(lab, "pareto"), stop_at=STOPS[place]).trainer.step == STOPS[place]
    resumed = lab.search(settings(lab, "pareto"))
    assert resumed.events[0].step == STOPS[place]
    assert_same_end(lab, "pareto", straight, resumed)


@pytest.mark.parametrize("place", CRASHES)
def test_a_run_that_crashed_on_its_continuation_ends_like_a_straight_one(
    lab: Any, straight: dict[str, Any], place: str
) -> None:
    lab.continuation = PLANTED
    assert lab.search(settings(lab, "pareto"), crash_when=CRASHES[place]).interrupted
    assert_same_end(lab, "pareto", straight, lab.search(settings(lab, "pareto")))


def test_what_is_left_of_a_budget_is_asked_once(
    lab: Any, straight: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop costs time; the continuation that was chosen before it is carried out all the same."""
    for step in (18, 30):
        assert lab.search(settings(lab, "budget"), stop_at=step).interrupted
        if step == 30:
            monkeypatch.setattr(Ledger, "wall_seconds", lambda self: 1e9)
    resumed = lab.search(settings(lab, "budget"))
    monkeypatch.setattr(Ledger, "wall_seconds", lambda self: 0.0)
    assert_same_end(lab, "budget", straight, resumed)
