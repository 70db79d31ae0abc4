"""The program behind ``autoprog inspect``: tabs over what a thread reads of a run folder."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import ClassVar, cast

from rich.text import Text
from textual import on
from textual.app import App, ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Footer, Input, Static, TabbedContent, TabPane
from textual.worker import get_current_worker

from autoprog.errors import AutoprogError
from autoprog.ui.inspect.colours import DARK, LIGHT
from autoprog.ui.inspect.follow import Follower, RunFollower
from autoprog.ui.inspect.guide import GuideScreen
from autoprog.ui.inspect.listing import Listing, RunRow
from autoprog.ui.inspect.pages import PAGES, headline
from autoprog.ui.inspect.panes import PagePane, Pane, RunsPane, WhyPane
from autoprog.ui.palette import WARNING
from autoprog.ui.subject import Subject

__all__ = ["POLL_SECONDS", "VIEWS", "InspectApp"]

VIEWS = ("runs", "schedule", "why", "search", "live", "growth")
POLL_SECONDS = 1.0
REDRAW_SECONDS = 0.3  # while a long log is read

_KEYS: list[BindingType] = [
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
    Binding("space,pagedown,ctrl+d", "page(1)", "Page down", show=False, priority=True),
    Binding("pageup,ctrl+u", "page(-1)", "Page up", show=False, priority=True),
    Binding("escape", "clear_filter", "Clear the filter", show=False),
    Binding("slash", "filter", "Filter"),
    Binding("question_mark", "guide", "Help"),
    Binding("q", "quit", "Quit; a run goes on"),
]
_OURS = {"next_view", "move", "page", "view", "filter", "guide"}


class InspectApp(App[None]):
    """Looks at runs and plans; it never writes to a run folder.

    Args:
        follower: What is open from the start; None begins with the list.
        listing: The runs to choose from.
        poll_seconds: How often what has changed is read.
    """

    TITLE = "autoprog inspect"
    CSS_PATH = "app.tcss"
    BINDINGS: ClassVar[list[BindingType]] = _KEYS
    HORIZONTAL_BREAKPOINTS = [  # noqa: RUF012 (the base class has it so)
        (0, "-narrow"),
        (120, "-wide"),
    ]

    class Read(Message):
        """The thread has read on: ``subject`` of ``follower``, or what is wrong with it."""

        def __init__(self, follower: Follower, problem: str = "") -> None:
            self.follower, self.subject, self.problem = follower, follower.subject, problem
            super().__init__()

    class Listed(Message):
        """The thread has read the list."""

        def __init__(self, rows: list[RunRow]) -> None:
            self.rows = rows
            super().__init__()

    def __init__(
        self, follower: Follower | None, listing: Listing, poll_seconds: float = POLL_SECONDS
    ) -> None:
        super().__init__()
        self._poll_seconds = poll_seconds
        self._follower, self._listing = follower, listing
        self._subject: Subject | None = None
        self._busy = False
        self.animation_level = "none"  # a jump is faster than a slide, also over a slow line
        self.ansi_theme_dark, self.ansi_theme_light = DARK, LIGHT

    def compose(self) -> ComposeResult:
        """Yield the headline, the tabs and the keys."""
        yield Static(Text(" autoprog inspect", "bold"), id="headline")
        yield Static("", id="problem")
        with TabbedContent(id="views", initial="schedule" if self._follower else "runs"):
            for number, view in enumerate(VIEWS, 1):
                with TabPane(f"{number} {view.capitalize()}", id=view):
                    yield _pane(view)
        yield Footer()

    def on_mount(self) -> None:
        """Begin to read."""
        self.query_one("#problem").display = False
        self._focus()
        self.set_interval(self._poll_seconds, self._poll)
        self.call_after_refresh(self._poll)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Yield Textual's own commands, the views and the runs."""
        yield from super().get_system_commands(screen)
        for view in VIEWS:
            name = view.capitalize()
            yield SystemCommand(f"View {name}", f"Show {name}", partial(self.action_view, view))
        for row in self.query_one(RunsPane).rows:
            help_text = f"{row.status} {row.came_to}"
            yield SystemCommand(f"Open {row.name}", help_text, partial(self._open, row.path))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Leave keys to what is typed into and to what lies above the views."""
        if action in _OURS:
            return len(self.screen_stack) == 1 and not isinstance(self.focused, Input)
        return True

    def action_view(self, view: str) -> None:
        """Show a view."""
        self.query_one("#views", TabbedContent).active = view

    def action_next_view(self, by: int) -> None:
        """Show the view after this one, or before it."""
        self.action_view(VIEWS[(VIEWS.index(self._view) + by) % len(VIEWS)])

    def action_move(self, where: str) -> None:
        """Move the cursor, or a page by a line."""
        mover = self._pane.mover
        page = {
            "down": "scroll_down",
            "up": "scroll_up",
            "first": "scroll_home",
            "last": "scroll_end",
        }
        table = {
            "down": "cursor_down",
            "up": "cursor_up",
            "first": "scroll_top",
            "last": "scroll_bottom",
        }
        names = page if isinstance(mover, PagePane) else table
        getattr(mover, f"action_{names[where]}")()

    def action_page(self, by: int) -> None:
        """Move by a page."""
        scroller = self._pane.scroller
        scroller.scroll_page_down() if by > 0 else scroller.scroll_page_up()

    def action_filter(self) -> None:
        """Type words that the runs must hold."""
        self.action_view("runs")
        self.query_one(RunsPane).open_filter()

    def action_clear_filter(self) -> None:
        """Show all runs again."""
        if self._view == "runs":
            self.query_one(RunsPane).clear_filter()

    def action_guide(self) -> None:
        """Show the keys."""
        self.push_screen(GuideScreen())

    @property
    def _view(self) -> str:
        return self.query_one("#views", TabbedContent).active

    @property
    def _closes(self) -> bool:
        """Tell whether the views are gone, while what was read last still comes in."""
        return not self.query("#problem, RunsPane")

    @property
    def _pane(self) -> Pane:
        return cast(Pane, self.query_one(f"#{self._view}-pane"))

    @on(RunsPane.Chosen)
    def _chosen(self, event: RunsPane.Chosen) -> None:
        self._open(event.path)

    def _open(self, path: Path) -> None:
        self._follower, self._subject = RunFollower(path), None
        self.query_one("#headline", Static).update(Text(f" reading {path} …", "bold"))
        self.action_view("schedule")
        self._poll()

    @on(TabbedContent.TabActivated)
    def _activated(self) -> None:
        self._focus()
        self.call_after_refresh(self._draw)
        self._poll()

    def on_resize(self) -> None:
        """Draw for another size."""
        self.call_after_refresh(self._draw)

    def _focus(self) -> None:
        if not self._closes:
            self._pane.mover.focus(scroll_visible=False)

    def _poll(self) -> None:
        if not self._busy and not self._closes:
            self._busy = True
            self.run_worker(partial(self._read, self._view == "runs"), thread=True)

    def _read(self, lists: bool) -> None:
        """Read what is new; in a thread of its own, so that the screen answers meanwhile."""
        try:
            follower = self._follower
            if follower is not None:
                self._follow(follower)
            if lists:
                self.post_message(self.Listed(self._listing.rows()))
        finally:
            self._busy = False

    def _follow(self, follower: Follower) -> None:
        worker, drawn = get_current_worker(), 0.0
        try:
            while follower.advance() and not worker.is_cancelled and follower is self._follower:
                if time.monotonic() - drawn > REDRAW_SECONDS:
                    self.post_message(self.Read(follower))
                    drawn = time.monotonic()
            self.post_message(self.Read(follower))
        except (AutoprogError, OSError) as error:
            self.post_message(self.Read(follower, str(error)))

    @on(Read)
    def _take(self, event: Read) -> None:
        if event.follower is not self._follower or self._closes:
            return
        notice = self.query_one("#problem", Static)
        notice.display = bool(event.problem)
        notice.update(Text(f" ! {event.problem}", WARNING))
        if event.subject is not None and event.subject != self._subject:
            self._subject = event.subject
            self._draw()

    @on(Listed)
    def _list(self, event: Listed) -> None:
        if not self._closes:
            self.query_one(RunsPane).show(event.rows)

    def _draw(self) -> None:
        if self._closes:
            return
        pane = self._pane
        if isinstance(pane, RunsPane):
            pane.show(pane.rows)
        if self._subject is not None:
            self.query_one("#headline", Static).update(headline(self._subject))
            if isinstance(pane, PagePane | WhyPane):
                pane.show(self._subject)


def _pane(view: str) -> RunsPane | WhyPane | PagePane:
    if view == "runs":
        return RunsPane()
    return WhyPane() if view == "why" else PagePane(PAGES[view], view)
