from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from timm.optim import MADGRAD, Lamb
from torch import Tensor, nn

from supernet.config import GrowthRule, SubnetConfig
from supernet.depthmap import PLACEMENTS, new_slots, skip_lists
from supernet.elastic import ElasticViT
from supernet.grow import ALTERING_INITS, compact, grow
from tests.supernet_tests.growth_rules import every_rule, expected_block

BASE, TARGET = 3, 7


def train(family: Any, optimizer: torch.optim.Optimizer, depth: int, steps: int = 1) -> None:
    family.model.train()
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        logits = family.model(family.images, SubnetConfig(depth, 16))
        nn.functional.cross_entropy(logits, family.labels).backward()
        optimizer.step()
    family.model.eval()


def trained_optimizer(family: Any, depth: int = BASE) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(family.model.parameters(), lr=0.01, weight_decay=0.1)
    train(family, optimizer, depth, steps=2)
    optimizer.zero_grad(set_to_none=True)
    return optimizer


@torch.no_grad()
def logits(model: ElasticViT, images: Tensor, slots: tuple[int, ...]) -> Tensor:
    return model(images, SubnetConfig(len(slots), 16), (slots,))


def first(depth: int) -> tuple[int, ...]:
    return tuple(range(depth))


def blocks(model: ElasticViT) -> list[dict[str, Tensor]]:
    return [copy.deepcopy(block.state_dict()) for block in model.stages[0]]


def states(model: ElasticViT, optimizer: torch.optim.Optimizer) -> list[list[dict[str, Tensor]]]:
    """List the optimizer entry of each parameter, by slot; an absent one is empty."""
    return [
        [copy.deepcopy(optimizer.state.get(p, {})) for p in block.parameters()]
        for block in model.stages[0]
    ]


def equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def all_equal(ours: Iterable[dict[str, Tensor]], theirs: Iterable[dict[str, Tensor]]) -> bool:
    return all(equal(a, b) for a, b in zip(ours, theirs, strict=True))


@every_rule
def test_the_old_subnet_survives_growth_to_the_bit(family: Any, rule: GrowthRule) -> None:
    optimizer = trained_optimizer(family)
    networks = [family.model, *family.emas]
    before = [logits(network, family.images, first(BASE)) for network in networks]
    grow(family.model, family.emas, optimizer, (BASE,), (TARGET,), rule)
    (kept,) = skip_lists((BASE,), (TARGET,), (BASE,), rule.placement)
    if rule.old_blocks == "ema":
        before[0] = before[-1]
    for network, old in zip(networks, before, strict=True):
        assert torch.equal(logits(network, family.images, kept), old)


@every_rule
def test_every_slot_holds_the_weights_that_the_rule_names(family: Any, rule: GrowthRule) -> None:
    online, slow = blocks(family.model), blocks(family.emas[-1])
    own = [blocks(ema) for ema in family.emas]
    origins = grow(family.model, family.emas, None, (BASE,), (TARGET,), rule)
    source_map = PLACEMENTS[rule.placement](BASE, TARGET)
    new = new_slots(source_map)
    grown = blocks(family.model)
    old_source = slow if rule.old_blocks == "ema" else online
    for slot, source in enumerate(source_map):
        expected = old_source[source]
        if slot in new:
            expected = expected_block(rule, online[source], slow[source])
        assert equal(grown[slot], expected)
        for ema, was in zip(family.emas, own, strict=True):
            expected = expected_block(rule, was[source]) if slot in new else was[source]
            assert equal(ema.stages[0][slot].state_dict(), expected)
    assert [o.source_slot for o in origins] == list(source_map)
    assert tuple(o.slot for o in origins if o.is_new) == new
    assert {o.state for o in origins} == {"none"}
    weights = "online" if rule.init == "copy" else rule.init
    assert {o.weights for o in origins if o.is_new} == {weights}
    assert {o.weights for o in origins if not o.is_new} == {
        "ema" if rule.old_blocks == "ema" else "kept"
    }


@every_rule
def test_no_parameter_changes_its_identity_and_no_gradient_survives(
    family: Any, rule: GrowthRule
) -> None:
    optimizer = trained_optimizer(family)
    family.model(family.images, SubnetConfig(BASE, 16)).sum().backward()
    networks = [family.model, *family.emas]
    before = [[(id(p), p.data_ptr()) for p in network.parameters()] for network in networks]
    keys = [list(network.state_dict()) for network in networks]
    groups = [[id(p) for p in group["params"]] for group in optimizer.param_groups]
    grow(family.model, family.emas, optimizer, (BASE,), (TARGET,), rule)
    assert before == [[(id(p), p.data_ptr()) for p in network.parameters()] for network in networks]
    assert keys == [list(network.state_dict()) for network in networks]
    assert groups == [[id(p) for p in group["params"]] for group in optimizer.param_groups]
    assert all(p.grad is None for network in networks for p in network.parameters())


@every_rule
def test_optimizer_state_follows_the_map(family: Any, rule: GrowthRule) -> None:
    optimizer = trained_optimizer(family)
    before = states(family.model, optimizer)
    head = copy.deepcopy(optimizer.state[family.model.vit.head.weight])
    origins = grow(family.model, family.emas, optimizer, (BASE,), (TARGET,), rule)
    after = states(family.model, optimizer)
    nothing: list[dict[str, Tensor]] = [{}] * len(before[0])
    assert all(set(entry) == {"step", "exp_avg", "exp_avg_sq"} for entry in before[0])
    for origin in origins:
        expected = before[origin.source_slot] if origin.state == "carried" else nothing
        assert all_equal(after[origin.slot], expected)
    fate = {"copy": ["carried"], "fresh": ["carried", "fresh"], "reset": ["reset"]}[
        rule.optimizer_state
    ]
    assert sorted({origin.state for origin in origins}) == fate
    assert {o.state for o in origins if o.is_new} == {fate[-1]}
    assert all_equal(after[TARGET], nothing)
    kept_head = optimizer.state.get(family.model.vit.head.weight, {})
    assert equal(kept_head, {} if rule.optimizer_state == "reset" else head)


@every_rule
def test_training_goes_on_after_growth_with_shared_nothing(family: Any, rule: GrowthRule) -> None:
    optimizer = trained_optimizer(family)
    grow(family.model, family.emas, optimizer, (BASE,), (TARGET,), rule)
    tensors = [v for entry in optimizer.state.values() for v in entry.values()]
    assert len({tensor.data_ptr() for tensor in tensors}) == len(tensors)
    idle = copy.deepcopy(family.model.stages[0][TARGET].state_dict())
    train(family, optimizer, TARGET)
    assert equal(family.model.stages[0][TARGET].state_dict(), idle)
    steps = {optimizer.state[p]["step"].item() for p in family.model.stages[0][6].parameters()}
    assert steps == {3.0 if rule.optimizer_state == "copy" else 1.0}
    twin = torch.optim.AdamW(family.model.parameters(), lr=0.01, weight_decay=0.1)
    twin.load_state_dict(optimizer.state_dict())
    assert len(twin.state) == len(optimizer.state)


@pytest.mark.parametrize("source_map", PLACEMENTS)
@pytest.mark.parametrize("target", [4, 6, 8])
def test_zero_growth_changes_no_logit(family: Any, source_map: str, target: int) -> None:
    networks = [family.model, *family.emas]
    before = [logits(network, family.images, first(BASE)) for network in networks]
    grow(family.model, family.emas, None, (BASE,), (target,), GrowthRule("zero", source_map))
    for network, old in zip(networks, before, strict=True):
        assert torch.equal(logits(network, family.images, first(target)), old)


def test_copy_growth_does_change_logits(family: Any) -> None:
    before = logits(family.model, family.images, first(BASE))
    grow(family.model, [], None, (BASE,), (TARGET,), GrowthRule("copy"))
    assert not torch.allclose(logits(family.model, family.images, first(TARGET)), before)


def test_the_published_operator_replaces_everything_by_the_slowest_ema(family: Any) -> None:
    grow(family.model, family.emas, None, (BASE,), (TARGET,), GrowthRule(old_blocks="ema"))
    assert equal(family.model.state_dict(), family.emas[-1].state_dict())


def test_mogrow_keeps_everything_outside_new_blocks_online(family: Any) -> None:
    before = copy.deepcopy(family.model.state_dict())
    grow(family.model, family.emas, None, (BASE,), (TARGET,), GrowthRule())
    outside = [key for key in before if ".blocks." not in key]
    assert all(torch.equal(family.model.state_dict()[key], before[key]) for key in outside)


def test_buffers_travel_with_their_block(family: Any) -> None:
    for number, block in enumerate(family.model.stages[0]):
        block.register_buffer("running_mean", torch.tensor(float(number)))
    grow(family.model, [], None, (BASE,), (TARGET,), GrowthRule("copy"))
    found = [block.running_mean.item() for block in family.model.stages[0]]
    assert found == [0, 0, 1, 1, 2, 2, 2, 7]


def test_drop_path_rates_belong_to_the_slot_and_stay(family: Any) -> None:
    family.model.set_drop_path(0.7, 8)
    rates = [block.drop_path1.drop_prob for block in family.model.stages[0]]
    grow(family.model, [], None, (BASE,), (TARGET,), GrowthRule("copy"))
    blocks_now = family.model.stages[0]
    assert [block.drop_path1.drop_prob for block in blocks_now] == rates
    assert [block.drop_path1.rate.item() for block in blocks_now] == pytest.approx(rates)


def test_mogrow_without_an_ema_is_refused_before_anything_moves(family: Any) -> None:
    before = copy.deepcopy(family.model.state_dict())
    with pytest.raises(ValueError, match="init ema must have at least one EMA"):
        grow(family.model, [], None, (BASE,), (TARGET,), GrowthRule())
    assert equal(family.model.state_dict(), before)


def test_shrinking_is_refused(family: Any) -> None:
    with pytest.raises(ValueError, match="7 -> 3"):
        grow(family.model, [], None, (TARGET,), (BASE,), GrowthRule("copy"))


def test_fresh_state_is_refused_where_steps_are_counted_per_group(family: Any) -> None:
    optimizer = Lamb(family.model.parameters(), lr=0.01)
    train(family, optimizer, BASE)
    with pytest.raises(ValueError, match="Lamb counts per group; use copy or reset"):
        grow(
            family.model,
            [],
            optimizer,
            (BASE,),
            (TARGET,),
            GrowthRule("copy", optimizer_state="fresh"),
        )
    grow(
        family.model, [], optimizer, (BASE,), (TARGET,), GrowthRule("copy", optimizer_state="reset")
    )
    assert not optimizer.state
    assert all("step" not in group for group in optimizer.param_groups)
    train(family, optimizer, TARGET)


@pytest.mark.parametrize("init", ALTERING_INITS)
def test_altered_blocks_are_refused_where_state_keeps_the_initial_weights(
    family: Any, init: str
) -> None:
    """MADGRAD steps from where a parameter began: the state of its source would bring the source back."""
    optimizer = MADGRAD(family.model.parameters(), lr=0.01)
    train(family, optimizer, BASE)
    before = copy.deepcopy(family.model.state_dict())
    with pytest.raises(ValueError, match="MADGRAD does; use optimizer_state fresh or reset"):
        grow(family.model, [], optimizer, (BASE,), (TARGET,), GrowthRule(init))
    assert equal(family.model.state_dict(), before)
    grow(family.model, [], optimizer, (BASE,), (TARGET,), GrowthRule(init, optimizer_state="fresh"))
    train(family, optimizer, TARGET)


@pytest.mark.parametrize("source_map", PLACEMENTS)
@pytest.mark.parametrize("depth", [3, 4, 5, 7])
def test_the_compacted_winner_is_the_subnet_that_was_evaluated(
    family: Any, source_map: str, depth: int
) -> None:
    optimizer = trained_optimizer(family)
    networks = [family.model, *family.emas]
    rule = GrowthRule("ema", source_map)
    grow(family.model, family.emas, optimizer, (BASE,), (TARGET,), rule)
    train(family, optimizer, TARGET, steps=2)
    slots = skip_lists((BASE,), (TARGET,), (depth,), source_map)
    evaluated = [logits(network, family.images, slots[0]) for network in networks]
    before, addresses = states(family.model, optimizer), [id(p) for p in family.model.parameters()]
    compact(family.model, family.emas, optimizer, slots)
    for network, old in zip(networks, evaluated, strict=True):
        assert torch.equal(logits(network, family.images, first(depth)), old)
    after = states(family.model, optimizer)
    for slot, source in enumerate(slots[0]):
        assert all_equal(after[slot], before[source])
    assert not any(entry for idle in after[depth:] for entry in idle)
    assert addresses == [id(p) for p in family.model.parameters()]
    assert all(p.grad is None for p in family.model.parameters())


def test_compact_refuses_slots_out_of_order(family: Any) -> None:
    with pytest.raises(AssertionError, match="slots must rise"):
        compact(family.model, [], None, ((2, 0),))
