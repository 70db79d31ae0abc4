"""``autoprog init``: a commented starter file, its JSON Schema, or a shell's completion script."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from autoprog.bounds import Epochs, Px, range_of
from autoprog.cli import add_subcommands
from autoprog.errors import ConfigError, suggest
from autoprog.openfiles import NotRegularFileError, check_replaceable, kind_of
from autoprog.printable import say

__all__ = ["add_flags", "run"]

_KINDS = {
    "space": "a search space: what a search may choose",
    "recipe": "a recipe: how to train",
    "schedule": "a schedule: when to grow",
}
_ONLY_SCHEMA = Path("-")
"""What ``--schema`` without a file stands for: the schema in place of a starter file."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what to write."""
    parser.epilog = (
        "examples:\n"
        "  autoprog init space --model deit-s --output my-space.yaml\n"
        "  autoprog search --model deit-s --space my-space.yaml --data DIR\n"
        "  autoprog init recipe --model vit-xs --output my-recipe.yaml\n"
        "  autoprog init schedule --from linear --model deit-s --epochs 100 --output my-schedule.yaml\n"
        "  autoprog init schedule --schema > schedule.schema.json\n"
        "  source <(autoprog init completion bash)\n"
    )

    def completion(sub: argparse.ArgumentParser) -> None:
        sub.epilog = (
            "examples:\n"
            "  source <(autoprog init completion bash)    # in this shell\n"
            "  autoprog init completion bash > ~/.local/share/bash-completion/completions/autoprog\n"
            "  autoprog init completion zsh > ~/.zfunc/_autoprog    # a folder of $fpath\n"
            "  autoprog init completion tcsh > ~/.autoprog.csh      # and source it in ~/.tcshrc\n"
        )
        shells = ("bash", "zsh", "tcsh")
        sub.add_argument("shell", choices=shells, help="the shell that reads the script")

    kinds: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
        kind: (summary, partial(_add_starter_flags, kind)) for kind, summary in _KINDS.items()
    }
    script = "a script that completes commands, flags and names in a shell"
    add_subcommands(parser, "kind", {**kinds, "completion": (script, completion)})


def _add_starter_flags(kind: str, parser: argparse.ArgumentParser) -> None:
    source = "--from linear " if kind == "schedule" else ""
    parser.epilog = (
        "examples:\n"
        f"  autoprog init {kind} {source}--model deit-s > my-{kind}.yaml\n"
        f"  autoprog init {kind} {source}--model deit-s --output my-{kind}.yaml"
        f" --schema {kind}.schema.json\n"
        f"  autoprog init {kind} --schema --output {kind}.schema.json\n"
        "the first line of a YAML file names its schema to an editor with a YAML language server:\n"
        f"  # yaml-language-server: $schema={kind}.schema.json\n"
    )
    parser.add_argument("--model", metavar="NAME", help="see autoprog list models")
    if kind == "schedule":
        parser.add_argument(
            "--from",
            dest="preset",
            metavar="PRESET",
            help="the preset that it begins as, see autoprog list presets",
        )
        parser.add_argument(
            "--epochs",
            type=range_of(Epochs),
            metavar="N",
            help="length of the run (default: the recipe's)",
        )
        parser.add_argument(
            "--recipe",
            metavar="NAME",
            help="whose RandAugment, drop-path and erasing the preset scales (default: small-data for"
            " images below 64 px, else deit)",
        )
        parser.add_argument(
            "--img-size",
            type=range_of(Px),
            metavar="PX",
            help="full image size (default: the model's)",
        )
    group = parser.add_argument_group("output")
    group.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help=".yaml or .yml, or .json for the schema alone (default: it is printed)",
    )
    group.add_argument(
        "--schema",
        type=Path,
        nargs="?",
        const=_ONLY_SCHEMA,
        metavar="FILE",
        help="the JSON Schema in place of the starter file; with a FILE (.json) beside it, and the line"
        " that editors find it by",
    )
    group.add_argument("--force", action="store_true", help="replace a file that is there")


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    if args.kind == "completion":
        from autoprog.commands.completion import completion_script

        say(completion_script(args.shell))
        return 0
    from autoprog.files import write_outputs

    beside: dict[Path, str] = {}
    if args.schema == _ONLY_SCHEMA:
        from autoprog.starters import schema_text

        _check_output("--output", args.output, args.force, (".json",))
        text = schema_text(args.kind)
    else:
        _check_output("--output", args.output, args.force, (".yaml", ".yml"))
        if args.output is None and args.schema is not None:
            raise ConfigError("--schema", "", "must come with --output FILE")
        _check_output("--schema", args.schema, args.force, (".json",))
        text, beside = _starter(args)
    if args.output is None:
        say(text, end="")
        return 0
    write_outputs({**beside, args.output: text})  # both or neither
    say(args.output)
    return 0


def _starter(args: argparse.Namespace) -> tuple[str, dict[Path, str]]:
    """Return the text of a starter file, and that of the schema by its path if one is asked for.

    Raises:
        ConfigError: If the model or the preset is missing or unknown, or the image size does not fit.
    """
    from autoprog.presets import PRESETS
    from autoprog.starters import (
        modeline,
        recipe_starter,
        schedule_starter,
        schema_text,
        space_starter,
    )
    from autoprog.train.model import find_model

    if args.kind == "schedule":  # what costs nothing to check comes before timm is loaded
        if args.preset is None:
            hint = "add --from linear, or another name that autoprog list presets shows"
            raise ConfigError("--from", "", "must be given", hint=hint)
        if args.preset not in PRESETS:
            hint = suggest(args.preset, PRESETS)
            raise ConfigError("--from", "", "unknown preset", args.preset, hint)
    if args.model is None:
        hint = "add --model deit-s, or another name that autoprog list models shows"
        raise ConfigError("--model", "", "must be given", hint=hint)
    spec, output = find_model(args.model), str(args.output or f"my-{args.kind}.yaml")
    if args.kind == "space":
        text = space_starter(spec, output)
    elif args.kind == "recipe":
        text = recipe_starter(spec, output)
    else:
        if args.img_size is not None:
            try:
                spec = spec.with_img_size(args.img_size)
            except ValueError as error:
                raise ConfigError("--img-size", "", str(error)) from None
        text = schedule_starter(args.preset, spec, args.epochs, args.recipe, output)
    if args.schema is None:
        return text, {}
    # Editors look for the schema from the folder of the file that names it.
    place = os.path.relpath(args.schema, args.output.parent)
    return modeline(place) + text, {args.schema: schema_text(args.kind)}


def _check_output(flag: str, path: Path | None, force: bool, endings: tuple[str, ...]) -> None:
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
    try:  # a link or a device in place of a file is not written through, even with --force
        check_replaceable(path)
    except NotRegularFileError as error:
        raise ConfigError(flag, "", f"must be a file, not {error.strerror}", str(path)) from None
