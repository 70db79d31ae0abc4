"""Points of the growth space, growth rules, model descriptions: values that refuse bad input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from reprlib import repr as brief
from typing import Any

from supernet.depthmap import PLACEMENTS, split_blocks
from supernet.limits import (
    MAX_BLOCKS,
    check_arguments,
    check_count,
    check_name,
    check_ratio,
    check_tokens_of_image,
)

__all__ = [
    "ALL_TOKENS",
    "TOKEN_SCORES",
    "GrowthRule",
    "ModelSpec",
    "Outlook",
    "Slots",
    "SubnetConfig",
    "TokenRule",
    "first_slots",
]

TOKEN_SCORES = ("magnitude", "l2_magnitude", "random", "class_attention")

Slots = tuple[tuple[int, ...], ...]
"""Which block slots of each stage a forward runs, in order."""


def first_slots(depth: Sequence[int]) -> Slots:
    """Return the slots that a subnet runs outside a supernet phase; ``depth`` is per stage."""
    return tuple(tuple(range(blocks)) for blocks in depth)


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a word outside ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, but got {value!r}")


def as_depth(depth: int | Sequence[int]) -> tuple[int, ...]:
    """Normalise a depth to one positive number of blocks per stage."""
    blocks = tuple(depth) if isinstance(depth, (tuple, list)) else (depth,)
    if not 1 <= len(blocks) <= _MAX_STAGES:
        raise ValueError(
            f"depth must have one entry per stage of the model, but got {brief(depth)}"
        )
    for number in blocks:
        check_count("depth", number, MAX_BLOCKS)
    return blocks


_MAX_STAGES = 4


@dataclass(frozen=True, slots=True)
class TokenRule:
    """Which patch tokens go on through a network; class and register tokens always do.

    Args:
        keep_rate: Fraction of the tokens that each of ``at_blocks`` keeps, in (0, 1].
        by: What is kept: the tokens of largest ``magnitude`` (L1) or ``l2_magnitude``, ``random`` ones
            (all three PSS, arXiv 2208.09520), or those that the class token attends to most
            (``class_attention``; SuperViT, arXiv 2205.11397).
        at_blocks: Numbers of the running blocks, rising from 0: before them tokens are dropped, by class
            attention inside them, after attention.
    """

    keep_rate: float = 1.0
    by: str = "magnitude"
    at_blocks: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        if not 0 < self.keep_rate <= 1:
            raise ValueError(f"keep_rate must lie in (0, 1], but got {self.keep_rate!r}")
        check_choice("by", self.by, TOKEN_SCORES)
        blocks = tuple(self.at_blocks)
        if not blocks or list(blocks) != sorted(set(blocks)) or blocks[0] < 0:
            raise ValueError(
                f"at_blocks must be rising numbers from 0, but got {brief(self.at_blocks)}"
            )
        if blocks[-1] >= MAX_BLOCKS:
            raise ValueError(f"at_blocks must be below {MAX_BLOCKS}, but got {brief(blocks[-1])}")
        if self.keep_rate == 1:  # whatever the rest says, it keeps all: one value for one meaning
            blocks = (0,)
            object.__setattr__(self, "by", "magnitude")
        object.__setattr__(self, "keep_rate", float(self.keep_rate))
        object.__setattr__(self, "at_blocks", blocks)

    def __str__(self) -> str:
        """Return a text such as ``k0.6``, ``k0.5 class_attention@3,6,9``; ``k1`` keeps all."""
        places = ",".join(map(str, self.at_blocks))
        how = "" if (self.by, self.at_blocks) == ("magnitude", (0,)) else f" {self.by}@{places}"
        return f"k{self.keep_rate:g}{how}"


ALL_TOKENS = TokenRule()


@dataclass(frozen=True, slots=True, init=False)
class SubnetConfig:
    """One point of the growth space: blocks per stage (a plain ViT has one), image size in px, tokens."""

    depth: tuple[int, ...]
    img_size: int
    tokens: TokenRule = ALL_TOKENS

    def __init__(
        self, depth: int | Sequence[int], img_size: int, tokens: TokenRule = ALL_TOKENS
    ) -> None:
        check_count("img_size", img_size)
        object.__setattr__(self, "depth", as_depth(depth))
        object.__setattr__(self, "img_size", img_size)
        object.__setattr__(self, "tokens", tokens)

    @property
    def total_depth(self) -> int:
        """Count the blocks of all stages."""
        return sum(self.depth)

    def within(self, other: SubnetConfig) -> bool:
        """Return whether ``other`` is at least as large on every axis: a partial order."""
        if len(self.depth) != len(other.depth):
            raise ValueError(f"compared subnets must have equal stages, but got {self} and {other}")
        shallower = all(
            mine <= theirs for mine, theirs in zip(self.depth, other.depth, strict=True)
        )
        fewer = self.tokens.keep_rate <= other.tokens.keep_rate
        return shallower and self.img_size <= other.img_size and fewer

    def __str__(self) -> str:
        tokens = "" if self.tokens == ALL_TOKENS else f" {self.tokens}"
        return f"d{'+'.join(map(str, self.depth))} r{self.img_size}{tokens}"


@dataclass(frozen=True, slots=True)
class GrowthRule:
    """How a subnet grows.

    Args:
        init: What a new block starts from: ``ema`` its source block in the slowest EMA (MoGrow in the
            AutoProg paper), ``copy`` the online source block, ``zero`` that one with its two residual
            branches at exactly 0.
        placement: Where new blocks go: a name in :data:`supernet.depthmap.PLACEMENTS`.
        old_blocks: ``keep`` leaves old blocks and everything outside blocks as they are; ``ema`` replaces
            the whole online network by the slowest EMA, as the AutoProg release does.
        optimizer_state: ``copy`` clones the optimizer state with the weights, ``fresh`` gives new blocks
            none, ``reset`` clears the whole optimizer, as the AutoProg release does.
    """

    init: str = "ema"
    placement: str = "interpolate"
    old_blocks: str = "keep"
    optimizer_state: str = "copy"

    def __post_init__(self) -> None:
        check_choice("init", self.init, ("ema", "copy", "zero"))
        check_choice("placement", self.placement, tuple(PLACEMENTS))
        check_choice("old_blocks", self.old_blocks, ("keep", "ema"))
        check_choice("optimizer_state", self.optimizer_state, ("copy", "fresh", "reset"))
        # The release takes everything from the EMA at once; with other new blocks that mixes two networks.
        if self.old_blocks == "ema" and self.init != "ema":
            raise ValueError(f"old_blocks must be keep unless init is ema, but got {self.init!r}")


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a VOLO has beside its transformers: a stem, outlookers on twice their grid, class attention.

    Args:
        embed_dim: Width of the outlookers.
        num_heads: Their heads; they divide the width.
        stem_dim: Channels of the three convolutions before the patch embedding.
        class_blocks: Class-attention blocks after the transformers.
    """

    embed_dim: int
    num_heads: int
    stem_dim: int = 64
    class_blocks: int = 2

    def __post_init__(self) -> None:
        limits = {"stem_dim": 32_768, "class_blocks": MAX_BLOCKS}
        for key in ("embed_dim", "num_heads", "stem_dim", "class_blocks"):
            check_count(f"outlook.{key}", getattr(self, key), limits.get(key))
        check_heads("outlook.embed_dim", self.embed_dim, self.num_heads)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a model name means: its timm name, its full size, and what its cost depends on.

    Args:
        name: The name that the user gave.
        timm: The name of the timm model.
        depth: Blocks of each growing stage of the full model; an int counts as one stage. A VOLO has two,
            outlookers and transformers.
        embed_dim: Width of the tokens.
        num_heads: Attention heads; they divide the width.
        mlp_ratio: Hidden width over token width of the plain feed-forward that has as many weights.
        patch_size: Stride in px: of the patch embedding, in a VOLO that of the transformers' grid.
        img_size: Full image size in px, a multiple of the stride.
        num_prefix_tokens: Class and register tokens.
        class_token: Whether the first prefix token is a class token; false without prefix tokens.
        in_chans: Image channels.
        overrides: Arguments of ``timm.create_model`` beyond ``img_size``; kept sorted by name.
        extra_parameters: Parameters per block and outside blocks beyond those of a plain ViT (layer
            scale, registers, other norms), so that counts are exact for any described model.
        outlook: The other parts of a VOLO; None for a plain ViT.
    """

    name: str
    timm: str
    depth: tuple[int, ...]
    embed_dim: int
    num_heads: int
    mlp_ratio: float
    patch_size: int
    img_size: int
    num_prefix_tokens: int = 1
    in_chans: int = 3
    overrides: tuple[tuple[str, Any], ...] = ()
    extra_parameters: tuple[int, int] = (0, 0)
    outlook: Outlook | None = None
    class_token: bool = True

    def __post_init__(self) -> None:
        check_name("model", self.name)
        check_name("timm", self.timm)
        object.__setattr__(self, "depth", as_depth(self.depth))
        # A spec is a dictionary key; YAML and JSON give lists, in any order of the names.
        frozen = ((k, tuple(v) if isinstance(v, list) else v) for k, v in self.overrides)
        object.__setattr__(self, "overrides", tuple(sorted(frozen)))
        for key in ("embed_dim", "num_heads", "patch_size", "img_size", "in_chans"):
            check_count(key, getattr(self, key))
        if self.num_prefix_tokens < 0:
            raise ValueError(f"num_prefix_tokens must be >= 0, but got {self.num_prefix_tokens}")
        if self.num_prefix_tokens > 0:
            check_count("num_prefix_tokens", self.num_prefix_tokens)
        else:  # nothing to be a class token, whatever the caller left at its default
            object.__setattr__(self, "class_token", False)
        check_ratio("mlp_ratio", self.mlp_ratio)
        check_heads("embed_dim", self.embed_dim, self.num_heads)
        stages = 1 if self.outlook is None else 2
        if len(self.depth) != stages:
            problem = (
                "depth must be two numbers, outlookers and transformers, with outlook, else one"
            )
            raise ValueError(f"{problem}, but got {list(self.depth)}")
        check_multiple(self.img_size, self.patch_size)
        check_tokens_of_image(self.img_size, self.patch_size)
        check_arguments(self.timm, dict(self.overrides))

    @property
    def full(self) -> SubnetConfig:
        """Name the subnet that is the whole model."""
        return SubnetConfig(self.depth, self.img_size)

    def split(self, blocks: int) -> tuple[int, ...]:
        """Return the depth that has ``blocks`` blocks in all, by stage, as AutoProg grows them.

        That of the full number of blocks is the full depth. A stage keeps at least one block, and its
        part may fall where the whole rises by one: 9 are (2, 7), but 10 are (4, 6).
        """
        return (blocks,) if self.outlook is None else split_blocks(blocks, *self.depth)

    @property
    def is_local(self) -> bool:
        """Return whether the feed-forward is that of :mod:`supernet.locality`, which the timm name says."""
        return self.timm.startswith("local_")

    @property
    def needs_grid(self) -> bool:
        """Return whether the network mixes neighbours on the grid of patches, so that none may be dropped."""
        return self.is_local or len(self.depth) > 1

    def with_img_size(self, img_size: int) -> ModelSpec:
        """Return the same model for another full image size in px, a multiple of the stride."""
        return replace(self, img_size=img_size)

    def create_kwargs(self) -> dict[str, Any]:
        """Return the arguments with which plain ``timm.create_model`` rebuilds the full model."""
        return {"img_size": self.img_size, **dict(self.overrides)}


def check_heads(key: str, width: int, num_heads: int) -> None:
    """Refuse a width that the heads do not divide."""
    if width % num_heads:
        raise ValueError(f"{key} must be a multiple of {num_heads}, but got {width}")


def check_multiple(img_size: int, patch_size: int) -> None:
    """Refuse an image size that cuts a patch, and name the nearest ones that do not."""
    if img_size % patch_size:
        below = img_size // patch_size * patch_size
        near = " and ".join(str(size) for size in (below, below + patch_size) if size)
        problem = f"img_size must be a multiple of the stride {patch_size}"
        raise ValueError(f"{problem}, but got {img_size}; nearest are {near}")
