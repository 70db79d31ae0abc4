"""``autoprog train``: train along a schedule."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from autoprog.bounds import Px, range_of
from autoprog.commands.flags import (
    add_changed_data_flag,
    add_data_flags,
    add_dry_run_flag,
    add_initial_flags,
    add_recipe_flags,
    add_run_flags,
    duration_seconds,
    only_carries_out,
)
from autoprog.errors import ConfigError

if TYPE_CHECKING:
    from autoprog.events import Event
    from autoprog.runs import RunFolder

__all__ = ["add_flags", "add_training_flags", "execute", "run"]


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
    before = add_dry_run_flag(parser)
    as_json = "print what --dry-run says as one JSON object"
    before.add_argument(
        "--json", action="store_true", dest="as_json", default=argparse.SUPPRESS, help=as_json
    )


def add_training_flags(parser: argparse.ArgumentParser) -> None:
    """Add what is trained, on what and how."""
    _add_schedule_flags(parser)
    add_data_flags(parser)
    add_initial_flags(parser)
    of_file = "a schedule file has its own"
    add_recipe_flags(parser, {"epochs": of_file, "sched": of_file})
    add_run_flags(parser)
    add_changed_data_flag(parser)


def _add_schedule_flags(parser: argparse.ArgumentParser) -> None:
    group, nothing = parser.add_argument_group("schedule"), argparse.SUPPRESS
    either = group.add_mutually_exclusive_group()
    either.add_argument(
        "--schedule",
        default=nothing,
        metavar="FILE|PRESET|RUN",
        help="a YAML file, a name that autoprog list presets shows, or a run: its best.yaml, if it has one",
    )
    either.add_argument(
        "--elastic",
        dest="schedule",
        action="store_const",
        const="supervit",
        default=nothing,
        help="stay usable at many sizes and keep-rates: the schedule supervit (see autoprog evaluate)",
    )
    group.add_argument(
        "--pos-embed",
        choices=["resampled", "per-size"],
        default=nothing,
        help="positions of smaller images in --elastic: the full table resampled, or a table for"
        " each size, as SuperViT has (resampled)",
    )
    group.add_argument(
        "--model",
        default=nothing,
        metavar="NAME",
        help="for a preset: deit-s, vit-xs, a timm ViT …",
    )
    group.add_argument(
        "--img-size",
        type=range_of(Px),
        default=nothing,
        metavar="PX",
        help="full size, if not the model's",
    )
    group.add_argument(
        "--time-budget",
        dest="time_budget_seconds",
        type=duration_seconds,
        default=nothing,
        metavar="TIME",
        help="train for 90m, 24h …: stages and learning rate follow the time used, not the epochs",
    )


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
    from autoprog.commands.show import put_paths

    if hasattr(args, "dry_run"):
        raise ConfigError("--dry-run", "", "must be given to the command autoprog train")
    if hasattr(args, "as_json"):
        raise ConfigError("--json", "", "must be given together with --dry-run")
    put_paths(args)
    goes_on = args.resume is not None and (args.resume != "auto" or only_carries_out(args))
    if not goes_on:
        _check_schedule_given(args)
    from autoprog.commands.configure import configure_train
    from autoprog.commands.launch import Launch, carry_out, open_run
    from autoprog.commands.report import announce_train, farewell
    from autoprog.train.ranks import joined_ranks
    from autoprog.train.run import Job, start_training, train_schedule

    with joined_ranks() as ranks:
        configured, folder = open_run(args, configure_train, ranks)
        settings, schedule = configured.settings, configured.schedule
        assert schedule is not None, "a training run has a schedule"
        launch = Launch.on_terminal(ranks, args.quiet, configured)

        def begin(folder: RunFolder, job: Job) -> Iterator[Event]:
            return train_schedule(
                start_training(settings, folder, configured.opened, schedule, job), schedule
            )

        if not args.quiet:
            announce_train(launch.console, configured, folder)
        carry_out(begin, launch, folder)
        if not args.quiet:
            farewell(launch.console, folder, settings)
    return folder.path


def _check_schedule_given(args: argparse.Namespace) -> None:
    if args.resume in (None, "auto") and not hasattr(args, "schedule"):
        hint = "give a YAML file, or a preset with --model"
        raise ConfigError("--schedule", "", "must be given", hint=hint)
