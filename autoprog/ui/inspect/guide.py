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
    "1 … 7, Tab, h l, ← →": "the views, from Runs to Compare",
    "j k, ↑ ↓": "down and up: a run, a decision, a line",
    "g G, Home End": "first and last",
    "Space, PgUp PgDn, ^D ^U": "a page; under Why, of the decision",
    "Enter": "Runs: open the run under the cursor",
    "Space, b": "Runs: mark to compare; take as baseline",
    "d": "Schedule: beside the next other one",
    "x": "Live, Compare: another axis of the curves",
    "/": "filter the runs; Enter keeps, Esc clears it",
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
