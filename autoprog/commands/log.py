"""``autoprog log``: pass a run folder on to TensorBoard or W&B, finished or not."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from autoprog.commands.flags import add_wandb_flags
from autoprog.errors import ConfigError
from autoprog.printable import say

if TYPE_CHECKING:
    from autoprog.runs import Run
    from autoprog.settings import RunManifest

__all__ = ["add_flags", "run"]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add which runs, and to whom."""
    parser.epilog = (
        "examples:\n"
        "  autoprog log runs/… --to tensorboard    # then tensorboard --logdir runs\n"
        "  autoprog log runs/* --to wandb --wandb-project vits\n"
        "  autoprog train --schedule linear --model deit-s --log-tensorboard    # or while it goes on\n"
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run folder (last: the newest)")
    parser.add_argument("--to", required=True, choices=["tensorboard", "wandb"], help="logger")
    add_wandb_flags(parser.add_argument_group("wandb"))


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    from autoprog.commands.show import named_run
    from autoprog.loggers.relay import check_logger, replay
    from autoprog.runs import load_run

    runs = [load_run(named_run(word)) for word in args.runs]
    manifests = [_manifest(one, args) for one in runs]
    for one in runs:
        _check_log(one, args.to)
    check_logger(args.to, manifests[0].settings, f"--to {args.to}")
    for one, manifest in zip(runs, manifests, strict=True):
        say(replay(args.to, one.path, manifest))
    return 0


def _manifest(run: Run, args: argparse.Namespace) -> RunManifest:
    """Return a run's manifest with what the flags say of the logger."""
    from autoprog.files import parse
    from autoprog.settings import RunSettings

    given = {key: getattr(args, key, None) for key in ("wandb_project", "wandb_mode")}
    values = {**run.manifest.settings.model_dump(), **given, "log_wandb": args.to == "wandb"}
    settings = parse(RunSettings, values, "flags")
    return run.manifest.model_copy(update={"settings": settings})


def _check_log(run: Run, to: str) -> None:
    """Refuse a run without a log, and one that tells the same logger itself."""
    from autoprog.runs import is_written_now

    if not (run.path / "events.jsonl").is_file():
        raise ConfigError(str(run.path), "", "must have an events.jsonl")
    if getattr(run.manifest.settings, f"log_{to}") and is_written_now(run.path):
        problem = f"must not be going on with --log-{to}"
        raise ConfigError(str(run.path), "", problem, hint="it is told already")
