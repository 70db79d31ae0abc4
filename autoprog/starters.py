"""Starter files: every key of a search space or a recipe with its value and what it means, as YAML."""

from __future__ import annotations

from autoprog.files import dump_yaml
from autoprog.recipe import RECIPES, Recipe
from autoprog.space import Decisions, find_space
from supernet.config import ModelSpec

__all__ = ["DECISIONS", "recipe_starter", "space_starter"]

_LARGE_IMAGES_PX = 64
"""From this full size on a starter recipe is DeiT's; smaller images come in smaller data sets."""

DECISIONS = {
    "num_stages": "stages of --rule autoprog",
    "supernet_epochs": "length of a supernet phase of --rule autoprog, in epochs",
    "num_points": "decision points of the other rules",
    "supernet_share": "share of the run that their supernet phases take, all together",
    "min_visits": "steps that a supernet phase gives each subnet at the least",
    "good_visits": "steps after which its estimates are worth something; short runs decide less often",
    "search_share": "the most that estimates may cost, as a share of a run of the full model",
    "max_candidates": "the most subnets that are estimated at a decision",
    "min_full_share": "the least share of the run that the full model trains for",
    "estimate_images": "the most images of the held-out slice",
    "tail_trials": "schedules that Optuna proposes at a decision",
}

_OPTIONAL_AXES = """\
  # Only real trainings (--trials) can tell what these are worth; take away the # to search them:
  # randaug: {values: [0.5, 1.0]}       # multiples of the recipe's magnitude, ending at 1
  # drop_path: {values: [0.0, 1.0]}     # multiples of the recipe's drop-path rate
  # batch_scale: {values: [2.0, 1.0]}   # multiples of the recipe's batch size
  # map: [interpolate, stack]           # where new blocks go
  # grow: [mogrow, copy, zero]          # what new blocks start from
  # lr: [cosine, wsd]                   # shape of the learning rate
"""


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
        "schema: 1",
        f"model: {spec.name}",
        f"img_size: {spec.img_size}    # full image size, in px",
        "axes:    # rising; the last of each is the full model",
        f"  depth: {{values: {depths}}}    # blocks of all stages",
        f"  img_size: {{values: {sizes}}}    # px, multiples of the stride {spec.patch_size}",
    ]
    if not spec.needs_grid:
        lines += ["  # Shares of patch tokens that are kept, ending at 1, such as [0.6, 0.8, 1.0]:"]
        lines += ["  keep_rate: {values: [1.0], by: magnitude}"]
    lines += [_OPTIONAL_AXES.rstrip(), "decisions:"]
    lines += _decisions(file.decisions)
    lines += ["recipe: {}    # any keys of a recipe that suit the space; see autoprog init recipe"]
    return "\n".join(lines) + "\n"


def _decisions(decisions: Decisions) -> list[str]:
    values = decisions.model_dump(mode="json")
    lines = [f"  {key}: {values[key]}    # {meaning}" for key, meaning in DECISIONS.items()]
    grow = ", ".join(f"{key}: {value}" for key, value in values["grow"].items())
    return [*lines, f"  grow: {{{grow}}}    # how blocks are added"]


def recipe_starter(spec: ModelSpec, output: str) -> str:
    """Return the recipe that suits the images of `spec`, every key of it, as commented YAML.

    Args:
        spec: The full model; of small images get ``small-data``, others ``deit``.
        output: The file name that the commands in the comments give.
    """
    base = "deit" if spec.img_size >= _LARGE_IMAGES_PX else "small-data"
    values = RECIPES[base].model_dump(mode="json")
    lines = [
        f"# How {spec.name} is trained. Each key is a flag too, which wins over it. Try it:",
        f"#   autoprog train --schedule constant --model {spec.name} --recipe {output} --data DIR",
        f"base: {base}    # keys that you leave out are those of this recipe",
    ]
    for key, field in Recipe.model_fields.items():
        line = dump_yaml({key: values[key]}).rstrip()
        lines.append(f"{line}    # {field.description}")
    return "\n".join(lines) + "\n"
