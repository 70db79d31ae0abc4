"""Numbers in environment variables, which torchrun sets, or whoever starts the program."""

from __future__ import annotations

import argparse
import os
from typing import Any

from autoprog.bounds import TerminalSize, range_of
from autoprog.errors import ConfigError

__all__ = ["VariableError", "forget_odd_sizes", "number_in", "optional_number_in"]


class VariableError(ConfigError):
    """An environment variable that is missing or no number; each process tells of its own."""

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
