"""The two runs as functions: arguments are the flags of the commands, with underscores."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autoprog.cli import build_parser, flags_of
from autoprog.commands import search, train
from autoprog.errors import ConfigError, suggest
from autoprog.runs import Run, load_run

__all__ = ["run_search", "run_training"]


def run_search(model: str | None = None, **flags: Any) -> Run:
    """Find a growth schedule for `model` and train along it, as ``autoprog search`` does; return the run.

    Args:
        model: A short name such as ``deit-s`` or any timm VisionTransformer or VOLO; may be left out with
            ``initial_checkpoint`` of a run, which names it.
        **flags: Flags of ``autoprog search`` with underscores, such as ``data="DIR"`` or ``epochs=100``.

    Raises:
        ConfigError: If a flag is unknown or breaks a law.
        RunError: If the run fails.
    """
    return _carry_out("search", search.execute, {"model": model, **flags})


def run_training(schedule: str | Path, **flags: Any) -> Run:
    """Train along a schedule file or a preset, as ``autoprog train`` does; return the run.

    Args:
        schedule: A YAML file, or the name of a preset together with ``model``.
        **flags: Flags of ``autoprog train`` with underscores.

    Raises:
        ConfigError: If a flag is unknown or breaks a law.
        RunError: If the run fails.
    """
    return _carry_out("train", train.execute, {"schedule": str(schedule), **flags})


def _carry_out(
    command: str, execute: Callable[[argparse.Namespace], Path], flags: dict[str, Any]
) -> Run:
    parser = build_parser(command)
    words = [command]
    known = {flag[2:].replace("-", "_") for flag in flags_of(parser, command)}
    for name, value in flags.items():
        if name not in known:
            raise ConfigError(f"run_{command}", name, "unknown argument", hint=suggest(name, known))
        words += _words(name, value)
    try:
        args = parser.parse_args(words)
    except SystemExit:  # argparse has said on standard error which value is at fault
        raise ConfigError(f"run_{command}", "", "must get values that the flags take") from None
    return load_run(execute(args))


def _words(name: str, value: Any) -> list[str]:
    """Return a flag as the command line would have it."""
    flag = "--" + name.replace("_", "-")
    if value is True:
        return [flag]
    if value is None or value is False:
        return []
    values = value if isinstance(value, list | tuple) else [value]
    return [flag, *map(str, values)]
