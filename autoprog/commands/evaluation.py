"""From the flags of ``autoprog evaluate`` to weights, images and the cells to try them in."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprog.commands.cells import Elastic, check_rate, check_size, elastic_of, tokens_of
from autoprog.commands.data_flags import data_settings
from autoprog.commands.recipe_layers import recipe_of
from autoprog.errors import ConfigError
from autoprog.files import parse
from autoprog.grid import cells_of
from autoprog.ramps import size_on_grid
from autoprog.runs import Run, load_run
from autoprog.settings import RunSettings
from autoprog.stage import FullModel
from autoprog.train.data import OpenedData
from autoprog.train.feed import open_data
from autoprog.train.model import find_model
from autoprog.train.weights import WeightsFile, read_weights, with_tables
from supernet.config import ModelSpec, SubnetConfig

__all__ = ["Evaluation", "configure_evaluation", "finished_run", "weights_of_run"]

_BATCH_SIZE = 256
_RATES = (1.0, 0.8, 0.6, 0.4, 0.2)
"""Of a grid over weights that no run has made elastic."""


@dataclass(frozen=True)
class Evaluation:
    """What is ready to be evaluated."""

    settings: RunSettings
    opened: OpenedData
    file: WeightsFile
    subnets: tuple[SubnetConfig, ...]


def configure_evaluation(args: argparse.Namespace) -> Evaluation:
    """Return what to evaluate: the weights of a finished run, under its settings, or those of a file.

    Raises:
        ConfigError: If anything given is unknown or breaks a law.
    """
    target, averaged = Path(args.target), args.weights == "ema"
    if target.is_dir():
        run = finished_run(target)
        settings, opened = _of_run(args, run)
        file = with_tables(read_weights(weights_of_run(run, args.weights, args.best), averaged))
        elastic = elastic_of(run.best or run.schedule)
    else:
        if args.best:
            raise ConfigError("--best", "", "must go with a run, which kept its best weights")
        file = read_weights(target, averaged)
        settings, opened = _of_file(args, file)
        elastic = Elastic()
    return Evaluation(settings, opened, file, tuple(_subnets(args, settings, elastic)))


def finished_run(path: Path) -> Run:
    """Return a run that has its final weights.

    Raises:
        ConfigError: If it is none, or unfinished.
    """
    run = load_run(path)
    if run.result is None:
        law, cure = "must be a finished run", "go on with --resume first"
        raise ConfigError("RUN", "", law, str(path), cure)
    return run


def weights_of_run(run: Run, weights: str, best: bool) -> Path:
    """Return the file of a finished run's last weights, or of its best ones, which are averaged.

    Raises:
        ConfigError: If the best ones are asked for and there are none.
    """
    assert run.result is not None, "the run is finished"
    if not best:
        name = "final_ema" if weights == "ema" else "final"
        return run.path / "checkpoints" / f"{name}.safetensors"
    if weights != "ema":
        raise ConfigError(
            "--best", "", "must go with --weights ema: the best weights are averaged ones"
        )
    path = run.path / "checkpoints" / "best.safetensors"
    if run.result.best_step is None or not path.is_file():
        cure = "leave it out for the last weights"
        raise ConfigError(
            "--best", "", "must name a run that kept its best weights", str(run.path), cure
        )
    return path


def _of_run(args: argparse.Namespace, run: Run) -> tuple[RunSettings, OpenedData]:
    recorded = run.manifest.settings
    for name in ("model", "img_size", "recipe"):
        if hasattr(args, name):
            flag = "--" + name.replace("_", "-")
            raise ConfigError(flag, "", "must be left out: the run says it", getattr(args, name))
    data = data_settings(args)
    data = recorded.data if data.embedded else data
    values = {**recorded.model_dump(), "data": data, "recipe": recorded.recipe}
    return _settings(args, values), open_data(data)


def _of_file(args: argparse.Namespace, file: WeightsFile) -> tuple[RunSettings, OpenedData]:
    spec, data = _model(args, file), data_settings(args)
    opened = open_data(data)
    name, recipe = recipe_of(args, len(opened.train), data, ("", {}))
    values = {"kind": "train", "model": FullModel.of(spec), "data": data, "recipe": recipe}
    return _settings(args, {**values, "recipe_name": name}), opened


def _model(args: argparse.Namespace, file: WeightsFile) -> ModelSpec:
    if hasattr(args, "model"):
        return find_model(args.model, getattr(args, "img_size", None))
    if file.spec is None:
        law = f"must be given: {file.path} does not say what model it is for"
        raise ConfigError("--model", "", law, cure="add --model deit-s, or any timm model")
    return file.spec


def _settings(args: argparse.Namespace, values: dict[str, Any]) -> RunSettings:
    """Lay the flags over settings; images come as they are, without a cache of decoded ones."""
    recipe = values["recipe"]
    changes = {
        key: getattr(args, key) for key in ("crop_pct", "interpolation") if hasattr(args, key)
    }
    changes["batch_size"] = getattr(args, "batch_size", min(_BATCH_SIZE, recipe.batch_size))
    recipe = parse(type(recipe), {**recipe.model_dump(), **changes}, "flags")
    here = ("device", "amp", "threads", "workers")
    given = {name: getattr(args, name) for name in here if hasattr(args, name)}
    return parse(RunSettings, {**values, "recipe": recipe, "cache": None, **given}, "flags")


def _subnets(
    args: argparse.Namespace, settings: RunSettings, elastic: Elastic
) -> list[SubnetConfig]:
    """Return every size under every keep-rate; ``--grid`` fills in the axis that is not given."""
    spec = settings.model.spec()
    sizes, rates = _default_axes(spec, elastic) if args.grid else ([spec.img_size], [1.0])
    sizes, rates = args.img_sizes or sizes, args.keep_rates or rates
    for size in sizes:
        check_size(size, spec, "--img-sizes")
    tokens = tokens_of(args.by, args.at_blocks, spec, elastic)
    for rate in rates:
        check_rate(rate, tokens, spec, "--keep-rates")
    return cells_of(spec.full, sizes, [tokens.rule(rate) for rate in rates])


def _default_axes(spec: ModelSpec, elastic: Elastic) -> tuple[list[int], list[float]]:
    """Return the sizes and keep-rates of a grid: those that a sandwich trained, or common ones."""
    if elastic.sandwich is not None:
        return [*elastic.sandwich.sizes, spec.img_size], [*elastic.sandwich.keep_rates, 1.0]
    sizes = [size_on_grid(spec, side / 14) for side in (8, 10, 12, 14)]
    return sizes, list(_RATES) if len(spec.depth) == 1 else [1.0]
