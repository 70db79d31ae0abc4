"""``autoprog init``: a commented starter file of a search space, a recipe or a schedule."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from autoprog.bounds import Epochs, Px, range_of
from autoprog.errors import ConfigError, suggest
from autoprog.openfiles import NotRegularFileError, check_replaceable, kind_of
from autoprog.printable import say

__all__ = ["add_flags", "check_output", "run"]

_KINDS = ("space", "recipe", "schedule")
_OF_SCHEDULE = {
    "preset": "--from",
    "epochs": "--epochs",
    "recipe": "--recipe",
    "img_size": "--img-size",
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what to write, for which model, and where to."""
    parser.epilog = (
        "examples:\n"
        "  autoprog init space --model deit-s --output my-space.yaml\n"
        "  autoprog search --model deit-s --space my-space.yaml --data DIR\n"
        "  autoprog init space --model deit-s --output my-space.yaml --schema space.schema.json\n"
        "  autoprog init recipe --model vit-xs --output my-recipe.yaml\n"
        "  autoprog init recipe --model deit-s > my-recipe.yaml\n"
        "  autoprog init schedule --from linear --model deit-s --epochs 100 --output my-schedule.yaml\n"
    )
    parser.add_argument(
        "kind", choices=_KINDS, help="what a search may choose, how to train, or when to grow"
    )
    parser.add_argument("--model", required=True, metavar="NAME", help="see autoprog models")
    group = parser.add_argument_group("schedule")
    group.add_argument(
        "--from", dest="preset", metavar="PRESET", help="a name that autoprog schedules lists"
    )
    group.add_argument(
        "--epochs", type=range_of(Epochs), metavar="N", help="length of the run (the recipe's)"
    )
    group.add_argument(
        "--recipe",
        metavar="NAME",
        help="whose RandAugment, drop-path and erasing the preset scales (small-data for images below 64 px,"
        " else deit)",
    )
    group.add_argument(
        "--img-size", type=range_of(Px), metavar="PX", help="full image size, if not the model's"
    )
    group = parser.add_argument_group("output")
    group.add_argument(
        "--output", type=Path, metavar="FILE", help=".yaml or .yml (printed where left out)"
    )
    group.add_argument(
        "--schema",
        type=Path,
        metavar="FILE",
        help="write the JSON Schema there too, .json, and the line that editors find it by",
    )
    group.add_argument("--force", action="store_true", help="replace a file that is there")


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    from autoprog.files import write_outputs

    output: Path | None = args.output
    check_output("--output", output, args.force, (".yaml", ".yml"))
    if output is None and args.schema is not None:
        raise ConfigError("--schema", "", "must come with --output FILE")
    check_output("--schema", args.schema, args.force, (".json",))
    text = _text(args, str(output or f"my-{args.kind}.yaml"))
    if output is None:
        say(text, end="")
        return 0
    texts = {}
    if args.schema is not None:
        from autoprog.starters import modeline, schema_text

        texts[args.schema] = schema_text(args.kind)
        text = modeline(os.path.relpath(args.schema, output.parent)) + text
    write_outputs({**texts, output: text})
    say(output)
    return 0


def _text(args: argparse.Namespace, output: str) -> str:
    """Return the file, before a schema's line.

    Raises:
        ConfigError: If flags do not go with the kind, or a name or a length is none.
    """
    given = [flag for name, flag in _OF_SCHEDULE.items() if getattr(args, name) is not None]
    if args.kind != "schedule" and given:
        raise ConfigError(given[0], "", "must be given with autoprog init schedule")
    if args.kind == "schedule" and args.preset is None:
        hint = "add --from linear, or another name that autoprog schedules lists"
        raise ConfigError("--from", "", "must be given", hint=hint)
    from autoprog.presets import PRESETS
    from autoprog.starters import recipe_starter, schedule_starter, space_starter
    from autoprog.train.model import find_model

    if args.preset is not None and args.preset not in PRESETS:
        hint = suggest(args.preset, PRESETS)
        raise ConfigError("--from", "", "unknown preset", args.preset, hint)
    spec = find_model(args.model)
    if args.kind == "space":
        return space_starter(spec, output)
    if args.kind == "recipe":
        return recipe_starter(spec, output)
    if args.img_size is not None:
        try:
            spec = spec.with_img_size(args.img_size)
        except ValueError as error:
            raise ConfigError("--img-size", "", str(error)) from None
    return schedule_starter(args.preset, spec, args.epochs, args.recipe, output)


def check_output(flag: str, path: Path | None, force: bool, endings: tuple[str, ...]) -> None:
    """Refuse a file of another kind, or one that is there, unless `force` is given with a file.

    Raises:
        ConfigError: If it may not be written.
    """
    if path is None:
        if force and flag == "--output":
            raise ConfigError("--force", "", "must come with --output FILE")
        return
    if path.suffix not in endings:
        raise ConfigError(flag, "", f"must end in {' or '.join(endings)}", str(path))
    if kind_of(path) is not None and not force:
        problem, hint = "must be a new file", "add --force to replace it"
        raise ConfigError(flag, "", problem, str(path), hint)
    try:
        check_replaceable(path)
    except NotRegularFileError as error:
        raise ConfigError(flag, "", f"must be a file, not {error.strerror}", str(path)) from None
