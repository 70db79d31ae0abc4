"""One step: accumulation equals the whole batch, and randomness is a function of seed and step."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from autoprog.train.optim import create_loss, create_mixup
from autoprog.train.phase import GrowTo, phases_of, plain_choice
from autoprog.train.ranks import Ranks
from supernet.config import SubnetConfig
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
