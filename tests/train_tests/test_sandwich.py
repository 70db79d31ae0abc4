"""A sandwich step: which four subnets it trains, and that its gradient is the sum of theirs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor, nn

from autoprog.schedule import GrowthSchedule
from autoprog.stage import FullModel, SandwichSizes, Stage, Tokens, Training
from autoprog.train.phase import Choice, plain_choice
from autoprog.train.sandwich import Pass, accumulate, distillation_loss, sandwich_passes
from supernet.config import ALL_TOKENS, SubnetConfig, TokenRule
from supernet.cost import macs
from supernet.elastic import ElasticViT, create_elastic
from supernet.zoo import ZOO

SPEC = ZOO["vit-mu"]
SIZES = SandwichSizes(sizes=(8, 12), keep_rates=(0.5, 0.7))
TOKENS = Tokens(by="class_attention", at_blocks=(1, 2))
FULL = plain_choice(SPEC.full)


def passes(step: int, seed: int = 0) -> tuple[Pass, ...]:
    return sandwich_passes(SIZES, TOKENS, FULL, seed, step)


def test_the_passes_are_those_of_supervit_in_their_order() -> None:
    for step in range(20):
        full, pruned, smaller, smaller_pruned = passes(step)
        assert full == Pass(FULL)
        assert [one.distilled for one in passes(step)] == [False, True, False, True]
        assert {one.choice.slots for one in passes(step)} == {FULL.slots}
        assert {one.choice.subnet.depth for one in passes(step)} == {(4,)}
        assert pruned.choice.subnet.img_size == 16
        assert smaller.choice.subnet.img_size in SIZES.sizes
        assert smaller.choice.subnet.tokens == ALL_TOKENS
        assert smaller_pruned.choice.subnet.img_size == smaller.choice.subnet.img_size
        for one in (pruned, smaller_pruned):
            rule = one.choice.subnet.tokens
            assert rule in [TokenRule(r, "class_attention", (1, 2)) for r in SIZES.keep_rates]


def test_draws_are_uniform_independent_and_repeatable() -> None:
    drawn = Counter(
        tuple(one.choice.subnet for one in passes(step)[1:] if one.distilled)
        for step in range(4000)
    )
    assert len(drawn) == 8  # two rates, and two sizes with two rates each
    # 500 each; five standard deviations are 105.
    assert all(395 < count < 605 for count in drawn.values())
    assert passes(7) == passes(7)
    assert [passes(step, seed=1) for step in range(20)] != [passes(step) for step in range(20)]


def test_the_first_size_and_the_depth_are_those_of_the_stage() -> None:
    choice = Choice(SubnetConfig(2, 12), ((0, 3),))
    found = sandwich_passes(SandwichSizes(sizes=(8,), keep_rates=(0.5,)), TOKENS, choice, 0, 0)
    assert [one.choice.subnet.img_size for one in found] == [12, 12, 8, 8]
    assert {one.choice.subnet.depth for one in found} == {(2,)}
    assert {one.choice.slots for one in found} == {((0, 3),)}


def test_a_plain_step_has_one_pass_and_a_sandwich_step_its_four(bench: Any) -> None:
    trainer = bench.trainer(bench.settings(), sandwiched())
    trainer.folder.close()
    stepper, seen = trainer.stepper, []

    def noting(module: nn.Module, given: tuple[Any, ...]) -> None:
        seen.append(Choice(given[1], given[2]))

    stepper.network.register_forward_pre_hook(noting)
    images, labels = batch()[0], torch.arange(6)
    for training, wanted in (
        (Training(), [FULL]),
        (Training(sandwich=SIZES, tokens=TOKENS), [one.choice for one in passes(3)]),
    ):
        seen.clear()
        stepper.training = training
        stepper.step(images, labels, FULL, FULL.slots, 3)
        assert seen == wanted


@pytest.fixture
def model() -> ElasticViT:
    torch.manual_seed(0)
    model = create_elastic(SPEC, num_classes=5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.train()


def batch(size: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(size, 3, 16, 16, generator=generator)
    return images, torch.rand(size, 5, generator=generator).softmax(1)  # as mixup gives them


class Surroundings:
    """Notes what happens in the context of each forward and backward."""

    def __init__(self) -> None:
        self.log: list[str] = []

    @contextmanager
    def __call__(self, is_last: bool) -> Iterator[None]:
        self.log.append("last" if is_last else "open")
        yield
        self.log.append("close")


def run(
    model: ElasticViT, parts: list[tuple[Tensor, Tensor]], step: int, scale: float = 1.0
) -> tuple[Tensor, list[Tensor], Surroundings]:
    """Return the losses, the gradients and the contexts of a sandwich step."""
    model.zero_grad(set_to_none=True)
    contexts = Surroundings()

    def forward(images: Tensor, choice: Choice) -> Tensor:
        contexts.log.append("forward")
        return model(images, choice.subnet, choice.slots)

    losses = accumulate(
        passes(step), parts, forward, SoftTargetCrossEntropy(), lambda loss: loss * scale, contexts
    )
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(gradients) == len(list(model.parameters()))
    return losses, gradients, contexts


def separately(model: ElasticViT, step: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return the losses and the summed gradient of four subnets, each trained alone on the whole batch."""
    images, targets = batch()
    a, b, c, d = (one.choice for one in passes(step))
    cross_entropy = SoftTargetCrossEntropy()

    def logits(choice: Choice) -> Tensor:
        return model(images, choice.subnet, choice.slots)

    def divergence(student: Choice, teacher: Choice) -> Tensor:
        with torch.no_grad():
            wanted = logits(teacher).softmax(1)
        return (wanted * (wanted.log() - logits(student).log_softmax(1))).sum(1).mean()

    losses, total = [], [torch.zeros_like(p) for p in model.parameters()]
    for make in (
        lambda: cross_entropy(logits(a), targets),
        lambda: divergence(b, a),
        lambda: cross_entropy(logits(c), targets),
        lambda: divergence(d, c),
    ):
        loss = make()
        losses.append(loss.detach())
        for sum_, own in zip(
            total, torch.autograd.grad(loss, list(model.parameters())), strict=True
        ):
            sum_ += own
    return losses, total


@pytest.mark.parametrize("step", [0, 1, 5])
@pytest.mark.parametrize("micro_batches", [1, 2, 4])
def test_the_gradient_is_the_sum_of_four_separate_ones(
    model: ElasticViT, step: int, micro_batches: int
) -> None:
    images, targets = batch()
    chunks = images.chunk(micro_batches), targets.chunk(micro_batches)
    losses, gradients, _ = run(model, list(zip(*chunks, strict=True)), step)
    expected_losses, expected = separately(model, step)
    torch.testing.assert_close(losses, torch.stack(expected_losses), rtol=1e-5, atol=1e-6)
    for found, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_a_scaled_loss_scales_the_gradient_and_not_what_is_reported(model: ElasticViT) -> None:
    losses, gradients, _ = run(model, [batch()], 0)
    scaled_losses, scaled, _ = run(model, [batch()], 0, scale=8.0)
    assert torch.equal(losses, scaled_losses)
    for one, other in zip(gradients, scaled, strict=True):
        torch.testing.assert_close(8.0 * one, other)


def test_no_gradient_reaches_a_teacher() -> None:
    """With logits of its own for each pass, what a pass learns is seen at its logits."""
    generator = torch.Generator().manual_seed(0)
    own = {
        one.choice: torch.randn(6, 5, generator=generator, requires_grad=True) for one in passes(0)
    }
    images, targets = batch()
    accumulate(
        passes(0),
        [(images, targets)],
        lambda _, choice: own[choice],
        SoftTargetCrossEntropy(),
        lambda loss: loss,
        Surroundings(),
    )
    full, pruned, smaller, smaller_pruned = (own[one.choice] for one in passes(0))
    for teacher, student in ((full, pruned), (smaller, smaller_pruned)):
        assert teacher.grad is not None
        assert student.grad is not None
        torch.testing.assert_close(teacher.grad, (teacher.softmax(1) - targets) / 6)
        difference = student.softmax(1) - teacher.softmax(1)
        torch.testing.assert_close(student.grad, difference.detach() / 6)


def test_distillation_is_a_mean_over_images_and_zero_between_equals() -> None:
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    assert distillation_loss(logits, logits).item() == pytest.approx(0.0, abs=1e-7)
    one, other = logits, logits.flip(1)
    twice = distillation_loss(torch.cat([one, one]), torch.cat([other, other]))
    torch.testing.assert_close(twice, distillation_loss(one, other))
    assert twice > 0.1


def test_only_the_last_pass_of_the_last_micro_batch_averages_over_ranks(model: ElasticViT) -> None:
    images, targets = batch()
    parts = list(zip(images.chunk(2), targets.chunk(2), strict=True))
    _, _, contexts = run(model, parts, 0)
    assert contexts.log == ["open", "forward", "close"] * 7 + ["last", "forward", "close"]


def sandwiched(**recipe: Any) -> GrowthSchedule:
    """Twelve sandwich steps after twelve of PSS with random tokens."""
    stages: list[dict[str, Any]] = [
        {"length": 12, "depth": 3, "img_size": 16, "tokens": {"keep_rate": 0.6, "by": "random"}},
        {
            "length": 12,
            "depth": 4,
            "img_size": 16,
            "tokens": {"by": "class_attention", "at_blocks": [1, 2]},
            "step": {"sandwich": {"sizes": [8, 12], "keep_rates": [0.5, 0.7]}},
        },
    ]
    return GrowthSchedule(
        full=FullModel.of(SPEC),
        length_unit="steps",
        end="free",
        stages=tuple(Stage.model_validate(stage) for stage in stages),
    )


RECIPE: dict[str, Any] = {
    "epochs": 2.4,
    "mixup": 0.8,
    "cutmix": 1.0,
    "drop_path": 0.3,
    "clip_grad": 1.0,
}


def test_a_run_is_the_same_wherever_it_was_stopped(bench: Any, straight: Any) -> None:
    settings, schedule = bench.settings({**bench.plain, **RECIPE}), sandwiched()
    whole = straight(settings, schedule)
    assert len(whole.of("step_logged")) == 6
    for stop in (5, 12, 17):
        trainer = bench.trainer(settings, schedule)
        bench.signal_during(trainer, stop)
        stopped = bench.carry_out(trainer, schedule)
        assert stopped.of("interrupted")[0].step == stop + 1
        resumed = bench.resume(stopped.path, schedule, settings)
        assert bench.differences(resumed.exact, whole.exact) == []
        one, two = (
            load_file(outcome.path / "checkpoints" / "final.safetensors")
            for outcome in (resumed, whole)
        )
        assert bench.differences(one, two) == []


def test_all_passes_are_counted_as_compute(bench: Any, straight: Any) -> None:
    settings, schedule = bench.settings({**bench.plain, **RECIPE}), sandwiched()
    whole = straight(settings, schedule)
    images = 3 * bench.plain["batch_size"]
    first = 12 * macs(SPEC, SubnetConfig(3, 16, TokenRule(0.6, "random")), 10)
    drawn = [sandwich_passes(SIZES, TOKENS, FULL, 0, step) for step in range(2000)]
    mean = sum(macs(SPEC, one.choice.subnet, 10) for step in drawn for one in step) / len(drawn)
    assert whole.result.macs == pytest.approx(images * (first + 12 * mean), rel=0.01)


def test_micro_batches_change_a_sandwich_step_by_rounding_only(bench: Any) -> None:
    found = []
    for parts in (1, 3):
        recipe = {**bench.plain, "opt": "sgd", "lr": 0.05, "grad_accum_steps": parts}
        trainer = bench.trainer(bench.settings(recipe), sandwiched())
        trainer.folder.close()
        stepper = trainer.stepper
        stepper.training = Training(sandwich=SIZES, tokens=TOKENS)
        stepper.loss = nn.CrossEntropyLoss()
        stepper.model.train()
        images, _ = batch(12)
        labels = torch.arange(12) % 10
        losses = [stepper.step(images, labels, FULL, FULL.slots, step).item() for step in range(4)]
        found.append((losses, [p.detach() for p in stepper.model.parameters()]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)
