"""Checkpoints: whole or not there, read without running what is in them."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from autoprog.errors import RunError
from autoprog.train.checkpoint import load_newest, publish, write_pending
from autoprog.train.run import train_schedule


def write(folder: Path, step: int, keep_as: str | None = None) -> None:
    publish(
        folder, write_pending(folder, {"step": step, "weights": torch.full((3,), step)}), keep_as
    )


def steps(folder: Path) -> dict[str, int]:
    return {
        path.name: torch.load(path, weights_only=True)["step"] for path in sorted(folder.iterdir())
    }


def test_the_last_two_and_those_with_a_name_are_kept(tmp_path: Path) -> None:
    assert load_newest(tmp_path) == (None, [])
    for step in (1, 2, 3, 4):
        write(tmp_path, step, keep_as="stage-0-0" if step == 2 else None)
    assert steps(tmp_path) == {"last.pt": 4, "previous.pt": 3, "stage-0-0.pt": 2}
    state, complaints = load_newest(tmp_path)
    assert state is not None
    assert (state["step"], complaints) == (4, [])


def test_a_copy_by_name_is_replaced_when_its_stage_is_replayed(tmp_path: Path) -> None:
    write(tmp_path, 1, keep_as="stage-0-0")
    write(tmp_path, 2, keep_as="stage-0-0")
    assert steps(tmp_path) == {"last.pt": 2, "previous.pt": 1, "stage-0-0.pt": 2}


def test_a_file_system_without_links_gets_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    write(tmp_path, 1, keep_as="stage-0-0")
    assert steps(tmp_path) == {"last.pt": 1, "stage-0-0.pt": 1}


def test_a_write_that_dies_leaves_the_published_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(_: int) -> None:
        raise SystemExit

    write(tmp_path, 1)
    write(tmp_path, 2)
    monkeypatch.setattr(os, "fsync", die)
    with pytest.raises(SystemExit):
        write_pending(tmp_path, {"step": 3})
    state, complaints = load_newest(tmp_path)
    assert state is not None
    assert (state["step"], complaints) == (2, [])


def test_a_death_between_the_two_renames_leaves_the_previous_one(tmp_path: Path) -> None:
    write(tmp_path, 1)
    (tmp_path / "last.pt").rename(tmp_path / "previous.pt")
    write_pending(tmp_path, {"step": 2})
    state, complaints = load_newest(tmp_path)
    assert state is not None
    assert (state["step"], complaints) == (1, [])


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.mark,)


def foreign(kind: str, path: Path, mark: Path) -> None:
    whole = path.read_bytes()
    match kind:
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("epoch: 3\n" * 100, encoding="utf-8")
        case "pickle":
            path.write_bytes(pickle.dumps(Evil(mark)))
        case "old format":
            torch.save(Evil(mark), path, _use_new_zipfile_serialization=False)
        case "zip with a pickle":
            torch.save({"schema": 2, "step": 9, "model": Evil(mark)}, path)
        case "another version":
            torch.save({"schema": 99, "step": 9}, path)
        case "bare weights":
            torch.save([torch.zeros(3)], path)
        case "flipped bits":
            path.write_bytes(
                bytes(byte ^ 0x55 if i % 97 == 0 else byte for i, byte in enumerate(whole))
            )
        case _:
            path.write_bytes(whole[: int(len(whole) * float(kind))])


KINDS = (
    *("0.1", "0.5", "0.9", "0.999"),
    *("empty", "text", "pickle", "old format", "zip with a pickle", "another version"),
    *("bare weights", "flipped bits"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_read_is_passed_over_and_never_executed(tmp_path: Path, kind: str) -> None:
    folder, mark = tmp_path / "checkpoints", tmp_path / "mark"
    folder.mkdir()
    write(folder, 1)
    write(folder, 2)
    foreign(kind, folder / "last.pt", mark)
    state, complaints = load_newest(folder)
    assert state is not None
    assert state["step"] == 1
    assert len(complaints) == 1
    assert complaints[0].startswith("last.pt cannot be read (")
    assert "\n" not in complaints[0]
    assert not mark.exists()


def test_the_evil_file_is_evil(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Evil(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()


def test_a_start_from_nothing_readable_is_told(tmp_path: Path) -> None:
    for name in ("last.pt", "previous.pt"):
        (tmp_path / name).write_bytes(b"nothing")
    state, complaints = load_newest(tmp_path)
    assert state is None
    assert complaints == [
        "last.pt cannot be read (damaged, or not a checkpoint)",
        "previous.pt cannot be read (damaged, or not a checkpoint)",
        "no checkpoint can be read: the run starts from the beginning",
    ]


def test_a_run_falls_back_with_a_warning_and_ends_in_the_same_bits(
    bench: Any, straight: Callable[..., Any]
) -> None:
    settings, schedule = bench.settings(bench.rich), bench.ramped()
    trainer = bench.trainer(settings, schedule)
    bench.signal_during(trainer, 30)
    stopped = bench.carry_out(trainer, schedule)
    assert stopped.state["step"] == 31
    last = stopped.path / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:-1000])
    finished = bench.resume(stopped.path, schedule, settings)
    (warning,) = finished.of("warning_raised")
    assert warning.step == 24
    assert warning.message == "last.pt cannot be read (damaged, or not a checkpoint)"
    assert bench.differences(finished.exact, straight(settings, schedule).exact) == []


def no_folder(folder: Path, _: set[Path]) -> None:
    folder.rmdir()
    folder.write_text("a file", encoding="utf-8")


def full_disk(folder: Path, no_room_for: set[Path]) -> None:
    no_room_for.add(folder / ".next.pt")


def no_renaming(folder: Path, _: set[Path]) -> None:
    (folder / "last.pt").mkdir()
    (folder / "previous.pt").write_text("a file where a folder would go", encoding="utf-8")


@pytest.mark.parametrize("damage", [no_folder, full_disk, no_renaming])
def test_a_folder_that_cannot_be_written_stops_the_run_in_one_line(
    bench: Any, no_room_for: set[Path], damage: Callable[[Path, set[Path]], None]
) -> None:
    schedule = bench.ramped()
    trainer = bench.trainer(bench.settings(), schedule)
    events = train_schedule(trainer, schedule)
    next(events)
    damage(trainer.folder.checkpoints, no_room_for)
    with pytest.raises(RunError) as error:
        list(events)
    trainer.folder.close()
    start = f"{trainer.folder.checkpoints}: the checkpoint cannot be written: "
    assert str(error.value).startswith(start)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_stops_the_run_in_one_line(bench: Any) -> None:
    schedule = bench.ramped()
    trainer = bench.trainer(bench.settings(), schedule)
    trainer.folder.checkpoints.chmod(0o500)
    with pytest.raises(RunError, match=r"the checkpoint cannot be written: .*Permission denied"):
        list(train_schedule(trainer, schedule))
    trainer.folder.close()


def test_a_full_disk_leaves_the_published_checkpoints(
    tmp_path: Path, no_room_for: set[Path]
) -> None:
    write(tmp_path, 1)
    write(tmp_path, 2)
    full_disk(tmp_path, no_room_for)
    with pytest.raises(RunError, match="cannot be written"):
        write_pending(tmp_path, {"step": 3, "weights": torch.zeros(10_000)})
    assert steps(tmp_path) == {"last.pt": 2, "previous.pt": 1}


def test_final_weights_that_cannot_be_written_are_one_line(bench: Any) -> None:
    schedule = bench.ramped()
    trainer = bench.trainer(bench.settings(), schedule)
    (trainer.folder.checkpoints / "final.safetensors").mkdir()
    with pytest.raises(RunError) as error:
        list(train_schedule(trainer, schedule))
    trainer.folder.close()
    assert "final.safetensors: the weights cannot be written: " in str(error.value)
    assert not (trainer.folder.path / "result.json").exists()


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a negative step": lambda s: s.update(step=-1),
    "a huge step": lambda s: s.update(step=10**30),
    "a text for a step": lambda s: s.update(step="3"),
    "a tensor for a step": lambda s: s.update(step=torch.ones(3)),
    "no step": lambda s: s.pop("step"),
    "a list for weights": lambda s: s.update(model=[1]),
    "weights of another shape": lambda s: s["model"].update({"head.bias": torch.zeros(3)}),
    "whole numbers": lambda s: s["model"].update({"head.bias": s["model"]["head.bias"].long()}),
    "not finite": lambda s: s["model"].update({"head.bias": s["model"]["head.bias"] * torch.nan}),
    "no averages": lambda s: s.update(emas=[]),
    "a text for an average": lambda s: s.update(emas=["x"]),
    "no optimizer": lambda s: s.update(optimizer={}),
    "no groups": lambda s: s["optimizer"].update(param_groups=[]),
    "a text for betas": lambda s: s["optimizer"]["param_groups"][0].update(betas="x"),
    "moments of another shape": lambda s: s["optimizer"]["state"][0].update(exp_avg=torch.ones(2)),
    "no moments": lambda s: s["optimizer"]["state"][0].pop("exp_avg"),
    "a scaler without values": lambda s: s.update(scaler={"scale": 1.0}),
    "seconds in words": lambda s: s.update(seconds={"train": "long"}),
    "another subnet": lambda s: s["steps_by_subnet"].append([[10**9], 16, [1.0, "x", (0,)], 3]),
    "an evaluation of nothing": lambda s: s.update(last_evaluation={}),
    "a best one without a step": lambda s: s.update(best={"step": None}),
    "counts in words": lambda s: s.update(by_class={"images": ["x"]}),
    "search state in a list": lambda s: s.update(search_state=[]),
    "no micro-batch": lambda s: s.update(micro_batches=0),
    "rollbacks without end": lambda s: s.update(rollbacks=10**9),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_values_of_other_types_are_passed_over_before_anything_is_restored(
    bench: Any, change: Callable[[dict[str, Any]], Any]
) -> None:
    schedule = bench.ramped()
    trainer = bench.trainer(bench.settings(), schedule)
    bench.signal_during(trainer, 3)
    path = bench.carry_out(trainer, schedule).path / "checkpoints"
    publish(path, write_pending(path, torch.load(path / "last.pt", weights_only=True)))
    state = torch.load(path / "last.pt", weights_only=True)
    change(state)
    torch.save(state, path / "last.pt")
    before = {key: value.clone() for key, value in trainer.stepper.model.state_dict().items()}
    found, complaints = load_newest(path, trainer.check_state)
    assert found is not None
    assert found["step"] == trainer.step
    assert len(complaints) == 1
    assert complaints[0].startswith("last.pt does not fit this run (")
    assert "\n" not in complaints[0]
    after = trainer.stepper.model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


@pytest.mark.parametrize("schema", [torch.ones(4), torch.ones(1), "1", None, 3, [1]])
def test_a_checkpoint_of_another_schema_is_passed_over(schema: Any, tmp_path: Path) -> None:
    torch.save({"schema": schema}, tmp_path / "last.pt")
    state, complaints = load_newest(tmp_path)
    assert state is None
    assert complaints[0] == "last.pt cannot be read (not a checkpoint of this version)"
