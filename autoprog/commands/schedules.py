"""``autoprog schedules``: the schedules that have a name; imports no torch."""

from __future__ import annotations

import argparse
import json

from autoprog.printable import say

__all__ = ["add_flags", "run"]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the form of the list."""
    parser.epilog = (
        "examples:\n"
        "  autoprog schedules\n"
        "  autoprog show size-curriculum --model deit-s --epochs 100\n"
        "  autoprog train --schedule size-curriculum --model deit-s --data DIR\n"
    )
    parser.add_argument("--json", action="store_true", dest="as_json", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    from autoprog.presets import PRESETS, summary_of

    summaries = {name: summary_of(name) for name in PRESETS}
    if args.as_json:
        say(json.dumps(summaries, indent=1))
        return 0
    from autoprog.console import Console
    from autoprog.ui.tables import list_table

    Console(highlight=False).print(list_table(summaries))
    return 0
