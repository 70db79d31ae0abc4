from __future__ import annotations

import torch
from timm.optim import param_groups_weight_decay

from supernet.config import SubnetConfig
from supernet.elastic import create_elastic
from supernet.export import export_subnet, plain_state_dict, table_state_dict
from supernet.zoo import ZOO

SPEC = ZOO["vit-mu"]
IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def build(table_sizes: tuple[int, ...]) -> torch.nn.Module:
    torch.manual_seed(0)
    return create_elastic(SPEC, 10, table_sizes=table_sizes).eval()


def test_tables_begin_as_the_full_table_resampled() -> None:
    plain, own = build(()), build((8, 12))
    for size in (8, 12, 16):
        subnet = SubnetConfig(4, size)
        assert torch.allclose(own(IMAGES, subnet), plain(IMAGES, subnet), atol=1e-6)


def test_a_size_trains_its_own_table_alone() -> None:
    model = build((8, 12))
    model(IMAGES, SubnetConfig(4, 8)).sum().backward()
    tables = dict(model.vit.pos_embed_list.items())
    assert tables["8"].grad is not None
    assert tables["12"].grad is None
    assert model.vit.pos_embed.grad is None


def test_tables_are_not_decayed_and_no_part_of_plain_weights() -> None:
    model = build((8,))
    decayed, kept = param_groups_weight_decay(
        model.vit, 0.1, no_weight_decay_list=model.vit.no_weight_decay()
    )[::-1]
    assert any(p is model.vit.pos_embed_list["8"] for p in kept["params"])
    assert all(p is not model.vit.pos_embed_list["8"] for p in decayed["params"])
    assert "pos_embed_list.8" not in plain_state_dict(model)
    assert list(table_state_dict(model)) == ["pos_embed_list.8"]


def test_a_size_is_exported_with_its_own_table() -> None:
    model = build((8,))
    with torch.no_grad():
        model.vit.pos_embed_list["8"].normal_(generator=torch.Generator().manual_seed(1))
    subnet = SubnetConfig(4, 8)
    small = torch.nn.functional.interpolate(IMAGES, size=8, mode="bilinear", antialias=True)
    assert torch.allclose(export_subnet(model, subnet)(small), model(IMAGES, subnet), atol=1e-5)
