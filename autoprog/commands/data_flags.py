"""The flags that say where images come from, and how many of them are used."""

from __future__ import annotations

import argparse
import os
from typing import Any

from autoprog.bounds import Classes, Fraction, Seed, SomeShare, WhiteLevel, range_of
from autoprog.commands.flags import flag_of
from autoprog.errors import ConfigError
from autoprog.files import parse
from autoprog.settings import DataSettings

__all__ = ["absolute", "add_data_flags", "data_settings"]

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
    add("--val-fraction", type=range_of(Fraction), metavar="F", help=fraction)
    white = "what is white in images of more than 8 bits, e.g. 4095 (by the brightest of some)"
    add("--white-level", type=range_of(WhiteLevel), metavar="X", help=white)
    add("--val-seed", type=range_of(Seed), metavar="N", help="seed that draws them (0)")
    if not trains:
        return
    share = "share of the training images to use, the same ones in every run (1)"
    add("--data-share", type=range_of(SomeShare), metavar="S", help=share)
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
    share, held_out = getattr(args, "data_share", 1.0), hasattr(args, "held_out")
    return parse(DataSettings, {**values, "share": share, "on_held_out": held_out}, "flags")


def absolute(path: str) -> str:
    """Return a path that means the same from every folder; an address, such as ``hf://…``, is one already."""
    return path if "://" in path or path.startswith("pipe:") else os.path.abspath(path)
