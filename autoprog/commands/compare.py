"""``autoprog compare``: finished runs side by side; imports no torch."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from autoprog.errors import ConfigError, consistent
from autoprog.printable import say

if TYPE_CHECKING:
    from autoprog.verify.compare import Comparison, FinishedRun

__all__ = ["add_flags", "print_comparison", "run"]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add which runs to compare, and in which forms."""
    parser.epilog = (
        "Runs that differ in their seed alone make one row. The first run's row is the reference.\n\n"
        "examples:\n"
        "  autoprog compare runs/*constant* runs/*linear*\n"
        "  autoprog compare runs/… runs/… --x macs --html compare.html\n"
        "  autoprog compare runs/* --markdown >> README.md\n"
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="a finished run, last, or a folder of runs"
    )
    parser.add_argument(
        "--x",
        choices=("seconds", "images", "macs"),
        default="seconds",
        help="what the curves on the terminal are drawn over (default: seconds)",
    )
    parser.add_argument(
        "--runs-dir",
        default="runs",
        metavar="DIR",
        help="where last and names of runs are (default: runs)",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", dest="as_json", help="one JSON object")
    form.add_argument("--markdown", action="store_true", help="a Markdown table")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a web page as well")


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    from autoprog.verify.compare import compare

    runs, left_out = _read(args.runs, args.runs_dir)
    for path, reason in left_out:
        say(f"autoprog: left out: {path}: {reason}", file=sys.stderr)
    if not runs:
        hint = "give folders that hold a result.json"
        raise ConfigError("RUN", "", "must name at least one finished run", hint=hint)
    # Everything is relative to the first run, so its absence changes every ratio.
    if left_out and left_out[0][0] == args.runs[0]:
        say(f"autoprog: so the reference is {runs[0].path}", file=sys.stderr)
    with consistent(", ".join(one.path for one in runs)):
        comparison = compare(runs)
        if args.html is not None:
            _write_page(args.html, comparison)
        print_comparison(args, comparison, left_out)
    return 0


def _read(paths: Sequence[str], runs_dir: str) -> tuple[list[FinishedRun], list[tuple[str, str]]]:
    """Return the finished runs, each once, and (path, reason) of what is none.

    Raises:
        ConfigError: If a path does not exist, which is a slip and no unfinished run, or the only one is none.
    """
    from autoprog.verify.compare import read_finished_run

    runs, left_out = [], []
    once: dict[Path, str] = {}
    for path in map(str, chain.from_iterable(_runs_of(word, runs_dir) for word in paths)):
        # Given twice, by a link or a glob, it counts once.
        once.setdefault(Path(path).resolve(), path)
    for path in once.values():
        try:
            runs.append(read_finished_run(path))
        except ConfigError as error:
            if len(once) == 1:  # then there is nothing to set it beside, and one line says it all
                raise
            left_out.append((path, ": ".join(part for part in (error.key, error.problem) if part)))
    return runs, left_out


def _runs_of(word: str, runs_dir: str) -> list[Path]:
    """Return the run that a word means; of a folder of runs all, the oldest first, as ``runs/*``.

    Raises:
        ConfigError: If there is nothing of this name.
    """
    from autoprog.locate import locate_run, runs_in

    path = Path(word)
    # runs_in lists the newest first, and a glob, which this stands for, the oldest.
    inside = [] if (path / "run.yaml").is_file() else runs_in(path)[::-1]
    return inside or [path if path.exists() else locate_run(word, runs_dir)]


def _write_page(path: Path, comparison: Comparison) -> None:
    """Write the page; a link in its place is replaced, and not followed.

    Raises:
        ConfigError: If it cannot be written.
    """
    from autoprog.safe_files import write_atomically
    from autoprog.ui.render_html import compare_page

    try:
        write_atomically(path, compare_page(comparison))
    except OSError as error:
        problem = f"must be a file that can be written: {error.strerror}"
        raise ConfigError("--html", str(path), problem) from None


def print_comparison(
    args: argparse.Namespace, comparison: Comparison, left_out: Sequence[tuple[str, str]]
) -> None:
    """Print a comparison in the form that the flags ask for."""
    from autoprog.console import Console
    from autoprog.ui.compare import compare_document, compare_sections
    from autoprog.ui.render_rich import print_sections
    from autoprog.ui.section import markdown_lines

    sections = compare_sections(comparison, getattr(args, "x", "seconds"))
    if args.as_json:
        say(json.dumps(compare_document(comparison, left_out), indent=1, allow_nan=False))
    elif args.markdown:
        say("\n".join(markdown_lines(sections)))
    else:
        print_sections(Console(), sections)
