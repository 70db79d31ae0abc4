"""The panes behind the tabs: each shows what is open in its way, and moves by the same few keys."""

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
from autoprog.ui.format import DIM, STATUS, WARNING, duration, number, per_cent
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
)
from autoprog.ui.live import frame
from autoprog.ui.render_rich import TWO_PLOTS_WIDTH, view, views
from autoprog.ui.run_sections import (
    CurveAxis,
    OtherRun,
    accuracy_series,
    curves_section,
    growth_section,
    header_section,
    lengths_section,
    loss_series,
    notes_section,
    result_of,
    result_section,
    schedule_section,
)
from autoprog.ui.search_sections import (
    continuations_section,
    costs_section,
    decision_section,
    decision_summary,
    fidelity_section,
    front_section,
    importances_section,
    trials_section,
    workers_section,
)
from autoprog.ui.section import Line, Section
from autoprog.ui.subject import Subject
from autoprog.ui.tables import Column, cut_columns, fit_columns

if TYPE_CHECKING:
    from autoprog.ui.compare import Axis
    from autoprog.ui.schedule_diff import ScheduleDiff

__all__ = [
    "APP_KEYS",
    "MOVES_IN_PAGE",
    "MOVES_IN_TABLE",
    "NOTHING_OPEN",
    "READING",
    "VIEWS",
    "VIEW_ACTIONS",
    "Checked",
    "ComparePane",
    "GrowthPane",
    "Importances",
    "LivePane",
    "PagePane",
    "Pane",
    "PrintableLines",
    "ReadOn",
    "ReadingPane",
    "Rows",
    "RunsPane",
    "SchedulePane",
    "SearchPane",
    "WhyPane",
    "headline",
    "without_markup",
]


# --------------------------------------------------------------------------------------------------
# What others wrote, on the screen of the program: text that steers nothing, views that cannot fail.


class PrintableLines(LineFilter):
    """Shows control characters by visible signs, in every line that Textual draws."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """Return a line of the same width (a method that Textual calls)."""
        # Nearly all lines are, and are passed on as they came.
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
                # Drawn here and now, so that an error of a lazy part is caught too.
                drawn: list[Segment | Text] = [*console.render(self.view, options)]
        except ConfigError as error:
            drawn = [Text(f"! {error}", WARNING)]
        yield from drawn


def headline(subject: Subject) -> Text:
    """Return what is shown and how it stands, in one line."""
    line = Text(no_wrap=True, overflow="ellipsis")
    if subject.status:
        mark, style = STATUS[subject.status]
        line.append(f" {mark} {subject.status}", style)
    line.append(f"  {subject.spec.name}", "bold")
    state, result = subject.state, result_of(subject)
    if result is not None:
        top1, seconds = f"{result['top1_ema']:.2f}", duration(result["wall_seconds"])
        line.append(f"  top-1 EMA {top1} %  in {seconds}")
    elif state.total_steps:
        eta = state.eta_seconds
        left = f"  {duration(eta)} left" if eta is not None else ""
        line.append(f"  {per_cent(state.fraction_done)} done{left}")
    return line.append(f"  {subject.kind} {subject.name}", DIM)  # last: a long name is what is cut


def _note(text: str) -> Text:
    return Text(text, DIM)


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

VIEW_ACTIONS = {"next_view", "move", "page", "view", "filter", "guide"}
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
FRAME_ROWS = 3  # of the bar of a run
AROUND_PLOT_ROWS = 3  # its legend, its axis and the axis labels
AROUND_COMPARED_ROWS = 6  # also the title of the plot, and the head of the table
MIN_PLOT_ROWS = 4
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
class ReadingPane(Protocol):
    """A view that shows more than the subject, which a thread has to read."""

    def read(self, subject: Subject | None, marks: Marks) -> object:
        """Read; in a thread, so nothing of the view may be changed."""

    def take(self, value: object) -> None:
        """Draw what was read."""


class ReadOn(Message):
    """A view shows something else now, which has to be read first."""


class PagePane(VerticalScroll):
    """A view that is one page: that of :meth:`picture`, which a subclass says."""

    def __init__(self, name: str) -> None:
        super().__init__(id=f"{name}-pane")
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
        raise NotImplementedError

    def read_on(self) -> None:
        """Have what the view shows read now."""
        self.post_message(ReadOn())


class GrowthPane(PagePane):
    """How the network grew, and what each block came from."""

    def picture(self, subject: Subject | None, columns: int, rows: int) -> RenderableType | None:
        """Return the growth events and the origins of the blocks."""
        if subject is None:
            return None
        growths = subject.state.growths
        if not growths:
            return _note("The network has not grown yet.")
        origins = [
            Section(
                "origins",
                tuple(map(Line, growth.origins)),
                f"Step {growth.step:,} · what each block came from",
            )
            for growth in growths
        ]
        return Group(*views([growth_section(growths), *origins]))


class Rows(DataTable[Text]):
    """A table whose cursor is a row, with columns that leave where there is no room."""

    def __init__(self, name: str) -> None:
        super().__init__(id=name, cursor_type="row", zebra_stripes=False)
        self._shown: list[Column] = []

    def show(
        self, columns: Sequence[Column], keys: Sequence[str], styles: Sequence[str] = ()
    ) -> None:
        """Draw columns; the cursor stays on the row with its key; a style is that of a first cell."""
        # The padding stands on both sides of a cell; the table has the rest.
        room = self.scrollable_content_region.width - CELL_PADDING
        kept = cut_columns(fit_columns(columns, room), room)
        # To fill a table anew moves its cursor, so it is filled only where it has changed.
        if kept == self._shown:
            return
        self._shown = kept
        before = self.key_at_cursor
        self.clear(columns=True)
        for column in kept:
            header = Text(column.header, DIM, justify=column.justify)
            self.add_column(header, width=column.width)
        for row, key in enumerate(keys):
            texts = [Text(column.cells[row], justify=column.justify) for column in kept]
            if styles:
                texts[0].stylize(styles[row])
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
        # An empty table would be a head without a body above the reason why.
        self.mover.display = bool(decisions)
        rows = [str(row) for row in range(len(decisions))]
        columns = [
            Column("#", tuple(str(decision.index) for decision in decisions)),
            Column("epoch", tuple(number(decision.epoch) for decision in decisions)),
            Column("decided", tuple(map(decision_summary, decisions)), "left"),
            Column("of", tuple(str(len(decision.candidates)) for decision in decisions), rank=1),
        ]
        self.mover.show(columns, rows)
        self._draw()

    @on(DataTable.RowHighlighted)
    def _draw(self) -> None:
        place = self.query_one("#decision", VerticalScroll).query_one(Static)
        subject, key = self._subject, self.mover.key_at_cursor
        if subject is None:
            place.update(Text(self.waiting, DIM))
        elif key and int(key) < len(subject.decisions):
            place.update(Checked(view(decision_section(subject.decisions[int(key)]))))
        else:
            is_search = subject.kind == "search"
            reason = "No decisions: the schedule was given."
            place.update(_note("No decision has been taken yet." if is_search else reason))


# --------------------------------------------------------------------------------------------------
# The curves of a run as it goes, beside those of the baseline.


class LivePane(PagePane):
    """Where a run stands and how it came there."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("x", "axis", "Epochs or seconds")]

    def __init__(self, library: Library) -> None:
        super().__init__("live")
        self._library = library
        self._axis: CurveAxis = "epochs"
        self._baseline: OtherRun | None = None

    def read(self, subject: Subject | None, marks: Marks) -> OtherRun | None:
        """Read the baseline."""
        return None if subject is None else self._library.baseline(subject, marks)

    def take(self, value: object) -> None:
        """Draw the baseline where it has changed."""
        assert value is None or isinstance(value, OtherRun)
        if value != self._baseline:
            self._baseline = value
            self.draw()

    def action_axis(self) -> None:
        """Draw the curves over the other axis."""
        axes = get_args(CurveAxis)
        self._axis = axes[(axes.index(self._axis) + 1) % len(axes)]
        self.draw()

    def picture(self, subject: Subject | None, columns: int, rows: int) -> RenderableType | None:
        """Return where a run stands and its curves, which fill the view."""
        if subject is None:
            return None
        state = subject.state
        if not state.total_steps:
            return _note("Nothing is measured yet: curves begin with the first steps of a run.")
        plots = sum(bool(kind) for kind in (accuracy_series(state), loss_series(state)))
        stacked = 1 if columns - 4 >= TWO_PLOTS_WIDTH else max(1, plots)
        free = (rows - FRAME_ROWS - 2) // stacked - AROUND_PLOT_ROWS
        curves = curves_section(state, max(MIN_PLOT_ROWS, free), self._axis, self._baseline)
        shown = view(curves) if curves.parts else _note("A curve begins with its second point.")
        return Group(frame(state), shown)


# --------------------------------------------------------------------------------------------------
# The comparison of the runs that are marked.


_AXES: tuple[Axis, ...] = ("seconds", "images", "macs")


class ComparePane(PagePane):
    """The table of ``autoprog compare`` and its curves."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("x", "axis", "Seconds, images, MACs")]

    def __init__(self, library: Library) -> None:
        super().__init__("compare")
        self._library, self._axis = library, 0
        self._compared: Compared | None = None

    def read(self, subject: Subject | None, marks: Marks) -> Compared:
        """Read the runs that are marked."""
        return self._library.compared(marks.runs)

    def take(self, value: object) -> None:
        """Draw what was read."""
        # The same object while no file has changed, so nothing is drawn twice.
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
        from autoprog.ui.compare import compare_sections  # not before it is asked for

        notes = [
            Text(f"! left out: {name}: {why}", WARNING) for name, why in self._compared.left_out
        ]
        comparison = self._compared.comparison
        if comparison is None:
            hint = "mark some under Runs with Space; the first is the reference."
            return Group(_note(f"No complete runs to compare: {hint}"), *notes)
        free = rows - len(comparison.groups) - len(notes) - AROUND_COMPARED_ROWS
        plot_rows = max(MIN_PLOT_ROWS + 1, free)
        table, meaning, curves = compare_sections(comparison, _AXES[self._axis], plot_rows)
        return Group(view(table), *notes, *views([curves, meaning]))


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

    def read(self, subject: Subject | None, marks: Marks) -> list[RunRow]:
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
        note = "no run passes the filter" if self.rows else "no run in this folder"
        if passing:
            marks = len(self._marked)
            help_text = "d under Schedule, and Compare, set them side by side"
            note = f"{marks} marked (*): {help_text}" if marks else ""
        self.query_one("#runs-note", Static).update(_note(note))

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


CURVES_TOO_ROWS = 40  # from this height on, the schedule has room for the curves below it
NO_SCHEDULE = "No schedule is known yet: the run begins."
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

    def read(self, subject: Subject | None, marks: Marks) -> _Other | None:
        """Read the other schedule."""
        number = self._diffing
        if number is None or subject is None:
            return None
        from autoprog.ui.schedule_diff import schedule_diff  # not before it is asked for

        others = self._library.others(subject, marks)
        if not others:
            return _Other(NO_OTHER, 0, 0)
        index = number % len(others)
        try:
            with consistent("these schedules"):
                other = self._library.subject_of(others[index])
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
        # Until the next one is read, "reading …" stands there instead of the last one.
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
            return self._diff_picture()
        if subject is None:
            return None
        has_room = rows >= CURVES_TOO_ROWS
        sections = [
            header_section(subject),
            notes_section(subject),
            schedule_section(subject),
            lengths_section(subject),
            *([curves_section(subject.state)] if has_room else []),
            result_section(result_of(subject)),
        ]
        if subject.track is None:
            sections[2] = Section("schedule", (Line(NO_SCHEDULE, "dim"),))
        return Group(*views(sections))

    def _diff_picture(self) -> RenderableType:
        other = self._other
        if other is None:
            return _note(READING)
        if isinstance(other.diff, str):
            return _note(other.diff)
        from autoprog.ui.schedule_diff import diff_section

        place = f"{other.number + 1} of {other.count}" if other.count > 1 else "the only other one"
        note = _note(f"{place}: d shows the next, Esc leaves")
        return Group(view(diff_section(other.diff)), note)

    def _changed(self) -> None:
        self.refresh_bindings()
        self.draw()
        self.read_on()


# --------------------------------------------------------------------------------------------------
# What a search tried: its trials, its workers and which parameters matter.


Importances = Callable[[Path], Sequence[Importance]]
"""Reads a journal; may take seconds."""

JOURNAL = "search.journal"
REST_SECONDS = 10.0  # between two computations of importances that keep changing


class SearchPane(PagePane):
    """Trials, workers, continuations and importances; those are computed in a thread of their own."""

    class Computed(Message):
        """Importances of a journal as it was are known."""

        def __init__(self, path: Path, outcome: Sequence[Importance] | str) -> None:
            self.path, self.outcome = path, outcome
            super().__init__()

    def __init__(self, importances: Importances | None) -> None:
        super().__init__("search")
        self._importances = importances
        self._journal: Path | None = None
        self._stamp: Stamp = ()
        self._begun = 0.0
        self._outcome: Sequence[Importance] | str | None = None
        self.is_computing = False

    def read(self, subject: Subject | None, marks: Marks) -> Path | None:
        """Return the journal of the run, if it has one."""
        if subject is None or subject.run is None or not subject.state.trials:
            return None
        path = subject.run.path / JOURNAL
        return path if path.exists() else None

    def take(self, value: object) -> None:
        """Begin to compute where the journal has changed, and draw how old the signs of life are."""
        assert value is None or isinstance(value, Path)
        if value != self._journal:
            self._journal, self._outcome, self._stamp, self._begun = value, None, (), 0.0
        if value is not None and self._importances is not None and not self.is_computing:
            now, seconds = stamp(value.parent, (JOURNAL,)), time.monotonic()
            rests = bool(self._begun) and seconds - self._begun < REST_SECONDS
            if now != self._stamp and not rests:
                self._stamp, self._begun, self.is_computing = now, seconds, True
                compute = partial(self._compute, value, self._importances)
                self.run_worker(compute, thread=True, group="importances")
        self.draw()

    def picture(self, subject: Subject | None, columns: int, rows: int) -> RenderableType | None:
        """Return all that a search left, or what there is instead."""
        if subject is None:
            return None
        sections = [
            trials_section(subject.state.trials),
            workers_section(subject.workers, time.time()),
        ]
        weighed = [
            continuations_section(decision) if decision.candidates else front_section(decision)
            for decision in reversed(subject.decisions)
        ]
        if subject.run is not None:
            weighed.append(costs_section(subject.run, subject.state.num_classes))
        weighed.append(fidelity_section(subject.fidelity))
        parts = [*views(sections), *self._important(), *views(weighed)]
        if parts:
            return Group(*parts)
        problem = "Nothing was searched: the schedule was given."
        if subject.kind == "search":
            problem = (
                "Nothing is weighed yet: continuations come with decisions, costs when measured."
            )
        return Text(problem, DIM)

    def on_search_pane_computed(self, event: Computed) -> None:
        """Draw what was computed."""
        self.is_computing = False
        if event.path == self._journal:
            self._outcome = event.outcome
            self.draw()

    def _compute(self, journal: Path, importances: Importances) -> None:
        try:
            outcome: Sequence[Importance] | str = importances(journal)
        except (AutoprogError, OSError) as error:
            outcome = str(error)
        self.post_message(self.Computed(journal, outcome))

    def _important(self) -> list[RenderableType]:
        if self._journal is None or self._importances is None:
            return []
        if self._outcome is None:
            return [Text("Which parameters matter: computing …", DIM)]
        if isinstance(self._outcome, str):
            return [Text(f"Which parameters matter: {self._outcome}", DIM)]
        known = [one for one in self._outcome if one.fractions]
        if known:
            return [view(importances_section(known))]
        # Studies of one search lack importances for the same reason.
        reasons = dict.fromkeys(one.problem for one in self._outcome)
        return [Text(f"Which parameters matter: {', '.join(reasons) or 'no trials yet'}", DIM)]
