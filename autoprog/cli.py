"""The command line: one parser a command, built only when it is asked for; errors become exit codes.

Exit codes: 0 done, 1 the run failed, 2 usage or configuration, 130 and 143 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rich_argparse import RawDescriptionRichHelpFormatter

from autoprog.environment import forget_odd_sizes
from autoprog.errors import AutoprogError, suggest
from autoprog.libwarnings import passed_on
from autoprog.printable import brief, one_line, say

__all__ = [
    "COMMANDS",
    "RENAMED_COMMANDS",
    "RENAMED_FLAGS",
    "add_subcommands",
    "build_parser",
    "command_module",
    "flags_of",
    "main",
]

COMMANDS = {
    "search": "find a growth schedule and train along it",
    "train": "train along a schedule: a file or a preset",
    "show": "draw a run, a schedule file or a preset, or take a run's decisions again",
    "compare": "set finished runs side by side: accuracy, time, compute and memory",
    "inspect": "look through runs in the terminal, also while they train",
    "verify": "compare a search or a schedule with the baseline, paired by seed, and judge",
    "bench": "measure the runner, costs and presets on this machine, run a tier, or stress a run",
    "evaluate": "accuracy, speed and compute of weights over image sizes and keep-rates",
    "export": "write final weights for timm, the Hugging Face hub or ONNX, or a run's log for W&B",
    "list": "list models, search spaces, presets or the caches of decoded images",
    "init": "write a starter file, its JSON Schema, or a shell's completion script",
    "doctor": "check what would be slow or wrong on this machine",
}

_WITH_TORCH = {"search", "train", "evaluate", "export", "verify", "bench"}

_EXAMPLES = """examples:
  autoprog search --model deit-s                    a whole search on the embedded digits, in minutes
  autoprog search --model deit-s --data DIR         on your images: DIR/train and DIR/val, or .tar files
  autoprog train --schedule runs/…/best.yaml        repeat what was found
  autoprog train --schedule linear --model deit-s   AutoProg's hand-made ramp
  autoprog list presets                             what other schedules there are
  autoprog show runs/…                              what was decided, and why
  autoprog compare runs/… runs/…                    accuracy, time and compute side by side
  autoprog inspect                                  move through all runs and their views by keys
  autoprog evaluate runs/… --grid                   accuracy over image sizes and keep-rates
  autoprog verify --search --model deit-s --data DIR --seeds 5         is the speed-up real
  autoprog bench runner --schedule linear --model deit-s --data DIR    how fast the runner is here
  autoprog bench stress -- train --schedule linear --model vit-mu      kill it 20 times, compare the bits
"""

RENAMED_COMMANDS = {
    "schedules": "list presets",
    "models": "list models",
    "spaces": "list spaces",
    "cache": "list caches [--remove NAME …]",
    "log": "export RUN --format tensorboard|wandb",
    "schema": "init space|recipe|schedule --schema",
    "completion": "init completion bash|zsh|tcsh",
    "stress": "bench stress -- train|search …",
}
"""The commands of schema 1, and what each is now."""

RENAMED_FLAGS = {
    "--data-share": "--data-fraction",
    "--supernet-share": "--supernet-fraction",
    "--search-share": "--search-fraction",
    "--min-full-share": "--min-full-fraction",
    "--warmup-share": "--warmup-fraction",
    "--decay-share": "--decay-fraction",
    "--time-share": "--cost-fraction",
    "--tail-trials": "--continuation-trials",
    "--grow-op": "--grow-init ema|copy|zero",
    "--grow-map": "--grow-placement interpolate|stack",
    "--grow-source": "--grow-old-blocks keep|ema",
    "--grow-state": "--grow-optimizer-state copy|fresh|reset",
}
"""The flags of schema 1, and what each is now."""

_MOVED_FLAGS = {
    ("search", "--replay"): "autoprog show RUN --replay",
    ("bench", "--tier"): "autoprog bench tier NAME",
}
"""Flags that have left a command, and where what they did is now."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    # Read by GNU OpenMP when torch loads: how long a waiting thread spins before it sleeps, by
    # default so long that any other busy process stalls training. Measured, seconds a step of a
    # small ViT with 2 threads on 2 cores: alone 0.16 by default and 0.16 with this; beside two busy
    # processes 0.64 and 0.35.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    if "WORLD_SIZE" in os.environ:  # else torch advises against what supernets need, on every rank
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    forget_odd_sizes()
    if isinstance(sys.stdout, io.TextIOWrapper):  # what an output cannot show is no reason to fail
        sys.stdout.reconfigure(errors="replace")
    given = list(sys.argv[1:] if arguments is None else arguments)
    first = next((word for word in given if not word.startswith("-")), None)
    parser = build_parser(first)
    if old := _old_spelling(parser, first, given):
        say(f"autoprog: {old}", file=sys.stderr)
        return 2
    args, unknown = parser.parse_known_args(given)
    try:  # torch ends a process that has no working directory, so this is said before it is loaded
        os.getcwd()
    except OSError:
        say("autoprog: the working directory is gone; change to another one", file=sys.stderr)
        return 2
    if unknown:
        parser.error(_about_unknown(_choices(parser)[args.command], args, unknown[0]))
    try:
        with passed_on(lambda text: say(f"autoprog: warning: {text}", file=sys.stderr)):
            is_log = getattr(args, "format", None) in ("tensorboard", "wandb")  # needs no torch
            if args.command in _WITH_TORCH and not is_log and sys.stderr.isatty():
                _load_torch()
            return command_module(args.command).run(args)
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
    try:
        release = version("autoprog")
    except PackageNotFoundError:
        release = "0 (not installed)"
    parser.add_argument("--version", action="version", version=f"autoprog {release}")
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
            command_module(name).add_flags(sub)
    return parser


def add_subcommands(
    parser: argparse.ArgumentParser,
    dest: str,
    commands: Mapping[str, tuple[str, Callable[[argparse.ArgumentParser], None]]],
) -> None:
    """Add the second words of a command, each with its summary and the function that adds its flags."""
    second = parser.add_subparsers(dest=dest, required=True, metavar=dest.upper())
    for name, (summary, add_flags) in commands.items():
        sub = second.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
        )
        # Without SUPPRESS the default here would overwrite what stood before the second word.
        sub.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks"
        )
        add_flags(sub)


def flags_of(parser: argparse.ArgumentParser, command: str) -> set[str]:
    """Return the long flags of a command and of its second words, such as ``--batch-size``."""
    return {flag for flag in _options(_choices(parser)[command]) if flag.startswith("--")}


def _choices(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    """Return the parsers of the next word, by that word; none for a parser without such a word."""
    found = (a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return next(found, {})


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield from (option for action in parser._actions for option in action.option_strings)
    for sub in _choices(parser).values():
        yield from _options(sub)


def _about_unknown(parser: argparse.ArgumentParser, args: argparse.Namespace, argument: str) -> str:
    """Return what is wrong with an argument that the command does not take, and the nearest it takes."""
    flag = argument.partition("=")[0]
    for action in parser._actions:  # the parser of the second word, if the command has one
        if isinstance(action, argparse._SubParsersAction):
            for word, other in action.choices.items():
                if flag in _options(other) and word != getattr(args, action.dest):
                    return f"{flag} must be given with {other.prog}"
            parser = action.choices[getattr(args, action.dest)]
    near = suggest(argument, [*_options(parser)], list_all=False)
    return f"unknown argument {argument}" + (f"; {near}" if near else "")


def _old_spelling(
    parser: argparse.ArgumentParser, command: str | None, words: Sequence[str]
) -> str | None:
    """Return what the first command or flag of schema 1 is called now; None where there is none."""
    if command in RENAMED_COMMANDS:
        return f"{command} is now: autoprog {RENAMED_COMMANDS[command]}"
    if command not in COMMANDS:
        return None
    # Words behind -- are flags too: those of the search that verify or bench stress starts.
    flags, known = (word.partition("=")[0] for word in words), flags_of(parser, command)
    for flag in flags:
        now = RENAMED_FLAGS.get(flag) or _MOVED_FLAGS.get((command, flag))
        if now is not None and flag not in known:
            return f"{flag} is now: {now}"
    return None


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
        if isinstance(action, argparse._SubParsersAction) and action.dest == "command":
            # "help" is nearest to --help
            options = [flag for one in self._actions for flag in one.option_strings]
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


def command_module(name: str):  # type: ignore[no-untyped-def]
    """Import one command's module: they are what pulls in torch, pydantic or rich."""
    return importlib.import_module(f"autoprog.commands.{name}")


def _load_torch() -> None:
    """Import what takes seconds, and say so meanwhile: a terminal that stays empty looks stuck."""
    sys.stderr.write("loading torch …")
    sys.stderr.flush()
    for name in ("torch", "timm"):  # the two that take seconds; all else takes a tenth of one
        importlib.import_module(name)
    sys.stderr.write("\r\x1b[K")
    sys.stderr.flush()
