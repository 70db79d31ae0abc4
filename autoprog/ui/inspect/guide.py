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
    "1 … 7, Tab, h l, ← →": "Runs, Schedule, Why, Search, Live, Growth, Compare",
    "j k, ↑ ↓": "down and up: a run, a decision, a line",
    "g G, Home End": "first and last",
    "Space, Page Up Down, ^D ^U": "a page down and up; under Why in the decision",
    "Enter": "under Runs: open the run under the cursor",
    "Space, b": "under Runs: mark a run to compare; take it as baseline for Live",
    "d": "under Schedule: beside the next marked run or named plan",
    "e": "under Schedule: edit a copy; ← → move the end of a stage, Tab the next, s saves",
    "x": "under Live and Compare: curves over epochs, seconds, images or MACs",
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
        note = Text("Looking changes nothing: no run is written to, none is stopped.", DIM)
        with VerticalScroll(id="guide"):
            yield Static(Group(list_table(KEYS), Text(""), note))
