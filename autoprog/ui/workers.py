"""The workers of a search by trials: what each is at, and when it last gave a sign of life."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType

from autoprog.ui.fitted import Fitted, panel
from autoprog.ui.tables import Column, rich_table
from autoprog.ui.units import duration
from autoprog.workers import WorkerSeen

__all__ = ["worker_columns", "workers_view"]


def worker_columns(workers: Sequence[WorkerSeen], now: float | None = None) -> list[Column]:
    """Return the table of workers.

    Args:
        workers: As one who looks on sees them.
        now: Seconds since 1970, to count the ages of the signs of life from; None leaves those out.
    """
    status = [worker.status for worker in workers]
    columns = [
        Column("worker", tuple(str(one.worker) for one in status)),
        Column("state", tuple(map(_state_text, workers)), "left"),
        Column("trial", tuple("–" if one.trial is None else str(one.trial) for one in status)),
        Column("begun", tuple(str(one.num_trials) for one in status), rank=2),
        Column(
            "process",
            tuple(f"{one.process.host} {one.process.pid}" for one in status),
            "left",
            rank=3,
        ),
    ]
    if now is not None:
        ages = tuple(duration(max(0.0, now - one.updated)) for one in status)
        columns.insert(3, Column("last sign", ages))
    if any(one.message for one in status):
        columns.append(Column("says", tuple(one.message for one in status), "left", rank=1))
    return columns


def workers_view(workers: Sequence[WorkerSeen], now: float) -> RenderableType:
    """Return the table of workers in its frame."""
    alive = sum(worker.is_alive for worker in workers)
    title = f"Workers: {len(workers)}, {alive} alive"
    return panel(Fitted(lambda width: rich_table(worker_columns(workers, now), width)), title)


def _state_text(worker: WorkerSeen) -> str:
    ended = worker.status.state in ("done", "failed")
    return worker.status.state if worker.is_alive or ended else f"{worker.status.state}, gone"
