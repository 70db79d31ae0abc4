"""The panes behind the tabs: each is told what there is to show, and moves by the same few words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from rich.console import RenderableType
from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import Container, VerticalScroll
from textual.message import Message
from textual.widget import Widget
from textual.widgets import DataTable, Static

from autoprog.errors import ConfigError, consistent
from autoprog.ui.decision import decision_view
from autoprog.ui.inspect.foreign import Checked
from autoprog.ui.inspect.library import Marks
from autoprog.ui.inspect.pages import Page, decision_list_columns
from autoprog.ui.palette import DIM, WARNING
from autoprog.ui.subject import Subject
from autoprog.ui.tables import Column, cut_columns, fit_columns

__all__ = ["NOTHING_OPEN", "READING", "Looking", "PagePane", "Pane", "ReadOn", "Rows", "WhyPane"]

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
