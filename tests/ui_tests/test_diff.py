"""Schedules side by side, and copies with moved boundaries: arithmetic by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from autoprog.cli import main
from autoprog.effort import relative_step_cost
from autoprog.errors import ConfigError
from autoprog.schedule import GrowthSchedule, load_schedule
from autoprog.stage import FullModel, Stage, Training
from autoprog.ui.diff import schedule_diff
from autoprog.ui.draft import Draft, draft_of, save_draft
from autoprog.ui.subject import Subject, find_subject
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
    assert "must be a run folder, a schedule file or a preset" in capsys.readouterr().err


def drafted(schedule: GrowthSchedule, path: Path, epochs: float | None = None) -> Draft:
    return draft_of(subject_of(path, schedule, epochs))


def lengths(draft: Draft) -> list[float | str]:
    return [stage.length for stage in draft.schedule.stages]


def test_what_a_stage_gains_the_next_one_loses(tmp_path: Path) -> None:
    draft = drafted(growing(2, 3, 5), tmp_path / "a.yaml")
    later = draft.moved(1)
    assert lengths(later) == [3, 2, 5]
    assert lengths(later.next_boundary(1).moved(-1)) == [3, 1, 6]
    assert lengths(later.next_boundary(1).next_boundary(1)) == [3, 2, 5]
    assert later.next_boundary(2).boundary == 0
    assert (lengths(draft), draft.original) == ([2, 3, 5], draft.schedule)
    assert f"{(5 * SMALL + 5) / (5 * SMALL + 5):.3f}×" in later.cost_text()
    cheaper = later.next_boundary(1).moved(1)
    assert f"{(6 * SMALL + 4) / (5 * SMALL + 5):.3f}×" in cheaper.cost_text()


def test_a_move_that_breaks_a_law_is_refused_and_says_why(tmp_path: Path) -> None:
    draft = drafted(growing(1, 9), tmp_path / "a.yaml")
    refused = draft.moved(-1)
    assert lengths(refused) == [1, 9]
    assert "must be above 0" in refused.problem
    assert refused.moved(1).problem == ""


@pytest.mark.parametrize(("last", "moved"), [("rest", ["rest"]), (0.5, [0.49])])
def test_shares_move_by_a_hundredth_and_still_sum_to_one(
    last: float | str, moved: list[float | str], tmp_path: Path
) -> None:
    draft = drafted(growing(0.5, last, unit="share"), tmp_path / "a.yaml", 10)
    assert lengths(draft.moved(1)) == [0.51, *moved]
    assert "0.01 of the run" in draft.move_text


def test_a_rest_is_never_used_up(tmp_path: Path) -> None:
    draft = drafted(growing(9, "rest"), tmp_path / "a.yaml", 10)
    refused = draft.moved(1)
    assert lengths(refused) == [9, "rest"]
    assert "at least one step" in refused.problem


def test_measured_step_times_price_a_draft(tmp_path: Path) -> None:
    draft = drafted(growing(4, 6), tmp_path / "a.yaml")
    measured = {str(SubnetConfig(2, 8)): 0.1, str(SPEC.full): 0.4}
    priced = Draft(
        draft.original, draft.schedule, None, 10, boundary=0, step_seconds=measured
    ).moved(2)
    assert "steps take 22.0 s, not 28.0 s: 0.786×" in priced.cost_text()


def test_a_schedule_of_one_stage_has_no_boundary(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two stages or more"):
        drafted(growing(5), tmp_path / "a.yaml")


def test_a_draft_is_saved_to_new_files_outside_of_runs(tmp_path: Path) -> None:
    draft = drafted(growing(2, 8), tmp_path / "a.yaml").moved(1)
    path = tmp_path / "new.yaml"
    save_draft(draft, path)
    assert load_schedule(path) == draft.schedule == growing(3, 7)
    with pytest.raises(ConfigError, match="there is one of this name"):
        save_draft(draft, path)
    save_draft(draft.moved(1), path, overwrite=True)
    assert load_schedule(path) == growing(4, 6)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.yaml").touch()
    for inside in (tmp_path / "run" / "x.yaml", tmp_path / "run" / "deep" / "x.yaml"):
        with pytest.raises(ConfigError, match="must lie outside of run folders"):
            save_draft(draft, inside, overwrite=True)
    with pytest.raises(ConfigError, match="must be a place to write to"):
        save_draft(draft, tmp_path / "nowhere" / "x.yaml")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["run.yaml"]
