"""Schedules side by side: arithmetic by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from autoprog.cli import main
from autoprog.schedule import GrowthSchedule
from autoprog.stage import FullModel, Stage, Training, relative_step_cost
from autoprog.ui.schedule_diff import schedule_diff
from autoprog.ui.subject import Subject, find_subject, preset_beside
from supernet.config import SubnetConfig
from supernet.zoo import ZOO

SPEC = ZOO["vit-mu"]
SMALL = relative_step_cost(SPEC, SubnetConfig(2, 8), Training())


def growing(*lengths: float | str, unit: str = "epochs") -> GrowthSchedule:
    """Return a schedule of small stages and a last one of the full model."""
    sizes = [(2, 8)] * (len(lengths) - 1) + [(4, 16)]
    stages = tuple(
        Stage(length=length, depth=depth, img_size=size)
        for length, (depth, size) in zip(lengths, sizes, strict=True)
    )
    return GrowthSchedule(full=FullModel.of(SPEC), length_unit=unit, stages=stages)


def file_of(path: Path, schedule: GrowthSchedule) -> str:
    path.write_text(schedule.to_yaml(), encoding="utf-8")
    return str(path)


def subject_of(path: Path, schedule: GrowthSchedule, epochs: float | None = None) -> Subject:
    return find_subject(file_of(path, schedule), None, epochs, None, 0.0)


def test_a_diff_names_where_schedules_differ_and_what_each_costs(tmp_path: Path) -> None:
    a = subject_of(tmp_path / "a.yaml", growing(2, 8))
    b = subject_of(tmp_path / "b.yaml", growing(4, 6))
    diff = schedule_diff(a, b)
    assert [(span.start_epoch, span.stop_epoch) for span in diff.spans] == [(0, 2), (2, 4), (4, 10)]
    first, second, third = (dict(span.differs) for span in diff.spans)
    assert (first, third) == ({}, {})
    assert (second["depth"], second["image px"]) == (("4", "2"), ("16", "8"))
    assert diff.axes == ("depth", "image px", "step cost")
    assert diff.costs[0].full_epochs == pytest.approx(2 * SMALL + 8)
    assert diff.macs_ratio == pytest.approx((4 * SMALL + 6) / (2 * SMALL + 8))
    assert diff.seconds_ratio is None


def test_a_schedule_does_not_differ_from_itself(tmp_path: Path) -> None:
    one = subject_of(tmp_path / "a.yaml", growing(2, 8))
    diff = schedule_diff(one, one)
    assert (diff.axes, diff.macs_ratio, len(diff.spans)) == ((), 1.0, 1)


def test_a_plan_is_drawn_for_the_classes_of_the_run_beside_it(
    tmp_path: Path, run_builder: Callable[[int], Path]
) -> None:
    """A head for ten classes is less of a small model's compute than one for a thousand."""
    run = find_subject(str(run_builder(5000)), None, None, None, 0.0)
    assert run.track is not None
    track, state = replace(run.track, num_classes=10), replace(run.state, num_classes=10)
    run = replace(run, track=track, state=state)
    plan = replace(run, run=None, track=replace(track, num_classes=1000))
    for diff in (schedule_diff(run, plan), schedule_diff(plan, run)):
        assert [one.num_classes for one in diff.tracks] == [10, 10]
        assert (diff.axes, diff.macs_ratio) == ((), 1.0)


def test_beyond_the_end_of_the_shorter_one_only_training_differs(tmp_path: Path) -> None:
    a, b = (subject_of(tmp_path / f"{n}.yaml", growing(2, n)) for n in (3, 5))
    (*_, last) = schedule_diff(a, b).spans
    assert (last.start_epoch, last.stop_epoch) == (5, 7)
    assert dict(last.differs) == {"training": ("has ended", "goes on")}


def test_show_diff_prints_text_and_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = file_of(tmp_path / "a.yaml", growing(2, 8))
    b = file_of(tmp_path / "b.yaml", growing(4, 6))
    assert main(["show", a, "--diff", b, "--plain"]) == 0
    text = capsys.readouterr().out
    ratio = (4 * SMALL + 6) / (2 * SMALL + 8)
    assert f"B costs {ratio:.3f}x of A by multiply-accumulates" in text
    assert text.isascii()
    rows = [line.split() for line in text.splitlines()[-3:]]
    assert [row[:2] for row in rows] == [["0", "2"], ["2", "4"], ["4", "10"]]
    assert rows[0].count("same") == 3
    assert rows[1][2:4] == ["4,", "2"]
    assert main(["show", a, "--diff", b, "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["macs_ratio"] == pytest.approx(ratio, abs=1e-12)
    assert body["spans"][1]["differs"]["image px"] == ["16", "8"]
    assert main(["show", a, "--diff", b, "--svg", str(tmp_path / "d.svg")]) == 0
    assert "Schedules" in (tmp_path / "d.svg").read_text(encoding="utf-8")


def test_show_diff_of_nothing_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = file_of(tmp_path / "a.yaml", growing(2, 8))
    assert main(["show", a, "--diff", "linaer"]) == 2
    assert "must be a run folder, last, a schedule file or a preset" in capsys.readouterr().err


def test_a_preset_takes_model_size_length_and_recipe_of_what_it_is_set_beside(
    tmp_path: Path, run_builder: Callable[[int], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    a = file_of(tmp_path / "a.yaml", growing(2, 8))
    for words in ([a, "--diff", "constant"], ["constant", "--diff", a]):
        assert main(["show", *words, "--json"]) == 0
        body = json.loads(capsys.readouterr().out)
        plan = body["a"] if words[0] == "constant" else body["b"]
        assert (plan["model"], plan["epochs"], plan["full_epochs"]) == ("vit-mu", 10, 10)
        assert {axis for span in body["spans"] for axis in span["differs"]} == {
            "depth",
            "image px",
            "step cost",
        }  # of a recipe that neither names nothing is made up
        assert body["notes"][0].startswith("constant is drawn for vit-mu at 16 px, 10 epochs and")
    run = find_subject(str(run_builder(5000)), None, None, None, 0.0)
    assert run.run is not None
    plan = preset_beside("linear", run)
    assert (plan.spec, plan.strength) == (run.spec, run.run.manifest.settings.recipe.strength)
    assert plan.epochs == pytest.approx(40)
    of_folder = subject_of(run.run.path / "best.yaml", growing(2, 8))
    assert of_folder.recipe == run.recipe
    assert "recipe digits" not in preset_beside("linear", run).notes[0]


def test_flags_win_over_what_a_preset_is_set_beside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = file_of(tmp_path / "a.yaml", growing(2, 8))
    words = ["--diff", "linear", "--epochs", "40", "--model", "deit-ti", "--recipe", "small-data"]
    assert main(["show", a, *words, "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert (body["b"]["model"], body["b"]["epochs"]) == ("deit-ti", 40)
    note = "linear is drawn for deit-ti at 224 px, 40 epochs and recipe small-data"
    assert body["notes"] == [note]
