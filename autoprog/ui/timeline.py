"""The schedule as a picture: one lane an axis over the epochs, with the value written at each change."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from autoprog.ui.fitted import Fitted, flowing, panel
from autoprog.ui.palette import (
    BLOCKS,
    DIM,
    MARK_DECISION,
    MARK_GROWTH,
    MARK_NOW,
    MARK_PLANNED,
    MARK_SUPERNET,
    MARK_UNDECIDED,
    lane_style,
)
from autoprog.ui.track import Lane, Track, constants, lanes, mean_relative_cost, unfrozen_lines
from autoprog.ui.units import number, per_cent

__all__ = ["lane_changes", "place_labels", "step_plot", "timeline"]

NAME_WIDTH = 12


def timeline(track: Track, measured: float | None = None) -> RenderableType:
    """Return the picture of a track; it takes the width that it is printed at.

    Args:
        track: What to draw.
        measured: Speed-up of the steps by measured costs, where known.
    """
    return panel(Fitted(lambda width: _rows(track, measured, width)), "Schedule")


def step_plot(lane: Lane, starts: Sequence[int], now: int, known: int, width: int) -> str:
    """Return one row of blocks, a column per step range.

    Args:
        lane: Values; the height of a block is the value over the lane's top, at least an eighth.
        starts: First column of each value.
        now: First column that is planned only, which is hatched.
        known: First column that nobody has decided yet.
        width: Number of columns.
    """
    cells = [MARK_UNDECIDED] * width
    for value, start, stop in zip(lane.values, starts, [*starts[1:], known], strict=True):
        level = max(1, min(8, round(8 * value / lane.top)))
        for column in range(start, stop):
            cells[column] = BLOCKS[level] if column < now else MARK_PLANNED
    if now < width:
        cells[now] = MARK_NOW
    return "".join(cells)


def place_labels(labels: Sequence[tuple[int, str]], width: int) -> str:
    """Return one row with each text at its column; the ends come first, others where there is room."""
    row = [" "] * width
    order = [0, len(labels) - 1, *range(1, len(labels) - 1)]
    for index in dict.fromkeys(order):
        column, text = labels[index]
        start = max(0, min(column, width - len(text)))
        around = row[max(0, start - 1) : start + len(text) + 1]
        if all(cell == " " for cell in around):
            row[start : start + len(text)] = text
    return "".join(row)


def _rows(track: Track, measured: float | None, width: int) -> RenderableType:
    columns = max(10, width - NAME_WIDTH)
    rows = [
        row for index, lane in enumerate(lanes(track)) for row in _lane(track, lane, index, columns)
    ]
    rows += _axis(track, columns)
    rows.append(_cost_line(track, measured))
    rows += _legend(track, width)
    return Group(*rows)


def _lane(track: Track, lane: Lane, index: int, columns: int) -> list[Text]:
    style = lane_style(lane.name, index)
    starts = [_column(track, segment.start_step, columns) for segment in track.segments]
    now = columns if track.now_step is None else _column(track, track.now_step, columns)
    known = _column(track, track.known_steps, columns)
    plot = Text(step_plot(lane, starts, now, known, columns), style)
    plot.stylize(DIM, now)
    if now < columns:
        plot.stylize("bold", now, now + 1)
    labels = Text(place_labels(lane_changes(lane, starts), columns), f"bold {style}")
    return [_row(lane.name, labels), _row("", plot)]


def lane_changes(lane: Lane, starts: Sequence[int]) -> list[tuple[int, str]]:
    """Return (column, text) where a lane begins and where its text changes."""
    texts = lane.texts
    return [
        (starts[index], text)
        for index, text in enumerate(texts)
        if index == 0 or text != texts[index - 1]
    ]


def _axis(track: Track, columns: int) -> list[Text]:
    steps = _stage_steps(track)
    ruler = ["─"] * columns
    for step in steps[:-1]:
        ruler[_column(track, step, columns)] = "┬"
    ruler[-1] = "┐"
    ticks = [(_column(track, s, columns), number(track.position(s), 4)) for s in steps]
    rows = [
        _row("", Text("".join(ruler), DIM)),
        _row(track.unit, Text(place_labels(ticks, columns))),
    ]
    if track.supernet_spans or track.decision_steps or track.growth_steps:
        rows.insert(0, _row("events", Text(_events(track, columns))))
    if track.now_step is not None:
        rows.append(_row("", Text(_now(track, track.now_step, columns), "bold")))
    return rows


def _stage_steps(track: Track) -> list[int]:
    """Return the first step of each stage, and the end."""
    starts = {
        segment.start_step
        for before, segment in zip((None, *track.segments), track.segments, strict=False)
        if before is None or before.stage != segment.stage
    }
    return [*sorted(starts), track.total_steps]


def _events(track: Track, columns: int) -> str:
    row = [" "] * columns
    for start, stop in track.supernet_spans:
        first, last = _column(track, start, columns - 1), _column(track, stop, columns - 1)
        row[first : max(last, first + 1)] = MARK_SUPERNET * (max(last, first + 1) - first)
    for mark, steps in ((MARK_DECISION, track.decision_steps), (MARK_GROWTH, track.growth_steps)):
        for step in steps:
            row[_column(track, step, columns - 1)] = mark
    return "".join(row)


def _now(track: Track, step: int, columns: int) -> str:
    column = min(_column(track, step, columns), columns - 1)
    text = f"now: {track.unit} {number(track.position(step), 4)}"
    if column + 2 + len(text) <= columns:
        return " " * column + f"{MARK_NOW} {text}"
    return f"{text} {MARK_NOW}".rjust(column + 1)


def _cost_line(track: Track, measured: float | None) -> Text:
    mean = mean_relative_cost(track)
    line = Text(f"mean step cost {per_cent(mean)} of the full model → ideal speed-up ")
    line.append(f"{1 / mean:.2f}×", "bold")
    line.append("" if track.known_steps >= track.total_steps else " so far")
    if measured is not None:
        line.append(" · by measured step times ")
        line.append(f"{measured:.2f}×", "bold")
    return line


def _legend(track: Track, width: int) -> list[Text]:
    parts = [Text(f"{name} {text}", DIM) for name, text in constants(track).items()]
    lines = []
    if parts:
        first = Text("constant: ", DIM).append_text(parts[0])
        lines.append(flowing([first, *parts[1:]], width, " · "))
    lines += [Text(line, DIM) for line in unfrozen_lines(track)]
    marks = []
    if track.supernet_spans:
        marks.append(f"{MARK_SUPERNET} supernet, priced at the size before it")
    if track.decision_steps:
        marks.append(f"{MARK_DECISION} decision")
    if track.growth_steps:
        marks.append(f"{MARK_GROWTH} growth")
    if track.now_step is not None:
        marks.append(f"{MARK_PLANNED} planned")
    if track.known_steps < track.total_steps:
        marks.append(f"{MARK_UNDECIDED} not decided yet")
    return [*lines, *([flowing([Text(mark, DIM) for mark in marks], width)] if marks else [])]


def _column(track: Track, step: int, columns: int) -> int:
    return min(columns, round(step * columns / track.total_steps))


def _row(name: str, content: Text) -> Text:
    row = Text(name.ljust(NAME_WIDTH), DIM, no_wrap=True, overflow="crop")
    return row.append_text(content)
