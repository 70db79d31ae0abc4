"""Many processes: they stay equal, one of them writes, and a lost one is no loss of the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from autoprog.events import Grown, StepLogged
from autoprog.runs import Run, load_run
from autoprog.train.ranks import ONE_PROCESS

ROOT = Path(__file__).resolve().parents[2]
DRIVER = Path(__file__).with_name("ranks_driver.py")
LINEAR = ("train", "--schedule=linear", "--model=vit-mu", "--epochs=4", "--workers=0")
LINEAR += ("--eval-every-epochs=9",)  # a longer time than a stage: at stage ends alone
SEARCH = ("search", "--model", "vit-mu", "--epochs", "8", "--workers", "0")


def job(*words: object, ranks: int = 2, restarts: int = 0) -> list[str]:
    """Return the command of a job of several ranks."""
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    places = ("--nproc-per-node", ranks, "--max-restarts", restarts)
    return [str(word) for word in (*torchrun, *places, *words)]


def carry_out(*words: object, **places: int) -> subprocess.CompletedProcess[str]:
    found = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
    }  # a script does not see the folder it is run from
    command = job(*words, **places)
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=found)


def only_run(runs: Path) -> Run:
    (folder,) = runs.iterdir()
    return load_run(folder)


def losses(run: Run) -> list[float]:
    return [event.loss for event in run.events() if isinstance(event, StepLogged)]


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.path / "checkpoints" / "final.safetensors")


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks along the linear schedule, which noted what they hold after each growth."""
    folder = tmp_path_factory.mktemp("together")
    done = carry_out(DRIVER, "grow", folder, *LINEAR, "--runs-dir", folder / "runs")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same schedule in one process."""
    runs = tmp_path_factory.mktemp("alone")
    words = (*LINEAR, "--threads", "1", "--runs-dir", runs, "-q")
    subprocess.run([sys.executable, "-m", "autoprog", *map(str, words)], check=True)
    return only_run(runs)


def test_one_process_talks_to_itself() -> None:
    values = torch.tensor([1.0, 2.0])
    assert ONE_PROCESS.broadcast("a word") == "a word"
    assert ONE_PROCESS.total(values) is values
    assert ONE_PROCESS.most(-3) == -3
    ONE_PROCESS.check_equal(values, "nothing")


def test_ranks_tell_each_other_what_they_need(tmp_path: Path) -> None:
    done = carry_out(DRIVER, "words", tmp_path)
    assert done.returncode == 0, done.stderr
    answers = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert answers[0] == answers[1]
    assert answers[0] == {
        "shared": ["héllo 0", ""],
        "total": [3.0, 1.0],
        "most": 15,
        "refused": "the 2 processes of this run differ in a test",
        "averaged": [[1.0, 0.5], [[1.5], [1.5]]],
    }


def test_after_every_growth_the_ranks_are_equal_to_the_bit(together: Path) -> None:
    first, second = ((together / f"rank-{rank}.txt").read_text() for rank in (0, 1))
    grown = [e for e in only_run(together / "runs").events() if isinstance(e, Grown)]
    assert [int(line.split()[0]) for line in first.splitlines()] == [e.step for e in grown]
    assert len(grown) == 2
    assert first == second


@pytest.mark.slow
def test_running_statistics_are_equal_on_all_ranks_to_the_bit(tmp_path: Path) -> None:
    words = [word.replace("vit-mu", "volo-mu") for word in LINEAR]
    done = carry_out(DRIVER, "grow", tmp_path, *words, "--runs-dir", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    first, second = ((tmp_path / f"rank-{rank}.txt").read_text() for rank in (0, 1))
    assert len(first.splitlines()) >= 2
    assert first == second


def test_the_loss_curve_is_that_of_one_process(together: Path, alone: Run) -> None:
    run = only_run(together / "runs")
    assert losses(run) == pytest.approx(losses(alone), rel=2e-5)
    assert len(losses(run)) > 5
    assert run.result is not None
    assert alone.result is not None
    assert run.result.top1 == pytest.approx(alone.result.top1, abs=0.6)  # two images of 360
    assert run.result.loss == pytest.approx(alone.result.loss, rel=1e-4)
    assert run.result.macs == alone.result.macs


@pytest.mark.slow
def test_sandwich_steps_with_tables_by_size_are_those_of_one_process(tmp_path: Path) -> None:
    """A table that only one of the four passes uses is averaged over ranks like everything else."""
    words = ("train", "--elastic", "--pos-embed", "per-size", *LINEAR[2:], "--epochs", 1)
    found = []
    for name in ("two", "one"):
        here = (*words, "--log-every-steps", 2, "--runs-dir", tmp_path / name)
        if name == "two":
            done = carry_out("-m", "autoprog", *here)
            assert done.returncode == 0, done.stderr
        else:
            command = [sys.executable, "-m", "autoprog", *map(str, here), "--threads", "1", "-q"]
            subprocess.run(command, check=True)
        run = only_run(tmp_path / name)
        tables = load_file(run.path / "checkpoints" / "final_tables.safetensors")
        found.append((losses(run), tables))
    (two, tables_of_two), (one, tables_of_one) = found
    assert two == pytest.approx(one, rel=1e-4)
    assert len(two) > 5
    for key, table in tables_of_one.items():
        torch.testing.assert_close(tables_of_two[key], table, rtol=0, atol=1e-4)


def test_a_lost_rank_costs_a_restart_and_nothing_else(together: Path, tmp_path: Path) -> None:
    words = (*LINEAR, "--runs-dir", tmp_path / "runs", "--checkpoint-minutes", 0)
    done = carry_out(DRIVER, "kill", tmp_path, *words, restarts=1)
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path / "runs")
    rows = [json.loads(line) for line in (run.path / "events.jsonl").read_text().splitlines()]
    starts = [row["step"] for row in rows if row["kind"] == "run_started"]
    assert starts == [0, 44]  # the last checkpoint before step 50 is that of the end of a stage
    straight = weights(only_run(together / "runs"))
    assert all(torch.equal(value, straight[key]) for key, value in weights(run).items())


def test_a_run_may_go_on_with_another_number_of_ranks(tmp_path: Path, alone: Run) -> None:
    runs = tmp_path / "runs"
    words = (*LINEAR, "--runs-dir", runs, "--log-every-steps", 4)
    process = subprocess.Popen(job("-m", "autoprog", *words), stderr=subprocess.DEVNULL)
    run = wait_for(runs, "grown", process)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    kinds = [row["kind"] for row in rows_of(run)]
    assert kinds[-2:] == ["checkpoint_saved", "interrupted"]
    more = ("train", "--resume", str(run), "--threads", "1", "-q")
    subprocess.run([sys.executable, "-m", "autoprog", *more], check=True)
    result, straight = load_run(run).result, alone.result
    assert result is not None
    assert straight is not None
    assert result.loss == pytest.approx(straight.loss, rel=1e-4)


def rows_of(run: Path) -> list[dict[str, Any]]:
    lines = (run / "events.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def wait_for(runs: Path, kind: str, process: subprocess.Popen[Any]) -> Path:
    """Wait until a run has told of an event; return its folder."""
    for _ in range(1200):
        for log in runs.glob("*/events.jsonl"):
            if any(row["kind"] == kind for row in rows_of(log.parent)):
                return log.parent
        assert process.poll() is None, "the job ended early"
        time.sleep(0.05)
    raise AssertionError(f"no {kind} within a minute")


def test_in_a_search_rank_0_decides_and_writes(tmp_path: Path) -> None:
    words = (*SEARCH, "--runs-dir", tmp_path / "runs")
    done = carry_out("-m", "autoprog", *words)
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path / "runs")
    assert run.result is not None
    rows = rows_of(run.path)
    decided = [row["decision"] for row in rows if row["kind"] == "decided"]
    assert [d["index"] for d in decided] == [d.index for d in run.decisions]
    assert len(run.decisions) >= 1
    assert run.best is not None
    assert run.cost_table.conditions["processes"] == 2, "both measured together"
    journal = (run.path / "search.journal").read_text().splitlines()
    workers = {json.loads(line)["worker_id"] for line in journal}
    assert len(workers) == 1
    assert sum(row["kind"] == "run_finished" for row in rows) == 1
    assert "Warning" not in done.stderr.replace("OMP_NUM_THREADS", "")


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (
            ("--batch-size", 63),
            "autoprog: --batch-size: must be a multiple of 2 (2 processes x --grad-accum-steps),"
            " but got 63",
        )
    ],
)
def test_what_ranks_cannot_share_is_told_once(
    flags: tuple[object, ...], line: str, tmp_path: Path
) -> None:
    done = carry_out("-m", "autoprog", *LINEAR, *flags, "--runs-dir", tmp_path / "runs")
    assert done.stderr.count(line) == 1
    assert not (tmp_path / "runs").exists()
    assert os.listdir(tmp_path) == []
