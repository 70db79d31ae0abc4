"""What is shown, before it is drawn: sections of lines, facts, tables and pictures.

Pure functions build the sections of a subject once. ``render_rich`` draws them on a terminal and
``render_html`` on a page; here they become plain ASCII text, Markdown and the values of a JSON document.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from autoprog.ui.format import ascii_text, duration, number, per_cent
from autoprog.ui.tables import Column, markdown_table, plain_table

if TYPE_CHECKING:
    from autoprog.ui.track import Track

__all__ = [
    "Bars",
    "Chart",
    "Facts",
    "Figures",
    "Headline",
    "HeatMap",
    "LaneDiff",
    "Lanes",
    "Line",
    "Part",
    "Section",
    "Series",
    "Span",
    "Table",
    "Warnings",
    "document",
    "flat",
    "lines",
    "markdown_lines",
    "plain_lines",
    "plain_text",
]


@dataclass(frozen=True)
class Headline:
    """What is shown: kind (run, search, schedule, preset), name, model, and how it stands, if it does."""

    kind: str
    name: str
    model: str
    status: str = ""


@dataclass(frozen=True)
class Line:
    """A line of text. Where there are no colours, its ``label`` says what it is: ``reason: …``."""

    text: str
    style: Literal["plain", "dim", "strong"] = "plain"
    label: str = ""


@dataclass(frozen=True)
class Warnings:
    """Warnings; a terminal shows the last ``max_drawn`` of them, everything else all."""

    messages: tuple[str, ...]
    max_drawn: int = 100


@dataclass(frozen=True)
class Facts:
    """Names and values: flowing on, in two columns where there is room, or one a line."""

    pairs: tuple[tuple[str, str], ...]
    layout: Literal["flow", "columns", "list"] = "flow"


@dataclass(frozen=True)
class Table:
    """A table of ranked columns.

    Attributes:
        columns: As many as there are; what does not fit a terminal leaves by rank.
        strong: Numbers of the rows that stand out.
        wraps: Whether the widest text goes on in the next line instead of being cut.
        caption: What stands above it as text; on a page it opens and closes the table.
        max_drawn: Rows on a terminal, evenly picked, with both ends and the strong ones; 0 for no table.
        beside: A map of the same numbers.
    """

    columns: tuple[Column, ...]
    strong: tuple[int, ...] = ()
    wraps: bool = False
    caption: str = ""
    max_drawn: int | None = None
    beside: HeatMap | None = None

    @classmethod
    def of(cls, columns: Sequence[Column], strong: Iterable[int] = (), **more: Any) -> Table:
        """Return the table of some columns."""
        return cls(tuple(columns), tuple(strong), **more)

    @property
    def num_rows(self) -> int:
        """Return the number of rows."""
        return len(self.columns[0].cells)

    def thinned(self) -> Table:
        """Return the table with the rows that a terminal shows."""
        last = self.num_rows - 1
        if self.max_drawn is None or last < self.max_drawn:
            return self
        # Both ends of a front are its cheapest and its best point, between which a reader wants to see.
        even = {round(k * last / (self.max_drawn - 1)) for k in range(self.max_drawn)}
        kept = sorted(row for row in even | set(self.strong) if row <= last)
        columns = tuple(
            replace(column, cells=tuple(column.cells[row] for row in kept))
            for column in self.columns
        )
        strong = tuple(place for place, row in enumerate(kept) if row in self.strong)
        return replace(self, columns=columns, strong=strong)


@dataclass(frozen=True)
class HeatMap:
    """Scores by row and column, the lowest being the best, with the place of the one that was chosen."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    scores: Mapping[tuple[int, int], float]
    chosen: tuple[int, int]


@dataclass(frozen=True)
class Bars:
    """Fractions by name, as bars of which the longest fills the width."""

    fractions: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Series:
    """A curve. A ``line`` is joined up; otherwise its points stand alone, so shape distinguishes them.

    A line that is ``dotted`` has gaps: it is there to be compared with. Its ``label``, of which a terminal
    writes the first letter, stands where the curve ends. Curves of one ``name`` share a colour and a place
    in the legend; ``detail`` then says which one it is.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    style: str
    line: bool = True
    dotted: bool = False
    label: str = ""
    detail: str = ""

    @property
    def mark(self) -> str:
        """Return what stands before its name in a legend."""
        return "┄" if self.dotted else "━" if self.line else "⠂"


@dataclass(frozen=True)
class Span:
    """What a chart is drawn over: two numbers, the second above the first, and how they are written.

    A page writes ``name`` below the axis and ``tick_text`` at round numbers in between, which of a time are
    those of a clock.
    """

    left: float
    right: float
    left_text: str
    right_text: str
    name: str = "epoch"
    tick_text: Callable[[float], str] = number
    is_time: bool = False

    @classmethod
    def epochs(cls, right: float) -> Span:
        """Return the span of the epochs from 0 to `right`."""
        return cls(0.0, right, "0", f"epoch {number(right)}")

    @classmethod
    def seconds(cls, left: float, right: float, name: str = "wall time") -> Span:
        """Return a span of time; the axis of a run begins at 0 seconds, which is written as 0."""
        left_text = "0" if left == 0 else duration(left)
        return cls(left, right, left_text, duration(right), name, duration, is_time=True)

    def fraction(self, x: float) -> float:
        """Return where `x` lies, from 0 at the left to 1 at the right, and that too if it is outside."""
        return min(1.0, max(0.0, (x - self.left) / ((self.right - self.left) or 1.0)))


@dataclass(frozen=True)
class Chart:
    """Curves over a span, with marks on its axis, such as the epochs at which the network grew.

    ``title`` stands above it, ``mark_name`` says in the legend what the marks are; ``rows`` is the height on
    a terminal. Later series are drawn over earlier ones, and all values are finite.
    """

    series: tuple[Series, ...]
    span: Span
    title: str = ""
    marks: tuple[float, ...] = ()
    mark_name: str = ""
    rows: int = 7


@dataclass(frozen=True)
class Figures:
    """Charts side by side where there is room. As plain text they are what a table beside them says."""

    charts: tuple[Chart, ...]


@dataclass(frozen=True)
class Lanes:
    """The schedule of a track as a picture, one lane an axis; as text it is the table of stages."""

    track: Track

    def alternative(self) -> Iterator[Part]:
        """Yield what the picture shows in words."""
        track = self.track
        yield Table.of(track.stage_columns())
        if track.known_steps < track.total_steps:
            place = number(track.position(track.known_steps))
            yield Line(f"not decided yet: from {track.unit} {place} on")
        if track.now_step is not None:
            yield Line(f"now: {track.unit} {number(track.position(track.now_step))}")


@dataclass(frozen=True)
class LaneDiff:
    """Two tracks lane by lane on the axes that differ; as text it is its table.

    ``spans`` are the (start, stop) in epochs in which they differ, ``right`` is where the longer one ends.
    """

    names: tuple[str, str]
    tracks: tuple[Track, Track]
    axes: tuple[str, ...]
    spans: tuple[tuple[float, float], ...]
    right: float
    table: Table


Part = Headline | Line | Warnings | Facts | Bars | Table | Figures | Chart | Lanes | LaneDiff


@dataclass(frozen=True)
class Section:
    """What belongs under one title; without parts there is nothing to see, and the document remains.

    Attributes:
        name: What it is about, in one word.
        parts: From top to bottom; or sections, which then stand one after the other.
        title: Its heading, and on a terminal that of its frame; a section without one has neither.
        on_terminal: Whether a terminal shows it too, which draws curves where others list evaluations.
        values: Gives its keys of a JSON document, with all numbers unrounded; called for that alone.
    """

    name: str
    parts: tuple[Part | Section, ...] = ()
    title: str = ""
    on_terminal: bool = True
    values: Callable[[], Mapping[str, Any]] | None = None


def lines(*texts: str) -> list[Line]:
    """Return a line for each text that is not empty."""
    return [Line(text) for text in texts if text]


def flat(sections: Iterable[Section]) -> Iterator[Section]:
    """Yield the sections that have something to see, those inside of others in their place."""
    for section in sections:
        # Decisions are sections in a section: a page has one heading for all, a terminal a frame for each.
        inner = [part for part in section.parts if isinstance(part, Section)]
        if inner:
            yield from flat(inner)
        elif section.parts:
            yield section


# --------------------------------------------------------------------------------------------------
# Plain text for screen readers, simple terminals and diffs: ASCII, and no picture without its table.


def plain_text(sections: Iterable[Section]) -> str:
    """Return sections as text in ASCII that ends with a line end."""
    return "\n".join(plain_lines(sections)) + "\n"


def plain_lines(sections: Iterable[Section]) -> list[str]:
    """Return the lines of sections in ASCII, tables aligned, an empty line before each title."""
    text: list[str] = []
    after_table = False
    for section in flat(sections):
        title = section.title
        for part in section.parts:
            assert not isinstance(part, Section), "flattened before"
            for block, is_table in _plain_blocks(part):
                if title:
                    text += [*([""] if text else []), ascii_text(title)]
                elif text and (is_table or after_table):
                    # An aligned table is easier to find, and to cut out, with empty lines around it.
                    text.append("")
                text += block if is_table else map(ascii_text, block)
                title, after_table = "", is_table
    return text


def _plain_blocks(part: Part) -> Iterator[tuple[list[str], bool]]:
    """Yield the lines of a part and whether they are a table, which is ASCII already."""
    match part:
        case Headline():
            status = [f"status: {part.status}"] if part.status else []
            yield [f"{part.kind}: {part.name}", f"model: {part.model}", *status], False
        case Line(label=""):
            yield [part.text], False
        case Line():
            yield [f"{part.label}: {part.text}"], False
        case Warnings():
            yield [f"warning: {message}" for message in part.messages], False
        case Facts(layout="list"):
            yield [f"{name:<10} {text}" for name, text in part.pairs], False
        case Facts():
            yield [f"{name}: {text}" for name, text in part.pairs], False
        case Bars():
            yield [f"{name}: {per_cent(fraction)}" for name, fraction in part.fractions], False
        case Table():
            caption = [f"{ascii_text(part.caption)}:"] if part.caption else []
            yield [*caption, *plain_table(part.columns)], True
        case Lanes():
            for inner in part.alternative():
                yield from _plain_blocks(inner)
        case LaneDiff():
            yield from _plain_blocks(part.table)
        # Dots in ASCII would say less than the table of evaluations, which is there anyway.
        case Chart() | Figures():
            pass


def markdown_lines(sections: Iterable[Section]) -> list[str]:
    """Return the tables of sections in GitHub's Markdown, and everything else as lists below them."""
    text: list[str] = []
    for section in flat(sections):
        for part in section.parts:
            match part:
                case Table():
                    text += ["", *markdown_table(part.columns)]
                case Line():
                    text.append(f"- {part.text}")
                case Warnings():
                    text += [f"- {message}" for message in part.messages]
                case Facts():
                    text += [f"- **{name}**: {value}" for name, value in part.pairs]
    before = ["", *text[:-1]]
    # A list needs an empty line after a table, else GitHub takes it for a row.
    spaced = [
        ("", line) if line[:2] == "- " and last[:1] == "|" else (line,)
        for last, line in zip(before, text, strict=True)
    ]
    return [line for group in spaced for line in group][1:]


def document(sections: Iterable[Section]) -> dict[str, Any]:
    """Return all that sections know as values that JSON can hold, null for what it has no number for."""
    body: dict[str, Any] = {}
    for section in sections:
        # A section that has nothing to see still has its keys, so that programs find them in every document.
        if section.values is not None:
            body |= {key: _finite(value) for key, value in section.values().items()}
    return body


def _finite(value: Any) -> Any:
    # JSON has no number for the loss of a run that diverged.
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
