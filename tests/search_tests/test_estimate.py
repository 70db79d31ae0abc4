from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional

from autoprog.data import run_data
from autoprog.data.image_sources import stratified_holdout
from autoprog.search import estimate
from autoprog.search.decide import paired_difference, summarise
from autoprog.search.estimate import estimate_losses
from autoprog.train.phase import Choice, plain_choice
from autoprog.train.trainer import Trainer
from supernet.config import SubnetConfig

SMALL, FULL = SubnetConfig(2, 8), SubnetConfig(4, 16)
IN_SUPERNET = Choice(SMALL, ((0, 3),))


@pytest.fixture
def trainer(lab: Any, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    """A trainer whose averages differ from its network, with three batches held out."""
    monkeypatch.setattr(run_data, "PROBE_IMAGES", 2)
    made: Trainer = lab.prepare(lab.settings()).trainer
    generator = torch.Generator().manual_seed(1)
    for ema in made.stepper.emas:
        for weight in ema.module.parameters():
            weight.data.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    return made


def test_a_paired_difference_is_the_mean_and_its_standard_error() -> None:
    difference, error = paired_difference([1.0, 2.0, 4.0, 5.0], [1.0, 1.0, 2.0, 2.0])
    assert difference == 1.5
    assert error == pytest.approx(math.sqrt((1.5**2 + 0.5**2 + 0.5**2 + 1.5**2) / 3 / 4))


def test_what_both_have_in_common_leaves_no_error() -> None:
    assert paired_difference([1.5, 9.5, 4.5], [1.0, 9.0, 4.0]) == (0.5, 0.0)


def test_one_batch_has_no_error() -> None:
    assert paired_difference([3.0], [1.0]) == (2.0, 0.0)


def test_pairs_must_be_of_the_same_batches() -> None:
    with pytest.raises(ValueError, match="argument 2 is longer"):
        paired_difference([3.0], [1.0, 2.0])


def test_estimates_hold_the_mean_of_each_time_point_and_the_difference_at_the_last() -> None:
    points = [[[1.0, 3.0], [2.0, 2.0]], [[1.0, 2.0], [4.0, 7.0]]]
    small, full = summarise([SMALL, FULL], points, baseline=0)
    assert (small.subnet, small.losses) == (SMALL, (2.0, 1.5))
    assert (small.difference, small.difference_se) == (0.0, 0.0)
    assert (full.subnet, full.losses) == (FULL, (2.0, 5.5))
    assert (full.difference, full.difference_se) == (4.0, 1.0)


def test_the_difference_is_taken_against_the_baseline_given() -> None:
    small, full = summarise([SMALL, FULL], [[[1.0, 2.0], [4.0, 7.0]]], baseline=1)
    assert (small.difference, full.difference) == (-4.0, 0.0)


def test_a_loss_is_the_cross_entropy_of_each_held_out_batch_under_the_fast_average(
    trainer: Trainer,
) -> None:
    network = copy.deepcopy(trainer.stepper.emas[0].module).eval()
    with torch.no_grad():
        expected = [
            functional.cross_entropy(network(images, SMALL, ((0, 3),)), targets).item()
            for images, targets in trainer.data.held_out_batches
        ]
    assert len(expected) == 6
    assert estimate_losses(trainer, IN_SUPERNET) == expected


def test_all_candidates_see_the_same_batch_objects(trainer: Trainer) -> None:
    seen: list[list[int]] = []

    def note(_: Any, inputs: tuple[Any, ...]) -> None:
        seen[-1].append(id(inputs[0]))

    trainer.stepper.emas[0].module.register_forward_pre_hook(note)
    for choice in (IN_SUPERNET, plain_choice(FULL)):
        seen.append([])
        estimate_losses(trainer, choice)
    held = [id(images) for images, _ in trainer.data.held_out_batches]
    assert seen == [held, held]


def test_batches_are_moved_to_the_device(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    def devices(_: Any, batches: Any, *rest: Any) -> list[float]:
        return [float(part.device.type == "meta") for batch in batches for part in batch]

    monkeypatch.setattr(estimate, "batch_losses", devices)
    trainer.stepper.compute = replace(trainer.compute, device=torch.device("meta"))
    assert estimate_losses(trainer, IN_SUPERNET) == [1.0] * 12


def test_the_held_out_batches_are_the_held_out_slice_at_the_full_size(trainer: Trainer) -> None:
    source = trainer.data._train  # type: ignore[attr-defined]
    kept, held = stratified_holdout(source.targets, trainer.settings.seed, cap=2500)
    batches = trainer.data.held_out_batches
    targets = torch.cat([targets for _, targets in batches])
    assert targets.tolist() == source.targets[held].tolist()
    assert len(held) == len(source) // 20
    assert set(kept) | set(held) == set(range(len(source)))
    assert {images.shape[-1] for images, _ in batches} == {16}


@pytest.mark.parametrize("training", [True, False])
def test_estimates_use_eval_mode_and_restore_the_mode(trainer: Trainer, training: bool) -> None:
    average = trainer.stepper.emas[0].module
    calm = estimate_losses(trainer, plain_choice(FULL))
    average.set_drop_path(0.9, 4)
    average.train(training)
    assert estimate_losses(trainer, plain_choice(FULL)) == calm
    assert average.training is training


def test_estimates_change_nothing(trainer: Trainer) -> None:
    stepper = trainer.stepper
    networks = [stepper.model, *(ema.module for ema in stepper.emas)]
    before = [copy.deepcopy(network.state_dict()) for network in networks]
    modes, random = [network.training for network in networks], torch.get_rng_state()
    estimate_losses(trainer, IN_SUPERNET)
    assert torch.get_rng_state().equal(random)
    assert [network.training for network in networks] == modes
    for network, state in zip(networks, before, strict=True):
        assert all(tensor.equal(state[name]) for name, tensor in network.state_dict().items())
        assert all(parameter.grad is None for parameter in network.parameters())


def test_the_online_network_and_slower_averages_play_no_part(trainer: Trainer) -> None:
    before = estimate_losses(trainer, IN_SUPERNET)
    for network in (trainer.stepper.model, trainer.stepper.emas[-1].module):
        for weight in network.parameters():
            weight.data.zero_()
    assert len(trainer.stepper.emas) == 2
    assert estimate_losses(trainer, IN_SUPERNET) == before
