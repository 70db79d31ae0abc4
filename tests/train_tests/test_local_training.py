"""The 24-hour ViT as it is trained: locality, growing images, one position table that goes on learning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from autoprog.schedule import GrowthSchedule
from autoprog.stage import FullModel
from supernet.zoo import ZOO

SPEC = ZOO["vit-mu-local"]
SIZES = (8, 12, 16)
EVALUATED = {"marked_at", "evaluated_macs", "evaluated_position", "best", "evaluations_since_best"}
"""What a checkpoint holds of evaluations."""


def curriculum(depths: tuple[int, ...] = (4, 4, 4), **first: Any) -> GrowthSchedule:
    """Four steps at each size."""
    stages = [
        {"length": 4, "depth": depth, "img_size": size}
        for depth, size in zip(depths, SIZES, strict=True)
    ]
    stages[0] |= first
    body = {"full": FullModel.of(SPEC), "length_unit": "steps", "stages": stages}
    return GrowthSchedule.model_validate(body)


def settings_of(bench: Any, **changes: Any) -> Any:
    settings = bench.settings({**bench.rich, "epochs": 1.2}, **changes)
    return settings.model_copy(update={"model": FullModel.of(SPEC)})


def test_the_position_table_learns_in_every_step_at_every_size(bench: Any) -> None:
    trainer = bench.trainer(settings_of(bench), curriculum())
    stepper = trainer.stepper
    table, take = stepper.model.vit.pos_embed, stepper.step
    sizes: list[int] = []

    def step(images: Tensor, *rest: Any) -> Tensor:
        before = table.detach().clone()
        loss = take(images, *rest)
        assert stepper.model.vit.pos_embed is table
        assert table.shape == (1, 17, 24)
        assert (table.grad[0].abs().sum(-1) > 0).all()  # every place on the grid, at any image size
        assert int(stepper.optimizer.state[table]["step"]) == len(sizes) + 1
        assert not torch.equal(table, before)
        sizes.append(images.shape[-1])
        return loss

    stepper.step = step
    bench.carry_out(trainer, curriculum())
    assert sizes == [8] * 4 + [12] * 4 + [16] * 4


def test_an_evaluation_leaves_training_as_it_is(bench: Any) -> None:
    often = bench.run(settings_of(bench, eval_every_epochs=0.1, log_every_steps=1), curriculum())
    seldom = bench.run(settings_of(bench, log_every_steps=1), curriculum())
    assert len(often.of("evaluated")) == 12
    assert len(seldom.of("evaluated")) == 3
    kept = [{k: v for k, v in run.exact.items() if k not in EVALUATED} for run in (often, seldom)]
    assert bench.differences(*kept) == []


@pytest.mark.parametrize("stop", [2, 6])
def test_a_stopped_run_equals_the_straight_one(
    bench: Any, straight: Callable[..., Any], stop: int
) -> None:
    settings, schedule = settings_of(bench), curriculum((2, 3, 4))
    trainer = bench.trainer(settings, schedule)
    bench.signal_during(trainer, stop - 1)
    stopped = bench.carry_out(trainer, schedule)
    finished = bench.resume(stopped.path, schedule, settings)
    assert bench.differences(finished.exact, straight(settings, schedule).exact) == []


@pytest.mark.slow
def test_compiled_it_takes_two_training_graphs_at_most(bench: Any, graphs: list[Any]) -> None:
    outcome = bench.run(settings_of(bench, compile=True), curriculum((2, 3, 4)))
    assert len(outcome.of("stage_started")) == 3
    assert 1 <= len(graphs) <= 2


@pytest.mark.parametrize(
    "first",
    [
        {"tokens": {"keep_rate": 0.5}},
        {"tokens": {"keep_rate": {"curve": "cyclic", "drop": [0.8, -0.1]}}},
        {"step": {"sandwich": {"sizes": [8], "keep_rates": [0.5]}}},
    ],
)
def test_schedules_that_drop_tokens_are_refused(first: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must keep all tokens: vit-mu-local needs the whole grid"):
        curriculum(**first)
