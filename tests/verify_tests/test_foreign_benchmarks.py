"""Folders of benchmarks that somebody else has made: the same command line must not run what they say."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from autoprog.cli import main
from autoprog.commands.bench_presets import load_preset_bench
from autoprog.errors import ConfigError, RunError
from autoprog.verify import attempts
from tests.verify_tests.conftest import SMALL, tree

WORDS = ("bench", "presets", "--presets", "linear", *SMALL, "--epochs", "2", "--seeds", "1", "-q")
Body = dict[str, Any]


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """Return the words of the runs that were to be started, of which none is."""
    found: list[Sequence[str]] = []

    def stop(words: Sequence[str], *_: Any, **how: Any) -> Any:
        found.append(words)
        raise RunError("stopped")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(attempts, "Attempt", stop)
    return found


@pytest.fixture
def folder(started: list[Sequence[str]], tmp_path: Path) -> Path:
    """Return the folder of a benchmark of which no run is made yet."""
    assert main(WORDS) == 1
    (made,) = (tmp_path / "runs").iterdir()
    started.clear()
    return made.rename(made.with_name("2026-01-01-000000-bench-presets-vit-mu"))


def poison(folder: Path, edit: Callable[[Body], object]) -> None:
    body = json.loads((folder / "bench.json").read_text())
    edit(body)
    (folder / "bench.json").write_text(json.dumps(body))


def entrant(**values: Any) -> Callable[[Body], None]:
    return lambda body: body["schedules"][1].update(values)


def flags(**values: Any) -> Callable[[Body], None]:
    return lambda body: body["schedules"][1]["settings"]["flags"].update(values)


def words(*words: str) -> Callable[[Body], None]:
    def edit(body: Body) -> None:
        body["schema"], body["entrants"] = 1, body.pop("schedules")
        for one in body["entrants"]:
            del one["settings"]
            one["words"] = list(words)

    return edit


def test_a_bench_of_ours_is_gone_on_with(folder: Path, started: list[Sequence[str]]) -> None:
    assert main(WORDS) == 1
    assert started[0][0] == "train"
    assert f"--runs-dir=runs/{folder.name}/seed-0-constant" in started[0]


def test_words_of_an_older_file_become_settings(folder: Path, started: list[Sequence[str]]) -> None:
    new = load_preset_bench(folder)

    def age(body: Body) -> None:
        body["schema"], body["entrants"] = 1, body.pop("schedules")
        for one in body["entrants"]:
            own = [f"--{flag}={value}" for flag, value in one.pop("settings")["flags"].items()]
            one["words"] = ["train", f"--schedule={one['name']}", "--epochs=2", *own]

    poison(folder, age)
    assert load_preset_bench(folder) == new


@pytest.mark.parametrize(
    "edit",
    [
        words("bench", "runner", "--schedule", "linear", "--timm-script", "evil.py"),
        words("train", "--schedule=linear", "--runs-dir=/tmp"),
        entrant(name="../../victim"),
        entrant(name="late-jump"),
        entrant(cost=-1),
        entrant(words=["train"]),
        entrant(settings={"command": "search"}),
        entrant(settings={"command": "bench"}),
        flags(cache="/tmp/elsewhere"),
        flags(epochs="1e30"),
        flags(**{"timm-script": "evil.py"}),
        lambda body: body.update(schedules=body["schedules"] * 2),
        lambda body: body.update(schedules=body["schedules"] * 51),
        lambda body: body.update(schedules="x"),
        lambda body: body.update(seeds=10**9),
        lambda body: body.update(first_seed=-1),
        lambda body: body.update(left_out={"\x1b[2J": "x"}),
    ],
)
def test_of_a_bench_that_is_not_ours_nothing_is_run(
    folder: Path,
    started: list[Sequence[str]],
    edit: Callable[[Body], object],
    capsys: pytest.CaptureFixture[str],
) -> None:
    poison(folder, edit)
    before = tree(folder)
    assert main(WORDS) == 1
    ((command, schedule, *rest),) = started
    assert (command, schedule) == ("train", "--schedule=constant")
    assert not any(folder.name in word or "elsewhere" in word for word in rest)
    assert tree(folder) == before
    assert capsys.readouterr().err == "autoprog: stopped\n"


@pytest.mark.parametrize("name", ["bench.lock", "bench.json", "seed-0-constant"])
def test_no_link_is_followed(
    folder: Path, started: list[Sequence[str]], tmp_path: Path, name: str
) -> None:
    victim = tmp_path / "victim"
    (folder / name).rename(victim)
    (folder / name).symlink_to(victim)
    before = tree(folder) | tree(victim)
    with pytest.raises(ConfigError, match=rf"{name}: must be no symbolic link"):
        load_preset_bench(folder)
    assert main(WORDS) == 1
    assert not any(folder.name in word for words in started for word in words)
    assert tree(folder) | tree(victim) == before


@pytest.mark.parametrize("text", ["[" * 10_000, '{"schema": NaN}', "[]", "", "{}"])
def test_a_damaged_file_is_one_line(folder: Path, text: str) -> None:
    (folder / "bench.json").write_text(text)
    with pytest.raises(ConfigError, match=r"bench\.json: "):
        load_preset_bench(folder)


def test_a_readme_that_cannot_be_read_is_one_line(
    started: list[Sequence[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "R.md").write_bytes(b"\xff\xfe")
    assert main(["bench", "tier", "smoke", "--write", "R.md"]) == 2
    said = "autoprog: --write: R.md: must be a file that can be read: not UTF-8 text\n"
    assert (capsys.readouterr().err, started) == (said, [])
