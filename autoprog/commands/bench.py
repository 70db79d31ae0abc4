"""``autoprog bench``: how fast autoprog is on this machine; nothing is written."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from autoprog.commands import train
from autoprog.errors import ConfigError
from supernet.config import SubnetConfig

__all__ = ["add_flags", "run"]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what is measured, how often, and all flags of a training run."""
    parser.add_argument(
        "subject",
        choices=["runner"],
        metavar="SUBJECT",
        help="runner: its speed against a hand-written loop, and what loading the data costs",
    )
    train.add_flags(parser)
    parser.epilog = (
        "examples:\n"
        "  autoprog bench runner --schedule constant --model vit-xs --data DIR\n"
        "  autoprog bench runner --schedule linear --model deit-s --data DIR --json\n"
    )
    group = parser.add_argument_group("measurement")
    group.add_argument(
        "--blocks", type=_count, default=12, metavar="N", help="blocks of each arm, in turns (12)"
    )
    group.add_argument(
        "--block-steps", type=_count, default=20, metavar="N", help="timed steps of a block (20)"
    )
    group.add_argument(
        "--timm-script",
        type=Path,
        metavar="FILE",
        help="race timm's own train.py as well, as a program on the same --data",
    )
    group.add_argument("--json", action="store_true", dest="as_json", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    _check_flags(args)
    from rich.console import Console

    from autoprog.bench.report import as_json, print_report
    from autoprog.bench.speed import measure_runner
    from autoprog.bench.timm_script import check_script, measure_script
    from autoprog.commands.configure import configure_train
    from autoprog.commands.preflight import check_run

    configured = configure_train(args)
    check_run(configured, is_new=True)
    settings, opened, schedule = configured.settings, configured.opened, configured.schedule
    assert schedule is not None, "a training run has a schedule"
    script = args.timm_script
    if script is not None:
        check_script(script, settings, opened, args.block_steps)
    speed = measure_runner(settings, opened, schedule, args.blocks, args.block_steps, _tell(args))
    of_script = script and measure_script(script, settings, opened, args.blocks, args.block_steps)
    console = Console(highlight=False)
    if args.as_json:
        console.out(as_json(speed, of_script), highlight=False)
    else:
        print_report(console, speed, of_script)
    return 0


def _tell(args: argparse.Namespace) -> Callable[[SubnetConfig, int], None]:
    """Return what shows the round under way, where somebody looks."""

    def tell(subnet: SubnetConfig, number: int) -> None:
        if sys.stderr.isatty() and not args.quiet:
            depth = "+".join(map(str, subnet.depth))
            line = f"depth {depth}, {subnet.img_size} px: round {number} of {args.blocks}"
            print(f"\r\x1b[2K{line}", end="\r", file=sys.stderr, flush=True)

    return tell


def _check_flags(args: argparse.Namespace) -> None:
    if not hasattr(args, "schedule"):
        cure = "give a YAML file, or a preset with --model"
        raise ConfigError("--schedule", "", "must be given", cure=cure)
    for flag, given in (
        ("--resume", args.resume is not None),
        ("--time-budget", hasattr(args, "time_budget_seconds")),
    ):
        if given:
            raise ConfigError(flag, "", "must be left out: a bench is no run")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, but got {text!r}")
    return int(text)
