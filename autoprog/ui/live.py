"""What ``search`` and ``train`` show while they run."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autoprog.console import Console
from autoprog.errors import tell_at_once
from autoprog.events import (
    CostsKnown,
    CostsMeasured,
    Decided,
    Evaluated,
    Event,
    Grown,
    Interrupted,
    RunFinished,
    StepLogged,
    SubnetTrained,
    SupernetStarted,
    TrialFinished,
    WarningRaised,
)
from autoprog.schedule import GrowthSchedule
from autoprog.ui.charts import evaluation_text
from autoprog.ui.format import (
    DIM,
    GREEN,
    MARK_GROWTH,
    MARK_SUPERNET,
    ORANGE,
    PURPLE,
    SKY,
    STATUS,
    WARNING,
    ascii_text,
    duration,
    loss_text,
    number,
    per_cent,
    speed_text,
    steps_text,
    subnet_text,
    trained_text,
)
from autoprog.ui.plain import (
    costs_text,
    event_lines,
    forecast_text,
    measuring_text,
    progress_line,
    supernet_text,
)
from autoprog.ui.run_views import finished_line, growth_text, result_view
from autoprog.ui.search_views import decision_view, training_text, trial_text
from autoprog.ui.state import RunState, reduce
from autoprog.ui.tables import Fitted

__all__ = ["Display", "PartsBar", "frame", "make_display"]


# --------------------------------------------------------------------------------------------------
# A bar for work that has parts, with the time that is left; on a terminal only.


BAR_REDRAW_SECONDS = 0.1


class PartsBar:
    """A context manager; :meth:`tell` draws, in the caller's thread, and the bar is gone at the end.

    Args:
        console: Where to draw; anything but a terminal is left alone.
        clock: Seconds, by which redraws are paced and the rest is estimated.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._draws = console.is_terminal and not console.is_dumb_terminal
        self._clock, self._drawn_seconds = clock, -math.inf
        self._tasks: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            auto_refresh=False,  # no thread: loaders fork, and its lock would never be released there
            transient=True,
            get_time=clock,
        )

    def __enter__(self) -> PartsBar:
        """Begin to draw."""
        if self._draws:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the bar away."""
        if self._draws:
            self._progress.stop()

    def tell(self, part: str, done: int, total: int) -> None:
        """Show how much of a part is done; parts appear one below the other."""
        if not self._draws:
            return
        if part not in self._tasks:
            self._tasks[part] = self._progress.add_task(part, total=total)
        self._progress.update(self._tasks[part], completed=done)
        now = self._clock()
        if done == total or now - self._drawn_seconds >= BAR_REDRAW_SECONDS:
            self._drawn_seconds = now
            self._progress.refresh()


# --------------------------------------------------------------------------------------------------
# The live bar: where a run stands, in three lines.


WIDE = 76


def frame(state: RunState) -> RenderableType:
    """Return the header, the bar and the measurements of a run as it stands."""
    if state.phase == "measuring" and state.measuring is not None:
        return _measuring_frame(state, state.measuring)
    return Group(
        _header(state),
        Fitted(lambda width: _bar(state, width)),
        Fitted(lambda width: _measurements(state, width)),
    )


def _measuring_frame(state: RunState, told: CostsMeasured) -> RenderableType:
    """Return the header, a bar of the subnets whose steps were timed, and a forecast of the run."""
    grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
    bar = ProgressBar(total=told.num_subnets, completed=told.num_measured, complete_style=ORANGE)
    grid.add_column(ratio=1)
    grid.add_column(no_wrap=True)
    grid.add_row(bar, Text(measuring_text(told)))
    forecast = Text(forecast_text(state), no_wrap=True, overflow="ellipsis")
    return Group(_header(state), grid, forecast)


def _header(state: RunState) -> Text:
    mark, style = STATUS[state.phase]
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f"{mark} {state.phase} ", style).append(state.model, "bold")
    if state.stage is not None:
        total = "" if state.num_stages is None else f"/{state.num_stages}"
        line.append(f"  stage {state.stage + 1}{total}")
    if state.subnet is not None:
        line.append(f"  {subnet_text(state.subnet)}", f"bold {SKY}")
        if state.unfrozen is not None:
            line.append(f"  {trained_text(state.unfrozen, state.subnet.total_depth)}")
    return line.append(f"  {state.device} {state.amp}  {state.run_id}", DIM)


def _bar(state: RunState, width: int) -> RenderableType:
    bar = ProgressBar(
        total=1.0,
        completed=state.fraction_done,
        complete_style=SKY,
        finished_style=GREEN,
    )
    grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
    grid.add_column(ratio=1)
    of_time = " of the time" if state.is_open_ended and width >= WIDE else ""
    cells: list[RenderableType] = [bar, Text(f"{per_cent(state.fraction_done)}{of_time}", "bold")]
    if width >= WIDE:
        total = state.shown_total_steps
        cells.append(Text(f"step {steps_text(state.step, total, state.is_open_ended)}"))
    cells.append(Text(f"{duration(state.train_seconds)} trained", DIM))
    cells.append(Text(f"{duration(state.eta_seconds)} left"))
    for _ in cells[1:]:
        grid.add_column(no_wrap=True)
    grid.add_row(*cells)
    return grid


def _measurements(state: RunState, width: int) -> Text:
    """Return the last measurements, as many as fit in one line."""
    line = Text()
    wait = "–" if state.data_wait_fraction is None else per_cent(state.data_wait_fraction)
    facts = (
        ("epoch", number(state.epoch)),
        ("loss", loss_text(state.loss)),
        ("lr", number(state.lr, 3)),
        ("img/s", speed_text(state.images_per_second)),
        ("data wait", wait),
    )
    for name, text in facts:
        if line.cell_len + len(name) + 1 + len(text) <= width:
            line.append(f"{name} ", DIM).append(f"{text}   ")
    line.rstrip()
    return line


LINE_SECONDS = 10.0
LINE_FRACTION = 0.05
REDRAW_SECONDS = 0.1

Clock = Callable[[], float]


class Display(ABC):
    """Shows a run event by event; a context manager, which leaves the terminal as it was."""

    def __init__(self, console: Console, state: RunState, clock: Clock) -> None:
        self.console = console
        self.state = state
        self._clock = clock

    def show(self, event: Event) -> None:
        """Take in one event and show what is new."""
        self.state = reduce(self.state, event)
        self._draw(event)

    def answer(self, text: str) -> None:
        """Tell at once that a signal has come; called from its handler, in the midst of anything."""
        tell_at_once(text)

    def __enter__(self) -> Display:
        """Begin to show."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the display; what was shown stays."""
        return None

    @abstractmethod
    def _draw(self, event: Event) -> None: ...


def make_display(
    console: Console,
    quiet: bool = False,
    *,
    schedule: GrowthSchedule | None = None,
    clock: Clock = time.monotonic,
) -> Display:
    """Return the display that suits a console.

    Args:
        console: Where to show. A terminal gets a live bar, anything else plain lines.
        quiet: Show only warnings, an interruption and the final result.
        schedule: What is carried out, where it is known; it makes the time that is left exact.
        clock: Seconds, by which lines and redraws are paced.
    """
    state = RunState(schedule=schedule)
    if quiet:
        return _QuietDisplay(console, state, clock)
    if console.is_terminal and not console.is_dumb_terminal:
        return _LiveDisplay(console, state, clock)
    return _LineDisplay(console, state, clock)


class _LineDisplay(Display):
    """Plain lines, flushed one by one."""

    def __init__(self, console: Console, state: RunState, clock: Clock) -> None:
        super().__init__(console, state, clock)
        self._last_seconds = -math.inf
        self._last_fraction = 0.0
        self._forecast_told = False

    def _draw(self, event: Event) -> None:
        if isinstance(event, CostsMeasured) and not self._tells(event):
            return
        for line in event_lines(event, self.state):
            _print_line(self.console, line)
        if isinstance(event, StepLogged) and self._due():
            _print_line(self.console, progress_line(self.state))

    def _tells(self, event: CostsMeasured) -> bool:
        """Tell whether to tell how far measuring is: its begin, its first forecast, and now and then."""
        is_forecast = event.run_seconds is not None and not self._forecast_told
        self._forecast_told |= is_forecast
        return not event.num_measured or self._due() or is_forecast

    def _due(self) -> bool:
        now, fraction = self._clock(), self.state.fraction_done
        if (
            now - self._last_seconds < LINE_SECONDS
            and fraction - self._last_fraction < LINE_FRACTION
        ):
            return False
        self._last_seconds, self._last_fraction = now, fraction
        return True


class _QuietDisplay(Display):
    """Warnings and the final result."""

    def _draw(self, event: Event) -> None:
        if isinstance(event, RunFinished):
            _print_line(self.console, ascii_text(finished_line(event.result)))
        elif isinstance(event, WarningRaised | Interrupted):
            for line in event_lines(event, self.state):
                _print_line(self.console, line)


class _LiveDisplay(Display):
    """A bar at the bottom of the terminal, with what happens printed above it.

    It redraws when events come, without a thread: data loaders fork, and a lock that a drawing thread holds
    at that time would never be released in the child.
    """

    def __init__(self, console: Console, state: RunState, clock: Clock) -> None:
        super().__init__(console, state, clock)
        self._live = Live(console=console, auto_refresh=False, get_renderable=self._frame)
        self._drawn_seconds = -math.inf
        self._is_drawing = False
        self._answers: list[str] = []

    def answer(self, text: str) -> None:
        """Tell at once that a signal has come: above the bar, or as soon as that has been drawn."""
        self._answers.append(text)
        if not self._is_drawing:
            self._tell_answers()

    def __enter__(self) -> Display:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tell_answers()
        self._live.refresh()
        self._live.stop()

    def _draw(self, event: Event) -> None:
        self._is_drawing = True
        note = _note(event, self.state)
        if note is not None:
            self.console.print(note)
        now = self._clock()
        if note is not None or now - self._drawn_seconds >= REDRAW_SECONDS:
            self._drawn_seconds = now
            self._live.refresh()
        self._tell_answers()

    def _tell_answers(self) -> None:
        self._is_drawing = True
        while self._answers:
            self.console.print(Text(f"■ {self._answers.pop(0)}", WARNING), soft_wrap=True)
            self._live.refresh()
        self._is_drawing = False

    def _frame(self) -> RenderableType:
        return frame(self.state)


def _note(event: Event, state: RunState) -> RenderableType | None:
    """Return what stays on the terminal above the bar."""
    match event:
        case CostsKnown() if state.measuring is not None:
            return _marked("✔", ORANGE, "measured", costs_text(state))
        case SupernetStarted():
            return _marked(MARK_SUPERNET, PURPLE, f"step {event.step:,}", supernet_text(event))
        case Grown() if event.opens_supernet:
            return None
        case Decided():
            return decision_view(event.decision)
        case Grown():
            return _marked(MARK_GROWTH, SKY, f"step {event.step:,}", growth_text(event))
        case Evaluated():
            text = evaluation_text(event, state.num_classes)
            return _marked("✔", GREEN, f"epoch {number(event.epoch)}", text)
        case SubnetTrained():
            return _marked("✔", GREEN, f"decision {event.decision}", training_text(event))
        case TrialFinished():
            return Text(trial_text(event))
        case WarningRaised():
            return Text(f"! {event.message}", WARNING)
        case Interrupted():
            text = f"interrupted by {event.signal} at step {event.step:,}; a checkpoint is saved"
            return Text(f"■ {text}", WARNING)
        case RunFinished():
            return result_view(event.result)
        case _:
            return None


def _marked(mark: str, style: str, when: str, text: str) -> Text:
    return Text.assemble((f"{mark} ", f"bold {style}"), (f"{when}  ", DIM), text)


def _print_line(console: Console, line: str) -> None:
    console.out(line, highlight=False)
    console.file.flush()
