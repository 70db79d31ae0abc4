"""The command line: one parser a command, built only when it is asked for; errors become exit codes.

Exit codes: 0 done, 1 the run failed, 2 usage or configuration, 130 and 143 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rich_argparse import RawDescriptionRichHelpFormatter

from autoprog.environment import forget_odd_sizes
from autoprog.errors import AutoprogError, suggest
from autoprog.libwarnings import passed_on
from autoprog.printable import brief, one_line, say

__all__ = ["COMMANDS", "build_parser", "flags_of", "main"]

COMMANDS = {
    "search": "find a growth schedule and train along it",
    "train": "train along a schedule: a file or a preset",
    "show": "draw a run, a schedule file or a preset",
    "compare": "set finished runs side by side: accuracy, time, compute and memory",
    "inspect": "look through runs in the terminal, also while they train",
    "schedules": "list the schedules that have a name",
    "models": "list the models that have a short name, or those of timm that can grow",
    "spaces": "list the search spaces that ship with autoprog",
    "evaluate": "accuracy, speed and compute of weights over image sizes and keep-rates",
    "export": "write a run's final weights for timm, the Hugging Face hub, torch.export or ONNX",
    "cache": "list the decoded images that --cache keeps on disk, or remove them",
    "log": "pass a run on to TensorBoard or Weights & Biases",
    "init": "write a commented starter file of a search space, a recipe or a schedule",
    "schema": "print the JSON Schema of a search space, a schedule or a recipe, for editors",
    "completion": "print a script that completes commands, flags and names in a shell",
    "doctor": "check what would be slow or wrong on this machine",
    "bench": "measure the runner, its costs and its schedules on this machine",
    "verify": "compare a search or a schedule with the baseline, paired by seed, and judge",
    "stress": "kill a run at random points and compare how it ends",
}

_WITH_TORCH = {"search", "train", "evaluate", "export", "verify", "bench"}

_EXAMPLES = """examples:
  autoprog search --model deit-s                    a whole search on the embedded digits, in minutes
  autoprog search --model deit-s --data DIR         on your images: DIR/train and DIR/val, or .tar files
  autoprog train --schedule runs/…/best.yaml        repeat what was found
  autoprog train --schedule linear --model deit-s   AutoProg's hand-made ramp
  autoprog schedules                                what other schedules there are
  autoprog show runs/…                              what was decided, and why
  autoprog compare runs/… runs/…                    accuracy, time and compute side by side
  autoprog inspect                                  move through all runs and their views by keys
  autoprog evaluate runs/… --grid                   accuracy over image sizes and keep-rates
  autoprog bench runner --schedule linear --model deit-s --data DIR    how fast the runner is here
  autoprog verify --search --model deit-s --data DIR --seeds 5         is the speed-up real
  autoprog stress -- train --schedule linear --model vit-mu            kill it 20 times, compare the bits
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    # Read by GNU OpenMP when torch loads: how long a waiting thread spins before it sleeps. By
    # default so
    # long that any other busy process stalls training. Measured, seconds a step of a small ViT with
    # 2 threads
    # on 2 cores: alone 0.16 by default and 0.16 so; beside two busy processes 0.64 and 0.35.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    if "WORLD_SIZE" in os.environ:  # else torch advises against what supernets need, on every rank
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    forget_odd_sizes()
    if isinstance(sys.stdout, io.TextIOWrapper):  # what an output cannot show is no reason to fail
        sys.stdout.reconfigure(errors="replace")
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = build_parser(_first_word(given))
    args, unknown = parser.parse_known_args(given)
    if not _has_working_directory():  # before torch is loaded, which ends the process then
        say("autoprog: the working directory is gone; change to another one", file=sys.stderr)
        return 2
    if unknown:
        near = suggest(unknown[0], flags_of(parser, args.command), list_all=False)
        parser.error(f"unknown argument {unknown[0]}" + (f"; {near}" if near else ""))
    try:
        with passed_on(lambda text: say(f"autoprog: warning: {text}", file=sys.stderr)):
            if args.command in _WITH_TORCH and sys.stderr.isatty():
                _load_torch()
            return _command(args.command).run(args)
    except AutoprogError as error:
        if args.debug:
            raise
        rank = one_line(os.environ.get("RANK", "0"), 40) if "WORLD_SIZE" in os.environ else "0"
        if rank == "0" or not error.on_all_ranks:
            name = "autoprog" if rank == "0" else f"autoprog: rank {rank}"
            say(f"{name}: {error}", file=sys.stderr)
        return error.exit_code
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):
            return 0  # where nobody reads on, rich's consoles end so
        raise
    except KeyboardInterrupt:
        say("autoprog: stopped by SIGINT", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except (MemoryError, RecursionError, UnicodeEncodeError, OSError) as error:
        if args.debug:
            raise
        say(f"autoprog: {_cause(error)}", file=sys.stderr)
        return 2 if isinstance(error, RecursionError | UnicodeEncodeError) else 1


def build_parser(command: str | None, *, all_flags: bool = False) -> argparse.ArgumentParser:
    """Return the parser; only `command` gets its flags, since filling in all of them takes longest.

    With `all_flags` every command gets them.
    """
    parser = _Parser(
        prog="autoprog",
        description="Progressive learning for Vision Transformers: search when, where and by how much"
        " to grow, train that way, and get a plain timm checkpoint.",
        epilog=_EXAMPLES,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"autoprog {_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
        )
        sub.add_argument("--debug", action="store_true", help="show tracebacks")
        if all_flags or name == command:
            _command(name).add_flags(sub)
    return parser


def flags_of(parser: argparse.ArgumentParser, command: str) -> set[str]:
    """Return the long flags of a command, such as ``--batch-size``."""
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    options = (option for a in commands.choices[command]._actions for option in a.option_strings)
    return {option for option in options if option.startswith("--")}


class _HelpFormatter(RawDescriptionRichHelpFormatter):
    """Help in colour whose brackets are brackets, as in ``pip install 'autoprog[wandb]'``."""

    help_markup = text_markup = False


class _Parser(argparse.ArgumentParser):
    """An argument parser whose usage errors are one line, with the nearest word that is known."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse what is none of an argument's choices (a method that argparse calls)."""
        if action.choices is None or value in action.choices:
            return
        known = [str(choice) for choice in action.choices]
        if isinstance(action, argparse._SubParsersAction):
            options = [
                flag for one in self._actions for flag in one.option_strings
            ]  # as for "help"
            near = suggest(str(value), [*known, *options], list_all=False)
            problem = f"unknown command {value!r}; {near or suggest('', known)}"
            raise argparse.ArgumentError(None, problem)
        problem = f"must be {' or '.join(filter(None, (', '.join(known[:-1]), known[-1])))}"
        near = suggest(str(value), known, list_all=False)
        problem += f", but got {value!r}" + (f"; {near}" if near else "")
        raise argparse.ArgumentError(action, problem)

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """Refuse ``--flag=--``, of which argparse makes an empty list (a method that argparse calls)."""
        if action.option_strings and arg_strings == ["--"]:
            raise argparse.ArgumentError(action, "must be given a value, but got '--'")
        return super()._get_values(action, arg_strings)

    def error(self, message: str) -> None:  # type: ignore[override]
        """Print one line with the way to help; exit with 2."""
        self.exit(2, one_line(f"{self.prog}: {message}") + f" (see {self.prog} --help)\n")


def _cause(error: MemoryError | RecursionError | UnicodeEncodeError | OSError) -> str:
    """Return in one line what no command has a better sentence for."""
    match error:
        case MemoryError():
            return "out of memory: what was given is too large for this machine"
        case RecursionError():
            return "what was given is nested too deep"
        case OSError():
            place = "" if error.filename is None else f"{brief(error.filename)}: "
            return one_line(f"{place}{error.strerror or error}")
        case _:
            return one_line(
                f"names and texts must be UTF-8: {error.reason} in {brief(error.object)}"
            )


def _has_working_directory() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def _command(name: str):  # type: ignore[no-untyped-def]
    """Import one command's module: they are what pulls in torch, pydantic or rich."""
    return importlib.import_module(f"autoprog.commands.{name}")


def _load_torch() -> None:
    """Import what takes seconds, and say so meanwhile: a terminal that stays empty looks stuck."""
    sys.stderr.write("loading torch …")
    sys.stderr.flush()
    for name in ("torch", "timm"):
        importlib.import_module(name)
    sys.stderr.write("\r\x1b[K")
    sys.stderr.flush()


def _first_word(arguments: Sequence[str]) -> str | None:
    return next((word for word in arguments if not word.startswith("-")), None)


def _version() -> str:
    try:
        return version("autoprog")
    except PackageNotFoundError:
        return "0 (not installed)"
