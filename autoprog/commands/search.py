"""``autoprog search``: find a growth schedule and train along it."""

from __future__ import annotations

import argparse
from pathlib import Path

from autoprog.commands.flags import (
    NO_SETTINGS,
    add_changed_data_flag,
    add_data_flags,
    add_dry_run_flag,
    add_initial_flags,
    add_recipe_flags,
    add_run_flags,
    add_search_flags,
)
from autoprog.errors import ConfigError

__all__ = ["add_flags", "execute", "run"]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a search."""
    parser.epilog = (
        "examples:\n"
        "  autoprog search --model deit-s\n"
        "  autoprog search --model deit-s --data DIR --epochs 100 --rule autoprog\n"
        "  autoprog search --model vit_small_patch32_224 --data DIR --space my-space.yaml\n"
        "  autoprog search --model deit-s --data DIR --trials 60 --proxy 0.1 -j 4\n"
    )
    add_search_flags(parser)
    add_data_flags(parser)
    add_initial_flags(parser)
    add_recipe_flags(parser, {"sched": "wsd in a search by time, as it is by default"})
    add_dry_run_flag(parser)
    add_run_flags(parser)
    add_changed_data_flag(parser)


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    if hasattr(args, "dry_run"):
        from autoprog.commands.configure import configure_search
        from autoprog.commands.dry_run import dry_run

        dry_run(args, configure_search)
        return 0
    if args.join is not None:
        _join(args)
    else:
        execute(args)
    return 0


def execute(args: argparse.Namespace) -> Path:
    """Search and train; return the run folder."""
    if hasattr(args, "dry_run"):
        raise ConfigError("--dry-run", "", "must be given to the command autoprog search")
    if hasattr(args, "as_json"):
        raise ConfigError("--json", "", "must be given together with --dry-run")
    from autoprog.commands.configure import configure_search
    from autoprog.commands.launch import launch

    return launch(args, configure_search)


def _join(args: argparse.Namespace) -> None:
    """Work on the trials of a run.

    Raises:
        ConfigError: If it is not a search by trials, or is complete; if more is given than how to carry out;
            if the run folder asks for something outside itself that was not given.
        InterruptedRunError: If a stop was requested.
    """
    from autoprog.commands.resume import carried_out_by, check_asks
    from autoprog.commands.run_words import named_run
    from autoprog.processes import given_number
    from autoprog.runs import load_run
    from autoprog.search.trials import join
    from autoprog.train.device import resolve_compute
    from autoprog.train.stop import InterruptedRunError, stop_on_signals

    path = named_run(args.join, args.runs_dir)
    # Each worker computes on its own device; several in one process would share one.
    if args.jobs != 1:
        hint = "join once for each worker"
        raise ConfigError("-j", "", "must not be given with --join RUN", args.jobs, hint)
    # Workers open no images of their own choice, so there are no changed ones to allow.
    found, kept = load_run(path), NO_SETTINGS - {"allow_changed_data"}
    settings = carried_out_by(args, found.manifest.settings, kept, "--join")
    if settings.search is None or settings.search.trials is None:
        raise ConfigError("--join", "", "must be a search with --trials", str(path))
    if found.result is not None:
        raise ConfigError("--join", "", "must be an unfinished run", str(path))
    check_asks(args, settings, path, "--join", logs=False)
    resolve_compute(settings)  # refuses what would fail each trial
    with stop_on_signals() as stop:
        join(settings, path, stop, given_number())
        if stop.signal_name is not None:
            raise InterruptedRunError(stop.signal_name, str(path))
