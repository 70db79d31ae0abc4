"""``autoprog models``: the models that have a short name, and those of timm that a pattern matches."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from autoprog.errors import ConfigError
from autoprog.printable import say

if TYPE_CHECKING:
    from autoprog.ui.tables import Column
    from supernet.config import ModelSpec

__all__ = ["add_flags", "run"]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add which models, and the form of the list."""
    parser.epilog = (
        "examples:\n"
        "  autoprog models\n"
        "  autoprog models --filter 'vit_small_*'\n"
        "  autoprog models --filter 'volo*' --json\n"
    )
    parser.add_argument(
        "--filter",
        metavar="GLOB",
        help="names that match, those of timm among them (the short names only)",
    )
    parser.add_argument("--json", action="store_true", dest="as_json", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    specs = _found(args.filter)
    if args.as_json:
        say(json.dumps({spec.name: _facts(spec) for spec in specs}, indent=1))
        return 0
    from autoprog.console import Console
    from autoprog.ui.tables import rich_table

    console = Console(highlight=False)
    console.print(rich_table(_columns(specs), console.width))
    for line in _notes(specs):
        console.print(line)
    if args.filter is None:
        console.print("and any timm VisionTransformer or VOLO: autoprog models --filter 'vit_*'")
    return 0


def _found(pattern: str | None) -> list[ModelSpec]:
    """Return the models whose short or timm name matches, short ones first; without timm for None."""
    from supernet.zoo import ZOO

    if pattern is None:
        return list(ZOO.values())
    short = [
        s for s in ZOO.values() if fnmatchcase(s.name, pattern) or fnmatchcase(s.timm, pattern)
    ]
    known = {spec.timm for spec in short if not spec.overrides}
    found = [*short, *(spec for spec in _of_timm(pattern) if spec.timm not in known)]
    if not found:
        problem, hint = "must match a model that can grow", "see autoprog models"
        raise ConfigError("--filter", "", problem, pattern, hint)
    return found


def _of_timm(pattern: str) -> list[ModelSpec]:
    """Describe the models of timm that match and can grow, with a bar on a terminal."""
    from autoprog.console import Console
    from autoprog.ui.live import PartsBar
    from supernet.elastic import describe, growable_names

    names, found = growable_names(pattern), []
    with PartsBar(Console(stderr=True)) as bar:
        for number, name in enumerate(names):
            bar.tell("models", number, len(names))
            with suppress(ValueError):
                found.append(describe(name))
    return found


def _facts(spec: ModelSpec) -> dict[str, Any]:
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


def _notes(specs: Sequence[ModelSpec]) -> Iterator[str]:
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


def _columns(specs: Sequence[ModelSpec]) -> list[Column]:
    from autoprog.ui.format import amount
    from autoprog.ui.tables import Column

    facts = [_facts(spec) for spec in specs]
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
