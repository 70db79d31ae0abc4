"""The panes behind the tabs: each is told what there is to show, and moves by the same few words."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, get_args, runtime_checkable

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.segment import Segment
from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.color import Color
from textual.containers import Container, Vertical, VerticalScroll
from textual.filter import LineFilter
from textual.message import Message
from textual.widget import Widget
from textual.widgets import DataTable, Input, Static

from autoprog.decisions import Importance
from autoprog.errors import AutoprogError, ConfigError, consistent
from autoprog.printable import is_printable, printable
from autoprog.ui.charts import CurveAxis, Ghost
from autoprog.ui.format import DIM, STATUS, WARNING
from autoprog.ui.inspect.pages import PAGES, Page, decision_list_columns, live, weighed
from autoprog.ui.inspect.readers import (
    Compared,
    Library,
    Listing,
    Marks,
    RunRow,
    Stamp,
    filtered,
    run_columns,
    stamp,
    subject_of,
)
from autoprog.ui.search_views import decision_view, importances_view, trials_view, workers_view
from autoprog.ui.subject import Subject
from autoprog.ui.tables import Column, cut_columns, fit_columns

if TYPE_CHECKING:
    from autoprog.ui.compare import Axis, ScheduleDiff

__all__ = [
    "APP_KEYS",
    "LOOKING",
    "MOVES_IN_PAGE",
    "MOVES_IN_TABLE",
    "NOTHING_OPEN",
    "READING",
    "VIEWS",
    "Checked",
    "ComparePane",
    "Importances",
    "LivePane",
    "Looking",
    "PagePane",
    "Pane",
    "PrintableLines",
    "ReadOn",
    "Rows",
    "RunsPane",
    "SchedulePane",
    "SearchPane",
    "WhyPane",
    "compared_view",
    "without_markup",
]


# --------------------------------------------------------------------------------------------------
# What others wrote, on the screen of the program: text that steers nothing, views that cannot fail.


class PrintableLines(LineFilter):
    """Shows control characters by visible signs, in every line that Textual draws."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """Return a line of the same width (a method that Textual calls)."""
        if all(is_printable(text) for text, _, _ in segments):
            return segments
        width = Segment.get_line_length(segments)
        shown = [Segment(printable(s.text), s.style, s.control) for s in segments]
        return Segment.adjust_line_length(shown, width, pad=False)  # the signs take room


@dataclass(frozen=True)
class Checked:
    """A view, or in one sentence what is wrong with the values that it is drawn from."""

    view: RenderableType

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[Segment | Text]:
        """Yield what is drawn."""
        try:
            with consistent("this view"):
                drawn: list[Segment | Text] = [*console.render(self.view, options)]
        except ConfigError as error:
            drawn = [Text(f"! {error}", WARNING)]
        yield from drawn


def without_markup(text: str) -> str:
    """Return a text for the palette of commands, which reads markup in all that it is given."""
    return text.replace("[", "\\[")


# --------------------------------------------------------------------------------------------------
# The views and the keys that are the same in all of them.


VIEWS = ("runs", "schedule", "why", "search", "live", "growth", "compare")

APP_KEYS: list[BindingType] = [
    *(
        Binding(str(number), f"view('{view}')", view.capitalize(), show=False)
        for number, view in enumerate(VIEWS, 1)
    ),
    Binding("tab,l,right", "next_view(1)", "Next view", show=False, priority=True),
    Binding("shift+tab,h,left", "next_view(-1)", "View before", show=False, priority=True),
    Binding("j", "move('down')", "Down", show=False),
    Binding("k", "move('up')", "Up", show=False),
    Binding("g,home", "move('first')", "First", show=False, priority=True),
    Binding("G,end", "move('last')", "Last", show=False, priority=True),
    Binding("space", "page(1)", "Page down", show=False),
    Binding("pagedown,ctrl+d", "page(1)", "Page down", show=False, priority=True),
    Binding("pageup,ctrl+u", "page(-1)", "Page up", show=False, priority=True),
    Binding("escape", "clear_filter", "Clear the filter", show=False),
    Binding("slash", "filter", "Filter"),
    Binding("question_mark", "guide", "Help"),
    Binding("q", "quit", "Quit; a run goes on"),
]

LOOKING = {"next_view", "move", "page", "view", "filter", "guide"}
"""What keys do unless something is typed into, or lies above the views."""

MOVES_IN_PAGE = {
    "down": "scroll_down",
    "up": "scroll_up",
    "first": "scroll_home",
    "last": "scroll_end",
}
MOVES_IN_TABLE = {
    "down": "cursor_down",
    "up": "cursor_up",
    "first": "scroll_top",
    "last": "scroll_bottom",
}


READING = "reading …"
NOTHING_OPEN = "Nothing is open: Enter under 1 Runs opens the run under the cursor."
CELL_PADDING = 2  # columns that a table adds to each cell, as many as are between two


class Pane(Protocol):
    """What the keys act upon."""

    def show(self, subject: Subject | None) -> None:
        """Draw what is open; None while it is being read, and where nothing is."""

    @property
    def mover(self) -> Widget:
        """Return the widget that up and down move in, which has the focus."""

    @property
    def scroller(self) -> Widget:
        """Return the widget that a page up and down moves."""


@runtime_checkable
class Looking(Protocol):
    """A view that shows more than the subject, which a thread has to read."""

    def look(self, subject: Subject | None, marks: Marks) -> object:
        """Read; in a thread, so nothing of the view may be changed."""

    def take(self, value: object) -> None:
        """Draw what was read."""


class ReadOn(Message):
    """A view shows something else now, which has to be read first."""


class PagePane(VerticalScroll):
    """A view that is one page: that of :meth:`picture`.

    Args:
        name: Of the view.
        page: What it shows of a subject, unless a subclass says it.
    """

    def __init__(self, name: str, page: Page | None = None) -> None:
        super().__init__(id=f"{name}-pane")
        self._page = page
        self._subject: Subject | None = None
        self.waiting = READING

    def compose(self) -> ComposeResult:
        """Yield the place of the page."""
        yield Static(Text(self.waiting, DIM))

    @property
    def mover(self) -> Widget:
        """Return the page itself."""
        return self

    @property
    def scroller(self) -> Widget:
        """Return the page itself."""
        return self

    def show(self, subject: Subject | None) -> None:
        """Draw a subject."""
        self._subject = subject
        self.draw()

    def draw(self) -> None:
        """Draw what is shown again."""
        try:
            with consistent("this view"):
                picture = self.picture(self._subject, *self.scrollable_content_region.size)
        except ConfigError as error:
            picture = Text(f"! {error}", WARNING)
        shown = Text(self.waiting, DIM) if picture is None else Checked(picture)
        self.query_one(Static).update(shown)

    def picture(self, subject: Subject | None, columns: int, rows: int) -> RenderableType | None:
        """Return what to show; None while there is nothing, and :attr:`waiting` says why."""
        if subject is None or self._page is None:
            return None
        return self._page(subject, columns, rows)

    def read_on(self) -> None:
        """Have what the view shows read now."""
        self.post_message(ReadOn())


class Rows(DataTable[Text]):
    """A table whose cursor is a row, with columns that leave where there is no room."""

    def __init__(self, name: str) -> None:
        super().__init__(id=name, cursor_type="row", zebra_stripes=False)
        self._shown: list[Column] = []

    def show(
        self, columns: Sequence[Column], keys: Sequence[str], styles: Sequence[str] = ()
    ) -> None:
        """Draw columns; the cursor stays on the row with its key; a style is that of a first cell."""
        room = (
            self.scrollable_content_region.width - CELL_PADDING
        )  # on each side; the table has the rest
        kept = cut_columns(fit_columns(columns, room), room)
        if kept == self._shown:
            return
        self._shown = kept
        before = self.key_at_cursor
        self.clear(columns=True)
        for column in kept:
            header = Text(column.header, DIM, justify=column.justify)
            self.add_column(header, width=column.width)
        for number, key in enumerate(keys):
            texts = [Text(column.cells[number], justify=column.justify) for column in kept]
            if styles:
                texts[0].stylize(styles[number])
            self.add_row(*texts, key=key)
        if before in keys:
            self.move_cursor(row=list(keys).index(before))

    @property
    def key_at_cursor(self) -> str:
        """Return the key of the row under the cursor; empty where there is none."""
        if not self.row_count or not self.is_valid_coordinate(self.cursor_coordinate):
            return ""
        return str(self.coordinate_to_cell_key(self.cursor_coordinate).row_key.value)


class WhyPane(Container):
    """The decisions: a list, and all about the one under the cursor."""

    def __init__(self) -> None:
        super().__init__(id="why-pane")
        self._subject: Subject | None = None
        self.waiting = READING

    def compose(self) -> ComposeResult:
        """Yield the list and the place of a decision."""
        yield Rows("decisions")
        with VerticalScroll(id="decision", can_focus=False):
            yield Static(Text(self.waiting, DIM))

    @property
    def mover(self) -> Rows:
        """Return the list."""
        return self.query_one(Rows)

    @property
    def scroller(self) -> Widget:
        """Return the decision."""
        return self.query_one("#decision")

    def show(self, subject: Subject | None) -> None:
        """Draw the decisions of a subject."""
        self._subject = subject
        decisions = () if subject is None else subject.decisions
        self.mover.display = bool(decisions)
        rows = [str(row) for row in range(len(decisions))]
        self.mover.show(decision_list_columns(decisions), rows)
        self._draw()

    @on(DataTable.RowHighlighted)
    def _draw(self) -> None:
        place = self.query_one("#decision", VerticalScroll).query_one(Static)
        if self._subject is None:
            place.update(Text(self.waiting, DIM))
        else:
            place.update(Checked(_why(self._subject, self.mover.key_at_cursor)))


def _why(subject: Subject, key: str) -> RenderableType:
    """Return the decision of a row of the list, or what there is instead."""
    if key and int(key) < len(subject.decisions):
        return decision_view(subject.decisions[int(key)])
    if subject.kind == "search":
        return Text("No decision has been taken yet.", DIM)
    return Text("No decisions: the schedule was given.", DIM)


# --------------------------------------------------------------------------------------------------
# The curves of a run as it goes, beside those of the baseline.


class LivePane(PagePane):
    """Where a run stands and how it came there."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("x", "axis", "Epochs or seconds")]

    def __init__(self, library: Library) -> None:
        super().__init__("live")
        self._library = library
        self._axis: CurveAxis = "epochs"
        self._ghost: Ghost | None = None

    def look(self, subject: Subject | None, marks: Marks) -> Ghost | None:
        """Read the baseline."""
        return None if subject is None else self._library.ghost(subject, marks)

    def take(self, value: object) -> None:
        """Draw the baseline where it has changed."""
        assert value is None or isinstance(value, Ghost)
        if value != self._ghost:
            self._ghost = value
            self.draw()

    def action_axis(self) -> None:
        """Draw the curves over the other axis."""
        axes = get_args(CurveAxis)
        self._axis = axes[(axes.index(self._axis) + 1) % len(axes)]
        self.draw()

    def picture(self, subject: Subject | None, columns: int, rows: int) -> RenderableType | None:
        """Return the bar and the curves."""
        return None if subject is None else live(subject, columns, rows, self._axis, self._ghost)


# --------------------------------------------------------------------------------------------------
# The comparison of the runs that are marked.


AROUND_PLOT_ROWS = 6  # its title, legend and axis, and the head of the table
MIN_PLOT_ROWS = 5
_AXES: tuple[Axis, ...] = ("seconds", "images", "macs")


class ComparePane(PagePane):
    """The table of ``autoprog compare`` and its curves."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("x", "axis", "Seconds, images, MACs")]

    def __init__(self, library: Library) -> None:
        super().__init__("compare")
        self._library, self._axis = library, 0
        self._compared: Compared | None = None

    def look(self, subject: Subject | None, marks: Marks) -> Compared:
        """Read the runs that are marked."""
        return self._library.compared(marks.runs)

    def take(self, value: object) -> None:
        """Draw what was read."""
        if value is not self._compared:
            assert isinstance(value, Compared)
            self._compared = value
            self.draw()

    def action_axis(self) -> None:
        """Draw the curves over another axis."""
        self._axis = (self._axis + 1) % len(_AXES)
        self.draw()

    def picture(self, subject: Subject | None, columns: int, rows: int) -> RenderableType | None:
        """Return the table, the curves below it, and what both mean."""
        if self._compared is None:
            return None
        return compared_view(self._compared, _AXES[self._axis], rows)


def compared_view(compared: Compared, axis: Axis, rows: int) -> RenderableType:
    """Return the comparison, drawn for so many rows."""
    from autoprog.ui.compare import comparison_curves, comparison_notes, comparison_table

    left_out = [Text(f"! left out: {name}: {why}", WARNING) for name, why in compared.left_out]
    comparison = compared.comparison
    if comparison is None:
        problem = "No complete runs to compare: mark some under Runs with Space; the first is the reference."
        return Group(Text(problem, DIM), *left_out)
    free = rows - len(comparison.groups) - len(left_out) - AROUND_PLOT_ROWS
    curves = comparison_curves(comparison, axis, max(MIN_PLOT_ROWS, free))
    pictures = [] if curves is None else [curves]
    table = comparison_table(comparison)
    return Group(table, *left_out, *pictures, *comparison_notes(comparison))


# --------------------------------------------------------------------------------------------------
# The list of runs: filtered, opened, marked.


class RunsPane(Vertical):
    """The list of runs, with a filter."""

    class Chosen(Message):
        """A run is to be opened."""

        def __init__(self, path: Path) -> None:
            self.path = path
            super().__init__()

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "mark", "Mark"),
        Binding("b", "baseline", "Baseline"),
    ]

    def __init__(self, listing: Listing, marked: Sequence[Path] = ()) -> None:
        super().__init__(id="runs-pane")
        self._listing = listing
        self._marked = list(marked)
        self._baseline: Path | None = None
        self.rows: list[RunRow] = []

    @property
    def marks(self) -> Marks:
        """Return what was chosen."""
        return Marks(tuple(self._marked), self._baseline)

    def look(self, subject: Subject | None, marks: Marks) -> list[RunRow]:
        """Read the list."""
        return self._listing.rows()

    def take(self, value: object) -> None:
        """Draw the list."""
        assert isinstance(value, list)
        self.rows = value
        self.draw()

    def action_mark(self) -> None:
        """Mark the run under the cursor, or take the mark away."""
        if self.mover.key_at_cursor:
            path = Path(self.mover.key_at_cursor)
            if path in self._marked:
                self._marked.remove(path)
            else:
                self._marked.append(path)
            self.draw()

    def action_baseline(self) -> None:
        """Take the run under the cursor as baseline, or leave the choice to the program again."""
        if self.mover.key_at_cursor:
            path = Path(self.mover.key_at_cursor)
            self._baseline = None if path == self._baseline else path
            self.draw()

    def compose(self) -> ComposeResult:
        """Yield the list, a line for what it has not, and the filter."""
        yield Rows("runs-list")
        yield Static(Text("reading …", DIM), id="runs-note")
        yield Input(
            placeholder="words in name, model, schedule, data or state; Esc clears",
            id="filter",
        )

    def on_mount(self) -> None:
        """Hide the filter until it is asked for."""
        self.query_one(Input).display = False

    @property
    def mover(self) -> Rows:
        """Return the list."""
        return self.query_one(Rows)

    scroller = mover

    def show(self, subject: Subject | None) -> None:
        """Draw the list, whatever is open."""
        self.draw()

    def draw(self) -> None:
        """Draw the runs that pass the filter."""
        passing = filtered(self.rows, self.query_one(Input).value)
        styles = [STATUS.get(row.status, ("", WARNING))[1] for row in passing]
        columns = run_columns(passing, self._marked, self._baseline)
        self.mover.show(columns, [str(row.path) for row in passing], styles)
        self.query_one("#runs-note", Static).update(Text(self._note(bool(passing)), DIM))

    def _note(self, is_any: bool) -> str:
        if not is_any:
            return "no run passes the filter" if self.rows else "no run in this folder"
        marks = len(self._marked)
        return f"{marks} marked (*): d under Schedule, and Compare, set them side by side" * bool(
            marks
        )

    def open_filter(self) -> None:
        """Show the filter and type into it."""
        box = self.query_one(Input)
        box.display = True
        box.focus()

    def clear_filter(self) -> None:
        """Show all runs again."""
        box = self.query_one(Input)
        box.value, box.display = "", False
        self.mover.focus()

    @on(Input.Changed)
    def _typed(self) -> None:
        self.draw()

    @on(Input.Submitted)
    def _entered(self) -> None:
        self.mover.focus()

    @on(DataTable.RowSelected)
    def _chosen(self, event: DataTable.RowSelected) -> None:
        event.stop()
        self.post_message(self.Chosen(Path(str(event.row_key.value))))


# --------------------------------------------------------------------------------------------------
# The schedule of what is open: as it is, or beside another one.


NO_OTHER = (
    "Nothing to compare with: mark a run under Runs with Space, or name two schedules on the"
    " command line."
)


@dataclass(frozen=True)
class _Other:
    """What the schedule is compared with: number `number` of `count`, as a diff or what is wrong."""

    diff: ScheduleDiff | str
    number: int
    count: int


class SchedulePane(PagePane):
    """The timeline and the diff."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("d", "diff", "Diff"),
        Binding("escape", "leave", "Leave"),
    ]

    def __init__(self, library: Library) -> None:
        super().__init__("schedule")
        self._library = library
        self._diffing: int | None = None
        self._other: _Other | None = None

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Leave Esc to others while there is no diff."""
        return self._diffing is not None if action == "leave" else True

    def look(self, subject: Subject | None, marks: Marks) -> _Other | None:
        """Read the other schedule."""
        number = self._diffing
        if number is None or subject is None:
            return None
        from autoprog.ui.compare import schedule_diff  # not before it is asked for

        others = self._library.others(subject, marks)
        if not others:
            return _Other(NO_OTHER, 0, 0)
        index = number % len(others)
        try:
            with consistent("these schedules"):
                other = subject_of(self._library, others[index])
                diff: ScheduleDiff | str = schedule_diff(subject, other)
        except (AutoprogError, OSError) as error:
            diff = str(error)
        return _Other(diff, index, len(others))

    def take(self, value: object) -> None:
        """Draw the diff where it has changed."""
        assert value is None or isinstance(value, _Other)
        if value != self._other:
            self._other = value
            self.draw()

    def action_diff(self) -> None:
        """Compare with the next of the other schedules; after the last one with none."""
        if self._diffing is None:
            self._diffing = 0
        elif self._other is None or self._diffing + 1 >= self._other.count:
            self._diffing = None
        else:
            self._diffing += 1
        self._other = None
        self.scroll_home(animate=False)
        self._changed()

    def action_leave(self) -> None:
        """End the diff."""
        self._diffing = self._other = None
        self._changed()

    def picture(self, subject: Subject | None, columns: int, rows: int) -> RenderableType | None:
        """Return the diff or the schedule."""
        if self._diffing is not None:
            return _diff_picture(self._other)
        return None if subject is None else PAGES["schedule"](subject, columns, rows)

    def _changed(self) -> None:
        self.refresh_bindings()
        self.draw()
        self.read_on()


def _diff_picture(other: _Other | None) -> RenderableType:
    if other is None:
        return Text(READING, DIM)
    if isinstance(other.diff, str):
        return Text(other.diff, DIM)
    from autoprog.ui.compare import diff_view

    place = f"{other.number + 1} of {other.count}" if other.count > 1 else "the only other one"
    note = Text(f"{place}: d shows the next, Esc leaves", DIM)
    return Group(diff_view(other.diff), note)


# --------------------------------------------------------------------------------------------------
# What a search tried: its trials, its workers and which parameters matter.


Importances = Callable[[Path], Sequence[Importance]]
"""Reads a journal; may take seconds."""

JOURNAL = "search.journal"
REST_SECONDS = 10.0  # between two computations of importances that keep changing


class SearchPane(PagePane):
    """Front, trials, workers and importances; those are computed in a thread of their own."""

    class Computed(Message):
        """Importances of a journal as it was are known."""

        def __init__(self, path: Path, found: Sequence[Importance] | str) -> None:
            self.path, self.found = path, found
            super().__init__()

    def __init__(self, importances: Importances | None) -> None:
        super().__init__("search")
        self._importances = importances
        self._journal: Path | None = None
        self._stamp: Stamp = ()
        self._begun = 0.0
        self._found: Sequence[Importance] | str | None = None
        self.is_computing = False

    def look(self, subject: Subject | None, marks: Marks) -> Path | None:
        """Return the journal of the run, if it has one."""
        if subject is None or subject.run is None or not subject.state.trials:
            return None
        path = subject.run.path / JOURNAL
        return path if path.exists() else None

    def take(self, value: object) -> None:
        """Begin to compute where the journal has changed, and draw how old the signs of life are."""
        assert value is None or isinstance(value, Path)
        if value != self._journal:
            self._journal, self._found, self._stamp, self._begun = value, None, (), 0.0
        if value is not None and self._importances is not None and not self.is_computing:
            self._begin(value, self._importances)
        self.draw()

    def picture(self, subject: Subject | None, columns: int, rows: int) -> RenderableType | None:
        """Return all that a search left, or what there is instead."""
        if subject is None:
            return None
        parts: list[RenderableType] = []
        if subject.state.trials:
            parts.append(trials_view(subject.state.trials))
        if subject.workers:
            parts.append(workers_view(subject.workers, time.time()))
        parts += [*self._important(), *weighed(subject)]
        if parts:
            return Group(*parts)
        problem = "Nothing was searched: the schedule was given."
        if subject.kind == "search":
            problem = "Nothing is weighed yet: ways on appear with the first decision, costs when measured."
        return Text(problem, DIM)

    def on_search_pane_computed(self, event: Computed) -> None:
        """Draw what was computed."""
        self.is_computing = False
        if event.path == self._journal:
            self._found = event.found
            self.draw()

    def _begin(self, journal: Path, importances: Importances) -> None:
        now, seconds = stamp(journal.parent, (JOURNAL,)), time.monotonic()
        if now == self._stamp or (self._begun and seconds - self._begun < REST_SECONDS):
            return
        self._stamp, self._begun, self.is_computing = now, seconds, True
        self.run_worker(
            partial(self._compute, journal, importances), thread=True, group="importances"
        )

    def _compute(self, journal: Path, importances: Importances) -> None:
        try:
            found: Sequence[Importance] | str = importances(journal)
        except (AutoprogError, OSError) as error:
            found = str(error)
        self.post_message(self.Computed(journal, found))

    def _important(self) -> list[RenderableType]:
        if self._journal is None or self._importances is None:
            return []
        if self._found is None:
            return [Text("Which parameters matter: computing …", DIM)]
        if isinstance(self._found, str):
            return [Text(f"Which parameters matter: {self._found}", DIM)]
        known = [one for one in self._found if one.fractions]
        if known:
            return [importances_view(known)]
        reasons = dict.fromkeys(one.problem for one in self._found)
        return [Text(f"Which parameters matter: {', '.join(reasons) or 'no trials yet'}", DIM)]
