"""What a logger gets of each event, and each of them once."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprog.decisions import Candidate, Decision
from autoprog.events import (
    CheckpointSaved,
    Decided,
    Grown,
    RunFinished,
    StageStarted,
    SupernetStarted,
)
from autoprog.loggers.points import EventTail, point_of
from autoprog.stage import Curriculum
from supernet.config import SubnetConfig, TokenRule
from tests.logger_tests.conftest import FIRST, LOSSES, SECOND, Write, evaluated, progressed

LARGE = SubnetConfig((4, 14), 16, TokenRule(0.6))


def losses(continuation: EventTail) -> list[tuple[int, float]]:
    return [
        (p.step, p.numbers["train/loss"]) for p in continuation.read() if "train/loss" in p.numbers
    ]


def test_what_a_later_attempt_replays_does_not_count(folder: Path, write: Write) -> None:
    for attempt, events in enumerate((FIRST, SECOND)):
        for event in events:
            write(attempt, event)
    assert losses(EventTail(folder)) == LOSSES


def test_a_log_gives_each_point_once_while_the_log_grows(folder: Path, write: Write) -> None:
    continuation, found = EventTail(folder), []
    for event in FIRST[:3]:
        write(0, event)
        found += losses(continuation)
    assert found == LOSSES[:2]
    assert continuation.read() == []


def test_a_half_written_line_waits_for_its_end(folder: Path, write: Write) -> None:
    write(0, FIRST[0])
    write(0, progressed(10, 2.0))
    log = folder / "events.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole[:-20])
    continuation = EventTail(folder)
    assert losses(continuation) == []
    log.write_bytes(whole)
    assert losses(continuation) == [(10, 2.0)]


def test_progress_gives_loss_rate_speed_and_axes() -> None:
    point = point_of(progressed(10, 2.0).model_copy(update={"subnet": LARGE}), 7.0)
    assert point is not None
    assert (point.step, point.time, point.texts) == (10, 7.0, {})
    assert point.numbers["train/lr"] == 1e-3
    assert point.numbers["speed/images_per_second"] == 640
    axes = {key: value for key, value in point.numbers.items() if key.startswith("schedule/")}
    assert axes == {"schedule/depth": 18, "schedule/img_size": 16, "schedule/keep_rate": 0.6}
    assert "train/budget_fraction" not in point.numbers
    budget = point_of(progressed(10, 2.0).model_copy(update={"budget_fraction": 0.5}), 0.0)
    assert budget is not None
    assert budget.numbers["train/budget_fraction"] == 0.5


def test_an_evaluation_gives_top1_of_both_networks() -> None:
    point = point_of(evaluated(20, 50.0), 0.0)
    assert point is not None
    assert (point.numbers["val/top1"], point.numbers["val/top1_ema"]) == (50, 51)


def test_stages_supernets_and_growth_leave_marks() -> None:
    stage = StageStarted(
        step=0,
        stage=1,
        subnet=LARGE,
        stop_step=20,
        curriculum=Curriculum(randaug=4.0, drop_path=0.1),
    )
    point = point_of(stage, 0.0)
    assert point is not None
    assert point.numbers["schedule/stage"] == 2
    assert point.numbers["curriculum/randaug"] == 4
    assert "curriculum/mixup" not in point.numbers
    phase = SupernetStarted(
        step=0, decision=0, current=LARGE, candidates=(LARGE, LARGE), stop_step=9
    )
    point = point_of(phase, 0.0)
    assert point is not None
    assert point.numbers == {"schedule/candidates": 2}
    grown = Grown(
        step=9,
        before=SubnetConfig(2, 8),
        after=SubnetConfig(3, 12),
        init="ema",
        placement="interpolate",
        old_blocks="keep",
        optimizer_state="copy",
        origins=(),
        delta_loss=0.25,
        delta_logits=0.5,
        lost_seconds=0.125,
    )
    point = point_of(grown, 0.0)
    assert point is not None
    assert point.numbers["growth/delta_loss"] == 0.25
    assert point.texts["growth/events"].startswith("**d2 r8** to **d3 r12** (ema, interpolate")


@pytest.mark.parametrize("forced", [True, False])
def test_a_decision_is_told_with_its_candidates_and_its_reason(forced: bool) -> None:
    values = ("loss", "difference", "difference_se", "step_seconds", "predicted_loss")
    one = Candidate(
        subnet=LARGE,
        label="depth",
        remaining_seconds=9.0,
        score=0.75,
        **dict.fromkeys(values, 0.5),
    )
    chosen = {"forced": LARGE} if forced else {"candidates": (one,)}
    decision = Decision(
        index=0, step=9, epoch=1.5, rule="rollout", current=LARGE, reason="Cheapest.", **chosen
    )
    point = point_of(Decided(step=9, decision=decision), 0.0)
    assert point is not None
    assert point.numbers["search/depth"] == 18
    text = point.texts["search/decisions"]
    assert text.startswith("Epoch 1.5: **d4+14 r16 k0.6** by rollout. Cheapest.")
    assert ("| d4+14 r16 k0.6 | 0.5 | 0.5 | 9 | 0.75 |" in text) is not forced


def test_the_result_gives_its_numbers_alone() -> None:
    point = point_of(RunFinished(step=40, result={"top1": 60.0, "device": "cpu", "seed": 0}), 0.0)
    assert point is not None
    assert point.numbers == {"result/top1": 60}


def test_other_events_give_nothing() -> None:
    assert point_of(CheckpointSaved(step=20, path="x"), 0.0) is None
