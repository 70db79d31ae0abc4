"""A run that diverges can go back to its last checkpoint and on at half the learning rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from autoprog.cli import main
from autoprog.events import StepLogged, WarningRaised
from autoprog.runs import load_run
from autoprog.train.step import Stepper

WORDS = [
    *("train", "--schedule", "linear", "--model", "vit-mu", "--epochs", "4", "--device", "cpu"),
    *("--threads", "1", "--workers", "0", "-q", "--sched", "constant", "--warmup-fraction", "0"),
    *("--log-every-steps", "4", "--checkpoint-minutes", "0"),
]


def spoil(monkeypatch: pytest.MonkeyPatch, at_step: int, times: int) -> list[float]:
    """Let the loss of a step be NaN so many times; return the learning rates that it is tried with."""
    take, tried = Stepper.step, []

    def step(self: Stepper, images: Any, targets: Any, choice: Any, slots: Any, now: int) -> Any:
        loss = take(self, images, targets, choice, slots, now)
        if now == at_step:
            tried.append(self.optimizer.param_groups[0]["lr"])
            if len(tried) <= times:
                return loss * torch.nan
        return loss

    monkeypatch.setattr(Stepper, "step", step)
    return tried


def run(tmp_path: Path, *words: str) -> tuple[int, Any]:
    code = main([*WORDS, "--runs-dir", str(tmp_path), *words])
    (folder,) = tmp_path.iterdir()
    return code, load_run(folder)


def test_a_diverged_run_stops_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = spoil(monkeypatch, 30, 1)
    code, found = run(tmp_path)
    assert (code, len(tried), found.result) == (1, 1, None)


def test_rollback_halves_the_learning_rate_from_the_last_checkpoint_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = spoil(monkeypatch, 30, 2)
    code, found = run(tmp_path, "--on-divergence", "rollback")
    assert code == 0
    assert tried[1:] == [pytest.approx(tried[0] / 2), pytest.approx(tried[0] / 4)]
    events = list(found.events())
    told = [event.message for event in events if isinstance(event, WarningRaised)]
    assert told == [
        "the run diverged: rolled back to step 28, learning rate x 0.25 from now on"
    ]  # of the first rollback nothing is left: the second went back to the same step
    rates = {event.step: event.lr for event in events if isinstance(event, StepLogged)}
    assert rates[28] == pytest.approx(tried[0])
    assert rates[32] == pytest.approx(tried[0] / 4)
    assert rates[88] == pytest.approx(tried[0] / 4)
    assert found.result.epochs == 4


def test_a_rollback_later_counts_from_the_rate_of_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, 30, 1)
    tried = spoil(monkeypatch, 50, 1)
    code, found = run(tmp_path, "--on-divergence", "rollback")
    assert code == 0
    assert tried[1] == pytest.approx(tried[0] / 2)
    scales = [e.message.split(" x ")[1] for e in found.events() if isinstance(e, WarningRaised)]
    assert scales == ["0.5 from now on", "0.25 from now on"]


def test_a_run_that_diverges_again_and_again_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = spoil(monkeypatch, 30, 99)
    code, found = run(tmp_path, "--on-divergence", "rollback")
    assert (code, len(tried), found.result) == (1, 4, None)
    assert "the loss is nan at step 30 (stage 1, epoch 1.3" in capsys.readouterr().err


def test_without_a_checkpoint_the_run_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, 3, 1)
    code, found = run(tmp_path, "--on-divergence", "rollback")
    told = [event.message for event in found.events() if isinstance(event, WarningRaised)]
    assert code == 0
    assert told == ["the run diverged: rolled back to step 0, learning rate x 0.5 from now on"]
