"""The live bar: where a run stands, in three lines."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autoprog.events import CostsMeasured
from autoprog.ui.fitted import Fitted
from autoprog.ui.lines import forecast_text, measuring_text
from autoprog.ui.palette import DIM, GREEN, ORANGE, SKY, STATUS
from autoprog.ui.state import RunState
from autoprog.ui.units import (
    duration,
    loss_text,
    number,
    per_cent,
    speed_text,
    steps_text,
    subnet_text,
    trained_text,
)

__all__ = ["frame"]

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
        completed=state.share_done,
        complete_style=SKY,
        finished_style=GREEN,
    )
    grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
    grid.add_column(ratio=1)
    of_time = " of the time" if state.is_open_ended and width >= WIDE else ""
    cells: list[RenderableType] = [bar, Text(f"{per_cent(state.share_done)}{of_time}", "bold")]
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
    wait = "–" if state.data_wait_share is None else per_cent(state.data_wait_share)
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
