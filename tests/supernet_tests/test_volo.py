"""VOLO against timm's own network: logits, growth of both stages, statistics, costs, refusals."""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any

import pytest
import timm
import torch
from timm.models.volo import VOLO
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.flop_counter import FlopCounterMode

from supernet.config import (
    ALL_TOKENS,
    GrowthRule,
    ModelSpec,
    Outlook,
    SubnetConfig,
    TokenRule,
    first_slots,
)
from supernet.cost import macs, parameters
from supernet.depthmap import new_slots, skip_lists, split_blocks
from supernet.elastic import create_elastic, describe
from supernet.export import export_subnet, plain_network
from supernet.grow import compact, grow
from supernet.network import DropPath
from supernet.volo import ElasticVOLO
from supernet.zoo import ZOO
from tests.supernet_tests.growth_rules import every_rule, expected_block

SPEC = ZOO["volo-mu"]
BASE, TARGET = (1, 2), (2, 4)


def some_images(img_size: int = 32, count: int = 4) -> Tensor:
    return torch.randn(count, 3, img_size, img_size, generator=torch.Generator().manual_seed(0))


def shaken(seed: int) -> ElasticVOLO:
    """Return a network whose tensors, running statistics included, look like those of no other seed."""
    torch.manual_seed(seed)
    model = create_elastic(SPEC, num_classes=5)
    assert isinstance(model, ElasticVOLO)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
        for _ in range(seed + 1):
            model.train()(torch.randn(4, 3, 32, 32) * (seed + 1), SPEC.full)
    return model.eval()


@pytest.fixture(scope="module")
def untouched() -> tuple[ElasticVOLO, list[ElasticVOLO]]:
    return shaken(3), [shaken(1), shaken(2)]


@pytest.fixture
def family(untouched: Any) -> Any:
    """An online network and its EMAs from fast to slow."""
    return copy.deepcopy(untouched)


@pytest.fixture
def model(family: Any) -> ElasticVOLO:
    return family[0]


def logits(network: ElasticVOLO, depth: Any, slots: Any = None, img_size: int = 32) -> Tensor:
    with torch.no_grad():
        return network(some_images(img_size), SubnetConfig(depth, img_size), slots)


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


# --- the network


def laid_out(vit: VOLO) -> VOLO:
    """Let timm's forward lay out its tensors as ours: other strides get other kernels on some processors."""
    vit.network[0].register_forward_pre_hook(lambda _, given: (given[0].contiguous(),))
    vit.network[1].register_forward_hook(lambda _, given, found: found.contiguous())
    return vit


def test_the_full_model_is_timms_own(model: ElasticVOLO) -> None:
    twin = timm.create_model(SPEC.timm, num_classes=5, **SPEC.create_kwargs())
    twin.load_state_dict(model.vit.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(laid_out(twin).eval()(some_images()), logits(model, SPEC.depth))


def test_training_sees_the_logits_of_timm_and_trains_every_part(model: ElasticVOLO) -> None:
    twin = laid_out(copy.deepcopy(model.vit)).train()
    found = model.train()(some_images(), SPEC.full)
    assert torch.equal(found, twin(some_images()))
    nn.functional.cross_entropy(found, torch.arange(4)).backward()
    assert [name for name, p in model.vit.named_parameters() if p.grad is None] == []
    assert model.vit.aux_head.weight.grad.abs().sum() > 0
    own, theirs = model.statistics(), [b for n, b in twin.named_buffers() if "drop" not in n]
    assert all(torch.equal(a, b) for a, b in zip(own, theirs, strict=True))


def test_the_stages_are_flat_sequences_of_all_blocks(model: ElasticVOLO) -> None:
    outlookers, transformers = model.stages
    names = {module: name for name, module in model.vit.named_modules()}
    assert [names[block] for block in outlookers] == ["network.0.0", "network.0.1"]
    assert [names[block] for block in transformers] == [
        "network.2.0",
        "network.2.1",
        "network.3.0",
        "network.4.0",
    ]


def test_named_slots_run_in_their_order(model: ElasticVOLO) -> None:
    cut = copy.deepcopy(model.vit)
    cut.network[0] = cut.network[0][1:]
    cut.network[2], cut.network[3] = cut.network[2][1:], nn.Sequential()
    with torch.no_grad():
        assert torch.equal(logits(model, (1, 2), ((1,), (1, 3))), laid_out(cut)(some_images()))
    with pytest.raises(AssertionError, match=r"d1\+2 r32 does not run the slots"):
        logits(model, (1, 2), ((0,), (0,)))


@pytest.mark.parametrize("img_size", [16, 48, 80])
def test_the_position_table_is_resampled_and_never_changed(
    model: ElasticVOLO, img_size: int
) -> None:
    before = model.vit.pos_embed.clone()
    side = img_size // 16
    table = before.permute(0, 3, 1, 2)
    resampled = nn.functional.interpolate(table, (side, side), mode="bicubic", antialias=True)
    plain = timm.create_model(SPEC.timm, num_classes=5, img_size=img_size).eval()
    state = {**model.vit.state_dict(), "pos_embed": resampled.permute(0, 2, 3, 1)}
    plain.load_state_dict(state, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(
            plain(some_images(img_size)), logits(model, SPEC.depth, img_size=img_size)
        )
    assert torch.equal(model.vit.pos_embed, before)
    model(some_images(img_size), SubnetConfig(SPEC.depth, img_size)).sum().backward()
    assert model.vit.pos_embed.grad.abs().sum() > 0


def test_images_are_resized_to_the_subnet_inside_the_forward(model: ElasticVOLO) -> None:
    small = nn.functional.interpolate(some_images(), (16, 16), mode="bilinear", antialias=True)
    subnet = SubnetConfig(SPEC.depth, 16)
    with torch.no_grad():
        assert torch.equal(model(some_images(), subnet), model(small, subnet))


def test_a_volo_keeps_all_tokens(model: ElasticVOLO) -> None:
    subnet = SubnetConfig(SPEC.depth, 32, TokenRule(0.5))
    assert subnet.tokens != ALL_TOKENS
    with pytest.raises(AssertionError, match="a VOLO keeps all tokens"):
        model(some_images(), subnet)


@pytest.mark.parametrize("depth", [(2, 4), (1, 2)])
def test_drop_path_is_that_of_timm(model: ElasticVOLO, depth: tuple[int, int]) -> None:
    plain = plain_network(SPEC, SubnetConfig(depth, 32), 5, drop_path_rate=0.3)
    theirs = [getattr(b.drop_path1, "drop_prob", 0.0) for b in chain(*plain.network[2:])]
    model.set_drop_path(0.3, depth)
    outlookers, transformers = model.stages
    ours = [block.drop_path2.drop_prob for block in transformers]
    assert ours == pytest.approx(theirs + [0.0] * (4 - depth[1]))
    assert ours[depth[1] - 1] == pytest.approx(0.3)
    assert ours[0] == pytest.approx(0.3 * depth[0] / (sum(depth) - 1))
    assert not any(isinstance(m, DropPath) for block in outlookers for m in block.modules())
    full = timm.create_model(SPEC.timm, drop_path_rate=0.3)
    if depth == SPEC.depth:
        named = [block.drop_path1.drop_prob for block in chain(*full.network[2:])]
        assert named == pytest.approx(theirs)


def test_gradient_checkpointing_changes_no_gradient_and_no_statistic(untouched: Any) -> None:
    gradients, statistics = [], []
    for enable in (False, True):
        model = copy.deepcopy(untouched[0]).train()
        model.set_drop_path(0.4, SPEC.depth)
        model.vit.set_grad_checkpointing(enable)
        torch.manual_seed(1)
        model(some_images(), SPEC.full).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
        statistics.append(model.statistics())
    for found in (gradients, statistics):
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_ramps_share_one_traced_graph_a_stage(model: ElasticVOLO) -> None:
    counter = CompileCounterWithBackend("eager")
    model.train().compile_blocks(dynamic=True, backend=counter)
    torch._dynamo.reset()
    for rate, depth, img_size in [(0.0, (1, 2), 32), (0.1, (2, 3), 48), (0.2, (2, 4), 64)]:
        model.set_drop_path(rate, depth)
        images = some_images(
            img_size, count=5
        )  # not a side of a grid, which would be a coincidence
        model(images, SubnetConfig(depth, img_size)).sum().backward()
    assert counter.frame_count == 2


def test_idle_blocks_have_no_gradient(model: ElasticVOLO) -> None:
    slots = ((1,), (0, 3))
    idle = {id(p) for p in model.idle_parameters(slots)}
    outlookers, transformers = model.stages
    left_out = (outlookers[0], transformers[1], transformers[2])
    assert idle == {id(p) for block in left_out for p in block.parameters()}
    model(some_images(), SubnetConfig((1, 2), 32), slots).sum().backward()
    assert {id(p) for p in model.parameters() if p.grad is None} == idle


# --- running statistics


def test_statistics_are_what_checkpoints_hold_beside_parameters(model: ElasticVOLO) -> None:
    names = set(model.vit.state_dict()) - {name for name, _ in model.vit.named_parameters()}
    assert len(model.statistics()) == len(names) == 9
    assert all("patch_embed.conv" in name for name in names)
    assert sum(tensor.is_floating_point() for tensor in model.statistics()) == 6


def test_forwards_in_eval_mode_leave_statistics_alone(model: ElasticVOLO) -> None:
    before = [tensor.clone() for tensor in model.statistics()]
    logits(model, SPEC.depth)
    assert all(torch.equal(a, b) for a, b in zip(model.statistics(), before, strict=True))
    model.train()(some_images(), SPEC.full)
    assert not any(torch.equal(a, b) for a, b in zip(model.statistics(), before, strict=True))


def test_a_plain_vit_has_no_statistics() -> None:
    assert create_elastic(ZOO["vit-mu"], 5).statistics() == []


# --- growth


GOLDEN_SPLITS = {
    1: (1, 1),
    2: (1, 1),
    9: (2, 7),
    10: (4, 6),
    11: (4, 7),
    12: (4, 8),
    13: (4, 9),
    14: (4, 10),
    15: (4, 11),
    16: (4, 12),
    17: (4, 13),
    18: (4, 14),
}


@pytest.mark.parametrize(("blocks", "depth"), GOLDEN_SPLITS.items())
def test_the_blocks_of_volo_d1_are_split_as_published(blocks: int, depth: tuple[int, int]) -> None:
    assert ZOO["volo-d1"].split(blocks) == depth


def test_all_blocks_are_the_full_depth_whatever_the_fraction_of_outlookers() -> None:
    for outlookers in range(1, 13):
        for transformers in range(1, 37):
            splits = [
                split_blocks(blocks, outlookers, transformers)
                for blocks in range(2, outlookers + transformers + 1)
            ]
            assert splits[-1] == (outlookers, transformers)
            assert [sum(split) for split in splits] == list(range(2, len(splits) + 2))
            assert all(0 < a <= outlookers and 0 < b <= transformers for a, b in splits)
    assert ZOO["deit-s"].split(7) == (7,)


def contents(network: ElasticVOLO) -> list[list[dict[str, Tensor]]]:
    return [[copy.deepcopy(b.state_dict()) for b in stage] for stage in network.stages]


@every_rule
def test_each_stage_grows_by_its_own_map_and_the_old_subnet_survives(
    family: Any, rule: GrowthRule
) -> None:
    model, emas = family
    networks = [model, *emas]
    before = [contents(network) for network in networks]
    statistics = [[t.clone() for t in network.statistics()] for network in networks]
    old = [logits(network, BASE) for network in networks]
    origins = grow(model, emas, None, BASE, TARGET, rule)
    maps = ((0, 0), (0, 0, 1, 1) if rule.placement == "interpolate" else (0, 1, 0, 1))
    kept = skip_lists(BASE, TARGET, BASE, rule.placement)
    if rule.old_blocks == "ema":
        before[0], statistics[0], old[0] = before[-1], statistics[-1], old[-1]
    for number, network in enumerate(networks):
        assert torch.equal(logits(network, BASE, kept), old[number])
        assert all(map(torch.equal, network.statistics(), statistics[number]))
        grown = contents(network)
        for stage, source_map in enumerate(maps):
            for slot, source in enumerate(source_map):
                expected = before[number][stage][source]
                if slot in new_slots(source_map):
                    averaged = before[-1][stage][source] if number == 0 else None
                    expected = expected_block(rule, expected, averaged)
                assert same(grown[stage][slot], expected)
    assert [(o.stage, o.slot, o.source_slot) for o in origins] == [
        (stage, slot, source)
        for stage, source_map in enumerate(maps)
        for slot, source in enumerate(source_map)
    ]
    if rule.init == "zero":
        assert all(map(torch.equal, (logits(network, TARGET) for network in networks), old))


def trained_optimizer(model: ElasticVOLO, depth: tuple[int, int]) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        model.train()(some_images(), SubnetConfig(depth, 32)).square().sum().backward()
        optimizer.step()
    model.eval()
    return optimizer


def moments(model: ElasticVOLO, optimizer: torch.optim.Optimizer) -> list[list[list[Any]]]:
    return [
        [[copy.deepcopy(optimizer.state.get(p, {})) for p in block.parameters()] for block in stage]
        for stage in model.stages
    ]


@pytest.mark.parametrize("mode", ["copy", "fresh"])
def test_optimizer_state_follows_the_map_of_each_stage(model: ElasticVOLO, mode: str) -> None:
    optimizer = trained_optimizer(model, BASE)
    before = moments(model, optimizer)
    grow(model, [], optimizer, BASE, TARGET, GrowthRule("copy", optimizer_state=mode))
    after = moments(model, optimizer)
    for stage, source_map in enumerate([(0, 0), (0, 0, 1, 1)]):
        for slot, source in enumerate(source_map):
            is_empty = mode == "fresh" and slot in new_slots(source_map)
            for ours, theirs in zip(after[stage][slot], before[stage][source], strict=True):
                assert same(ours, {} if is_empty else theirs)


def test_one_stage_may_grow_alone(model: ElasticVOLO) -> None:
    before = contents(model)
    grow(model, [], None, (2, 1), (2, 3), GrowthRule("copy"))
    after = contents(model)
    assert all(map(same, after[0], before[0]))
    assert all(same(after[1][slot], before[1][0]) for slot in range(3))


@pytest.mark.parametrize("depth", [(1, 2), (2, 2), (1, 3), (2, 4)])
def test_the_compacted_winner_is_the_subnet_that_was_evaluated(
    family: Any, depth: tuple[int, int]
) -> None:
    model, emas = family
    optimizer = trained_optimizer(model, BASE)
    grow(model, emas, optimizer, BASE, TARGET, GrowthRule())
    statistics = [t.clone() for t in model.statistics()]
    slots = skip_lists(BASE, TARGET, depth)
    evaluated = [logits(network, depth, slots) for network in (model, *emas)]
    before = moments(model, optimizer)
    compact(model, emas, optimizer, slots)
    for network, old in zip((model, *emas), evaluated, strict=True):
        assert torch.equal(logits(network, depth), old)
    after = moments(model, optimizer)
    for stage, running in enumerate(slots):
        for slot, source in enumerate(running):
            assert all(map(same, after[stage][slot], before[stage][source]))
    assert all(map(torch.equal, model.statistics(), statistics))


# --- export


@pytest.mark.parametrize("img_size", [16, 32, 48])
@pytest.mark.parametrize(
    ("depth", "slots"),
    [((2, 4), None), ((1, 3), None), ((2, 1), ((0, 1), (3,))), ((1, 2), ((1,), (1, 2)))],
)
def test_an_exported_subnet_has_the_logits_of_the_forward(
    model: ElasticVOLO, depth: tuple[int, int], slots: Any, img_size: int
) -> None:
    subnet = SubnetConfig(depth, img_size)
    exported = export_subnet(model, subnet, slots)
    assert type(exported) is VOLO
    assert not [m for m in exported.modules() if type(m).__module__.startswith("supernet")]
    with torch.no_grad():
        found = laid_out(copy.deepcopy(exported))(some_images(img_size))
        assert torch.equal(found, logits(model, depth, slots, img_size))
    layers = [len(part) for part in exported.network if isinstance(part, nn.Sequential)]
    assert (layers[0], sum(layers[1:])) == depth
    rebuilt = VOLO(
        layers=layers,
        img_size=img_size,
        num_classes=5,
        embed_dims=[16, 24, 24, 24],
        num_heads=[2, 2, 2, 2],
        stem_hidden_dim=8,
    )
    rebuilt.load_state_dict(exported.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(rebuilt.eval()(some_images(img_size)), exported(some_images(img_size)))


def test_the_weights_of_volo_d1_load_strictly_into_timms_own() -> None:
    with torch.device("meta"):
        state = create_elastic(ZOO["volo-d1"], num_classes=10).vit.state_dict()
        plain = timm.create_model("volo_d1_224", num_classes=10)
    assert {k: v.shape for k, v in state.items()} == {
        k: v.shape for k, v in plain.state_dict().items()
    }


# --- costs


@pytest.mark.parametrize(
    ("name", "depth", "img_size"),
    [
        ("volo-d1", (4, 14), 224),
        ("volo-d1", (2, 7), 128),
        ("volo-d1", (4, 8), 208),
        ("volo-d1", (1, 1), 96),
        ("volo-mu", (2, 4), 32),
        ("volo-mu", (1, 3), 80),
    ],
)
@pytest.mark.parametrize("num_classes", [10, 1000])
def test_macs_are_those_that_torch_counts(
    name: str, depth: tuple[int, int], img_size: int, num_classes: int
) -> None:
    spec, subnet = ZOO[name], SubnetConfig(depth, img_size)
    with torch.device("meta"):
        vit = plain_network(spec, subnet, num_classes).eval()
        with FlopCounterMode(display=False) as counter:
            vit(torch.empty(1, 3, img_size, img_size))
    assert 2 * macs(spec, subnet, num_classes) == counter.get_total_flops()


@pytest.mark.parametrize("timm_name", ["volo_d1_224", "volo_d2_384", "volo_d5_512", "volo_mu"])
def test_volos_of_timm_are_described_and_counted_exactly(timm_name: str) -> None:
    spec = describe(timm_name)
    with torch.device("meta"):
        real = timm.create_model(timm_name, num_classes=7)
        small = plain_network(spec, SubnetConfig((2, 3), spec.img_size), 7)
    assert parameters(spec, spec.depth, 7) == sum(p.numel() for p in real.parameters())
    assert parameters(spec, (2, 3), 7) == sum(p.numel() for p in small.parameters())
    assert spec.split(sum(spec.depth)) == spec.depth
    assert spec.img_size == real.pretrained_cfg["input_size"][-1]


def test_volo_d1_is_described_as_published() -> None:
    spec = describe("volo_d1_224")
    assert (spec.depth, spec.embed_dim, spec.num_heads, spec.mlp_ratio) == ((4, 14), 384, 12, 3.0)
    assert (spec.patch_size, spec.img_size, spec.outlook) == (16, 224, Outlook(192, 6, 64, 2))
    assert parameters(spec, spec.depth) == 26_632_040


# --- refusals


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"img_size": 200}, "multiple of the stride 16, but got 200; nearest are 192 and 208"),
        ({"img_size": 104}, "multiple of the stride 16, but got 104; nearest are 96 and 112"),
        ({"img_size": (64, 96)}, "img_size must be square, but got a grid 4x6"),
        ({"patch_size": 16, "img_size": 48}, "multiple of the stride 32, but got 48"),
        ({"layers": (1, 1, 1, 1)}, "overrides must be arguments of that model"),
        ({"pooling_scale": 1}, "pooling_scale must be 2, but got 1"),
        ({"use_aux_head": False}, "must have class attention, token pooling and an auxiliary head"),
        ({"global_pool": "avg"}, "must have class attention, token pooling and an auxiliary head"),
        ({"post_layers": ()}, "must have class attention, token pooling and an auxiliary head"),
        ({"downsamples": (False,) * 4}, "outlookers, then one downsampling, then transformers"),
        ({"outlook_attention": (True, True, False, False)}, "but has another order"),
        ({"qkv_bias": True}, "must have the layers of timm's own VOLOs, but overrides change"),
        ({"mlp_ratio": (3.0, 4.0, 4.0, 4.0)}, "must have the layers of timm's own VOLOs"),
        ({"drop_path_rate": 0.1}, "drop_path_rate must be left to supernet"),
    ],
)
def test_volos_that_cannot_grow_are_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        describe("volo_d1_224", **overrides)


@pytest.mark.parametrize(
    ("timm_name", "overrides"),
    [
        ("volo_mu", {"patch_size": 4, "img_size": 24}),
        ("volo_mu", {"img_size": (48, 48), "mlp_ratio": 4.0}),
        ("volo_d1_224", {"img_size": 64, "in_chans": 1}),
    ],
)
def test_a_described_volo_can_be_built(timm_name: str, overrides: dict[str, Any]) -> None:
    spec = describe(timm_name, **overrides)
    with torch.device("meta"):
        built = create_elastic(spec, num_classes=3)
        images = torch.empty(2, spec.in_chans, spec.img_size, spec.img_size)
        assert built(images, spec.full).shape == (2, 3)
    assert parameters(spec, spec.depth, 3) == sum(p.numel() for p in built.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 5}, r"outlook\.embed_dim must be a multiple of 5, but got 192"),
        ({"stem_dim": 0}, r"outlook\.stem_dim must be a whole number >= 1, but got 0"),
        ({"class_blocks": 0}, r"outlook\.class_blocks must be a whole number >= 1, but got 0"),
    ],
)
def test_an_outlook_refuses_what_cannot_be_built(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Outlook(**{"embed_dim": 192, "num_heads": 6, **change})


def test_two_stages_and_an_outlook_go_together() -> None:
    with pytest.raises(ValueError, match=r"two numbers, .* with outlook, else one, but got \[18\]"):
        ModelSpec("x", "x", (18,), 384, 12, 3.0, 16, 224, outlook=Outlook(192, 6))
    with pytest.raises(ValueError, match=r"with outlook, else one, but got \[4, 14\]"):
        ModelSpec("x", "x", (4, 14), 384, 12, 3.0, 16, 224)


def test_first_slots_of_both_stages_are_the_default(model: ElasticVOLO) -> None:
    assert torch.equal(logits(model, (1, 3)), logits(model, (1, 3), first_slots((1, 3))))
