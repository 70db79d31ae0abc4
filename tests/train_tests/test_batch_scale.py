"""A run whose batch size changes: each image once a pass, and every count by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from autoprog.schedule import GrowthSchedule
from autoprog.stage import FullModel, Stage, Training, image_macs
from autoprog.train.optim import create_scheduler
from supernet.config import SubnetConfig
from supernet.zoo import ZOO

SPEC = ZOO["vit-mu"]
SMALL = SubnetConfig(2, 8)


def doubled(**first: Any) -> GrowthSchedule:
    """An epoch of 160 images in batches of 32, then two in batches of 16."""
    stages = (
        {"length": 1, "depth": 2, "img_size": 8, "batch_scale": 2, **first},
        {"length": 2, "depth": 4, "img_size": 16},
    )
    return GrowthSchedule(
        full=FullModel.of(SPEC), stages=tuple(Stage.model_validate(stage) for stage in stages)
    )


def watched(bench: Any, settings: Any, schedule: GrowthSchedule) -> tuple[Any, list[Any]]:
    """Return a trainer, and for each step that it will take its images' number and its learning rate."""
    trainer = bench.trainer(settings, schedule)
    step, seen = trainer.stepper.step, []

    def noted(images: Any, targets: Any, *rest: Any) -> Any:
        loss = step(images, targets, *rest)
        seen.append((len(images), trainer.stepper.optimizer.param_groups[0]["lr"]))
        return loss

    trainer.stepper.step = noted
    return trainer, seen


def recipe_of(bench: Any) -> dict[str, Any]:
    return {**bench.plain, "epochs": 3.0, "lr": 1e-3}


@pytest.mark.parametrize(("first", "scale"), [({}, math.sqrt(2)), ({"lr_scale": 3.0}, 3.0)])
def test_batches_counts_and_rates_are_those_by_hand(
    bench: Any, first: dict[str, Any], scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autoprog.data import loader

    plan_batches, read = loader.plan_batches, []

    def planned(*args: Any) -> Any:
        for batch in plan_batches(*args):
            read.append([index for index, _, _ in batch])
            yield batch

    monkeypatch.setattr(loader, "plan_batches", planned)
    settings = bench.settings(recipe_of(bench))
    schedule = doubled(**first)
    trainer, seen = watched(bench, settings, schedule)
    outcome = bench.carry_out(trainer, schedule)

    assert [images for images, _ in seen] == [32] * 5 + [16] * 20
    assert [len(batch) for batch in read] == [32] * 5 + [16] * 20
    indices = [index for batch in read for index in batch]
    for number in range(3):
        assert sorted(indices[160 * number : 160 * (number + 1)]) == list(range(160))
    assert (trainer.samples, trainer.step, trainer.epoch) == (480, 25, 3.0)
    assert outcome.result.image_epochs == outcome.result.epochs == 3.0
    assert trainer.macs == 160 * image_macs(SPEC, SMALL, Training(), 10) + 320 * image_macs(
        SPEC, SPEC.full, Training(), 10
    )
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    timms = create_scheduler(optimizer, settings.recipe, "cosine", 25)
    seen_images = 0
    for images, lr in seen:
        timms.step_update(seen_images / 480 * 25)
        assert lr == pytest.approx(
            optimizer.param_groups[0]["lr"] * (scale if images == 32 else 1.0)
        )
        seen_images += images


@pytest.mark.parametrize("at", [3, 5, 11])
def test_a_stop_in_either_stage_changes_no_bit(bench: Any, straight: Any, at: int) -> None:
    settings, schedule = bench.settings(recipe_of(bench)), doubled()
    trainer = bench.trainer(settings, schedule)
    bench.signal_during(trainer, at)
    stopped = bench.carry_out(trainer, schedule)
    assert 0 < stopped.state["step"] < 25
    resumed = bench.resume(stopped.path, schedule, settings)
    expected = straight(settings, schedule)
    assert bench.differences(resumed.exact, expected.exact) == []
