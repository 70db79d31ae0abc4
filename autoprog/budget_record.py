"""The record of a run under a time budget: what it ran on, how fast, and how accurate it was when.

The benchmark of "ViT from scratch in less than 24 hours with 1 GPU" (arXiv 2211.05187) compares accuracy over
hours. What ``result.json`` says, such as the seconds used, the epochs done and the versions, is not repeated.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from autoprog.bounds import (
    Amount,
    Blocks,
    Measured,
    PassedEpochs,
    Percent,
    Px,
    Seconds,
    Steps,
    WorldSize,
)
from autoprog.events import Evaluated, Event, RunStarted, StepLogged
from autoprog.files import FileModel, json_text
from autoprog.safe_files import write_atomically
from supernet.config import SubnetConfig

__all__ = ["LOADER_BOUND_FRACTION", "BudgetRecord", "budget_record", "write_record"]

LOADER_BOUND_FRACTION = 0.1
"""Where steps wait for images for a larger fraction of the time, the loader sets the pace."""


class Speed(FileModel):
    """The steps at one depth and image size; throughput leaves out waiting for images.

    Where they waited for more than :data:`LOADER_BOUND_FRACTION` of the time, they are ``loader_bound``.
    """

    depth: tuple[Blocks, ...]
    img_size: Px
    steps: Steps
    train_seconds: Seconds
    images_per_second: Amount
    data_wait_fraction: Amount
    loader_bound: bool


class Score(FileModel):
    """Accuracy at full image size, in per cent, after so many hours of everything from the first step on."""

    hours: Amount
    epoch: PassedEpochs
    step: Steps
    depth: tuple[Blocks, ...]
    top1: Percent
    top1_ema: Percent
    loss: Measured
    loss_ema: Measured


class BudgetRecord(FileModel):
    """``budget.json``; its scores are the rows of ``budget.csv`` too.

    ``hardware`` names what each attempt ran on, without repeats; ``processes`` count those of the last.
    """

    schema_version: Literal[2] = Field(default=2, alias="schema")
    run_id: str
    hardware: tuple[str, ...]
    processes: WorldSize
    time_budget_seconds: Seconds
    speeds: tuple[Speed, ...]
    scores: tuple[Score, ...]

    def to_json(self) -> str:
        """Return the text of ``budget.json``."""
        return json_text(self.model_dump(mode="json", by_alias=True))

    def to_csv(self) -> str:
        """Return the text of ``budget.csv``: a line for each score, blocks per stage as ``4+14``."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(Score.model_fields), lineterminator="\n")
        writer.writeheader()
        for score in self.scores:
            writer.writerow({**score.model_dump(), "depth": "+".join(map(str, score.depth))})
        return text.getvalue()


def budget_record(events: Iterable[Event]) -> BudgetRecord | None:
    """Return the record of a run, finished or not; None where it has no time budget."""
    start: RunStarted | None = None
    hardware: list[str] = []
    scores = []
    reports: dict[SubnetConfig, list[tuple[int, StepLogged]]] = defaultdict(list)
    before = 0
    for event in events:
        if isinstance(event, RunStarted):
            start, before = event, event.step
            hardware.append(event.hardware)
        elif isinstance(event, StepLogged):
            # Keep-rates are taken together: they change within a phase, and so within a report.
            subnet = SubnetConfig(event.subnet.depth, event.subnet.img_size)
            reports[subnet].append((event.step - before, event))
            before = event.step
        elif isinstance(event, Evaluated):
            values = {
                key: getattr(event, key) for key in Score.model_fields.keys() - {"hours", "depth"}
            }
            # Evaluations and waiting included, as the budget counts.
            hours = event.wall_seconds / 3600
            scores.append(Score(hours=hours, depth=event.subnet.depth, **values))
    if start is None or start.time_budget_seconds is None:
        return None
    return BudgetRecord(
        run_id=start.run_id,
        hardware=tuple(dict.fromkeys(hardware)),
        processes=start.world_size,
        time_budget_seconds=start.time_budget_seconds,
        # In the order in which subnets were trained first.
        speeds=tuple(_speed(subnet, own) for subnet, own in reports.items()),
        scores=tuple(scores),
    )


def _speed(subnet: SubnetConfig, reports: Sequence[tuple[int, StepLogged]]) -> Speed:
    """Return the speed of one subnet from its reports, each with the number of its steps."""
    trained, images, waited = [], [], []
    for steps, report in reports:
        seconds = steps * report.step_seconds
        # What a step took is without its waiting; a report of nothing but waiting divides by zero.
        fraction = min(report.data_wait_fraction, 1 - 1e-9)
        trained.append(seconds)
        images.append(seconds * report.images_per_second)
        waited.append(seconds * fraction / (1 - fraction))
    train_seconds = sum(trained)
    wait_fraction = sum(waited) / (sum(waited) + train_seconds)
    return Speed(
        depth=subnet.depth,
        img_size=subnet.img_size,
        steps=sum(steps for steps, _ in reports),
        train_seconds=train_seconds,
        images_per_second=sum(images) / train_seconds,
        data_wait_fraction=wait_fraction,
        loader_bound=wait_fraction > LOADER_BOUND_FRACTION,
    )


def write_record(folder: Path, record: BudgetRecord) -> None:
    """Write ``budget.json`` and ``budget.csv``."""
    write_atomically(folder / "budget.json", record.to_json())
    write_atomically(folder / "budget.csv", record.to_csv())
