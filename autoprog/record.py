"""The record of a run under a time budget: what it ran on, how fast, and how accurate it was when.

The benchmark of "ViT from scratch in less than 24 hours with 1 GPU" (arXiv 2211.05187) compares accuracy over
hours. What ``result.json`` says, such as the seconds used, the epochs done and the versions, is not repeated.
"""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
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
from autoprog.events import Evaluated, Event, Progressed, RunStarted
from autoprog.files import FileModel
from autoprog.openfiles import write_atomically
from supernet.config import SubnetConfig

__all__ = ["LOADER_BOUND_SHARE", "BudgetRecord", "Score", "Speed", "budget_record", "write_record"]

LOADER_BOUND_SHARE = 0.1
"""Where steps wait for images for a larger share of the time, the loader sets the pace."""


class Speed(FileModel):
    """The steps at one depth and image size; throughput leaves out waiting for images.

    Where they waited for more than :data:`LOADER_BOUND_SHARE` of the time, they are ``loader_bound``.
    """

    depth: tuple[Blocks, ...]
    img_size: Px
    steps: Steps
    train_seconds: Seconds
    images_per_second: Amount
    data_wait_share: Amount
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

    schema_version: Literal[1] = Field(default=1, alias="schema")
    run_id: str
    hardware: tuple[str, ...]
    processes: WorldSize
    time_budget_seconds: Seconds
    speeds: tuple[Speed, ...]
    scores: tuple[Score, ...]

    def to_json(self) -> str:
        """Return the text of ``budget.json``."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), indent=1) + "\n"

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
    told = list(events)
    starts = [event for event in told if isinstance(event, RunStarted)]
    if not starts or starts[-1].time_budget_seconds is None:
        return None
    return BudgetRecord(
        run_id=starts[-1].run_id,
        hardware=tuple(dict.fromkeys(start.hardware for start in starts)),
        processes=starts[-1].world_size,
        time_budget_seconds=starts[-1].time_budget_seconds,
        speeds=tuple(_speeds(told)),
        scores=tuple(_score(event) for event in told if isinstance(event, Evaluated)),
    )


def write_record(folder: Path, record: BudgetRecord) -> None:
    """Write ``budget.json`` and ``budget.csv``."""
    write_atomically(folder / "budget.json", record.to_json())
    write_atomically(folder / "budget.csv", record.to_csv())


def _speeds(events: Sequence[Event]) -> Iterator[Speed]:
    """Yield speeds in the order in which subnets were trained first; keep-rates are taken together."""
    spans: dict[SubnetConfig, list[tuple[int, Progressed]]] = defaultdict(list)
    before = 0
    for event in events:
        if isinstance(event, RunStarted):
            before = event.step
        elif isinstance(event, Progressed):
            subnet = SubnetConfig(event.subnet.depth, event.subnet.img_size)
            spans[subnet].append((event.step - before, event))
            before = event.step
    for subnet, reports in spans.items():
        yield _speed(subnet, reports)


def _speed(subnet: SubnetConfig, reports: Sequence[tuple[int, Progressed]]) -> Speed:
    seconds = [steps * report.step_seconds for steps, report in reports]
    shares = [min(report.data_wait_share, 1 - 1e-9) for _, report in reports]
    images = sum(
        s * report.images_per_second for s, (_, report) in zip(seconds, reports, strict=True)
    )
    waited = sum(s * share / (1 - share) for s, share in zip(seconds, shares, strict=True))
    trained = sum(seconds)
    wait_share = waited / (waited + trained)
    return Speed(
        depth=subnet.depth,
        img_size=subnet.img_size,
        steps=sum(steps for steps, _ in reports),
        train_seconds=trained,
        images_per_second=images / trained,
        data_wait_share=wait_share,
        loader_bound=wait_share > LOADER_BOUND_SHARE,
    )


def _score(event: Evaluated) -> Score:
    return Score(
        hours=event.wall_seconds / 3600,
        epoch=event.epoch,
        step=event.step,
        depth=event.subnet.depth,
        top1=event.top1,
        top1_ema=event.top1_ema,
        loss=event.loss,
        loss_ema=event.loss_ema,
    )
