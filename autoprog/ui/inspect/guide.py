"""Which keys there are."""

from __future__ import annotations

from typing import ClassVar

from rich.console import Group
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from autoprog.ui.palette import DIM
from autoprog.ui.tables import list_table

__all__ = ["KEYS", "GuideScreen"]

KEYS = {
    "1 … 6, Tab, h l, ← →": "Runs, Schedule, Why, Search, Live, Growth",
    "j k, ↑ ↓": "down and up: a run, a decision, a line",
    "g G, Home End": "first and last",
    "Space, Page Up Down, ^D ^U": "a page down and up; under Why in the decision",
    "Enter": "open the run under the cursor",
    "/": "filter the runs; Enter keeps it, Esc clears it",
    "^P": "palette: every command by name",
    "?": "this page; Esc or ? closes it",
    "q": "quit; a run that is writing goes on",
}


class GuideScreen(ModalScreen[None]):
    """The keys and what they do, above what is shown."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape,question_mark,q,enter", "dismiss", "Close")]

    def compose(self) -> ComposeResult:
        """Yield the table of keys."""
        note = Text("Looking changes nothing: no file is written, no run is stopped.", DIM)
        with VerticalScroll(id="guide"):
            yield Static(Group(list_table(KEYS), Text(""), note))
