"""What a description of a network may say: names of models, arguments of timm, and how large they may be.

Descriptions come with files of other people. So a model is one of the registry, never an address; only
arguments that shape a network are taken, none that opens a file; and each number has an upper bound.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from reprlib import repr as brief
from typing import Any

__all__ = [
    "MAX_BLOCKS",
    "MAX_CLASSES",
    "MAX_IMAGE_PX",
    "check_arguments",
    "check_count",
    "check_name",
    "check_num_classes",
    "check_ratio",
    "check_tokens_of_image",
]

MAX_BLOCKS = 256
"""timm builds so many in a second; the deepest published ViTs have about 60."""
MAX_IMAGE_PX = 4096
MAX_CLASSES = 1_000_000
MAX_PATCHES = 2**14
"""A grid of 256 x 256, as of 4,096 px with a stride of 16."""
_MAX_PARTS = 16  # entries of a list, such as the widths of a VOLO
_NAME = re.compile(r"[A-Za-z0-9_]+([.-][A-Za-z0-9_]+)*")
_LONGEST_NAME = 100

_MAX = {
    "embed_dim": 32_768,
    "img_size": MAX_IMAGE_PX,
    "in_chans": 1_024,
    "num_heads": 512,
    "num_prefix_tokens": 1_024,
    "patch_size": 1_024,
}
"""The largest whole numbers, by what timm calls them."""


@dataclass(frozen=True)
class _Whole:
    """Whole numbers from ``least`` to ``most``."""

    least: int
    most: int

    def __str__(self) -> str:
        return f"a whole number from {self.least} to {self.most}"

    def holds(self, value: Any) -> bool:
        return (
            isinstance(value, int)
            and not isinstance(value, bool)
            and self.least <= value <= self.most
        )


@dataclass(frozen=True)
class _Real:
    """Finite numbers from ``least`` to ``most``, or above ``least``."""

    least: float
    most: float
    is_above: bool = False

    def __str__(self) -> str:
        start = f"above {self.least:g} and at most" if self.is_above else f"from {self.least:g} to"
        return f"a number {start} {self.most:g}"

    def holds(self, value: Any) -> bool:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return False
        return self.least <= value <= self.most and not (self.is_above and value == self.least)


@dataclass(frozen=True)
class _Flag:
    """True or false."""

    def __str__(self) -> str:
        return "true or false"

    def holds(self, value: Any) -> bool:
        return isinstance(value, bool)


@dataclass(frozen=True)
class _Word:
    """One of some words."""

    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"one of {', '.join(word or repr(word) for word in self.words)}"

    def holds(self, value: Any) -> bool:
        return isinstance(value, str) and value in self.words


_RATIO = _Real(0, 64, is_above=True)
_RATE = _Real(0, 0.99)

_ARGUMENTS: dict[str, _Whole | _Real | _Flag | _Word] = {
    **{key: _Whole(1, most) for key, most in _MAX.items() if key != "num_prefix_tokens"},
    "depth": _Whole(1, MAX_BLOCKS),
    "reg_tokens": _Whole(0, 1_000),
    "mlp_ratio": _RATIO,
    "init_values": _Real(0, 100),
    "drop_rate": _RATE,
    "pos_drop_rate": _RATE,
    "proj_drop_rate": _RATE,
    "attn_drop_rate": _RATE,
    "class_token": _Flag(),
    "fc_norm": _Flag(),
    "final_norm": _Flag(),
    "fix_init": _Flag(),
    "no_embed_class": _Flag(),
    "pool_include_prefix": _Flag(),
    "pre_norm": _Flag(),
    "proj_bias": _Flag(),
    "qk_norm": _Flag(),
    "qkv_bias": _Flag(),
    "scale_attn_norm": _Flag(),
    "scale_mlp_norm": _Flag(),
    "global_pool": _Word(("", "avg", "avgmax", "max", "token", "map", "prr")),
    "pos_embed": _Word(("", "none", "learn")),
    "weight_init": _Word(("", "skip", "reset", "jax", "jax_nlhb", "moco")),
}
"""Arguments of timm's ``VisionTransformer`` that a description may give."""

_VOLO_ARGUMENTS: dict[str, _Whole | _Real | _Flag | _Word] = {
    "downsamples": _Flag(),
    "embed_dims": _Whole(1, _MAX["embed_dim"]),
    "layers": _Whole(0, MAX_BLOCKS),
    "outlook_attention": _Flag(),
    "pooling_scale": _Whole(1, 16),
    "post_layers": _Word(("ca",)),
    "stem_hidden_dim": _Whole(1, _MAX["embed_dim"]),
    "use_aux_head": _Flag(),
    "use_mix_token": _Flag(),
}
"""Those of ``VOLO`` beside them."""

_KNOWN = _ARGUMENTS | _VOLO_ARGUMENTS
_MANY = {"downsamples", "embed_dims", "layers", "outlook_attention", "post_layers"}
_ONE_OR_MANY = {"img_size", "mlp_ratio", "num_heads", "patch_size"}


def check_arguments(owner: str, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of ``timm.create_model`` that shape no network, or are of another kind or too large.

    Raises ValueError that begins with the ``owner``, the model.
    """
    for key, value in arguments.items():
        problem = _KNOWN.get(key) if isinstance(key, str) else None
        if problem is None:
            near = difflib.get_close_matches(str(key)[:_LONGEST_NAME], _KNOWN, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(
                f"{owner}: arguments must be among those that shape a network, but got {brief(key)}{hint}"
            )
        is_list = isinstance(value, Sequence) and not isinstance(value, str)
        if is_list and key in _MANY | _ONE_OR_MANY:
            is_right = len(value) <= _MAX_PARTS and all(map(problem.holds, value))
        else:
            is_right = key not in _MANY and problem.holds(value)
        if not is_right:
            many = f"a list of at most {_MAX_PARTS}, each " if key in _MANY else ""
            raise ValueError(f"{owner}: {key} must be {many}{problem}, but got {brief(value)}")


def check_name(key: str, name: Any) -> None:
    """Refuse what cannot be the name of a model: an address, a path, a long text."""
    if not isinstance(name, str) or len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        problem = f"{key} must be a short name or a timm model, without a source or a path"
        raise ValueError(f"{problem}, but got {brief(name)}")


def check_count(key: str, value: Any, most: int | None = None) -> None:
    """Refuse anything but a whole number of at least one, and name what it counts.

    Without ``most``, the bound is that of :data:`_MAX` for the last part of ``key``, if it has one.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{key} must be a whole number >= 1, but got {brief(value)}")
    most = _MAX.get(key.rpartition(".")[2]) if most is None else most
    if most is not None and value > most:
        raise ValueError(f"{key} must be at most {most}, but got {brief(value)}")


def check_ratio(key: str, value: Any) -> None:
    """Refuse a ratio of widths that is no positive number or too large."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
        raise ValueError(f"{key} must be > 0, but got {brief(value)}")
    if not math.isfinite(value) or value > _RATIO.most:
        raise ValueError(f"{key} must be at most {_RATIO.most:g}, but got {brief(value)}")


def check_num_classes(num_classes: Any) -> None:
    """Refuse a number of outputs that no data set has; 0 is a network without a head."""
    if not _Whole(0, MAX_CLASSES).holds(num_classes):
        problem = f"the number of classes must be at most {MAX_CLASSES:,}"
        raise ValueError(f"{problem}, but got {brief(num_classes)}")


def check_tokens_of_image(img_size: int, stride: int) -> None:
    """Refuse an image size that makes more patches than attention can hold."""
    patches = (img_size // stride) ** 2
    if patches > MAX_PATCHES:
        problem = f"img_size must make at most {MAX_PATCHES:,} patches of {stride} px"
        raise ValueError(f"{problem}, but {img_size} makes {patches:,}")
