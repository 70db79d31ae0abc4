"""Numbers in environment variables: what is none is ignored or told in one line, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autoprog.bounds import Port, WorldSize
from autoprog.cli import main
from autoprog.environment import (
    CORES_VARIABLE,
    VariableError,
    forget_odd_sizes,
    number_in,
    optional_number_in,
    usable_cores,
)

TRAIN = ("train", "--schedule", "linear", "--model", "vit-mu", "--epochs", "1", "--runs-dir", "r")
RANKS = {
    "WORLD_SIZE": "2",
    "RANK": "0",
    "LOCAL_RANK": "0",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29512",
}


@pytest.mark.parametrize(
    "text", ["", "abc", "-1", "0", "1e9", "70000", " 5", "９", "9" * 5000, "\x1b"]
)
def test_what_is_no_number_is_told_with_its_variable(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTER_PORT", text)
    with pytest.raises(VariableError, match="MASTER_PORT: must be a whole number from 1 to 65,535"):
        number_in("MASTER_PORT", Port)


def test_a_variable_that_is_not_set_has_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert optional_number_in("WORLD_SIZE", WorldSize, 1) == 1
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert optional_number_in("WORLD_SIZE", WorldSize, 1) == 4


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        (
            {"WORLD_SIZE": "abc"},
            "WORLD_SIZE: must be a whole number from 1 to 1,000,000, but got 'abc'",
        ),
        (
            {"WORLD_SIZE": "0"},
            "WORLD_SIZE: must be a whole number from 1 to 1,000,000, but got '0'",
        ),
        ({"WORLD_SIZE": "2"}, "RANK: must be set where WORLD_SIZE is"),
        ({**RANKS, "RANK": "-1"}, "RANK: must be a whole number from 0 to 1,000,000, but got '-1'"),
        ({**RANKS, "RANK": "2"}, "RANK: must be below the number of processes, 2, but got 2"),
        ({**RANKS, "LOCAL_RANK": "x"}, "LOCAL_RANK: must be a whole number from 0 to"),
        ({**RANKS, "LOCAL_RANK": "7"}, "LOCAL_RANK: must be below the number of processes, 2"),
        (
            {**RANKS, "MASTER_PORT": "99999999"},
            "MASTER_PORT: must be a whole number from 1 to 65,535",
        ),
        ({**RANKS, "MASTER_ADDR": ""}, "MASTER_ADDR: must name the machine of rank 0"),
    ],
    ids=str,
)
def test_wrong_variables_of_torchrun_are_one_line_on_the_rank_that_has_them(
    variables: dict[str, str],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in RANKS:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main([*TRAIN]) == 2
    told = capsys.readouterr().err
    assert (told.count("\n"), line in told) == (1, True), told
    assert not [*tmp_path.iterdir()]


def test_a_rank_alone_means_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without WORLD_SIZE there is one process, and it tells what is wrong."""
    monkeypatch.setenv("RANK", "5")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert main(["train", "--schedule", "lineer", "--model", "vit-mu"]) == 2
    assert capsys.readouterr().err.startswith("autoprog: --schedule: must be an existing YAML")


@pytest.mark.parametrize("text", ["abc", "0", "-5", "1", "1000000000", "9" * 5000, "８0", ""])
def test_sizes_that_no_terminal_has_are_ignored(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", text)
    monkeypatch.setenv("LINES", "50")
    forget_odd_sizes()
    assert "COLUMNS" not in os.environ
    assert os.environ["LINES"] == "50"


@pytest.mark.parametrize("text", ["abc", "0", "-5", "1_0", "1000000", "9" * 5000, "８", ""])
def test_what_is_no_number_of_cores_is_ignored(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CORES_VARIABLE, raising=False)
    cores = usable_cores()
    monkeypatch.setenv(CORES_VARIABLE, text)
    assert usable_cores() == cores


@pytest.mark.parametrize(
    "variables",
    [
        {"COLUMNS": "0"},
        {"COLUMNS": "1000000000", "FORCE_COLOR": "1"},
        {"LINES": "abc", "TERM": ""},
        {"TERM": "\x1b[2J", "NO_COLOR": "x"},
        {"TMPDIR": "/nowhere", "XDG_CACHE_HOME": "relative"},
    ],
    ids=str,
)
def test_help_is_shown_whatever_the_terminal_is_said_to_be(variables: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "autoprog", "list", "caches", "--help"],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert "--older-than" in done.stdout
    assert done.stderr == ""
