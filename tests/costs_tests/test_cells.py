from __future__ import annotations

from itertools import product

import pytest

from autoprog.costs.table import CostKey, full_key, key_of_step, space_keys
from autoprog.space import SpaceFile
from autoprog.stage import Training, Unfrozen
from supernet.config import ModelSpec, SubnetConfig, TokenRule

HALF = TokenRule(0.5, "class_attention", (3, 6, 9))

NAMES = {
    "d6 r128 b1024": CostKey(SubnetConfig(6, 128), 1024),
    "d4+14 r224 b64": CostKey(SubnetConfig((4, 14), 224), 64),
    "d6 r128 k0.6 b64": CostKey(SubnetConfig(6, 128, TokenRule(0.6)), 64),
    "d6 r128 k0.5 class_attention@3,6,9 b64": CostKey(SubnetConfig(6, 128, HALF), 64),
    "d6 r128 k0.25 random@0 b64": CostKey(SubnetConfig(6, 128, TokenRule(0.25, "random")), 64),
    "d6 r128 b64 fourier": CostKey(SubnetConfig(6, 128), 64, "fourier"),
    "d6 r128 b64 u2/4": CostKey(SubnetConfig(6, 128), 64, unfrozen=Unfrozen(every=4, level=2)),
    "d6 r128 k0.6 b64 fourier u1/3": CostKey(
        SubnetConfig(6, 128, TokenRule(0.6)), 64, "fourier", Unfrozen(every=3, level=1)
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_cell_has_one_name_and_a_name_one_cell(name: str) -> None:
    assert NAMES[name].name == name
    assert CostKey.parse(name) == NAMES[name]


def test_no_two_cells_share_a_name() -> None:
    subnets = [
        SubnetConfig(depth, size, rule)
        for depth, size, rule in product(
            (6, 12), (128, 160), (TokenRule(), TokenRule(0.5), TokenRule(0.5, "random"), HALF)
        )
    ]
    some = (None, Unfrozen(every=4, level=1), Unfrozen(every=4, level=2))
    cells = {
        CostKey(subnet, batch, shrink, unfrozen)  # type: ignore[arg-type]
        for subnet, batch, shrink, unfrozen in product(
            subnets, (64, 128), ("resize", "fourier"), some
        )
    }
    assert len(cells) == 4 * 4 * 2 * 2 * 3
    assert len({cell.name for cell in cells}) == len(cells)


@pytest.mark.parametrize(
    "name",
    ["", "d6 r128", "d6r128 b64", "d0 r8 b4", "d6 r128 b64 u5/4", "d6 r128 k2 b64", "schema"],
)
def test_what_is_no_name_of_a_cell_is_none(name: str) -> None:
    assert CostKey.parse(name) is None


def test_the_name_of_a_plain_step_is_what_it_always_was() -> None:
    assert CostKey(SubnetConfig(6, 128), 1024).name == "d6 r128 b1024"


def test_training_all_blocks_is_training_all_blocks() -> None:
    everything = CostKey(SubnetConfig(6, 128), 64, unfrozen=Unfrozen(every=4, level=4))
    assert everything == CostKey(SubnetConfig(6, 128), 64)


def test_the_cell_of_a_step_counts_its_batch_and_how_its_images_shrink(vit_mu: ModelSpec) -> None:
    training = Training(shrink_by="fourier", batch_scale=1.5, unfrozen=Unfrozen(every=2, level=1))
    small = key_of_step(vit_mu, SubnetConfig(2, 8), training, 16)
    assert small.name == "d2 r8 b24 fourier u1/2"
    assert small.loaded_px(16) == 16
    assert CostKey(SubnetConfig(2, 8), 16).loaded_px(16) == 8


def test_images_of_full_size_are_not_cut(vit_mu: ModelSpec) -> None:
    cut = Training(shrink_by="fourier")
    assert key_of_step(vit_mu, vit_mu.full, cut, 16) == full_key(vit_mu, 16)


def test_the_cells_of_a_space_are_its_subnets_at_each_batch_size(vit_mu: ModelSpec) -> None:
    axes = {
        "depth": {"values": [2, 4]},
        "img_size": {"values": [8, 16]},
        "keep_rate": {"values": [0.5, 1.0]},
        "batch_scale": {"values": [2, 1]},
    }
    space = SpaceFile.model_validate({"axes": axes}).space(vit_mu, "here")
    names = [cell.name for cell in space_keys(space, 16)]
    assert len(names) == 16
    assert names[:3] == ["d2 r8 k0.5 b16", "d2 r8 b16", "d2 r16 k0.5 b16"]
    assert names[-1] == "d4 r16 b32"


@pytest.mark.parametrize(
    "name",
    [
        f"d{'9' * 5000} r8 b16",
        f"d2 r8 b{'9' * 5000}",
        "d2 r99999999 b16",
        "d２ r8 b16",
        "d2 r8 kinf b16",
        "d2 r8 b16 u1/0",
        f"d2 r8 k0.5 magnitude@{'9' * 5000} b16",
    ],
)
def test_numbers_beyond_all_sense_name_no_cell(name: str) -> None:
    assert CostKey.parse(name) is None
