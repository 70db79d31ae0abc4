"""The program behind ``autoprog inspect``: tabs over what a thread reads of run folders."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import App, ComposeResult, SystemCommand
from textual.binding import BindingType
from textual.filter import LineFilter
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Footer, Input, Static, TabbedContent, TabPane
from textual.worker import get_current_worker

from autoprog.errors import AutoprogError
from autoprog.ui.fitted import Fitted
from autoprog.ui.inspect.colours import DARK, LIGHT
from autoprog.ui.inspect.compare_pane import ComparePane
from autoprog.ui.inspect.follow import Follower, PlanFollower, RunFollower
from autoprog.ui.inspect.foreign import Checked, PrintableLines, without_markup
from autoprog.ui.inspect.guide import GuideScreen
from autoprog.ui.inspect.keys import APP_KEYS, LOOKING, MOVES_IN_PAGE, MOVES_IN_TABLE, VIEWS
from autoprog.ui.inspect.library import Library, Marks
from autoprog.ui.inspect.listing import Listing
from autoprog.ui.inspect.live_pane import LivePane
from autoprog.ui.inspect.pages import PAGES, headline
from autoprog.ui.inspect.panes import (
    NOTHING_OPEN,
    READING,
    Looking,
    PagePane,
    Pane,
    ReadOn,
    WhyPane,
)
from autoprog.ui.inspect.runs_pane import RunsPane
from autoprog.ui.inspect.schedule_pane import SchedulePane
from autoprog.ui.inspect.search_pane import Importances, SearchPane
from autoprog.ui.palette import WARNING
from autoprog.ui.subject import Subject

__all__ = ["POLL_SECONDS", "VIEWS", "InspectApp"]

POLL_SECONDS = 1.0
REDRAW_SECONDS = 0.3  # while a long log is read


class InspectApp(App[None]):
    """Looks at runs and plans; it never writes to a run folder.

    Args:
        opened: What was named; the first is open from the start, with none the list is.
        listing: The runs to choose from.
        poll_seconds: How often what has changed is read.
        marked: The runs that are marked from the start.
        importances: Computes parameter importances from a journal; None leaves them out.
    """

    TITLE = "autoprog inspect"
    CSS_PATH = "app.tcss"
    BINDINGS: ClassVar[list[BindingType]] = APP_KEYS
    HORIZONTAL_BREAKPOINTS = [  # noqa: RUF012 (the base class has it so)
        (0, "-narrow"),
        (120, "-wide"),
    ]

    class Read(Message):
        """The thread has read on: ``subject`` of ``follower``, or what is wrong with it."""

        def __init__(self, follower: Follower, problem: str = "") -> None:
            self.follower, self.subject, self.problem = follower, follower.subject, problem
            super().__init__()

    class Looked(Message):
        """The thread has read what a view shows beside the subject."""

        def __init__(self, pane: Looking, value: object) -> None:
            self.pane, self.value = pane, value
            super().__init__()

    def __init__(
        self,
        opened: Sequence[Follower],
        listing: Listing,
        poll_seconds: float = POLL_SECONDS,
        marked: Sequence[Path] = (),
        importances: Importances | None = None,
    ) -> None:
        self._printable_lines = PrintableLines()
        super().__init__()
        self._poll_seconds = poll_seconds
        self._follower = opened[0] if opened else None
        self._plans = [plan for plan in opened if isinstance(plan, PlanFollower)]
        self._subject: Subject | None = None
        library = Library(self._plans, listing.paths)
        self._panes: dict[str, RunsPane | WhyPane | PagePane] = {
            "runs": RunsPane(listing, marked),
            "schedule": SchedulePane(library),
            "why": WhyPane(),
            "search": SearchPane(importances),
            "live": LivePane(library),
            "growth": PagePane("growth", PAGES["growth"]),
            "compare": ComparePane(library),
        }
        self._wait_for(READING if opened else NOTHING_OPEN)
        self.num_reads = 0
        self._busy = False
        self.animation_level = "none"  # a jump is faster than a slide, also over a slow line
        self.ansi_theme_dark, self.ansi_theme_light = DARK, LIGHT

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Return what every line passes before it is written (a method that Textual calls)."""
        return [*super().get_line_filters(), self._printable_lines]

    def compose(self) -> ComposeResult:
        """Yield the headline, the tabs and the keys."""
        yield Static(Text(" autoprog inspect", "bold"), id="headline")
        yield Static("", id="problem")
        with TabbedContent(id="views", initial="schedule" if self._follower else "runs"):
            for number, view in enumerate(VIEWS, 1):
                with TabPane(f"{number} {view.capitalize()}", id=view):
                    yield self._panes[view]
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
        for name, help_text, action in _PANE_COMMANDS:
            yield SystemCommand(name, help_text, partial(self._act, *action))
        for plan in self._plans:
            name = without_markup(f"Open {plan.target}")
            yield SystemCommand(name, "a plan", partial(self._show, plan))
        for row in self.query_one(RunsPane).rows:
            name, help_text = map(
                without_markup, (f"Open {row.name}", f"{row.status} {row.came_to}")
            )
            yield SystemCommand(name, help_text, partial(self._open, row.path))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Leave keys to what is typed into and to what lies above the views."""
        if action in LOOKING:
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
        names = MOVES_IN_PAGE if isinstance(mover, PagePane) else MOVES_IN_TABLE
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
        return not (self.query("#problem") and self.query("#views") and self._pane.query(Static))

    @property
    def _pane(self) -> RunsPane | WhyPane | PagePane:
        return self._panes[self._view]

    @on(RunsPane.Chosen)
    def _chosen(self, event: RunsPane.Chosen) -> None:
        self._open(event.path)

    def _open(self, path: Path) -> None:
        self._show(RunFollower(path))

    def _wait_for(self, text: str) -> None:
        """Have the views of what is open say why they are empty."""
        for pane in self._panes.values():
            if isinstance(pane, PagePane | WhyPane):
                pane.waiting = text

    def _show(self, follower: Follower) -> None:
        self._wait_for(READING)
        self._follower, self._subject = follower, None
        self.query_one("#headline", Static).update(Text(f" reading {follower.target} …", "bold"))
        self.action_view("schedule")
        self._poll()

    def _act(self, view: str, action: str) -> None:
        self.action_view(view)
        self.call_after_refresh(getattr(self._panes[view], f"action_{action}"))

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

    @on(ReadOn)
    def _poll(self) -> None:
        if not self._busy and not self._closes:
            self._busy = True
            marks = self.query_one(RunsPane).marks
            self.run_worker(partial(self._read, self._pane, marks), thread=True)

    def _read(self, pane: Pane, marks: Marks) -> None:
        """Read what is new; in a thread of its own, so that the screen answers meanwhile."""
        try:
            follower = self._follower
            if follower is not None:
                self._follow(follower)
            if isinstance(pane, Looking):
                subject = None if follower is None else follower.subject
                self.post_message(self.Looked(pane, pane.look(subject, marks)))
        finally:
            self._busy = False
            self.num_reads += 1

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

    @on(Looked)
    def _take_look(self, event: Looked) -> None:
        if not self._closes:
            event.pane.take(event.value)

    def _draw(self) -> None:
        if self._closes:
            return
        if self._subject is not None:
            line = Fitted(partial(_headline, self._subject))
            self.query_one("#headline", Static).update(Checked(line))
        self._pane.show(self._subject)


def _headline(subject: Subject, width: int) -> Text:
    return headline(subject)


_PANE_COMMANDS = (
    ("Mark the run", "Mark the run under the cursor for Compare", ("runs", "mark")),
    ("Take as baseline", "Draw the run under the cursor in Live", ("runs", "baseline")),
    ("Diff schedules", "Set the schedule beside the next other one", ("schedule", "diff")),
    ("Axis of Live", "Draw curves over epochs or seconds", ("live", "axis")),
    ("Axis of Compare", "Draw curves over seconds, images or MACs", ("compare", "axis")),
)
