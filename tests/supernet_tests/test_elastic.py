from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from supernet.config import ModelSpec, SubnetConfig, first_slots
from supernet.elastic import DropPath, ElasticViT, describe
from supernet.zoo import ZOO

Build = Callable[[ModelSpec, int], ElasticViT]

DESCRIBED: dict[str, dict[str, Any]] = {
    "vit_small_patch32_224": {"depth": 3},
    "vit_small_patch14_reg4_dinov2": {"img_size": 56, "depth": 3},
    "deit3_small_patch16_224": {"img_size": 64, "depth": 3},
    "vit_base_patch16_siglip_224": {"depth": 2, "embed_dim": 48, "num_heads": 4, "img_size": 64},
    "vit_base_patch16_clip_224": {"depth": 2, "embed_dim": 48, "num_heads": 4, "img_size": 64},
    "vit_small_patch16_224": {"in_chans": 1, "img_size": 48, "depth": 2, "global_pool": "avg"},
}


def plain_twin(model: ElasticViT) -> nn.Module:
    spec = model.spec
    num_classes = model.vit.num_classes
    twin = timm.create_model(spec.timm, num_classes=num_classes, **spec.create_kwargs())
    twin.load_state_dict(model.vit.state_dict(), strict=True)
    return twin.eval()


@pytest.mark.parametrize("name", ["vit-mu", "deit-ti", *DESCRIBED])
def test_the_full_model_loads_strictly_into_plain_timm_with_equal_logits(
    name: str, build: Build
) -> None:
    spec = ZOO[name] if name in ZOO else describe(name, **DESCRIBED[name])
    model = build(spec, 7)
    images = torch.randn(2, spec.in_chans, spec.img_size, spec.img_size)
    with torch.no_grad():
        assert torch.equal(model(images, spec.full), plain_twin(model)(images))
        assert torch.equal(model(images, spec.full), model.vit(images))


def test_a_shallower_subnet_is_the_model_cut_after_its_blocks(build: Build) -> None:
    model = build(ZOO["vit-mu"], 5)
    cut = plain_twin(model)
    cut.blocks = cut.blocks[:2]
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(model(images, SubnetConfig(2, 16)), cut(images))


def test_named_slots_run_in_their_order(build: Build) -> None:
    model = build(ZOO["vit-mu"], 5)
    cut = plain_twin(model)
    cut.blocks = nn.Sequential(cut.blocks[1], cut.blocks[3])
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(model(images, SubnetConfig(2, 16), ((1, 3),)), cut(images))


def test_images_are_resized_to_the_subnet_inside_the_forward(build: Build) -> None:
    model = build(ZOO["vit-mu"], 5)
    images = torch.randn(2, 3, 24, 24)
    resized = nn.functional.interpolate(images, size=(8, 8), mode="bilinear", antialias=True)
    assert torch.equal(model(images, SubnetConfig(3, 8)), model(resized, SubnetConfig(3, 8)))
    assert not torch.equal(model(images, SubnetConfig(3, 8)), model(images, SubnetConfig(3, 16)))


def test_slots_that_do_not_fit_the_subnet_are_a_programming_error(build: Build) -> None:
    model = build(ZOO["vit-mu"], 5)
    with pytest.raises(AssertionError, match="d2 r16 does not run the slots"):
        model(torch.randn(1, 3, 16, 16), SubnetConfig(2, 16), ((0, 1, 2),))


def test_gradient_checkpointing_runs_blocks_twice_and_changes_no_gradient(build: Build) -> None:
    gradients, runs = [], []
    for enable in (False, True):
        model, calls = build(ZOO["vit-mu"], 5).train(), []
        model.stages[0][2].norm1.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        model.set_drop_path(0.4, 4)
        model.vit.set_grad_checkpointing(enable)
        torch.manual_seed(1)
        model(torch.randn(8, 3, 16, 16), SubnetConfig(4, 16)).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
        runs.append(len(calls))
    assert runs == [1, 2]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_active_and_idle_parameters_share_out_the_model(build: Build) -> None:
    model = build(ZOO["vit-mu"], 5).train()
    slots = ((0, 3),)
    idle = {id(p) for p in model.idle_parameters(slots)}
    active = {id(p) for p in model.active_parameters(slots)}
    assert idle == {id(p) for slot in (1, 2) for p in model.stages[0][slot].parameters()}
    assert idle | active == {id(p) for p in model.parameters()}
    assert not idle & active
    model(torch.randn(2, 3, 16, 16), SubnetConfig(2, 16), slots).sum().backward()
    assert {id(p) for p in model.parameters() if p.grad is not None} == active


@pytest.mark.parametrize("how", ["plain", "foreach", "fused"])
def test_adamw_with_weight_decay_leaves_idle_slots_alone(how: str, build: Build) -> None:
    model = build(ZOO["vit-mu"], 5).train()
    kwargs = {how: True} if how != "plain" else {"foreach": False}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5, **kwargs)
    before = copy.deepcopy(model.state_dict())
    for depth in (2, 1, 2):
        optimizer.zero_grad(set_to_none=True)
        model(torch.randn(4, 3, 16, 16), SubnetConfig(depth, 16)).square().sum().backward()
        optimizer.step()
    changed = {
        name for name, now in model.state_dict().items() if not torch.equal(now, before[name])
    }
    idle = [name for name in before if name.startswith(("vit.blocks.2.", "vit.blocks.3."))]
    assert len(idle) == 24
    assert not changed & set(idle)
    assert "vit.blocks.1.mlp.fc2.weight" in changed
    assert not any(p in optimizer.state for p in model.idle_parameters(first_slots((2,))))


def drop_path_rates(model: ElasticViT) -> list[float]:
    rates = []
    for block in model.stages[0]:
        assert block.drop_path1.rate == pytest.approx(block.drop_path2.drop_prob)
        rates.append(round(block.drop_path2.rate.item(), 4))
    return rates


def test_drop_path_rises_linearly_over_the_active_depth(family: Any) -> None:
    family.model.set_drop_path(0.3, 4)
    assert drop_path_rates(family.model) == [0.0, 0.1, 0.2, 0.3, 0.0, 0.0, 0.0, 0.0]
    family.model.set_drop_path(0.0, (8,))
    assert drop_path_rates(family.model) == [0.0] * 8


def test_drop_path_leaves_no_trace_in_the_state_dict(family: Any) -> None:
    assert not [key for key in family.model.state_dict() if "drop_path" in key]


def test_drop_path_drops_at_its_rate_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    branch = DropPath(0.3).train()(torch.ones(20_000, 2, 3))
    per_image = branch.reshape(20_000, -1)
    assert torch.equal(per_image.amin(1), per_image.amax(1))
    assert per_image.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    # Four standard errors of a fraction of 0.3 over 20 000 images are 0.013.
    assert (per_image[:, 0] == 0).float().mean().item() == pytest.approx(0.3, abs=0.013)


@pytest.mark.parametrize(("rate", "training"), [(0.0, True), (0.5, False)])
def test_drop_path_without_work_returns_its_input_and_draws_nothing(
    rate: float, training: bool
) -> None:
    module, x = DropPath(rate).train(training), torch.ones(4, 2, 3)
    before = torch.get_rng_state()
    assert module(x) is x
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_drop_path_refuses_rates_outside_its_range(rate: float) -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\), but got"):
        DropPath(rate)


def test_ramps_of_size_depth_and_drop_path_share_one_traced_graph(family: Any) -> None:
    counter = CompileCounterWithBackend("eager")
    model = family.model.train()
    model.compile_blocks(dynamic=True, backend=counter)
    ramp = [(0.0, 2, 8), (0.1, 4, 12), (0.2, 6, 16), (0.3, 8, 24), (0.0, 3, 20)]
    torch._dynamo.reset()
    for rate, depth, img_size in ramp:
        model.set_drop_path(rate, depth)
        model(torch.randn(4, 3, img_size, img_size), SubnetConfig(depth, img_size)).sum().backward()
    assert counter.frame_count == 1


def test_a_compiled_drop_path_follows_its_ramp() -> None:
    module, x = DropPath(0.3).train(), torch.ones(64, 2, 3)
    torch._dynamo.reset()
    compiled = torch.compile(module, backend="eager", dynamic=True)
    for rate in (0.3, 0.6, 0.1):
        module.set_rate(rate)
        torch.manual_seed(0)
        eager = module(x)
        torch.manual_seed(0)
        assert torch.equal(compiled(x), eager)
    module.set_rate(0.0)
    assert torch.equal(compiled(x), x)


def test_compiled_blocks_compute_what_eager_blocks_do(family: Any) -> None:
    model: ElasticViT = family.model
    eager: Tensor = model(family.images, SubnetConfig(5, 16))
    torch._dynamo.reset()
    model.compile_blocks(backend="eager")
    assert torch.equal(model(family.images, SubnetConfig(5, 16)), eager)
    assert copy.deepcopy(model).stages[0][0]._compiled_call_impl is None


@pytest.mark.parametrize(
    ("timm_name", "overrides", "message"),
    [
        (
            "deit_smal_patch16_224",
            {},
            "'deit_smal_patch16_224'; did you mean deit_small_patch16_224",
        ),
        ("resnet18", {}, "must be a plain timm VisionTransformer or VOLO, but is a ResNet"),
        ("deit_tiny_distilled_patch16_224", {}, "but is a VisionTransformerDistilled"),
        ("vit_tiny_r_s16_p8_224", {}, "support dynamic_img_size, but has HybridEmbed"),
        ("vit_pwee_patch16_reg1_gap_256", {}, "standard blocks and attention, but has Parallel"),
        ("vit_dwee_patch16_reg1_gap_256", {}, "but has Block with DiffAttention"),
        ("vit_tiny_patch16_224", {"img_size": (32, 64)}, "img_size must be square, but got 32x64"),
        (
            "vit_tiny_patch16_224",
            {"patch_size": (8, 16)},
            "patch_size must be square, but got 8x16",
        ),
        ("vit_tiny_patch16_224", {"img_size": 100}, "multiple of the stride 16, but got 100"),
        ("vit_tiny_patch16_224", {"dept": 3}, "but got 'dept'; did you mean depth"),
        ("vit_tiny_patch16_224", {"num_classes": 3}, "num_classes must be left to supernet"),
    ],
)
def test_models_that_cannot_grow_are_refused(
    timm_name: str, overrides: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        describe(timm_name, **overrides)


def test_a_description_reads_registers_and_overrides() -> None:
    spec = describe("vit_small_patch14_reg4_dinov2", img_size=56, depth=3)
    assert (spec.depth, spec.img_size, spec.patch_size) == ((3,), 56, 14)
    assert (spec.num_prefix_tokens, spec.mlp_ratio) == (5, 4.0)
    assert spec.create_kwargs() == {"img_size": 56, "depth": 3}
