"""Learning rates against timm's formulas, losses and mixing, averages, and what is refused."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from timm.data import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import nn

from autoprog.errors import ConfigError
from autoprog.recipe import Recipe
from autoprog.train.model import build_model
from autoprog.train.optim import (
    ElasticEma,
    check_optimizer,
    create_loss,
    create_mixup,
    create_optimizer,
    create_scheduler,
    decay_of,
    time_constants_steps,
)
from supernet.config import first_slots
from supernet.zoo import ZOO

CPU = torch.device("cpu")
TOTAL = 200
PEAK, FIRST, LAST = 1e-3, 1e-6, 1e-5


def rates(shape: str, **changes: Any) -> list[float]:
    """Return the learning rate at each step of a run, and at the step after it."""
    values = {"lr": PEAK, "warmup_lr": FIRST, "min_lr": LAST, "warmup_fraction": 0.1, **changes}
    recipe = Recipe(**values)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=recipe.peak_lr)
    scheduler = create_scheduler(optimizer, recipe, shape, TOTAL)
    found = []
    for step in range(TOTAL + 1):
        scheduler.step_update(step)
        found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize("shape", ["cosine", "wsd", "constant"])
def test_the_rate_warms_up_in_a_line_over_its_fraction(shape: str) -> None:
    found = rates(shape)
    assert found[0] == FIRST
    for step in range(20):
        assert found[step] == pytest.approx(FIRST + step * (PEAK - FIRST) / 20, rel=1e-12)
    assert found[20] > found[19]


def test_cosine_counts_from_the_first_step_and_ends_at_the_least_rate() -> None:
    found = rates("cosine")
    for step in (20, 57, 100, 150, 199):
        wave = 0.5 * (1 + math.cos(math.pi * step / TOTAL))
        assert found[step] == pytest.approx(LAST + (PEAK - LAST) * wave, rel=1e-12)
    assert found[TOTAL] == LAST
    assert found[TOTAL - 1] == pytest.approx(LAST, rel=0.01)
    assert rates("cosine", warmup_fraction=0.0)[0] == PEAK


def test_wsd_stays_at_the_peak_and_decays_in_its_fraction() -> None:
    found = rates("wsd", decay_fraction=0.25)
    assert set(found[20:151]) == {PEAK}
    for step in (151, 160, 175, 199):
        decay = 1 - math.sqrt((step - 150) / 50)
        assert found[step] == pytest.approx(LAST + (PEAK - LAST) * decay, rel=1e-9)
    assert found[TOTAL] == pytest.approx(LAST)


def test_a_constant_rate_stays() -> None:
    assert set(rates("constant")[20:]) == {PEAK}


def test_the_ends_never_lie_above_the_peak() -> None:
    found = rates("cosine", lr=1e-7)
    assert max(found) <= 1e-7


def test_the_rate_is_a_function_of_the_step_alone() -> None:
    recipe = Recipe(lr=PEAK, warmup_fraction=0.1)
    whole = rates("cosine", min_lr=recipe.min_lr)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = create_scheduler(optimizer, recipe, "cosine", TOTAL)
    for step in (150, 3, 77):
        scheduler.step_update(step)
        assert optimizer.param_groups[0]["lr"] == whole[step]


def test_warm_up_and_decay_that_do_not_fit_are_refused() -> None:
    recipe = Recipe(warmup_fraction=0.5, decay_fraction=0.6)
    with pytest.raises(ConfigError) as refusal:
        check_optimizer(recipe, CPU, "wsd", 10)
    assert str(refusal.value) == (
        "--decay-fraction: must leave 5 of 10 steps to the warm-up, but got 0.6; lower --warmup-fraction"
    )
    check_optimizer(recipe, CPU, "cosine", 10)
    check_optimizer(Recipe(warmup_fraction=0.4, decay_fraction=0.6), CPU, "wsd", 10)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("adamww", "--opt: unknown optimizer, but got 'adamww'; did you mean 'adamw'?"),
        ("adahessian", "--opt: must do without second derivatives, but got 'adahessian'"),
    ],
)
def test_an_optimizer_that_cannot_serve_is_refused(name: str, problem: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        check_optimizer(Recipe(opt=name), CPU, "cosine", 10)
    assert str(refusal.value) == problem


@pytest.mark.skipif(torch.cuda.is_available(), reason="there it may work")
@pytest.mark.parametrize("name", ["bnbadam", "fusedadam"])
def test_an_optimizer_that_needs_cuda_is_refused_without_it(name: str) -> None:
    with pytest.raises(ConfigError, match="must be an optimizer that works on this machine"):
        check_optimizer(Recipe(opt=name), CPU, "cosine", 10)


def test_biases_and_norms_do_not_decay_and_no_parameter_is_left_out() -> None:
    model = build_model(ZOO["vit-mu"], 10, seed=0)
    optimizer = create_optimizer(model, Recipe(weight_decay=0.3), CPU)
    decays = {p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert set(decays) == set(model.vit.parameters())
    free = {name for name, p in model.vit.named_parameters() if decays[p] == 0}
    assert free == {
        name
        for name, p in model.vit.named_parameters()
        if p.ndim == 1 or name in ("pos_embed", "cls_token")
    }
    assert {decays[p] for p in model.vit.parameters()} == {0.0, 0.3}


def test_mixing_is_off_at_zero_and_set_up_from_the_recipe() -> None:
    assert create_mixup(0.0, 0.0, 0.1, 10) is None
    mixup = create_mixup(0.2, 0.0, 0.1, 10)
    assert isinstance(mixup, Mixup)
    assert (mixup.mixup_alpha, mixup.cutmix_alpha, mixup.label_smoothing) == (0.2, 0.0, 0.1)
    assert mixup.num_classes == 10


def test_mixed_targets_carry_their_smoothing_so_the_loss_adds_none() -> None:
    assert isinstance(create_loss(0.1, mixed=True), SoftTargetCrossEntropy)
    smooth = create_loss(0.1, mixed=False)
    assert isinstance(smooth, LabelSmoothingCrossEntropy)
    assert smooth.smoothing == 0.1
    assert isinstance(create_loss(0.0, mixed=False), nn.CrossEntropyLoss)


# --- Averages against sums by hand.


SPEC = ZOO["vit-mu"]
FULL = first_slots((4,))


def weight_of(model: Any, block: int) -> torch.Tensor:
    return model.vit.blocks[block].mlp.fc1.weight.detach().double().clone()


def set_all(model: Any, value: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)


def by_hand(start: float, values: list[float], time_constant: float) -> list[float]:
    """Return the averages: after update k, counted from 1, the decay is 1 - (1 + k)^(-2/3) at most."""
    averages, average = [], start
    for k, value in enumerate(values, 1):
        decay = min(1 - (1 + k) ** (-2 / 3), 1 - 1 / time_constant)
        average = decay * average + (1 - decay) * value
        averages.append(average)
    return averages


@pytest.mark.parametrize("time_constant", [1.0, 3.0, 1000.0])
def test_the_average_is_the_sum_by_hand_warm_up_included(time_constant: float) -> None:
    model = build_model(SPEC, 10, seed=0)
    set_all(model, 5.0)
    ema = ElasticEma(model, time_constant)
    values = [1.0, -2.0, 4.0, 0.5, 3.0, 3.0, 3.0, -7.0, 2.0, 1.0]
    expected = by_hand(5.0, values, time_constant)
    for step, (value, average) in enumerate(zip(values, expected, strict=True), 1):
        set_all(model, value)
        ema.update_active(model, step, FULL)
        for parameter in ema.module.parameters():
            assert torch.allclose(parameter, torch.tensor(average), rtol=1e-5, atol=1e-6)


def test_the_first_decays_are_those_of_the_warm_up() -> None:
    ema = ElasticEma(build_model(SPEC, 10, seed=0), time_constant_steps=4)
    decays = [ema.get_decay(step + 1) for step in (1, 2, 3, 6, 7, 8, 100)]
    assert decays == pytest.approx(
        [0.370039, 0.519250, 0.603150, 0.726724, 0.75, 0.75, 0.75], abs=1e-6
    )


def test_a_time_constant_is_how_far_the_average_reaches_back() -> None:
    assert decay_of(100) == 0.99
    assert decay_of(1) == decay_of(0.2) == 0.0
    decay = decay_of(40)
    mean_age = sum(age * (1 - decay) * decay**age for age in range(5000))
    assert mean_age == pytest.approx(39, abs=1e-6)


@pytest.mark.parametrize(
    ("slow_epochs", "supernet_steps", "total_steps", "constants"),
    [
        (1.0, None, 30_000, (100,)),
        (1.0, None, 4000, (100,)),  # an epoch is a 40th of the run, the longest share
        (1.0, None, 3200, (80,)),
        (1.0, None, 400, (10,)),
        (1.0, None, 40, (2,)),
        (0.5, None, 30_000, (50,)),
        (1.0, 200, 30_000, (50, 100)),
        (1.0, 4000, 30_000, (100, 100)),  # the fast one is never the slower
        (1.0, 200, 100, (2.5, 2.5)),
    ],
)
def test_time_constants(
    slow_epochs: float, supernet_steps: int | None, total_steps: int, constants: tuple[float, ...]
) -> None:
    assert time_constants_steps(slow_epochs, supernet_steps, 100, total_steps) == constants


def test_only_the_slots_in_use_are_averaged() -> None:
    model = build_model(SPEC, 10, seed=0)
    ema = ElasticEma(model, 10)
    before = copy.deepcopy(ema.module)
    set_all(model, 1.0)
    ema.update_active(model, 1, first_slots((2,)))
    moved = [not torch.equal(weight_of(ema.module, n), weight_of(before, n)) for n in range(4)]
    assert moved == [True, True, False, False]
    assert not torch.equal(ema.module.vit.head.weight, before.vit.head.weight)
    ema.update_active(model, 2, ((0, 3),))
    again = [not torch.equal(weight_of(ema.module, n), weight_of(before, n)) for n in range(4)]
    assert again == [True, True, False, True]


def test_the_average_is_float32_and_asks_for_no_gradient() -> None:
    model = build_model(SPEC, 10, seed=0).to(torch.bfloat16)
    ema = ElasticEma(model, 10)
    assert {parameter.dtype for parameter in ema.module.parameters()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in ema.module.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    set_all(model, 1.0)
    ema.update_active(model, 1, FULL)
    set_all(model, 1.0078125)  # one bit above 1 in bfloat16: a bfloat16 average would not move
    ema.update_active(model, 100, FULL)
    assert ema.module.vit.blocks[0].mlp.fc1.weight.flatten()[0].item() != 1.0
