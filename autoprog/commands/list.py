"""``autoprog list``: the models, search spaces, presets and caches that there are; imports no torch."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from math import prod
from typing import TYPE_CHECKING, Any

from autoprog.cli import add_subcommands
from autoprog.commands.caches import add_cache_flags, list_caches
from autoprog.errors import ConfigError
from autoprog.printable import say

if TYPE_CHECKING:
    from supernet.config import ModelSpec

__all__ = ["add_flags", "run"]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what to list."""
    parser.epilog = (
        "examples:\n"
        "  autoprog list models --filter 'vit_small_*'\n"
        "  autoprog list spaces\n"
        "  autoprog list presets\n"
        "  autoprog list caches --remove --older-than 30\n"
    )

    def models(sub: argparse.ArgumentParser) -> None:
        sub.epilog = (
            "examples:\n"
            "  autoprog list models\n"
            "  autoprog list models --filter 'vit_small_*'\n"
            "  autoprog list models --filter 'volo*' --json\n"
        )
        sub.add_argument(
            "--filter",
            metavar="GLOB",
            help="names that match, those of timm among them (default: the short names only)",
        )
        as_json(sub)

    def spaces(sub: argparse.ArgumentParser) -> None:
        sub.epilog = (
            "examples:\n"
            "  autoprog list spaces\n"
            "  autoprog search --space deit-s --model deit-s --data DIR\n"
            "  autoprog init space --model deit-s --output my-space.yaml    # one of your own\n"
        )
        as_json(sub)

    def presets(sub: argparse.ArgumentParser) -> None:
        sub.epilog = (
            "examples:\n"
            "  autoprog list presets\n"
            "  autoprog show size-curriculum --model deit-s --epochs 100\n"
            "  autoprog train --schedule size-curriculum --model deit-s --data DIR\n"
        )
        as_json(sub)

    def as_json(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--json", action="store_true", dest="as_json", help="one JSON object")

    caches = "the decoded images that --cache keeps on disk, or remove them"
    add_subcommands(
        parser,
        "what",
        {
            "models": ("the models that have a short name, or those of timm that can grow", models),
            "spaces": ("the search spaces that ship with autoprog", spaces),
            "presets": ("the presets: schedules made for any model", presets),
            "caches": (caches, add_cache_flags),
        },
    )


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    {
        "models": _list_models,
        "spaces": _list_spaces,
        "presets": _list_presets,
        "caches": list_caches,
    }[args.what](args)
    return 0


# --------------------------------------------------------------------------------------------------
# Models: those with a short name, and with --filter also those of timm that can grow.


def _list_models(args: argparse.Namespace) -> None:
    from supernet.zoo import ZOO

    specs = list(ZOO.values())
    if args.filter is not None:
        specs = [
            s for s in specs if fnmatchcase(s.name, args.filter) or fnmatchcase(s.timm, args.filter)
        ]
        # A model with a short name is listed under that alone, unless it has another shape than timm's.
        known = {spec.timm for spec in specs if not spec.overrides}
        specs += (spec for spec in _growable_timm_models(args.filter) if spec.timm not in known)
    if not specs:
        problem, hint = "must match a model that can grow", "see autoprog list models"
        raise ConfigError("--filter", "", problem, args.filter, hint)
    facts = {spec.name: _model_facts(spec) for spec in specs}
    if args.as_json:
        say(json.dumps(facts, indent=1))
        return
    from autoprog.console import Console
    from autoprog.ui.format import amount
    from autoprog.ui.tables import Column, rich_table

    rows = facts.values()
    # A star marks a model of another shape than its timm name; a line below the table says which.
    names = (f"{spec.timm} *" if spec.overrides else spec.timm for spec in specs)
    columns = [
        Column("model", tuple(facts), "left"),
        Column("timm", tuple(names), "left", rank=1),
        Column("depth", tuple("+".join(map(str, spec.depth)) for spec in specs)),
        Column("width", tuple(str(spec.embed_dim) for spec in specs), rank=2),
        Column("stride", tuple(str(spec.patch_size) for spec in specs), rank=3),
        Column("px", tuple(str(spec.img_size) for spec in specs)),
        Column("parameters", tuple(amount(row["parameters"]) for row in rows)),
        Column("MACs", tuple(amount(row["macs"]) for row in rows)),
    ]
    console = Console(highlight=False)
    console.print(rich_table(columns, console.width))
    # What the names of timm in the table do not say.
    ours = {spec.name for spec in specs if spec.is_local or spec.timm == "volo_mu"}
    for spec in specs:
        if spec.overrides:
            timm = spec.timm if spec.name in ours else f"timm's {spec.timm}"
            console.print(
                f"* {spec.name}: {timm} with depth {sum(spec.depth)}, width {spec.embed_dim},"
                f" {spec.num_heads} heads, patches of {spec.patch_size} px and images of {spec.img_size} px"
            )
    if ours:
        console.print(
            "local_NAME and volo_mu are no names of timm: import supernet.elastic registers them"
        )
    if args.filter is None:
        console.print(
            "and any timm VisionTransformer or VOLO: autoprog list models --filter 'vit_*'"
        )


def _growable_timm_models(pattern: str) -> Iterator[ModelSpec]:
    """Describe the models of timm that match and can grow, with a bar on a terminal."""
    from autoprog.console import Console
    from autoprog.ui.live import PartsBar
    from supernet.elastic import describe, growable_names

    names = growable_names(pattern)
    with PartsBar(Console(stderr=True)) as bar:
        for number, name in enumerate(names):
            bar.update("models", number, len(names))
            with suppress(ValueError):  # its name looks like one that can grow, and it is not
                yield describe(name)


def _model_facts(spec: ModelSpec) -> dict[str, Any]:
    """Return what a model is at full size: blocks of each stage, width, px, and cost with 1,000 classes."""
    from supernet.cost import macs, parameters

    return {
        "timm": spec.timm,
        "overrides": dict(spec.overrides),
        "depth": list(spec.depth),
        "embed_dim": spec.embed_dim,
        "num_heads": spec.num_heads,
        "stride_px": spec.patch_size,
        "img_size_px": spec.img_size,
        "parameters": parameters(spec, spec.depth),
        "macs": macs(spec, spec.full),
    }


# --------------------------------------------------------------------------------------------------
# Search spaces and presets.


def _list_spaces(args: argparse.Namespace) -> None:
    from autoprog.space import find_space, shipped_spaces

    facts: dict[str, dict[str, Any]] = {}
    for name in shipped_spaces():
        file, _ = find_space(name, name)
        # An axis is a list of values, or of fractions of the full model's value.
        axes = {
            key: axis.model_dump(exclude_none=True)
            for key, axis in (("depth", file.axes.depth), ("img_size", file.axes.img_size))
        }
        axes["keep_rate"] = {"values": file.axes.keep_rate.values}
        # At most so many: fractions that round to the same value make fewer.
        subnets = prod(len(next(iter(axis.values()))) for axis in axes.values())
        facts[name] = {"model": file.model, "axes": axes, "subnets": subnets}
    if args.as_json:
        say(json.dumps(facts, indent=1))
        return
    from autoprog.console import Console
    from autoprog.ui.tables import Column, rich_table

    def texts(name: str) -> tuple[str, ...]:
        found = []
        for row in facts.values():
            ((form, values),) = row["axes"][name].items()
            as_percent = form == "fractions"
            numbers = (f"{100 * value:.0f}" if as_percent else f"{value:g}" for value in values)
            found.append(" ".join(numbers) + (" %" if as_percent else ""))
        return tuple(found)

    columns = [
        Column("space", tuple(facts), "left"),
        Column("model", tuple(row["model"] or "any" for row in facts.values()), "left"),
        Column("depth", texts("depth"), "left"),
        Column("img_size (px)", texts("img_size"), "left"),
        Column("keep-rate", texts("keep_rate"), "left", rank=1),
        Column("subnets", tuple(str(row["subnets"]) for row in facts.values())),
    ]
    console = Console(highlight=False)
    console.print(rich_table(columns, console.width))


def _list_presets(args: argparse.Namespace) -> None:
    from autoprog.presets import PRESETS, summary_of

    summaries = {name: summary_of(name) for name in PRESETS}
    if args.as_json:
        say(json.dumps(summaries, indent=1))
        return
    from autoprog.console import Console
    from autoprog.ui.tables import list_table

    Console(highlight=False).print(list_table(summaries))
