"""Sections as web pages that need nothing else: no script, no network, light and dark as the reader's are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from itertools import groupby
from math import floor, log10

from autoprog.errors import ConfigError
from autoprog.files import dump_yaml, parse
from autoprog.printable import printable
from autoprog.recipe import Recipe
from autoprog.schedule import GrowthSchedule
from autoprog.ui.compare import (
    AXES,
    CHARGED,
    PAIRED,
    comparison_columns,
    comparison_curves,
    difference_texts,
)
from autoprog.ui.format import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    duration,
    number,
    per_cent,
)
from autoprog.ui.section import (
    Bars,
    Chart,
    Facts,
    Figures,
    Headline,
    LaneDiff,
    Lanes,
    Line,
    Part,
    Section,
    Table,
    Warnings,
)
from autoprog.ui.subject import NOMINAL_STEPS_PER_EPOCH
from autoprog.ui.track import Lane, Track, track_of_table
from autoprog.verify.compare import Comparison, Group

__all__ = [
    "FONT_ASPECT_RATIO",
    "chart_svg",
    "compare_page",
    "lanes_svg",
    "sections_page",
    "ticks",
    "with_local_fonts",
]

FONT_ASPECT_RATIO = 0.602
"""Width of a letter over its height in the fonts of :func:`with_local_fonts`."""

_FONTS = "ui-monospace, Menlo, 'DejaVu Sans Mono', 'Liberation Mono', monospace"

_COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
_DARK_COLOURS = ("#5aa9e6", "#ff8a4c", "#2fc79a", "#e3a1c4", "#f0b93a", "#9fd8ff")

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
.chart { max-width: 34rem }
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


def sections_page(title: str, sections: Sequence[Section]) -> str:
    """Return sections as a page: what came out stands first, below the header."""
    order = {"header": 0, "lengths": 0, "notes": 0, "result": 1}
    # Whoever opens a page wants to know what came out; on a terminal that is the end, beside the prompt.
    sections = sorted(sections, key=lambda section: order.get(section.name, 2))
    return _page(title, (text for section in sections for text in _section(section)))


def _page(title: str, body: Iterable[str]) -> str:
    """Return a whole page; the parts of the body are HTML already, the title is not."""
    light, dark = (
        "; ".join(f"--c{index}: {colour}" for index, colour in enumerate(colours))
        for colours in (_COLOURS, _DARK_COLOURS)
    )
    classes = "\n".join(f".c{index} {{ color: var(--c{index}) }}" for index in range(len(_COLOURS)))
    style = _STYLE.replace("LIGHT", light).replace("DARK", dark) + classes
    # Names of runs and warnings of somebody else must not steer the program that shows the file.
    return printable(
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n<body>"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _section(section: Section) -> Iterator[str]:
    """Yield the HTML of a section; of sections in it each is a card."""
    if not section.parts:
        return
    if section.title:
        yield f"<h2>{escape(section.title)}</h2>"
    for part in section.parts:
        if isinstance(part, Section):
            inner = "".join(text for one in part.parts for text in _part(one))
            yield f'<div class="card"><h3>{escape(part.title)}</h3>{inner}</div>'
        else:
            yield from _part(part)


def _part(part: Part | Section) -> Iterator[str]:
    match part:
        case Headline():
            status = f' <span class="status">{escape(part.status)}</span>' if part.status else ""
            yield f"<h1>{escape(part.model)} · {escape(part.kind)} {escape(part.name)}{status}</h1>"
        case Line(style="strong"):
            yield f'<p class="strong">{escape(part.text)}</p>'
        case Line():
            yield f"<p>{escape(part.text)}</p>"
        case Warnings():
            yield from (f'<p class="warn">{escape(text)}</p>' for text in part.messages)
        case Facts(layout="columns"):
            yield f'<div class="card">{_definitions(part.pairs)}</div>'
        case Facts():
            yield _definitions(part.pairs)
        case Bars():
            yield _definitions([(name, per_cent(value)) for name, value in part.fractions])
        case Table(caption=""):
            yield _column_table(part)
        case Table():
            summary = escape(part.caption[0].upper() + part.caption[1:])
            yield f"<details><summary>{summary}</summary>{_column_table(part)}</details>"
        case Chart():
            yield f'<div class="chart">{_figure(part)}</div>'
        case Figures():
            cards = "".join(f'<div class="card">{_figure(chart)}</div>' for chart in part.charts)
            yield f'<div class="figures">{cards}</div>'
        case Lanes():
            yield f'<div class="card">{lanes_svg(part.track)}</div>'
            track, table = part.track, _column_table(Table.of(part.track.stage_columns()))
            if track.supernet_spans or track.decision_steps or track.growth_steps:
                yield "<p>◆ decision, ▲ growth, a bar on the axis: supernet phase.</p>"
            yield f"<details><summary>Table of stages</summary>{table}</details>"
        case LaneDiff():
            if not part.axes:
                yield "<p>The same on every axis.</p>"
                return
            for side, name, track in zip("AB", part.names, part.tracks, strict=True):
                shown = [lane for lane in track.all_lanes() if lane.name in part.axes]
                picture = lanes_svg(track, part.right, shown, f"schedule {side}: {name}")
                yield f'<div class="card"><h3>{side} {escape(name)}</h3>{picture}</div>'
            yield _column_table(part.table)


def _definitions(facts: Iterable[tuple[str, str]]) -> str:
    """Return names and values, side by side as far as there is room."""
    pairs = (f"<div><dt>{escape(n)}</dt><dd>{escape(text)}</dd></div>" for n, text in facts)
    return f"<dl>{''.join(pairs)}</dl>"


def _column_table(table: Table) -> str:
    """Return a table of columns of plain text, with its strong rows in another colour."""
    columns = table.columns
    rows = zip(*(column.cells for column in columns), strict=True)
    return _html_table(
        [escape(column.header) for column in columns],
        [[escape(cell) for cell in row] for row in rows],
        ["left" if column.justify == "left" else "" for column in columns],
        table.strong,
    )


def _html_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    sides: Sequence[str],
    strong: Sequence[int] = (),
) -> str:
    """Return a table of cells that are HTML already; a side is the class of a column's cells."""

    def line(cells: Sequence[str], tag: str, style: str = "") -> str:
        inner = (
            f'<{tag} class="{side}">{cell}</{tag}>' for cell, side in zip(cells, sides, strict=True)
        )
        return f"<tr{style}>{''.join(inner)}</tr>"

    winner = ' class="winner"'
    body = "\n".join(line(row, "td", winner * (k in strong)) for k, row in enumerate(rows))
    return f'<div class="wide"><table>{line(header, "th")}\n{body}</table></div>'


# --------------------------------------------------------------------------------------------------
# Finished runs side by side.

_PARTS = {
    "train": "training",
    "data_wait": "data wait",
    "search": "search",
    "lost": "growth",
    "eval": "evaluation",
    "checkpoints": "checkpoints",
}


def compare_page(comparison: Comparison) -> str:
    """Return the page: the table, the curves over all axes, where time went, and every configuration."""
    groups = comparison.groups
    count = sum(len(group.runs) for group in groups)
    reference = f"{groups[0].label} ({escape(groups[0].name)})"
    notes = [*comparison.facts, CHARGED, PAIRED]
    columns = [
        one
        for one in comparison_columns(comparison)
        if any(cell not in ("–", "") for cell in one.cells)
    ]
    kinds = {"right": "", "left": "left"}
    names = ["left name" if one.header == "run" else kinds[one.justify] for one in columns]
    rows = zip(*(column.cells for column in columns), strict=True)
    cells = [  # the first column has the colour of the group's curves
        [_key(index, group), *map(escape, row[1:])]
        for index, (group, row) in enumerate(zip(groups, rows, strict=True))
    ]
    sections = [comparison_curves(comparison, axis) for axis in AXES]
    charts = [part for one in sections for part in one.parts if isinstance(part, Chart)]
    legend = "".join(
        f"<span>{_key(index, group)} {escape(group.name)}</span>"
        for index, group in enumerate(groups)
    )
    times = [
        [
            _key(index, group),
            escape(group.name),
            *(duration(group.parts_seconds[part]) for part in _PARTS),
            duration(group.seconds.mean),
        ]
        for index, group in enumerate(groups)
    ]
    sides = ["left", "left name", *[""] * (len(_PARTS) + 1)]
    body = [
        "<h1>Compared runs</h1>",
        f"<p>{count} finished runs in {len(groups)} configurations; the reference is {reference}.</p>",
        _html_table([escape(column.header) for column in columns], cells, ["left", *names[1:]]),
        *(f"<p>{escape(note)}</p>" for note in notes),
        *(f'<p class="warn">{escape(note)}.</p>' for note in comparison.notes),
        "<h2>Top-1 EMA in per cent, one line a run</h2>",
        f'<div class="legend">{legend}</div>',
        '<div class="figures">',
        *(f'<div class="card">{chart_svg(chart)}</div>' for chart in charts),
        "</div>",
        *_schedules(groups),
        "<h2>Where the time went</h2>",
        _html_table(["", "run", *_PARTS.values(), "all"], times, sides),
        "<h2>Configurations</h2>",
        '<div class="figures">',
        *(_configuration(index, group, groups[0].label) for index, group in enumerate(groups)),
        "</div>",
    ]
    return _page("Compared runs", body)


def _schedules(groups: Sequence[Group]) -> list[str]:
    """Return the schedule of each group's first run, all on one axis; none where none is known."""
    tracks = {group.label: _track_of(group) for group in groups}
    known = {label: track for label, track in tracks.items() if track is not None}
    if not known:
        return []
    right = max(track.position(track.total_steps) for track in known.values())
    names = {lane.name for track in known.values() for lane in track.lanes()}
    cards = []
    for index, group in enumerate(groups):
        if group.label not in known:
            continue
        track = known[group.label]
        shown = [lane for lane in track.all_lanes() if lane.name in names]
        picture = lanes_svg(track, right, shown, group.name)
        name = f"{_key(index, group)} <b>{escape(group.name)}</b>"
        cards.append(f'<div class="card">{name}{picture}</div>')
    return ["<h2>Schedules, over the same epochs</h2>", *cards]


def _track_of(group: Group) -> Track | None:
    """Return what the first run of a group trained along, as its result says."""
    result = group.runs[0].result
    # Results of searches by trials, and of before it was recorded, have none.
    if not result.schedule:
        return None
    try:
        recipe = parse(Recipe, group.runs[0].configuration["recipe"], "run.yaml")
        schedule = parse(GrowthSchedule, result.schedule, "result.json")
        table = schedule.resolve(NOMINAL_STEPS_PER_EPOCH, result.epochs)
    except ConfigError:
        return None  # of a version with other rules: the numbers stand without the picture
    return track_of_table(schedule.full.spec(), table, recipe.strength)


def _key(index: int, group: Group) -> str:
    return f'<span class="key c{index % len(_COLOURS)}">{group.label}</span>'


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


# --------------------------------------------------------------------------------------------------
# Pictures as SVG in the colours of the page around them, by day and by night. The script of a library that
# draws them weighs more than all the page (that of plotly some megabytes), and needs scripts to be allowed.

_WIDTH = 900
_NAME, _RIGHT, _LANE, _GAP = 92, 12, 30, 22
_LETTER = 8.0  # width of a letter of 12 px, on the safe side
_LANE_COLOURS = {"depth": 5, "image px": 4, "step cost": 1}
_TIME_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200)
_DASHES = ("", "7 4", "2 3", "9 3 2 3")  # of curves whose colour is taken
_MAX_DOTS = 60  # of a curve; dots on top of each other are a thick line


def ticks(low: float, high: float, most: int, time: bool = False) -> list[float]:
    """Return at most ``most`` round numbers from `low` to `high`; of seconds, those of a clock."""
    span = (high - low) or 1.0
    step = 10.0 ** floor(log10(span / most))
    # Steps of 1, 2 and 5 times a power of ten are read without thinking.
    step = next(step * k for k in (1, 2, 5, 10) if span / (step * k) <= most - 1e-9)
    if time and step >= 1:
        # Half a day is the longest step of a clock; beyond it days are counted.
        days = (86400.0 * k for k in range(1, 10**6))
        step = next(s for s in (*_TIME_STEPS, *days) if span / s <= most - 1e-9)
    first = -floor(-low / step + 1e-9)
    return [round(k * step, 12) for k in range(first, floor(high / step + 1e-9) + 1)]


def _figure(chart: Chart) -> str:
    """Return a chart below its legend."""
    names = list(dict.fromkeys(one.name for one in chart.series))
    keys = "".join(
        f'<span class="key c{index % len(_COLOURS)}">{escape(name)}</span>'
        for index, name in enumerate(names)
    )
    return f'<div class="legend">{keys}</div>{chart_svg(chart)}'


def chart_svg(chart: Chart) -> str:
    """Return curves over what a span says; a mark is a dashed line down the picture.

    Each dot shows its values to a pointer. Of curves of one name, the longest one has their label.
    """
    width, height, left, right, below = 440, 280, 46, 26, 42
    span, floor_ = chart.span, height - below
    values = [y for one in chart.series for _, y in one.points]
    low, high = min(values), max(values)
    # Air above and below, so that no curve lies on the edge.
    margin = 0.06 * ((high - low) or 1.0)
    low, high = low - margin, high + margin

    def x_of(x: float) -> float:
        return round(left + span.fraction(x) * (width - left - right), 1)

    def y_of(y: float) -> float:
        return round(12 + (high - y) / (high - low) * (floor_ - 12), 1)

    base = f'x1="{left}" x2="{width - right}" y1="{floor_}" y2="{floor_}"'
    parts = [f'<line class="axis" {base}/>']
    for value in ticks(low, high, 6):
        y = y_of(value)
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{left - 7}" y="{y + 4}" text-anchor="end">{number(value)}</text>')
    for mark in chart.marks:
        x = x_of(mark)
        dashed = f'stroke-dasharray="3 4" x1="{x}" x2="{x}" y1="12" y2="{floor_}"'
        parts.append(f'<line class="axis" {dashed}/>')
    for value in ticks(span.left, span.right, 5, span.is_time):
        x, text = x_of(value), escape(span.tick_text(value))
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{floor_}" y2="{floor_ + 5}"/>')
        parts.append(f'<text x="{x}" y="{floor_ + 19}" text-anchor="middle">{text}</text>')
    middle, name = (left + width - right) / 2, escape(span.name)
    parts.append(f'<text x="{middle}" y="{height - 4}" text-anchor="middle">{name}</text>')
    names = list(dict.fromkeys(one.name for one in chart.series))
    longest = {
        name: max(
            (one for one in chart.series if one.name == name),
            key=lambda one: max((x for x, _ in one.points), default=-1.0),
        )
        for name in names
    }
    for one in chart.series:
        if not one.points:
            continue
        index, what = names.index(one.name), escape(one.detail or one.name)
        dash = _DASHES[index // len(_COLOURS) % len(_DASHES)]
        places = [(x_of(x), y_of(y)) for x, y in one.points]
        path = " ".join(f"{x},{y}" for x, y in places)
        line = f'<polyline points="{path}" stroke-dasharray="{dash}"/>' if one.line else ""
        dots = "".join(
            f'<circle cx="{x_of(x)}" cy="{y_of(y)}" r="2.4"><title>{what}: {number(y)} at'
            f" {escape(span.tick_text(x))}</title></circle>"
            for x, y in (one.points if len(places) <= _MAX_DOTS else ())
        )
        x, y = places[-1]
        end = f'<text class="end" x="{x + 6}" y="{y + 4}">{escape(one.label)}</text>'
        has_label = one.label and one is longest[one.name]
        parts.append(f'<g class="c{index % len(_COLOURS)}">{line}{dots}{end * bool(has_label)}</g>')
    title = escape(" and ".join(names[:2]))
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{title}">'
        f"{''.join(parts)}</svg>"
    )


def lanes_svg(
    track: Track,
    right: float | None = None,
    shown: Sequence[Lane] | None = None,
    title: str = "schedule",
) -> str:
    """Return a schedule: a lane an axis, with the value written at each change where there is room.

    Args:
        track: What to draw.
        right: Where the axis ends, in its unit; that of the track if None.
        shown: The lanes; those in which something happens if None.
        title: What a screen reader says.
    """
    drawn = track.lanes() if shown is None else tuple(shown)
    right = track.position(track.total_steps) if right is None else right
    height = len(drawn) * (_LANE + _GAP) + 40
    parts = [_lane(track, lane, right, row * (_LANE + _GAP)) for row, lane in enumerate(drawn)]
    parts.append(_events(track, right, len(drawn) * (_LANE + _GAP)))
    parts.append(_axis(track.unit, right, len(drawn) * (_LANE + _GAP) + 6))
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )


def _x(position: float, right: float) -> float:
    return round(_NAME + position / (right or 1.0) * (_WIDTH - _NAME - _RIGHT), 1)


def _lane(track: Track, lane: Lane, right: float, top: float) -> str:
    """Return one axis: its name, the height of each segment, and the value where it changes."""
    base = top + _GAP - 6 + _LANE
    colour = _LANE_COLOURS.get(lane.name, 2)
    parts = [
        f'<text x="0" y="{base - _LANE / 2 + 4}">{escape(lane.name)}</text>',
        f'<rect class="base" x="{_NAME}" y="{base - _LANE}" width="{_WIDTH - _NAME - _RIGHT}"'
        f' height="{_LANE}"/>',
    ]
    free = 0.0
    segments = zip(track.segments, lane.values, lane.texts, strict=True)
    for (value, text), group in groupby(segments, lambda one: one[1:]):
        same = [segment for segment, *_ in group]  # drawn as one, else their edges show as stripes
        first, last = track.position(same[0].start_step), track.position(same[-1].stop_step)
        start, stop = _x(first, right), _x(last, right)
        # Two pixels at least, so that 0 is seen as a value.
        tall = round(max(2.0, _LANE * value / lane.top), 1)
        width = max(0.5, round(stop - start, 1))
        parts.append(
            f'<rect class="area" x="{start}" y="{base - tall}" width="{width}" height="{tall}">'
            f"<title>{escape(lane.name)} {escape(text)} from {track.unit} {number(first)}</title></rect>"
        )
        # A label that would lie on the one before it is left out.
        place = min(start, _WIDTH - _LETTER * len(text))
        if place >= free:
            label = f'<text class="value" x="{place}" y="{base - _LANE - 4}">{escape(text)}</text>'
            parts.append(label)
            free = place + _LETTER * (len(text) + 1)
    return f'<g class="c{colour}">{"".join(parts)}</g>'


def _events(track: Track, right: float, top: float) -> str:
    """Return supernet phases as bars, decisions and growths as marks."""
    parts = []
    for start, stop in track.supernet_spans:
        x, end = _x(track.position(start), right), _x(track.position(stop), right)
        parts.append(
            f'<rect class="c3 area" x="{x}" y="{top + 2}" width="{max(1.0, round(end - x, 1))}" height="4">'
            "<title>supernet phase</title></rect>"
        )
    for name, steps, y in (
        ("decision", track.decision_steps, top),
        ("growth", track.growth_steps, top),
    ):
        for step in steps:
            x = _x(track.position(step), right)
            shape = f"{x - 4},{y + 8} {x + 4},{y + 8} {x},{y}"
            if name == "decision":
                shape = f"{x},{y} {x + 4},{y + 4} {x},{y + 8} {x - 4},{y + 4}"
            parts.append(
                f'<polygon fill="currentColor" points="{shape}"><title>{name} at {track.unit}'
                f" {number(track.position(step))}</title></polygon>"
            )
    return "".join(parts)


def _axis(unit: str, right: float, top: float) -> str:
    parts = [
        f'<line class="axis" x1="{_NAME}" x2="{_WIDTH - _RIGHT}" y1="{top + 4}" y2="{top + 4}"/>'
    ]
    for value in ticks(0.0, right, 8):
        x = _x(value, right)
        parts.append(f'<line class="axis" x1="{x}" x2="{x}" y1="{top + 4}" y2="{top + 9}"/>')
        parts.append(f'<text x="{x}" y="{top + 23}" text-anchor="middle">{number(value)}</text>')
    parts.append(f'<text x="0" y="{top + 23}">{escape(unit)}</text>')
    return "".join(parts)


def with_local_fonts(svg: str) -> str:
    """Return a picture of a terminal, printable, whose letters are of a font that is there.

    Rich and Textual name a font of the web, which no picture inside a page may load; its widths then space
    out the letters of another one.
    """
    svg = re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    svg = re.sub(
        r"font-family: (?:\"?Fira Code\"?|Fira Code), ?monospace", f"font-family: {_FONTS}", svg
    )
    return printable(svg)
