"""A search whose length is a time: cheap steps make it more epochs, and a kill changes nothing."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from autoprog.commands.flags import add_search_flags, given_cost_fraction
from autoprog.decisions import DecisionInputs
from autoprog.errors import ConfigError
from autoprog.events import Decided, Evaluated, Event, RunStarted, StageStarted, StepLogged
from autoprog.files import parse
from autoprog.search.forecast import ForecastInputs
from autoprog.search.replay import chooser_of, replay
from autoprog.settings import SearchSettings
from autoprog.train import trainer
from autoprog.ui.state import fold
from supernet.config import SubnetConfig
from supernet.cost import relative_cost
from supernet.zoo import ZOO

FRACTION = 0.75
SPEC = ZOO["vit-mu"]
SMALLEST, FULL = SubnetConfig(1, 8), SPEC.full
FULL_STEPS = int(FRACTION * 64)
COST = relative_cost(SPEC, SMALLEST)


@pytest.fixture(scope="module")
def straight(new_lab: Callable[[], Any]) -> Any:
    lab = new_lab()
    settings = lab.settings(costs=lab.costs(), cost_fraction=FRACTION)
    return lab.search(settings)


def test_its_steps_take_the_fraction_of_the_time(straight: Any) -> None:
    """Costs are given as multiply-accumulates here, so these say what the steps took."""
    steps = straight.trainer.steps_by_subnet
    used = sum(count * relative_cost(SPEC, subnet) for subnet, count in steps.items())
    assert FULL_STEPS <= used < FULL_STEPS + 1
    assert straight.trainer.step == sum(steps.values()) > 64  # more steps than the full model's
    assert straight.run.result.epochs == pytest.approx(straight.trainer.step / 8)


def test_decisions_count_time(straight: Any) -> None:
    for event in straight.of(Decided):
        decision = event.decision
        if not decision.candidates:
            continue
        assert (decision.length, event.step) == (FULL_STEPS, decision.step)
        assert 0 < decision.position < decision.step  # cheap steps came before
        for candidate in decision.candidates:
            assert candidate.continuation[0] == (decision.position, candidate.subnet)
            assert candidate.continuation[-1][1] == FULL
        assert decision.alpha == 0.0
        assert all(one.score == one.predicted_loss for one in decision.candidates)
        times = [candidate.remaining_seconds for candidate in decision.candidates]
        left = 0.01 * (FULL_STEPS - decision.position)
        assert times == pytest.approx([left] * len(times))
        assert len(set(times)) == 1  # all ways on take exactly as long, so nothing trades off
        assert len(decision.front) == 1


def test_what_decisions_are_taken_from_gives_them_again(straight: Any) -> None:
    for one in replay(straight.run, chooser_of(straight.run)):
        assert one.differences == ()


def test_the_schedule_found_takes_as_many_steps(straight: Any) -> None:
    """But for supernet phases, whose steps cost other than those of the stage that they lead to."""
    best = straight.best
    assert (best.length_unit, best.lr.clock) == ("epochs", "compute")
    table = best.resolve(straight.trainer.steps_per_epoch)
    used = sum(s.steps * relative_cost(SPEC, s.subnet) for s in table.segments)
    assert used == pytest.approx(FULL_STEPS, rel=0.05)


def test_where_evaluations_are_dear_there_is_one_at_the_end(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They take time that the length of the run does not count."""
    monkeypatch.setattr(trainer, "_EVALUATION_FRACTION", 1e-3)
    settings = lab.settings(costs=lab.costs(), cost_fraction=FRACTION, eval_every_epochs=None)
    attempt = lab.search(settings)
    assert len(attempt.of(StageStarted)) > 2
    assert [event.step for event in attempt.of(Evaluated)] == [attempt.trainer.step]


def test_it_is_evaluated_on_the_way_where_that_is_asked_for(straight: Any) -> None:
    stages = {event.stage for event in straight.of(StageStarted)}
    assert len(straight.of(Evaluated)) >= len(stages) > 2


def test_the_display_knows_how_much_is_done(straight: Any) -> None:
    started = straight.of(RunStarted)[0]
    assert (started.cost_fraction, started.total_steps) == (FRACTION, FULL_STEPS)
    fractions = [event.budget_fraction for event in straight.of(StepLogged)]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1.0, abs=1 / FULL_STEPS)
    first = straight.of(StageStarted)[0]
    assert first.stop_step == pytest.approx(first.step + 16 / COST, rel=0.7)
    halfway = fold(straight.events[: len(straight.events) // 2])
    assert 0 < halfway.fraction_done < 1
    assert halfway.total_steps > FULL_STEPS
    done = fold(straight.events)
    assert (done.fraction_done, done.total_steps) == (1.0, straight.trainer.step)


def at(kind: type[Any], number: int) -> Callable[[Event], bool]:
    seen: list[Event] = []

    def due(event: Event) -> bool:
        seen.extend([event] if isinstance(event, kind) else [])
        return len(seen) > number

    return due


@pytest.mark.parametrize("place", [(StepLogged, 2), (Decided, 0), (StepLogged, 30)], ids=str)
def test_a_crash_anywhere_ends_in_the_same_weights(
    straight: Any, lab: Any, place: tuple[type[Any], int]
) -> None:
    settings = lab.settings(costs=lab.costs(), cost_fraction=FRACTION)
    assert lab.search(settings, crash_when=at(*place)).interrupted
    again = lab.search(settings)
    assert again.trainer.steps_by_subnet == straight.trainer.steps_by_subnet
    for name, weights in straight.weights.items():
        assert torch.equal(again.weights[name], weights), name


def test_a_signal_in_a_supernet_phase_ends_in_the_same_weights(straight: Any, lab: Any) -> None:
    settings = lab.settings(costs=lab.costs(), cost_fraction=FRACTION)
    first = next(event for event in straight.of(Decided)).step
    assert lab.search(settings, stop_at=first - 2).interrupted
    again = lab.search(settings)
    for name, weights in straight.weights.items():
        assert torch.equal(again.weights[name], weights), name


def test_no_step_counts_for_more_than_a_full_one(lab: Any) -> None:
    """A small subnet that was measured slower than the full model would stretch the run for nothing."""
    slow = lab.costs(**{"d1 r8 b16": 1.0})
    attempt = lab.search(lab.settings(costs=slow, cost_fraction=FRACTION))
    assert attempt.searcher.step_costs[SMALLEST] == 1.0
    assert attempt.trainer.step <= 4 * FULL_STEPS


def test_a_forecast_shares_time_out(straight: Any) -> None:
    """A subnet at a tenth of the seconds takes ten steps for one of the full model."""
    inputs: DecisionInputs = straight.run.inputs()[0]
    assert (inputs.position is not None, inputs.at) == (True, inputs.position)
    from autoprog.search.decide import estimates_of, forecast_inputs

    space = straight.searcher.search.space
    made_from: ForecastInputs = forecast_inputs(space, inputs, estimates_of(inputs))
    continuation = ((inputs.at, SMALLEST), (inputs.full_step, FULL))
    seconds = made_from.forecast(continuation).seconds
    assert seconds == pytest.approx(0.01 * (FULL_STEPS - inputs.at))
    by_steps = replace(made_from, by_time=False).forecast(continuation).seconds
    small, full = inputs.full_step - inputs.at, FULL_STEPS - inputs.full_step
    assert by_steps == pytest.approx(0.01 * (COST * small + full))


@pytest.mark.parametrize("rule", ["autoprog", "pareto"])
def test_only_the_rollout_has_a_length_in_time(rule: Any, lab: Any) -> None:
    values = {"space": lab.space(), "space_from": "test", "rule": rule, "cost_fraction": 0.5}
    with pytest.raises(ConfigError, match="must be rollout, without --trials"):
        parse(SearchSettings, values, "flags")


def given(*words: str) -> float | None:
    parser = argparse.ArgumentParser()
    add_search_flags(parser)
    return given_cost_fraction(parser.parse_args(words))


@pytest.mark.parametrize(
    ("words", "fraction"),
    [
        ("", 0.5),
        ("--rule rollout", 0.5),
        ("--cost-fraction 0.3", 0.3),
        ("--same-epochs", None),
        ("--rule autoprog", None),
        ("--trials 8", None),
        ("--rule autoprog --cost-fraction 0.3", 0.3),  # which the settings refuse
    ],
)
def test_a_search_by_rollout_takes_half_the_time_unless_told_otherwise(
    words: str, fraction: float | None
) -> None:
    assert given(*words.split()) == fraction


def test_two_lengths_are_refused() -> None:
    with pytest.raises(ConfigError, match="--same-epochs: must not be given together"):
        given("--same-epochs", "--cost-fraction", "0.3")
