"""The two runs as functions: arguments are the flags of the commands, with underscores."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoprog.cli import build_parser, command_module
from autoprog.errors import ConfigError, suggest
from autoprog.options import number_text
from autoprog.runs import Run, load_run

__all__ = ["run_search", "run_training"]


def run_search(model: str | None = None, **flags: Any) -> Run:
    """Find a growth schedule for `model` and train along it, as ``autoprog search`` does; return the run.

    Args:
        model: A short name such as ``deit-s`` or any timm VisionTransformer or VOLO; may be left out with
            ``initial_checkpoint`` of a run, which names it.
        **flags: Flags of ``autoprog search`` with underscores, such as ``data="DIR"`` or ``epochs=100``.

    Raises:
        ConfigError: If a flag is unknown, or its value is refused.
        RunError: If the run fails.
    """
    return load_run(
        command_module("search").execute(_arguments("search", {"model": model, **flags}))
    )


def run_training(schedule: str | Path, **flags: Any) -> Run:
    """Train along a schedule file or a preset, as ``autoprog train`` does; return the run.

    Args:
        schedule: A YAML file, or the name of a preset together with ``model``.
        **flags: Flags of ``autoprog train`` with underscores.

    Raises:
        ConfigError: If a flag is unknown, or its value is refused.
        RunError: If the run fails.
    """
    return load_run(
        command_module("train").execute(_arguments("train", {"schedule": schedule, **flags}))
    )


def _arguments(command: str, values: Mapping[str, Any]) -> argparse.Namespace:
    """Return what the parser of a command would make of flags with these values.

    Raises:
        ConfigError: If a flag is unknown, or does not take its value.
    """
    parser, where = build_parser(command), f"run_{command}"
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    actions = {
        flag[2:].replace("-", "_"): action
        for action in commands.choices[command]._actions
        for flag in action.option_strings
        if flag.startswith("--") and action.dest != "help"
    }
    args = argparse.Namespace(command=command)
    for action in actions.values():
        if action.default is not argparse.SUPPRESS:
            setattr(args, action.dest, action.default)
    for name, value in values.items():
        if name not in actions:
            raise ConfigError(where, name, "unknown argument", hint=suggest(name, actions))
        if value is not None and value is not False:
            setattr(args, actions[name].dest, _value(actions[name], value, where, name))
    return args


def _value(action: argparse.Action, value: Any, where: str, name: str) -> Any:
    """Return a value as its flag has it: a number in its bounds, one of its words, or a text."""
    if value is True and (action.nargs in (0, "?")):
        return action.const  # as the flag alone
    if action.nargs == 0:
        raise ConfigError(where, name, "must be True or False", value)
    # A flag with several values takes a list or a pair of them.
    several = action.nargs is not None and action.nargs != "?"
    given = value if several and isinstance(value, list | tuple) else [value]
    if isinstance(action.nargs, int) and len(given) != action.nargs:
        raise ConfigError(where, name, f"must be {action.nargs} values", value)
    found = []
    for one in given:
        # As a word of the command line, so that bounds and choices hold here as they do there.
        text = number_text(one)
        if callable(action.type):
            try:
                found.append(action.type(text))
            except argparse.ArgumentTypeError as error:
                raise ConfigError(where, name, str(error)) from None
        elif action.choices is not None and text not in action.choices:
            known = ", ".join(map(str, action.choices))
            raise ConfigError(where, name, f"must be one of {known}", one)
        else:
            found.append(text)
    return found if several else found[0]
