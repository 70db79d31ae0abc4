"""The list of runs: filtered, opened, marked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import DataTable, Input, Static

from autoprog.ui.inspect.library import Marks
from autoprog.ui.inspect.listing import Listing, RunRow, filtered, run_columns
from autoprog.ui.inspect.panes import Rows
from autoprog.ui.palette import DIM, STATUS, WARNING
from autoprog.ui.subject import Subject

__all__ = ["RunsPane"]


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
