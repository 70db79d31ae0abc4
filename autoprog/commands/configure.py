"""From flags to settings: defaults, then the space, then the recipe file, then the flags."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from autoprog import migration
from autoprog.bounds import WorldSize
from autoprog.commands.flags import (
    absolute_storage_url,
    check_trials,
    data_settings,
    flag_of,
    given_cost_fraction,
    given_fidelity,
)
from autoprog.data.dataset import OpenedData
from autoprog.data.open_data import open_data
from autoprog.environment import optional_number_in
from autoprog.errors import ConfigError, suggest
from autoprog.files import FileModel, parse, read_yaml
from autoprog.options import given
from autoprog.presets import PRESETS, preset
from autoprog.recipe import RECIPES, Recipe, default_recipe_name, fitting_batch_size, resolve_recipe
from autoprog.schedule import GrowthSchedule, load_schedule
from autoprog.settings import DataSettings, RunSettings, SearchSettings
from autoprog.space import Decisions, SpaceFile, find_space
from autoprog.stage import FullModel, Grow, Sandwich
from autoprog.train.initial_weights import weights_of_file
from autoprog.train.model import find_model, short_named
from autoprog.train.run_length import steps_per_epoch_of
from autoprog.train.weights import run_of
from supernet.config import ModelSpec

__all__ = [
    "Configure",
    "Configured",
    "configure_search",
    "configure_train",
    "data_settings",
    "is_file",
    "recipe_of",
    "space_name",
]

EMBEDDED_PATCHES = 4
"""Side of the embedded digits in patches, for models made for larger images."""


@dataclass(frozen=True)
class Configured:
    """A run that is ready to start or to go on.

    ``schedule`` is None for a search, which finds its own; ``notices`` are warnings to begin with.
    """

    settings: RunSettings
    opened: OpenedData
    schedule: GrowthSchedule | None
    notices: tuple[str, ...] = ()


Configure = Callable[[argparse.Namespace], Configured]


def configure_search(args: argparse.Namespace) -> Configured:
    """Return the settings of a search.

    Raises:
        ConfigError: If anything given is unknown or refused.
    """
    data = data_settings(args)
    spec = _named_model(args)
    file, where = find_space(space_name(args, data, spec), spec.name)
    spec = spec if (size := _image_size(args, data, spec, file)) is None else _resized(spec, size)
    if (decisions := given(args, Decisions)) | (grow := given(args, Grow)):
        body = file.model_dump(by_alias=True)
        body["decisions"] |= decisions
        body["decisions"]["grow"] |= grow
        file = parse(SpaceFile, body, "flags")
    space = file.space(spec, where)
    # With --trials only these take a fraction of images and epochs, and the best schedule is trained on
    # all of them; without, the whole search is shortened to the fraction.
    proxy, whole = float(getattr(args, "proxy", 1.0)), hasattr(args, "trials")
    check_trials(args, whole)
    if whole and data.on_held_out:
        hint = "trials are evaluated on held-out images in any case"
        raise ConfigError("--held-out", "", "must be left out with --trials", hint=hint)
    if not whole:
        data = parse(
            DataSettings, {**data.model_dump(), "fraction": data.fraction * proxy}, "--proxy"
        )
    opened = open_data(data)
    data = data.model_copy(update={"white_level": opened.white_level})
    fraction = given_cost_fraction(args)
    # A run whose length is a time has no last epoch beforehand; wsd can decay from anywhere.
    of_space = {"sched": "wsd", **file.recipe} if fraction is not None else file.recipe
    # The recipe is that of the whole data set, however little of it is looked at.
    whole_images = round(len(opened.train) / (1.0 if whole else proxy))
    name, recipe = recipe_of(args, whole_images, data, (where, of_space))
    if hasattr(args, "pretrained") or hasattr(args, "initial_checkpoint"):
        space = space.at_full_depth()
    if not whole:
        short = {"epochs": recipe.epochs * proxy}
        recipe = parse(Recipe, {**recipe.model_dump(), **short}, "--proxy")
    recipe, notices = _with_fitting_batches(recipe, len(opened.train))
    search = {"space": space, "space_from": where, **given(args, SearchSettings)}
    if "storage" in search:
        search["storage"] = absolute_storage_url(search["storage"])
    if whole:
        search.setdefault("rule", "budget" if "budget_seconds" in search else "pareto")
    search["fidelity"], search["cost_fraction"] = given_fidelity(args), fraction
    settings = _settings(args, "search", spec, data, name, recipe, search=search)
    return Configured(settings, opened, None, notices)


def configure_train(args: argparse.Namespace) -> Configured:
    """Return the settings and the schedule of a training run.

    Raises:
        ConfigError: If anything given is unknown or refused.
    """
    data = data_settings(args)
    name = args.schedule
    schedule = None if name in PRESETS else load_schedule(name) if is_file(name) else None
    # Before the images, which may take long to open.
    spec = _model_of_schedule(args, data, schedule, name)
    opened = open_data(data)
    data = data.model_copy(update={"white_level": opened.white_level})
    recipe_name, recipe = recipe_of(args, len(opened.train), data, ("", {}))
    recipe, notices = _with_fitting_batches(recipe, len(opened.train))
    if schedule is None:
        schedule = preset(name, spec, recipe.epochs, recipe.strength, recipe.learning_rate)
    # Flags win over the schedule's learning rate, and the schedule over the recipe's length.
    if hasattr(args, "sched"):
        body = schedule.model_dump(by_alias=True)
        body["lr"]["shape"] = args.sched
        schedule = parse(GrowthSchedule, body, "--sched")
    values: dict[str, Any] = {"sched": schedule.lr.shape}
    own_epochs = schedule.own_epochs(steps_per_epoch_of(len(opened.train), recipe.batch_size))
    if not hasattr(args, "epochs") and own_epochs is not None:
        values["epochs"] = own_epochs
    recipe = parse(Recipe, {**recipe.model_dump(), **values}, name)
    # The image sizes that get position tables of their own.
    steps, kind = [stage.step for stage in schedule.stages], getattr(args, "pos_embed", "resampled")
    sizes = {size for s in steps if isinstance(s, Sandwich) for size in s.sandwich.sizes}
    if kind != "resampled" and not sizes:
        problem, hint = "must be resampled for a schedule without sandwich steps", "see --elastic"
        raise ConfigError("--pos-embed", "", problem, kind, hint)
    more = {
        "schedule_from": name,
        "table_sizes": () if kind == "resampled" else tuple(sorted(sizes)),
    }
    settings = _settings(args, "train", spec, data, recipe_name, recipe, **more)
    return Configured(settings, opened, schedule, notices)


def _with_fitting_batches(recipe: Recipe, num_images: int) -> tuple[Recipe, tuple[str, ...]]:
    """Lower the batch size where whole batches of it are no pass over so few images, and say so."""
    processes = optional_number_in("WORLD_SIZE", WorldSize, 1)
    # Each process takes an equal part; where images are mixed in pairs, an even one.
    parts = processes * (recipe.grad_accum_steps if processes > 1 else 1)
    multiple_of = math.lcm(parts, 2 * processes) if recipe.mixes else parts
    size = fitting_batch_size(recipe.batch_size, num_images, multiple_of)
    if size == recipe.batch_size:
        return recipe, ()
    fitted = recipe.model_copy(update={"batch_size": size})
    steps = max(1, round(num_images / size))
    passes = "one batch is" if steps == 1 else f"{steps} batches are"
    rate = f" (learning rate {fitted.peak_lr:.3g})" if fitted.peak_lr != recipe.peak_lr else ""
    text = f"batch size lowered from {recipe.batch_size} to {size}{rate}, so that {passes} one pass over the"
    return fitted, (f"{text} {num_images:,} images",)


def _settings(
    args: argparse.Namespace,
    kind: str,
    spec: ModelSpec,
    data: DataSettings,
    recipe_name: str,
    recipe: Recipe,
    **more: Any,
) -> RunSettings:
    values = {"kind": kind, "model": FullModel.of(spec), "data": data, "recipe": recipe}
    return parse(
        RunSettings,
        {**values, "recipe_name": recipe_name, **more, **given(args, RunSettings)},
        "flags",
    )


def _model_of_schedule(
    args: argparse.Namespace, data: DataSettings, schedule: GrowthSchedule | None, name: str
) -> ModelSpec:
    """Return the model that a schedule is for; a file names it, a preset needs --model."""
    if schedule is None:
        if name not in PRESETS:
            problem = "must be an existing YAML file or a preset"
            hint = suggest(name, PRESETS, list_all=False) or "see autoprog list presets"
            raise ConfigError("--schedule", "", problem, name, hint)
        spec = _named_model(args)
        size = _image_size(args, data, spec, None)
        return spec if size is None else _resized(spec, size)
    for flag, value in (("model", schedule.full.model), ("img_size", schedule.full.img_size)):
        own = getattr(args, flag, value)
        if own != value:
            problem = f"must be {value!r}, as {name} says, or be left out"
            raise ConfigError(flag_of(flag), "", problem, own)
    # A file may be from another version of timm, or from somebody else: its model is only built if it is
    # what timm makes of the name.
    spec = schedule.full.spec()
    built = _resized(find_model(schedule.full.model), schedule.full.img_size)
    sizes = ("depth", "patch_size", "embed_dim", "num_heads", "num_prefix_tokens", "outlook")
    for key in ("timm", *sizes):
        if getattr(spec, key) != getattr(built, key):
            problem = f"must be {getattr(built, key)!r}, as {schedule.full.model} has"
            own_key = {"patch_size": "stride"}.get(key, key)
            raise ConfigError(name, f"full.{own_key}", problem, getattr(spec, key))
    return built


# --------------------------------------------------------------------------------------------------
# Which space, model and image size.


def space_name(args: argparse.Namespace, data: DataSettings, spec: ModelSpec) -> str | None:
    """Return the search space given, or that of the embedded digits for them; None for the model's own."""
    return getattr(args, "space", None) or ("digits" if _is_demo(data, spec) else None)


def _image_size(
    args: argparse.Namespace, data: DataSettings, spec: ModelSpec, file: SpaceFile | None
) -> int | None:
    """Return the full image size where it is not the model's own: the digits need no 224 px."""
    if hasattr(args, "img_size"):
        return int(args.img_size)
    if not hasattr(args, "model"):
        return None  # that of the weights
    if file is not None and file.img_size is not None:
        return file.img_size
    return EMBEDDED_PATCHES * spec.patch_size if _is_demo(data, spec) else None


def _is_demo(data: DataSettings, spec: ModelSpec) -> bool:
    return data.embedded and spec.img_size > 2 * EMBEDDED_PATCHES * spec.patch_size


def _resized(spec: ModelSpec, img_size: int) -> ModelSpec:
    try:
        return spec.with_img_size(img_size)
    except ValueError as error:
        raise ConfigError("--img-size", "", str(error)) from None


def _named_model(args: argparse.Namespace) -> ModelSpec:
    """Return the model that ``--model`` names, or the one that given weights are for, at its image size."""
    if hasattr(args, "model"):
        return find_model(str(args.model))
    problem, hint = "must be given", "add --model deit-s, or any timm VisionTransformer or VOLO"
    if hasattr(args, "initial_checkpoint"):
        source = str(args.initial_checkpoint)
        run = run_of(Path(source))
        spec = weights_of_file(source).spec if run is None else run.manifest.settings.model.spec()
        if spec is not None:
            return short_named(spec)
        problem = f"must be given: {source} does not say what model it is for"
    raise ConfigError("--model", "", problem, hint=hint)


# --------------------------------------------------------------------------------------------------
# The recipe of a run: defaults, then the space, then the recipe file, then the flags.


_OF_IMAGES = {"batch_size", "smoothing", "aa", "scale", "ratio", "hflip", "color_jitter"}
"""What the default recipe takes from that of the embedded digits for these, which must not be mirrored."""


class RecipeFile(FileModel):
    """A recipe file: any of the recipe's keys, and which named recipe they are laid over."""

    schema_version: Literal[2] = Field(default=2, alias="schema")
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
        body = migration.recipe(read_yaml(Path(name)) or {})
        if not isinstance(body, Mapping):
            raise ConfigError(name, "", "must be a mapping of keys to values", body)
        about = ("base", "schema")
        base = parse(RecipeFile, {k: v for k, v in body.items() if k in about}, name).base
        if base is not None and base not in RECIPES:
            raise ConfigError(name, "base", "unknown recipe", base, suggest(base, RECIPES))
        layers.append((name, {k: v for k, v in body.items() if k not in about}))
        name = base
    if name is None:
        has_weights = hasattr(args, "pretrained") or hasattr(args, "initial_checkpoint")
        name = default_recipe_name(num_images, data.embedded, has_weights)
        if data.embedded:
            of_digits = RECIPES["digits"].model_dump(include=_OF_IMAGES)
            layers.insert(0, ("digits", of_digits))
    layers.append(("flags", given(args, Recipe)))
    return name, resolve_recipe(name, *layers)


def is_file(name: str) -> bool:
    """Return whether a word on the command line means a file."""
    return name.endswith((".yaml", ".yml")) or os.path.isfile(name)
