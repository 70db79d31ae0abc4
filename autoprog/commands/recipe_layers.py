"""The recipe of a run: defaults, then the space, then the recipe file, then the flags."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoprog.commands.flags import given_recipe
from autoprog.errors import ConfigError, suggest
from autoprog.files import FileModel, parse, read_yaml
from autoprog.recipe import RECIPES, Recipe, default_recipe_name, resolve_recipe
from autoprog.settings import DataSettings

__all__ = ["is_file", "recipe_of"]


_OF_IMAGES = {"batch_size", "smoothing", "aa", "scale", "ratio", "hflip", "color_jitter"}
"""What the default recipe takes from that of the embedded digits for these, which must not be mirrored."""


class RecipeFile(FileModel):
    """A recipe file: any of the recipe's keys, and which named recipe they are laid over."""

    base: str | None = None


def recipe_of(
    args: argparse.Namespace,
    num_images: int,
    data: DataSettings,
    space: tuple[str, Mapping[str, Any]],
) -> tuple[str, Recipe]:
    """Return the recipe and the name it is based on: defaults < space < recipe file < flags."""
    name, layers = getattr(args, "recipe", None), [space]
    if name is not None and is_file(name):
        body = read_yaml(Path(name)) or {}
        if not isinstance(body, Mapping):
            raise ConfigError(name, "", "must be a mapping of keys to values", body)
        base = parse(RecipeFile, {k: v for k, v in body.items() if k == "base"}, name).base
        if base is not None and base not in RECIPES:
            raise ConfigError(name, "base", "unknown recipe", base, suggest(base, RECIPES))
        layers.append((name, {k: v for k, v in body.items() if k != "base"}))
        name = base
    if name is None:
        has_weights = hasattr(args, "pretrained") or hasattr(args, "initial_checkpoint")
        name = default_recipe_name(num_images, data.embedded, has_weights)
        if data.embedded:
            of_digits = RECIPES["digits"].model_dump(include=_OF_IMAGES)
            layers.insert(0, ("digits", of_digits))
    layers.append(("flags", given_recipe(args)))
    return name, resolve_recipe(name, *layers)


def is_file(name: str) -> bool:
    """Tell whether a word on the command line means a file."""
    return name.endswith((".yaml", ".yml")) or os.path.isfile(name)
