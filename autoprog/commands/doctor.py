"""``autoprog doctor``: what would be slow or wrong on this machine, and what to do about it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from autoprog.bench.packages import Finding, check_packages
from autoprog.bounds import OpenFraction, range_of
from autoprog.printable import say

__all__ = ["add_flags", "run"]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what to look at, and the form of the answer."""
    parser.epilog = (
        "examples:\n"
        "  autoprog doctor\n"
        "  autoprog doctor --data DIR --runs-dir /scratch/runs\n"
        "  autoprog doctor --json\n"
        "\nexit codes: 0 nothing is wrong (slow is not wrong), 1 something is\n"
    )
    # Said by hand and not by the fields of the settings: pydantic may be what is missing here.
    group = parser.add_argument_group("what to look at")
    group.add_argument(
        "--data",
        metavar="DIR",
        help="folder with train and val: what it holds, whether its images can be read, and how fast"
        " (default: the embedded digits)",
    )
    fraction = "as in a training: data without a val part"
    group.add_argument("--val-fraction", type=range_of(OpenFraction), metavar="F", help=fraction)
    first = "as in a training: the folder of a class (default: auto)"
    group.add_argument(
        "--class-folders", choices=["auto", "first", "innermost"], default="auto", help=first
    )
    group.add_argument(
        "--runs-dir",
        default="runs",
        metavar="DIR",
        help="where run folders would go (default: runs)",
    )
    parser.add_argument("--json", action="store_true", dest="as_json", help="one JSON list")


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    found = []
    for finding in _findings(args):
        found.append(finding)
        if not args.as_json:  # line by line as it is known; no colours, since rich may be missing
            hint = f"; {finding.hint}" if finding.hint else ""
            say(f"{finding.verdict:<6}{finding.subject:<11} {finding.found}{hint}", flush=True)
    if args.as_json:
        say(json.dumps([asdict(finding) for finding in found], indent=1))
    return 1 if any(finding.verdict == "wrong" for finding in found) else 0


def _findings(args: argparse.Namespace) -> Iterator[Finding]:
    """Yield what is found; without its packages the rest of the program cannot be asked."""
    packages = list(check_packages())
    yield from packages
    if any(finding.verdict == "wrong" for finding in packages):
        return
    from autoprog.bench.doctor import findings
    from autoprog.files import parse
    from autoprog.settings import DataSettings

    values = {"dir": args.data, "val_fraction": args.val_fraction}
    data = parse(DataSettings, {**values, "class_folders": args.class_folders}, "flags")
    yield from findings(Path(args.runs_dir), data)
