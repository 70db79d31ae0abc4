"""What a schedule says is what the network, the images and the optimizer see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

from autoprog.data.transforms import InputConfig
from autoprog.presets import constant, linear
from autoprog.schedule import GrowthSchedule
from autoprog.train.trainer import Trainer
from supernet.config import SubnetConfig
from supernet.elastic import DropPath
from supernet.zoo import ZOO

SPEC = ZOO["vit-mu"]


@dataclass
class Seen:
    """What each step was given, in order."""

    shapes: list[tuple[int, ...]] = field(default_factory=list)
    subnets: list[SubnetConfig] = field(default_factory=list)
    slots: list[Any] = field(default_factory=list)
    drop_paths: list[tuple[float, ...]] = field(default_factory=list)
    mixing: list[tuple[float, float] | None] = field(default_factory=list)
    losses: list[type[nn.Module]] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    configs: dict[int, InputConfig] = field(default_factory=dict)


def spy_on(trainer: Trainer) -> Seen:
    seen = Seen()
    take, batches, stepper = trainer.stepper.step, trainer.data.batches, trainer.stepper

    def step(images: Tensor, targets: Tensor, choice: Any, slots: Any, now: int) -> Tensor:
        seen.shapes.append(tuple(images.shape))
        seen.subnets.append(choice.subnet)
        seen.slots.append(choice.slots)
        seen.drop_paths.append(drop_path_rates(trainer))
        mixup = stepper.mixup
        seen.mixing.append(None if mixup is None else (mixup.mixup_alpha, mixup.cutmix_alpha))
        seen.losses.append(type(stepper.loss))
        loss = take(images, targets, choice, slots, now)
        seen.learning_rates.append(stepper.optimizer.param_groups[0]["lr"])
        return loss

    def watched_batches(
        first_sample: int,
        batch_size: int,
        steps: int,
        config_at: Callable[[int], InputConfig],
        held_out: bool,
    ) -> Any:
        assert not held_out
        seen.configs.update({trainer.step + k: config_at(k) for k in range(steps)})
        return batches(first_sample, batch_size, steps, config_at, held_out)

    stepper.step = step  # type: ignore[method-assign, assignment]
    trainer.data.batches = watched_batches  # type: ignore[method-assign]
    return seen


def drop_path_rates(trainer: Trainer) -> tuple[float, ...]:
    blocks = trainer.stepper.model.vit.blocks
    rates = [[m.drop_prob for m in b.modules() if isinstance(m, DropPath)] for b in blocks]
    assert all(len(set(map(float, pair))) == 1 for pair in rates)
    return tuple(round(float(pair[0]), 6) for pair in rates)


def by_stage(values: list[Any]) -> list[Any]:
    """Return the value of each ten steps, in which nothing may change."""
    tens = [values[start : start + 10] for start in range(0, 40, 10)]
    assert all(value == ten[0] for ten in tens for value in ten)
    return [ten[0] for ten in tens]


@pytest.fixture(scope="module")
def carried_out(module_bench: Any) -> tuple[Any, Seen]:
    bench = module_bench
    settings = bench.settings(bench.rich)
    schedule = linear(SPEC, 4, settings.recipe.strength)
    trainer = bench.trainer(settings, schedule)
    seen = spy_on(trainer)
    return bench.carry_out(trainer, schedule), seen


def test_linear_trains_through_all_its_stages(carried_out: tuple[Any, Seen]) -> None:
    outcome, seen = carried_out
    started = outcome.of("stage_started")
    assert [(event.step, event.stop_step) for event in started] == [
        (0, 10),
        (10, 20),
        (20, 30),
        (30, 40),
    ]
    subnets = [SubnetConfig(d, r) for d, r in ((2, 8), (3, 12), (3, 12), (4, 16))]
    assert [event.subnet for event in started] == subnets
    assert [event.stage for event in started] == [0, 1, 2, 3]
    assert by_stage(seen.subnets) == subnets
    assert by_stage(seen.shapes) == [(16, 3, size, size) for size in (8, 12, 12, 16)]
    assert by_stage(seen.slots) == [(tuple(range(depth)),) for depth in (2, 3, 3, 4)]


def test_every_stage_ends_with_an_evaluation_at_full_size_and_a_kept_checkpoint(
    carried_out: tuple[Any, Seen],
) -> None:
    outcome, _ = carried_out
    evaluated = [(event.step, event.subnet) for event in outcome.of("evaluated")]
    assert evaluated == [(10 * n, SubnetConfig(d, 16)) for n, d in ((1, 2), (2, 3), (3, 3), (4, 4))]
    names = {path.name for path in (outcome.path / "checkpoints").iterdir()}
    assert names == {
        "last.pt",
        "previous.pt",
        *(f"stage-{number}-{number}.pt" for number in range(4)),
        "best.safetensors",
        "final.safetensors",
        "final_ema.safetensors",
    }
    kept = [
        torch.load(outcome.path / "checkpoints" / f"stage-{n}-{n}.pt", weights_only=True)["step"]
        for n in range(4)
    ]
    assert kept == [10, 20, 30, 40]


def test_growth_events_say_where_the_blocks_came_from(carried_out: tuple[Any, Seen]) -> None:
    outcome, _ = carried_out
    grown = outcome.of("grown")
    assert [(event.step, event.before, event.after) for event in grown] == [
        (10, SubnetConfig(2, 8), SubnetConfig(3, 12)),
        (30, SubnetConfig(3, 12), SubnetConfig(4, 16)),
    ]
    assert grown[0].origins == ("0 <- 0 (kept)", "1 <- 1 (kept)", "2 <- 1 (ema)")
    assert grown[1].origins == (
        "0 <- 0 (kept)",
        "1 <- 1 (kept)",
        "2 <- 2 (kept)",
        "3 <- 2 (ema)",
    )
    assert {
        (event.init, event.placement, event.old_blocks, event.optimizer_state) for event in grown
    } == {("ema", "interpolate", "keep", "copy")}
    assert all(event.delta_logits > 0 for event in grown)
    assert all(0 < event.lost_seconds < 10 for event in grown)


def test_augmentation_follows_the_stage(carried_out: tuple[Any, Seen]) -> None:
    _, seen = carried_out
    assert sorted(seen.configs) == list(range(40))
    assert by_stage([seen.configs[step] for step in range(40)]) == [
        InputConfig(8, "rand-m4-mstd0.5-inc1", 0.0),
        InputConfig(12, "rand-m6-mstd0.5-inc1", 0.166667),
        InputConfig(12, "rand-m7-mstd0.5-inc1", 0.333333),
        InputConfig(16, "rand-m9-mstd0.5-inc1", 0.5),
    ]


def test_drop_path_rises_over_the_blocks_in_use_and_with_the_stage(
    carried_out: tuple[Any, Seen],
) -> None:
    _, seen = carried_out
    assert by_stage(seen.drop_paths) == [
        (0.0, 0.0, 0.0, 0.0),
        (0.0, 0.05, 0.1, 0.0),
        (0.0, 0.1, 0.2, 0.0),
        (0.0, 0.1, 0.2, 0.3),
    ]


def test_progress_tells_the_learning_rate_and_the_subnet_of_its_last_step(
    carried_out: tuple[Any, Seen],
) -> None:
    outcome, seen = carried_out
    progress = outcome.of("step_logged")
    assert [event.step for event in progress] == [4, 8, 10, 12, 16, 20, 24, 28, 30, 32, 36, 40]
    for event in progress:
        assert event.lr == seen.learning_rates[event.step - 1]
        assert event.subnet == seen.subnets[event.step - 1]
        assert event.epoch == event.step / 10


def test_the_result_counts_what_was_trained(carried_out: tuple[Any, Seen]) -> None:
    outcome, _ = carried_out
    result, last = outcome.result, outcome.of("evaluated")[-1]
    assert (result.epochs, result.image_epochs) == (4.0, 4.0)
    assert (result.top1, result.top1_ema) == (last.top1, last.top1_ema)
    assert (result.loss, result.loss_ema) == (last.loss, last.loss_ema)
    assert result.wall_seconds >= result.train_seconds > 0
    assert result.eval_seconds > 0
    assert result.supernet_seconds == result.search_seconds == 0
    assert outcome.events[-1].result == result.model_dump(mode="json", by_alias=True)
    steps = {(tuple(d), r): n for d, r, _, n in outcome.state["steps_by_subnet"]}
    assert steps == {((2,), 8): 10, ((3,), 12): 20, ((4,), 16): 10}


def test_mixing_and_the_loss_follow_the_stage(bench: Any) -> None:
    curricula = [
        {"mixup": 0.0, "cutmix": 0.0},
        {"mixup": 0.0},
        {"cutmix": 0.0, "drop_path": 0.6},
        {},
    ]
    schedule = GrowthSchedule.model_validate(
        {
            "full": constant(SPEC, 1, bench.settings().recipe.strength).full,
            "length_unit": "steps",
            "stages": [
                {"length": 10, "depth": 4, "img_size": 16, "curriculum": curriculum}
                for curriculum in curricula
            ],
        }
    )
    trainer = bench.trainer(bench.settings(bench.rich), schedule)
    seen = spy_on(trainer)
    outcome = bench.carry_out(trainer, schedule)
    assert by_stage(seen.mixing) == [None, (0.0, 1.0), (0.8, 0.0), (0.8, 1.0)]
    assert by_stage(seen.losses) == [
        LabelSmoothingCrossEntropy,
        SoftTargetCrossEntropy,
        SoftTargetCrossEntropy,
        SoftTargetCrossEntropy,
    ]
    assert [rates[-1] for rates in by_stage(seen.drop_paths)] == [0.3, 0.3, 0.6, 0.3]
    assert outcome.of("grown") == []


def test_image_size_climbs_within_a_stage_without_a_new_stage(bench: Any) -> None:
    schedule = bench.ramped()
    trainer = bench.trainer(bench.settings(), schedule)
    seen = spy_on(trainer)
    outcome = bench.carry_out(trainer, schedule)
    sizes = [shape[-1] for shape in seen.shapes]
    assert sizes == [8] * 12 + [8] * 4 + [12] * 4 + [16] * 4 + [16] * 16
    assert [subnet.img_size for subnet in seen.subnets] == sizes
    assert [event.step for event in outcome.of("stage_started")] == [0, 12, 24]
    assert [event.step for event in outcome.of("grown")] == [12, 24]


def test_idle_blocks_are_touched_by_nothing(bench: Any) -> None:
    """Weight decay and averages would move them, and growth would then start from something else."""
    settings = bench.settings({**bench.plain, "weight_decay": 0.5, "lr": 0.01, "ema_epochs": 0.1})
    schedule = bench.ramped()
    trainer = bench.trainer(settings, schedule)
    networks = [trainer.stepper.model, trainer.stepper.emas[-1].module]
    first = [weights_by_block(network) for network in networks]
    state = trainer.stepper.optimizer.state
    untouched: dict[int, list[list[bool]]] = {}
    without_state: dict[int, list[bool]] = {}

    def note(event: Any) -> bool:
        if event.kind == "step_logged":
            untouched[event.step] = [
                [
                    bench.differences(*pair) == []
                    for pair in zip(weights_by_block(n), old, strict=True)
                ]
                for n, old in zip(networks, first, strict=True)
            ]
            without_state[event.step] = [
                all(p.grad is None and p not in state for p in block.parameters())
                for block in networks[0].vit.blocks
            ]
        return False

    bench.carry_out(trainer, schedule, until=note)
    assert list(untouched) == list(range(4, 44, 4))
    for step, found in untouched.items():
        depth = 2 if step <= 12 else 3 if step <= 24 else 4
        idle = [False] * depth + [True] * (4 - depth)
        assert found == [idle, idle]
        assert without_state[step] == idle


def weights_by_block(network: Any) -> list[list[Tensor]]:
    return [[p.detach().clone() for p in block.parameters()] for block in network.vit.blocks]
