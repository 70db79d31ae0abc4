"""What ``search`` and ``train`` show while they run: a bar on a terminal, else a line for each event."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial

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
    RunStarted,
    StageStarted,
    StepLogged,
    SubnetTrained,
    SupernetStarted,
    TrialFinished,
    WarningRaised,
)
from autoprog.schedule import GrowthSchedule
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
    count,
    depth_text,
    duration,
    loss_text,
    milliseconds,
    number,
    per_cent,
    signed,
    speed_text,
    steps_text,
    subnet_text,
    trained_text,
)
from autoprog.ui.render_rich import Fitted, view
from autoprog.ui.run_sections import (
    evaluation_text,
    finished_line,
    finished_lines,
    growth_text,
    result_section,
)
from autoprog.ui.search_sections import (
    decision_section,
    decision_summary,
    ranked,
    then_text,
    training_text,
    trial_text,
)
from autoprog.ui.state import RunState, reduce
from autoprog.ui.track import CURRICULUM_NAMES

__all__ = ["Display", "PartsBar", "event_lines", "frame", "make_display", "progress_line"]

LINE_SECONDS = 10.0
LINE_FRACTION = 0.05
REDRAW_SECONDS = 0.1
WIDE = 76

Clock = Callable[[], float]


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


class Display(ABC):
    """Shows a run event by event; a context manager, which leaves the terminal as it was."""

    def __init__(self, console: Console, state: RunState, clock: Clock) -> None:
        self.console = console
        self.state = state
        self._clock = clock

    def show(self, event: Event) -> None:
        """Take in one event and show what is new."""
        self.state = reduce(self.state, event)
        self.draw(event)

    def answer(self, text: str) -> None:
        """Say at once that a signal has come; called from its handler, in the midst of anything."""
        tell_at_once(text)

    def __enter__(self) -> Display:
        """Begin to show."""
        return self

    def __exit__(self, *error: object) -> None:  # noqa: B027 (a display may have nothing to end)
        """End the display; what was shown stays."""

    @abstractmethod
    def draw(self, event: Event) -> None:
        """Show an event that the state has taken in."""


class _LineDisplay(Display):
    """Plain lines, flushed one by one."""

    def __init__(self, console: Console, state: RunState, clock: Clock) -> None:
        super().__init__(console, state, clock)
        self._last_seconds = -math.inf
        self._last_fraction = 0.0
        self._forecast_shown = False

    def draw(self, event: Event) -> None:
        if isinstance(event, CostsMeasured):
            # How far measuring is: its begin, its first forecast, and now and then.
            is_forecast = event.run_seconds is not None and not self._forecast_shown
            self._forecast_shown |= is_forecast
            if event.num_measured and not self._due() and not is_forecast:
                return
        for line in event_lines(event, self.state):
            _print_line(self.console, line)
        # A log of ten thousand lines of progress is read by nobody.
        if isinstance(event, StepLogged) and self._due():
            _print_line(self.console, progress_line(self.state))

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

    def draw(self, event: Event) -> None:
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
        self._live = Live(
            console=console, auto_refresh=False, get_renderable=lambda: frame(self.state)
        )
        self._drawn_seconds = -math.inf
        self._is_drawing = False
        self._answers: list[str] = []

    def answer(self, text: str) -> None:
        """Say at once that a signal has come: above the bar, or as soon as that has been drawn."""
        self._answers.append(text)
        if not self._is_drawing:
            self._show_answers()

    def __enter__(self) -> Display:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._show_answers()
        self._live.refresh()
        self._live.stop()

    def draw(self, event: Event) -> None:
        # A signal may come while rich holds its lock: what it has to say waits until that is free.
        self._is_drawing = True
        note = _note(event, self.state)
        if note is not None:
            self.console.print(note)
        now = self._clock()
        if note is not None or now - self._drawn_seconds >= REDRAW_SECONDS:
            self._drawn_seconds = now
            self._live.refresh()
        self._show_answers()

    def _show_answers(self) -> None:
        self._is_drawing = True
        while self._answers:
            self.console.print(Text(f"■ {self._answers.pop(0)}", WARNING), soft_wrap=True)
            self._live.refresh()
        self._is_drawing = False


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
            return view(decision_section(event.decision))
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
            return view(result_section(event.result))
        case _:
            return None


def _marked(mark: str, style: str, when: str, text: str) -> Text:
    return Text.assemble((f"{mark} ", f"bold {style}"), (f"{when}  ", DIM), text)


def _print_line(console: Console, line: str) -> None:
    console.out(line, highlight=False)
    console.file.flush()


# --------------------------------------------------------------------------------------------------
# Events as lines of ASCII, each understood alone; for pipes, logs and simple terminals.


def event_lines(event: Event, state: RunState) -> list[str]:
    """Return the lines that report an event; none for those that the progress line covers."""
    return [ascii_text(line) for line in _event_lines(event, state)]


def _event_lines(event: Event, state: RunState) -> Iterator[str]:
    match event:
        case RunStarted():
            verb = "goes on" if event.step else "starts"
            budget = event.time_budget_seconds
            length = f"{count(event.total_steps)} steps" if budget is None else duration(budget)
            if event.cost_fraction is not None:
                length = f"the time of {count(event.total_steps)} full steps"
            ranks = f" x {event.world_size}" if event.world_size > 1 else ""
            yield (
                f"{event.run_kind} {event.run_id} {verb} at step {event.step}: {event.model},"
                f" {count(event.num_images)} images, {length},"
                f" {event.device}{ranks} {event.amp}, seed {event.seed}"
            )
        case CostsMeasured():
            forecast = forecast_text(state)
            yield measuring_text(event) + (f"; {forecast}" if forecast else "")
        case CostsKnown() if state.measuring is not None:
            yield f"measured {costs_text(state)}"
        case StageStarted():
            total = "" if state.num_stages is None else f"/{state.num_stages}"
            span = f"step {event.step} to {event.stop_step}"
            if state.is_open_ended:
                span = f"from step {event.step}"
            parts = [f"stage {event.stage + 1}{total}: {span}", subnet_text(event.subnet)]
            if state.unfrozen is not None:
                parts.append(trained_text(state.unfrozen, event.subnet.total_depth))
            parts += [
                f"{CURRICULUM_NAMES[name]} {number(value)}"
                for name, value in event.curriculum
                if isinstance(value, int | float)
            ]
            yield ", ".join(parts)
        case SupernetStarted():
            names = ", ".join(str(subnet) for subnet in event.candidates)
            until = "" if state.is_open_ended else f" until step {event.stop_step}"
            yield f"{supernet_text(event)}{until}; candidates {names}"
        case Evaluated():
            yield f"epoch {number(event.epoch)}, {evaluation_text(event, state.num_classes)}"
        case Grown() if not event.opens_supernet:
            yield f"step {event.step}, {growth_text(event)}"
        case Decided(decision=decision):
            closed = "supernet closed; " if state.phase == "supernet" else ""
            head, then = f"decision {decision.index}", then_text(decision)
            parts = [
                f"{head} at step {decision.step} by {decision.rule}: {decision_summary(decision)}",
                *([f", {then}"] if then else []),
                *([f"; {decision.reason}"] if decision.reason else []),
            ]
            # One line for the decision and one for each candidate, so that grep finds either.
            yield closed + "".join(parts)
            for row in ranked(decision):
                alone = row.label == str(row.subnet)
                name = str(row.subnet) if alone else f"{row.label} ({row.subnet})"
                won = " (winner)" if row is decision.chosen else ""
                yield (
                    f"{head} candidate {name}: loss {row.loss:.4f},"
                    f" vs stay {signed(row.difference)} +-{row.difference_se:.4f},"
                    f" {milliseconds(row.step_seconds)} ms/step,"
                    f" end loss {row.predicted_loss:.4f},"
                    f" left {duration(row.remaining_seconds)}, score {row.score:.4f}{won}"
                )
        case SubnetTrained():
            yield f"decision {event.decision}, {training_text(event)}"
        case TrialFinished():
            yield trial_text(event)
        case WarningRaised():
            yield f"warning: {event.message}"
        case Interrupted():
            yield f"interrupted by {event.signal} at step {event.step}; a checkpoint is saved"
        case RunFinished():
            yield from finished_lines(event.result)


def progress_line(state: RunState) -> str:
    """Return where training stands, by steps or by the time that bounds it."""
    wait, done = state.data_wait_fraction, per_cent(state.fraction_done)
    place = [f"step {state.step}/{state.total_steps} ({done})"]
    if state.is_open_ended:
        total = state.shown_total_steps
        of = "" if total is None else f" of ~{total}"
        place = [f"{done} of the time", f"step {state.step}{of}"]
    parts = [
        *place,
        f"epoch {number(state.epoch)}",
        str(state.subnet),
        f"loss {loss_text(state.loss)}",
        f"lr {number(state.lr, 3)}",
        f"{speed_text(state.images_per_second)} img/s",
        f"data wait {'-' if wait is None else per_cent(wait)}",
        f"trained {duration(state.train_seconds)}",
        f"left {duration(state.eta_seconds)}",
    ]
    return ascii_text(", ".join(parts))


def measuring_text(event: CostsMeasured) -> str:
    """Return how far the measuring of step times is."""
    left = f"at most {duration(event.left_seconds)}"
    if not event.num_measured:
        return f"measuring the step times of {event.num_subnets} subnets: {left}"
    return f"measuring step times: {event.num_measured} of {event.num_subnets} subnets, {left} left"


def forecast_text(state: RunState) -> str:
    """Return what a search will take, judged by its first steps; empty before them."""
    measuring = state.measuring
    if measuring is None or measuring.run_seconds is None:
        return ""
    run = duration(measuring.run_seconds)
    if state.cost_fraction is None:
        return f"the whole search: at most about {run}"
    fraction = number(state.cost_fraction)
    return f"the whole search: about {run} by cost fraction {fraction}"


def costs_text(state: RunState) -> str:
    """Return how many step times were measured, and what the search is now known to take."""
    count_, estimated = len(state.cost_seconds), state.num_estimated_costs
    measured = f"step times of {count_ - estimated} of {count_} subnets"
    if estimated:
        measured += f", the {'other is' if estimated == 1 else 'others are'} interpolated"
    left = state.eta_seconds if state.cost_fraction is not None else None
    return measured if left is None else f"{measured}; about {duration(left)} to go"


def supernet_text(event: SupernetStarted) -> str:
    """Return what a supernet holds."""
    deepest = max((subnet for subnet in event.candidates), key=lambda one: one.total_depth)
    largest_px = max(subnet.img_size for subnet in event.candidates)
    holds = f"depth up to {depth_text(deepest)}, up to {largest_px} px"
    if event.stop_step == event.step:
        return f"supernet opened without training it: {holds}"
    return f"supernet opened: {holds}"


# --------------------------------------------------------------------------------------------------
# The live bar: where a run stands, in three lines.


def frame(state: RunState) -> RenderableType:
    """Return the header, the bar and the measurements of a run as it stands."""
    mark, style = STATUS[state.phase]
    header = Text(no_wrap=True, overflow="ellipsis")
    header.append(f"{mark} {state.phase} ", style).append(state.model, "bold")
    if state.stage is not None:
        total = "" if state.num_stages is None else f"/{state.num_stages}"
        header.append(f"  stage {state.stage + 1}{total}")
    if state.subnet is not None:
        header.append(f"  {subnet_text(state.subnet)}", f"bold {SKY}")
        if state.unfrozen is not None:
            header.append(f"  {trained_text(state.unfrozen, state.subnet.total_depth)}")
    header.append(f"  {state.device} {state.amp}  {state.run_id}", DIM)
    measuring = state.measuring
    if state.phase != "measuring" or measuring is None:
        bar, numbers = partial(_bar, state), partial(_measurements, state)
        return Group(header, Fitted(bar), Fitted(numbers))
    grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
    timed = ProgressBar(
        total=measuring.num_subnets, completed=measuring.num_measured, complete_style=ORANGE
    )
    grid.add_column(ratio=1)
    grid.add_column(no_wrap=True)
    grid.add_row(timed, Text(measuring_text(measuring)))
    forecast = Text(forecast_text(state), no_wrap=True, overflow="ellipsis")
    return Group(header, grid, forecast)


def _bar(state: RunState, width: int) -> RenderableType:
    bar = ProgressBar(
        total=1.0,
        completed=state.fraction_done,
        complete_style=SKY,
        finished_style=GREEN,
    )
    grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
    grid.add_column(ratio=1)
    # Per cent alone would be taken for steps.
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
        # A number that would be cut is left out with its name.
        if line.cell_len + len(name) + 1 + len(text) <= width:
            line.append(f"{name} ", DIM).append(f"{text}   ")
    line.rstrip()
    return line


class PartsBar:
    """A bar for work in parts, with the time that is left; a context manager, on a terminal only.

    :meth:`update` draws in the caller's thread, and the bar is gone at the end.

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

    def __exit__(self, *error: object) -> None:
        """Take the bar away."""
        if self._draws:
            self._progress.stop()

    def update(self, part: str, done: int, total: int) -> None:
        """Show how much of a part is done; parts appear one below the other."""
        if not self._draws:
            return
        if part not in self._tasks:
            self._tasks[part] = self._progress.add_task(part, total=total)
        self._progress.update(self._tasks[part], completed=done)
        now = self._clock()
        # The last step is always drawn, or a bar would stop short of its end.
        if done == total or now - self._drawn_seconds >= REDRAW_SECONDS:
            self._drawn_seconds = now
            self._progress.refresh()
