from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from autoprog.commands.record import new_run_id
from autoprog.costs.table import table_of
from autoprog.decisions import Candidate, Decision
from autoprog.errors import ConfigError, RunError, RunExistsError
from autoprog.eventlog import effective_rows
from autoprog.events import CheckpointSaved, Event, RunStarted, WarningRaised
from autoprog.files import parse, parse_yaml
from autoprog.runs import Result, RunFolder, load_run, write_atomically
from autoprog.schedule import GrowthSchedule
from autoprog.settings import DataSettings, RunManifest, RunSettings, SearchSettings
from autoprog.space import find_space
from supernet.config import ModelSpec, SubnetConfig

Factory = Callable[[], RunFolder]


@pytest.fixture
def folder(tmp_path: Path, manifest: RunManifest) -> Iterator[RunFolder]:
    run = RunFolder.create(tmp_path / "runs", manifest)
    yield run
    run.close()


def started(step: int) -> RunStarted:
    return RunStarted(
        step=step,
        run_id="r",
        run_kind="train",
        model="vit-mu",
        total_steps=100,
        steps_per_epoch=10,
        epochs=10.0,
        num_images=640,
        device="cpu",
        amp="none",
        seed=0,
    )


def saved(step: int) -> CheckpointSaved:
    return CheckpointSaved(step=step, path="checkpoints/last.pt")


def said(step: int, message: str) -> WarningRaised:
    return WarningRaised(step=step, message=message)


def decision() -> Decision:
    subnet = SubnetConfig(2, 8)
    stay = Candidate(
        subnet=subnet,
        label="stay",
        loss=1.0,
        difference=0.0,
        difference_se=0.0,
        step_seconds=0.1,
        predicted_loss=0.5,
        remaining_seconds=10.0,
        score=0.5,
    )
    return Decision(
        index=0,
        step=10,
        epoch=1.0,
        rule="rollout",
        current=subnet,
        candidates=(stay,),
        winner=0,
        alpha=0.0,
        reason="the only one",
    )


def a_result(**changes: Any) -> Result:
    numbers = {
        name: 1
        for name, field in Result.model_fields.items()
        if field.annotation in (int, float) and field.is_required()
    }
    words = {name: name for name in ("run_id", "kind", "model", "device", "amp")}
    return Result.model_validate({**numbers, **words, "versions": {}, "schedule": {}, **changes})


@pytest.mark.parametrize(
    ("kind", "model", "schedule_from", "name"),
    [
        ("search", "deit-s", None, "search-deit-s"),
        ("train", "deit-s", "linear", "train-deit-s-linear"),
        ("train", "vit-xs", "efficienttrain:fourier", "train-vit-xs-efficienttrain-fourier"),
        ("train", "vit-xs", "runs/a-search/best.yaml", "train-vit-xs-best"),
        ("train", "vit-xs", "my plan (2) v1.5.yml", "train-vit-xs-my-plan-2-v1.5"),
        ("train", "vit-xs", "größe.yaml", "train-vit-xs-größe"),
        ("train", "vit-xs", "../*.yaml", "train-vit-xs"),
        ("train", "hf-hub:a/b", f"{'a' * 300}.yaml", f"train-hf-hub-a-b-{'a' * 40}"),
    ],
)
def test_a_run_is_named_after_its_time_kind_model_and_schedule(
    kind: str, model: str, schedule_from: str | None, name: str
) -> None:
    now = datetime(2026, 11, 22, 14, 30, 5)
    assert new_run_id(kind, model, schedule_from, now) == f"2026-11-22-143005-{name}"


def test_a_new_folder_has_its_manifest_and_nothing_done(
    folder: RunFolder, manifest: RunManifest
) -> None:
    run = load_run(folder.path)
    assert run.manifest == manifest
    assert (run.schedule, run.best, run.result) == (None, None, None)
    assert (run.decisions, run.costs, list(run.events())) == ((), {}, [])
    assert folder.checkpoints.is_dir()
    assert folder.path.name == manifest.run_id


def test_a_search_with_all_its_settings_reads_back(
    tmp_path: Path, manifest: RunManifest, vit_mu: ModelSpec
) -> None:
    file, where = find_space("vit-mu", "vit-mu")
    settings = RunSettings(
        **{
            **dict(manifest.settings),
            "kind": "search",
            "data": DataSettings(dir="data"),
            "search": SearchSettings(space=file.space(vit_mu, where), space_from=where),
            "workers": 3,
            "eval_every_epochs": 0.5,
        }
    )
    wanted = RunManifest(**{**dict(manifest), "settings": settings, "git": {"dirty": True}})
    RunFolder.create(tmp_path, wanted).close()
    assert load_run(tmp_path / wanted.run_id).manifest == wanted


def test_everything_written_is_read_again(folder: RunFolder, schedule_text: str) -> None:
    schedule = parse(GrowthSchedule, parse_yaml(schedule_text, "s"), "s")
    happened: list[Event] = [started(0), said(3, "ü"), saved(5)]
    for event in happened:
        folder.append(event)
    folder.record_decision(decision())
    folder.write_costs(table_of({"d2 r8": 0.125}, "costs"))
    folder.write_schedule(schedule)
    folder.write_schedule(schedule, "best.yaml")
    run = load_run(folder.path)
    assert list(run.events()) == happened
    assert run.decisions == (decision(),)
    assert run.costs == {"d2 r8": 0.125}
    assert (run.schedule, run.best) == (schedule, schedule)


def test_step_seconds_are_those_of_the_runs_own_batch_size(folder: RunFolder) -> None:
    batch = folder.manifest.settings.recipe.batch_size
    seconds = {f"d2 r8 b{batch}": 0.125, f"d4 r16 b{batch}": 0.5, "d4 r16 b7": 9.0}
    folder.write_costs(table_of(seconds, "costs"))
    assert load_run(folder.path).step_seconds == {"d2 r8": 0.125, "d4 r16": 0.5}


def test_rows_say_when_and_in_which_attempt(folder: RunFolder) -> None:
    folder.append(said(1, "x"))
    row = json.loads((folder.path / "events.jsonl").read_text())
    assert row["attempt"] == 0
    assert datetime.fromisoformat(row["time"]).tzinfo is not None


def test_a_folder_cannot_be_made_twice(folder: RunFolder, manifest: RunManifest) -> None:
    with pytest.raises(RunError, match="the run folder cannot be made: File exists"):
        RunFolder.create(folder.path.parent, manifest)


def test_runs_that_go_nowhere_are_no_name_that_is_taken(
    tmp_path: Path, manifest: RunManifest
) -> None:
    (tmp_path / "runs").symlink_to(tmp_path / "not mounted")
    with pytest.raises(RunError, match="cannot be made") as caught:
        RunFolder.create(tmp_path / "runs", manifest)
    assert not isinstance(caught.value, RunExistsError)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, manifest: RunManifest) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="the run folder cannot be made: Not a directory"):
        RunFolder.create(tmp_path / "file", manifest)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("events.jsonl", b'{"attempt": -1}\n'),
        ("events.jsonl", b'{"attempt": "0"}\n'),
        ("events.jsonl", b"\xff\x00\n"),
        ("decisions.jsonl", b"[1]\n"),
        ("inputs.jsonl", b"5\n"),
        ("fidelity.jsonl", b'{"a": NaN}\n'),
    ],
)
def test_a_log_that_is_none_of_ours_is_refused_as_it_is(
    folder: RunFolder, name: str, row: bytes
) -> None:
    folder.close()
    (folder.path / "run.lock").unlink()
    (folder.path / name).write_bytes(row + b"half a li")
    with pytest.raises(ConfigError, match=f"{name}: line 1"):
        RunFolder.reopen(folder.path)
    assert (folder.path / name).read_bytes() == row + b"half a li"
    assert not (folder.path / "run.lock").exists()


def test_each_reopening_counts_an_attempt(folder: RunFolder) -> None:
    folder.append(started(0))
    folder.close()
    for attempt in (1, 2):
        again = RunFolder.reopen(folder.path)
        assert again.attempt == attempt
        again.append(started(0))
        again.close()


def test_an_attempt_that_wrote_nothing_is_not_counted(folder: RunFolder) -> None:
    folder.close()
    again = RunFolder.reopen(folder.path)
    assert again.attempt == 0
    again.close()


def reopen_elsewhere(path: Path) -> subprocess.CompletedProcess[str]:
    program = (
        "import sys; from pathlib import Path; from autoprog.errors import RunError\n"
        "from autoprog.runs import RunFolder\n"
        "try: RunFolder.reopen(Path(sys.argv[1])).close()\n"
        "except RunError as error: print(error)\n"
        "else: print('open')\n"
    )
    return run_program(program, str(path))


def run_program(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


def test_a_second_writer_is_refused_until_the_first_has_closed(folder: RunFolder) -> None:
    refused = reopen_elsewhere(folder.path)
    assert refused.stdout.strip() == (
        f"{folder.path}: another process is writing this run; wait for it or stop it"
    )
    folder.close()
    assert reopen_elsewhere(folder.path).stdout.strip() == "open"


def test_a_reader_needs_no_lock(folder: RunFolder) -> None:
    folder.append(said(1, "x"))
    program = (
        "import sys; from autoprog.runs import load_run\n"
        "print(len(list(load_run(sys.argv[1]).events())))"
    )
    assert run_program(program, str(folder.path)).stdout.strip() == "1"


@pytest.mark.parametrize(
    "tail", ['{"kind": "war', '{"attempt": 0, "kind": "warning_raised"}', "\u00fc"]
)
def test_a_half_written_last_line_is_left_out_and_then_cut(folder: RunFolder, tail: str) -> None:
    folder.append(said(1, "whole"))
    folder.record_decision(decision())
    folder.close()
    whole = (folder.path / "events.jsonl").read_bytes()
    for name in ("events.jsonl", "decisions.jsonl"):
        with (folder.path / name).open("ab") as file:
            file.write(tail.encode()[:-1] or b"{")
    run = load_run(folder.path)
    assert (list(run.events()), len(run.decisions)) == ([said(1, "whole")], 1)
    again = RunFolder.reopen(folder.path)
    assert (folder.path / "events.jsonl").read_bytes() == whole
    again.append(said(2, "next"))
    again.close()
    assert list(load_run(folder.path).events()) == [said(1, "whole"), said(2, "next")]


@pytest.mark.parametrize("line", ["{broken\n", "5\n", "\n"])
def test_a_broken_line_in_the_middle_is_an_error(folder: RunFolder, line: str) -> None:
    folder.append(said(1, "a"))
    with (folder.path / "events.jsonl").open("a") as file:
        file.write(line)
    folder.append(said(2, "b"))
    with pytest.raises(ConfigError, match=r"events\.jsonl: line 2: must be a JSON object"):
        list(load_run(folder.path).events())


def test_a_folder_without_a_manifest_is_no_run(tmp_path: Path) -> None:
    for open_it in (load_run, RunFolder.reopen):
        with pytest.raises(ConfigError) as caught:
            open_it(tmp_path)
        assert str(caught.value) == f"{tmp_path}: must be a run folder with a run.yaml in it"


def test_a_result_makes_a_run_complete(folder: RunFolder) -> None:
    assert load_run(folder.path).result is None
    result = a_result(top1=71.5, run_id=folder.path.name)
    folder.write_result(result)
    assert load_run(folder.path).result == result
    assert json.loads((folder.path / "result.json").read_text())["schema"] == 2


@pytest.mark.parametrize("name", ["result.json", "costs.json"])
def test_a_spoilt_json_file_is_named(folder: RunFolder, name: str) -> None:
    (folder.path / name).write_text('{"top1": ')
    with pytest.raises(ConfigError) as caught:
        load_run(folder.path)
    assert str(caught.value) == f"{folder.path / name}: must be a JSON object"


def test_an_atomic_write_replaces_the_whole_text(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, "a long first text\n")
    write_atomically(path, "short ü\n")
    assert path.read_text(encoding="utf-8") == "short ü\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("moment", ["os.fsync", "pathlib.Path.replace"])
def test_a_writer_that_dies_leaves_the_old_file(tmp_path: Path, moment: str) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    program = (
        "import os, pathlib, sys; from autoprog.openfiles import write_atomically\n"
        f"{moment} = lambda *_: os._exit(9)\n"
        "write_atomically(pathlib.Path(sys.argv[1]), 'new')\n"
    )
    assert run_program(program, str(path)).returncode == 9
    assert path.read_text() == "old"
    write_atomically(path, "newer")
    assert path.read_text() == "newer"


Attempts = list[list[Event]]


def rows(attempts: Attempts) -> Iterator[dict[str, Any]]:
    for number, happened in enumerate(attempts):
        for event in happened:
            yield {"attempt": number, **event.model_dump(mode="json")}


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [
        pytest.param(
            [[started(0), said(3, "a")]], [started(0), said(3, "a")], id="a single attempt"
        ),
        pytest.param(
            [[started(0), said(3, "a")], [started(0), said(3, "b")]],
            [started(0), said(3, "b")],
            id="from step 0",
        ),
        pytest.param(
            [[started(0), said(3, "a"), saved(5), said(7, "b")], [started(5), said(7, "c")]],
            [started(0), said(3, "a"), saved(5), started(5), said(7, "c")],
            id="from a checkpoint",
        ),
        pytest.param(
            [
                [started(0), saved(5), said(7, "a"), saved(10), said(11, "b")],
                [started(5), said(7, "c")],
            ],
            [started(0), saved(5), started(5), said(7, "c")],
            id="from the checkpoint before the last",
        ),
        pytest.param(
            [
                [started(0), saved(5), said(7, "a")],
                [started(5), said(7, "b"), saved(10), said(12, "b")],
                [started(10), said(12, "c")],
            ],
            [started(0), saved(5), started(5), said(7, "b"), saved(10), started(10), said(12, "c")],
            id="twice, further on",
        ),
        pytest.param(
            [[started(0), saved(5), said(7, "a")], [started(5), said(7, "b")], [started(5)]],
            [started(0), saved(5), started(5)],
            id="twice from the same checkpoint",
        ),
        pytest.param(
            [[started(0), saved(5)], [started(5), said(7, "a")], [started(0), said(7, "b")]],
            [started(0), said(7, "b")],
            id="from a checkpoint, then from step 0",
        ),
        pytest.param(
            [[started(0), saved(5), said(5, "grown"), saved(5), said(6, "a")], [started(5)]],
            [started(0), saved(5), said(5, "grown"), saved(5), started(5)],
            id="from the later of two checkpoints of a step",
        ),
        pytest.param(
            [[started(0), said(5, "a"), said(6, "b")], [started(5), said(6, "c")]],
            [started(0), said(5, "a"), started(5), said(6, "c")],
            id="from a checkpoint whose row was lost",
        ),
    ],
)
def test_rows_that_a_later_attempt_replays_are_dropped(
    attempts: Attempts, expected: list[Event]
) -> None:
    kept = effective_rows(rows(attempts))
    assert [{**row, "attempt": None} for row in kept] == [
        {"attempt": None, **event.model_dump(mode="json")} for event in expected
    ]


def test_a_reader_of_a_resumed_run_sees_each_step_once(folder: RunFolder) -> None:
    for event in (started(0), saved(5), said(7, "first")):
        folder.append(event)
    folder.close()
    again = RunFolder.reopen(folder.path)
    for event in (started(5), said(7, "second")):
        again.append(event)
    again.close()
    assert list(load_run(folder.path).events()) == [
        started(0),
        saved(5),
        started(5),
        said(7, "second"),
    ]


def test_trials_outlive_the_start_of_the_training_after_them() -> None:
    rows = [
        {"kind": "run_started", "attempt": 0, "step": 0},
        {"kind": "trial_finished", "attempt": 0, "step": 0, "number": 0},
        {"kind": "step_logged", "attempt": 0, "step": 4},
        {"kind": "run_started", "attempt": 1, "step": 0},
    ]
    assert [row["kind"] for row in effective_rows(iter(rows))] == ["trial_finished", "run_started"]
