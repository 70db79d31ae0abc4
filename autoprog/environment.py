"""What the environment says to a process: numbers that torchrun or a user sets, and the cores to use."""

from __future__ import annotations

import argparse
import os
from contextlib import suppress
from typing import Any

from autoprog.bounds import Processes, TerminalSize, range_of
from autoprog.errors import ConfigError

__all__ = [
    "CORES_VARIABLE",
    "VariableError",
    "forget_odd_sizes",
    "number_in",
    "optional_number_in",
    "usable_cores",
]

CORES_VARIABLE = "PYTHON_CPU_COUNT"
"""How many cores a process may use, whatever the machine has; Python 3.13 goes by it as well."""


class VariableError(ConfigError):
    """An environment variable that is missing or no number; each process says so of its own."""

    on_all_ranks = False


def number_in(variable: str, number: Any) -> int:
    """Return the number that an environment variable holds, bounded as a type of :mod:`autoprog.bounds`.

    Raises:
        VariableError: If there is none.
    """
    text = os.environ.get(variable)
    if text is None:
        hint = "start with torchrun, or unset WORLD_SIZE"
        raise VariableError(variable, "", "must be set where WORLD_SIZE is", hint=hint)
    bounds = range_of(number)
    try:
        return int(bounds(text))
    except argparse.ArgumentTypeError:
        hint = "it is an environment variable: unset or correct it"
        raise VariableError(variable, "", bounds.problem, text, hint) from None


def optional_number_in(variable: str, number: Any, default: int) -> int:
    """Return the number that an environment variable holds, and the default where it is not set.

    Raises:
        VariableError: If it holds something else.
    """
    return number_in(variable, number) if variable in os.environ else default


def forget_odd_sizes() -> None:
    """Unset COLUMNS and LINES where no terminal is of that size: rich and argparse would show nothing."""
    sizes = range_of(TerminalSize)
    for variable in ("COLUMNS", "LINES"):
        try:
            sizes(os.environ.get(variable, str(sizes.low)))
        except argparse.ArgumentTypeError:
            del os.environ[variable]


def usable_cores() -> int:
    """Return the number of cores that this process may use: what the environment says, else its affinity."""
    given = os.environ.get(CORES_VARIABLE, "")
    with suppress(argparse.ArgumentTypeError):  # what is no number of cores says nothing
        return int(range_of(Processes)(given))
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
