"""Pictures as SVG: lanes of a schedule and curves in the colours of the page around them, and terminals."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from itertools import groupby
from math import floor, log10

from autoprog.printable import printable
from autoprog.ui.plot import Series, Span
from autoprog.ui.track import Lane, Track, lanes
from autoprog.ui.units import number

__all__ = ["FONT_ASPECT_RATIO", "curves_of_series", "lanes_svg", "ticks", "with_local_fonts"]

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
        return round(left + span.share(x) * (width - left - 14), 1)

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
