"""``autoprog search``: find a growth schedule and train along it."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from autoprog.commands.flags import add_data_flags, add_recipe_flags, add_run_flags

__all__ = ["add_flags", "execute", "run"]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a search."""
    parser.epilog = (
        "examples:\n"
        "  autoprog search --model deit-s\n"
        "  autoprog search --model deit-s --data DIR --epochs 100 --rule autoprog\n"
        "  autoprog search --model vit_small_patch32_224 --data DIR --space my-space.yaml\n"
    )
    group = parser.add_argument_group("search")
    add = group.add_argument
    nothing = argparse.SUPPRESS
    add(
        "--model",
        default=nothing,
        metavar="NAME",
        help="deit-ti, deit-s, deit-b, vit-xs or a timm ViT",
    )
    add(
        "--img-size",
        type=int,
        default=nothing,
        metavar="PX",
        help="full image size, if not the model's",
    )
    add("--space", default=nothing, metavar="NAME|FILE", help="search space (the model's own)")
    add("--rule", choices=["rollout", "autoprog"], default=nothing, help="how to choose (rollout)")
    add("--sampler", choices=["tpe", "random"], default=nothing, help="Optuna sampler (tpe)")
    add(
        "--costs",
        dest="costs_from",
        default=nothing,
        metavar="FILE",
        help="costs.json of an earlier run, instead of measuring",
    )
    add("--num-stages", type=int, default=nothing, metavar="K", help="pieces between decisions (4)")
    add(
        "--supernet-epochs", type=float, default=nothing, metavar="E", help="supernet phase (space)"
    )
    add(
        "--max-candidates",
        type=int,
        default=nothing,
        metavar="N",
        help="a decision looks at (space)",
    )
    add(
        "--min-full-share",
        type=float,
        default=nothing,
        metavar="S",
        help="steps at full size (0.15)",
    )
    add(
        "--grow-op", choices=["mogrow", "copy", "zero"], default=nothing, help="new blocks (mogrow)"
    )
    add("--grow-map", choices=["interpolate", "stack"], default=nothing, help="where (interpolate)")
    add("--grow-source", choices=["online", "ema"], default=nothing, help="old blocks (online)")
    add(
        "--grow-state", choices=["carry", "fresh", "reset"], default=nothing, help="moments (carry)"
    )
    add_data_flags(parser)
    add_recipe_flags(parser)
    add_run_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    execute(args)
    return 0


def execute(args: argparse.Namespace) -> Path:
    """Search and train; return the run folder."""
    from autoprog.commands.configure import configure_search
    from autoprog.commands.launch import carry_out, open_run, stop_on_signals
    from autoprog.commands.report import announce_search, farewell
    from autoprog.search.engine import build_searcher, search_schedule

    console = Console(highlight=False)
    configured, folder = open_run(args, configure_search)
    with stop_on_signals() as stop:
        searcher = build_searcher(configured.settings, folder, configured.opened, stop)
        if not args.quiet:
            announce_search(console, configured, folder, searcher.plan)
        carry_out(search_schedule(searcher), folder, console, args.quiet, schedule=None)
    if not args.quiet:
        farewell(console, folder.path, configured.settings)
    return folder.path
