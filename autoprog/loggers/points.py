"""Events as what a logger takes: numbers and texts under tags, at a step. Live and replay are the same.

Tags: ``train/`` and ``val/`` (loss, top-1 in per cent), ``speed/``, ``schedule/`` (the axes as trained:
``depth`` counts the blocks of all stages, ``img_size`` is in px), ``curriculum/``, ``growth/``, ``search/``
and ``result/``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from autoprog.decisions import Decision
from autoprog.errors import ConfigError
from autoprog.eventlog import Row, effective_rows, event_of, event_row, read_chunk
from autoprog.events import (
    Decided,
    Evaluated,
    Event,
    Grown,
    RunFinished,
    StageStarted,
    StepLogged,
    SupernetStarted,
)
from autoprog.openfiles import open_regular
from autoprog.stage import curve_value
from supernet.config import SubnetConfig

__all__ = ["EventTail", "Point", "point_of"]

_RESULTS = {
    "top1",
    "top1_ema",
    "loss",
    "loss_ema",
    "wall_seconds",
    "train_seconds",
    "search_seconds",
    "image_epochs",
    "macs",
    "peak_memory_bytes",
}


@dataclass(frozen=True)
class Point:
    """What one event gives: numbers and Markdown texts by tag. ``time`` is in seconds since 1970."""

    step: int
    time: float
    numbers: Mapping[str, float] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)


class EventTail:
    """The points of a run folder's log, as far as it is written, each of them once.

    The first read leaves out what a later attempt replayed; so it must come after the start of an attempt
    that is to be followed is in the log.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "events.jsonl"
        self._offset: int | None = None

    def read(self) -> list[Point]:
        """Return the points that are new since the last read; a half-written line waits."""
        # Later reads see rows of this attempt alone, which replay nothing.
        is_first = not self._offset
        rows: list[Row] = []
        with open_regular(self._path) as file:
            offset, length = self._offset or 0, -1
            while length:
                lines, length = read_chunk(file, str(self._path), offset)
                rows += (event_row(line, str(self._path)) for line in lines)
                offset += length
        self._offset = offset
        if is_first:
            rows = effective_rows(iter(rows))
        points = []
        for row in rows:
            try:
                seconds = datetime.fromisoformat(row["time"]).timestamp()
            except (KeyError, TypeError, ValueError, OverflowError, OSError):
                problem = "must be a time such as 2026-01-02T03:04:05+00:00"
                hint, value = "repair that row", row.get("time")
                raise ConfigError(str(self._path), "time", problem, value, hint) from None
            points.append(point_of(event_of(row), seconds))
        return [point for point in points if point is not None]


def point_of(event: Event, time: float) -> Point | None:
    """Return what an event gives to a logger, None if nothing."""
    numbers: dict[str, float]
    texts: dict[str, str] = {}
    match event:
        case StepLogged():
            numbers = {
                "train/loss": event.loss,
                "train/lr": event.lr,
                "train/epoch": event.epoch,
                "train/seconds": event.train_seconds,
                "speed/images_per_second": event.images_per_second,
                "speed/step_seconds": event.step_seconds,
                "speed/data_wait_fraction": event.data_wait_fraction,
                **_axes(event.subnet),
            }
            # Only a run bounded by time has one.
            if event.budget_fraction is not None:
                numbers["train/budget_fraction"] = event.budget_fraction
        case Evaluated():
            numbers = {
                "val/loss": event.loss,
                "val/loss_ema": event.loss_ema,
                "val/top1": event.top1,
                "val/top1_ema": event.top1_ema,
                "val/wall_seconds": event.wall_seconds,
            }
        case StageStarted():
            # Stages are counted from 1 on screens and in loggers, from 0 in files.
            numbers = {"schedule/stage": float(event.stage + 1), **_axes(event.subnet)}
            for name, curve in event.curriculum:
                if curve is not None:  # that of the recipe holds, which the settings have
                    numbers[f"curriculum/{name}"] = curve_value(curve, 0.0)
        case SupernetStarted():
            numbers = {"schedule/candidates": float(len(event.candidates))}
        case Decided(decision=decision):
            chosen = decision.subnet
            numbers = {
                "search/decision": float(decision.index + 1),
                "search/depth": float(chosen.total_depth),
                "search/img_size": float(chosen.img_size),
                "search/keep_rate": chosen.tokens.keep_rate,
            }
            texts = {"search/decisions": _decision_text(decision)}
        case Grown():
            numbers = {
                "growth/delta_loss": event.delta_loss,
                "growth/delta_logits": event.delta_logits,
                "growth/lost_seconds": event.lost_seconds,
            }
            how = f"{event.init}, {event.placement}, old blocks {event.old_blocks}"
            how += f", optimizer state {event.optimizer_state}"
            texts = {"growth/events": f"**{event.before}** to **{event.after}** ({how})"}
        case RunFinished():
            numbers = {
                f"result/{name}": float(value)
                for name, value in event.result.items()
                if name in _RESULTS and isinstance(value, int | float)
            }
        case _:
            return None
    return Point(event.step, time, numbers, texts)


def _decision_text(decision: Decision) -> str:
    """Return a decision in Markdown."""
    lines = [
        f"Epoch {decision.epoch:.4g}: **{decision.subnet}** by {decision.rule}. {decision.reason}"
    ]
    # A forced decision has none.
    if decision.candidates:
        lines += [
            "",
            "| candidate | loss | predicted loss | remaining seconds | score |",
            "|---|---|---|---|---|",
        ]
    for one in decision.candidates:
        values = (one.loss, one.predicted_loss, one.remaining_seconds, one.score)
        lines.append(f"| {one.subnet} | " + " | ".join(f"{value:.5g}" for value in values) + " |")
    return "\n".join(lines)


def _axes(subnet: SubnetConfig) -> dict[str, float]:
    """Return the axes of a subnet as numbers."""
    return {
        "schedule/depth": float(subnet.total_depth),
        "schedule/img_size": float(subnet.img_size),
        "schedule/keep_rate": subnet.tokens.keep_rate,
    }
