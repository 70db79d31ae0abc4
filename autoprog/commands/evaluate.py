"""``autoprog evaluate``: accuracy, speed and compute of weights over image sizes and keep-rates."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoprog.bounds import BatchSize, CropPct, FewOrNone, FewValues, PositiveFraction, Px, range_of
from autoprog.commands.configure import recipe_of
from autoprog.commands.flags import (
    add_data_flags,
    add_device_flags,
    add_model_flags,
    add_token_flags,
    add_weights_flags,
    data_settings,
    flag_of,
)
from autoprog.commands.resume import check_data_asks
from autoprog.data.dataset import OpenedData
from autoprog.data.opening import labelled_as, open_data, open_evaluated_folder
from autoprog.errors import ConfigError
from autoprog.evaluation_grid import cells_of
from autoprog.files import parse
from autoprog.options import given
from autoprog.presets import pruning_places, size_on_grid
from autoprog.printable import say
from autoprog.recipe import Recipe
from autoprog.runs import Run
from autoprog.schedule import GrowthSchedule
from autoprog.settings import DataSettings, RunSettings
from autoprog.stage import FullModel, Sandwich, SandwichSizes, Tokens, nearest_multiples
from autoprog.train.model import find_model, short_named
from autoprog.train.weights import WeightsFile, read_weights, run_of, with_tables
from supernet.config import ModelSpec, SubnetConfig

__all__ = [
    "Elastic",
    "Evaluation",
    "add_flags",
    "check_rate",
    "check_size",
    "configure_evaluation",
    "elastic_of",
    "run",
    "target_of",
    "tokens_of",
]

_BATCH_SIZE = 256
_BATCH_PIXELS = 256 * 256**2
"""Of a batch whose size nobody gave: weights may describe a network for images of any size."""
_RATES = (1.0, 0.8, 0.6, 0.4, 0.2)
"""Of a grid over weights that no run has made elastic."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what to evaluate, at which sizes and keep-rates, on which images."""
    parser.epilog = (
        "examples:\n"
        "  autoprog evaluate runs/…\n"
        "  autoprog evaluate runs/… --keep-rates 1 .8 .6 .4 .2\n"
        "  autoprog evaluate runs/… --grid --json\n"
        "  autoprog evaluate deit-s.pth --model deit-s --data DIR --img-sizes 160 192 224\n"
    )
    parser.add_argument(
        "target",
        metavar="RUN|FILE",
        help="a finished run (last: the newest), a checkpoint in one, a folder of export --format hf, or"
        " weights: .safetensors, .pth",
    )
    group = parser.add_argument_group(
        "sizes and keep-rates",
        "every size at every keep-rate; by default the full size on all tokens",
    )
    add_weights_flags(group)
    group.add_argument(
        "--img-sizes",
        type=range_of(Px),
        nargs="+",
        action=FewValues,
        metavar="PX",
        help="image sizes",
    )
    group.add_argument(
        "--keep-rates",
        type=range_of(PositiveFraction),
        nargs="+",
        action=FewValues,
        metavar="K",
        help="fractions of tokens to keep",
    )
    group.add_argument(
        "--grid",
        action="store_true",
        help="fill in the sizes or keep-rates that are not given: those that the run trained",
    )
    add_token_flags(group)
    group = parser.add_argument_group("weights of a file", "a run says all of this itself")
    add_model_flags(group, "deit-s, vit-xs, a timm ViT …")
    group.add_argument(
        "--recipe",
        default=argparse.SUPPRESS,
        metavar="NAME|FILE",
        help="says how validation images are prepared; by default chosen by the number of images",
    )
    add_data_flags(parser, trains=False)
    group = parser.add_argument_group("evaluation")
    group.add_argument(
        "--batch-size",
        type=range_of(BatchSize),
        default=argparse.SUPPRESS,
        metavar="N",
        help="images a batch (default: up to 256)",
    )
    group.add_argument(
        "--crop-pct",
        type=range_of(CropPct),
        default=argparse.SUPPRESS,
        metavar="N",
        help="centre crop (default: the recipe's)",
    )
    group.add_argument(
        "--interpolation",
        choices=["bilinear", "bicubic"],
        default=argparse.SUPPRESS,
        help="resize filter (default: the recipe's)",
    )
    group.add_argument(
        "--rounds",
        type=range_of(FewOrNone),
        default=5,
        metavar="N",
        help="timed rounds, 0 for no speed (default: 5)",
    )
    add_device_flags(group)
    group.add_argument("--json", action="store_true", dest="as_json", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    from autoprog.commands.run_words import named_run
    from autoprog.console import Console
    from autoprog.train.grid import evaluate_grid
    from autoprog.ui.evaluation import grid_section
    from autoprog.ui.live import PartsBar
    from autoprog.ui.render_rich import print_sections
    from autoprog.ui.section import document

    # A word that is neither a file nor a folder of an export can only mean a run.
    is_exported = os.path.lexists(Path(args.target) / "model.safetensors")
    is_run = os.path.isdir(args.target) or not os.path.lexists(args.target)
    if is_run and not is_exported:
        args.target = str(named_run(args.target))
    found = configure_evaluation(args)
    for note in found.notes:
        say(f"autoprog: {note}", file=sys.stderr)
    with PartsBar(Console(stderr=True)) as bar:
        grid = evaluate_grid(
            found.settings, found.opened, found.file, found.subnets, args.rounds, bar.update
        )
    console, sections = Console(highlight=False), [grid_section(grid)]
    if args.as_json:
        console.out(json.dumps(document(sections), indent=1, allow_nan=False), highlight=False)
    else:
        print_sections(console, sections, plain=not console.is_terminal)
    return 0


# --------------------------------------------------------------------------------------------------
# From the flags to weights, images, and the sizes and keep-rates to try; :mod:`export` uses parts of it.


@dataclass(frozen=True)
class Evaluation:
    """What is ready to be evaluated; ``notes`` say in words what was decided meanwhile."""

    settings: RunSettings
    opened: OpenedData
    file: WeightsFile
    subnets: tuple[SubnetConfig, ...]
    notes: tuple[str, ...]


def configure_evaluation(args: argparse.Namespace) -> Evaluation:
    """Return what to evaluate: the weights of a run, under its settings, or those of a file.

    Raises:
        ConfigError: If anything given is unknown or refused.
    """
    target, averaged = target_of(args.target, args.checkpoint, args.weights), args.weights == "ema"
    file = read_weights(target, averaged)
    run = run_of(target)
    if run is None:
        settings, opened, notes = _of_file(args, file)
        elastic = Elastic()
    else:
        settings, opened, notes = _of_run(args, run, file)
        elastic = elastic_of(run.best or run.schedule)
    notes = [*([file.taken] if file.taken else []), *notes]
    # Only now, since the images of a file's weights are those of the flags.
    opened, note = _labelled(settings, opened, file)
    subnets = tuple(_subnets(args, settings, elastic))
    return Evaluation(settings, opened, with_tables(file), subnets, (*notes, *filter(None, [note])))


def target_of(target: str, checkpoint: str, weights: str) -> Path:
    """Return the weights that are named: a target itself, or of a run those of a checkpoint.

    Raises:
        ConfigError: If a run has no such checkpoint.
    """
    path = Path(target)
    if checkpoint == "final":
        return path
    if checkpoint == "best" and weights != "ema":
        hint = "leave out --weights"
        raise ConfigError(
            "--checkpoint", "", "must be final or last for online weights", checkpoint, hint
        )
    file = path / "checkpoints" / {"best": "best.safetensors", "last": "last.pt"}[checkpoint]
    if not file.is_file():
        problem = f"must go with a run that has {file.name}"
        raise ConfigError(
            "--checkpoint", "", problem, checkpoint, "leave it out for the final weights"
        )
    return file


def _labelled(
    settings: RunSettings, opened: OpenedData, file: WeightsFile
) -> tuple[OpenedData, str]:
    """Return data whose class numbers are those of the weights' outputs, as far as names say it.

    Raises:
        ConfigError: If the weights do not know a class, or have another number of outputs.
    """
    data, head = settings.data, file.state.get("head.weight")
    where = "--dataset" if data.dataset is not None else "--data"
    own = opened.val.class_names
    if file.class_names is not None and data.has_names(own):
        return labelled_as(opened, file.class_names, where)
    if head is not None and head.ndim > 0 and len(head) != len(own):
        problem = f"must have as many classes as the weights have outputs, {len(head)}"
        raise ConfigError(where, "", problem, len(own))
    who = "the weights name no" if file.class_names is None else "the data name no"
    note = f"{who} classes: outputs are taken in the order of the images' {own[0]!r} … {own[-1]!r}"
    return opened, note


def _of_run(
    args: argparse.Namespace, run: Run, file: WeightsFile
) -> tuple[RunSettings, OpenedData, list[str]]:
    recorded = run.manifest.settings
    for name in ("model", "img_size", "recipe"):
        if hasattr(args, name):
            problem = "must be left out: the run says it"
            raise ConfigError(flag_of(name), "", problem, getattr(args, name))
    data = data_settings(args)
    data, opened, note = _data_of_run(data, run)
    model = recorded.model if file.spec is None else FullModel.of(short_named(file.spec))
    values = {**recorded.model_dump(), "data": data, "recipe": recorded.recipe, "model": model}
    return _settings(args, values), opened, [note] if note else []


def _data_of_run(data: DataSettings, run: Run) -> tuple[DataSettings, OpenedData, str]:
    """Return what to evaluate a run on, and what is to be said of it.

    Of a data set without a val part most images have been trained on, so those that the run held out are
    found again, by their digest wherever they lie.
    """
    recorded = run.manifest.settings.data
    if data.embedded:
        check_data_asks(recorded, run.path)
        return recorded, _opened(recorded), ""
    if data.white_level is None:
        data = data.model_copy(update={"white_level": recorded.white_level})
    if recorded.val_fraction is None:
        return data, _opened(data), ""
    held_out = None if run.manifest.data is None else run.manifest.data.digests.get("val")
    known = ("val_fraction", "val_seed", "class_folders", "fraction", "on_held_out")
    again = data.model_copy(update={key: getattr(recorded, key) for key in known})
    if data.val_fraction is None:
        # The same images elsewhere: found by their digest, if they are split as the run split them.
        with suppress(ConfigError):  # it has a val part, or is another data set
            opened = open_data(again)
            if opened.digests["val"] == held_out:
                return again, opened, ""
    opened = _opened(data)
    if opened.digests["val"] == held_out:
        return data, opened, ""
    note = f"these are not the {recorded.val_fraction:g} of its images that the run held out;"
    return data, opened, f"{note} it may have been trained on some"


def _of_file(
    args: argparse.Namespace, file: WeightsFile
) -> tuple[RunSettings, OpenedData, list[str]]:
    """Return settings for weights of a file; where it says how images are prepared, they are so."""
    if hasattr(args, "model"):
        spec = find_model(args.model, getattr(args, "img_size", None))
    elif file.spec is not None:
        spec = short_named(file.spec)
    else:
        problem = f"must be given: {file.path} does not say what model it is for"
        if file.refused:
            problem = (
                f"must be given: {file.path} names no model that can be built ({file.refused})"
            )
        raise ConfigError("--model", "", problem, hint="add --model deit-s, or any timm model")
    data = data_settings(args)
    opened, notes = _opened(data), []
    name, recipe = recipe_of(args, len(opened.train), data, ("", {}))
    if file.images is not None and not hasattr(args, "recipe"):
        own = {key: file.images[key] for key in ("crop_pct", "interpolation") if key in file.images}
        recipe = parse(Recipe, {**recipe.model_dump(), **own}, str(file.path))
    elif not hasattr(args, "recipe"):
        crop = getattr(args, "crop_pct", recipe.crop_pct)
        notes = [f"the weights do not say how images are prepared: crop {crop:g}, as in {name!r}"]
    values = {"kind": "train", "model": FullModel.of(spec), "data": data, "recipe": recipe}
    return _settings(args, {**values, "recipe_name": name}), opened, notes


def _opened(data: DataSettings) -> OpenedData:
    """Open data to evaluate on; a folder needs no training part."""
    if data.dir is not None and data.val_fraction is None:
        found = open_evaluated_folder(Path(data.dir), data.class_folders, data.white_level)
        if found is not None:
            return found
    return open_data(data)


def _settings(args: argparse.Namespace, values: dict[str, Any]) -> RunSettings:
    """Lay the flags over settings; images come as they are, without a cache of decoded ones."""
    recipe: Recipe = values["recipe"]
    # Sizes up to 256 px fit in batches of 256; above, the pixels of a batch stay the same.
    few = max(1, _BATCH_PIXELS // values["model"].img_size ** 2)
    fitting = {"batch_size": min(_BATCH_SIZE, recipe.batch_size, few)}
    recipe = parse(Recipe, {**recipe.model_dump(), **fitting, **given(args, Recipe)}, "flags")
    values |= {"recipe": recipe, "cache": None, **given(args, RunSettings)}
    return parse(RunSettings, values, "flags")


def _subnets(
    args: argparse.Namespace, settings: RunSettings, elastic: Elastic
) -> list[SubnetConfig]:
    """Return every size under every keep-rate; ``--grid`` fills in the axis that is not given."""
    spec = settings.model.spec()
    sizes, rates = [spec.img_size], [1.0]
    if args.grid and elastic.sandwich is not None:  # what the run has trained
        sizes = [*elastic.sandwich.sizes, spec.img_size]
        rates = [*elastic.sandwich.keep_rates, 1.0]
    elif args.grid:
        sizes = [size_on_grid(spec, side / 14) for side in (8, 10, 12, 14)]
        rates = list(_RATES) if len(spec.depth) == 1 else rates
    sizes, rates = args.img_sizes or sizes, args.keep_rates or rates
    for size in sizes:
        check_size(size, spec, "--img-sizes")
    tokens = tokens_of(args.by, args.at_blocks, spec, elastic)
    for rate in rates:
        check_rate(rate, tokens, spec, "--keep-rates")
    return cells_of(spec.full, sizes, [tokens.rule(rate) for rate in rates])


# --------------------------------------------------------------------------------------------------
# Sizes and keep-rates: what a run has trained for, and what its model can do.


@dataclass(frozen=True)
class Elastic:
    """How a run dropped tokens, and the sizes and keep-rates of its sandwich steps."""

    tokens: Tokens = field(default_factory=Tokens)
    sandwich: SandwichSizes | None = None


def elastic_of(schedule: GrowthSchedule | None) -> Elastic:
    """Return how the last stage that dropped tokens did it."""
    for stage in reversed(schedule.stages if schedule else ()):
        if isinstance(stage.step, Sandwich):
            return Elastic(stage.tokens, stage.step.sandwich)
        if stage.tokens != Tokens():
            return Elastic(stage.tokens)
    return Elastic()


def tokens_of(
    by: str | None, at_blocks: Sequence[int] | None, spec: ModelSpec, elastic: Elastic
) -> Tokens:
    """Return how tokens are chosen, and where: as in training, unless `by` or `at_blocks` say otherwise.

    Raises:
        ConfigError: If the blocks do not rise.
    """
    trained = elastic.tokens
    chosen = by or trained.by
    usual = pruning_places(spec) if chosen == "class_attention" else (0,)
    places = at_blocks or (trained.at_blocks if chosen == trained.by else usual)
    try:
        return Tokens.model_validate({"by": chosen, "at_blocks": places, "keep_rate": 0.5})
    except ValueError:
        problem = "must be rising numbers from 0"
        raise ConfigError("--at-blocks", "", problem, list(places)) from None


def check_size(size: int, spec: ModelSpec, flag: str) -> None:
    """Refuse an image size that a model cannot run.

    Raises:
        ConfigError: If the stride does not divide it, or it is above the full size.
    """
    if size % spec.patch_size or size < spec.patch_size:
        low, high = nearest_multiples(size, spec.patch_size)
        problem = f"must be a multiple of the stride {spec.patch_size}"
        raise ConfigError(flag, "", problem, size, f"nearest are {low} and {high}")
    if size > spec.img_size:
        raise ConfigError(flag, "", f"must be at most the full size {spec.img_size}", size)


def check_rate(rate: float, tokens: Tokens, spec: ModelSpec, flag: str) -> None:
    """Refuse a keep-rate that a model cannot run by this choice of tokens.

    Raises:
        ConfigError: If it is no fraction, or the model lacks the blocks, the class token or the freedom.
    """
    if not 0 < rate <= 1:
        raise ConfigError(flag, "", "must lie in (0, 1]", rate)
    if rate == 1:
        return
    if spec.needs_grid:
        problem = f"must be 1: {spec.name} needs the whole grid of tokens"
        raise ConfigError(flag, "", problem, rate)
    if tokens.by == "class_attention" and not spec.class_token:
        problem = f"must be magnitude, l2_magnitude or random: {spec.name} has no class token"
        raise ConfigError("--by", "", problem, tokens.by)
    if tokens.at_blocks[-1] >= spec.full.total_depth:
        problem = f"must be below the depth {spec.full.total_depth}"
        raise ConfigError("--at-blocks", "", problem, tokens.at_blocks[-1])
