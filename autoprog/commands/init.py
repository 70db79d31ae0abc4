"""``autoprog init``: a commented starter file of a search space or a recipe."""

from __future__ import annotations

import argparse
from pathlib import Path

from autoprog.errors import ConfigError, RunError

__all__ = ["add_flags", "run"]

_KINDS = ("space", "recipe")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what to write, for which model, and where to."""
    parser.epilog = (
        "examples:\n"
        "  autoprog init space --model deit-s --output my-space.yaml\n"
        "  autoprog search --model deit-s --space my-space.yaml --data DIR\n"
        "  autoprog init recipe --model vit-xs --output my-recipe.yaml\n"
        "  autoprog init recipe --model deit-s > my-recipe.yaml\n"
    )
    parser.add_argument("kind", choices=_KINDS, help="what a search may choose, or how to train")
    parser.add_argument("--model", required=True, metavar="NAME", help="see autoprog models")
    group = parser.add_argument_group("output")
    group.add_argument(
        "--output", type=Path, metavar="FILE", help=".yaml or .yml (printed where left out)"
    )
    group.add_argument("--force", action="store_true", help="replace a file that is there")


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    output: Path | None = args.output
    if output is not None:
        _check_output(output, args.force)
    elif args.force:
        raise ConfigError("--force", "", "must come with --output FILE")
    from autoprog.files import write_atomically
    from autoprog.starters import recipe_starter, space_starter
    from autoprog.train.model import find_model

    make = space_starter if args.kind == "space" else recipe_starter
    text = make(find_model(args.model), str(output or f"my-{args.kind}.yaml"))
    if output is None:
        print(text, end="")
        return 0
    try:
        write_atomically(output, text)
    except OSError as error:
        raise RunError(f"{output}: the file cannot be written: {error.strerror}") from None
    print(output)
    return 0


def _check_output(output: Path, force: bool) -> None:
    if output.suffix not in (".yaml", ".yml"):
        raise ConfigError("--output", "", "must end in .yaml or .yml", str(output))
    if output.exists() and not force:
        law, cure = "must be a new file", "add --force to replace it"
        raise ConfigError("--output", "", law, str(output), cure)
