"""Ctrl-C for real: what the terminal says, when, and what is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

WORDS = (
    "--model",
    "vit-xs",
    "--batch-size",
    "256",
    "--epochs",
    "60",
    "--threads",
    "1",
    "--workers",
    "0",
)

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the program in a folder of its own; what still runs at the end is killed."""
    begun: list[subprocess.Popen[str]] = []

    def run(command: str, *words: str) -> subprocess.Popen[str]:
        begun.append(
            subprocess.Popen(
                [sys.executable, "-m", "autoprog", command, *WORDS, *words],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
            )
        )
        return begun[-1]

    yield run
    for process in begun:
        process.kill()
        process.communicate()


def wait_for(process: subprocess.Popen[str], beginning: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(beginning):
            return
    pytest.fail(f"no line begins with {beginning!r}: {process.communicate()}")


def test_ctrl_c_while_costs_are_measured_is_answered_at_once_and_obeyed(
    start: Start, tmp_path: Path
) -> None:
    process = start("search")
    wait_for(process, "measuring the step times of 12 subnets: at most 20.0 s")
    process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    assert process.stderr is not None
    answer = process.stderr.readline()
    answered = time.monotonic() - begin
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert answer.startswith(
        "autoprog: SIGINT: stopping after this step or batch, with a checkpoint"
    )
    (run,) = (tmp_path / "runs").iterdir()
    last = f"autoprog: stopped by SIGINT after a checkpoint; go on with --resume runs/{run.name}\n"
    assert error == last
    assert answered < 5
    assert time.monotonic() - begin < 30
    assert (run / "checkpoints" / "last.pt").exists()
    assert not (run / "costs.json").exists()


def test_a_second_ctrl_c_ends_at_once_and_says_so(start: Start) -> None:
    process = start("train", "--schedule", "constant", "--batch-size", "512")
    wait_for(process, "stage 1")
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("autoprog: SIGINT: stopping")
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error == (
        "autoprog: ended at once by a second signal, SIGINT, without a checkpoint; --resume goes on from"
        " the last one\n"
    )
