"""Compiled blocks: a schedule of many sizes, depths and drop-path rates needs two training graphs at most."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from autoprog.schedule import GrowthSchedule
from autoprog.stage import FullModel, Stage
from supernet.zoo import ZOO

SPEC = ZOO["vit-mu"].with_img_size(20)


def four_stages() -> GrowthSchedule:
    stages = [
        {"length": 6, "depth": depth, "img_size": size, "curriculum": {"drop_path": rate}}
        for depth, size, rate in ((1, 8, 0.0), (2, 12, 0.1), (3, 16, 0.2), (4, 20, 0.3))
    ]
    return GrowthSchedule(
        full=FullModel.of(SPEC),
        length_unit="steps",
        stages=tuple(Stage.model_validate(stage) for stage in stages),
    )


def strict_after(trainer: Any, step: int) -> None:
    """From `step` on, let any recompilation fail."""
    take = trainer.stepper.step

    def strict(images: Any, targets: Any, choice: Any, slots: Any, now: int) -> Any:
        stance = "fail_on_recompile" if now >= step else "default"
        with torch.compiler.set_stance(stance):
            return take(images, targets, choice, slots, now)

    trainer.stepper.step = strict


def test_four_sizes_and_four_depths_make_two_training_graphs_at_most(
    bench: Any, graphs: list[Any]
) -> None:
    settings = bench.settings({**bench.plain, "epochs": 2.4}, compile=True)
    settings = settings.model_copy(update={"model": FullModel.of(SPEC)})
    trainer = bench.trainer(settings, four_stages())
    strict_after(trainer, 2)
    outcome = bench.carry_out(trainer, four_stages())
    assert [event.subnet.img_size for event in outcome.of("stage_started")] == [8, 12, 16, 20]
    assert len(outcome.of("evaluated")) == 4
    assert 1 <= len(graphs) <= 2


def test_the_strict_run_would_notice_a_recompilation(bench: Any, graphs: list[Any]) -> None:
    settings = bench.settings({**bench.plain, "epochs": 2.4}, compile=True)
    settings = settings.model_copy(update={"model": FullModel.of(SPEC)})
    trainer = bench.trainer(settings, four_stages())
    for block in trainer.stepper.model.vit.blocks:
        block.compile(dynamic=False, backend="eager")
    strict_after(trainer, 2)
    with pytest.raises(RuntimeError, match="recompile"):
        bench.carry_out(trainer, four_stages())


def test_compiling_changes_the_loss_by_rounding_only(bench: Any, graphs: list[Any]) -> None:
    schedule = bench.ramped()
    compiled = bench.run(bench.settings(compile=True), schedule)
    eager = bench.run(bench.settings(), schedule)
    assert graphs
    pairs = zip(compiled.of("step_logged"), eager.of("step_logged"), strict=True)
    for one, other in pairs:
        assert one.loss == pytest.approx(other.loss, rel=1e-4)


def test_averages_stay_eager(bench: Any, graphs: list[Any]) -> None:
    trainer = bench.trainer(bench.settings(compile=True), bench.ramped())
    compiled = [block._compiled_call_impl for block in trainer.stepper.model.vit.blocks]
    averaged = [block._compiled_call_impl for block in trainer.stepper.emas[-1].module.vit.blocks]
    assert all(call is not None for call in compiled)
    assert averaged == [None] * len(averaged)
