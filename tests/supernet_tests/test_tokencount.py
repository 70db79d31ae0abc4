from __future__ import annotations

from itertools import product

import pytest

from supernet.config import ALL_TOKENS, ModelSpec, TokenRule
from supernet.cost import BlockTokens, attended_tokens, block_tokens, check_tokens, sampled_tokens

RATES = (0.2, 0.4, 0.6, 0.8, 1.0)


def inside(rate: float) -> TokenRule:
    return TokenRule(rate, "class_attention", (3, 6, 9))


@pytest.mark.parametrize(
    ("num_tokens", "kept"), [(197, [39, 79, 118, 158, 197]), (577, [115, 231, 346, 462, 577])]
)
def test_pss_keeps_the_published_numbers_of_tokens(num_tokens: int, kept: list[int]) -> None:
    assert [sampled_tokens(num_tokens, 1, rate) for rate in RATES] == kept


@pytest.mark.parametrize(
    ("num_tokens", "rate", "after"),
    [
        (65, 0.5, (34, 18, 10)),
        (65, 0.7, (47, 34, 25)),
        (101, 0.5, (52, 27, 15)),
        (101, 0.7, (72, 52, 38)),
        (145, 0.5, (74, 38, 20)),
        (145, 0.7, (103, 74, 53)),
        (197, 0.5, (100, 51, 27)),
        (197, 0.7, (139, 99, 71)),
    ],
)
def test_supervit_keeps_the_published_numbers_of_tokens(
    num_tokens: int, rate: float, after: tuple[int, ...]
) -> None:
    counts = block_tokens(num_tokens, 1, 12, inside(rate))
    assert tuple(counts[block].mlp for block in (3, 6, 9)) == after
    # Attention still sees all that came in; from the feed-forward on the dropped ones are gone.
    first, second, third = after
    attention = [num_tokens] * 4 + [first] * 3 + [second] * 3 + [third] * 2
    assert [count.attention for count in counts] == attention
    assert [count.mlp for count in counts] == [*attention[1:], third]


def test_pss_drops_before_the_block() -> None:
    counts = block_tokens(65, 1, 4, TokenRule(0.5, "random", (0, 2)))
    assert counts == (BlockTokens(32, 32),) * 2 + (BlockTokens(16, 16),) * 2


def test_all_tokens_stay_everywhere() -> None:
    assert block_tokens(197, 1, 3, ALL_TOKENS) == (BlockTokens(197, 197),) * 3


def test_blocks_that_do_not_run_drop_nothing() -> None:
    assert block_tokens(65, 1, 6, inside(0.5)) == block_tokens(
        65, 1, 6, TokenRule(0.5, "class_attention", (3,))
    )


@pytest.mark.parametrize("keep", [sampled_tokens, attended_tokens])
def test_prefix_tokens_and_a_patch_always_stay_and_nothing_is_invented(keep: object) -> None:
    assert callable(keep)
    for prefix, patches, rate in product((0, 1, 5), (1, 2, 9, 64), (1e-6, 0.1, 0.5, 0.99, 1.0)):
        assert prefix + 1 <= keep(prefix + patches, prefix, rate) <= prefix + patches


def test_the_noise_of_floats_is_not_rounded_up() -> None:
    assert 0.55 * 100 > 55
    assert attended_tokens(100, 1, 0.55) == 56
    assert 0.07 * 100 > 7
    assert attended_tokens(100, 0, 0.07) == 7


def test_registers_count_as_tokens_and_stay() -> None:
    assert sampled_tokens(201, 5, 0.5) == round(0.5 * 201)
    assert attended_tokens(201, 5, 0.5) == 5 + 101


def test_class_attention_needs_a_class_token() -> None:
    check_tokens(inside(0.5), has_class_token=True)
    check_tokens(TokenRule(0.5), has_class_token=False)
    with pytest.raises(ValueError, match="without a class token, but got 'class_attention'"):
        check_tokens(inside(0.5), has_class_token=False)


def test_a_model_without_prefix_tokens_has_no_class_token() -> None:
    shape = ("m", "t", (2,), 24, 2, 4.0, 4, 16)
    assert ModelSpec(*shape).class_token
    assert not ModelSpec(*shape, num_prefix_tokens=0).class_token
