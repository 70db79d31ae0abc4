"""Parts of web pages that need nothing else: no script, no network, light and dark as the reader's are."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from html import escape
from itertools import groupby
from math import floor, log10

from autoprog.decisions import Decision
from autoprog.errors import ConfigError
from autoprog.files import dump_yaml, parse
from autoprog.printable import printable
from autoprog.recipe import Recipe
from autoprog.schedule import GrowthSchedule
from autoprog.ui.charts import Series, Span, accuracy_series, evaluation_columns, loss_series
from autoprog.ui.compare import (
    AXES,
    CHARGED,
    COLOURS,
    PAIRED,
    Axis,
    ScheduleDiff,
    comparison_columns,
    cost_lines,
    diff_columns,
    difference_texts,
    x_of,
    x_text,
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
from autoprog.ui.plain import stage_columns
from autoprog.ui.run_views import (
    budget_columns,
    budget_of,
    budget_text,
    growth_columns,
    header_facts,
    lengths_of,
    result_of,
    result_rows,
)
from autoprog.ui.search_views import (
    decision_columns,
    decision_heading,
    decision_summary,
    fidelity_columns,
    fidelity_lines,
    front_columns,
    ranked,
    runner_up_text,
    then_text,
    trial_columns,
    worker_columns,
)
from autoprog.ui.subject import NOMINAL_STEPS_PER_EPOCH, Subject
from autoprog.ui.tables import Column
from autoprog.ui.timeline import (
    Lane,
    Track,
    all_lanes,
    constants,
    lanes,
    mean_relative_cost,
    measured_speed_up,
    track_of_table,
    unfrozen_lines,
)
from autoprog.verify.compare import Comparison, FinishedRun, Group

__all__ = [
    "FONT_ASPECT_RATIO",
    "PAGE_COLOURS",
    "column_table",
    "compare_page",
    "curves_of_series",
    "curves_svg",
    "diff_page",
    "facts_list",
    "html_table",
    "lanes_svg",
    "page",
    "show_page",
    "ticks",
    "with_local_fonts",
]


# --------------------------------------------------------------------------------------------------
# Pictures as SVG: lanes of a schedule and curves in the colours of the page around them, and
# terminals.


FONT_ASPECT_RATIO = 0.602
"""Width of a letter over its height in the fonts of :func:`with_local_fonts`."""

WIDTH = 900
NAME, RIGHT, LANE, GAP = 92, 12, 30, 22
LETTER = 8.0  # width of a letter of 12 px, on the safe side
LANE_COLOURS = {"depth": 5, "image px": 4, "step cost": 1}
_FONTS = "ui-monospace, Menlo, 'DejaVu Sans Mono', 'Liberation Mono', monospace"
_TIME_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200)


def ticks(low: float, high: float, most: int, time: bool = False) -> list[float]:
    """Return at most ``most`` round numbers from `low` to `high`; of seconds, those of a clock."""
    span = (high - low) or 1.0
    step = 10.0 ** floor(log10(span / most))
    step = next(step * k for k in (1, 2, 5, 10) if span / (step * k) <= most - 1e-9)
    if time and step >= 1:
        days = (86400.0 * k for k in range(1, 10**6))
        step = next(s for s in (*_TIME_STEPS, *days) if span / s <= most - 1e-9)
    first = -floor(-low / step + 1e-9)
    return [round(k * step, 12) for k in range(first, floor(high / step + 1e-9) + 1)]


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
    drawn = lanes(track) if shown is None else tuple(shown)
    right = track.position(track.total_steps) if right is None else right
    height = len(drawn) * (LANE + GAP) + 40
    parts = [_lane(track, lane, right, row * (LANE + GAP)) for row, lane in enumerate(drawn)]
    parts.append(_events(track, right, len(drawn) * (LANE + GAP)))
    parts.append(_axis(track.unit, right, len(drawn) * (LANE + GAP) + 6))
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )


def curves_of_series(
    series: Sequence[Series], span: Span, marks: Sequence[float] = (), title: str = "curves"
) -> str:
    """Return curves over what a span says; a mark is a dashed line down the picture."""
    width, height, left, below = 440, 260, 46, 40
    points = [point for one in series for point in one.points]
    low, high = min(y for _, y in points), max(y for _, y in points)
    margin = 0.06 * ((high - low) or 1.0)
    low, high = low - margin, high + margin

    def x_of(x: float) -> float:
        return round(left + span.fraction(x) * (width - left - 14), 1)

    def y_of(y: float) -> float:
        return round(12 + (high - y) / (high - low) * (height - 12 - below), 1)

    floor_, parts = height - below, []
    for value in ticks(low, high, 6):
        y = y_of(value)
        parts.append(f'<line class="grid" x1="{left}" x2="{width - 14}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{left - 7}" y="{y + 4}" text-anchor="end">{number(value)}</text>')
    for mark in marks:
        x = x_of(mark)
        parts.append(
            f'<line class="axis" stroke-dasharray="3 4" x1="{x}" x2="{x}" y1="12" y2="{floor_}"/>'
        )
    for value in ticks(span.left, span.right, 6):
        x = x_of(value)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{floor_}" y2="{floor_ + 5}"/>')
        parts.append(f'<text x="{x}" y="{floor_ + 19}" text-anchor="middle">{number(value)}</text>')
    parts.append(
        f'<text x="{(left + width) / 2}" y="{height - 4}" text-anchor="middle">epoch</text>'
    )
    for index, one in enumerate(series):
        places = [(x_of(x), y_of(y)) for x, y in one.points]
        path = " ".join(f"{x},{y}" for x, y in places)
        few = len(places) <= 60  # dots on top of each other are a thick line
        dots = "".join(f'<circle cx="{x}" cy="{y}" r="2.4"/>' for x, y in places) if few else ""
        line = f'<polyline points="{path}"/>' if one.line else ""
        parts.append(f'<g class="c{index}">{line}{dots}</g>')
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )


def _x(position: float, right: float) -> float:
    return round(NAME + position / (right or 1.0) * (WIDTH - NAME - RIGHT), 1)


def _lane(track: Track, lane: Lane, right: float, top: float) -> str:
    """Return one axis: its name, the height of each segment, and the value where it changes."""
    base = top + GAP - 6 + LANE
    colour = LANE_COLOURS.get(lane.name, 2)
    parts = [
        f'<text x="0" y="{base - LANE / 2 + 4}">{escape(lane.name)}</text>',
        f'<rect class="base" x="{NAME}" y="{base - LANE}" width="{WIDTH - NAME - RIGHT}" height="{LANE}"/>',
    ]
    free = 0.0
    segments = zip(track.segments, lane.values, lane.texts, strict=True)
    for (value, text), group in groupby(segments, lambda one: one[1:]):
        same = [segment for segment, *_ in group]  # drawn as one, else their edges show as stripes
        first, last = track.position(same[0].start_step), track.position(same[-1].stop_step)
        start, stop = _x(first, right), _x(last, right)
        tall = round(max(2.0, LANE * value / lane.top), 1)
        width = max(0.5, round(stop - start, 1))
        parts.append(
            f'<rect class="area" x="{start}" y="{base - tall}" width="{width}" height="{tall}">'
            f"<title>{escape(lane.name)} {escape(text)} from {track.unit} {number(first)}</title></rect>"
        )
        place = min(start, WIDTH - LETTER * len(text))
        if place >= free:
            label = f'<text class="value" x="{place}" y="{base - LANE - 4}">{escape(text)}</text>'
            parts.append(label)
            free = place + LETTER * (len(text) + 1)
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
    parts = [f'<line class="axis" x1="{NAME}" x2="{WIDTH - RIGHT}" y1="{top + 4}" y2="{top + 4}"/>']
    for value in ticks(0.0, right, 8):
        x = _x(value, right)
        parts.append(f'<line class="axis" x1="{x}" x2="{x}" y1="{top + 4}" y2="{top + 9}"/>')
        parts.append(f'<text x="{x}" y="{top + 23}" text-anchor="middle">{number(value)}</text>')
    parts.append(f'<text x="0" y="{top + 23}">{escape(unit)}</text>')
    return "".join(parts)


PAGE_COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
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
        for colours in (PAGE_COLOURS, DARK_COLOURS)
    )
    classes = "\n".join(
        f".c{index} {{ color: var(--c{index}) }}" for index in range(len(PAGE_COLOURS))
    )
    return _STYLE.replace("LIGHT", light).replace("DARK", dark) + classes


# --------------------------------------------------------------------------------------------------
# A run, a schedule or a diff of two as one web page.


def show_page(subject: Subject) -> str:
    """Return all that is known of a subject as a page."""
    return page(f"{subject.spec.name} {subject.name}", _body(subject))


def diff_page(diff: ScheduleDiff) -> str:
    """Return two schedules beside each other: what each costs, the axes that differ, and where."""
    right = diff.spans[-1].stop_epoch
    pictures = []
    for side, cost, track in zip("AB", diff.costs, diff.tracks, strict=True):
        shown = [lane for lane in all_lanes(track) if lane.name in diff.axes]
        title = f"schedule {side}: {cost.name}"
        pictures.append(
            f"<h3>{side} {escape(cost.name)}</h3>{lanes_svg(track, right, shown, title)}"
        )
    same = ["<p>The same on every axis.</p>"]
    body = [
        "<h1>Schedules A and B</h1>",
        *(f"<p>{escape(line.plain)}</p>" for line in cost_lines(diff)),
        "<h2>Where they differ</h2>",
        *(f'<div class="card">{one}</div>' for one in (pictures if diff.axes else ())),
        *([column_table(diff_columns(diff))] if diff.axes else same),
    ]
    return page(f"{diff.costs[0].name} and {diff.costs[1].name}", body)


def _body(subject: Subject) -> Iterator[str]:
    status = f' <span class="status">{escape(subject.status)}</span>' if subject.status else ""
    yield f"<h1>{escape(subject.spec.name)} · {escape(subject.kind)} {escape(subject.name)}{status}</h1>"
    yield facts_list(header_facts(subject))
    yield from (f"<p>{escape(note)}</p>" for note in subject.notes)
    yield from (f'<p class="warn">{escape(message)}</p>' for message in subject.state.warnings)
    result = result_of(subject)
    if result is not None:
        yield f'<h2>Result</h2><div class="card">{facts_list(result_rows(result))}</div>'
    if subject.track is not None:
        yield from _schedule(subject, subject.track)
    yield from _curves(subject)
    if subject.decisions:
        yield "<h2>Decisions</h2>"
        yield from map(_decision, subject.decisions)
    yield from _tables(subject)


def _schedule(subject: Subject, track: Track) -> Iterator[str]:
    yield f'<h2>Schedule</h2><div class="card">{lanes_svg(track)}</div>'
    mean, costs = mean_relative_cost(track), subject.run.step_seconds if subject.run else {}
    measured = measured_speed_up(track, costs)
    by_time = "" if measured is None else f"; by measured step times {measured:.2f}×"
    so_far = "" if track.known_steps >= track.total_steps else " so far"
    if track.supernet_spans or track.decision_steps or track.growth_steps:
        yield "<p>◆ decision, ▲ growth, a bar on the axis: supernet phase.</p>"
    yield (
        f"<p>Mean step cost {per_cent(mean)} of the full model: ideal speed-up"
        f" {1 / mean:.2f}×{so_far}{by_time}.</p>"
    )
    lengths = lengths_of(subject)
    if lengths is not None:
        yield f"<p>Lengths: {escape(lengths.sentence())}.</p>"
    same = " · ".join(f"{name} {text}" for name, text in constants(track).items())
    if same:
        yield f"<p>Constant: {escape(same)}.</p>"
    yield from (f"<p>{escape(line)}</p>" for line in unfrozen_lines(track))
    yield f"<details><summary>Table of stages</summary>{column_table(stage_columns(track))}</details>"


def _curves(subject: Subject) -> Iterator[str]:
    state = subject.state
    kinds = [kind for kind in (accuracy_series(state), loss_series(state)) if kind]
    if not kinds:
        return
    marks = [growth.step / max(1, state.steps_per_epoch) for growth in state.growths]
    right = max(x for kind in kinds for one in kind for x in [x for x, _ in one.points] + marks)
    yield '<h2>Curves</h2><div class="figures">'
    for kind in kinds:
        keys = "".join(
            f'<span class="key c{index}">{escape(one.name)}</span>'
            for index, one in enumerate(kind)
        )
        picture = curves_of_series(kind, Span.epochs(right), marks, kind[0].name)
        yield f'<div class="card"><div class="legend">{keys}</div>{picture}</div>'
    yield "</div>"


def _decision(decision: Decision) -> str:
    parts = [
        f"<h3>Decision {decision.index} · epoch {number(decision.epoch)}</h3>",
        f"<p>{escape(decision_heading(decision))}</p>",
    ]
    if decision.candidates:
        winner = next(k for k, row in enumerate(ranked(decision)) if row is decision.chosen)
        parts.append(column_table(decision_columns(decision), winner))
    parts.append(f'<p class="strong">{escape(decision_summary(decision))}</p>')
    lines = (then_text(decision), decision.reason, runner_up_text(decision))
    parts += [f"<p>{escape(line)}</p>" for line in lines if line]
    if decision.front:
        table = column_table(front_columns(decision))
        parts.append(f"<details><summary>Ways on that none beats</summary>{table}</details>")
    return f'<div class="card">{"".join(parts)}</div>'


def _tables(subject: Subject) -> Iterator[str]:
    state, budget = subject.state, budget_of(subject)
    if subject.fidelity is not None:
        lines = "".join(f"<p>{escape(line)}</p>" for line in fidelity_lines(subject.fidelity))
        yield f"<h2>Fidelity</h2>{column_table(fidelity_columns(subject.fidelity))}{lines}"
    if state.trials:
        yield f"<h2>Trials</h2>{column_table(trial_columns(state.trials))}"
    if subject.workers:
        yield f"<h2>Workers</h2>{column_table(worker_columns(subject.workers))}"
    if state.growths:
        yield f"<h2>Growth</h2>{column_table(growth_columns(state.growths))}"
    if budget is not None:
        yield f"<h2>Time budget</h2><p>{escape(budget_text(budget))}</p>"
        yield column_table(budget_columns(budget))
    if state.evaluations:
        table = column_table(evaluation_columns(state.evaluations))
        yield f"<h2>Evaluations</h2><details open><summary>All</summary>{table}</details>"


# --------------------------------------------------------------------------------------------------
# Curves of runs as an inline SVG that takes its colours from the page around it.


CURVES_WIDTH, HEIGHT = 440, 300
LEFT, CURVES_RIGHT, TOP, BOTTOM = 46, 26, 14, 44
DASHES = ("", "7 4", "2 3", "9 3 2 3")


def curves_svg(comparison: Comparison, axis: Axis) -> str:
    """Return top-1 EMA over an axis: a colour and a dash for each group, a line for each run."""
    runs = [run for group in comparison.groups for run in group.runs]
    right = max((x_of(point, axis) for run in runs for point in run.curve), default=0.0) or 1.0
    values = [point.top1_ema for run in runs for point in run.curve] or [0.0, 100.0]
    margin = 0.06 * ((max(values) - min(values)) or 1.0)
    frame = _Frame(right, min(values) - margin, max(values) + margin)
    lines = [
        _curve(run, axis, frame, index, group.label if run is _longest(group, axis) else "")
        for index, group in enumerate(comparison.groups)
        for run in group.runs
    ]
    name = escape(f"top-1 EMA in per cent over {AXES[axis]}")
    return (
        f'<svg viewBox="0 0 {CURVES_WIDTH} {HEIGHT}" role="img" aria-label="{name}">'
        f"{_grid(frame, axis)}{''.join(lines)}</svg>"
    )


def _longest(group: Group, axis: Axis) -> FinishedRun:
    """Return the run that reaches farthest, whose end has room for a label."""
    return max(group.runs, key=lambda run: max((x_of(p, axis) for p in run.curve), default=0.0))


class _Frame:
    """Where values lie in the picture."""

    def __init__(self, right: float, low: float, high: float) -> None:
        self.right, self.low, self.high = right, low, high

    def x(self, value: float) -> float:
        """Return the column of a value."""
        return round(LEFT + value / self.right * (CURVES_WIDTH - LEFT - CURVES_RIGHT), 1)

    def y(self, value: float) -> float:
        """Return the row of a value."""
        fraction = (self.high - value) / (self.high - self.low)
        return round(TOP + fraction * (HEIGHT - TOP - BOTTOM), 1)


def _grid(frame: _Frame, axis: Axis) -> str:
    floor_, parts = HEIGHT - BOTTOM, []
    for value in ticks(frame.low, frame.high, 6):
        y = frame.y(value)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{CURVES_WIDTH - CURVES_RIGHT}" y1="{y}" y2="{y}"/>'
        )
        parts.append(f'<text x="{LEFT - 7}" y="{y + 4}" text-anchor="end">{number(value)}</text>')
    for value in ticks(0.0, frame.right, 5, time=axis == "seconds"):
        x = frame.x(value)
        text = "0" if value == 0 else x_text(value, axis).removesuffix(" images")
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{floor_}" y2="{floor_ + 5}"/>')
        parts.append(
            f'<text x="{x}" y="{floor_ + 19}" text-anchor="middle">'
            f"{text.removesuffix(' MACs')}</text>"
        )
    parts.append(
        f'<line class="axis" x1="{LEFT}" x2="{CURVES_WIDTH - CURVES_RIGHT}" y1="{floor_}" y2="{floor_}"/>'
    )
    middle = (LEFT + CURVES_WIDTH - CURVES_RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{AXES[axis]}</text>')
    return "".join(parts)


def _curve(run: FinishedRun, axis: Axis, frame: _Frame, index: int, label: str) -> str:
    """Return a line with a dot an evaluation; each dot tells its values to a pointer."""
    places = [(frame.x(x_of(p, axis)), frame.y(p.top1_ema), p) for p in run.curve]
    if not places:
        return ""
    dash = DASHES[index // len(COLOURS) % len(DASHES)]
    path = " ".join(f"{x},{y}" for x, y, _ in places)
    dots = "".join(
        f'<circle cx="{x}" cy="{y}" r="2.6"><title>{escape(run.name)}, seed {run.result.seed}:'
        f" {p.top1_ema:.2f} % at {x_text(x_of(p, axis), axis)}</title></circle>"
        for x, y, p in places
    )
    x, y, _ = places[-1]
    end = f'<text class="end" x="{x + 6}" y="{y + 4}">{label}</text>' if label else ""
    return (
        f'<g class="c{index % len(COLOURS)}"><polyline points="{path}" stroke-dasharray="{dash}"/>'
        f"{dots}{end}</g>"
    )


# --------------------------------------------------------------------------------------------------
# Runs side by side as one web page that needs nothing else: no script, no network, light and dark.


PARTS = {
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
        *_schedules(groups),
        "<h2>Where the time went</h2>",
        _parts_table(groups),
        "<h2>Configurations</h2>",
        '<div class="figures">',
        *(_configuration(index, group, groups[0].label) for index, group in enumerate(groups)),
        "</div>",
    ]
    return page("Compared runs", body)


def _table(comparison: Comparison) -> str:
    columns = comparison_columns(comparison)
    columns = [one for one in columns if any(cell not in ("–", "") for cell in one.cells)]
    kinds = {"right": "", "left": "left"}
    sides = ["left name" if one.header == "run" else kinds[one.justify] for one in columns]
    rows = list(zip(*(column.cells for column in columns), strict=True))
    labels = [_key(index, group) for index, group in enumerate(comparison.groups)]
    cells = [[key, *map(escape, row[1:])] for key, row in zip(labels, rows, strict=True)]
    return html_table([escape(column.header) for column in columns], cells, ["left", *sides[1:]])


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
    return html_table(header, rows, ["left", "left name", *[""] * (len(PARTS) + 1)])


def _schedules(groups: Sequence[Group]) -> list[str]:
    """Return the schedule of each group's first run, all on one axis; none where none is known."""
    tracks = {group.label: _track(group) for group in groups}
    known = {label: track for label, track in tracks.items() if track is not None}
    if not known:
        return []
    right = max(track.position(track.total_steps) for track in known.values())
    names = {lane.name for track in known.values() for lane in lanes(track)}
    cards = [
        f'<div class="card">{_key(index, group)} <b>{escape(group.name)}</b>'
        f"{lanes_svg(known[group.label], right, _lanes_named(known[group.label], names), group.name)}</div>"
        for index, group in enumerate(groups)
        if group.label in known
    ]
    return ["<h2>Schedules, over the same epochs</h2>", *cards]


def _lanes_named(track: Track, names: Collection[str]) -> list[Lane]:
    return [lane for lane in all_lanes(track) if lane.name in names]


def _track(group: Group) -> Track | None:
    """Return what the first run of a group trained along, as its result says."""
    result = group.runs[0].result
    if not result.schedule:
        return None
    try:
        recipe = parse(Recipe, group.runs[0].configuration["recipe"], "run.yaml")
        schedule = parse(GrowthSchedule, result.schedule, "result.json")
        table = schedule.resolve(NOMINAL_STEPS_PER_EPOCH, result.epochs)
    except ConfigError:
        return None  # of a version with other laws: the numbers stand without the picture
    return track_of_table(schedule.full.spec(), table, recipe.strength)


def _key(index: int, group: Group) -> str:
    return f'<span class="key c{index % len(PAGE_COLOURS)}">{group.label}</span>'


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
