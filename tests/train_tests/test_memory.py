"""Batches that do not fit into the device's memory are taken in smaller parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from autoprog.errors import RunError
from autoprog.train.ranks import Ranks

FITS = 5


@pytest.fixture
def small_device(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let training steps run out of memory with more than `FITS` images; list the parts that fit."""
    from supernet.elastic import ElasticPlainViT

    forward, parts = ElasticPlainViT.forward, []

    def limited(self: Any, images: Tensor, *rest: Any) -> Tensor:
        if self.training and len(images) > FITS:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if self.training:
            parts.append(len(images))
        return forward(self, images, *rest)

    monkeypatch.setattr(ElasticPlainViT, "forward", limited)
    return parts


def test_a_batch_that_does_not_fit_is_split_and_the_run_goes_on(
    bench: Any, straight: Any, small_device: list[int]
) -> None:
    schedule = bench.ramped()
    trainer = bench.trainer(bench.settings(), schedule)
    outcome = bench.carry_out(trainer, schedule)
    assert trainer.stepper.micro_batches == 4
    assert set(small_device) == {4}  # 16 images in 4 parts, in every step
    told = [event.message for event in outcome.of("warning_raised")]
    assert told == ["out of memory: batches are taken in 4 parts from now on"]
    assert outcome.state["micro_batches"] == 4


def test_splitting_changes_the_loss_by_rounding_only(
    bench: Any, small_device: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = bench.ramped()
    split = bench.run(bench.settings(), schedule)
    monkeypatch.undo()
    whole = bench.run(bench.settings(), schedule)
    pairs = zip(split.of("step_logged"), whole.of("step_logged"), strict=True)
    for one, other in pairs:
        assert one.loss == pytest.approx(other.loss, rel=1e-4)


def test_a_resumed_run_knows_what_fits(bench: Any, small_device: list[int]) -> None:
    schedule, settings = bench.ramped(), bench.settings()
    trainer = bench.trainer(settings, schedule)
    bench.signal_during(trainer, 8)
    stopped = bench.carry_out(trainer, schedule)
    again = bench.reopened(stopped.path, schedule, settings)
    outcome = bench.carry_out(again, schedule)
    later = [event for event in outcome.of("warning_raised") if event.step > 9]
    assert later == []
    assert again.stepper.micro_batches == 4


def test_one_image_that_does_not_fit_ends_the_run(
    bench: Any, small_device: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "FITS", 0)
    schedule = bench.ramped()
    with pytest.raises(RunError, match="one image at a time; lower --img-size"):
        bench.run(bench.settings(), schedule)


def test_ranks_cannot_split_one_by_one(bench: Any, small_device: list[int]) -> None:
    trainer = bench.trainer(bench.settings(), bench.ramped())
    trainer.stepper.ranks = Ranks(rank=1, world_size=2)
    with pytest.raises(RunError, match="out of memory on rank 1; set --grad-accum-steps 2"):
        trainer.stepper._halve_micro_batches(16)
