from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest

from supernet.config import GrowthRule, ModelSpec, SubnetConfig, first_slots


def test_a_whole_number_is_the_depth_of_a_one_stage_model() -> None:
    assert SubnetConfig(6, 128) == SubnetConfig((6,), 128)
    assert hash(SubnetConfig(6, 128)) == hash(SubnetConfig([6], 128))
    assert SubnetConfig(6, 128).depth == (6,)


def test_a_subnet_prints_depth_and_resolution() -> None:
    assert str(SubnetConfig(6, 128)) == "d6 r128"
    assert str(SubnetConfig((4, 14), 224)) == "d4+14 r224"
    assert SubnetConfig((4, 14), 224).total_depth == 18


@pytest.mark.parametrize(
    ("depth", "img_size", "message"),
    [
        (0, 128, "depth must be a whole number >= 1, but got 0"),
        ((4, -1), 128, "depth must be a whole number >= 1, but got -1"),
        ((), 128, r"one entry per stage of the model, but got \(\)"),
        (6.0, 128, "depth must be a whole number >= 1, but got 6.0"),
        (True, 128, "but got True"),
        (6, 0, "img_size must be a whole number >= 1, but got 0"),
    ],
)
def test_a_subnet_refuses_sizes_that_cannot_be(depth: object, img_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SubnetConfig(depth, img_size)  # type: ignore[arg-type]


def test_a_subnet_is_frozen_and_replaceable() -> None:
    subnet = SubnetConfig(6, 128)
    with pytest.raises(FrozenInstanceError):
        subnet.img_size = 160  # type: ignore[misc]
    assert replace(subnet, img_size=160) == SubnetConfig(6, 160)


def test_within_is_a_partial_order_over_both_axes() -> None:
    small, deep, large = SubnetConfig(6, 160), SubnetConfig(8, 128), SubnetConfig(8, 160)
    assert small.within(large)
    assert deep.within(large)
    assert large.within(large)
    assert not small.within(deep)
    assert not deep.within(small)
    with pytest.raises(ValueError, match="equal stages"):
        small.within(SubnetConfig((2, 6), 160))


def test_outside_a_supernet_the_first_slots_run() -> None:
    assert first_slots((2, 3)) == ((0, 1), (0, 1, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"init": "clone"}, "init must be one of ema, copy, zero, but got 'clone'"),
        ({"placement": "random"}, "placement must be one of interpolate, stack, but got 'random'"),
        ({"old_blocks": "EMA"}, "old_blocks must be one of keep, ema, but got 'EMA'"),
        (
            {"optimizer_state": "keep"},
            "optimizer_state must be one of copy, fresh, reset, but got 'keep'",
        ),
        ({"init": "zero", "old_blocks": "ema"}, "keep unless init is ema, but got 'zero'"),
        ({"init": "copy", "old_blocks": "ema"}, "keep unless init is ema, but got 'copy'"),
    ],
)
def test_a_growth_rule_refuses_what_it_does_not_know(change: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GrowthRule(**change)


def model_spec(**changes: object) -> ModelSpec:
    values = {
        "name": "x",
        "timm": "vit_x",
        "depth": 12,
        "embed_dim": 384,
        "num_heads": 6,
        "mlp_ratio": 4.0,
        "patch_size": 16,
        "img_size": 224,
    }
    return ModelSpec(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"img_size": 200}, "multiple of the stride 16, but got 200; nearest are 192 and 208"),
        ({"img_size": 8}, "nearest are 16$"),
        ({"num_heads": 5}, "embed_dim must be a multiple of 5, but got 384"),
        ({"mlp_ratio": 0.0}, "mlp_ratio must be > 0, but got 0.0"),
        ({"num_prefix_tokens": -1}, "num_prefix_tokens must be >= 0, but got -1"),
        ({"depth": 0}, "depth must be a whole number >= 1, but got 0"),
    ],
)
def test_a_model_description_refuses_what_cannot_be_built(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model_spec(**changes)


def test_a_model_description_is_hashable_whatever_the_order_and_kind_of_its_overrides() -> None:
    one = model_spec(overrides=(("depth", 12), ("patch_size", [16, 16])))
    other = model_spec(overrides=(("patch_size", (16, 16)), ("depth", 12)))
    assert hash(one) == hash(other)
    assert one.create_kwargs() == {"img_size": 224, "patch_size": (16, 16), "depth": 12}


def test_the_image_size_of_a_model_can_be_changed_to_a_multiple_of_its_stride() -> None:
    assert model_spec().full == SubnetConfig(12, 224)
    assert model_spec().with_img_size(288).full == SubnetConfig(12, 288)
    with pytest.raises(ValueError, match="stride 16"):
        model_spec().with_img_size(230)
