"""Many processes: they stay equal, one of them writes, and a lost one is no loss of the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from autoprog.cli import main
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


def start(*words: object, **places: int) -> subprocess.Popen[str]:
    # A script does not see the folder it is run from.
    found = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = job(*words, **places)
    nowhere, pipe = subprocess.DEVNULL, subprocess.PIPE
    return subprocess.Popen(command, stdout=nowhere, stderr=pipe, text=True, env=found)


def carry_out(*words: object, **places: int) -> None:
    process = start(*words, **places)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err


class Parts:
    """What the ranks of one job came to in its parts; see ``ranks_driver.py``."""

    def __init__(self, folder: Path, parts: Mapping[str, Sequence[object]]) -> None:
        self.folder = folder
        self.err = ""  # of the job itself
        rows = [(name, list(map(str, words))) for name, words in parts.items()]
        (folder / "parts.json").write_text(json.dumps(rows))

    def read(self, kind: str, name: str) -> list[str]:
        """Return what each rank said or held in a part, or its exit code."""
        paths = [self.folder / kind / f"{name}-{rank}" for rank in (0, 1)]
        assert all(path.exists() for path in paths), (name, self.err)
        return [path.read_text() for path in paths]

    def finished(self, name: str, code: int = 0) -> Path:
        """Return the folder of a part that ended with a code on both ranks."""
        codes = self.read("codes", name)
        assert codes == [str(code)] * 2, (self.read("said", name), self.err)
        return self.folder / name


def only_run(runs: Path) -> Run:
    (folder,) = runs.iterdir()
    return load_run(folder)


def losses(run: Run) -> list[float]:
    return [event.loss for event in run.events() if isinstance(event, StepLogged)]


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.path / "checkpoints" / "final.safetensors")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """Return what two ranks came to in one job: one is lost in "kill", and a signal ends the last part."""
    runs = ("--runs-dir", "{folder}/runs")
    found = Parts(
        tmp_path_factory.mktemp("parts"),
        {
            "search": (*SEARCH, *runs),
            "talk": (),
            "refused": (*LINEAR, "--batch-size", 63, *runs),
            "grow": (*LINEAR, *runs),
            "kill": (*LINEAR, *runs, "--checkpoint-minutes", 0),
            "signal": (*LINEAR, *runs, "--log-every-steps", 4),
        },
    )
    process = start(DRIVER, found.folder, restarts=1)
    try:
        wait_for(found.folder / "signal" / "runs", "grown", process)
        process.send_signal(signal.SIGTERM)
        _, found.err = process.communicate(timeout=60)
    finally:
        process.kill()
    return found


@pytest.fixture(scope="module")
def together(parts: Parts) -> Run:
    """Return the run of two ranks along the linear schedule, which noted what they held after each growth."""
    return only_run(parts.finished("grow") / "runs")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same schedule in one process."""
    runs = tmp_path_factory.mktemp("alone")
    assert main([*LINEAR, "--threads", "1", "--runs-dir", str(runs), "-q"]) == 0
    return only_run(runs)


def test_one_process_talks_to_itself() -> None:
    values = torch.tensor([1.0, 2.0])
    assert ONE_PROCESS.broadcast("a word") == "a word"
    assert ONE_PROCESS.total(values) is values
    assert ONE_PROCESS.most(-3) == -3
    ONE_PROCESS.check_equal(values, "nothing")


def test_ranks_tell_each_other_what_they_need(parts: Parts) -> None:
    parts.finished("talk")
    answers = [json.loads(text) for text in parts.read("held", "talk")]
    assert answers[0] == answers[1]
    assert answers[0] == {
        "shared": ["héllo 0", ""],
        "total": [3.0, 1.0],
        "most": 15,
        "refused": "the 2 processes of this run differ in a test",
        "averaged": [[1.0, 0.5], [[1.5], [1.5]]],
    }


def test_after_every_growth_the_ranks_are_equal_to_the_bit(parts: Parts, together: Run) -> None:
    first, second = parts.read("held", "grow")
    grown = [e for e in together.events() if isinstance(e, Grown)]
    assert [int(line.split()[0]) for line in first.splitlines()] == [e.step for e in grown]
    assert len(grown) == 2
    assert first == second


@pytest.mark.slow
def test_running_statistics_are_equal_on_all_ranks_to_the_bit(tmp_path: Path) -> None:
    words = [word.replace("vit-mu", "volo-mu") for word in LINEAR]
    parts = Parts(tmp_path, {"grow": (*words, "--runs-dir", "{folder}/runs")})
    carry_out(DRIVER, tmp_path)
    parts.finished("grow")
    first, second = parts.read("held", "grow")
    assert len(first.splitlines()) >= 2
    assert first == second


def test_the_loss_curve_is_that_of_one_process(together: Run, alone: Run) -> None:
    run = together
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
            carry_out("-m", "autoprog", *here)
        else:
            assert main([*map(str, here), "--threads", "1", "-q"]) == 0
        run = only_run(tmp_path / name)
        tables = load_file(run.path / "checkpoints" / "final_tables.safetensors")
        found.append((losses(run), tables))
    (two, tables_of_two), (one, tables_of_one) = found
    assert two == pytest.approx(one, rel=1e-4)
    assert len(two) > 5
    for key, table in tables_of_one.items():
        torch.testing.assert_close(tables_of_two[key], table, rtol=0, atol=1e-4)


def test_a_lost_rank_costs_a_restart_and_nothing_else(parts: Parts, together: Run) -> None:
    run = only_run(parts.finished("kill") / "runs")
    rows = [json.loads(line) for line in (run.path / "events.jsonl").read_text().splitlines()]
    starts = [row["step"] for row in rows if row["kind"] == "run_started"]
    assert starts == [0, 44]  # the last checkpoint before step 50 is that of the end of a stage
    straight = weights(together)
    assert all(torch.equal(value, straight[key]) for key, value in weights(run).items())


def test_a_run_may_go_on_with_another_number_of_ranks(parts: Parts, alone: Run) -> None:
    run = only_run(parts.folder / "signal" / "runs").path
    kinds = [row["kind"] for row in rows_of(run)]
    assert kinds[-2:] == ["checkpoint_saved", "interrupted"]
    assert main(["train", "--resume", str(run), "--threads", "1", "-q"]) == 0
    result, straight = load_run(run).result, alone.result
    assert result is not None
    assert straight is not None
    assert result.loss == pytest.approx(straight.loss, rel=1e-4)


def rows_of(run: Path) -> list[dict[str, Any]]:
    lines = (run / "events.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def wait_for(runs: Path, kind: str, process: subprocess.Popen[Any]) -> Path:
    """Wait until a run has logged an event; return its folder."""
    for _ in range(4800):
        for log in runs.glob("*/events.jsonl"):
            if any(row["kind"] == kind for row in rows_of(log.parent)):
                return log.parent
        if process.poll() is not None:
            pytest.fail(f"the job ended early\n{process.communicate()[1]}")
        time.sleep(0.05)
    raise AssertionError(f"no {kind} within four minutes")


def test_in_a_search_rank_0_decides_and_writes(parts: Parts) -> None:
    run = only_run(parts.finished("search") / "runs")
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
    for said in (parts.err, *parts.read("said", "search")):
        assert "Warning" not in said.replace("OMP_NUM_THREADS", "")


def test_what_ranks_cannot_share_is_reported_once(parts: Parts) -> None:
    folder = parts.finished("refused", code=2)
    line = "autoprog: --batch-size: must be a multiple of 2 (2 processes x --grad-accum-steps), but got 63"
    assert "".join(parts.read("said", "refused")).count(line) == 1
    assert os.listdir(folder) == []
