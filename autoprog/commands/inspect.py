"""``autoprog inspect``: the views of runs in a terminal, kept up to date; imports no torch."""

from __future__ import annotations

import argparse

__all__ = ["add_flags", "run"]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what to look at."""
    parser.epilog = (
        "examples:\n"
        "  autoprog inspect                choose among the runs in runs/\n"
        "  autoprog inspect runs/…         a run, also while it writes\n"
        "  autoprog inspect linear         a preset; a schedule file goes as well\n"
        "\n"
        "? shows the keys. q leaves; a run that is writing goes on.\n"
    )
    parser.add_argument(
        "targets",
        nargs="*",
        metavar="RUN|SCHEDULE",
        help="run folder, folder of runs, schedule file or preset; the first one is open at once",
    )
    parser.add_argument(
        "--runs-dir", default="runs", metavar="DIR", help="runs to choose from (runs)"
    )


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    from autoprog.ui.inspect.launch import inspect

    inspect(args.targets, args.runs_dir)
    return 0
