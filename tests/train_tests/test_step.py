"""The stepper: accumulation, seeds, growth, low-frequency crops, unfreezing, batches that do not fit."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from autoprog.cli import main
from autoprog.errors import RunError
from autoprog.schedule import GrowthSchedule
from autoprog.stage import FullModel, Unfrozen
from autoprog.train.optim import create_loss, create_mixup
from autoprog.train.phase import GrowTo, phases_of, plain_choice
from autoprog.train.ranks import Ranks
from autoprog.train.step import fourier_crop, set_trainable
from supernet.config import ModelSpec, SubnetConfig, first_slots
from supernet.elastic import ElasticViT, create_elastic, describe
from supernet.zoo import ZOO

FULL = plain_choice(ZOO["vit-mu"].full)


def batch(size: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(size, 3, 16, 16, generator=generator)
    return images, torch.arange(size) % 10


def trainer_of(bench: Any, **recipe: Any) -> Any:
    trainer = bench.trainer(bench.settings({**bench.plain, **recipe}), bench.ramped())
    trainer.folder.close()
    return trainer


def trained(bench: Any, steps: int, size: int = 16, **recipe: Any) -> tuple[list[float], Any]:
    """Return the losses of some steps on one batch, and the weights after them."""
    stepper = trainer_of(bench, **recipe).stepper
    stepper.model.train()
    losses = [stepper.step(*batch(size), FULL, FULL.slots, step).item() for step in range(steps)]
    return losses, {name: p.detach() for name, p in stepper.model.named_parameters()}


@pytest.mark.parametrize("micro_batches", [2, 3, 5, 16, 40])
def test_accumulation_equals_the_whole_batch(bench: Any, micro_batches: int) -> None:
    """With plain SGD, since AdamW's first steps blow rounding errors up to the size of the rate."""
    recipe: dict[str, Any] = {"opt": "sgd", "lr": 0.05, "smoothing": 0.1, "clip_grad": 1.0}
    losses, weights = trained(bench, 4, **recipe)
    parted_losses, parted = trained(bench, 4, **recipe, grad_accum_steps=micro_batches)
    assert parted_losses == pytest.approx(losses, rel=1e-5)
    for name, weight in weights.items():
        assert torch.allclose(parted[name], weight, rtol=1e-4, atol=1e-6), name


def test_the_loss_of_a_step_falls_when_a_batch_is_repeated(bench: Any) -> None:
    losses, _ = trained(bench, 30, lr=3e-3, warmup_fraction=0.0)
    assert losses[-1] < 0.8 * losses[0]


def test_a_step_depends_on_seed_and_number_but_not_on_the_generators(bench: Any) -> None:
    recipe = {"mixup": 0.8, "cutmix": 1.0, "drop_path": 0.4}
    found = []
    for seed, step in ((1, 7), (2, 7), (1, 8)):
        stepper = trainer_of(bench, **recipe).stepper
        stepper.model.train().set_drop_path(0.4, 4)
        stepper.mixup = create_mixup(0.8, 1.0, 0.1, 10)
        stepper.loss = create_loss(0.1, mixed=True)
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        found.append(stepper.step(*batch(), FULL, FULL.slots, step).item())
    assert found[0] == found[1]
    assert found[0] != found[2]


@pytest.mark.parametrize("drawn", ["mixup", "drop_path"])
def test_ranks_draw_their_own_mixing_and_drop_path(bench: Any, drawn: str) -> None:
    def loss_of(rank: int) -> float:
        stepper = trainer_of(bench, drop_path=0.4).stepper
        stepper.ranks = Ranks(rank=rank)
        stepper.model.train().set_drop_path(0.4 if drawn == "drop_path" else 0.0, 4)
        if drawn == "mixup":
            stepper.mixup = create_mixup(0.8, 1.0, 0.1, 10)
            stepper.loss = create_loss(0.1, mixed=True)
        return float(stepper.step(*batch(), FULL, FULL.slots, 7))

    found = [loss_of(rank) for rank in (0, 1, 2, 1)]
    assert found[1] == found[3]
    assert len(set(found)) == 3


def test_averages_follow_the_slots_of_the_phase_not_those_of_the_step(bench: Any) -> None:
    """In a supernet phase a slot that this step leaves out has been trained by others."""
    stepper = trainer_of(bench).stepper
    stepper.model.train()
    with torch.no_grad():
        for parameter in stepper.model.parameters():
            parameter.add_(0.1)
    small = plain_choice(SubnetConfig(2, 16))

    def last_block() -> Tensor:
        weights: Tensor = stepper.emas[-1].module.vit.blocks[3].mlp.fc1.weight
        return weights.clone()

    before = last_block()
    stepper.step(*batch(), small, FULL.slots, 5)
    moved = last_block()
    assert not torch.equal(moved, before)
    stepper.step(*batch(), small, small.slots, 6)
    assert torch.equal(last_block(), moved)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_mixed_targets_are_smoothed_as_the_recipe_says(bench: Any, smoothing: float) -> None:
    recipe = {"mixup": 0.8, "smoothing": smoothing, "epochs": 4.0, "drop_path": 0.0}
    trainer = trainer_of(bench, **recipe)
    phase = next(phases_of(bench.ramped().resolve(10)))
    trainer.stepper.regularise(phase, trainer.recipe, 10)
    images, _ = batch(2)
    _, mixed = trainer.stepper.mixup(images, torch.tensor([3, 3]))
    assert mixed.min().item() == pytest.approx(smoothing / 10)
    assert mixed[0, 3].item() == pytest.approx(1 - smoothing + smoothing / 10)


def test_the_clipped_gradient_is_the_largest_that_is_used(bench: Any) -> None:
    """Plain SGD without decay moves by rate times gradient, so the norm of the move is known."""
    recipe = {
        "opt": "sgd",
        "lr": 0.1,
        "warmup_fraction": 0.0,
        "weight_decay": 0.0,
        "sched": "constant",
    }
    stepper = trainer_of(bench, **recipe, clip_grad=0.01).stepper
    for group in stepper.optimizer.param_groups:
        group.update(momentum=0.0, nesterov=False)
    before = [p.detach().clone() for p in stepper.model.parameters()]
    stepper.step(*batch(), FULL, FULL.slots, 0)
    moves = [(p - q).norm() for p, q in zip(stepper.model.parameters(), before, strict=True)]
    assert torch.stack(moves).norm().item() == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_growth_that_starts_at_zero_changes_no_loss(bench: Any) -> None:
    grow = bench.ramped(grow={"init": "zero"}).stages[-1].grow
    trainer = trainer_of(bench)
    before, after = SubnetConfig(2, 16), SubnetConfig(4, 16)
    change = GrowTo(before, after, grow)
    event = trainer.stepper.grow(change, trainer.data.probe, 5, iter(range(9)).__next__)
    assert (event.delta_loss, event.delta_logits) == (0.0, 0.0)
    assert (event.step, event.lost_seconds) == (5, 1)
    assert event.origins == (
        "0 <- 0 (kept)",
        "1 <- 0 (zero)",
        "2 <- 1 (kept)",
        "3 <- 1 (zero)",
    )


def test_growth_by_copying_tells_what_it_did_to_the_probe(bench: Any) -> None:
    grow = bench.ramped(grow={"init": "copy"}).stages[-1].grow
    trainer = trainer_of(bench)
    model, probe = trainer.stepper.model, trainer.data.probe
    before, after = SubnetConfig(2, 8), SubnetConfig(4, 16)
    with torch.no_grad():
        old = model.eval()(probe[0], before)
    model.train()
    event = trainer.stepper.grow(GrowTo(before, after, grow), probe, 5, lambda: 0.0)
    assert model.training
    with torch.no_grad():
        new = model.eval()(probe[0], after)
    loss = torch.nn.functional.cross_entropy
    assert event.delta_loss == pytest.approx(
        (loss(new, probe[1]) - loss(old, probe[1])).item(), abs=1e-6
    )
    assert event.delta_logits == pytest.approx(((new - old).norm() / old.norm()).item(), rel=1e-5)


class Waits(TorchDispatchMode):
    """Lists the operations that read a value off the device, for which the host would have to wait."""

    READS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_to_copy")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        name = function.overloadpacket.__name__
        to_cpu = name != "_to_copy" or "device" in (named or {})
        if name in self.READS and to_cpu:
            self.seen.append(name)
        return function(*arguments, **(named or {}))


@pytest.mark.parametrize("opt", ["adamw", "sgd"])
def test_a_step_never_waits_for_the_device(bench: Any, opt: str) -> None:
    recipe = {"mixup": 0.8, "cutmix": 1.0, "drop_path": 0.4, "smoothing": 0.1, "clip_grad": 1.0}
    stepper = trainer_of(bench, opt=opt, **recipe, grad_accum_steps=2).stepper
    stepper.model.train()
    stepper.step(*batch(), FULL, FULL.slots, 0)  # the optimizer makes its state in the first step
    with Waits() as waits:
        stepper.step(*batch(), FULL, FULL.slots, 1)
    assert waits.seen == []
    with Waits() as waits:
        stepper.step(*batch(), FULL, FULL.slots, 2).item()
    assert waits.seen == ["_local_scalar_dense"]  # so it would be seen


@pytest.mark.parametrize("size", [8, 20, 31, 32])
def test_a_constant_image_keeps_its_value(size: int) -> None:
    small = fourier_crop(torch.full((2, 3, 32, 32), 0.7), size)
    assert small.shape == (2, 3, size, size)
    assert torch.allclose(small, torch.full_like(small, 0.7), atol=1e-6)


@pytest.mark.parametrize(("full", "size"), [(32, 16), (32, 12), (48, 24)])
def test_low_waves_are_kept_and_high_ones_are_gone(full: int, size: int) -> None:
    def wave(cycles: int, side: int) -> torch.Tensor:
        row = torch.cos(2 * torch.pi * cycles * torch.arange(side) / side)
        return row.expand(1, 1, side, side)

    assert torch.allclose(fourier_crop(wave(3, full), size), wave(3, size), atol=1e-5)
    assert fourier_crop(wave(size // 2 + 2, full), size).abs().max() < 1e-5


def test_it_commutes_with_the_normalisation_of_channels() -> None:
    images = torch.rand(2, 3, 32, 32)
    mean, std = torch.rand(3, 1, 1), torch.rand(3, 1, 1) + 0.1
    before = fourier_crop((images - mean) / std, 16)
    assert torch.allclose(before, (fourier_crop(images, 16) - mean) / std, atol=1e-5)


def test_a_full_size_image_is_left_as_it_is() -> None:
    images = torch.rand(2, 3, 16, 16)
    assert fourier_crop(images, 16) is images


# --- Batches that do not fit into the device's memory are taken in smaller parts.


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


# --- Unfreezing (AutoProg-Zero): of each group of blocks the first ones train, more from stage to stage.


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
