"""Event files, read back by TensorBoard's own reader."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from autoprog.api import run_training
from autoprog.cli import main
from autoprog.events import Evaluated, StepLogged, WarningRaised
from autoprog.files import read_rows
from autoprog.loggers.relay import Relay, replay
from autoprog.runs import Run, RunFolder, load_run
from autoprog.settings import RunManifest
from tests.logger_tests.conftest import FIRST, LOSSES, SECOND, Write

accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
FLAGS: Mapping[str, object] = {
    "model": "vit-mu",
    "epochs": 1,
    "workers": 0,
    "threads": 1,
    "device": "cpu",
    "quiet": True,
    "log_every_steps": 5,
}


def read(folder: Path):  # type: ignore[no-untyped-def]
    return accumulators.EventAccumulator(str(folder / "tensorboard")).Reload()


def series(reader, tag: str) -> list[tuple[int, float]]:  # type: ignore[no-untyped-def]
    return [(event.step, pytest.approx(event.value)) for event in reader.Scalars(tag)]


def test_a_run_that_went_on_has_each_point_once(
    folder: Path, manifest: RunManifest, write: Write
) -> None:
    watching = None
    for attempt, events in enumerate((FIRST, SECOND)):
        relay = Relay("tensorboard", folder, manifest)
        for event in events:
            write(attempt, event)
            assert relay.show(event) is None
        assert relay.close() is None
        watching = watching or read(folder)
        if attempt == 0:
            assert (30, 9.9) in series(watching, "train/loss")
    assert series(read(folder), "train/loss") == LOSSES
    assert series(read(folder), "val/top1") == [(20, 50.0), (40, 60.0)]
    assert watching is not None
    watching.Reload()  # a TensorBoard that was open all the time
    assert series(watching, "train/loss") == LOSSES


def test_a_replay_says_everything_once_again(
    folder: Path, manifest: RunManifest, write: Write
) -> None:
    for event in FIRST:
        write(0, event)
    for _ in range(2):
        where = replay("tensorboard", folder, manifest)
    assert where == f"tensorboard --logdir {folder / 'tensorboard'}"
    assert len(series(read(folder), "train/loss")) == 3


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    runs_dir = tmp_path_factory.mktemp("plain")
    return run_training("linear", runs_dir=runs_dir, eval_every_epochs=9.0, **FLAGS)


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Run:
    runs_dir = tmp_path_factory.mktemp("logged")
    return run_training("linear", runs_dir=runs_dir, log_tensorboard=True, **FLAGS)


def test_a_run_writes_what_its_log_says(logged: Run) -> None:
    reader = read(logged.path)
    events = list(logged.events())
    progress = [event for event in events if isinstance(event, StepLogged)]
    scores = [event for event in events if isinstance(event, Evaluated)]
    assert series(reader, "train/loss") == [(event.step, event.loss) for event in progress]
    assert series(reader, "train/lr") == [(event.step, event.lr) for event in progress]
    assert series(reader, "val/top1_ema") == [(event.step, event.top1_ema) for event in scores]
    depths = [value for _, value in series(reader, "schedule/depth")]
    assert (depths[0], depths[-1]) == (2, 4)
    assert len(series(reader, "growth/delta_loss")) == 2
    assert logged.result is not None
    assert series(reader, "result/top1") == [(progress[-1].step, logged.result.top1)]
    assert {"settings/text_summary", "growth/events/text_summary"} <= {*reader.Tags()["tensors"]}


def test_logging_changes_no_weight(plain: Run, logged: Run) -> None:
    one, other = (
        load_file(run.path / "checkpoints" / "final_ema.safetensors") for run in (plain, logged)
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_logger_that_fails_is_a_warning_and_the_run_ends_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: Run
) -> None:
    from autoprog.loggers.tensorboard import SummaryWriter

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no space left on device")

    monkeypatch.setattr(SummaryWriter, "add_scalar", fail)
    run = run_training("linear", runs_dir=tmp_path, log_tensorboard=True, **FLAGS)
    assert run.result is not None
    assert plain.result is not None
    assert run.result.top1 == plain.result.top1
    told = [event for event in run.events() if isinstance(event, WarningRaised)]
    (warning,) = (event for event in told if "largest class" not in event.message)
    assert "tensorboard has stopped (RuntimeError: no space left on device)" in warning.message


def test_the_command_passes_a_finished_run_on(
    plain: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(plain.path), "--format", "tensorboard"]) == 0
    assert capsys.readouterr().out == f"tensorboard --logdir {plain.path / 'tensorboard'}\n"
    progress = [event for event in plain.events() if isinstance(event, StepLogged)]
    expected = [(event.step, event.loss) for event in progress]
    assert series(read(plain.path), "train/loss") == expected


def test_a_run_without_a_log_is_refused(
    plain: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(plain.path / "run.yaml", tmp_path)
    assert main(["export", str(plain.path), str(tmp_path), "--format", "tensorboard"]) == 2
    assert f"{tmp_path}: must have an events.jsonl" in capsys.readouterr().err
    assert not (tmp_path / "tensorboard").exists()


def test_a_run_that_is_told_already_is_not_told_again(
    tmp_path: Path, manifest: RunManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = manifest.settings.model_copy(update={"log_tensorboard": True})
    folder = RunFolder.create(tmp_path, manifest.model_copy(update={"settings": settings}))
    command = ["export", str(folder.path), "--format", "tensorboard"]
    assert main(command) == 2
    assert "must not be going on with --log-tensorboard" in capsys.readouterr().err
    assert not (folder.path / "tensorboard").exists()
    folder.append(FIRST[0])
    folder.close()
    assert main(command) == 0
    assert load_run(folder.path).result is None


def test_a_run_that_goes_on_may_be_logged_from_its_start(plain: Run, tmp_path: Path) -> None:
    path = tmp_path / plain.path.name
    shutil.copytree(plain.path, path, ignore=shutil.ignore_patterns("result.json", "tensorboard"))
    (path / "checkpoints" / "stage-1-1.pt").replace(path / "checkpoints" / "last.pt")
    (path / "checkpoints" / "previous.pt").unlink(missing_ok=True)
    run = run_training(
        "linear", resume=path, log_tensorboard=True, quiet=True, workers=0, threads=1
    )
    attempts = {row["attempt"] for row in read_rows(path / "events.jsonl")}
    assert attempts == {0, 1}, "the second attempt replays what the first did after stage 2"
    of_log = [(e.step, e.loss) for e in run.events() if isinstance(e, StepLogged)]
    of_plain = [(e.step, e.loss) for e in plain.events() if isinstance(e, StepLogged)]
    assert series(read(path), "train/loss") == of_log == of_plain


def test_a_bench_logs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "runner", "--schedule", "constant", "--model", "vit-mu"]
    assert main([*command, "--log-tensorboard"]) == 2
    assert "--log-tensorboard: must be left out: a bench is no run" in capsys.readouterr().err
