"""``autoprog show``: the views of a run, a schedule file or a preset; imports no torch unless it replays."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from autoprog.bounds import Epochs, Seed, range_of
from autoprog.errors import ConfigError
from autoprog.settings import Rule, Sampler

__all__ = ["add_flags", "run"]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what to show and in which form."""
    parser.epilog = (
        "examples:\n"
        "  autoprog show last          # or runs/…\n"
        "  autoprog show linear --model deit-s --epochs 100\n"
        "  autoprog show best.yaml --json\n"
        "  autoprog show best.yaml --diff linear\n"
        "  autoprog show runs/… --replay --sampler tpe\n"
    )
    parser.add_argument(
        "target", metavar="RUN|FILE|PRESET", help="a run, last, YAML file or preset"
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="model of a preset: deit-s, vit-xs, a timm ViT (default: deit-s)",
    )
    parser.add_argument(
        "--epochs",
        type=range_of(Epochs),
        metavar="N",
        help="length of a preset's run (default: the recipe's)",
    )
    parser.add_argument("--recipe", metavar="NAME", help="recipe of a preset (default: deit)")
    parser.add_argument(
        "--diff",
        metavar="RUN|FILE|PRESET",
        help="where another schedule differs, and what each costs; a preset takes model, size, length and"
        " recipe of what it is set beside",
    )
    parser.add_argument("--plain", action="store_true", help="aligned text without drawing")
    parser.add_argument("--json", action="store_true", dest="as_json", help="one JSON object")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write a picture")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a web page")
    group = parser.add_argument_group(
        "replay",
        "take the decisions of a run again from what it wrote down; trains and writes nothing",
    )
    group.add_argument(
        "--replay",
        action="store_true",
        help="say which decisions differ; exit code 1 if one does though nothing else was asked for",
    )
    group.add_argument("--rule", choices=get_args(Rule), help="another rule")
    group.add_argument("--sampler", choices=get_args(Sampler), help="another Optuna sampler")
    group.add_argument("--seed", type=range_of(Seed), metavar="N", help="another seed")


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    if args.replay:  # which loads Optuna; all else here is there at once
        from autoprog.commands.replay import replay_run

        return replay_run(args)
    for name in ("rule", "sampler", "seed"):
        if getattr(args, name) is not None:
            raise ConfigError(f"--{name}", "", "must be given together with --replay")
    from autoprog.ui.show import show

    spec = None
    if args.model is not None:
        from supernet.zoo import lookup

        spec = lookup(args.model)
        if spec is None:  # any that timm knows, which takes a moment to load
            from autoprog.train.model import find_model

            spec = find_model(args.model)
    show(
        args.target,
        spec=spec,
        epochs=args.epochs,
        recipe=args.recipe,
        plain=args.plain,
        as_json=args.as_json,
        svg=args.svg,
        html=args.html,
        diff=args.diff,
    )
    return 0
