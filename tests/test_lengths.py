"""The lengths of a run, and how they are told apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprog.runs import RunFolder
from autoprog.schedule import GrowthSchedule, Lengths, load_schedule
from autoprog.settings import RunManifest
from autoprog.stage import FullModel, Stage, Training, relative_step_cost
from supernet.config import ModelSpec, SubnetConfig


@pytest.fixture
def growing(vit_mu: ModelSpec) -> GrowthSchedule:
    stages = (Stage(length=0.004, depth=2, img_size=8), Stage(length=5, depth=4, img_size=16))
    return GrowthSchedule(full=FullModel.of(vit_mu), stages=stages)


def test_each_length_of_a_search_is_named() -> None:
    lengths = Lengths(
        10, 0.5, steps=2100, trained_epochs=16.94, schedule_epochs=18.45, full_epochs=3.427
    )
    for said in (
        "16.94 epochs trained in 2,100 steps, those of supernets included;",
        "0.5 of the time of the full model's --epochs 10;",
        "the schedule has 18.45 epochs, with no steps of supernets;",
        "its multiply-accumulates are those of 3.427 full-model epochs",
    ):
        assert said in lengths.sentence()


def test_what_is_not_known_is_not_told() -> None:
    assert Lengths(schedule_epochs=300).sentence() == "the schedule has 300 epochs"
    assert "supernets" not in Lengths(steps=5, trained_epochs=1, schedule_epochs=1).sentence()
    assert Lengths(named_epochs=10).sentence() == "--epochs 10"


def test_a_stage_of_less_than_a_step_counts_for_what_it_is(growing: GrowthSchedule) -> None:
    small = relative_step_cost(growing.full.spec(), SubnetConfig(2, 8), Training(), 10)
    assert growing.full_model_epochs(10) == pytest.approx(5 + 0.004 * small, abs=1e-4)
    body = {**growing.model_dump(by_alias=True), "length_unit": "fraction"}
    body["stages"][1]["length"] = "rest"
    assert GrowthSchedule.model_validate(body).full_model_epochs(10) is None


def test_a_schedule_is_the_same_below_a_comment(
    tmp_path: Path, manifest: RunManifest, growing: GrowthSchedule
) -> None:
    folder = RunFolder.create(tmp_path, manifest)
    folder.write_schedule(growing, "best.yaml", f"Lengths: {'5.004 epochs; ' * 20}.")
    folder.close()
    lines = (folder.path / "best.yaml").read_text().splitlines()
    comment = [line for line in lines if line.startswith("# ")]
    assert len(comment) > 2
    assert max(map(len, comment)) <= 98
    assert load_schedule(folder.path / "best.yaml") == growing
