"""``autoprog list``: the models, search spaces, presets and caches that there are; imports no torch."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from math import prod
from typing import TYPE_CHECKING, Any

from autoprog.cli import add_subcommands
from autoprog.commands.caches import add_cache_flags, list_caches
from autoprog.errors import ConfigError
from autoprog.printable import say

if TYPE_CHECKING:
    from autoprog.space import SpaceFile
    from autoprog.ui.tables import Column
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
    add_subcommands(
        parser,
        "what",
        {
            "models": (
                "the models that have a short name, or those of timm that can grow",
                _add_model_flags,
            ),
            "spaces": ("the search spaces that ship with autoprog", _add_space_flags),
            "presets": ("the presets: schedules made for any model", _add_preset_flags),
            "caches": (
                "the decoded images that --cache keeps on disk, or remove them",
                add_cache_flags,
            ),
        },
    )


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    match args.what:
        case "models":
            _list_models(args)
        case "spaces":
            _list_spaces(args)
        case "presets":
            _list_presets(args)
        case "caches":
            list_caches(args)
    return 0


def _add_json_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", dest="as_json", help="one JSON object")


# --------------------------------------------------------------------------------------------------
# Models.


def _add_model_flags(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  autoprog list models\n"
        "  autoprog list models --filter 'vit_small_*'\n"
        "  autoprog list models --filter 'volo*' --json\n"
    )
    parser.add_argument(
        "--filter",
        metavar="GLOB",
        help="names that match, those of timm among them (default: the short names only)",
    )
    _add_json_flag(parser)


def _list_models(args: argparse.Namespace) -> None:
    specs = _matching_models(args.filter)
    if args.as_json:
        say(json.dumps({spec.name: _model_facts(spec) for spec in specs}, indent=1))
        return
    from autoprog.console import Console
    from autoprog.ui.tables import rich_table

    console = Console(highlight=False)
    console.print(rich_table(_model_columns(specs), console.width))
    for line in _model_notes(specs):
        console.print(line)
    if args.filter is None:
        console.print(
            "and any timm VisionTransformer or VOLO: autoprog list models --filter 'vit_*'"
        )


def _matching_models(pattern: str | None) -> list[ModelSpec]:
    """Return the models whose short or timm name matches, short ones first; without timm for None."""
    from supernet.zoo import ZOO

    if pattern is None:
        return list(ZOO.values())
    short = [
        s for s in ZOO.values() if fnmatchcase(s.name, pattern) or fnmatchcase(s.timm, pattern)
    ]
    known = {spec.timm for spec in short if not spec.overrides}
    found = [*short, *(spec for spec in _growable_timm_models(pattern) if spec.timm not in known)]
    if not found:
        problem, hint = "must match a model that can grow", "see autoprog list models"
        raise ConfigError("--filter", "", problem, pattern, hint)
    return found


def _growable_timm_models(pattern: str) -> list[ModelSpec]:
    """Describe the models of timm that match and can grow, with a bar on a terminal."""
    from autoprog.console import Console
    from autoprog.ui.live import PartsBar
    from supernet.elastic import describe, growable_names

    names, found = growable_names(pattern), []
    with PartsBar(Console(stderr=True)) as bar:
        for number, name in enumerate(names):
            bar.update("models", number, len(names))
            with suppress(ValueError):
                found.append(describe(name))
    return found


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


def _model_notes(specs: Sequence[ModelSpec]) -> Iterator[str]:
    """Yield what the names of timm in the table do not tell."""
    for spec in specs:
        if spec.overrides:
            yield (
                f"* {spec.name}: {_timms(spec)} with depth {sum(spec.depth)}, width {spec.embed_dim},"
                f" {spec.num_heads} heads, patches of {spec.patch_size} px and images of {spec.img_size} px"
            )
    if any(_is_ours(spec) for spec in specs):
        yield "local_NAME and volo_mu are no names of timm: import supernet.elastic registers them"


def _timms(spec: ModelSpec) -> str:
    return spec.timm if _is_ours(spec) else f"timm's {spec.timm}"


def _is_ours(spec: ModelSpec) -> bool:
    return spec.is_local or spec.timm == "volo_mu"


def _model_columns(specs: Sequence[ModelSpec]) -> list[Column]:
    from autoprog.ui.format import amount
    from autoprog.ui.tables import Column

    facts = [_model_facts(spec) for spec in specs]
    return [
        Column("model", tuple(spec.name for spec in specs), "left"),
        Column("timm", tuple(_shown_name(spec) for spec in specs), "left", rank=1),
        Column("depth", tuple("+".join(map(str, spec.depth)) for spec in specs)),
        Column("width", tuple(str(spec.embed_dim) for spec in specs), rank=2),
        Column("stride", tuple(str(spec.patch_size) for spec in specs), rank=3),
        Column("px", tuple(str(spec.img_size) for spec in specs)),
        Column("parameters", tuple(amount(fact["parameters"]) for fact in facts)),
        Column("MACs", tuple(amount(fact["macs"]) for fact in facts)),
    ]


def _shown_name(spec: ModelSpec) -> str:
    """Return the timm name, marked where the model has another shape than that name's."""
    return f"{spec.timm} *" if spec.overrides else spec.timm


# --------------------------------------------------------------------------------------------------
# Search spaces.


def _add_space_flags(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  autoprog list spaces\n"
        "  autoprog search --space deit-s --model deit-s --data DIR\n"
        "  autoprog init space --model deit-s --output my-space.yaml    # one of your own\n"
    )
    _add_json_flag(parser)


def _list_spaces(args: argparse.Namespace) -> None:
    from autoprog.space import find_space, shipped_spaces

    facts = {name: _space_facts(find_space(name, name)[0]) for name in shipped_spaces()}
    if args.as_json:
        say(json.dumps(facts, indent=1))
        return
    from autoprog.console import Console
    from autoprog.ui.tables import rich_table

    console = Console(highlight=False)
    console.print(rich_table(_space_columns(facts), console.width))


def _space_facts(file: SpaceFile) -> dict[str, Any]:
    """Return a space's model, or None for any, its axes, and how many subnets they make.

    An axis is a list of values, or of fractions of the full model's value. Fractions that round to the same
    value make fewer subnets.
    """
    axes = {
        name: axis.model_dump(exclude_none=True)
        for name, axis in (("depth", file.axes.depth), ("img_size", file.axes.img_size))
    }
    axes["keep_rate"] = {"values": file.axes.keep_rate.values}
    subnets = prod(len(next(iter(axis.values()))) for axis in axes.values())
    return {"model": file.model, "axes": axes, "subnets": subnets}


def _space_columns(facts: Mapping[str, Mapping[str, Any]]) -> list[Column]:
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


# --------------------------------------------------------------------------------------------------
# Presets.


def _add_preset_flags(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  autoprog list presets\n"
        "  autoprog show size-curriculum --model deit-s --epochs 100\n"
        "  autoprog train --schedule size-curriculum --model deit-s --data DIR\n"
    )
    _add_json_flag(parser)


def _list_presets(args: argparse.Namespace) -> None:
    from autoprog.presets import PRESETS, summary_of

    summaries = {name: summary_of(name) for name in PRESETS}
    if args.as_json:
        say(json.dumps(summaries, indent=1))
        return
    from autoprog.console import Console
    from autoprog.ui.tables import list_table

    Console(highlight=False).print(list_table(summaries))
