"""The flags that commands share: those of the settings' fields, and the few that are no setting.

A flag that is not given leaves no attribute, which shows what was given.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from autoprog.bounds import BlockNumber, FewValues, Px, Workers, range_of
from autoprog.errors import ConfigError
from autoprog.fidelity_report import FidelitySettings
from autoprog.files import parse
from autoprog.options import add_options, check_needs, flag_words, flags_of_model, given
from autoprog.recipe import RECIPES, Recipe, defaults_text
from autoprog.settings import (
    DEFAULT_COST_FRACTION,
    REPEATABLE,
    DataSettings,
    RunSettings,
    SearchSettings,
    changed_on_resume,
)
from autoprog.space import Decisions
from autoprog.stage import Grow

__all__ = [
    "LOGGER_SETTINGS",
    "NOT_FOR_RESUME",
    "NO_SETTINGS",
    "absolute",
    "add_changed_data_flag",
    "add_data_flags",
    "add_device_flags",
    "add_dry_run_flag",
    "add_initial_flags",
    "add_model_flags",
    "add_recipe_flags",
    "add_run_flags",
    "add_search_flags",
    "add_token_flags",
    "add_training_flags",
    "add_wandb_flags",
    "add_weights_flags",
    "check_trials",
    "data_settings",
    "flag_of",
    "from_anywhere",
    "given_cost_fraction",
    "given_fidelity",
    "only_carries_out",
    "worker_words",
]

NOT_FOR_RESUME = changed_on_resume("train")
"""Settings that say how a run is carried out here."""

LOGGER_SETTINGS = tuple(
    flag.field for flag in flags_of_model(RunSettings) if flag.option.group in ("loggers", "wandb")
)
"""Settings that say to whom a run is passed on."""

NO_SETTINGS = frozenset(
    {*("command", "debug", "resume", "runs_dir", "quiet"), *("jobs", "join", "allow_changed_data")}
)
"""What a command line says beside the settings of a run."""


def flag_of(dest: str) -> str:
    """Return the flag of an attribute of the parsed arguments, such as ``--time-budget``."""
    return "--" + {"as_json": "json"}.get(dest, dest).replace("_", "-")


def only_carries_out(args: argparse.Namespace) -> bool:
    """Tell whether nothing is given but how a run is carried out here, so that it does not say which run."""
    return set(vars(args)) <= NO_SETTINGS | changed_on_resume(args.command) | REPEATABLE


# --------------------------------------------------------------------------------------------------
# Images, weights and recipe.


def add_data_flags(parser: argparse.ArgumentParser, trains: bool = True) -> None:
    """Add where images come from; how many of them to train on only for what trains."""
    group = parser.add_argument_group(
        "data", "with neither --data nor --dataset: the embedded digits, 1,797 scanned images"
    )
    add_options(group, DataSettings, "images")
    if trains:
        add_options(group, DataSettings, "training images")


def data_settings(args: argparse.Namespace) -> DataSettings:
    """Return where the flags say that images come from; the embedded digits without any.

    Raises:
        ConfigError: If flags do not go together.
    """
    check_needs(args, DataSettings)
    return parse(DataSettings, given(args, DataSettings), "flags")


def absolute(path: str) -> str:
    """Return a path that means the same from every folder; an address, such as ``hf://…``, is one already."""
    return path if "://" in path or path.startswith("pipe:") else os.path.abspath(path)


def add_model_flags(group: argparse._ActionsContainer, help_text: str) -> None:
    """Add which network, and the size of its largest images."""
    group.add_argument("--model", default=argparse.SUPPRESS, metavar="NAME", help=help_text)
    group.add_argument(
        "--img-size",
        type=range_of(Px),
        default=argparse.SUPPRESS,
        metavar="PX",
        help="full image size (default: the model's)",
    )


def add_initial_flags(parser: argparse.ArgumentParser) -> None:
    """Add where the first weights come from."""
    group = parser.add_argument_group(
        "fine-tuning", "full depth from the start; see --layer-decay too"
    )
    add_options(group, RunSettings, "first weights")


def add_recipe_flags(
    parser: argparse.ArgumentParser, notes: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Add one flag for each field of the recipe, under timm's name.

    Args:
        parser: Takes them.
        notes: What else a default depends on in this command, by field.
    """
    group = parser.add_argument_group(
        "recipe",
        "each overrides the recipe; the default is that of 'deit', and of the others where theirs differs",
    )
    group.add_argument(
        "--recipe",
        default=argparse.SUPPRESS,
        metavar="NAME|FILE",
        help=f"{', '.join(RECIPES)} or a YAML file (default: digits for the embedded ones, small-data"
        " below 200,000 training images, else deit)",
    )
    # Which recipe a run takes follows from its data, so a default is one of several.
    texts = {name: defaults_text(name) for name in Recipe.model_fields}
    for name, note in notes.items():
        texts[name] += f"; {note}"
    add_options(group, Recipe, defaults=texts)


def add_weights_flags(group: argparse._ActionsContainer) -> None:
    """Add which weights of a run, where it has several."""
    group.add_argument(
        "--weights",
        choices=["ema", "online"],
        default="ema",
        help="averaged or last weights (default: ema)",
    )
    group.add_argument(
        "--checkpoint",
        choices=["final", "best", "last"],
        default="final",
        help="the weights of the end of a run, the averaged ones of its best evaluation, or those of its"
        " last checkpoint, as of an interrupted run (default: final)",
    )


def add_token_flags(group: argparse._ActionsContainer) -> None:
    """Add how tokens are chosen where a keep-rate is below 1."""
    group.add_argument(
        "--by",
        choices=["magnitude", "l2_magnitude", "random", "class_attention"],
        help="which tokens stay (default: as the run trained, or magnitude)",
    )
    group.add_argument(
        "--at-blocks",
        type=range_of(BlockNumber),
        nargs="+",
        action=FewValues,
        metavar="B",
        help="running blocks at which the others go",
    )


# --------------------------------------------------------------------------------------------------
# A search: how long it is, what it decides, and the trials that some searches carry out.


def add_search_flags(parser: argparse.ArgumentParser) -> None:
    """Add what a search may choose, by which rule, and for how long."""
    group = parser.add_argument_group("search")
    add_model_flags(group, "deit-ti, deit-s, deit-b, vit-xs or a timm ViT")
    group.add_argument(
        "--space",
        default=argparse.SUPPRESS,
        metavar="NAME|FILE",
        help="search space (default: the model's own)",
    )
    add_options(group, SearchSettings, "search")
    group.add_argument(
        "--same-epochs",
        action="store_true",
        default=argparse.SUPPRESS,
        help="train for --epochs epochs, whatever they take, in place of --cost-fraction",
    )
    group = parser.add_argument_group("decisions", "each overrides the search space")
    add_options(group, Decisions)
    add_options(group, Grow)
    add_options(parser.add_argument_group("check of the estimates"), FidelitySettings)
    group = parser.add_argument_group("trials")
    add_options(group, SearchSettings, "trials")
    group.add_argument(
        "-j",
        "--jobs",
        type=range_of(Workers),
        default=1,
        metavar="N",
        help="workers that carry out trials (default: 1)",
    )
    join = "work on the trials of a run that another process has begun"
    group.add_argument("--join", metavar="RUN", help=join)


def given_cost_fraction(args: argparse.Namespace) -> float | None:
    """Return the length of a search relative to the time of its epochs; None if it is as long as these.

    Raises:
        ConfigError: If two lengths are given.
    """
    fraction: float | None = getattr(args, "cost_fraction", None)
    if hasattr(args, "same_epochs"):
        if fraction is not None:
            problem = "must not be given together with --cost-fraction"
            raise ConfigError("--same-epochs", "", problem)
        return None
    # The other rules choose all at once, and trials have a length of their own.
    by_default = getattr(args, "rule", "rollout") == "rollout" and not hasattr(args, "trials")
    return DEFAULT_COST_FRACTION if fraction is None and by_default else fraction


def given_fidelity(args: argparse.Namespace) -> FidelitySettings | None:
    """Return how estimates are to be checked, if they are.

    Raises:
        ConfigError: If there is nothing to be checked, or it is not said how many subnets to train.
    """
    values = given(args, FidelitySettings)
    if not values:
        return None
    check_needs(args, FidelitySettings)
    if hasattr(args, "trials"):
        raise ConfigError(
            "--fidelity", "", "must be left out with --trials, which estimate nothing"
        )
    return parse(FidelitySettings, values, "--fidelity")


def check_trials(args: argparse.Namespace, by_trials: bool) -> None:
    """Refuse what is for trials without them, and what several workers cannot share.

    Raises:
        ConfigError: If any of that is given.
    """
    for_trials = {"-j": getattr(args, "jobs", 1) != 1, "--storage": hasattr(args, "storage")}
    for flag, is_given in for_trials.items():
        if is_given and not by_trials:
            raise ConfigError(flag, "", "must come with --trials N, whose workers it is for")
    device = getattr(args, "device", "")
    if by_trials and device.startswith("cuda:"):
        # Each worker takes the device of its number.
        hint = f"set CUDA_VISIBLE_DEVICES={device.removeprefix('cuda:')}"
        raise ConfigError("--device", "", "must leave the number to the workers", device, hint)


def from_anywhere(storage: str) -> str:
    """Return the URL of a database that means the same file to workers in other folders."""
    scheme, _, path = storage.partition(":///")
    if not scheme.startswith("sqlite") or not path.strip("/") or ":memory:" in path:
        return storage
    return f"{scheme}:///{Path(path).absolute()}"


def worker_words(args: argparse.Namespace) -> tuple[str, ...]:
    """Return the flags that say how trials are carried out, for the workers."""
    names = changed_on_resume("search").difference(LOGGER_SETTINGS)
    flags = [flag for flag in flags_of_model(RunSettings) if flag.field in names]
    return tuple(flag_words(flags, given(args, RunSettings)))


# --------------------------------------------------------------------------------------------------
# How and where a run is carried out.


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Add how and where a run is carried out."""
    group = parser.add_argument_group("run")
    group.add_argument(
        "--runs-dir", default="runs", metavar="DIR", help="where run folders go (default: runs)"
    )
    group.add_argument(
        "--resume",
        metavar="RUN",
        help="go on with a run: a folder, 'last' for the newest, 'auto' for the unfinished one of this"
        " command line, or without other flags for the newest unfinished one",
    )
    add_device_flags(group)
    add_options(group, RunSettings, "run")
    group.add_argument("-q", "--quiet", action="store_true", help="only warnings and the result")
    group = parser.add_argument_group("loggers", "see also autoprog export --format tensorboard")
    add_options(group, RunSettings, "loggers")
    add_wandb_flags(group)


def add_wandb_flags(group: argparse._ActionsContainer) -> None:
    """Add where a run goes to in W&B, and whether at once."""
    add_options(group, RunSettings, "wandb")


def add_device_flags(group: argparse._ActionsContainer) -> None:
    """Add on what to compute."""
    add_options(group, RunSettings, "device")


def add_changed_data_flag(parser: argparse.ArgumentParser) -> None:
    """Add how to go on with a run whose images are not the same any more."""
    parser.add_argument_group("resume").add_argument(
        "--allow-changed-data",
        action="store_true",
        default=argparse.SUPPRESS,
        help="go on although images were added, removed or replaced; the classes must be the same",
    )


def add_dry_run_flag(parser: argparse.ArgumentParser) -> None:
    """Add the wish to know beforehand, and in which form."""
    group = parser.add_argument_group("before a run")
    group.add_argument(
        "--dry-run",
        action="store_true",
        default=argparse.SUPPRESS,
        help="check everything, say what would run and about how long it takes, and write nothing",
    )
    group.add_argument(
        "--json",
        action="store_true",
        dest="as_json",
        default=argparse.SUPPRESS,
        help="print what --dry-run says as one JSON object",
    )


def add_training_flags(parser: argparse.ArgumentParser) -> None:
    """Add what is trained, on what and how."""
    group, nothing = parser.add_argument_group("schedule"), argparse.SUPPRESS
    either = group.add_mutually_exclusive_group()
    either.add_argument(
        "--schedule",
        default=nothing,
        metavar="FILE|PRESET|RUN",
        help="a YAML file, a name that autoprog list presets shows, or a run: its best.yaml, if it has one",
    )
    either.add_argument(
        "--elastic",
        dest="schedule",
        action="store_const",
        const="supervit",
        default=nothing,
        help="stay usable at many sizes and keep-rates: the schedule supervit (see autoprog evaluate)",
    )
    group.add_argument(
        "--pos-embed",
        choices=["resampled", "per-size"],
        default=nothing,
        help="positions of smaller images in --elastic: the full table resampled, or a table for"
        " each size, as SuperViT has (default: resampled)",
    )
    add_model_flags(group, "for a preset: deit-s, vit-xs, a timm ViT …")
    add_options(group, RunSettings, "length")
    add_data_flags(parser)
    add_initial_flags(parser)
    of_file = "a schedule file has its own"
    add_recipe_flags(parser, {"epochs": of_file, "sched": of_file})
    add_run_flags(parser)
    add_changed_data_flag(parser)
