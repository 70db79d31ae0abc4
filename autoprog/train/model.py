"""From a model's name to its description, and from there to an elastic network."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import torch

from autoprog.data.transforms import TransformSettings
from autoprog.errors import ConfigError
from autoprog.recipe import Recipe
from supernet.config import ModelSpec
from supernet.elastic import ElasticViT, create_elastic, describe
from supernet.zoo import ZOO, lookup

__all__ = ["build_model", "evaluation_images", "find_model", "short_named", "transform_settings"]


def find_model(name: str, img_size: int | None = None) -> ModelSpec:
    """Return the model that `name` means: one of ours, or any timm VisionTransformer or VOLO.

    Raises:
        ConfigError: If there is none, it is of another kind, or the stride does not divide `img_size`.
    """
    spec = lookup(name)
    try:
        spec = describe(name) if spec is None else spec
        return spec if img_size is None else spec.with_img_size(img_size)
    except ValueError as error:
        near = [] if spec is not None else difflib.get_close_matches(name, ZOO, n=1)
        if near:
            problem = "must be a short name or a timm model"
            raise ConfigError("--model", "", problem, name, f"did you mean {near[0]!r}?") from None
        raise ConfigError("--model", "", str(error).removeprefix(f"{name}: ")) from None


def short_named(spec: ModelSpec) -> ModelSpec:
    """Return a model under its short name, such as ``deit-s``, if its network has one; else as it is."""
    own = dict(spec.overrides)
    for known in ZOO.values():
        if known.timm == spec.timm and dict(known.overrides) == own:
            return known.with_img_size(spec.img_size)
    return spec


def build_model(
    spec: ModelSpec, num_classes: int, seed: int, table_sizes: Sequence[int] = ()
) -> ElasticViT:
    """Return the elastic network with weights drawn from `seed`.

    Image sizes in `table_sizes` have position tables of their own.

    Raises:
        ConfigError: If the model is not what timm builds, or does not fit into memory.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return create_elastic(spec, num_classes, table_sizes)
        except ValueError as error:
            problem = str(error).removeprefix(f"{spec.name}: ")
            raise ConfigError(f"model {spec.name}", "", problem) from None


def transform_settings(model: ElasticViT, recipe: Recipe) -> TransformSettings:
    """Return what stays fixed in the image transforms: the model's normalisation, the recipe's geometry."""
    config = model.vit.pretrained_cfg
    return TransformSettings(
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=recipe.interpolation,
        scale=recipe.scale,
        ratio=recipe.ratio,
        hflip=recipe.hflip,
        vflip=recipe.vflip,
        color_jitter=recipe.color_jitter,
        remode=recipe.remode,
        crop_pct=recipe.crop_pct,
    )


def evaluation_images(model: ElasticViT, recipe: Recipe) -> dict[str, Any]:
    """Return how images are prepared for evaluation, under the names of ``timm.data.create_transform``."""
    fixed = transform_settings(model, recipe)
    return {
        "img_size": model.spec.img_size,
        "mean": list(fixed.mean),
        "std": list(fixed.std),
        "interpolation": "bicubic" if fixed.interpolation == "random" else fixed.interpolation,
        "crop_pct": fixed.crop_pct,
    }
