"""Unfreezing (AutoProg-Zero): of each group of blocks the first ones train, more from stage to stage."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from autoprog.cli import main
from autoprog.schedule import GrowthSchedule
from autoprog.stage import FullModel, Unfrozen
from autoprog.train.step import set_trainable
from supernet.config import ModelSpec, SubnetConfig, first_slots
from supernet.elastic import ElasticViT, create_elastic, describe
from supernet.zoo import ZOO

SPEC = ZOO["vit-mu"]
DEEP = describe(
    "vit_tiny_patch16_224", img_size=8, patch_size=4, embed_dim=8, depth=28, num_heads=2
)


def unfreezing(spec: ModelSpec = SPEC, sizes: tuple[int, ...] = (16, 16, 16)) -> GrowthSchedule:
    """Blocks 0, then 0 and 1, then all of four, eight steps each."""
    levels: list[Any] = [{"every": 4, "level": 1}, {"every": 4, "level": 2}, "all"]
    stages = [
        {"length": 8, "depth": 4, "img_size": size, "trainable": level}
        for size, level in zip(sizes, levels, strict=True)
    ]
    full = FullModel.of(spec)
    return GrowthSchedule.model_validate({"full": full, "length_unit": "steps", "stages": stages})


def settings_of(bench: Any, **changes: Any) -> Any:
    return bench.settings({**bench.rich, "epochs": 2.4, "clip_grad": 1.0}, **changes)


def training_blocks(model: ElasticViT) -> list[int]:
    """Return the blocks that train; each does so as a whole, and all that is outside blocks too."""
    inside = {id(p) for block in model.vit.blocks for p in block.parameters()}
    assert all(p.requires_grad for p in model.parameters() if id(p) not in inside)
    found = []
    for number, block in enumerate(model.vit.blocks):
        (trains,) = {p.requires_grad for p in block.parameters()}
        found += [number] if trains else []
    return found


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_of_28_blocks_7_14_21_and_28_train_interleaved(level: int) -> None:
    model = create_elastic(DEEP, 10)
    set_trainable(model, first_slots((28,)), Unfrozen(every=4, level=level))
    expected = [block for block in range(28) if block % 4 < level]
    assert training_blocks(model) == expected
    assert len(expected) == 7 * level
    set_trainable(model, first_slots((28,)), None)
    assert training_blocks(model) == list(range(28))


def test_blocks_are_counted_as_they_run_and_idle_slots_never_train() -> None:
    model = create_elastic(SPEC, 10)
    set_trainable(model, ((1, 3),), Unfrozen(every=2, level=1))
    assert training_blocks(model) == [1]


@pytest.fixture(scope="module")
def carried_out(module_bench: Any) -> tuple[Any, list[list[int]], list[dict[str, Tensor]]]:
    """Return the outcome of a run, which blocks trained in each step, and the weights before it."""
    trainer = module_bench.trainer(settings_of(module_bench), unfreezing())
    take, trained, weights = trainer.stepper.step, [], []

    def step(*arguments: Any) -> Tensor:
        state = trainer.stepper.model.vit.state_dict()
        trained.append(training_blocks(trainer.stepper.model))
        weights.append({key: value.clone() for key, value in state.items()})
        return take(*arguments)

    trainer.stepper.step = step
    return module_bench.carry_out(trainer, unfreezing()), trained, weights


def test_a_stage_says_which_blocks_train(carried_out: Any) -> None:
    _, trained, _ = carried_out
    assert trained == [[0]] * 8 + [[0, 1]] * 8 + [[0, 1, 2, 3]] * 8


def test_frozen_blocks_keep_every_bit_and_all_else_moves(carried_out: Any) -> None:
    _, trained, weights = carried_out
    for start, stop in ((0, 7), (8, 15), (16, 23)):
        before, after = weights[start], weights[stop]
        moved = {key for key in before if not torch.equal(before[key], after[key])}
        expected = {
            key
            for key in before
            if not key.startswith("blocks.") or int(key.split(".")[1]) in trained[start]
        }
        assert moved == expected


def test_blocks_have_optimizer_state_from_their_first_step_on(carried_out: Any) -> None:
    outcome, _, _ = carried_out
    model = create_elastic(SPEC, 10)
    named = [name for name, _ in model.vit.named_parameters()]
    groups = outcome.state["optimizer"]["param_groups"]
    order = [number for group in groups for number in group["params"]]
    assert len(order) == len(named)  # built before any freezing, over all parameters
    steps = {int(entry["step"]) for entry in outcome.state["optimizer"]["state"].values()}
    assert steps == {24, 16, 8}


@pytest.mark.parametrize("stop", [5, 8, 12])
def test_a_stopped_run_equals_the_straight_one(
    bench: Any, straight: Callable[..., Any], stop: int
) -> None:
    settings, schedule = settings_of(bench), unfreezing()
    trainer = bench.trainer(settings, schedule)
    bench.signal_during(trainer, stop - 1)
    stopped = bench.carry_out(trainer, schedule)
    finished = bench.resume(stopped.path, schedule, settings)
    assert bench.differences(finished.exact, straight(settings, schedule).exact) == []


def flops(level: int | None) -> int:
    """Count forward and backward of one image through eight blocks."""
    spec = describe("vit_tiny_patch16_224", **{**DEEP.create_kwargs(), "depth": 8})
    model = create_elastic(spec, 10)
    set_trainable(model, ((*range(8),),), None if level is None else Unfrozen(level=level))
    math = sdpa_kernel(SDPBackend.MATH)  # the fused kernel of CPUs is counted as nothing
    with math, FlopCounterMode(display=False) as counter:
        model(torch.randn(1, 3, 8, 8), SubnetConfig(8, 8)).sum().backward()
    return int(counter.get_total_flops())


def test_a_step_saves_the_weight_gradients_of_frozen_blocks() -> None:
    tokens, width = 5, 8
    weight_gradients = 2 * tokens * 12 * width**2  # of one block
    assert flops(None) == flops(4)
    for level in (1, 2, 3):
        assert flops(None) - flops(level) == (8 - 2 * level) * weight_gradients


def test_unfreezing_takes_one_more_graph_at_most(bench: Any, graphs: list[Any]) -> None:
    outcome = bench.run(settings_of(bench, compile=True), unfreezing(SPEC, sizes=(8, 12, 16)))
    assert len(outcome.of("stage_started")) == 3
    assert 2 <= len(graphs) <= 3


@pytest.mark.slow
def test_ranks_unfreeze_together(tmp_path: Path) -> None:
    """Two processes come to what one comes to: the reducer waits for nothing that is frozen."""
    file = tmp_path / "unfreeze.yaml"
    file.write_text(unfreezing().to_yaml(), encoding="utf-8")
    words = ["train", "--schedule", str(file), "--workers", "0", "--device", "cpu", "-q"]
    assert main([*words, "--threads", "1", "--runs-dir", str(tmp_path / "alone")]) == 0
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    program = [sys.executable, *torchrun, "-m", "autoprog", *words]
    done = subprocess.run(
        [*program, "--runs-dir", str(tmp_path / "together")],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    alone, together = (
        load_file(next((tmp_path / name).glob("*/checkpoints/final.safetensors")))
        for name in ("alone", "together")
    )
    for key, value in alone.items():
        torch.testing.assert_close(value, together[key], rtol=1e-3, atol=1e-4)
