"""``autoprog inspect``: the views of runs in a terminal, kept up to date; imports no torch."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autoprog.errors import ConfigError
from autoprog.printable import say

if TYPE_CHECKING:
    from autoprog.decisions import Importance

__all__ = ["add_flags", "run"]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what to look at."""
    parser.epilog = (
        "examples:\n"
        "  autoprog inspect                choose among the runs in runs/\n"
        "  autoprog inspect runs/…         a run, also while it writes\n"
        "  autoprog inspect linear         a preset; a schedule file goes as well\n"
        "  autoprog inspect runs/a runs/b  two runs, marked for Compare\n"
        "  autoprog inspect runs/… --screenshots pictures --size 160x50\n"
        "\n"
        "? shows the keys. q leaves; a run that is writing goes on.\n"
    )
    parser.add_argument(
        "targets",
        nargs="*",
        metavar="RUN|SCHEDULE",
        help="run (last: the newest), folder of runs, schedule file or preset; the first one is open at once",
    )
    parser.add_argument(
        "--runs-dir", default="runs", metavar="DIR", help="runs to choose from (default: runs)"
    )
    parser.add_argument(
        "--screenshots",
        type=Path,
        metavar="DIR",
        help="write a picture of every view into DIR as SVG, without a terminal",
    )
    parser.add_argument(
        "--size",
        default="80x24",
        metavar="CxR",
        help="columns and rows of the pictures (default: 80x24)",
    )


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    from autoprog.ui.inspect.app import inspect

    for path in inspect(
        args.targets, args.runs_dir, _importances, args.screenshots, _size(args.size)
    ):
        say(path)
    return 0


def _size(text: str) -> tuple[int, int]:
    """Return columns and rows.

    Raises:
        ConfigError: If the text is not of the form 80x24, or is too small to show anything.
    """
    columns, _, rows = text.partition("x")
    problem, hint = "must be columns x rows of at least 60x18 and at most 400x200", "such as 80x24"
    # Digits of this alphabet only: int() would take others, and underscores.
    if re.fullmatch(r"[0-9]{1,4}x[0-9]{1,4}", text) is None:
        raise ConfigError("--size", "", problem, text, hint)
    if not (60 <= int(columns) <= 400 and 18 <= int(rows) <= 200):
        raise ConfigError("--size", "", problem, text, hint)
    return int(columns), int(rows)


def _importances(journal: Path) -> Sequence[Importance]:
    """Compute parameter importances; loads Optuna when they are asked for."""
    from autoprog.search.controller.importances import importances

    return importances(journal)
