"""Run the corpus: ``python tests/fuzz_tests/run.py [--cases N] [--seed S] [--only KIND] [--case NAME]``.

Every case is a command in a forked child with files of an attacker; what it did is judged. Without --cases
all of them are run, some thousands. The same seed makes the same cases.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests.fuzz_tests import (
    generators_data,
    generators_good,
    generators_run_folder,
    generators_surroundings,
    generators_weights,
    generators_yaml,
)
from tests.fuzz_tests.corpus import Case, Kind, Place, Specimens, chosen_cases
from tests.fuzz_tests.judge import faults_of
from tests.fuzz_tests.sandbox import Limits, Outcome, run_command
from tests.fuzz_tests.specimens import build, warm
from tests.fuzz_tests.table import Verdict, failures, table

__all__ = ["KINDS", "main", "run_case"]

KINDS: list[Kind] = [
    *generators_good.KINDS,
    *generators_yaml.KINDS,
    *generators_run_folder.KINDS,
    *generators_weights.KINDS,
    *generators_data.KINDS,
    *generators_surroundings.KINDS,
]


def run_case(
    case: Case, specimens: Specimens, folder: Path, limits: Limits, keep: bool = False
) -> tuple[Verdict, Outcome]:
    """Make a case, run it, judge it, and remove it."""
    place = Place(folder, specimens)
    try:
        with warnings.catch_warnings():  # of what is odd about the files, which it is meant to be
            warnings.simplefilter("ignore")
            command = case.make(place)
        outcome = run_command(command, place, limits)
    finally:
        if not keep:
            _remove(folder)
    faults = faults_of(command, outcome, limits)
    said = outcome.err.decode("utf-8", "replace")
    verdict = Verdict(
        case,
        list(command.words),
        command.note,
        outcome.code,
        outcome.seconds,
        outcome.peak_bytes,
        outcome.long,
        faults,
        said[-2_000:],
    )
    return verdict, outcome


def _remove(folder: Path) -> None:
    """Remove a folder, also one of whose parts nobody may look into."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        for parent, _, _ in os.walk(folder):
            with suppress(OSError):
                os.chmod(parent, 0o700)
        shutil.rmtree(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for, print the table and the failures; 1 where there are some."""
    args = _arguments(arguments)
    kinds = [kind for kind in KINDS if kind.name.startswith(tuple(args.only or [""]))]
    if args.kinds:
        print("\n".join(f"{kind.name}: {kind.cases}" for kind in kinds))
        return 0
    if args.case is not None:
        name, _, index = args.case.rpartition("-")
        (kind,) = (kind for kind in KINDS if kind.name == name)
        cases = [Case(kind, int(index), args.seed)]
    else:
        cases = chosen_cases(kinds, args.seed, args.cases)
    # Threads that a library starts are not there in a forked child.
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    base = Path(args.folder or tempfile.mkdtemp(prefix="autoprog-fuzz-"))
    base.mkdir(parents=True, exist_ok=True)
    try:
        warm()
        folder = args.specimens or base / "specimens"
        specimens = Specimens(folder) if folder.exists() else build(folder)
        verdicts = _all(cases, specimens, base, args)
    finally:
        if not args.keep:
            _remove(base)
    _tell(verdicts, args)
    return int(any(verdict.faults for verdict in verdicts))


def _all(
    cases: Sequence[Case], specimens: Specimens, base: Path, args: argparse.Namespace
) -> list[Verdict]:
    began, bad = time.monotonic(), 0
    verdicts = []
    for number, case in enumerate(cases, 1):
        verdict, outcome = run_case(
            case, specimens, base / case.name, Limits(args.seconds), args.keep
        )
        verdicts.append(verdict)
        bad += bool(verdict.faults)
        if args.case is not None:
            _tell_case(verdict, outcome, base / case.name)
        elif number % 20 == 0 or number == len(cases):
            spent = time.monotonic() - began
            progress = f"{number} of {len(cases)} cases, {bad} failed, {spent:.0f} s"
            print(progress, file=sys.stderr, flush=True)
        if number % 100 == 0:
            _write(verdicts, args)
    return verdicts


def _tell_case(verdict: Verdict, outcome: Outcome, folder: Path) -> None:
    """Print everything about one case, in printable characters."""
    print("words   ", " ".join(map(ascii, verdict.words))[:2_000])
    print("hostile ", verdict.note)
    print(
        "ended   ",
        verdict.code,
        f"after {verdict.seconds:.2f} s, {verdict.peak_bytes / 2**20:.0f} MB",
    )
    for name, text in (("stdout", outcome.out), ("stderr", outcome.err)):
        lines = text.decode("utf-8", "replace").split("\n")
        print(
            f"{name}:", *(f"  {ascii(line)[1:-1][:600]}" for line in lines[:60] if line), sep="\n"
        )
    for note in outcome.notes:
        print("noted   ", note["what"], note["detail"])
    for change in outcome.changes:
        print("changed ", ascii(change))
    print("folder  ", folder)


def _tell(verdicts: Sequence[Verdict], args: argparse.Namespace) -> None:
    print(table(verdicts))
    print(failures(verdicts))
    _write(verdicts, args)


def _write(verdicts: Sequence[Verdict], args: argparse.Namespace) -> None:
    """Write what is known so far to the files that are asked for."""
    if args.markdown:
        seconds = sum(one.seconds for one in verdicts) / len(verdicts)
        head = f"{len(verdicts)} cases, seed {args.seed}, {seconds:.2f} s a case"
        text = f"{head}\n\n{table(verdicts)}\n{failures(verdicts)}\n"
        args.markdown.write_text(text, "utf-8", "backslashreplace")
    if args.json:
        rows = [
            {
                "case": one.case.name,
                "again": one.again,
                "words": list(map(ascii, one.words)),
                "note": ascii(one.note),
                "code": one.code,
                "seconds": one.seconds,
                "peak_bytes": one.peak_bytes,
                "said": ascii(one.said[-1_500:]),
                "faults": [asdict(fault) for fault in one.faults],
            }
            for one in verdicts
        ]
        args.json.write_text(json.dumps(rows, indent=1), "utf-8")


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, help="about so many, from all kinds (all)")
    parser.add_argument("--seed", type=int, default=0)
    only = "only kinds whose names begin so"
    parser.add_argument("--only", nargs="+", metavar="KIND", help=only)
    parser.add_argument("--case", metavar="NAME", help="one case, with everything about it")
    parser.add_argument("--kinds", action="store_true", help="list the kinds, and run nothing")
    parser.add_argument("--seconds", type=float, default=10.0, help="after which a case hangs (10)")
    parser.add_argument("--folder", help="where cases are made (a temporary folder)")
    again = "take what is made into cases from there, and make it where it is not (made anew)"
    parser.add_argument("--specimens", type=Path, metavar="DIR", help=again)
    parser.add_argument("--keep", action="store_true", help="leave the folders of the cases")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write table and failures")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every case")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
