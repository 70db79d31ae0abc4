"""A stop is granted within a step or a batch, whatever a search is doing, and the run can go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import pytest
import torch
from torch import Tensor

from autoprog.data.run_data import MapData
from autoprog.events import CostsKnown, CostsMeasured, Decided, Estimated, Evaluated, Interrupted
from autoprog.fidelity_report import FidelitySettings
from autoprog.runs import load_run
from autoprog.train.step import Stepper
from autoprog.train.stop import StopRequest
from supernet.config import SubnetConfig


@pytest.fixture
def settings(lab: Any) -> Any:
    lab.script = {0: SubnetConfig(3, 12), 1: SubnetConfig(3, 16)}
    return lab.settings(costs=lab.costs())


@pytest.fixture
def straight(observations: Callable[[str], Any]) -> Any:
    """The whole search, that nobody stops; carried out once for all tests."""
    return observations("rollout").attempt


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def interrupting(stop: StopRequest, items: Any, after: int) -> Iterator[Any]:
    for number, item in enumerate(items):
        if number == after:
            stop.signal_name = "SIGINT"
        yield item


def test_a_stop_while_costs_are_measured_leaves_a_run_that_measures_again(lab: Any) -> None:
    settings, stop, told = lab.settings(), StopRequest(), []

    def interrupt(event: Any) -> bool:
        if isinstance(event, CostsMeasured):
            told.append(event)
            stop.signal_name = "SIGINT"
        return False

    stopped = lab.search(settings, "stopped", stop=stop, crash_when=interrupt)
    assert stopped.interrupted
    assert len(told) == 1, "nothing more is measured"
    assert stopped.of(Interrupted)[0].signal == "SIGINT"
    assert (stopped.path / "checkpoints" / "last.pt").exists()
    assert not stopped.run.costs
    again = lab.search(settings, "stopped", crash_when=lambda e: isinstance(e, CostsKnown))
    assert again.of(CostsMeasured)
    assert again.run.costs
    again = lab.search(settings, "stopped", crash_when=lambda e: isinstance(e, CostsKnown))
    assert not again.of(CostsMeasured), "what is on record stays"
    (known,) = again.of(CostsKnown)
    assert {subnet for subnet, _ in known.step_seconds} == set(
        lab.space().above(SubnetConfig(1, 8))
    )


def stopped_in(
    lab: Any, settings: Any, patch: pytest.MonkeyPatch, place: str, number: int
) -> tuple[Any, int]:
    """Return a search that got a signal in the given evaluation or estimate, and the batches after it."""
    stop, seen, calls = StopRequest(), [], []
    name = "validation" if place == "evaluation" else "held_out_batches"
    found: Any = getattr(MapData, name)
    original: Callable[..., Any] = found.func if isinstance(found, cached_property) else found

    def watched(self: Any) -> Any:
        calls.append(name)
        batches = original(self)
        if len(calls) != number:
            return batches
        return counted(interrupting(stop, batches, after=1))

    def counted(batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            if stop.signal_name is not None:
                seen.append(batch)
            yield batch

    with patch.context() as inner:
        is_property = isinstance(found, cached_property)
        inner.setattr(MapData, name, property(watched) if is_property else watched)
        attempt = lab.search(settings, "stopped", stop=stop)
    return attempt, len(seen)


@pytest.mark.parametrize(("place", "number"), [("evaluation", 1), ("estimate", 1), ("estimate", 4)])
def test_a_stop_in_an_evaluation_or_an_estimate_costs_no_more_than_a_batch(
    lab: Any,
    settings: Any,
    straight: Any,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    number: int,
) -> None:
    stopped, batches_after = stopped_in(lab, settings, monkeypatch, place, number)
    assert stopped.interrupted
    assert batches_after <= 1
    kind = Evaluated if place == "evaluation" else Estimated
    assert not [event for event in stopped.of(kind) if event.step == stopped.trainer.step]
    again = lab.search(settings, "stopped")
    assert not again.interrupted
    assert same(again.weights, straight.weights)
    decided = [
        event.decision for event in load_run(again.path).events() if isinstance(event, Decided)
    ]
    assert decided == [event.decision for event in straight.of(Decided)]


def test_a_stop_while_estimates_are_checked_is_granted_after_a_step(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = lab.settings("pareto", costs=lab.costs())
    check = FidelitySettings(candidates=4, seeds=1)
    search = settings.search.model_copy(update={"fidelity": check})
    settings = settings.model_copy(update={"search": search})
    stop, steps = StopRequest(), []
    step_of = Stepper.step

    def interrupted(self: Stepper, *args: Any) -> Tensor:
        if len(self.emas) == 1:  # of a short training; the run has a fast and a slow average
            steps.append(args[-1])
            stop.signal_name = "SIGTERM" if len(steps) == 2 else stop.signal_name
        return step_of(self, *args)

    monkeypatch.setattr(Stepper, "step", interrupted)
    stopped = lab.search(settings, "stopped", stop=stop)
    assert stopped.interrupted
    assert len(steps) == 2
