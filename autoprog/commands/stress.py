"""``autoprog bench stress``: kill a run again and again, and see whether its end stays the same."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from autoprog.bounds import Few, Seed, range_of
from autoprog.errors import ConfigError, RunError
from autoprog.printable import say
from autoprog.supervise import ending_on_sigterm

__all__ = ["add_flags", "run"]

_REFUSED = {
    "-h": "see autoprog train --help",
    "--help": "see autoprog train --help",
    "--debug": "it goes before the --",
    "--runs-dir": "runs go into a folder of their own, see --keep",
    "--resume": "every run here is a new one",
    "--checkpoint-minutes": "a checkpoint is written as often as can be",
    "-q": "nothing of the runs is shown anyway",
    "--quiet": "nothing of the runs is shown anyway",
    "--time-budget": "a run by the clock never comes to the same end twice",
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add how often and by what to kill, and the command that it is about."""
    parser.usage = "%(prog)s [FLAGS] -- train|search [ITS FLAGS]"
    parser.epilog = (
        "The command is carried out once without interruption and then again with N kills at random\n"
        "points, each followed by --resume. Both ends must be equal to the last bit.\n"
        "Exit code 0: they are; 1: they are not, or an attempt failed.\n\n"
        "examples:\n"
        "  autoprog bench stress -- train --schedule linear --model vit-mu --epochs 4 --workers 2\n"
        "  autoprog bench stress --kills 50 --signal mixed -- search --model vit-mu --epochs 8\n"
        "  autoprog bench stress --kills 5 --keep stress -- train --schedule best.yaml --data DIR\n"
    )
    parser.add_argument(
        "--kills", type=range_of(Few), default=20, metavar="N", help="how often (20)"
    )
    parser.add_argument(
        "--signal",
        choices=["KILL", "TERM", "INT", "mixed"],
        default="KILL",
        help="by what; after TERM and INT the exit code and the checkpoint are checked too (KILL)",
    )
    parser.add_argument(
        "--stress-seed", type=range_of(Seed), default=0, metavar="S", help="seed of the moments (0)"
    )
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="put all files into DIR and leave them there"
    )
    parser.add_argument("--json", action="store_true", dest="as_json", help="one JSON object")
    parser.add_argument(
        "words",
        nargs=argparse.REMAINDER,
        metavar="-- COMMAND",
        help="train or search, with its flags",
    )


def run(args: argparse.Namespace) -> int:
    """Carry out the command: 0 if all ends are equal, 1 if not."""
    words = _checked(args.words)
    from autoprog.bench.stress import Plan, StressView, stress
    from autoprog.commands.resume import words_to_repeat
    from autoprog.console import Console

    console = Console(highlight=False, stderr=args.as_json)  # stdout holds the JSON alone
    with ending_on_sigterm(), _work_folder(args.keep) as work:
        again = words_to_repeat(words)
        plan = Plan(words, args.kills, args.signal, args.stress_seed, work, again)
        # Closed in any case: the run under test ends with this program.
        with StressView(console, plan) as view, closing(stress(plan)) as reports:
            for report in reports:
                view.show(report)
        view.conclude()
        summary = view.summary
        if args.as_json:
            say(json.dumps(summary.as_json(view.wall_seconds), indent=1))
        if not summary.equal:
            raise RunError("a run with kills came to another end")
    return 0


def _checked(words: Sequence[str]) -> tuple[str, ...]:
    """Return the command after refusing what a run under test cannot have.

    Raises:
        ConfigError: If it is no search or training run, or has a flag that is set here.
    """
    given = tuple(words[1:] if words[:1] == ["--"] else words)
    if given[:1] not in (("train",), ("search",)):
        hint = "such as autoprog bench stress -- train --schedule linear --model vit-mu --epochs 4"
        got = given[0] if given else ConfigError.NO_VALUE
        raise ConfigError("bench stress", "", "expects train or search after --", got, hint)
    for word in given:
        flag = word.partition("=")[0]
        if flag in _REFUSED:
            raise ConfigError(f"bench stress: {flag}", "", "must be left out", hint=_REFUSED[flag])
    return given


@contextmanager
def _work_folder(keep: Path | None) -> Iterator[Path]:
    """Yield the folder for all runs; one of ours goes away in the end, unless something was wrong.

    Raises:
        ConfigError: If the given folder cannot serve.
        RunError: What was wrong, with where the files are.
    """
    if keep is None:
        work, keeps = Path(tempfile.mkdtemp(prefix="autoprog-stress-")), False
    else:
        work, keeps = keep, True
        try:
            work.mkdir(parents=True, exist_ok=True)
            if any(work.iterdir()):
                raise ConfigError("--keep", "", "must be a new or an empty folder", str(work))
        except OSError as error:
            problem = f"must be a folder that can be made: {error.strerror}"
            raise ConfigError("--keep", "", problem, str(work)) from None
    try:
        yield work
    except RunError as error:
        keeps = True  # to find out what was wrong
        raise RunError(f"{error}; all files are in {work}") from None
    finally:
        if not keeps:
            shutil.rmtree(work)
