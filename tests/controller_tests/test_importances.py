"""Importances of parameters, from a journal that others may be writing."""

from __future__ import annotations

import os
from pathlib import Path

import optuna
import pytest

from autoprog.errors import RunError
from autoprog.search.controller.importances import importances
from autoprog.search.controller.storage import open_journal


def journal_of(folder: Path, trials: int) -> Path:
    """Write a study whose loss hangs on ``depth`` alone and whose seconds hang on ``size`` alone."""
    path = folder / "search.journal"
    study = optuna.create_study(
        storage=open_journal(path),
        study_name="run/trials",
        directions=["minimize", "minimize"],
        sampler=optuna.samplers.RandomSampler(seed=0),
    )
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        study.set_metric_names(["loss", "seconds"])
    for _ in range(trials):
        trial = study.ask()
        depth = trial.suggest_int("depth", 0, 20)
        size = trial.suggest_int("size", 0, 20)
        study.tell(trial, (float(depth), float(size)))
    return path


@pytest.mark.filterwarnings("error")  # a warning would be written over the screen
def test_what_a_metric_hangs_on_has_the_largest_fraction(tmp_path: Path) -> None:
    loss, seconds = importances(journal_of(tmp_path, 40))
    assert (loss.study, loss.metric, loss.num_trials) == ("run/trials", "loss", 40)
    assert list(loss.fractions) == ["depth", "size"]
    assert list(seconds.fractions) == ["size", "depth"]
    assert sum(loss.fractions.values()) == pytest.approx(1)
    assert loss.fractions["depth"] > 0.7


def test_of_few_trials_nothing_is_claimed(tmp_path: Path) -> None:
    loss, _ = importances(journal_of(tmp_path, 9))
    assert (loss.fractions, loss.problem) == ({}, "9 complete trials; importances need 10")


def test_a_journal_is_only_read_and_a_torn_line_waits(tmp_path: Path) -> None:
    path = journal_of(tmp_path, 12)
    with path.open("ab") as file:
        file.write(b'{"op_code": 4, "half')
    files = {p: p.read_bytes() for p in tmp_path.iterdir()}
    assert importances(path)[0].num_trials == 12
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == files


def test_a_damaged_journal_is_told_in_one_line(tmp_path: Path) -> None:
    path = journal_of(tmp_path, 2)
    path.write_bytes(b"{broken}\n" + path.read_bytes())
    with pytest.raises(RunError, match="the journal is damaged"):
        importances(path)


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b"7",
        b'{"op_code": 99}',
        b'{"op_code": 0}',
        b'{"op_code": 4, "study_id": 10}',
        b'{"op_code": 6, "trial_id": 1e300, "state": "x"}',
        b"[" * 100_000,
    ],
)
def test_operations_that_optuna_has_not_written_are_told_in_one_line(
    tmp_path: Path, line: bytes
) -> None:
    path = journal_of(tmp_path, 2)
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(RunError, match="the journal is damaged"):
        importances(path)


def test_a_pipe_in_place_of_a_journal_never_waits(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "search.journal")
    with pytest.raises(RunError, match="must be a regular file"):
        importances(tmp_path / "search.journal")
