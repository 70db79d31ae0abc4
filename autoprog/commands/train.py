"""``autoprog train``: train along a schedule."""

from __future__ import annotations

import argparse
from pathlib import Path

from autoprog.commands.flags import add_data_flags, add_recipe_flags, add_run_flags
from autoprog.errors import ConfigError

__all__ = ["add_flags", "execute", "run"]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a training run."""
    parser.epilog = (
        "examples:\n"
        "  autoprog train --schedule runs/…/best.yaml --data DIR\n"
        "  autoprog train --schedule constant --model deit-s --data DIR --epochs 100\n"
        "  autoprog train --resume runs/…\n"
    )
    group = parser.add_argument_group("schedule")
    nothing = argparse.SUPPRESS
    group.add_argument(
        "--schedule", default=nothing, metavar="FILE|PRESET", help="a YAML file, constant or linear"
    )
    group.add_argument(
        "--model",
        default=nothing,
        metavar="NAME",
        help="for a preset: deit-s, vit-xs, a timm ViT …",
    )
    group.add_argument(
        "--img-size", type=int, default=nothing, metavar="PX", help="full size, if not the model's"
    )
    add_data_flags(parser)
    add_recipe_flags(parser)
    add_run_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    execute(args)
    return 0


def execute(args: argparse.Namespace) -> Path:
    """Train; return the run folder."""
    if args.resume in (None, "auto") and not hasattr(args, "schedule"):
        cure = "give a YAML file, or a preset with --model"
        raise ConfigError("--schedule", "", "must be given", cure=cure)
    from autoprog.commands.configure import configure_train
    from autoprog.commands.launch import RunConsole, carry_out, open_run, stop_on_signals
    from autoprog.commands.report import announce_train, farewell
    from autoprog.train.engine import start_training, train_schedule

    console = RunConsole(highlight=False)
    configured, folder = open_run(args, configure_train)
    schedule = configured.schedule
    assert schedule is not None, "a training run has a schedule"
    with stop_on_signals() as stop:
        trainer = start_training(configured.settings, folder, configured.opened, schedule, stop)
        if not args.quiet:
            announce_train(console, configured, folder)
        carry_out(train_schedule(trainer, schedule), folder, console, args.quiet, schedule)
    if not args.quiet:
        farewell(console, folder.path, configured.settings)
    return folder.path
