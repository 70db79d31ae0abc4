"""``autoprog train``: train along a schedule."""

from __future__ import annotations

import argparse
from pathlib import Path

from autoprog.commands.flags import (
    add_dry_run_flag,
    add_training_flags,
    only_carries_out,
)
from autoprog.errors import ConfigError

__all__ = ["add_flags", "execute", "run"]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a training run."""
    parser.epilog = (
        "examples:\n"
        "  autoprog train --schedule runs/…/best.yaml --data DIR\n"
        "  autoprog train --schedule constant --model deit-s --data DIR --epochs 100\n"
        "  autoprog train --elastic --model deit-s --data DIR\n"
        "  autoprog train --resume last    # or runs/…, or auto: the newest unfinished one\n"
    )
    add_training_flags(parser)
    add_dry_run_flag(parser)


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    if hasattr(args, "dry_run"):
        _check_schedule_given(args)
        from autoprog.commands.configure import configure_train
        from autoprog.commands.dry_run import dry_run

        dry_run(args, configure_train)
    else:
        execute(args)
    return 0


def execute(args: argparse.Namespace) -> Path:
    """Train; return the run folder."""
    if hasattr(args, "dry_run"):
        raise ConfigError("--dry-run", "", "must be given to the command autoprog train")
    if hasattr(args, "as_json"):
        raise ConfigError("--json", "", "must be given together with --dry-run")
    # A run that is named knows its schedule; --resume auto with nothing but how to carry out means one too.
    if args.resume is None or (args.resume == "auto" and not only_carries_out(args)):
        _check_schedule_given(args)
    # Only here, so that a slip in the flags is answered before torch is loaded.
    from autoprog.commands.configure import configure_train
    from autoprog.commands.launch import launch

    return launch(args, configure_train)


def _check_schedule_given(args: argparse.Namespace) -> None:
    if args.resume in (None, "auto") and not hasattr(args, "schedule"):
        hint = "give a YAML file, or a preset with --model"
        raise ConfigError("--schedule", "", "must be given", hint=hint)
