"""The locality feed-forward and its variants of timm's ViTs."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import supernet
from supernet.config import GrowthRule, ModelSpec, SubnetConfig, TokenRule
from supernet.cost import macs, parameters
from supernet.depthmap import PLACEMENTS, new_slots, skip_lists
from supernet.elastic import ElasticViT, create_elastic, describe
from supernet.export import export_subnet, plain_state_dict
from supernet.grow import compact, grow
from supernet.locality import LocalBlock, LocalMlp
from supernet.zoo import ZOO
from tests.supernet_tests.conftest import shake
from tests.supernet_tests.growth_rules import every_rule, expected_block

Build = Callable[[ModelSpec, int], ElasticViT]
SPEC = ZOO["vit-mu-local"]
SMALL: dict[str, Any] = {"embed_dim": 24, "num_heads": 2, "depth": 2, "patch_size": 4}


def by_hand(mlp: LocalMlp, x: Tensor, height: int, width: int) -> Tensor:
    """Compute the feed-forward token by token, from the weights alone."""
    hidden = functional.hardswish(x @ mlp.fc1.weight.T).unflatten(1, (height, width))
    kernel = mlp.conv.weight[:, 0]  # (E, 3, 3)
    seen = torch.zeros_like(hidden)
    for row in range(height):
        for column in range(width):
            for down in (-1, 0, 1):
                for right in (-1, 0, 1):
                    if 0 <= row + down < height and 0 <= column + right < width:
                        neighbour = hidden[:, row + down, column + right]
                        seen[:, row, column] += neighbour * kernel[:, 1 + down, 1 + right]
    return functional.hardswish(seen).flatten(1, 2) @ mlp.fc2.weight.T


def shaken_block(**options: Any) -> LocalBlock:
    torch.manual_seed(0)
    block = LocalBlock(24, 2, qkv_bias=True, **options).eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return block


@pytest.mark.parametrize(("height", "width"), [(3, 3), (2, 5), (5, 2), (1, 4)])
def test_the_feed_forward_is_that_of_the_paper_on_any_grid(height: int, width: int) -> None:
    mlp = LocalMlp(8, 32)
    x = torch.randn(2, height * width, 8)
    torch.testing.assert_close(mlp(x, (height, width)), by_hand(mlp, x, height, width))


def test_it_has_no_biases_and_no_norm() -> None:
    shapes = {name: tuple(p.shape) for name, p in LocalMlp(8, 32, bias=True).named_parameters()}
    assert shapes == {"fc1.weight": (32, 8), "conv.weight": (32, 1, 3, 3), "fc2.weight": (8, 32)}


@pytest.mark.parametrize("num_prefix_tokens", [0, 1, 5])
def test_prefix_tokens_bypass_the_feed_forward(num_prefix_tokens: int) -> None:
    block = shaken_block()
    block.place(num_prefix_tokens, (2, 3))
    x = torch.randn(2, num_prefix_tokens + 6, 24)
    out, attended = block(x), x + block.attn(block.norm1(x))
    assert torch.equal(out[:, :num_prefix_tokens], attended[:, :num_prefix_tokens])
    patches = attended[:, num_prefix_tokens:]
    expected = patches + by_hand(block.mlp, block.norm2(patches), 2, 3)
    torch.testing.assert_close(out[:, num_prefix_tokens:], expected)


def test_the_class_token_gives_the_feed_forward_no_gradient() -> None:
    block = shaken_block()
    block(torch.randn(2, 10, 24))[:, 0].square().sum().backward()
    idle = {name for name, p in block.named_parameters() if p.grad is None or not p.grad.any()}
    assert idle == {
        name for name, _ in block.named_parameters() if name.startswith(("mlp", "norm2"))
    }


def test_layer_scale_and_drop_path_act_on_what_is_added() -> None:
    block = shaken_block(init_values=0.5, drop_path=0.4, mlp_ratio=2.0)
    assert block.mlp.fc1.out_features == 48
    x = torch.randn(2, 10, 24)
    attended = x + block.ls1(block.attn(block.norm1(x)))
    added = by_hand(block.mlp, block.norm2(attended[:, 1:]), 3, 3) * block.ls2.gamma
    torch.testing.assert_close(block(x)[:, 1:], attended[:, 1:] + added)
    block.train()
    block.drop_path1.drop_prob, block.drop_path2.drop_prob = 0.0, 1.0 - 1e-9
    torch.testing.assert_close(block(x), attended)


@pytest.mark.parametrize("by", ["magnitude", "class_attention"])
def test_an_elastic_network_keeps_all_tokens(by: str) -> None:
    """Also where those that are left, 4 of 16, would fill a grid."""
    rule = TokenRule(5 / 17, by, at_blocks=(1,))
    with pytest.raises(
        ValueError, match=r"vit-mu-local must keep all tokens, but got d4 r16 k0\.29"
    ):
        create_elastic(SPEC, 5)(torch.randn(1, 3, 16, 16), SubnetConfig(4, 16, rule))


@pytest.mark.parametrize("num_patches", [0, 3, 8])
def test_tokens_that_fill_no_grid_are_refused(num_patches: int) -> None:
    block = shaken_block()
    with pytest.raises(ValueError, match=f"all tokens of a grid of 1:1, but got {num_patches}"):
        block(torch.randn(1, 1 + num_patches, 24))


def test_a_wide_network_takes_images_of_its_shape_at_any_size() -> None:
    kwargs = {**SMALL, "img_size": (8, 16), "dynamic_img_size": True, "num_classes": 5}
    vit = timm.create_model("local_vit_tiny_patch16_224", **kwargs).eval()
    grids: list[tuple[int, int]] = []
    for block in vit.blocks:
        block.mlp.register_forward_pre_hook(lambda _, inputs: grids.append(inputs[1]))
    with torch.no_grad():
        for size in ((8, 16), (16, 32)):
            vit(torch.randn(1, 3, *size))
    assert grids == [(2, 4), (2, 4), (4, 8), (4, 8)]
    # 4 x 16 patches are as many as 8 x 8: nothing but the shape tells them apart.
    with pytest.raises(
        ValueError, match="shape of a grid of 2x4 patches with locality, but got 16x64"
    ):
        vit(torch.randn(1, 3, 16, 64))


def test_deit_s_with_locality_costs_what_the_paper_says() -> None:
    plain, local = ZOO["deit-s"], ZOO["deit-s-local"]
    convolutions, biases = 12 * 9 * 1536, 12 * (1536 + 384)
    assert (convolutions, biases) == (165_888, 23_040)  # the paper's 0.17 M, and what is left out
    assert parameters(local, 12) - parameters(plain, 12) == convolutions - biases == 142_848
    assert parameters(local, 12) == 22_193_512
    bypassed = 8 * 384**2  # the class token's part of a feed-forward
    assert macs(local, local.full) - macs(plain, plain.full) == 12 * (196 * 9 * 1536 - bypassed)


@pytest.mark.parametrize("name", ["vit-mu", "vit-mu-local"])
@pytest.mark.parametrize("subnet", [SubnetConfig(4, 16), SubnetConfig(2, 8)])
def test_multiply_accumulates_are_those_that_torch_counts(name: str, subnet: SubnetConfig) -> None:
    model = create_elastic(ZOO[name], 10).eval()
    math = sdpa_kernel(SDPBackend.MATH)  # the fused kernel of CPUs is counted as nothing
    with torch.no_grad(), math, FlopCounterMode(display=False) as counter:
        model(torch.randn(1, 3, subnet.img_size, subnet.img_size), subnet)
    assert counter.get_total_flops() == 2 * macs(ZOO[name], subnet, 10)


@pytest.mark.parametrize(
    ("timm_name", "overrides"),
    [
        ("local_vit_small_patch14_reg4_dinov2", {"img_size": 56, "depth": 2}),
        ("local_deit3_small_patch16_224", {"depth": 2}),
        ("local_se_deit_tiny_patch16_224", {"depth": 2}),
        ("local_eca_deit_tiny_patch16_224", {"depth": 2}),
    ],
)
def test_described_variants_are_counted_exactly(timm_name: str, overrides: dict[str, Any]) -> None:
    spec = describe(timm_name, **overrides)
    assert spec.is_local
    with torch.device("meta"):
        vit = timm.create_model(timm_name, num_classes=7, **spec.create_kwargs())
    assert parameters(spec, spec.depth, 7) == sum(p.numel() for p in vit.parameters())


def test_activation_and_gates_go_by_the_name() -> None:
    def mlp_of(prefix: str, **kwargs: Any) -> nn.Module:
        name = f"{prefix}_vit_tiny_patch16_224"
        mlp: nn.Module = timm.create_model(name, img_size=16, **SMALL, **kwargs).blocks[0].mlp
        return mlp

    assert type(mlp_of("local").act) is nn.Hardswish
    assert type(mlp_of("local_gelu").act).__name__ == "GELU"
    assert type(mlp_of("local", act_layer="relu").act) is nn.ReLU
    assert mlp_of("local").gate is None
    # LocalViT squeezes by a quarter of the token width: 96 / (24 / 4) channels.
    assert mlp_of("local_se").gate.fc1.out_channels == 16
    assert type(mlp_of("local_eca").gate).__name__ == "EcaModule"


@pytest.mark.parametrize("prefix", ["local_se", "local_eca"])
def test_a_gate_scales_the_channels_of_an_image(prefix: str) -> None:
    name = f"{prefix}_vit_tiny_patch16_224"
    mlp = timm.create_model(name, img_size=16, **SMALL).blocks[0].mlp
    gates: list[Tensor] = []
    mlp.gate.register_forward_hook(lambda _, inputs, out: gates.append(out / inputs[0]))
    mlp(torch.randn(2, 16, 24), (4, 4))
    (gate,) = gates
    assert torch.allclose(gate, gate[:, :, :1, :1].expand_as(gate), atol=1e-4)
    assert 0 < gate.min() < gate.max() < 1


@pytest.mark.parametrize("wide", [1.0, 100.0])
def test_the_gate_of_se_is_localvits_hard_sigmoid(wide: float) -> None:
    """Between its bends, where it is a straight line, and beyond them, where it is exactly 0 and 1."""
    torch.manual_seed(0)
    mlp = LocalMlp(24, 96, channel_attention="se", dtype=torch.float64)
    x = wide * torch.randn(4, 96, 5, 3, dtype=torch.float64)
    squeezed = torch.relu(x.mean((2, 3)) @ mlp.gate.fc1.weight[..., 0, 0].T + mlp.gate.fc1.bias)
    excited = wide * squeezed @ mlp.gate.fc2.weight[..., 0, 0].T + mlp.gate.fc2.bias
    with torch.no_grad():
        mlp.gate.fc2.weight.mul_(wide)
    gate = (excited + 3).clamp(0, 6) / 6
    assert ((gate == 0) | (gate == 1)).any() == (wide > 1)
    torch.testing.assert_close(mlp.gate(x), x * gate[:, :, None, None])


def test_the_gate_of_eca_is_a_sigmoid() -> None:
    mlp = LocalMlp(24, 96, channel_attention="eca")
    x = torch.randn(4, 96, 5, 3)
    gate = mlp.gate.conv(x.mean((2, 3))[:, None])[:, 0].sigmoid()
    torch.testing.assert_close(mlp.gate(x), x * gate[:, :, None, None])


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        (
            "local_deit_tiny_patch16_224",
            {"pretrained": True},
            "No pretrained weights exist for deit",
        ),
        ("local_deit_tiny_patch16_224", {"patch_drop_rate": 0.5}, "must be 0 with locality"),
        ("local_vit_pwee_patch16_reg1_gap_256", {}, "but there are ParallelScalingBlock"),
    ],
)
def test_what_locality_cannot_be_is_refused(
    name: str, kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises((RuntimeError, ValueError), match=message):
        timm.create_model(name, **kwargs)


@pytest.mark.parametrize("img_size", [16, 24])
def test_a_subnet_is_exported_as_a_timm_network(build: Build, img_size: int) -> None:
    model, subnet = build(SPEC, 5), SubnetConfig(3, img_size)
    exported = export_subnet(model, subnet)
    assert type(exported) is VisionTransformer
    images = torch.randn(2, 3, img_size, img_size)
    with torch.no_grad():
        torch.testing.assert_close(exported(images), model(images, subnet))


def test_weights_are_loaded_by_timm_after_the_import(build: Build, tmp_path: Path) -> None:
    model = build(SPEC, 5)
    torch.save(plain_state_dict(model), tmp_path / "weights.pth")
    program = (
        "import json, timm, torch, supernet.locality\n"
        f"kwargs = {SPEC.create_kwargs()!r}\n"
        f"vit = timm.create_model({SPEC.timm!r}, num_classes=5, checkpoint_path='weights.pth', **kwargs)\n"
        "torch.manual_seed(0); print(json.dumps(vit.eval()(torch.randn(1, 3, 16, 16)).tolist()))"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(supernet.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    torch.manual_seed(0)
    with torch.no_grad():
        expected = model.vit(torch.randn(1, 3, 16, 16))
    assert torch.equal(torch.tensor(json.loads(run.stdout)), expected)


@pytest.mark.parametrize("name", ["vit-mu-local", "local_vit_small_patch14_reg4_dinov2"])
def test_the_elastic_model_is_the_plain_one(name: str, build: Build) -> None:
    overrides = {"img_size": 56, "depth": 3, "embed_dim": 48, "num_heads": 4}
    spec = ZOO[name] if name in ZOO else describe(name, **overrides)
    model = build(spec, 5)
    images = torch.randn(2, 3, spec.img_size, spec.img_size)
    with torch.no_grad():
        assert torch.equal(model(images, spec.full), model.vit(images))


@every_rule
def test_new_blocks_with_locality_hold_what_the_rule_names(build: Build, rule: GrowthRule) -> None:
    model, averaged = build(SPEC, 5), shake(build(SPEC, 5), 1)
    before = [
        [copy.deepcopy(block.state_dict()) for block in network.stages[0]]
        for network in (model, averaged)
    ]
    grow(model, [averaged], None, (2,), (4,), rule)
    source_map = PLACEMENTS[rule.placement](2, 4)
    for slot in new_slots(source_map):
        online, slow = (blocks[source_map[slot]] for blocks in before)
        for network, expected in (
            (model, expected_block(rule, online, slow)),
            (averaged, expected_block(rule, slow)),
        ):
            grown = network.stages[0][slot].state_dict()
            assert grown.keys() == expected.keys()
            assert all(torch.equal(grown[name], expected[name]) for name in expected)


def test_zero_growth_changes_no_logits_and_a_winner_moves_to_the_front(build: Build) -> None:
    model = build(SPEC, 5)
    emas = [copy.deepcopy(model)]
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        before = model(images, SubnetConfig(2, 16))
        grow(model, emas, None, (2,), (4,), GrowthRule("zero"))
        assert torch.equal(model(images, SubnetConfig(4, 16)), before)
        slots = skip_lists((2,), (4,), (3,))
        inside = emas[0](images, SubnetConfig(3, 16), slots)
        compact(model, emas, None, slots)
        assert torch.equal(emas[0](images, SubnetConfig(3, 16)), inside)


def test_gradient_checkpointing_changes_no_gradient(build: Build) -> None:
    gradients = []
    for enable in (False, True):
        model = build(SPEC, 5).train()
        model.vit.set_grad_checkpointing(enable)
        torch.manual_seed(1)
        model(torch.randn(4, 3, 16, 16), SubnetConfig(4, 16)).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.slow
def test_sizes_depths_and_drop_path_share_one_traced_graph(build: Build) -> None:
    counter = CompileCounterWithBackend("eager")
    model = build(SPEC, 5).train()
    model.compile_blocks(dynamic=True, backend=counter)
    torch._dynamo.reset()
    for rate, depth, size in [(0.0, 2, 8), (0.1, 3, 12), (0.2, 4, 16), (0.0, 4, 24)]:
        model.set_drop_path(rate, depth)
        model(torch.randn(4, 3, size, size), SubnetConfig(depth, size)).sum().backward()
    assert counter.frame_count == 1


def test_compiled_blocks_compute_what_eager_ones_do(build: Build) -> None:
    model, images = build(SPEC, 5), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        eager = model(images, SubnetConfig(3, 16))
        torch._dynamo.reset()
        model.compile_blocks(backend="eager")
        assert torch.equal(model(images, SubnetConfig(3, 16)), eager)


@pytest.mark.slow
def test_inductor_compiles_forward_and_backward() -> None:
    """Half a minute; inductor cannot lay out a view that the convolution would keep for backward."""
    torch.manual_seed(0)
    eager = LocalMlp(8, 32)
    compiled = torch.compile(copy.deepcopy(eager), dynamic=True)
    for side in (2, 3):
        x = torch.randn(2, side**2, 8)
        found = []
        for mlp in (eager, compiled):
            mlp.zero_grad()
            mlp(x, (side, side)).square().sum().backward()
            found.append([parameter.grad.clone() for parameter in mlp.parameters()])
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
