"""Starter files of a search space, a recipe or a schedule: keys with values and what they mean, as YAML."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Any, get_args

from autoprog.files import dump_yaml
from autoprog.options import Option
from autoprog.presets import preset, summary_of
from autoprog.recipe import RECIPES, Recipe, defaults_text, resolve_recipe
from autoprog.schedule import GrowthSchedule
from autoprog.space import Axes, Decisions, SpaceFile, find_space
from supernet.config import ModelSpec

__all__ = [
    "KINDS",
    "decision_meanings",
    "modeline",
    "natural_recipe",
    "recipe_starter",
    "schedule_starter",
    "schema_of",
    "schema_text",
    "space_starter",
]


KINDS = ("space", "schedule", "recipe")
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema_of(kind: str) -> dict[str, Any]:
    """Return the JSON Schema of a kind of file, by which editors complete and check it.

    It says which keys there are and which values each takes; what holds between keys is checked when the file
    is read.
    """
    if kind == "schedule":
        body = GrowthSchedule.model_json_schema()
    elif kind == "space":
        body = SpaceFile.model_json_schema()
        body["$defs"]["Recipe"] = Recipe.model_json_schema()
        body["properties"]["recipe"] = {"$ref": "#/$defs/Recipe"}
        properties = body["$defs"]["Decisions"]["properties"]
        for key, meaning in decision_meanings().items():
            properties[key]["description"] = meaning
    else:
        body = Recipe.model_json_schema()
        meaning = "recipe whose values the keys of this file replace"
        base = {"enum": [*RECIPES, None], "default": None, "description": meaning}
        schema = {"const": 2, "default": 2, "description": "version of the file format"}
        body["properties"] = {"schema": schema, "base": base, **body["properties"]}
        body["type"] = ["object", "null"]  # a file in which all is commented out is valid, too
    return {"$schema": _DIALECT, **body, "title": f"autoprog {kind}"}


def schema_text(kind: str) -> str:
    """Return the JSON Schema as the text of a file."""
    return json.dumps(schema_of(kind), indent=1) + "\n"


def modeline(path: str) -> str:
    """Return the comment by which YAML language servers find a file's schema."""
    return f"# yaml-language-server: $schema={path}\n"


def decision_meanings() -> dict[str, str]:
    """Return what each number of a space's decisions means, as its flag says it if it has one."""
    meanings = {}
    for key, field in Decisions.model_fields.items():
        options = [one.help for one in field.metadata if isinstance(one, Option)]
        meaning = options[0] if options else field.description
        if meaning is not None:  # the growth rule says itself what it is
            meanings[key] = meaning
    return meanings


# From this full size on a starter recipe is DeiT's; smaller images come in smaller data sets.
_LARGE_IMAGES_PX = 64

_INITS = get_args(get_args(Axes.model_fields["init"].annotation)[0])

# What a space may have beside its depths, sizes and keep-rates.
_OPTIONAL_AXES = {
    "randaug: {values: [0.5, 1.0]}": "multiples of the recipe's magnitude, ending at 1",
    "drop_path: {values: [0.0, 1.0]}": "multiples of the recipe's drop-path rate",
    "batch_scale: {values: [2.0, 1.0]}": "multiples of the recipe's batch size",
    "placement: [interpolate, stack]": "where new blocks go",
    f"init: [{', '.join(_INITS)}]": "what new blocks start from",
    "lr: [cosine, wsd]": "shape of the learning rate",
}


def space_starter(spec: ModelSpec, output: str) -> str:
    """Return the space that `spec` has, or the default one, as commented YAML.

    Args:
        spec: The full model, of its own image size.
        output: The file name that the commands in the comments give.
    """
    file, where = find_space(None, spec.name)
    space = file.space(spec, where)
    depths, sizes = ([*values] for values in (map(sum, space.depths), space.sizes))
    lines = [
        f"# What a search of {spec.name} may choose from. Try it:",
        f"#   autoprog search --model {spec.name} --space {output} --data DIR",
        "schema: 2",
        f"model: {spec.name}",
        f"img_size: {spec.img_size}    # full image size, in px",
        "axes:    # rising; the last of each is the full model",
        f"  depth: {{values: {depths}}}    # blocks of all stages",
        f"  img_size: {{values: {sizes}}}    # px, multiples of the stride {spec.patch_size}",
    ]
    if not spec.needs_grid:
        lines += [
            "  # Fractions of patch tokens that are kept, ending at 1, such as [0.6, 0.8, 1.0]:"
        ]
        lines += ["  keep_rate: {values: [1.0], by: magnitude}"]
    lines += [
        "  # Only real trainings (--trials) show what these are worth; take away the # to search them:",
        *(f"  # {axis:<36}# {meaning}" for axis, meaning in _OPTIONAL_AXES.items()),
        "decisions:",
    ]
    values = file.decisions.model_dump(mode="json")
    lines += [f"  {key}: {values[key]}    # {says}" for key, says in decision_meanings().items()]
    grow = ", ".join(f"{key}: {value}" for key, value in values["grow"].items())
    lines += [f"  grow: {{{grow}}}    # how blocks are added"]
    lines += ["recipe: {}    # any keys of a recipe that suit the space; see autoprog init recipe"]
    return "\n".join(lines) + "\n"


def natural_recipe(spec: ModelSpec) -> str:
    """Return the recipe that suits the images of `spec`: of small ones ``small-data``, else ``deit``."""
    return "deit" if spec.img_size >= _LARGE_IMAGES_PX else "small-data"


def recipe_starter(spec: ModelSpec, output: str) -> str:
    """Return every key of a recipe as YAML, commented out, so that the file as it is changes nothing.

    Args:
        spec: The full model, whose natural recipe the values are from.
        output: The file name that the commands in the comments give.
    """
    base = natural_recipe(spec)
    values = RECIPES[base].model_dump(mode="json")
    lines = [
        f"# How {spec.name} is trained. As it is, this file changes nothing: remove the # before a key.",
        f"# Values are those of the recipe {base}, in brackets where others differ. Each key is a flag too,",
        "# which wins over the file. Try it:",
        f"#   autoprog train --schedule constant --model {spec.name} --recipe {output} --data DIR",
        "schema: 2",
        f"# base: {base}    # the recipe that the other keys are from (by the number of training images)",
    ]
    for key, field in Recipe.model_fields.items():
        line = dump_yaml({key: values[key]}).rstrip()
        _, *others = defaults_text(key, first=base).split("; ")
        elsewhere = f" ({'; '.join(others)})" if others else ""
        lines.append(f"# {line}    # {field.description}{elsewhere}")
    return "\n".join(lines) + "\n"


# What the keys of a schedule mean.
_OF_SCHEDULE = {
    "full": "the model at its full size, which the last stage ends at",
    "length_unit": "what lengths count in: epochs, steps, fraction, compute_fraction or budget_fraction",
    "lr": "shape: cosine, wsd or constant; clock: epochs or compute",
    "monotone": "false where depth, size or keep-rate may fall",
    "end": "free where the last stage need not train the whole model on all tokens",
    "stages": "one after the other",
}

# What the keys of a stage mean; a comment says so where each comes first.
_OF_STAGE = {
    "length": "that of the last stage may be 'rest'",
    "depth": "blocks; of a VOLO outlookers and transformers",
    "img_size": "px, a multiple of the stride",
    "ramp": "linear or exponential",
    "every_epochs": "length of a level of the ramp",
    "tokens": "which patch tokens train",
    "curve": "cyclic: up and down in each period; linear or cosine: once over the stage",
    "drop": "the fraction of tokens that is dropped, from and to",
    "quantum": "fractions are rounded to it",
    "by": "magnitude, l2_magnitude, random or class_attention",
    "at_blocks": "blocks that drop tokens",
    "grow": "how new blocks are filled",
    "curriculum": "regularisation; a key left out has the recipe's value",
    "shrink_by": "resize, or fourier: the low frequencies of full-size images",
    "trainable": "blocks whose number modulo every is below level",
    "sandwich": "four subnets a step, of these sizes and keep-rates",
}

# What a stage may have beside its length, depth and size; img_size also takes a ramp.
_OPTIONAL_OF_STAGE = {
    "tokens": "{keep_rate: 0.6, by: magnitude}    # fraction of patch tokens that are kept",
    "grow": "{init: ema, placement: interpolate, old_blocks: keep, optimizer_state: copy}",
    "curriculum": "{randaug: 4, drop_path: 0.0, reprob: 0.0, mixup: 0.2, cutmix: 0.5}",
    "shrink_by": "fourier    # the low frequencies of full-size images instead of smaller images",
    "batch_scale": "2    # multiple of the recipe's batch size",
    "lr_scale": "1.4    # multiple of the learning rate (the square root of batch_scale)",
    "trainable": "{every: 4, level: 2}    # blocks 0, 1, 4, 5, 8, … alone",
}

_PART_OF = {
    "fraction": "of the run",
    "compute_fraction": "of the compute",
    "budget_fraction": "of the time budget",
}


def schedule_starter(
    name: str, spec: ModelSpec, epochs: float | None, recipe_name: str | None, output: str
) -> str:
    """Return a preset as a commented schedule file that trains the same steps.

    Args:
        name: The preset.
        spec: The full model.
        epochs: Length of the run; None takes the recipe's.
        recipe_name: The recipe whose regularisation a stage may scale; None takes the natural one of `spec`.
        output: The file name that the commands in the comments give.

    Raises:
        ConfigError: If there is no such preset or recipe, or the model cannot be trained that way.
    """
    recipe_name = recipe_name or natural_recipe(spec)
    recipe = resolve_recipe(recipe_name)
    epochs = recipe.epochs if epochs is None else epochs
    schedule = preset(name, spec, epochs, recipe.strength, recipe.learning_rate)
    flags = f" --epochs {epochs:g}" if schedule.length_unit in _PART_OF else ""
    budget = " --time-budget 24h" if schedule.length_unit == "budget_fraction" else ""
    lines = [
        f"# {summary_of(name)}",
        f"# {name} for {spec.name} over {epochs:g} epochs, strengths of the recipe {recipe_name}. Try it:",
        f"#   autoprog show {output}{flags}",
        f"#   autoprog train --schedule {output} --recipe {recipe_name} --data DIR{flags}{budget}",
        *_annotated(schedule),
        "# A stage may also have, and img_size may be {ramp: linear, from: 128, to: 192, every_epochs: 5}:",
        *(
            f"#   {key}: {value}"
            for key, value in _OPTIONAL_OF_STAGE.items()
            if not (key == "tokens" and spec.needs_grid)
        ),
    ]
    return "\n".join(lines) + "\n"


def _annotated(schedule: GrowthSchedule) -> Iterator[str]:
    """Yield the lines of a schedule file, with what its keys mean and where each stage lies."""
    explained: set[str] = set()
    where = iter(_stage_places(schedule))
    # Line by line over the text of the YAML, since PyYAML writes no comments.
    in_stages = False
    for line in dump_yaml(_body(schedule)).splitlines():
        match = re.match(r"(?P<indent>[- ]*)(?P<key>\w+):", line)
        assert match is not None, line
        key = match["key"]
        if line.startswith("- "):
            yield f"# {next(where)}"
        at_top = not match["indent"]
        meaning = _OF_STAGE.get(key) if in_stages else _OF_SCHEDULE.get(key) if at_top else None
        yield line if meaning is None or key in explained else f"{line}    # {meaning}"
        explained.update({key} if at_top or in_stages else ())
        in_stages = in_stages or line == "stages:"


def _body(schedule: GrowthSchedule) -> dict[str, Any]:
    """Return what a file of the schedule holds: of a stage what it says, with all keys of that."""
    given = schedule.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    whole = schedule.model_dump(mode="json", by_alias=True, exclude_none=True)
    stages = [
        {key: _whole_numbers(value) for key, value in all_of_it.items() if key in said}
        for said, all_of_it in zip(given["stages"], whole["stages"], strict=True)
    ]
    return {
        "schema": whole["schema"],
        "full": given["full"],
        **{key: whole[key] for key in ("length_unit", "lr", "monotone", "end")},
        "stages": stages,
    }


def _whole_numbers(value: Any) -> Any:
    """Return the value with 25 for 25.0, as a person writes it."""
    if isinstance(value, dict):
        return {key: _whole_numbers(one) for key, one in value.items()}
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _stage_places(schedule: GrowthSchedule) -> Iterator[str]:
    """Yield where each stage lies in the run."""
    lengths = [stage.length for stage in schedule.stages]
    ends = list(accumulate(float(length) for length in lengths))
    for number, (start, stop) in enumerate(pairwise([0.0, *ends]), 1):
        whole = _PART_OF.get(schedule.length_unit)
        place = (
            f"{schedule.length_unit} {start:g} to {stop:g}"
            if whole is None
            else f"{100 * start:.3g} to {100 * stop:.3g} % {whole}"
        )
        yield f"stage {number} of {len(lengths)}: {place}"
