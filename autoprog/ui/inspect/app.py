"""The program behind ``autoprog inspect``: tabs over what a thread reads of run folders."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterable, Sequence
from functools import partial
from os import environ
from pathlib import Path
from typing import ClassVar, cast

from rich.console import Group
from rich.terminal_theme import TerminalTheme
from rich.text import Text
from textual import on
from textual.app import App, ComposeResult, SystemCommand
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.filter import LineFilter
from textual.message import Message
from textual.pilot import Pilot
from textual.screen import ModalScreen, Screen
from textual.widgets import Footer, Input, Static, TabbedContent, TabPane
from textual.worker import get_current_worker

from autoprog.errors import AutoprogError, ConfigError, RunError
from autoprog.locate import is_word, locate_run
from autoprog.safe_files import write_all
from autoprog.ui.format import DIM, WARNING
from autoprog.ui.inspect.panes import (
    APP_KEYS,
    MOVES_IN_PAGE,
    MOVES_IN_TABLE,
    NOTHING_OPEN,
    READING,
    VIEW_ACTIONS,
    VIEWS,
    Checked,
    ComparePane,
    GrowthPane,
    Importances,
    LivePane,
    PagePane,
    Pane,
    PrintableLines,
    ReadingPane,
    ReadOn,
    RunsPane,
    SchedulePane,
    SearchPane,
    WhyPane,
    headline,
    without_markup,
)
from autoprog.ui.inspect.readers import Follower, Library, Listing, Marks, PlanFollower, RunFollower
from autoprog.ui.render_html import with_local_fonts
from autoprog.ui.render_rich import Fitted
from autoprog.ui.subject import Subject, find_subject
from autoprog.ui.tables import list_table

__all__ = [
    "KEYS",
    "POLL_SECONDS",
    "VIEWS",
    "GuideScreen",
    "InspectApp",
    "inspect",
    "make_app",
    "take_screenshots",
]


# --------------------------------------------------------------------------------------------------
# Which keys there are.


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


# Red, green, yellow, blue, magenta, cyan, as in the palette.
_COLOURS = [
    (213, 94, 0),
    (0, 158, 115),
    (230, 159, 0),
    (86, 180, 233),
    (204, 121, 167),
    (86, 180, 233),
]

# What the sixteen colours of a terminal look like on the grounds that the program paints.
# Dim text has to be read: 6.6 to 1 on the dark ground, 5.3 to 1 on the light one.
_DARK = TerminalTheme(
    (18, 18, 18),
    (224, 224, 224),
    [(40, 40, 40), *_COLOURS, (208, 208, 208)],
    [(150, 150, 150), *_COLOURS, (255, 255, 255)],
)
_LIGHT = TerminalTheme(
    (255, 255, 255),
    (31, 31, 31),
    [(0, 0, 0), *_COLOURS, (90, 90, 90)],
    [(107, 107, 107), *_COLOURS, (0, 0, 0)],
)


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

    class PaneRead(Message):
        """The thread has read what a view shows beside the subject."""

        def __init__(self, pane: ReadingPane, value: object) -> None:
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
            "growth": GrowthPane("growth"),
            "compare": ComparePane(library),
        }
        self._wait_for(READING if opened else NOTHING_OPEN)
        self.num_reads = 0
        # One thread reads at a time: two would read the same lines of the log.
        self._busy = False
        self.animation_level = "none"  # a jump is faster than a slide, also over a slow line
        self.ansi_theme_dark, self.ansi_theme_light = _DARK, _LIGHT

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
        if action in VIEW_ACTIONS:
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
        """Return whether the views are gone, while what was read last still comes in."""
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
            if isinstance(pane, ReadingPane):
                subject = None if follower is None else follower.subject
                self.post_message(self.PaneRead(pane, pane.read(subject, marks)))
        finally:
            self._busy = False
            self.num_reads += 1

    def _follow(self, follower: Follower) -> None:
        worker, drawn = get_current_worker(), 0.0
        try:
            # A log of gigabytes is drawn as far as it is read, so that the screen is never empty for long.
            while follower.advance() and not worker.is_cancelled and follower is self._follower:
                if time.monotonic() - drawn > REDRAW_SECONDS:
                    self.post_message(self.Read(follower))
                    drawn = time.monotonic()
            self.post_message(self.Read(follower))
        except (AutoprogError, OSError) as error:
            self.post_message(self.Read(follower, str(error)))

    @on(Read)
    def _take(self, event: Read) -> None:
        # The thread may still report on the run that was open before.
        if event.follower is not self._follower or self._closes:
            return
        notice = self.query_one("#problem", Static)
        notice.display = bool(event.problem)
        notice.update(Text(f" ! {event.problem}", WARNING))
        if event.subject is not None and event.subject != self._subject:
            self._subject = event.subject
            self._draw()

    @on(PaneRead)
    def _take_pane_read(self, event: PaneRead) -> None:
        if not self._closes:
            event.pane.take(event.value)

    def _draw(self) -> None:
        if self._closes:
            return
        if self._subject is not None:
            subject = self._subject
            line = Fitted(lambda width: headline(subject))  # drawn, and checked, when it is shown
            self.query_one("#headline", Static).update(Checked(line))
        self._pane.show(self._subject)


_PANE_COMMANDS = (
    ("Mark the run", "Mark the run under the cursor for Compare", ("runs", "mark")),
    ("Take as baseline", "Draw the run under the cursor in Live", ("runs", "baseline")),
    ("Diff schedules", "Set the schedule beside the next other one", ("schedule", "diff")),
    ("Axis of Live", "Draw curves over epochs or seconds", ("live", "axis")),
    ("Axis of Compare", "Draw curves over seconds, images or MACs", ("compare", "axis")),
)


# --------------------------------------------------------------------------------------------------
# From the words of the command line to the program.


SCREENSHOT_POLL_SECONDS = 0.1


def inspect(
    targets: Sequence[str],
    runs_dir: str,
    importances: Importances | None = None,
    screenshots: Path | None = None,
    size: tuple[int, int] = (80, 24),
) -> list[Path]:
    """Open the program in this terminal, until it is left; or write pictures of its views.

    Args:
        targets: Run folders, folders of runs, schedule files and presets; the first one is open at once.
        runs_dir: Folder of the runs to choose from where none is named.
        importances: Computes parameter importances from a journal.
        screenshots: Folder for the pictures, which need no terminal.
        size: Their columns and rows.

    Returns:
        The pictures.

    Raises:
        ConfigError: If a target is none of these, or this is no terminal.
        RunError: If pictures cannot be made.
    """
    poll_seconds = POLL_SECONDS if screenshots is None else SCREENSHOT_POLL_SECONDS
    app = make_app(targets, runs_dir, poll_seconds, importances)
    if screenshots is not None:
        return take_screenshots(app, screenshots, size)
    # Textual needs a terminal: into a pipe or a file it would write codes.
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or environ.get("TERM") == "dumb":
        hint = "autoprog show prints the same views anywhere"
        raise ConfigError("inspect", "", "there is no terminal to draw in", hint=hint)
    app.run()
    return []


def make_app(
    targets: Sequence[str],
    runs_dir: str,
    poll_seconds: float = POLL_SECONDS,
    importances: Importances | None = None,
) -> InspectApp:
    """Return the program for these targets, which reads what has changed every `poll_seconds`.

    Where two runs or more are named, they are marked from the start.

    Raises:
        ConfigError: If a target is nothing that can be looked at.
    """

    def is_runs_folder(path: Path) -> bool:
        return path.is_dir() and not (path / "run.yaml").is_file() and any(path.glob("*/run.yaml"))

    folders = [Path(target) for target in targets if is_runs_folder(Path(target))]
    opened = [target for target in targets if Path(target) not in folders]
    opened = [str(locate_run(t, runs_dir)) if is_word(t, runs_dir) else t for t in opened]
    named = [Path(target) for target in opened]
    followers: list[Follower] = [
        RunFollower(path)
        if (path / "run.yaml").is_file()
        else PlanFollower(target, find_subject(target, None, None, None, time.time()))
        for target, path in zip(opened, named, strict=True)
    ]
    if len(folders) > 1:
        problem = "one folder of runs can be listed at a time"
        raise ConfigError("inspect", "", problem, str(folders[1]))
    if not folders and len(named) < 2:
        # Around the one run that is named, so that its neighbours are at hand.
        folders = [named[0].parent if named and named[0].is_dir() else Path(runs_dir)]
    listing = Listing(folders[0] if folders else None, named)
    runs = [path for path in named if path.is_dir()]
    # Whoever names two runs wants to compare them.
    marked = runs if len(runs) > 1 else []
    return InspectApp(followers, listing, poll_seconds, marked, importances)


# --------------------------------------------------------------------------------------------------
# Pictures of all views, without a terminal.


MAX_SECONDS = 60.0
PAUSE_SECONDS = 0.02


def take_screenshots(app: InspectApp, folder: Path, size: tuple[int, int]) -> list[Path]:
    """Write ``runs.svg``, ``schedule.svg`` … of a program that nobody has started.

    Args:
        app: What to show.
        folder: Where the files go; made if it is missing.
        size: Columns and rows of the terminal there would be.

    Returns:
        The files, in the order of the views.

    Raises:
        RunError: If they cannot be written, or a run cannot be read.
    """

    async def settle(pilot: Pilot[None], view: str) -> None:
        """Wait until a view is shown and what it shows has been read twice, so that it is all there."""
        search = cast(SearchPane, app.query_one("#search-pane"))
        await pilot.pause()
        app.action_view(view)
        await pilot.pause()
        end, last = app.num_reads + 2, time.monotonic() + MAX_SECONDS
        while (app.num_reads < end or search.is_computing) and time.monotonic() < last:
            await pilot.pause(PAUSE_SECONDS)
        await pilot.pause()

    async def take() -> dict[str, str]:
        """Return the pictures by the names of their files."""
        pictures = {}
        async with app.run_test(size=size) as pilot:
            for view in VIEWS:
                await settle(pilot, view)
                problem = app.query_one("#problem", Static)
                if problem.display:
                    raise RunError(str(problem.content).removeprefix(" ! "))
                picture = app.export_screenshot(title="autoprog inspect")
                pictures[f"{view}.svg"] = with_local_fonts(picture)
        return pictures

    pictures = asyncio.run(take())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_all({folder / name: picture for name, picture in pictures.items()})
        return [folder / name for name in pictures]
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error.strerror}") from None
