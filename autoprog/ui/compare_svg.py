"""Curves of runs as an inline SVG that takes its colours from the page around it."""

from __future__ import annotations

from html import escape

from autoprog.proof.compare import Comparison, Group
from autoprog.proof.finished import Finished
from autoprog.ui.compare import AXES, COLOURS, Axis, x_of, x_text
from autoprog.ui.svg import ticks
from autoprog.ui.units import number

__all__ = ["curves_svg"]

WIDTH, HEIGHT = 440, 300
LEFT, RIGHT, TOP, BOTTOM = 46, 26, 14, 44
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
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}">'
        f"{_grid(frame, axis)}{''.join(lines)}</svg>"
    )


def _longest(group: Group, axis: Axis) -> Finished:
    """Return the run that reaches farthest, whose end has room for a label."""
    return max(group.runs, key=lambda run: max((x_of(p, axis) for p in run.curve), default=0.0))


class _Frame:
    """Where values lie in the picture."""

    def __init__(self, right: float, low: float, high: float) -> None:
        self.right, self.low, self.high = right, low, high

    def x(self, value: float) -> float:
        """Return the column of a value."""
        return round(LEFT + value / self.right * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        """Return the row of a value."""
        share = (self.high - value) / (self.high - self.low)
        return round(TOP + share * (HEIGHT - TOP - BOTTOM), 1)


def _grid(frame: _Frame, axis: Axis) -> str:
    floor_, parts = HEIGHT - BOTTOM, []
    for value in ticks(frame.low, frame.high, 6):
        y = frame.y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
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
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor_}" y2="{floor_}"/>'
    )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{AXES[axis]}</text>')
    return "".join(parts)


def _curve(run: Finished, axis: Axis, frame: _Frame, index: int, label: str) -> str:
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
