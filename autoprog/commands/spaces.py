"""``autoprog spaces``: the search spaces that ship with autoprog; imports no torch."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

from autoprog.printable import say

if TYPE_CHECKING:
    from autoprog.space import SpaceFile
    from autoprog.ui.tables import Column

__all__ = ["add_flags", "run"]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the form of the list."""
    parser.epilog = (
        "examples:\n  autoprog spaces\n  autoprog search --space deit-s --model deit-s --data DIR\n"
        "  autoprog init space --model deit-s --output my-space.yaml    # one of your own\n"
    )
    parser.add_argument("--json", action="store_true", dest="as_json", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    from autoprog.space import find_space, shipped_spaces

    facts = {name: _facts(find_space(name, name)[0]) for name in shipped_spaces()}
    if args.as_json:
        say(json.dumps(facts, indent=1))
        return 0
    from autoprog.console import Console
    from autoprog.ui.tables import rich_table

    console = Console(highlight=False)
    console.print(rich_table(_columns(facts), console.width))
    return 0


def _facts(file: SpaceFile) -> dict[str, Any]:
    """Return a space's model, or None for any, its axes, and how many subnets they make.

    An axis is a list of values, or of fractions of the full model's value. Shares that round to the same
    value make fewer subnets.
    """
    axes = {
        name: axis.model_dump(exclude_none=True)
        for name, axis in (("depth", file.axes.depth), ("img_size", file.axes.img_size))
    }
    axes["keep_rate"] = {"values": file.axes.keep_rate.values}
    subnets = prod(len(next(iter(axis.values()))) for axis in axes.values())
    return {"model": file.model, "axes": axes, "subnets": subnets}


def _columns(facts: Mapping[str, Mapping[str, Any]]) -> list[Column]:
    from autoprog.ui.tables import Column

    rows = facts.values()

    def axis(name: str) -> tuple[str, ...]:
        return tuple(_axis_text(row["axes"][name]) for row in rows)

    return [
        Column("space", tuple(facts), "left"),
        Column("model", tuple(row["model"] or "any" for row in rows), "left"),
        Column("depth", axis("depth"), "left"),
        Column("img_size (px)", axis("img_size"), "left"),
        Column("keep-rate", axis("keep_rate"), "left", rank=1),
        Column("subnets", tuple(str(row["subnets"]) for row in rows)),
    ]


def _axis_text(axis: Mapping[str, tuple[float, ...]]) -> str:
    ((form, values),) = axis.items()
    if form == "fractions":
        return " ".join(f"{100 * value:.0f}" for value in values) + " %"
    return " ".join(f"{value:g}" for value in values)
