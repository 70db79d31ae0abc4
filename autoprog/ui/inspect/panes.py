"""The panes behind the tabs: each is told what there is to show, and moves by the same few words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from rich.console import RenderableType
from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import Container, Vertical, VerticalScroll
from textual.message import Message
from textual.widget import Widget
from textual.widgets import DataTable, Input, Static

from autoprog.ui.decision import decision_view
from autoprog.ui.inspect.listing import RunRow, filtered, run_columns
from autoprog.ui.inspect.pages import Page, decision_list_columns
from autoprog.ui.palette import DIM, STATUS, WARNING
from autoprog.ui.subject import Subject
from autoprog.ui.tables import Column, fit_columns

__all__ = ["PagePane", "Pane", "RunsPane", "WhyPane"]

CELL_PADDING = 2  # columns that a table adds to each cell


class Pane(Protocol):
    """What the keys act upon."""

    @property
    def mover(self) -> Widget:
        """Return the widget that up and down move in, which has the focus."""

    @property
    def scroller(self) -> Widget:
        """Return the widget that a page up and down moves."""


class PagePane(VerticalScroll):
    """A view that is one page."""

    def __init__(self, page: Page, name: str) -> None:
        super().__init__(id=f"{name}-pane")
        self._page = page

    def compose(self) -> ComposeResult:
        """Yield the place of the page."""
        yield Static(Text("reading …", DIM))

    @property
    def mover(self) -> Widget:
        """Return the page itself."""
        return self

    @property
    def scroller(self) -> Widget:
        """Return the page itself."""
        return self

    def show(self, subject: Subject) -> None:
        """Draw a subject."""
        width, height = self.scrollable_content_region.size
        self.query_one(Static).update(self._page(subject, width, height))


class Rows(DataTable[Text]):
    """A table whose cursor is a row, with columns that leave where there is no room."""

    def __init__(self, name: str) -> None:
        super().__init__(id=name, cursor_type="row", zebra_stripes=False)
        self._shown: list[Column] = []

    def show(
        self, columns: Sequence[Column], keys: Sequence[str], styles: Sequence[str] = ()
    ) -> None:
        """Draw columns; the cursor stays on the row with its key; a style is that of a first cell."""
        room = self.scrollable_content_region.width - CELL_PADDING * (len(columns) - 1)
        kept = fit_columns(columns, room)
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


class RunsPane(Vertical):
    """The list of runs, with a filter."""

    class Chosen(Message):
        """A run is to be opened."""

        def __init__(self, path: Path) -> None:
            self.path = path
            super().__init__()

    def __init__(self) -> None:
        super().__init__(id="runs-pane")
        self.rows: list[RunRow] = []

    def compose(self) -> ComposeResult:
        """Yield the list, a line for what it has not, and the filter."""
        yield Rows("runs-list")
        yield Static(Text("reading …", DIM), id="runs-note")
        yield Input(placeholder="words in name, model, state or stage; Esc clears", id="filter")

    def on_mount(self) -> None:
        """Hide the filter until it is asked for."""
        self.query_one(Input).display = False

    @property
    def mover(self) -> Rows:
        """Return the list."""
        return self.query_one(Rows)

    scroller = mover

    def show(self, rows: Sequence[RunRow]) -> None:
        """Draw the runs that pass the filter."""
        self.rows = list(rows)
        passing = filtered(rows, self.query_one(Input).value)
        styles = [STATUS.get(row.status, ("", WARNING))[1] for row in passing]
        self.mover.show(run_columns(passing), [str(row.path) for row in passing], styles)
        note = "" if passing else "no run passes the filter" if rows else "no run in this folder"
        self.query_one("#runs-note", Static).update(Text(note, DIM))

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
        self.show(self.rows)

    @on(Input.Submitted)
    def _entered(self) -> None:
        self.mover.focus()

    @on(DataTable.RowSelected)
    def _chosen(self, event: DataTable.RowSelected) -> None:
        event.stop()
        self.post_message(self.Chosen(Path(str(event.row_key.value))))


class WhyPane(Container):
    """The decisions: a list, and all about the one under the cursor."""

    def __init__(self) -> None:
        super().__init__(id="why-pane")
        self._subject: Subject | None = None

    def compose(self) -> ComposeResult:
        """Yield the list and the place of a decision."""
        yield Rows("decisions")
        with VerticalScroll(id="decision", can_focus=False):
            yield Static(Text("reading …", DIM))

    @property
    def mover(self) -> Rows:
        """Return the list."""
        return self.query_one(Rows)

    @property
    def scroller(self) -> Widget:
        """Return the decision."""
        return self.query_one("#decision")

    def show(self, subject: Subject) -> None:
        """Draw the decisions of a subject."""
        self._subject = subject
        decisions = subject.decisions
        self.mover.display = bool(decisions)
        self.mover.show(decision_list_columns(decisions), [str(d.index) for d in decisions])
        self._draw()

    @on(DataTable.RowHighlighted)
    def _draw(self) -> None:
        if self._subject is not None:
            place = self.query_one("#decision", VerticalScroll).query_one(Static)
            place.update(_why(self._subject, self.mover.key_at_cursor))


def _why(subject: Subject, key: str) -> RenderableType:
    """Return the decision with this number, or what there is instead."""
    found = [decision for decision in subject.decisions if str(decision.index) == key]
    if found:
        return decision_view(found[0])
    if subject.kind == "search":
        return Text("No decision has been taken yet.", DIM)
    return Text("No decisions: the schedule was given.", DIM)
