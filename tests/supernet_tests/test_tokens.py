from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.layers import Attention
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from supernet.config import ModelSpec, SubnetConfig, TokenRule
from supernet.cost import BlockTokens, block_tokens, macs
from supernet.elastic import ElasticViT, describe
from supernet.tokens import attend, class_attention, keep_tokens, patch_scores
from supernet.zoo import ZOO

Build = Callable[[ModelSpec, int], ElasticViT]

MU = ZOO["vit-mu"]
RULES = {
    "magnitude": TokenRule(0.5),
    "l2_magnitude": TokenRule(0.4, "l2_magnitude"),
    "random": TokenRule(0.5, "random"),
    "magnitude later": TokenRule(0.6, "magnitude", (0, 2)),
    "class attention": TokenRule(0.5, "class_attention", (0, 2)),
    "class attention in the last": TokenRule(0.5, "class_attention", (1, 3)),
}
REGISTERS = {"img_size": 56, "depth": 3, "embed_dim": 48, "num_heads": 4}


def tokens(num_patches: int = 9, num_prefix: int = 1, width: int = 8, images: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(images, num_prefix + num_patches, width, generator=generator)


def rows(x: Tensor) -> list[set[tuple[float, ...]]]:
    return [{tuple(token) for token in image} for image in x.tolist()]


class Seen:
    """Counts the tokens that enter the attention and the feed-forward of each block."""

    def __init__(self, model: ElasticViT) -> None:
        self.attention: list[int] = []
        self.mlp: list[int] = []
        for block in model.stages[0]:
            block.norm1.register_forward_pre_hook(self._into(self.attention))
            block.norm2.register_forward_pre_hook(self._into(self.mlp))

    @staticmethod
    def _into(counts: list[int]) -> Callable[..., None]:
        return lambda _, arguments: counts.append(arguments[0].shape[1])


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("img_size", [8, 16])
def test_dropped_tokens_enter_no_block(rule: TokenRule, img_size: int, build: Build) -> None:
    model = build(MU, 5)
    seen = Seen(model)
    logits = model(torch.randn(2, 3, 16, 16), SubnetConfig(4, img_size, rule))
    assert logits.shape == (2, 5)
    counts = block_tokens((img_size // 4) ** 2 + 1, 1, 4, rule)
    assert list(zip(seen.attention, seen.mlp, strict=True)) == [tuple(one) for one in counts]


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("img_size", [8, 16])
def test_the_counted_macs_are_those_that_torch_counts(
    rule: TokenRule, img_size: int, build: Build
) -> None:
    model, subnet = build(MU, 5), SubnetConfig(3, img_size, rule)
    # It does not know the fused attention of CPUs.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.randn(2, 3, img_size, img_size), subnet)
    assert counter.get_total_flops() == 2 * 2 * macs(MU, subnet, num_classes=5)


@pytest.mark.parametrize("by", ["magnitude", "l2_magnitude", "random", "class_attention"])
def test_a_rate_of_one_changes_no_bit_and_draws_nothing(by: str, build: Build) -> None:
    model = build(MU, 5).train()
    images, before = torch.randn(2, 3, 16, 16), torch.get_rng_state()
    kept = model(images, SubnetConfig(3, 16, TokenRule(1.0, by, (1, 2))))
    assert torch.equal(kept, model(images, SubnetConfig(3, 16)))
    assert torch.equal(torch.get_rng_state(), before)
    # Nor do blocks that run only in deeper networks.
    absent = TokenRule(0.5, by, (3,))
    assert torch.equal(model(images, SubnetConfig(3, 16, absent)), kept)


@pytest.mark.parametrize(("by", "power"), [("magnitude", 1), ("l2_magnitude", 2)])
def test_the_tokens_of_largest_magnitude_stay_in_falling_order(by: str, power: int) -> None:
    x = tokens()
    kept = keep_tokens(x, 5, 1, by)
    assert torch.equal(kept[:, :1], x[:, :1])
    sizes = kept[:, 1:].abs().pow(power).sum(-1)
    assert torch.equal(sizes, sizes.sort(dim=1, descending=True).values)
    dropped = x[:, 1:].abs().pow(power).sum(-1).sort(dim=1).values[:, :5]
    assert (sizes[:, -1] > dropped[:, -1]).all()
    assert all(one <= other for one, other in zip(rows(kept), rows(x), strict=True))


def test_the_two_magnitudes_differ_where_channels_do() -> None:
    flat, peaked = torch.full((8,), 1.0), torch.zeros(8)
    peaked[0] = 7.0
    pair = torch.stack([flat, peaked])[None]
    assert patch_scores(pair, "magnitude").argmax() == 0
    assert patch_scores(pair, "l2_magnitude").argmax() == 1


@pytest.mark.parametrize("by", ["magnitude", "l2_magnitude", "random"])
@pytest.mark.parametrize("num_prefix", [0, 1, 5])
def test_prefix_tokens_stay_even_where_they_score_least(by: str, num_prefix: int) -> None:
    x = tokens(num_prefix=num_prefix)
    x[:, :num_prefix] *= 1e-6
    kept = keep_tokens(x, num_prefix + 1, num_prefix, by)
    assert kept.shape == (3, num_prefix + 1, 8)
    assert torch.equal(kept[:, :num_prefix], x[:, :num_prefix])


def test_of_equal_scores_the_first_stays() -> None:
    x = torch.ones(2, 40, 4) * torch.arange(40)[None, :, None].remainder(2).add(1)
    x[..., 1] = torch.arange(40) * 1e-9  # tells them apart, below the precision of the score
    kept = keep_tokens(x, 4, 0, "magnitude")
    assert torch.equal(kept, x[:, [1, 3, 5, 7]])


def test_random_choices_differ_between_images_and_follow_the_seed() -> None:
    x = tokens(images=1).expand(4, -1, -1)
    picked = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        picked.append(keep_tokens(x, 5, 1, "random"))
    assert torch.equal(picked[0], picked[1])
    assert rows(picked[0]) != rows(picked[2])
    assert any(other != rows(picked[0])[0] for other in rows(picked[0]))


@pytest.mark.parametrize("training", [True, False])
def test_tokens_are_dropped_in_training_and_in_evaluation(training: bool, build: Build) -> None:
    model, subnet = build(MU, 5).train(training), SubnetConfig(4, 16, RULES["random"])
    images, results = torch.randn(2, 3, 16, 16), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        results.append(model(images, subnet))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bias": {"qkv_bias": True},
    "normed": {"qk_norm": True, "scale_norm": True, "norm_layer": nn.LayerNorm},
    "gated": {"gated": True, "qkv_bias": True, "proj_bias": False},
}


@pytest.mark.parametrize("kwargs", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("training", [True, False])
def test_attending_is_what_the_attention_of_timm_does(
    kwargs: dict[str, Any], training: bool
) -> None:
    torch.manual_seed(0)
    attn = Attention(24, num_heads=3, attn_drop=0.3, proj_drop=0.2, **kwargs).train(training)
    x = torch.randn(4, 7, 24)
    torch.manual_seed(1)
    expected = attn(x)
    torch.manual_seed(1)
    attended, q, k = attend(attn, x)
    assert torch.equal(attended, expected)
    assert q.shape == k.shape == (4, 3, 7, 8)


@pytest.mark.parametrize("kwargs", VARIANTS.values(), ids=VARIANTS)
def test_the_scores_are_the_row_of_the_class_token(kwargs: dict[str, Any]) -> None:
    torch.manual_seed(0)
    attn = Attention(24, num_heads=3, **kwargs).eval()
    seen: list[Tensor] = []
    attn.fused_attn = False
    attn.attn_drop.register_forward_hook(lambda *call: seen.append(call[2]))
    x = torch.randn(4, 7, 24)
    attn(x)
    (full,) = seen  # (B, H, N, N)
    scores = class_attention(*attend(attn, x)[1:], attn.scale)
    torch.testing.assert_close(scores, full.mean(1)[:, 0])
    assert not scores.requires_grad


def reference_block(block: Any, x: Tensor, num_kept: int, prefix: int) -> Tensor:
    """SuperViT's block with the whole attention matrix, image by image, kept tokens in their places."""
    attn, normed = block.attn, block.norm1(x)
    q, k = (
        part.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2)
        for part in attn.qkv(normed).chunk(3, -1)[:2]
    )
    matrix = (q @ k.transpose(-2, -1) * attn.scale).softmax(-1).mean(1)
    x = x + attn(normed)
    images = []
    for image, row in zip(x, matrix[:, 0, prefix:], strict=True):
        best = sorted(range(len(row)), key=lambda j: -row[j].item())[: num_kept - prefix]
        images.append(image[[*range(prefix), *(prefix + j for j in sorted(best))]])
    x = torch.stack(images)
    return x + block.mlp(block.norm2(x))


@pytest.mark.parametrize("at_blocks", [(0, 2), (3,)])
def test_pruning_inside_blocks_is_that_of_a_slow_reference(
    at_blocks: tuple[int, ...], build: Build
) -> None:
    model, rule = build(MU, 5), TokenRule(0.5, "class_attention", at_blocks)
    vit, images = model.vit, torch.randn(5, 3, 16, 16)
    x = vit._pos_embed(vit.patch_embed(images))
    for block, count in zip(vit.blocks, block_tokens(17, 1, 4, rule), strict=True):
        x = block(x) if count.mlp == count.attention else reference_block(block, x, count.mlp, 1)
    logits = model(images, SubnetConfig(4, 16, rule))
    torch.testing.assert_close(logits, vit.forward_head(vit.norm(x)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("pool", ["token", "avg"])
def test_the_order_of_kept_tokens_changes_no_logit(
    rule: TokenRule, pool: str, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(describe(MU.timm, **MU.create_kwargs(), global_pool=pool), 5)
    images, subnet = torch.randn(4, 3, 16, 16), SubnetConfig(4, 16, rule)

    run, order = model._run_block, torch.Generator().manual_seed(3)

    def shuffled_run(block: nn.Module, x: Tensor, count: BlockTokens) -> Tensor:
        patches = torch.randperm(x.shape[1] - 1, generator=order) + 1
        return run(block, x[:, [0, *patches.tolist()]], count)

    torch.manual_seed(0)
    straight = model(images, subnet)
    monkeypatch.setattr(model, "_run_block", shuffled_run)
    torch.manual_seed(0)
    torch.testing.assert_close(model(images, subnet), straight, rtol=1e-5, atol=1e-5)


def test_no_gradient_flows_through_scores(build: Build) -> None:
    x = tokens().requires_grad_()
    kept = keep_tokens(x, 4, 1, "magnitude")
    weight = torch.randn(kept.shape)
    (kept * weight).sum().backward()
    assert x.grad is not None
    nonzero = x.grad.abs().sum(-1) > 0
    assert nonzero.sum(1).tolist() == [4, 4, 4]
    assert torch.allclose(x.grad.sum(1), weight.sum(1))


@pytest.mark.parametrize(
    ("timm_name", "overrides"),
    [
        ("vit_small_patch14_reg4_dinov2", REGISTERS),
        ("deit3_small_patch16_224", {"depth": 3, "img_size": 64}),
        ("vit_base_patch16_clip_224", {"depth": 3, "embed_dim": 48, "num_heads": 4}),
        ("vit_small_patch16_224", {"depth": 3, "img_size": 64, "global_pool": "avg"}),
    ],
)
@pytest.mark.parametrize("by", ["magnitude", "class_attention"])
def test_registers_bare_tables_first_norms_and_mean_pooling(
    timm_name: str, overrides: dict[str, Any], by: str, build: Build
) -> None:
    spec = describe(timm_name, **{"img_size": 64, **overrides})
    model, rule = build(spec, 5), TokenRule(0.5, by, (0, 1))
    seen = Seen(model)
    size = spec.patch_size * 3
    logits = model(torch.randn(2, 3, spec.img_size, spec.img_size), SubnetConfig(3, size, rule))
    counts = block_tokens(9 + spec.num_prefix_tokens, spec.num_prefix_tokens, 3, rule)
    assert seen.mlp == [count.mlp for count in counts]
    assert torch.isfinite(logits).all()


def test_mean_pooling_reads_kept_patches_alone(build: Build) -> None:
    model = build(describe(MU.timm, **MU.create_kwargs(), global_pool="avg"), 5)
    pooled: list[Tensor] = []
    model.vit.fc_norm.register_forward_pre_hook(lambda _, args: pooled.append(args[0]))
    ends: list[Tensor] = []
    model.stages[0][3].register_forward_hook(lambda *call: ends.append(call[2]))
    model(torch.randn(2, 3, 16, 16), SubnetConfig(4, 16, TokenRule(0.5)))
    assert ends[0].shape[1] == 8
    assert torch.allclose(pooled[0], ends[0][:, 1:].mean(1))


WITHOUT_CLASS_TOKEN: dict[str, dict[str, Any]] = {
    "no prefix": {"class_token": False, "global_pool": "avg"},
    "registers alone": {"class_token": False, "reg_tokens": 2, "global_pool": "avg"},
}


@pytest.mark.parametrize("kwargs", WITHOUT_CLASS_TOKEN.values(), ids=WITHOUT_CLASS_TOKEN)
def test_a_model_without_a_class_token_refuses_its_attention(
    kwargs: dict[str, Any], build: Build
) -> None:
    spec = describe(MU.timm, **MU.create_kwargs(), **kwargs)
    model, images = build(spec, 5), torch.randn(2, 3, 16, 16)
    subnet = SubnetConfig(2, 16, RULES["class attention"])
    for refusing in (lambda: model(images, subnet), lambda: macs(spec, subnet)):
        with pytest.raises(ValueError, match="for a model without a class token"):
            refusing()
    assert model(images, SubnetConfig(2, 16, TokenRule(0.5))).shape == (2, 5)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_gradient_checkpointing_changes_no_gradient(rule: TokenRule, build: Build) -> None:
    gradients = []
    for enable in (False, True):
        model = build(MU, 5).train()
        model.set_drop_path(0.4, 4)
        model.vit.set_grad_checkpointing(enable)
        torch.manual_seed(1)
        images = torch.randn(8, 3, 16, 16)
        model(images, SubnetConfig(4, 16, rule)).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_numbers_of_blocks_count_running_blocks(build: Build) -> None:
    model = build(MU, 5)
    seen = Seen(model)
    model(
        torch.randn(2, 3, 16, 16),
        SubnetConfig(2, 16, TokenRule(0.5, "class_attention", (1,))),
        ((1, 3),),
    )
    assert (seen.attention, seen.mlp) == ([17, 17], [17, 10])


def test_five_keep_rates_share_the_graph_of_all_blocks(family: Any) -> None:
    assert graphs(family.model, [TokenRule(rate) for rate in (1.0, 0.2, 0.4, 0.6, 0.8)]) == 1


def test_class_attention_takes_one_more_graph(family: Any) -> None:
    rates = (1.0, 0.2, 0.4, 0.6, 0.8)
    assert graphs(family.model, [TokenRule(r, "class_attention", (1, 2, 4)) for r in rates]) == 2


def graphs(model: ElasticViT, rules: list[TokenRule]) -> int:
    """Return how many graphs rules take at three sizes and depths, in training, drop-path ramping."""
    counter = CompileCounterWithBackend("eager")
    model.train().compile_blocks(dynamic=True, backend=counter)
    torch._dynamo.reset()
    for rate, depth, img_size in ((0.0, 5, 12), (0.1, 6, 16), (0.2, 8, 24)):
        model.set_drop_path(rate, depth)
        for rule in rules:
            subnet = SubnetConfig(depth, img_size, rule)
            model(torch.randn(4, 3, img_size, img_size), subnet).sum().backward()
    return int(counter.frame_count)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_compiled_pruning_computes_what_eager_does(family: Any, rule: TokenRule) -> None:
    model, subnet = family.model, SubnetConfig(5, 16, rule)
    torch.manual_seed(0)
    eager = model(family.images, subnet)
    torch._dynamo.reset()
    model.compile_blocks(backend="eager")
    torch.manual_seed(0)
    assert torch.equal(model(family.images, subnet), eager)
    assert copy.deepcopy(model).pruning_block._compiled_call_impl is None


def test_patch_dropout_of_timm_is_left_to_token_rules() -> None:
    with pytest.raises(ValueError, match="patch_drop_rate must be left to supernet"):
        describe(MU.timm, patch_drop_rate=0.5)


def test_pruning_leaves_no_trace_in_the_state_dict(family: Any) -> None:
    assert not [key for key in family.model.state_dict() if not key.startswith("vit.")]
