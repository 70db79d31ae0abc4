"""Parts of web pages that need nothing else: no script, no network, light and dark as the reader's are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from autoprog.printable import printable
from autoprog.ui.palette import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION
from autoprog.ui.tables import Column

__all__ = ["COLOURS", "column_table", "facts_list", "html_table", "page"]

COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
DARK_COLOURS = ("#5aa9e6", "#ff8a4c", "#2fc79a", "#e3a1c4", "#f0b93a", "#9fd8ff")

_STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --card: #f6f7f9; --text: #1c2126; --dim: #5c6670;
  --rule: #d9dee3; --warn: #9a3f00; --win: #fdf1d3; LIGHT }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --card: #1d2226; --text: #e8ebee;
  --dim: #9aa5b0; --rule: #363d44; --warn: #ffb27d; --win: #3a3018; DARK } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 84rem; background: var(--page);
  color: var(--text); font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif }
h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere } h2 { font-size: 1.1rem; margin: 2.2rem 0 .7rem }
h3 { font-size: 1rem; margin: 0 0 .3rem }
p, li { color: var(--dim); max-width: 62rem } p { margin: .5rem 0 } .warn { color: var(--warn) }
.strong { color: var(--text); font-weight: 600 }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th { color: var(--dim); font-weight: 600; font-size: .85rem; vertical-align: bottom }
th { white-space: nowrap }
th, td { padding: .4rem .7rem .4rem 0; border-bottom: 1px solid var(--rule); text-align: right }
td { white-space: nowrap } td.left { white-space: normal; min-width: 3.5rem; overflow-wrap: break-word }
th.left, td.left { text-align: left } td.name { font-weight: 600; min-width: 10rem }
tr.winner td { background: var(--win); font-weight: 600 }
.figures { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)) }
.card { background: var(--card); border-radius: 8px; padding: .8rem 1rem; min-width: 0; margin: 0 0 1rem }
.card dl { margin: .2rem 0 }
.card p { font-size: .9rem } .card li { overflow-wrap: anywhere }
dl { display: grid; gap: .7rem 1.2rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)) }
.status { font-size: .9rem; font-weight: 600; padding: .1rem .6rem; border-radius: 1rem;
  background: var(--card) }
dl div { min-width: 0 } dt { color: var(--dim); font-size: .85rem }
dd { margin: 0; overflow-wrap: anywhere }
svg { display: block; width: 100%; height: auto }
svg text { fill: var(--dim); font-size: 12px } svg text.end { fill: currentColor; font-weight: 700 }
svg text.value { fill: var(--text) }
svg .grid { stroke: var(--rule) } svg .axis { stroke: var(--dim) }
svg .base { fill: var(--rule); opacity: .45 } svg .area { fill: currentColor; opacity: .75 }
svg polyline { fill: none; stroke: currentColor; stroke-width: 1.8 } svg circle { fill: currentColor }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; margin: 0 0 .8rem }
.key { font-weight: 700 } .key::before { content: ""; display: inline-block; width: .8em; height: .8em;
  margin-right: .45em; border-radius: 2px; background: currentColor }
details { margin: .5rem 0 } summary { cursor: pointer }
pre { overflow-x: auto; font: 12.5px/1.45 ui-monospace, Menlo, Consolas, monospace; margin: .6rem 0 0 }
ul { margin: .3rem 0; padding-left: 1.2rem }
"""


def page(title: str, body: Iterable[str]) -> str:
    """Return a whole page; the parts of the body are HTML already, the title is not."""
    return printable(
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_style()}</style></head>\n<body>"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def column_table(columns: Sequence[Column], winner: int | None = None) -> str:
    """Return a table of columns of plain text, with one row made strong."""
    rows = zip(*(column.cells for column in columns), strict=True)
    return html_table(
        [escape(column.header) for column in columns],
        [[escape(cell) for cell in row] for row in rows],
        ["left" if column.justify == "left" else "" for column in columns],
        winner,
    )


def html_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    sides: Sequence[str],
    winner: int | None = None,
) -> str:
    """Return a table of cells that are HTML already; a side is the class of a column's cells."""

    def line(cells: Sequence[str], tag: str, style: str = "") -> str:
        inner = (
            f'<{tag} class="{side}">{cell}</{tag}>' for cell, side in zip(cells, sides, strict=True)
        )
        return f"<tr{style}>{''.join(inner)}</tr>"

    strong = ' class="winner"'
    body = "\n".join(line(row, "td", strong * (k == winner)) for k, row in enumerate(rows))
    return f'<div class="wide"><table>{line(header, "th")}\n{body}</table></div>'


def facts_list(facts: Iterable[tuple[str, str]]) -> str:
    """Return names and values, side by side as far as there is room."""
    pairs = (f"<div><dt>{escape(n)}</dt><dd>{escape(text)}</dd></div>" for n, text in facts)
    return f"<dl>{''.join(pairs)}</dl>"


def _style() -> str:
    light, dark = (
        "; ".join(f"--c{index}: {colour}" for index, colour in enumerate(colours))
        for colours in (COLOURS, DARK_COLOURS)
    )
    classes = "\n".join(f".c{index} {{ color: var(--c{index}) }}" for index in range(len(COLOURS)))
    return _STYLE.replace("LIGHT", light).replace("DARK", dark) + classes
