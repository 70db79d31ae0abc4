"""Flags that commands share. One that is not given leaves no attribute: defaults lie elsewhere."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from pydantic.fields import FieldInfo

from autoprog.bounds import (
    AnyEpochs,
    Budget,
    Classes,
    Compared,
    Count,
    Epochs,
    Few,
    Index,
    LoaderProcesses,
    Many,
    Minutes,
    OpenFraction,
    PositiveFraction,
    Seed,
    SomeSteps,
    Threads,
    WhiteLevel,
    Workers,
    range_of,
    ranges_in,
)
from autoprog.errors import ConfigError
from autoprog.fidelity_report import FidelitySettings
from autoprog.files import parse
from autoprog.printable import brief
from autoprog.recipe import RECIPES, Recipe, defaults_text
from autoprog.settings import DataSettings

__all__ = [
    "DEFAULT_COST_FRACTION",
    "GIVEN_AGAIN",
    "LOGGER_SETTINGS",
    "NOT_FOR_RESUME",
    "absolute",
    "add_changed_data_flag",
    "add_data_flags",
    "add_device_flags",
    "add_dry_run_flag",
    "add_fidelity_flags",
    "add_initial_flags",
    "add_length_flags",
    "add_recipe_flags",
    "add_run_flags",
    "add_trial_flags",
    "add_wandb_flags",
    "changeable",
    "check_trials",
    "data_settings",
    "duration_seconds",
    "flag_of",
    "from_anywhere",
    "given_cost_fraction",
    "given_fidelity",
    "given_recipe",
    "only_carries_out",
    "words_of",
    "worker_words",
]


# --------------------------------------------------------------------------------------------------
# The flags that say where images come from, and how many of them are used.


_OF_DATASET = (
    "data_dir",
    "train_split",
    "val_split",
    "input_key",
    "target_key",
    "num_classes",
)


def add_data_flags(parser: argparse.ArgumentParser, trains: bool = True) -> None:
    """Add where images come from; how many of them to train on only for what trains."""
    group = parser.add_argument_group(
        "data", "with neither --data nor --dataset: the embedded digits, 1,797 scanned images"
    )

    def add(flag: str, **options: Any) -> None:
        group.add_argument(flag, default=argparse.SUPPRESS, **options)

    add("--data", metavar="DIR", help="folder with train and val, as class folders or .tar")
    add("--dataset", metavar="NAME", help="timm reader: torch/…, hfds/…, wds/…, tfds/…")
    add("--data-dir", metavar="DIR", help="root folder of --dataset")
    add("--train-split", metavar="NAME", help="split of --dataset to train on (train)")
    add("--val-split", metavar="NAME", help="split to evaluate on (validation)")
    add("--input-key", metavar="KEY", help="field of the image in --dataset")
    add("--target-key", metavar="KEY", help="field of the target in --dataset")
    add(
        "--num-classes",
        type=range_of(Classes),
        metavar="N",
        help="classes, where --dataset names none",
    )
    first = "the folder of a class, where folders lie in folders (auto: the innermost, if that is clear)"
    add("--class-folders", choices=["auto", "first", "innermost"], help=first)
    fraction = "evaluate on this fraction of the images of data without a val part, e.g. 0.2"
    add("--val-fraction", type=range_of(OpenFraction), metavar="F", help=fraction)
    white = "what is white in images of more than 8 bits, e.g. 4095 (by the brightest of some)"
    add("--white-level", type=range_of(WhiteLevel), metavar="X", help=white)
    add("--val-seed", type=range_of(Seed), metavar="N", help="seed that draws them (0)")
    if not trains:
        return
    fraction = "fraction of the training images to use, the same ones in every run (1)"
    add("--data-fraction", type=range_of(PositiveFraction), metavar="S", help=fraction)
    held_out = "evaluate on 5 %% of the training images, which are then not trained on"
    add("--held-out", action="store_true", help=held_out)


def data_settings(args: argparse.Namespace) -> DataSettings:
    """Return where the flags say that images come from; the embedded digits without any.

    Raises:
        ConfigError: If flags do not go together.
    """
    values: dict[str, Any] = {key: getattr(args, key) for key in _OF_DATASET if hasattr(args, key)}
    if values and not hasattr(args, "dataset"):
        raise ConfigError(flag_of(next(iter(values))), "", "must be given together with --dataset")
    if hasattr(args, "dataset"):
        values["dataset"] = args.dataset
    if hasattr(args, "data"):
        values["dir"] = args.data
    if hasattr(args, "val_seed") and not hasattr(args, "val_fraction"):
        raise ConfigError("--val-seed", "", "must be given together with --val-fraction")
    for key in ("val_fraction", "val_seed", "class_folders", "white_level"):
        if hasattr(args, key):
            values[key] = getattr(args, key)
    fraction, held_out = getattr(args, "data_fraction", 1.0), hasattr(args, "held_out")
    return parse(DataSettings, {**values, "fraction": fraction, "on_held_out": held_out}, "flags")


def absolute(path: str) -> str:
    """Return a path that means the same from every folder; an address, such as ``hf://…``, is one already."""
    return path if "://" in path or path.startswith("pipe:") else os.path.abspath(path)


# --------------------------------------------------------------------------------------------------
# How long a search is: a fraction of the time of a plain training, or as many epochs.


DEFAULT_COST_FRACTION = 0.5
"""Length of a search where nothing is said, relative to the time of the full model over the same epochs."""


def add_length_flags(group: argparse._ArgumentGroup) -> None:
    """Add the flags that say how long a search is."""
    group.add_argument(
        "--cost-fraction",
        type=range_of(PositiveFraction),
        default=argparse.SUPPRESS,
        metavar="S",
        help=f"time of the steps of the run, relative to the full model over --epochs; how many epochs that"
        f" makes is an outcome ({DEFAULT_COST_FRACTION})",
    )
    group.add_argument(
        "--same-epochs",
        action="store_true",
        default=argparse.SUPPRESS,
        help="train for --epochs epochs, whatever they take",
    )


def given_cost_fraction(args: argparse.Namespace) -> float | None:
    """Return the length of a search relative to the time of its epochs; None if it is as long as these.

    Raises:
        ConfigError: If two lengths are given.
    """
    given = getattr(args, "cost_fraction", None)
    if hasattr(args, "same_epochs"):
        if given is not None:
            raise ConfigError(
                "--same-epochs", "", "must not be given together with --cost-fraction"
            )
        return None
    by_default = getattr(args, "rule", "rollout") == "rollout" and not hasattr(args, "trials")
    return DEFAULT_COST_FRACTION if given is None and by_default else given


# --------------------------------------------------------------------------------------------------
# The flags of a search that checks its estimates.


_FLAGS = {
    "candidates": "fidelity",
    "at": "fidelity_at",
    "epochs": "fidelity_epochs",
    "seeds": "fidelity_seeds",
    "begin": "fidelity_from",
}


def add_fidelity_flags(group: argparse._ArgumentGroup) -> None:
    """Add what is trained for real, at which decision and how."""
    check = "check the estimates of one decision: really train N subnets, at extra cost"
    _add_fidelity_flag(group, "--fidelity", type=range_of(Compared), metavar="N", help=check)
    _add_fidelity_flag(
        group,
        "--fidelity-at",
        type=range_of(Index),
        metavar="K",
        help="number of that decision (0)",
    )
    length = "length of each training (that of the supernet phase)"
    _add_fidelity_flag(group, "--fidelity-epochs", type=range_of(Epochs), metavar="E", help=length)
    _add_fidelity_flag(
        group,
        "--fidelity-seeds",
        type=range_of(Few),
        metavar="S",
        help="trainings of each subnet (2)",
    )
    begin = "begin with the network before the supernet phase, or new weights (start)"
    _add_fidelity_flag(group, "--fidelity-from", choices=["start", "scratch"], help=begin)


def given_fidelity(args: argparse.Namespace) -> FidelitySettings | None:
    """Return how estimates are to be checked, if they are.

    Raises:
        ConfigError: If a value breaks a law, or there is nothing to be checked.
    """
    given = {key: getattr(args, flag) for key, flag in _FLAGS.items() if hasattr(args, flag)}
    if not given:
        return None
    flag = "--" + _FLAGS[next(iter(given))].replace("_", "-")
    if not hasattr(args, "fidelity"):
        raise ConfigError(flag, "", "must be given together with --fidelity")
    if hasattr(args, "trials"):
        raise ConfigError(flag, "", "must be left out with --trials, which estimate nothing")
    return parse(FidelitySettings, given, flag)


def _add_fidelity_flag(group: argparse._ArgumentGroup, flag: str, **options: Any) -> None:
    group.add_argument(flag, default=argparse.SUPPRESS, **options)


# --------------------------------------------------------------------------------------------------
# The flags of a search by trials: what they are, what is refused, and what workers are told.


def add_trial_flags(group: argparse._ArgumentGroup) -> None:
    """Add how many trials, of what size, by which workers and where they are recorded."""
    trials = (
        "really train N schedules on a fraction of the data, then the best of them at full length"
    )
    _add_trial_flag(group, "--trials", type=range_of(Many), metavar="N", help=trials)
    proxy = "fraction of the images and of the epochs that trials take, or a whole search (1)"
    _add_trial_flag(group, "--proxy", type=range_of(PositiveFraction), metavar="S", help=proxy)
    group.add_argument(
        "-j",
        "--jobs",
        type=range_of(Workers),
        default=1,
        metavar="N",
        help="workers that carry out trials (1)",
    )
    join = "work on the trials of a run that another process has begun"
    group.add_argument("--join", metavar="RUN", help=join)
    storage = (
        "Optuna storage URL for trials, such as sqlite:///trials.db (a journal in the run folder)"
    )
    _add_trial_flag(group, "--storage", metavar="URL", help=storage)


def check_trials(args: argparse.Namespace, by_trials: bool) -> None:
    """Refuse what is for trials without them, and what several workers cannot share.

    Raises:
        ConfigError: If any of that is given.
    """
    given = {"-j": getattr(args, "jobs", 1) != 1, "--storage": hasattr(args, "storage")}
    for flag, is_given in given.items():
        if is_given and not by_trials:
            raise ConfigError(flag, "", "must come with --trials N, whose workers it is for")
    device = getattr(args, "device", "")
    if by_trials and device.startswith("cuda:"):
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
    parser = argparse.ArgumentParser()
    add_run_flags(parser)
    names = changeable("search").difference(LOGGER_SETTINGS)
    return tuple(words_of(args, (one for one in parser._actions if one.dest in names)))


def _add_trial_flag(group: argparse._ArgumentGroup, flag: str, **options: Any) -> None:
    group.add_argument(flag, default=argparse.SUPPRESS, **options)


Group = argparse._ArgumentGroup

LOGGER_SETTINGS = ("log_tensorboard", "log_wandb", "wandb_project", "wandb_mode")
"""Settings that say to whom a run is told."""

NOT_FOR_RESUME = {
    *LOGGER_SETTINGS,
    "device",
    "amp",
    "workers",
    "threads",
    "checkpoint_minutes",
    "log_every_steps",
    "compile",
    "max_bad_images",
    "on_divergence",
}
"""Settings that say how a run is carried out here."""


GIVEN_AGAIN = {
    "cache",
    "storage",
    "pretrained",
    "dataset",
    "data_dir",
    "train_split",
    "val_split",
}
"""Settings that a resume may repeat: what a run asks for outside its folder needs them to be given."""


def changeable(kind: str) -> set[str]:
    """Return the settings that a resume may change: a search looks at the losses that it logs."""
    return NOT_FOR_RESUME - {"log_every_steps"} if kind == "search" else NOT_FOR_RESUME


def only_carries_out(args: argparse.Namespace) -> bool:
    """Tell whether nothing is given but how a run is carried out here, so that it does not say which run."""
    beside = {
        "command",
        "debug",
        "resume",
        "runs_dir",
        "quiet",
        "jobs",
        "join",
        "allow_changed_data",
    }
    return set(vars(args)) <= beside | changeable(args.command) | GIVEN_AGAIN


def words_of(args: argparse.Namespace, actions: Iterable[argparse.Action]) -> list[str]:
    """Return those of the flags that were given, as they stand on a command line."""
    words: list[str] = []
    for action in actions:
        if not hasattr(args, action.dest):
            continue
        flag, value = action.option_strings[-1], getattr(args, action.dest)
        if action.nargs == 0:
            words.append(flag)
        elif isinstance(value, list):
            words += [flag, *map(str, value)]
        else:
            words.append(f"{flag}={value}")
    return words


def add_initial_flags(parser: argparse.ArgumentParser) -> None:
    """Add where the first weights come from."""
    group = parser.add_argument_group(
        "fine-tuning", "full depth from the start; see --layer-decay too"
    )
    _add(group, "--pretrained", action="store_true", help="start from timm's weights of the model")
    _add(
        group,
        "--initial-checkpoint",
        metavar="FILE|RUN",
        help="start from a .safetensors or .pth file, a finished run (which names --model and --img-size),"
        " or a folder of export --format hf",
    )
    _add(
        group,
        "--fresh-head",
        action="store_true",
        help="draw the head anew, also where the weights have as many classes",
    )


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Add how and where a run is carried out."""
    group = parser.add_argument_group("run")
    _add(group, "--seed", type=range_of(Seed), metavar="N", help="seed of everything random (0)")
    group.add_argument(
        "--runs-dir", default="runs", metavar="DIR", help="where run folders go (runs)"
    )
    group.add_argument(
        "--resume",
        metavar="RUN",
        help="go on with a run: a folder, 'last' for the newest, 'auto' for the unfinished one of this"
        " command line, or without other flags for the newest unfinished one",
    )
    add_device_flags(group)
    _add(
        group,
        "--checkpoint-minutes",
        type=range_of(Minutes),
        metavar="M",
        help="minutes between checkpoints within a stage (10)",
    )
    steps = "steps between progress events (20)"
    _add(group, "--log-every-steps", type=range_of(SomeSteps), metavar="N", help=steps)
    _add(
        group,
        "--eval-every-epochs",
        type=range_of(AnyEpochs),
        metavar="E",
        help="evaluate every so many epochs, and at each stage end; 0 for once, at the end (some 20 times,"
        " where each is less than 5 %% of the training since the last one, and at the end)",
    )
    _add(
        group,
        "--patience",
        type=range_of(Many),
        metavar="N",
        help="stop where N evaluations of the full model in a row were not better than the best one",
    )
    _add_care_flags(group)
    group.add_argument("-q", "--quiet", action="store_true", help="only warnings and the result")
    _add_logger_flags(
        parser.add_argument_group("loggers", "see also autoprog export --format tensorboard")
    )


def add_changed_data_flag(parser: argparse.ArgumentParser) -> None:
    """Add how to go on with a run whose images are not the same any more."""
    parser.add_argument_group("resume").add_argument(
        "--allow-changed-data",
        action="store_true",
        default=argparse.SUPPRESS,
        help="go on although images were added, removed or replaced; the classes must be the same",
    )


def add_dry_run_flag(parser: argparse.ArgumentParser) -> Group:
    """Add the wish to know beforehand; return its group."""
    group = parser.add_argument_group("before a run")
    dry = "check everything, say what would run and about how long it takes, and write nothing"
    _add(group, "--dry-run", action="store_true", help=dry)
    return group


def _add_logger_flags(group: Group) -> None:
    """Add to whom a run is told while it goes on."""
    board = "write for TensorBoard, into the run folder (pip install 'autoprog[tensorboard]')"
    _add(group, "--log-tensorboard", action="store_true", help=board)
    wandb = "log to Weights & Biases (pip install 'autoprog[wandb]')"
    _add(group, "--log-wandb", action="store_true", help=wandb)
    add_wandb_flags(group)


def add_wandb_flags(group: Group) -> None:
    """Add where a run goes to in W&B, and whether at once."""
    project = "W&B project (WANDB_PROJECT, else autoprog)"
    _add(group, "--wandb-project", metavar="NAME", help=project)
    mode = "send at once, or keep for wandb sync (WANDB_MODE, else online)"
    _add(group, "--wandb-mode", choices=["online", "offline"], help=mode)


def add_device_flags(group: Group) -> None:
    """Add on what to compute."""
    _add(group, "--device", metavar="NAME", help="auto, cpu, mps, cuda or cuda:N (auto)")
    _add(group, "--amp", choices=["auto", "none", "bfloat16", "float16"], help="precision (auto)")
    _add(
        group,
        "--threads",
        type=range_of(Threads),
        metavar="N",
        help="CPU threads of the training process",
    )
    _add(
        group,
        "--workers",
        type=range_of(LoaderProcesses),
        metavar="N",
        help="loader processes (auto)",
    )


def _add_care_flags(group: Group) -> None:
    """Add what makes a run faster here, and what it does when something goes wrong."""
    _add(
        group,
        "--compile",
        action="store_true",
        help="compile each block with torch.compile; costs a minute at the start",
    )
    _add(
        group,
        "--cache",
        nargs="?",
        const="auto",
        metavar="DIR",
        help="keep decoded images in DIR (the user's cache folder) and augment them by batch",
    )
    _add(
        group,
        "--max-bad-images",
        type=range_of(Count),
        metavar="N",
        help="unreadable training images to skip before the run stops (10)",
    )
    _add(
        group,
        "--on-divergence",
        choices=["stop", "rollback"],
        help="when a loss is not finite: stop, or go back to the last checkpoint at half the learning"
        " rate, up to 3 times (stop)",
    )


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
        "each overrides the recipe; in brackets the value of 'deit', and of the others where theirs differs",
    )
    _add(
        group,
        "--recipe",
        metavar="NAME|FILE",
        help=f"{', '.join(RECIPES)} or a YAML file (digits for the embedded ones, small-data below 200,000"
        " training images, else deit)",
    )
    for name, field in Recipe.model_fields.items():
        note = f"; {notes[name]}" if name in notes else ""
        _add_field(group, name, field, f"{defaults_text(name)}{note}")


def given_recipe(args: argparse.Namespace) -> dict[str, Any]:
    """Return the recipe values that were given as flags."""
    return {name: getattr(args, name) for name in Recipe.model_fields if hasattr(args, name)}


def _add_field(group: Group, name: str, field: FieldInfo, default: str) -> None:
    flag = "--" + name.replace("_", "-")
    text = f"{field.description} ({default})".replace("%", "%%")
    words = [choice for choice in get_args(field.annotation) if isinstance(choice, str)]
    ranges = [one for part in (field.annotation, *field.metadata) for one in ranges_in(part)]
    if words:
        _add(group, flag, choices=words, help=text)
    elif len(ranges) == 2:
        _add(group, flag, nargs=2, type=ranges[0], metavar=("LOW", "HIGH"), help=text)
    else:
        _add(group, flag, type=ranges[0] if ranges else None, metavar=_metavar(name), help=text)


def _metavar(name: str) -> str:
    return {"aa": "POLICY", "opt": "NAME"}.get(name, "N")


def flag_of(name: str) -> str:
    """Return the flag that gives a value its name, such as ``--time-budget``."""
    return "--" + _FLAG_NAMES.get(name, name).replace("_", "-")


_FLAG_NAMES = {
    "costs_from": "costs",
    "time_budget_seconds": "time-budget",
    "budget_seconds": "budget",
    "as_json": "json",
}


def _add(group: Group, flag: str, **options: Any) -> None:
    group.add_argument(flag, default=argparse.SUPPRESS, **options)


def duration_seconds(text: str) -> float:
    """Return the seconds that a text such as ``90m``, ``24h``, ``1h30m`` or ``45s`` means."""
    match = re.fullmatch(rf"(?:{_PART}h)?(?:{_PART}m)?(?:{_PART}s)?", text)
    if match is None or not text:
        problem = f"must be a duration such as 90m, 24h or 1h30m, but got {brief(text)}"
        raise argparse.ArgumentTypeError(problem)
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    total = 3600 * hours + 60 * minutes + seconds
    granted = range_of(Budget)
    if total not in granted:
        problem = f"must be a duration from 1 ms to {granted.high / 3600:,.0f}h"
        raise argparse.ArgumentTypeError(f"{problem}, but got {brief(text)}")
    return total


_PART = r"([0-9]{1,12}(?:\.[0-9]{0,12})?|\.[0-9]{1,12})"
