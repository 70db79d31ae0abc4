"""What can go wrong, and how the user reads it: one line, one exit code."""

from __future__ import annotations

import difflib
import os
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from autoprog.printable import brief, one_line, printable

__all__ = [
    "AutoprogError",
    "ConfigError",
    "DivergedError",
    "ResumableError",
    "RunError",
    "RunExistsError",
    "RunLockedError",
    "command",
    "consistent",
    "suggest",
    "tell_at_once",
]


class AutoprogError(Exception):
    """Root of all errors that are shown without a traceback."""

    exit_code = 1
    on_all_ranks = True
    """Whether all processes of a run meet it alike, so that rank 0 alone prints it."""

    def __str__(self) -> str:
        """Return the message as one line, whatever names and values it quotes."""
        return one_line(super().__str__())


class ConfigError(AutoprogError, ValueError):
    """Input that cannot be used, as a sentence: *where: key: problem, but got value; hint*.

    Args:
        where: The file, flag or command that holds the value.
        key: The path of the value inside it, such as ``stages[2].img_size``; may be empty.
        problem: What is wrong, or what must hold, as "must be …" or "unknown …".
        value: The value that was given; left out of the message when it is :data:`ConfigError.NO_VALUE`.
        hint: What to do about it.
    """

    exit_code = 2
    NO_VALUE = object()  # None is a value that a file may hold

    def __init__(
        self, where: str, key: str, problem: str, value: Any = NO_VALUE, hint: str = ""
    ) -> None:
        self.where, self.key, self.problem, self.value, self.hint = where, key, problem, value, hint
        place = ": ".join(part for part in (where, key) if part)
        got = "" if value is ConfigError.NO_VALUE else f", but got {brief(value)}"
        super().__init__(f"{place}: {problem}{got}" + (f"; {hint}" if hint else ""))


class RunError(AutoprogError):
    """A run that failed for a reason outside the configuration (disk, data, device)."""

    on_all_ranks = False


class ResumableError(RunError):
    """A failure of something that can be mended, after which a run goes on where it stopped."""


class RunExistsError(RunError):
    """A run folder of that name is there already."""


class RunLockedError(RunError):
    """Another process is writing the run."""


class DivergedError(RunError):
    """A loss that is not finite, with the place where it was seen."""

    on_all_ranks = True


@contextmanager
def consistent(where: str) -> Iterator[None]:
    """Say in one sentence that numbers do not go together, for whoever calculates with those of files.

    Each file of a run may be right and yet contradict another one, such as a decision between subnets whose
    costs are not on record. `where` names what was read.

    Raises:
        ConfigError: In place of what the calculation raises.
    """
    try:
        yield
    except AutoprogError:
        raise
    except (ArithmeticError, LookupError, ValueError) as error:
        problem = f"must hold values that go together, but they contradict each other ({error!r})"
        raise ConfigError(where, "", problem, hint="--debug shows where") from error


def suggest(word: str, known: Iterable[str], list_all: bool = True) -> str:
    """Return "did you mean …?" for the nearest known word in either case, else all of them, or nothing.

    A word that was cut short, of three letters at least, is nearest to one that begins so.
    """
    names = sorted(known)
    by_lower = {name.lower(): name for name in names}
    given = word.lower()
    # A word that others begin with was cut short: similarity alone would prefer a shorter, other name.
    begun = [name for name in by_lower if len(given) >= 3 and name.startswith(given)]
    near = difflib.get_close_matches(given, begun or by_lower, n=1, cutoff=0.0 if begun else 0.6)
    if near:
        return f"did you mean {by_lower[near[0]]!r}?"
    return f"known: {', '.join(names)}" if list_all else ""


def tell_at_once(text: str) -> None:
    """Write a line on standard error, unbuffered: a signal handler must leave buffered streams alone."""
    with suppress(OSError):  # nobody may be listening
        os.write(2, f"{printable(text)}\n".encode())


def command(*words: str | Path) -> str:
    """Return ``autoprog WORDS`` for a message to name, ready to be copied into a shell."""
    # A path may hold spaces or $(…).
    return shlex.join(["autoprog", *map(str, words)])
