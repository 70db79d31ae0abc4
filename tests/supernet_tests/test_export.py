from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from supernet.config import ModelSpec, SubnetConfig, TokenRule
from supernet.elastic import ElasticViT, describe
from supernet.export import export_subnet, plain_network, plain_state_dict, static_model
from supernet.zoo import ZOO

Build = Callable[[ModelSpec, int], ElasticViT]
REGISTERS = {"img_size": 56, "depth": 4, "embed_dim": 48, "num_heads": 4}


def test_a_plain_state_dict_loads_into_timm_and_shares_no_memory(build: Build) -> None:
    model = build(ZOO["vit-mu"], 5)
    state = plain_state_dict(model)
    kwargs = model.spec.create_kwargs()
    timm.create_model(model.spec.timm, num_classes=5, **kwargs).load_state_dict(state, strict=True)
    own = {parameter.data_ptr() for parameter in model.parameters()}
    assert not any(tensor.data_ptr() in own for tensor in state.values())
    assert all(t.is_contiguous() and t.device.type == "cpu" for t in state.values())
    assert not any(tensor.requires_grad for tensor in state.values())


@pytest.mark.parametrize(
    ("subnet", "slots"),
    [(SubnetConfig(8, 16), None), (SubnetConfig(3, 16), None), (SubnetConfig(3, 16), ((0, 4, 7),))],
)
def test_at_full_image_size_the_exported_logits_are_equal_to_the_bit(
    family: Any, subnet: SubnetConfig, slots: Any
) -> None:
    exported = export_subnet(family.model, subnet, slots)
    assert type(exported) is VisionTransformer
    assert not exported.training
    assert len(exported.blocks) == subnet.depth[0]
    assert not [m for m in exported.modules() if type(m).__module__.startswith("supernet")]
    with torch.no_grad():
        expected = family.model(family.images, subnet, slots)
        assert torch.equal(exported(family.images), expected)


@pytest.mark.parametrize("img_size", [8, 12, 24])
def test_at_another_image_size_the_position_table_is_resampled(family: Any, img_size: int) -> None:
    subnet = SubnetConfig(5, img_size)
    exported = export_subnet(family.model, subnet)
    assert exported.patch_embed.img_size == (img_size, img_size)
    assert exported.pos_embed.shape == (1, (img_size // 4) ** 2 + 1, 24)
    images = torch.randn(2, 3, img_size, img_size)
    with torch.no_grad():
        torch.testing.assert_close(exported(images), family.model(images, subnet))


@pytest.mark.parametrize(
    ("timm_name", "overrides"),
    [
        ("vit_small_patch14_reg4_dinov2", REGISTERS),
        ("deit3_small_patch16_224", {"depth": 3, "img_size": 64}),
    ],
)
def test_registers_and_bare_position_tables_are_exported(
    timm_name: str, overrides: dict[str, Any], build: Build
) -> None:
    model = build(describe(timm_name, **overrides), 5)
    img_size = model.spec.patch_size * 3
    exported = export_subnet(model, SubnetConfig(2, img_size))
    images = torch.randn(2, 3, img_size, img_size)
    with torch.no_grad():
        torch.testing.assert_close(exported(images), model(images, SubnetConfig(2, img_size)))


@pytest.mark.parametrize("depth", [1, 3, 4])
def test_a_plain_network_is_what_timm_builds_at_that_depth(depth: int) -> None:
    spec = ZOO["vit-mu"]
    vit = plain_network(spec, SubnetConfig(depth, 8), num_classes=7, drop_path_rate=0.3)
    kwargs = {**spec.create_kwargs(), "depth": depth, "img_size": 8, "drop_path_rate": 0.3}
    theirs = timm.create_model(spec.timm, num_classes=7, **kwargs)
    vit.load_state_dict(theirs.state_dict(), strict=True)
    rates = [
        [getattr(block.drop_path1, "drop_prob", 0.0) for block in network.blocks]
        for network in (vit, theirs)
    ]
    assert rates[0] == pytest.approx(rates[1])
    assert vit(torch.zeros(1, 3, 8, 8)).shape == (1, 7)


def test_an_export_trains_on_its_own_and_draws_no_random_number(family: Any) -> None:
    before = torch.get_rng_state()
    exported = export_subnet(family.model, SubnetConfig(2, 16))
    assert torch.equal(torch.get_rng_state(), before)
    weight = family.model.vit.head.weight.clone()
    exported.train()(family.images).square().sum().backward()
    torch.optim.SGD(exported.parameters(), lr=1.0).step()
    assert torch.equal(family.model.vit.head.weight, weight)
    assert not torch.equal(exported.head.weight, weight)


CELLS = {
    "PSS": SubnetConfig(8, 16, TokenRule(0.4)),
    "PSS in the middle of fewer blocks": SubnetConfig(3, 12, TokenRule(0.5, "l2_magnitude", (1,))),
    "SuperViT": SubnetConfig(8, 16, TokenRule(0.5, "class_attention", (2, 4, 6))),
    "SuperViT at a smaller size": SubnetConfig(8, 8, TokenRule(0.7, "class_attention", (2, 4))),
    "all tokens": SubnetConfig(5, 16),
}


@pytest.mark.parametrize("subnet", CELLS.values(), ids=CELLS)
def test_a_static_model_has_the_logits_of_its_subnet(family: Any, subnet: SubnetConfig) -> None:
    images = torch.randn(4, 3, subnet.img_size, subnet.img_size)
    static = static_model(family.model, subnet)
    with torch.no_grad():
        torch.testing.assert_close(static(images), family.model(images, subnet))
    assert not static.training
    assert {key.partition(".")[0] for key in static.state_dict()} == {"vit"}


def test_a_static_model_runs_the_slots_it_is_given(family: Any) -> None:
    subnet, slots = SubnetConfig(3, 16, TokenRule(0.5)), ((0, 4, 7),)
    static = static_model(family.model, subnet, slots)
    with torch.no_grad():
        assert torch.equal(static(family.images), family.model(family.images, subnet, slots))


@pytest.mark.parametrize("name", ["PSS", "SuperViT at a smaller size"])
def test_torch_exports_a_static_model_for_any_batch(family: Any, name: str) -> None:
    subnet = CELLS[name]
    static = static_model(family.model, subnet)
    px = subnet.img_size
    batch = {0: torch.export.Dim("batch", min=1)}
    program = torch.export.export(static, (torch.randn(2, 3, px, px),), dynamic_shapes=(batch,))
    for size in (1, 2, 5):
        images = torch.randn(size, 3, px, px)
        with torch.no_grad():
            torch.testing.assert_close(program.module()(images), family.model(images, subnet))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
def test_a_static_model_can_be_traced(family: Any) -> None:
    subnet = CELLS["SuperViT"]
    static = static_model(family.model, subnet)
    with torch.no_grad():
        traced = torch.jit.trace(static, torch.randn(2, 3, 16, 16))
        torch.testing.assert_close(traced(family.images), family.model(family.images, subnet))


def test_weights_alone_cannot_say_which_tokens_stay(family: Any) -> None:
    with pytest.raises(ValueError, match=r"must keep all tokens, but got d4 r16 k0\.5; use s"):
        export_subnet(family.model, SubnetConfig(4, 16, TokenRule(0.5)))


def test_a_static_model_without_a_class_token_refuses_its_attention(build: Build) -> None:
    spec = describe("vit_base_patch16_siglip_224", depth=2, embed_dim=48, num_heads=4, img_size=64)
    rule = TokenRule(0.5, "class_attention")
    with pytest.raises(ValueError, match="without a class token"):
        static_model(build(spec, 5), SubnetConfig(2, 64, rule))
