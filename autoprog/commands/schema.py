"""``autoprog schema``: the JSON Schema of a search space, a schedule or a recipe; imports no torch."""

from __future__ import annotations

import argparse
from pathlib import Path

from autoprog.commands.init import check_output
from autoprog.printable import say

__all__ = ["add_flags", "run"]

_KINDS = ("space", "schedule", "recipe")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add of which file, and where to."""
    parser.epilog = (
        "examples:\n"
        "  autoprog schema space --output space.schema.json\n"
        "  autoprog schema schedule > schedule.schema.json\n"
        "in a YAML file, the first line tells an editor with a YAML language server of it:\n"
        "  # yaml-language-server: $schema=space.schema.json\n"
        "which autoprog init --schema writes, too\n"
    )
    parser.add_argument("kind", choices=_KINDS, help="the kind of file")
    group = parser.add_argument_group("output")
    group.add_argument("--output", type=Path, metavar="FILE", help=".json (printed where left out)")
    group.add_argument("--force", action="store_true", help="replace a file that is there")


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    check_output("--output", args.output, args.force, (".json",))
    from autoprog.files import write_outputs
    from autoprog.starters import schema_text

    text = schema_text(args.kind)
    if args.output is None:
        say(text, end="")
        return 0
    write_outputs({args.output: text})
    say(args.output)
    return 0
