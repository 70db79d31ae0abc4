"""``autoprog search``: find a growth schedule and train along it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprog.commands.flags import (
    add_data_flags,
    add_initial_flags,
    add_recipe_flags,
    add_run_flags,
)

if TYPE_CHECKING:
    from autoprog.events import Event
    from autoprog.runs import RunFolder

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
    _add_scope_flags(group)
    _add_decision_flags(group)
    _add_growth_flags(group)
    add_data_flags(parser)
    add_initial_flags(parser)
    add_recipe_flags(parser)
    add_run_flags(parser)


def _add_scope_flags(group: argparse._ArgumentGroup) -> None:
    models = "deit-ti, deit-s, deit-b, vit-xs or a timm ViT"
    _add(group, "--model", metavar="NAME", help=models)
    _add(group, "--img-size", type=int, metavar="PX", help="full image size, if not the model's")
    _add(group, "--space", metavar="NAME|FILE", help="search space (the model's own)")


def _add_decision_flags(group: argparse._ArgumentGroup) -> None:
    _add(group, "--rule", choices=["rollout", "autoprog"], help="how to choose (rollout)")
    _add(group, "--sampler", choices=["tpe", "random"], help="Optuna sampler (tpe)")
    costs = "costs.json of an earlier run, instead of measuring"
    _add(group, "--costs", dest="costs_from", metavar="FILE", help=costs)
    _add(group, "--num-stages", type=int, metavar="K", help="pieces between decisions (4)")
    _add(group, "--supernet-epochs", type=float, metavar="E", help="supernet phase (space)")
    _add(group, "--max-candidates", type=int, metavar="N", help="a decision looks at (space)")
    _add(group, "--min-full-share", type=float, metavar="S", help="steps at full size (0.15)")


def _add_growth_flags(group: argparse._ArgumentGroup) -> None:
    _add(group, "--grow-op", choices=["mogrow", "copy", "zero"], help="new blocks (mogrow)")
    _add(group, "--grow-map", choices=["interpolate", "stack"], help="where (interpolate)")
    _add(group, "--grow-source", choices=["online", "ema"], help="old blocks (online)")
    _add(group, "--grow-state", choices=["carry", "fresh", "reset"], help="moments (carry)")


def _add(group: argparse._ArgumentGroup, flag: str, **options: Any) -> None:
    group.add_argument(flag, default=argparse.SUPPRESS, **options)


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    execute(args)
    return 0


def execute(args: argparse.Namespace) -> Path:
    """Search and train; return the run folder."""
    from autoprog.commands.configure import configure_search
    from autoprog.commands.launch import Launch, carry_out, open_run
    from autoprog.commands.report import announce_search, farewell
    from autoprog.search.engine import build_searcher, search_schedule
    from autoprog.train.engine import Job
    from autoprog.train.ranks import joined_ranks

    with joined_ranks() as ranks:
        configured, folder = open_run(args, configure_search, ranks)
        launch = Launch.on_terminal(ranks, args.quiet, configured)

        def begin(folder: RunFolder, job: Job) -> Iterator[Event]:
            searcher = build_searcher(configured.settings, folder, configured.opened, job)
            if not args.quiet and not job.rollbacks.count:
                announce_search(launch.console, configured, folder, searcher.plan)
            return search_schedule(searcher)

        carry_out(begin, launch, folder)
        if not args.quiet:
            farewell(launch.console, folder.path, configured.settings)
    return folder.path
