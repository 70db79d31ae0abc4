from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import timm
import torch

from supernet.config import SubnetConfig, TokenRule
from supernet.cost import macs, parameters, relative_cost
from supernet.elastic import describe
from supernet.zoo import ZOO, lookup


def count_parameters(timm_name: str, **kwargs: Any) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in timm.create_model(timm_name, **kwargs).parameters())


def test_deit_s_costs_4_6_giga_macs_at_full_size() -> None:
    spec = ZOO["deit-s"]
    assert 4.5e9 < macs(spec, spec.full) < 4.65e9
    # The head is the only part that the number of classes changes.
    assert macs(spec, spec.full) - macs(spec, spec.full, num_classes=10) == 990 * 384


def test_the_manual_schedule_of_deit_s_costs_what_the_paper_counts() -> None:
    points = [(6, 128), (8, 160), (10, 192), (12, 224)]
    costs = [relative_cost(ZOO["deit-s"], SubnetConfig(*point)) for point in points]
    assert [round(cost, 3) for cost in costs] == [0.158, 0.331, 0.602, 1.0]


SUPERVIT = {  # image size in px: GMACs at keep-rates 0.5, 0.7 and 1 (arXiv 2205.11397)
    128: (0.74, 0.97, 1.44),
    160: (1.16, 1.51, 2.27),  # 1.51496 before rounding
    192: (1.67, 2.19, 3.32),
    224: (2.30, 3.01, 4.60),
}


@pytest.mark.parametrize("img_size", SUPERVIT)
def test_supervit_of_deit_s_costs_what_is_published(img_size: int) -> None:
    rules = [TokenRule(rate, "class_attention", (3, 6, 9)) for rate in (0.5, 0.7, 1.0)]
    costs = [macs(ZOO["deit-s"], SubnetConfig(12, img_size, rule)) / 1e9 for rule in rules]
    assert tuple(round(cost, 2) for cost in costs) == SUPERVIT[img_size]


def test_a_cyclic_schedule_of_deit_b_costs_64_per_cent() -> None:
    """PSS, arXiv 2208.09520: iterations of an epoch of 2,502 at each keep-rate."""
    iterations = {0.2: 279, 0.4: 556, 0.6: 556, 0.8: 554, 1.0: 557}
    cost = sum(
        count * relative_cost(ZOO["deit-b"], SubnetConfig(12, 224, TokenRule(rate)))
        for rate, count in iterations.items()
    )
    assert round(cost / 2502, 3) == 0.640


def test_tokens_that_are_dropped_late_cost_until_then() -> None:
    spec, rule = ZOO["deit-s"], TokenRule(0.5)
    costs = [
        macs(spec, SubnetConfig(12, 224, replace(rule, at_blocks=(block,)))) for block in range(13)
    ]
    assert costs == sorted(costs)
    assert len(set(costs)) == 13
    assert costs[-1] == macs(spec, spec.full)


def test_deit_s_has_22_million_parameters() -> None:
    assert parameters(ZOO["deit-s"], 12, 1000) == 22_050_664


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("num_classes", [10, 1000])
def test_parameters_are_those_of_the_timm_model(name: str, num_classes: int) -> None:
    spec = ZOO[name]
    real = count_parameters(spec.timm, num_classes=num_classes, **spec.create_kwargs())
    assert parameters(spec, spec.depth, num_classes) == real


@pytest.mark.parametrize(
    ("timm_name", "overrides"),
    [
        ("vit_small_patch32_224", {}),
        ("vit_small_patch14_reg4_dinov2", {"img_size": 56}),
        ("deit3_small_patch16_224", {"depth": 3}),
        ("vit_giant_patch14_dinov2", {"img_size": 28, "depth": 2}),
        ("vit_base_patch16_siglip_224", {"depth": 2}),
    ],
)
def test_parameters_of_described_models_are_exact(
    timm_name: str, overrides: dict[str, Any]
) -> None:
    spec = describe(timm_name, **overrides)
    shallow = {**spec.create_kwargs(), "depth": 1}
    assert parameters(spec, spec.depth, 7) == count_parameters(
        timm_name, num_classes=7, **spec.create_kwargs()
    )
    assert parameters(spec, 1, 7) == count_parameters(timm_name, num_classes=7, **shallow)


@pytest.mark.parametrize("name", ZOO)
def test_the_table_says_what_timm_builds(name: str) -> None:
    spec = ZOO[name]
    kwargs = spec.create_kwargs()
    if spec.timm.startswith("deit"):
        del kwargs["img_size"]
    assert replace(describe(spec.timm, **kwargs), name=name) == spec


def test_lookup_knows_short_names_only() -> None:
    assert lookup("deit-s") is ZOO["deit-s"]
    assert lookup("deit_small_patch16_224") is None
