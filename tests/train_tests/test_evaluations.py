"""When a run is evaluated by itself: where that is a tenth of the training before it, and at its end."""

from __future__ import annotations

from typing import Any

import pytest

from autoprog.effort import evaluation_macs
from supernet.config import SubnetConfig
from supernet.cost import macs
from supernet.zoo import ZOO

SPEC = ZOO["vit-mu"]
CLASSES = 10
TRAINED = (((2, 8), 12), ((3, 8), 4), ((3, 12), 4), ((3, 16), 4))
"""Depth and size of the first two stages of the fixture's schedule, and their steps."""


def affordable_images(batch_size: int) -> int:
    """Return the most images whose evaluation is a tenth of the first two stages, by hand."""
    spent = sum(
        steps * batch_size * 3 * macs(SPEC, SubnetConfig(*subnet), CLASSES)
        for subnet, steps in TRAINED
    )
    return int(0.1 * spent / (2 * macs(SPEC, SubnetConfig(3, 16), CLASSES)))


def trainer(bench: Any, more_images: int = 0) -> tuple[Any, Any]:
    settings, schedule = bench.settings(eval_every_epochs=None), bench.ramped()
    made = bench.trainer(settings, schedule)
    made.feed.num_validation_images = affordable_images(settings.recipe.batch_size) + more_images
    return made, schedule


def steps_of(outcome: Any, kind: str) -> list[int]:
    return [event.step for event in outcome.of(kind)]


def test_an_evaluation_is_a_forward_of_two_networks() -> None:
    subnet = SubnetConfig(3, 12)
    assert evaluation_macs(SPEC, subnet, 7, CLASSES) == 14 * macs(SPEC, subnet, CLASSES)


@pytest.mark.parametrize(("more_images", "evaluated"), [(0, [24, 40]), (1, [40])])
def test_it_waits_until_ten_times_as_much_was_trained(
    bench: Any, more_images: int, evaluated: list[int]
) -> None:
    outcome = bench.carry_out(*trainer(bench, more_images))
    assert steps_of(outcome, "evaluated") == evaluated


def test_a_stage_keeps_a_checkpoint_where_it_is_evaluated(bench: Any) -> None:
    outcome = bench.carry_out(*trainer(bench))
    assert steps_of(outcome, "checkpoint_saved") == [24, 24, 40, 40]  # before it and after it
    kept = {path.name for path in (outcome.path / "checkpoints").glob("stage-*.pt")}
    assert len(kept) == 2


@pytest.mark.parametrize("stop", [12, 13, 24, 25])
def test_a_stopped_run_is_evaluated_where_the_straight_one_is(bench: Any, stop: int) -> None:
    stopped, schedule = trainer(bench)
    bench.signal_during(stopped, stop - 1)
    path = bench.carry_out(stopped, schedule).path
    resumed = bench.reopened(path, schedule, stopped.settings)
    resumed.feed.num_validation_images = stopped.feed.num_validation_images
    finished = bench.carry_out(resumed, schedule)
    assert steps_of(finished, "evaluated") == [24, 40]
    assert bench.differences(finished.exact, bench.carry_out(*trainer(bench)).exact) == []
