"""The record of a run under a time budget is made of its events alone."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from autoprog.budget_record import BudgetRecord, budget_record, write_record
from autoprog.events import Evaluated, Event, RunStarted, StepLogged
from supernet.config import SubnetConfig, TokenRule

SMALL, LARGE = SubnetConfig(2, 8), SubnetConfig((4, 14), 16)
BATCH = 16


def started(step: int = 0, hardware: str = "a GPU", **changes: Any) -> RunStarted:
    values: dict[str, Any] = {
        "step": step,
        "run_id": "r",
        "run_kind": "train",
        "model": "vit-mu",
        "total_steps": 100,
        "steps_per_epoch": 10,
        "epochs": 10.0,
        "num_images": 160,
        "device": "cuda",
        "amp": "none",
        "seed": 0,
        "time_budget_seconds": 7200.0,
        "world_size": 4,
        "hardware": hardware,
    }
    return RunStarted(**{**values, **changes})


def progressed(step: int, subnet: SubnetConfig, seconds: float, wait_fraction: float) -> StepLogged:
    return StepLogged(
        step=step,
        epoch=step / 10,
        loss=1.0,
        lr=1e-3,
        subnet=subnet,
        step_seconds=seconds,
        images_per_second=BATCH / seconds,
        data_wait_fraction=wait_fraction,
        train_seconds=0.0,
    )


def evaluated(step: int, wall_seconds: float, top1: float) -> Evaluated:
    return Evaluated(
        step=step,
        epoch=step / 10,
        subnet=LARGE,
        loss=2.0,
        top1=top1,
        loss_ema=1.5,
        top1_ema=top1 + 1,
        seconds=10.0,
        train_seconds=0.0,
        wall_seconds=wall_seconds,
    )


EVENTS: list[Event] = [
    started(),
    evaluated(0, 36.0, 10.0),
    progressed(20, SMALL, seconds=0.1, wait_fraction=0.5),
    progressed(40, SMALL, seconds=0.2, wait_fraction=0.0),
    started(40, hardware="another GPU", world_size=2),
    progressed(50, LARGE, seconds=0.4, wait_fraction=0.0),
    progressed(60, SubnetConfig((4, 14), 16, TokenRule(0.5)), seconds=0.2, wait_fraction=0.2),
    evaluated(60, 5400.0, 50.0),
]


@pytest.fixture
def record() -> BudgetRecord:
    found = budget_record(EVENTS)
    assert found is not None
    return found


def test_a_run_without_a_budget_has_no_record() -> None:
    assert budget_record([]) is None
    assert budget_record([started(time_budget_seconds=None), *EVENTS[1:4]]) is None


def test_hardware_is_that_of_all_attempts(record: BudgetRecord) -> None:
    assert record.hardware == ("a GPU", "another GPU")
    assert (record.processes, record.time_budget_seconds, record.run_id) == (2, 7200.0, "r")
    again = budget_record([started(), *EVENTS[1:4], started(40)])
    assert again is not None
    assert again.hardware == ("a GPU",)


def test_speeds_weigh_reports_by_their_steps_and_leave_out_waiting(record: BudgetRecord) -> None:
    small, large = record.speeds
    assert (small.depth, small.img_size, small.steps) == ((2,), 8, 40)
    assert small.train_seconds == pytest.approx(20 * 0.1 + 20 * 0.2)
    assert small.images_per_second == pytest.approx(40 * BATCH / 6)
    # Half of the first 20 steps' time was waiting, so 2 s beside their 2 s, and 4 s without.
    assert small.data_wait_fraction == pytest.approx(2 / 8)
    assert small.loader_bound
    # Keep-rates are taken together.
    assert (large.depth, large.img_size, large.steps) == ((4, 14), 16, 20)
    assert large.data_wait_fraction == pytest.approx(0.5 / 6.5)
    assert not large.loader_bound


def test_scores_are_over_hours_of_everything(record: BudgetRecord) -> None:
    assert [(one.hours, one.top1, one.top1_ema) for one in record.scores] == [
        (0.01, 10.0, 11.0),
        (1.5, 50.0, 51.0),
    ]
    assert record.scores[1].epoch == 6.0


def test_the_files_hold_the_record_and_repeat_no_result(
    record: BudgetRecord, tmp_path: Path
) -> None:
    write_record(tmp_path, record)
    body = json.loads((tmp_path / "budget.json").read_text())
    assert BudgetRecord.model_validate(body) == record
    of_result = {"top1", "wall_seconds", "epochs", "versions", "device", "amp", "macs", "seed"}
    assert not of_result & set(body)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "budget.csv").read_text())))
    assert [float(row["hours"]) for row in rows] == [0.01, 1.5]
    assert [row["depth"] for row in rows] == ["4+14", "4+14"]
    assert [float(row["top1_ema"]) for row in rows] == [11.0, 51.0]
