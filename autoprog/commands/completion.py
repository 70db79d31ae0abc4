"""``autoprog init completion``: a static script that completes commands, flags and names in a shell."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import shtab

from autoprog.cli import build_parser

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
    flag = action.option_strings[-1] if action.option_strings else ""
    kinds = set(str(action.metavar or "").split("|"))
    if flag in _NAMES:
        action.choices = _NAMES[flag]()
    elif flag in _NAMES_OR_FILES:
        _set(action, _names_or_files(flag[2:], _NAMES_OR_FILES[flag]()))
    elif kinds & {"PRESET", "SCHEDULE"}:
        _set(action, _names_or_files("schedule", _schedules()))
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


@cache
def _models() -> tuple[str, ...]:
    from supernet.elastic import growable_names
    from supernet.zoo import ZOO

    return (*ZOO, *growable_names("*"))


@cache
def _schedules() -> tuple[str, ...]:
    from autoprog.presets import PRESETS

    return tuple(PRESETS)


@cache
def _spaces() -> tuple[str, ...]:
    from autoprog.space import shipped_spaces

    return tuple(shipped_spaces())


@cache
def _recipes() -> tuple[str, ...]:
    from autoprog.recipe import RECIPES

    return tuple(RECIPES)


@cache
def _optimizers() -> tuple[str, ...]:
    from timm.optim import list_optimizers

    return tuple(list_optimizers())


_NAMES: dict[str, Callable[[], Sequence[str]]] = {
    "--model": _models,
    "--opt": _optimizers,
    "--device": lambda: ("auto", "cpu", "mps", "cuda"),
}
_NAMES_OR_FILES: dict[str, Callable[[], Sequence[str]]] = {
    "--schedule": _schedules,
    "--space": _spaces,
    "--recipe": _recipes,
}
