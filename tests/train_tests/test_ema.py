"""Averages against sums by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from autoprog.train.model import build_model
from autoprog.train.optim import ElasticEma, decay_of, time_constants_steps
from supernet.config import first_slots
from supernet.zoo import ZOO

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
