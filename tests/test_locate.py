"""Which run a word on the command line means."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from autoprog.cli import main
from autoprog.errors import ConfigError
from autoprog.locate import locate_run, locate_schedule, runs_in
from autoprog.runs import RunFolder
from autoprog.settings import RunManifest
from tests.test_runs import a_result

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path, manifest: RunManifest, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Make a run in ``runs`` of the working directory, begun at a minute."""
    monkeypatch.chdir(tmp_path)

    def made(name: str, minute: int, finished: bool = False, schedule: str = "") -> Path:
        recipe = manifest.settings.recipe.model_copy(update={"epochs": 1})
        changes = {
            "run_id": name,
            "created": f"2026-01-02T03:{minute:02d}:00+00:00",
            "settings": manifest.settings.model_copy(update={"recipe": recipe}),
        }
        folder = RunFolder.create(Path("runs"), manifest.model_copy(update=changes))
        if finished:
            folder.write_result(a_result(run_id=name))
        if schedule:
            (folder.path / "schedule.yaml").write_text(schedule)
        folder.close()
        return folder.path

    return made


@pytest.mark.parametrize("word", ["last", "@last", "runs", "runs/", "./runs"])
def test_the_newest_run_is_the_one_that_was_begun_last_whatever_it_is_called(
    make: Make, word: str
) -> None:
    make("2026-09", 1)
    newest = make("a better name", 3)
    make("zzz", 2)
    damaged = Path("runs/zzzz/run.yaml")
    damaged.parent.mkdir()
    damaged.write_bytes(b"\xff")
    os.utime(newest / "run.yaml", (0, 0))  # as after a copy
    assert locate_run(word) == newest
    assert [run.name for run in runs_in(Path("runs"))] == [
        "a better name",
        "zzz",
        "2026-09",
        "zzzz",
    ]


def test_a_run_is_found_by_path_and_by_name(make: Make) -> None:
    run = make("2026-01-02-030405-train-vit-mu", 1)
    assert locate_run(str(run)) == locate_run(run.name) == run
    assert locate_run(str(run.absolute()), "elsewhere") == run.absolute()
    with pytest.raises(ConfigError, match="did you mean '2026-01-02-030405-train-vit-mu'"):
        locate_run("runs/2026-01-02-030405-train-vit-m")


def test_last_gives_way_to_what_has_that_name(make: Make) -> None:
    newest = make("a", 1)
    Path("last").mkdir()
    with pytest.raises(ConfigError, match=r"last: must be a run folder .* it holds nothing"):
        locate_run("last")
    assert locate_run("@last") == newest


def test_what_there_is_instead_is_told_in_one_line(make: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder runs in"):
        locate_run("last")
    make("2026-verify/seed-0", 1)
    with pytest.raises(ConfigError, match=r"runs lie in runs/2026-verify$"):
        locate_run("runs")
    Path("data/train").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"it holds train$"):
        locate_run("data")


def test_the_schedule_of_a_run_is_what_its_search_found(make: Make) -> None:
    run = make("a", 1)
    with pytest.raises(ConfigError, match=r"must have a best\.yaml or a schedule\.yaml"):
        locate_schedule("last")
    for name in ("schedule.yaml", "best.yaml"):
        (run / name).touch()
        assert locate_schedule("last") == run / name


@pytest.mark.parametrize("word", ["last", "@last", "runs", "2026-a"])
def test_commands_take_such_words(
    make: Make, schedule_text: str, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make("2026-a", 2, finished=True, schedule=schedule_text)
    assert main(["show", word, "--plain"]) == 0
    assert main(["compare", word]) == 0
    assert main(["export", word, "--format", "tensorboard"]) == 0
    for words in (  # each as far as it is told what is wrong with that run
        ["export", word, "--output", "a.pth"],
        ["evaluate", word],
        ["train", "--resume", word],
        ["show", word, "--replay"],
        ["search", "--join", word],
    ):
        assert main(words) > 0
        assert "runs/2026-a" in capsys.readouterr().err, words


def test_a_folder_of_runs_is_compared_as_a_whole(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    make("b", 1, finished=True)
    make("a", 2)
    assert main(["compare", "runs", "--json"]) == 0
    said = capsys.readouterr()
    assert '"path": "runs/b"' in said.out
    assert "left out: runs/a: must be a complete run" in said.err


def test_this_very_run_is_not_the_last_one(
    make: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make("a", 1)
    assert main(["train", "--schedule", "last", "--resume", "auto"]) == 2
    assert "--schedule: must be a path with --resume" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    start = ["train", "--schedule", "linear", "--model", "vit-mu", "--initial-checkpoint", "@last"]
    assert main(start) == 2
    assert "--initial-checkpoint: must be a path with --resume" in capsys.readouterr().err


def test_auto_alone_finds_the_newest_unfinished_run_of_the_command(
    make: Make, schedule_text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--resume", "auto"]) == 2
    assert "must find an unfinished train run in runs" in capsys.readouterr().err
    old = make("old", 1, schedule=schedule_text)
    make("newer, but complete", 2, finished=True, schedule=schedule_text)
    make("newest, but stopped before its start", 3)
    carried = ["--workers", "0", "--threads", "1", "-q"]
    assert main(["search", "--resume", "auto", *carried]) == 2
    assert main(["train", "--resume", "auto", *carried]) == 0
    assert (old / "result.json").exists()
    assert main(["train", "--resume", "auto", "--seed", "3"]) == 2
    assert "--schedule: must be given" in capsys.readouterr().err
