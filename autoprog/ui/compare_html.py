"""Runs side by side as one web page that needs nothing else: no script, no network, light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from autoprog.files import dump_yaml
from autoprog.proof.compare import Comparison, Group
from autoprog.ui.compare import (
    AXES,
    CHARGED,
    COLOURS,
    PAIRED,
    comparison_columns,
    difference_texts,
)
from autoprog.ui.compare_svg import curves_svg
from autoprog.ui.units import duration

__all__ = ["compare_page"]

DARK_COLOURS = ("#5aa9e6", "#ff8a4c", "#2fc79a", "#e3a1c4", "#f0b93a", "#9fd8ff")
PARTS = {
    "train": "training",
    "data_wait": "data wait",
    "search": "search",
    "lost": "growth",
    "eval": "evaluation",
    "checkpoints": "checkpoints",
}

_STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --card: #f6f7f9; --text: #1c2126; --dim: #5c6670;
  --rule: #d9dee3; --warn: #9a3f00; LIGHT }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --card: #1d2226; --text: #e8ebee;
  --dim: #9aa5b0; --rule: #363d44; --warn: #ffb27d; DARK } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 84rem; background: var(--page);
  color: var(--text); font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.1rem; margin: 2.2rem 0 .7rem }
p, li { color: var(--dim); max-width: 62rem } p { margin: .5rem 0 } .warn { color: var(--warn) }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap }
th { color: var(--dim); font-weight: 600; font-size: .85rem }
th, td { padding: .4rem .9rem .4rem 0; border-bottom: 1px solid var(--rule); text-align: right }
th.left, td.left { text-align: left } td.left:nth-child(2) { font-weight: 600 }
.figures { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(24rem, 1fr)) }
.card { background: var(--card); border-radius: 8px; padding: .8rem 1rem; min-width: 0 }
.card p { font-size: .9rem } .card li { overflow-wrap: anywhere }
svg { display: block; width: 100%; height: auto }
svg text { fill: var(--dim); font-size: 12px } svg text.end { fill: currentColor; font-weight: 700 }
svg .grid { stroke: var(--rule) } svg .axis { stroke: var(--dim) }
svg polyline { fill: none; stroke: currentColor; stroke-width: 1.8 } svg circle { fill: currentColor }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; margin: 0 0 .8rem }
.key { font-weight: 700 } .key::before { content: ""; display: inline-block; width: .8em; height: .8em;
  margin-right: .45em; border-radius: 2px; background: currentColor }
details { margin: .5rem 0 } summary { cursor: pointer }
pre { overflow-x: auto; font: 12.5px/1.45 ui-monospace, Menlo, Consolas, monospace; margin: .6rem 0 0 }
ul { margin: .3rem 0; padding-left: 1.2rem }
"""


def compare_page(comparison: Comparison) -> str:
    """Return the page: the table, the curves over all axes, where time went, and every configuration."""
    groups = comparison.groups
    count = sum(len(group.runs) for group in groups)
    reference = f"{groups[0].label} ({escape(groups[0].name)})"
    notes = [*comparison.facts, CHARGED, PAIRED]
    body = [
        "<h1>Compared runs</h1>",
        f"<p>{count} finished runs in {len(groups)} configurations; the reference is {reference}.</p>",
        _table(comparison),
        *(f"<p>{escape(note)}</p>" for note in notes),
        *(f'<p class="warn">{escape(note)}.</p>' for note in comparison.notes),
        "<h2>Top-1 EMA in per cent, one line a run</h2>",
        _legend(groups),
        '<div class="figures">',
        *(f'<div class="card">{curves_svg(comparison, axis)}</div>' for axis in AXES),
        "</div>",
        "<h2>Where the time went</h2>",
        _parts_table(groups),
        "<h2>Configurations</h2>",
        '<div class="figures">',
        *(_configuration(index, group, groups[0].label) for index, group in enumerate(groups)),
        "</div>",
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Compared runs</title><style>{_style()}</style></head>\n<body>"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _style() -> str:
    light, dark = (
        "; ".join(f"--c{index}: {colour}" for index, colour in enumerate(colours))
        for colours in (COLOURS, DARK_COLOURS)
    )
    classes = "\n".join(f".c{index} {{ color: var(--c{index}) }}" for index in range(len(COLOURS)))
    return _STYLE.replace("LIGHT", light).replace("DARK", dark) + classes


def _table(comparison: Comparison) -> str:
    columns = comparison_columns(comparison)
    sides = ["left" if column.justify == "left" else "" for column in columns]
    rows = list(zip(*(column.cells for column in columns), strict=True))
    labels = [_key(index, group) for index, group in enumerate(comparison.groups)]
    cells = [[key, *map(escape, row[1:])] for key, row in zip(labels, rows, strict=True)]
    return _html_table([escape(column.header) for column in columns], cells, ["left", *sides[1:]])


def _parts_table(groups: Sequence[Group]) -> str:
    header = ["", "run", *PARTS.values(), "all"]
    rows = [
        [
            _key(index, group),
            escape(group.name),
            *(duration(group.parts_seconds[part]) for part in PARTS),
            duration(group.seconds.mean),
        ]
        for index, group in enumerate(groups)
    ]
    return _html_table(header, rows, ["left", "left", *[""] * (len(PARTS) + 1)])


def _html_table(header: Sequence[str], rows: Sequence[Sequence[str]], sides: Sequence[str]) -> str:
    """Return a table of cells that are HTML already."""

    def line(cells: Sequence[str], tag: str) -> str:
        inner = (
            f'<{tag} class="{side}">{cell}</{tag}>' for cell, side in zip(cells, sides, strict=True)
        )
        return f"<tr>{''.join(inner)}</tr>"

    body = "\n".join(line(row, "td") for row in rows)
    return f'<div class="wide"><table>{line(header, "th")}\n{body}</table></div>'


def _key(index: int, group: Group) -> str:
    return f'<span class="key c{index % len(COLOURS)}">{group.label}</span>'


def _legend(groups: Sequence[Group]) -> str:
    keys = (
        f"<span>{_key(index, group)} {escape(group.name)}</span>"
        for index, group in enumerate(groups)
    )
    return f'<div class="legend">{"".join(keys)}</div>'


def _configuration(index: int, group: Group, reference: str) -> str:
    differences = "".join(f"<li>{escape(text)}</li>" for text in difference_texts(group))
    runs = "".join(
        f"<li>seed {run.result.seed}: {run.result.top1_ema:.2f} %,"
        f" {duration(run.result.wall_seconds)}, {escape(run.result.run_id)}</li>"
        for run in group.runs
    )
    differs = f"<p>Differs from {reference} in</p><ul>{differences}</ul>" if differences else ""
    return (
        f'<div class="card">{_key(index, group)} <b>{escape(group.name)}</b>'
        f"{differs}<p>Runs</p><ul>{runs}</ul><details><summary>All settings</summary>"
        f"<pre>{escape(dump_yaml(group.runs[0].configuration))}</pre></details></div>"
    )
