"""Events as what a logger takes: numbers and texts under tags, at a step. Live and replay are the same.

Tags: ``train/`` and ``val/`` (loss, top-1 in per cent), ``speed/``, ``schedule/`` (the axes as trained:
``depth`` counts the blocks of all stages, ``img_size`` is in px), ``curriculum/``, ``growth/``, ``search/``
and ``result/``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from autoprog import migration
from autoprog.curves import curve_value
from autoprog.decisions import Decision
from autoprog.errors import ConfigError
from autoprog.eventlog import effective_rows, event_of
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
from autoprog.files import json_object
from autoprog.openfiles import open_regular
from supernet.config import SubnetConfig

__all__ = ["EventTail", "Point", "point_of"]


_LONGEST_ROW_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Point:
    """What one event gives: numbers and Markdown texts by tag. ``time`` is in seconds since 1970."""

    step: int
    time: float
    numbers: Mapping[str, float] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)


class EventTail:
    """The points of a run folder's log, as far as it is written, each of them once.

    The first read leaves out what a later attempt replayed; so it must come after an attempt that is to be
    followed has told its start.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "events.jsonl"
        self._offset: int | None = None

    def read(self) -> list[Point]:
        """Return the points that are new since the last read; a half-written line waits."""
        rows = self._new_rows() if self._offset else effective_rows(iter(self._new_rows()))
        found = (point_of(event_of(row), self._seconds(row)) for row in rows)
        return [point for point in found if point is not None]

    def _seconds(self, row: Mapping[str, Any]) -> float:
        """Return when an event was written, in seconds since 1970."""
        try:
            return datetime.fromisoformat(row["time"]).timestamp()
        except (KeyError, TypeError, ValueError, OverflowError, OSError):
            problem, hint = "must be a time such as 2026-01-02T03:04:05+00:00", "repair that row"
            raise ConfigError(str(self._path), "time", problem, row.get("time"), hint) from None

    def _new_rows(self) -> list[dict[str, Any]]:
        rows, self._offset = [], self._offset or 0
        with open_regular(self._path) as file:
            file.seek(self._offset)
            while (line := file.readline(_LONGEST_ROW_BYTES)).endswith(b"\n"):
                rows.append(migration.event(json_object(line, str(self._path))))
                self._offset += len(line)
        if len(line) == _LONGEST_ROW_BYTES:
            problem = f"must have rows of at most {_LONGEST_ROW_BYTES / 2**20:g} MiB"
            raise ConfigError(str(self._path), "", problem)
        return rows


def point_of(event: Event, time: float) -> Point | None:
    """Return what an event gives to a logger, None if nothing."""
    make = _MAKERS.get(type(event))
    if make is None:
        return None
    numbers, texts = make(event)
    return Point(event.step, time, numbers, texts)


Parts = tuple[dict[str, float], dict[str, str]]


def _of_progressed(event: StepLogged) -> Parts:
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
    if event.budget_fraction is not None:
        numbers["train/budget_fraction"] = event.budget_fraction
    return numbers, {}


def _of_evaluated(event: Evaluated) -> Parts:
    numbers = {
        "val/loss": event.loss,
        "val/loss_ema": event.loss_ema,
        "val/top1": event.top1,
        "val/top1_ema": event.top1_ema,
        "val/wall_seconds": event.wall_seconds,
    }
    return numbers, {}


def _of_stage(event: StageStarted) -> Parts:
    strengths = {
        name: getattr(event.curriculum, name) for name in type(event.curriculum).model_fields
    }
    curriculum = {
        f"curriculum/{name}": curve_value(value, 0.0)
        for name, value in strengths.items()
        if value is not None
    }
    numbers = {"schedule/stage": float(event.stage + 1), **_axes(event.subnet), **curriculum}
    return numbers, {}


def _of_supernet(event: SupernetStarted) -> Parts:
    return {"schedule/candidates": float(len(event.candidates))}, {}


def _of_decided(event: Decided) -> Parts:
    chosen = event.decision.subnet
    numbers = {
        "search/decision": float(event.decision.index + 1),
        "search/depth": float(chosen.total_depth),
        "search/img_size": float(chosen.img_size),
        "search/keep_rate": chosen.tokens.keep_rate,
    }
    return numbers, {"search/decisions": _decision_text(event.decision)}


def _decision_text(decision: Decision) -> str:
    lines = [
        f"Epoch {decision.epoch:.4g}: **{decision.subnet}** by {decision.rule}. {decision.reason}"
    ]
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


def _of_grown(event: Grown) -> Parts:
    numbers = {
        "growth/delta_loss": event.delta_loss,
        "growth/delta_logits": event.delta_logits,
        "growth/lost_seconds": event.lost_seconds,
    }
    how = f"{event.init}, {event.placement}, old blocks {event.old_blocks}"
    how += f", optimizer state {event.optimizer_state}"
    return numbers, {"growth/events": f"**{event.before}** to **{event.after}** ({how})"}


def _of_result(event: RunFinished) -> Parts:
    values = event.result.items()
    kinds = (int, float)
    numbers = {f"result/{k}": float(v) for k, v in values if k in _RESULTS and isinstance(v, kinds)}
    return numbers, {}


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

_MAKERS: dict[type, Callable[[Any], Parts]] = {
    StepLogged: _of_progressed,
    Evaluated: _of_evaluated,
    StageStarted: _of_stage,
    SupernetStarted: _of_supernet,
    Decided: _of_decided,
    Grown: _of_grown,
    RunFinished: _of_result,
}


def _axes(subnet: SubnetConfig) -> dict[str, float]:
    return {
        "schedule/depth": float(subnet.total_depth),
        "schedule/img_size": float(subnet.img_size),
        "schedule/keep_rate": subnet.tokens.keep_rate,
    }
