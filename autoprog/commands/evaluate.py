"""``autoprog evaluate``: accuracy, speed and compute of weights over image sizes and keep-rates."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from autoprog.bounds import (
    BatchSize,
    BlockNumber,
    CropPct,
    FewOrNone,
    FewValues,
    Px,
    SomeShare,
    range_of,
)
from autoprog.commands.data_flags import add_data_flags
from autoprog.commands.flags import add_device_flags
from autoprog.printable import say

__all__ = ["add_flags", "run"]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what to evaluate, in which cells, on which images."""
    parser.epilog = (
        "examples:\n"
        "  autoprog evaluate runs/…\n"
        "  autoprog evaluate runs/… --keep-rates 1 .8 .6 .4 .2\n"
        "  autoprog evaluate runs/… --grid --json\n"
        "  autoprog evaluate deit-s.pth --model deit-s --data DIR --img-sizes 160 192 224\n"
    )
    parser.add_argument(
        "target",
        metavar="RUN|FILE",
        help="a finished run (last: the newest), a checkpoint in one, a folder of export --format hf, or"
        " weights: .safetensors, .pth",
    )
    _add_cell_flags(parser)
    group = parser.add_argument_group("weights of a file", "a run says all of this itself")
    nothing = argparse.SUPPRESS
    group.add_argument(
        "--model", default=nothing, metavar="NAME", help="deit-s, vit-xs, a timm ViT …"
    )
    group.add_argument(
        "--img-size",
        type=range_of(Px),
        default=nothing,
        metavar="PX",
        help="full size, if not the model's",
    )
    group.add_argument(
        "--recipe",
        default=nothing,
        metavar="NAME|FILE",
        help="says how validation images are prepared; by default chosen by the number of images",
    )
    add_data_flags(parser, trains=False)
    _add_evaluation_flags(parser)


def _add_evaluation_flags(parser: argparse.ArgumentParser) -> None:
    nothing = argparse.SUPPRESS
    group = parser.add_argument_group("evaluation")
    group.add_argument(
        "--batch-size",
        type=range_of(BatchSize),
        default=nothing,
        metavar="N",
        help="images a batch (up to 256)",
    )
    group.add_argument(
        "--crop-pct",
        type=range_of(CropPct),
        default=nothing,
        metavar="N",
        help="centre crop (the recipe's)",
    )
    group.add_argument(
        "--interpolation",
        choices=["bilinear", "bicubic"],
        default=nothing,
        help="resize filter (the recipe's)",
    )
    group.add_argument(
        "--rounds",
        type=range_of(FewOrNone),
        default=5,
        metavar="N",
        help="timed rounds, 0 for no speed (5)",
    )
    add_device_flags(group)
    group.add_argument("--json", action="store_true", dest="as_json", help="one JSON object")


def _add_cell_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "cells",
        "every size at every keep-rate; by default the full size on all tokens",
    )
    group.add_argument(
        "--weights", choices=["ema", "online"], default="ema", help="averaged or last weights (ema)"
    )
    group.add_argument(
        "--checkpoint",
        choices=["final", "best", "last"],
        default="final",
        help="the weights of the end of a run, the averaged ones of its best evaluation, or those of its last"
        " checkpoint (final)",
    )
    group.add_argument(
        "--img-sizes",
        type=range_of(Px),
        nargs="+",
        action=FewValues,
        metavar="PX",
        help="image sizes",
    )
    group.add_argument(
        "--keep-rates",
        type=range_of(SomeShare),
        nargs="+",
        action=FewValues,
        metavar="K",
        help="shares of tokens to keep",
    )
    group.add_argument(
        "--grid",
        action="store_true",
        help="fill in the sizes or keep-rates that are not given: those that the run trained",
    )
    group.add_argument(
        "--by",
        choices=["magnitude", "l2_magnitude", "random", "class_attention"],
        help="which tokens stay (as the run trained, or magnitude)",
    )
    group.add_argument(
        "--at-blocks",
        type=range_of(BlockNumber),
        nargs="+",
        action=FewValues,
        metavar="B",
        help="running blocks at which the others go",
    )


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    from autoprog.bench.grid import evaluate_grid
    from autoprog.commands.evaluation import configure_evaluation
    from autoprog.commands.run_words import named_run
    from autoprog.console import Console
    from autoprog.ui.grid import grid_document, grid_text, grid_view
    from autoprog.ui.progress import PartsBar

    is_exported = os.path.lexists(Path(args.target) / "model.safetensors")
    is_run = os.path.isdir(args.target) or not os.path.lexists(args.target)
    if is_run and not is_exported:
        args.target = str(named_run(args.target))
    found = configure_evaluation(args)
    for note in found.notes:
        say(f"autoprog: {note}", file=sys.stderr)
    with PartsBar(Console(stderr=True)) as bar:
        grid = evaluate_grid(
            found.settings, found.opened, found.file, found.subnets, args.rounds, bar.tell
        )
    console = Console(highlight=False)
    if args.as_json:
        console.out(json.dumps(grid_document(grid), indent=1, allow_nan=False), highlight=False)
    elif console.is_terminal and not console.is_dumb_terminal:
        console.print(grid_view(grid))
    else:
        console.out(grid_text(grid), end="", highlight=False)
    return 0
