"""``autoprog init completion``: a static script that completes commands, flags and names in a shell."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import shtab
from timm.optim import list_optimizers

from autoprog.cli import build_parser
from autoprog.presets import PRESETS
from autoprog.recipe import RECIPES
from autoprog.space import shipped_spaces
from supernet.elastic import growable_names
from supernet.zoo import ZOO

__all__ = ["completion_script"]


def completion_script(shell: str) -> str:
    """Return the script for ``bash``, ``zsh`` or ``tcsh``; nothing of autoprog runs while it completes."""
    parser = build_parser(None, all_flags=True)
    for action in _actions(parser):
        _complete(action)
    return str(shtab.complete(parser, shell))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield every argument that takes a value other than given choices."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
        elif action.nargs != 0 and not action.choices:
            yield action


def _complete(action: argparse.Action) -> None:
    """Say to shtab what a value is completed with; numbers and free text are left alone."""
    # By the flag where names are known, else by what stands for its value in the help.
    flag = action.option_strings[-1] if action.option_strings else ""
    kinds = set(str(action.metavar or "").split("|"))
    if flag in _NAMES:
        action.choices = _NAMES[flag]()
    elif flag in _NAMES_OR_FILES:
        _set(action, _names_or_files(flag[2:], _NAMES_OR_FILES[flag]()))
    elif kinds & {"PRESET", "SCHEDULE"}:
        _set(action, _names_or_files("schedule", _preset_names()))
    elif kinds & {"FILE", "PATH"}:
        _set(action, shtab.FILE)
    elif kinds & {"RUN", "DIR"}:
        _set(action, shtab.DIRECTORY)


def _set(action: argparse.Action, completion: Any) -> None:
    setattr(action, "complete", completion)  # noqa: B010 (where shtab looks for it)


def _names_or_files(key: str, names: Sequence[str]) -> dict[str, Any]:
    """Return a completion by names and by files; tcsh has names alone."""
    text, function = " ".join(names), f"_autoprog_{key}_or_file"
    return {
        "bash": function,
        "zsh": function,
        "tcsh": f"({text})",
        "preamble": {
            "bash": f'{function}() {{\n  compgen -W "{text}" -- "$1"\n  compgen -f -- "$1"\n}}',
            "zsh": f"{function}() {{\n  _alternative 'names:name:({text})' 'files:file:_files'\n}}",
        },
    }


def _preset_names() -> Sequence[str]:
    return tuple(PRESETS)


# Names are looked up when a script is made: those of models and optimizers take timm a while.
_NAMES: dict[str, Callable[[], Sequence[str]]] = {
    "--model": cache(lambda: (*ZOO, *growable_names("*"))),
    "--opt": cache(lambda: tuple(list_optimizers())),
    "--device": lambda: ("auto", "cpu", "mps", "cuda"),
}
_NAMES_OR_FILES: dict[str, Callable[[], Sequence[str]]] = {
    "--schedule": _preset_names,
    "--space": lambda: tuple(shipped_spaces()),
    "--recipe": lambda: tuple(RECIPES),
}
