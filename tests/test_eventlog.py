from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from autoprog import eventlog
from autoprog.errors import ConfigError
from autoprog.eventlog import Row, effective_rows, event_of, event_row, read_log

WHOLE = {"attempt": 0, "step": 3, "kind": "warning_raised", "message": "x"}


SUBNET = {"depth": [4], "img_size": 16}
FIELDS: dict[str, dict[str, Any]] = {
    "run_started": {
        **{"run_id": "a", "run_kind": "train", "model": "vit-mu", "total_steps": 300, "epochs": 1},
        **{"steps_per_epoch": 300, "num_images": 9, "device": "cpu", "amp": "none", "seed": 0},
    },
    "step_logged": {
        **{"epoch": 0.5, "loss": 1.5, "lr": 0.1, "subnet": SUBNET, "step_seconds": 0.1},
        **{"images_per_second": 9.0, "data_wait_fraction": 0.1, "train_seconds": 2.0},
    },
    "evaluated": {
        **{"epoch": 0.5, "subnet": SUBNET, "loss": 1.5, "top1": 9.0, "loss_ema": 1.5},
        **{"top1_ema": 9.0, "seconds": 1.0, "train_seconds": 2.0, "wall_seconds": 3.0},
    },
    "stage_started": {"stage": 0, "subnet": SUBNET, "stop_step": 9, "curriculum": {}},
    "warning_raised": {"message": "x"},
    "checkpoint_saved": {"path": "last.pt"},
}


def row(kind: str, step: int, attempt: int = 0, **more: Any) -> Row:
    return {"kind": kind, "step": step, "attempt": attempt, **FIELDS[kind], **more}


def written(folder: Path, rows: list[Row]) -> Path:
    path = folder / "events.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["kind", "attempt", "step"])
@pytest.mark.parametrize("value", [None, True, -1, 1.5, "a", [], {}, 10**30, "missing"])
def test_a_row_needs_its_kind_attempt_and_step(name: str, value: object) -> None:
    if name == "kind" and value in ("a", "missing"):
        value = None
    broken = {key: one for key, one in WHOLE.items() if (key, value) != (name, "missing")}
    broken |= {} if value == "missing" else {name: value}
    with pytest.raises(ConfigError, match="log: must be an event with its kind"):
        event_row(json.dumps(broken).encode(), "log")


def test_of_a_huge_log_progress_is_picked_and_the_rest_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eventlog, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(eventlog, "MAX_PROGRESS", 10)
    rows = [row("step_logged", step) for step in range(1, 201)]
    rows = [row("run_started", 0), *rows, row("evaluated", 200), row("step_logged", 201)]
    found = read_log(written(tmp_path, rows))
    assert len(found) < 20
    assert found[0] == event_of(rows[0])
    assert found[-2:] == [event_of(one) for one in rows[-2:]]


@pytest.mark.parametrize(("kind", "most"), [("stage_started", 5_000), ("run_started", 1_000)])
def test_a_log_of_too_many_events_is_refused(tmp_path: Path, kind: str, most: int) -> None:
    path = written(tmp_path, [row(kind, 0)] * (most + 1))
    with pytest.raises(ConfigError, match=f"must hold at most {most:,} events of a kind"):
        read_log(path)


@pytest.mark.parametrize(
    "more",
    [
        {"time": [{}] * 60_000},
        {"time": "x" * 41},
        {"time": 5},
        {"message": [[[]]] * 60_000},
        {"other": [{}] * 60_000},
    ],
)
def test_what_takes_more_room_than_its_text_is_not_kept(
    more: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(
        tmp_path,
        [row("warning_raised", 3), row("warning_raised", 3, **more), row("warning_raised", 4)],
    )
    kept: list[Row] = []
    monkeypatch.setattr(eventlog, "effective_rows", kept.extend)
    with pytest.raises(ConfigError, match="must be"):
        read_log(path)
    assert [one["event"] for one in kept] == [event_of(row("warning_raised", 3))]
    assert all(len(one) == 4 for one in kept)


def test_a_missing_log_has_no_rows_and_a_folder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert read_log(path) == []
    path.mkdir()
    with pytest.raises(ConfigError, match="must be a regular file, but it is a folder"):
        read_log(path)


def test_a_checkpoint_that_was_replayed_is_none_any_more() -> None:
    rows = [
        row("run_started", 0),
        row("checkpoint_saved", 10),
        row("checkpoint_saved", 20),
        row("run_started", 10, attempt=1),
        row("warning_raised", 12),
        row("run_started", 20, attempt=2),  # of step 20 nothing is left
        row("warning_raised", 20),
    ]
    assert effective_rows(rows) == [*rows[:2], rows[3], rows[4], *rows[5:]]


def test_many_attempts_over_a_long_log_take_no_minutes() -> None:
    rows = [row("evaluated", 0)] * 50_000 + [row("checkpoint_saved", 5)]
    rows += [row("run_started", 5, attempt=one) for one in range(1, 1_000)]
    begun = time.process_time()
    assert len(effective_rows(rows)) == 50_002
    assert time.process_time() - begun < 5
