"""A run folder that is written by hand: two attempts, the second from a checkpoint at step 20."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from autoprog.events import CheckpointSaved, Evaluated, Event, RunStarted, StepLogged, encode
from autoprog.settings import RunManifest
from supernet.config import SubnetConfig

SMALL = SubnetConfig(2, 8)
Write = Callable[[int, Event], None]


def started(step: int) -> RunStarted:
    return RunStarted(
        step=step,
        run_id="r",
        run_kind="train",
        model="vit-mu",
        total_steps=40,
        steps_per_epoch=20,
        epochs=2,
        num_images=1280,
        device="cpu",
        amp="none",
        seed=0,
    )


def progressed(step: int, loss: float) -> StepLogged:
    return StepLogged(
        step=step,
        epoch=step / 20,
        loss=loss,
        lr=1e-3,
        subnet=SMALL,
        step_seconds=0.1,
        images_per_second=640.0,
        data_wait_fraction=0.05,
        train_seconds=step / 10,
    )


def evaluated(step: int, top1: float) -> Evaluated:
    return Evaluated(
        step=step,
        epoch=step / 20,
        subnet=SMALL,
        loss=1.0,
        top1=top1,
        loss_ema=0.9,
        top1_ema=top1 + 1,
        seconds=0.2,
        train_seconds=step / 10,
        wall_seconds=step / 8,
    )


FIRST: tuple[Event, ...] = (
    started(0),
    progressed(10, 2.0),
    progressed(20, 1.8),
    evaluated(20, 50.0),
    CheckpointSaved(step=20, path="checkpoints/last.pt"),
    progressed(30, 9.9),
)
SECOND: tuple[Event, ...] = (
    started(20),
    progressed(30, 1.6),
    progressed(40, 1.4),
    evaluated(40, 60.0),
)
LOSSES = [(10, 2.0), (20, 1.8), (30, 1.6), (40, 1.4)]
"""Training losses that hold after both attempts."""


@pytest.fixture
def folder(tmp_path: Path, manifest: RunManifest) -> Path:
    path = tmp_path / manifest.run_id
    path.mkdir()
    return path


@pytest.fixture
def write(folder: Path) -> Write:
    """Append an event of an attempt to the log."""

    def append(attempt: int, event: Event) -> None:
        row = {"attempt": attempt, "time": "2026-01-02T03:04:05.000+00:00", **encode(event)}
        with (folder / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    return append
