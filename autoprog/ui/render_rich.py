"""Sections on a terminal: tables, curves in braille, lanes of blocks, as wide as there is room."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, zip_longest

from rich import box
from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table as RichTable
from rich.text import Text

from autoprog.console import Console
from autoprog.ui.format import (
    BLOCKS,
    DIM,
    MARK_DECISION,
    MARK_DIFFERENT,
    MARK_GROWTH,
    MARK_NOW,
    MARK_PLANNED,
    MARK_SUPERNET,
    MARK_UNDECIDED,
    MARK_WINNER,
    SHADES,
    SKY,
    STATUS,
    WARNING,
    WINNER,
    lane_style,
    number,
    per_cent,
)
from autoprog.ui.section import (
    Bars,
    Chart,
    Facts,
    Figures,
    Headline,
    HeatMap,
    LaneDiff,
    Lanes,
    Line,
    Part,
    Section,
    Series,
    Span,
    Table,
    Warnings,
    flat,
    plain_text,
)
from autoprog.ui.tables import rich_table, table_width
from autoprog.ui.track import Lane, Track

__all__ = [
    "TWO_PLOTS_WIDTH",
    "Fitted",
    "draw_chart",
    "draw_heat_map",
    "draw_lanes",
    "place_labels",
    "print_sections",
    "step_plot",
    "view",
    "views",
]

TWO_PLOTS_WIDTH = 110
_MIN_WIDTH, _MAX_WIDTH = 60, 200  # of what is printed: lines that are longer are hard to follow
_TWO_COLUMNS_WIDTH = 72
_LONGEST_TEXT = 24  # of a value in two columns
_MAP_GAP = 4
_PER_CENT_WIDTH = 6
_NAME_WIDTH = 12  # of the name of a lane
_DIFF_NAME_WIDTH = 14


@dataclass(frozen=True)
class Fitted:
    """A renderable that is made by a pure function of the width in columns."""

    draw: Callable[[int], RenderableType]

    def __rich_console__(self, console: RichConsole, options: ConsoleOptions) -> RenderResult:
        """Yield the drawing at the width that there is."""
        yield self.draw(options.max_width)


def print_sections(console: Console, sections: Iterable[Section], plain: bool = False) -> None:
    """Print sections at the width of a terminal; as plain text if asked, or where nothing else is taken."""
    if plain or console.is_dumb_terminal or not console.encoding.startswith("utf"):
        console.out(plain_text(sections), end="", highlight=False)
        return
    width = max(_MIN_WIDTH, min(console.width, _MAX_WIDTH))
    for drawing in views(sections):
        console.print(drawing, width=width, crop=False)


def views(sections: Iterable[Section]) -> Iterator[RenderableType]:
    """Yield the drawing of each section that a terminal shows."""
    return (view(section) for section in flat(sections) if section.on_terminal)


def view(section: Section) -> RenderableType:
    """Return the drawing of a section, in a frame where it has a title; it takes the width that it gets."""
    body = Fitted(lambda width: Group(*_drawn(section.parts, width)))
    if not section.title:
        return body
    heading = Text(f" {section.title} ", "bold")
    return Panel(body, title=heading, title_align="left", box=box.ROUNDED, border_style=DIM)


def _drawn(parts: Sequence[Part | Section], width: int) -> Iterator[RenderableType]:
    """Yield the parts one below the other, with air around tables and charts."""
    last: Part | Section | None = None
    for part in parts:
        assert not isinstance(part, Section), "sections stand beside each other, not in a frame"
        if isinstance(part, Table) and part.max_drawn == 0:
            continue
        if last is not None and (_is_block(last) or _is_block(part)):
            yield Text("")
        yield from _draw(part, width)
        last = part


def _is_block(part: Part | Section) -> bool:
    return isinstance(part, Table | Chart | Figures)


def _draw(part: Part, width: int) -> Iterator[RenderableType]:
    match part:
        case Headline():
            title = Text(no_wrap=True, overflow="ellipsis")
            if part.status:
                mark, style = STATUS[part.status]
                title.append(f"{mark} {part.status}  ", style)
            yield title.append(part.model, "bold").append(f"  {part.kind} {part.name}")
        case Line(style="strong"):
            yield Text(f"{MARK_WINNER} {part.text}", WINNER)
        case Line():
            yield Text(part.text, DIM if part.style == "dim" else "")
        case Warnings():
            yield from (Text(f"! {text}", WARNING) for text in part.messages[-part.max_drawn :])
        case Facts(layout="flow"):
            facts = [Text.assemble((f"{name} ", DIM), text) for name, text in part.pairs]
            yield _flowing(facts, width)
        case Facts(layout="columns"):
            yield from _columns(part.pairs, width)
        case Facts():
            for name, text in part.pairs:
                yield Text.assemble((f"{name:<10}", "bold"), " ", text)
        case Bars():
            room = max(len(name) for name, _ in part.fractions) + 2
            columns = max(5, width - room - _PER_CENT_WIDTH)
            top = max(fraction for _, fraction in part.fractions) or 1.0
            for name, fraction in part.fractions:
                bar = Text(f"{name:<{room}}", no_wrap=True)
                bar.append("█" * round(columns * fraction / top), SKY)
                yield bar.append(f" {per_cent(fraction)}")
        case Table():
            yield from _table(part.thinned(), width)
        case Chart():
            yield from _chart_with_legend(part, width)
        case Figures(charts) if len(charts) > 1 and width >= TWO_PLOTS_WIDTH:
            grid = RichTable.grid(padding=(0, 2, 0, 0))
            # Two columns of air keep the axis of one plot from the labels of the next.
            half = (width - 2) // len(charts)
            grid.add_row(*(Group(*_chart_with_legend(chart, half)) for chart in charts))
            yield grid
        case Figures(charts):
            for chart in charts:
                yield from _chart_with_legend(chart, width)
        case Lanes():
            yield from draw_lanes(part.track, width)
        case LaneDiff():
            yield from _draw_lane_diff(part, width)


def _flowing(parts: Sequence[Text], width: int, gap: str = "   ") -> Text:
    """Return parts one after the other, a new line before each that would be broken."""
    text, used = Text(), 0
    for part in parts:
        if used and used + len(gap) + part.cell_len > width:
            text.append("\n")
            used = 0
        text.append(gap if used else "").append_text(part)
        used += len(gap) * bool(used) + part.cell_len
    return text


def _columns(pairs: Sequence[tuple[str, str]], width: int) -> Iterator[RenderableType]:
    """Yield short texts in two columns where there is room, then the long ones, each on its line."""

    def cells(pair: tuple[str, str]) -> tuple[Text, Text]:
        name, text = pair
        return Text(name, DIM), Text(text, "bold" if name.startswith("top-1") else "")

    # A sentence in a column would push the other one off the terminal.
    long = [pair for pair in pairs if len(pair[1]) > _LONGEST_TEXT]
    short = [pair for pair in pairs if pair not in long]
    grid = RichTable.grid(padding=(0, 3, 0, 0))
    half = (len(short) + 1) // 2 if width >= _TWO_COLUMNS_WIDTH else len(short)
    for left, right in zip_longest(short[:half], short[half:], fillvalue=("", "")):
        grid.add_row(*cells(left), *cells(right))
    yield grid
    below = RichTable.grid(padding=(0, 3, 0, 0))
    for pair in long:
        below.add_row(*cells(pair))
    if long:
        yield below


def _table(table: Table, width: int) -> Iterator[RenderableType]:
    """Yield a table and the map beside it, or below it where there is no room for all of both."""
    if table.beside is None:
        yield rich_table(table.columns, width, table.strong, wraps=table.wraps)
        return
    heat_map = draw_heat_map(table.beside)
    room = width - _MAP_GAP - max(map(len, heat_map.plain.splitlines()))
    if table_width(table.columns) > room:
        yield from (rich_table(table.columns, width, table.strong), Text(""), heat_map)
        return
    grid = RichTable.grid(padding=(0, _MAP_GAP, 0, 0))
    grid.add_row(rich_table(table.columns, room, table.strong), heat_map)
    yield grid


def draw_heat_map(heat_map: HeatMap) -> Text:
    """Return scores by row and column, darker being better."""
    text = Text(no_wrap=True, overflow="crop")
    text.append("score  " + "".join(name.center(12) for name in heat_map.columns), DIM)
    # By rank and not by value: the scores of a decision may differ by less than a per cent.
    order = sorted(set(heat_map.scores.values()), reverse=True)
    for row, name in enumerate(heat_map.rows):
        text.append("\n" + name.rjust(5) + "  ", DIM)
        for column in range(len(heat_map.columns)):
            score = heat_map.scores.get((row, column))
            if score is None:
                text.append("·".center(12), DIM)
                continue
            shade = SHADES[order.index(score) * (len(SHADES) - 1) // max(1, len(order) - 1)]
            is_chosen = heat_map.chosen == (row, column)
            mark = MARK_WINNER if is_chosen else " "
            text.append(f"{mark}{score:.4f} {shade * 2}".center(12), WINNER if is_chosen else "")
    return text


# --------------------------------------------------------------------------------------------------
# Curves in braille: four dots high and two wide in each cell. plotext would draw the dots, from a figure in
# module globals; gaps in a line, letters at curve ends, marks on the axis and rich's styles would stay here.

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_LABEL_WIDTH = 8
_DOTTED = 3  # of so many dots of a dotted line one is drawn


def _chart_with_legend(chart: Chart, width: int) -> Iterator[Text]:
    if chart.title:
        yield Text(chart.title, DIM)
    legend = Text(no_wrap=True, overflow="ellipsis")
    entries = dict.fromkeys((one.dotted, one.mark, one.name, one.style) for one in chart.series)
    # What a run is compared with lies under its curves, and comes after them in the legend.
    for _, mark, name, style in sorted(entries, key=lambda entry: entry[0]):
        legend.append(f"{mark} {name}   ", f"bold {style}")
    if chart.mark_name and chart.marks:
        legend.append(f"{MARK_GROWTH} {chart.mark_name}", DIM)
    yield legend
    yield draw_chart(chart.series, chart.marks, chart.span, width, chart.rows)


def draw_chart(
    series: Sequence[Series], marks: Sequence[float], span: Span, width: int, height: int
) -> Text:
    """Return the chart of some curves.

    Args:
        series: Curves with finite values; later ones are drawn over earlier ones.
        marks: What is marked on the axis, such as the epochs at which the network grew.
        span: What the chart is drawn over.
        width: Columns, axis labels included.
        height: Rows of the plot itself.
    """
    # Ten columns even where there is no room: a plot that is cut is better than an error.
    columns = max(10, width - _LABEL_WIDTH - 1)
    values = [y for one in series for _, y in one.points]
    low, high = min(values), max(values)
    cells: dict[tuple[int, int], tuple[int, str]] = {}  # (row, column): dots, style
    ends: dict[tuple[int, int], Series] = {}
    for one in series:
        dots = [
            (
                round(span.fraction(x) * (2 * columns - 1)),
                round((high - y) / ((high - low) or 1.0) * (4 * height - 1)),
            )
            for x, y in one.points
        ]
        # The last dot of a curve is where a letter is read as its name.
        if one.label and dots:
            ends[dots[-1][1] // 4, dots[-1][0] // 2] = one
        for x, y in _joined(dots)[:: _DOTTED if one.dotted else 1] if one.line else dots:
            bits, _ = cells.get((y // 4, x // 2), (0, ""))
            cells[y // 4, x // 2] = (bits | _DOTS[y % 4][x % 2], one.style)
    text = Text(no_wrap=True, overflow="crop")
    for row in range(height):
        value = {0: number(high, 3), height - 1: number(low, 3)}.get(row, "")
        text.append(f"{value.rjust(_LABEL_WIDTH - 1)} {'┤' if value else '│'}", DIM)
        for column in range(columns):
            bits, style = cells.get((row, column), (0, ""))
            ending = ends.get((row, column))
            if ending is not None:
                text.append(ending.label[:1], ending.style)
            else:
                text.append(chr(0x2800 + bits) if bits else " ", style)
        text.append("\n")
    ruler = ["─"] * columns
    for mark in marks:
        ruler[round(span.fraction(mark) * (columns - 1))] = MARK_GROWTH
    text.append(" " * _LABEL_WIDTH + "└" + "".join(ruler) + "\n", DIM)
    room = columns - len(span.left_text)
    text.append(" " * (_LABEL_WIDTH + 1) + span.left_text + span.right_text.rjust(room), DIM)
    return text


def _joined(dots: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return dots with straight lines between neighbours."""
    filled = list(dots[:1])
    for (x0, y0), (x1, y1) in pairwise(dots):
        count = max(abs(x1 - x0), abs(y1 - y0), 1)
        filled += [
            (round(x0 + (x1 - x0) * k / count), round(y0 + (y1 - y0) * k / count))
            for k in range(1, count + 1)
        ]
    return filled


# --------------------------------------------------------------------------------------------------
# Schedules as lanes of blocks over their steps, with the value written at each change.


def draw_lanes(track: Track, width: int) -> Iterator[Text]:
    """Yield the lines of a schedule: its lanes, the axis, and what the marks mean."""
    columns = max(10, width - _NAME_WIDTH)

    def column(step: int, most: int = columns) -> int:
        return min(most, round(step * most / track.total_steps))

    starts = [column(segment.start_step) for segment in track.segments]
    now = columns if track.now_step is None else column(track.now_step)
    for index, lane in enumerate(track.lanes()):
        style = lane_style(lane.name, index)
        plot = Text(step_plot(lane, starts, now, column(track.known_steps), columns), style)
        # What is only planned is grey, so that colour means done.
        plot.stylize(DIM, now)
        if now < columns:
            plot.stylize("bold", now, now + 1)
        yield _row(lane.name, Text(place_labels(lane.changes(starts), columns), f"bold {style}"))
        yield _row("", plot)
    if track.supernet_spans or track.decision_steps or track.growth_steps:
        events = [" "] * columns
        for first, last in track.supernet_spans:
            begin, end = column(first, columns - 1), column(last, columns - 1)
            events[begin : max(end, begin + 1)] = MARK_SUPERNET * (max(end, begin + 1) - begin)
        for mark, steps in (
            (MARK_DECISION, track.decision_steps),
            (MARK_GROWTH, track.growth_steps),
        ):
            for step in steps:
                events[column(step, columns - 1)] = mark
        yield _row("events", Text("".join(events)))
    edges = [track.segments[0].start_step]  # where each stage begins, and the end
    edges += [s.start_step for last, s in pairwise(track.segments) if last.stage != s.stage]
    ruler = ["─"] * columns
    for step in edges:
        ruler[min(column(step), columns - 1)] = "┬"
    # The end of the run is no start of a stage, so it bends down.
    ruler[-1] = "┐"
    yield _row("", Text("".join(ruler), DIM))
    ticks = [(column(s), number(track.position(s), 4)) for s in (*edges, track.total_steps)]
    yield _row(track.unit, Text(place_labels(ticks, columns)))
    if track.now_step is not None:
        place, text = (
            min(now, columns - 1),
            f"now: {track.unit} {number(track.position(track.now_step), 4)}",
        )
        line = " " * place + f"{MARK_NOW} {text}"
        # Near the right edge the text stands before the mark.
        if len(line) > columns:
            line = f"{text} {MARK_NOW}".rjust(place + 1)
        yield _row("", Text(line, "bold"))
    meanings = (
        (track.supernet_spans, f"{MARK_SUPERNET} supernet, priced at the size before it"),
        (track.decision_steps, f"{MARK_DECISION} decision"),
        (track.growth_steps, f"{MARK_GROWTH} growth"),
        (track.now_step is not None, f"{MARK_PLANNED} planned"),
        (track.known_steps < track.total_steps, f"{MARK_UNDECIDED} not decided yet"),
    )
    marks = [Text(meaning, DIM) for is_there, meaning in meanings if is_there]
    if marks:
        yield _flowing(marks, width)


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
        # At least an eighth, so that 0 is seen as a value and not as a gap.
        level = max(1, min(8, round(8 * value / lane.top)))
        for column in range(start, stop):
            cells[column] = BLOCKS[level] if column < now else MARK_PLANNED
    if now < width:
        cells[now] = MARK_NOW
    return "".join(cells)


def place_labels(labels: Sequence[tuple[int, str]], width: int) -> str:
    """Return one row with each text at its column; the ends come first, others where there is room."""
    row = [" "] * width
    # The first and the last value say where a schedule begins and ends; those between may be left out.
    order = [0, len(labels) - 1, *range(1, len(labels) - 1)]
    for index in dict.fromkeys(order):
        column, text = labels[index]
        start = max(0, min(column, width - len(text)))
        around = row[max(0, start - 1) : start + len(text) + 1]
        if all(cell == " " for cell in around):
            row[start : start + len(text)] = text
    return "".join(row)


def _draw_lane_diff(diff: LaneDiff, width: int) -> Iterator[Text]:
    """Yield both schedules lane by lane, with what they share in grey."""
    if not diff.axes:
        yield Text("The same on every axis.", DIM)
        return
    columns = max(10, width - _DIFF_NAME_WIDTH)
    different = [False] * columns
    for start, stop in diff.spans:
        # A difference of a step is a column wide, or it would not be seen at all.
        first = min(columns - 1, round(start * columns / diff.right))
        last = max(first + 1, round(stop * columns / diff.right))
        different[first:last] = [True] * (min(last, columns) - first)
    for axis in diff.axes:
        pair = [next(lane for lane in t.all_lanes() if lane.name == axis) for t in diff.tracks]
        # One height for both sides, or the same blocks would mean different values.
        style, top = f"bold {lane_style(axis, 0)}", max(lane.top for lane in pair)
        for side, lane, track in zip("AB", pair, diff.tracks, strict=True):

            def column(step: int, track: Track = track) -> int:
                place = round(step / track.steps_per_epoch * columns / diff.right)
                return min(columns, place)

            starts = [column(segment.start_step) for segment in track.segments]
            stop = column(track.known_steps)
            plot = step_plot(replace(lane, top=top), starts, columns, stop, columns)
            text = Text(plot[:stop].ljust(columns), DIM)
            for place in (place for place, one in enumerate(different) if one):
                text.stylize(style, place, place + 1)
            labels = Text(place_labels(lane.changes(starts), columns), style)
            name = f"{axis if side == 'A' else '':<12}{side}"
            yield _row(name, labels, _DIFF_NAME_WIDTH)
            yield _row("", text, _DIFF_NAME_WIDTH)
    marks = "".join(MARK_DIFFERENT if one else " " for one in different)
    ends = place_labels([(0, "0"), (columns - 1, f"epoch {number(diff.right)}")], columns)
    yield _row("differ", Text(marks, WARNING), _DIFF_NAME_WIDTH)
    yield _row("", Text(ends, DIM), _DIFF_NAME_WIDTH)


def _row(name: str, content: Text, width: int = _NAME_WIDTH) -> Text:
    row = Text(name.ljust(width), DIM, no_wrap=True, overflow="crop")
    return row.append_text(content)
