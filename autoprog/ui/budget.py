"""What a run under a time budget ran on, and how fast each of its networks was."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from autoprog.record import BudgetRecord, budget_record
from autoprog.ui.fitted import Fitted, panel
from autoprog.ui.subject import Subject
from autoprog.ui.tables import Column, rich_table
from autoprog.ui.units import count, duration, per_cent, speed_text

__all__ = ["budget_columns", "budget_of", "budget_text", "budget_view"]


def budget_of(subject: Subject) -> BudgetRecord | None:
    """Return the record of a run under a time budget, as far as it has come."""
    run = subject.run
    if run is None or run.manifest.settings.time_budget_seconds is None:
        return None
    return budget_record(run.events())


def budget_text(record: BudgetRecord) -> str:
    """Return the budget and the hardware in one line."""
    hardware = " then ".join(record.hardware) or "unknown hardware"
    processes = f"{record.processes} x " if record.processes > 1 else ""
    return f"{duration(record.time_budget_seconds)} on {processes}{hardware}"


def budget_columns(record: BudgetRecord) -> list[Column]:
    """Return the table of speeds by depth and image size."""
    speeds = record.speeds
    return [
        Column("depth", tuple("+".join(map(str, one.depth)) for one in speeds)),
        Column("image px", tuple(str(one.img_size) for one in speeds)),
        Column("steps", tuple(count(one.steps) for one in speeds), rank=2),
        Column("training", tuple(duration(one.train_seconds) for one in speeds), rank=1),
        Column("images/s", tuple(speed_text(one.images_per_second) for one in speeds)),
        Column("data wait", tuple(per_cent(one.data_wait_share) for one in speeds)),
        Column(
            "set by", tuple("loader" if one.loader_bound else "device" for one in speeds), "left"
        ),
    ]


def budget_view(record: BudgetRecord) -> RenderableType:
    """Return the budget and the table of speeds in their frame."""
    table = Fitted(lambda width: rich_table(budget_columns(record), width))
    return panel(Group(Text(budget_text(record)), table), "Time budget")
