from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from autoprog.costs.table import CostKey, CostTable, StepCost
from autoprog.errors import ConfigError
from autoprog.runs import load_run
from autoprog.search import measured_costs
from autoprog.search.measured_costs import Costs, result_of
from autoprog.train.meter import typical_seconds
from autoprog.train.phase import Choice, plain_choice
from autoprog.train.trainer import Trainer
from supernet.config import SubnetConfig
from supernet.zoo import ZOO

SMALL, MIDDLE, FULL = SubnetConfig(2, 8), SubnetConfig(3, 12), SubnetConfig(4, 16)
BATCH = 16


@pytest.fixture
def trainer(lab: Any) -> Trainer:
    found: Trainer = lab.prepare(lab.settings()).trainer
    return found


def complete(costs: Costs, trainer: Trainer, choices: list[Choice]) -> bool:
    return result_of(costs.complete(trainer, choices))


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "costs.json"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_name_holds_depth_size_and_batch() -> None:
    assert CostKey(SubnetConfig(6, 128), 1024).name == "d6 r128 b1024"
    assert CostKey(SubnetConfig((4, 14), 224), 64).name == "d4+14 r224 b64"


def test_costs_are_those_of_their_batch_size(tmp_path: Path) -> None:
    path = written(tmp_path, '{"d2 r8 b16": 0.5, "d2 r8 b64": 0.9, "d3 r12 b16": 1}')
    costs = Costs.read(path, BATCH)
    assert (costs.get(SMALL), costs.get(MIDDLE), costs.get(FULL)) == (0.5, 1, None)
    assert Costs.read(path, 64).get(SMALL) == 0.9


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"d2 r8 b16": 0}', "d2 r8 b16: must be seconds above 0, but got 0"),
        ('{"d2 r8 b16": -0.1}', "d2 r8 b16: must be seconds above 0, but got -0.1"),
        ('{"d2 r8 b16": "fast"}', "d2 r8 b16: must be seconds above 0, but got 'fast'"),
        ('{"d2 r8 b16": null}', "d2 r8 b16: must be seconds above 0, but got None"),
        ('{"d2 r8 b16": true}', "d2 r8 b16: must be seconds above 0, but got True"),
        ('{"d2 r8 b16": NaN}', "d2 r8 b16: must be seconds above 0, but got nan"),
        ('{"d2 r8 b16": Infinity}', "d2 r8 b16: must be seconds above 0, but got inf"),
        (
            '{"d2r8 b16": 0.1}',
            "must be the name of a step, such as 'd6 r128 b1024', but got 'd2r8 b16'",
        ),
        (
            '{"schema": 2, "step_costs": {"d2 r8 b16": {"seconds": -1}}}',
            "step_costs.d2 r8 b16.seconds: must be a number from 1e-09 to 1e+10, but got -1",
        ),
        ("[0.1, 0.2]", "must be seconds above 0, but got [0.1, 0.2]"),
        ('{"d2 r8 b16": 0.1', "must be a readable JSON file of step seconds"),
        ("", "must be a readable JSON file of step seconds"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as refused:
        Costs.read(path, BATCH)
    assert str(refused.value) == f"{path}: {complaint}"


def test_a_missing_file_a_folder_and_binary_rubbish_are_refused(tmp_path: Path) -> None:
    rubbish, deep, pipe, large = (tmp_path / name for name in ("rubbish", "deep", "pipe", "large"))
    rubbish.write_bytes(b"\xff\xfe\x00")
    deep.write_text("[" * 100_000)
    os.mkfifo(pipe)
    with large.open("wb") as file:
        file.truncate(2**40)
    for path in (tmp_path / "none.json", tmp_path, rubbish, deep, pipe, large, Path("/dev/zero")):
        with pytest.raises(ConfigError, match="must be a readable JSON file"):
            Costs.read(path, BATCH)


def test_a_bad_file_is_refused_before_the_search_begins(lab: Any, tmp_path: Path) -> None:
    settings = lab.settings(costs=written(tmp_path, '{"d2 r8 b16": 0}'))
    with pytest.raises(ConfigError, match="must be seconds above 0"):
        lab.prepare(settings)


def test_the_median_leaves_out_the_first_step() -> None:
    assert typical_seconds([9.0, 1.0, 2.0, 3.0]) == 2.0
    assert typical_seconds([9.0, 1.0]) == 1.0
    assert typical_seconds([9.0]) is None
    assert typical_seconds([]) is None


def test_the_seconds_of_own_steps_are_taken_where_there_are_any(trainer: Trainer) -> None:
    trainer.phase_seconds[SMALL] = [50.0, 2.0, 1.0, 3.0]
    costs = Costs({}, BATCH)
    assert complete(costs, trainer, [plain_choice(SMALL)])
    assert costs.seconds == {"d2 r8 b16": 2.0}


@pytest.mark.parametrize("seconds", [[], [50.0]])
def test_a_missing_cell_is_measured(trainer: Trainer, seconds: list[float]) -> None:
    trainer.phase_seconds[MIDDLE] = seconds
    costs = Costs({}, BATCH)
    assert complete(costs, trainer, [Choice(MIDDLE, ((0, 1, 3),))])
    assert 0 < costs.seconds["d3 r12 b16"] < 10


def test_what_is_on_record_is_never_measured_again(trainer: Trainer) -> None:
    trainer.phase_seconds[SMALL] = [50.0, 2.0]
    costs = Costs({"d2 r8 b16": 0.5}, BATCH)
    assert not complete(costs, trainer, [plain_choice(SMALL)])
    assert costs.get(SMALL) == 0.5


@pytest.mark.parametrize(("accumulated", "parts"), [(1, [16]), (4, [4, 4, 4, 4])])
def test_measuring_takes_a_batch_in_the_parts_that_training_takes_it_in(
    lab: Any, accumulated: int, parts: list[int]
) -> None:
    """Sizes are those of the full model, the reference, and of the cell: an untimed step and more, twice."""
    settings = lab.settings(recipe={"grad_accum_steps": accumulated})
    trainer = lab.prepare(settings).trainer
    seen: list[torch.Size] = []
    trainer.stepper.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    complete(Costs({}, BATCH), trainer, [plain_choice(MIDDLE)])
    middle = [shape for shape in seen if shape[-1] == 12]
    times = len(middle) // len(parts)
    assert times >= 4
    assert middle == [torch.Size((part, 3, 12, 12)) for part in parts] * times
    assert set(seen) == {torch.Size((parts[0], 3, px, px)) for px in (12, 16)}


def test_all_missing_cells_are_measured_in_one_go_with_their_data(trainer: Trainer) -> None:
    search = trainer.settings.search
    assert search is not None
    quick = search.model_copy(update={"profile_seconds": 2.0})
    trainer.settings = trainer.settings.model_copy(update={"search": quick})
    trainer.total_steps = 10**9  # of which a hundredth is time enough
    costs = Costs({}, BATCH)
    assert complete(costs, trainer, [plain_choice(s) for s in (SMALL, MIDDLE, FULL)])
    assert set(costs.seconds) == {"d2 r8 b16", "d3 r12 b16", "d4 r16 b16"}
    assert {cost.source for cost in costs.table.step_costs.values()} == {"grid"}
    assert all((cost.data_seconds or 0) > 0 for cost in costs.table.step_costs.values())
    assert costs.table.conditions["workers"] == 0
    assert 0 < costs.spent_seconds < 10


def test_own_steps_and_the_grid_stand_side_by_side(trainer: Trainer) -> None:
    trainer.phase_seconds[SMALL] = [50.0, 2.0, 1.0, 3.0]
    costs = Costs({}, BATCH)
    complete(costs, trainer, [plain_choice(SMALL), plain_choice(MIDDLE)])
    own, grid = costs.table.step_costs["d2 r8 b16"], costs.table.step_costs["d3 r12 b16"]
    assert (own.source, own.rounds, own.interval, own.data_seconds) == ("own", 3, (1.0, 3.0), None)
    assert grid.source == "grid"


def test_what_a_later_measurement_says_of_the_full_cell_changes_nothing(trainer: Trainer) -> None:
    costs = Costs({"d4 r16 b16": 0.5}, BATCH)
    complete(costs, trainer, [plain_choice(MIDDLE)])
    assert costs.get(FULL) == 0.5
    assert costs.table.step_costs["d4 r16 b16"].source == "file"
    assert 0.05 < costs.seconds["d3 r12 b16"] < 1.0, "on the scale of the full cell on record"


def test_no_more_is_measured_when_the_time_is_spent(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float] = []
    measure = measured_costs.measure_step_costs

    def watched(trainer: Trainer, cells: Any, given: Any, **more: Any) -> Any:
        limits.append(given.seconds)
        return measure(trainer, cells, given, **more)

    monkeypatch.setattr(measured_costs, "measure_step_costs", watched)
    costs = Costs({}, BATCH)
    complete(costs, trainer, [plain_choice(SMALL)])
    complete(costs, trainer, [plain_choice(MIDDLE)])
    assert limits[0] == 20.0
    assert 0 < limits[1] < 20.0
    costs.spent_seconds = 1e9
    unknown = SubnetConfig(1, 8)
    assert not complete(costs, trainer, [plain_choice(unknown)])
    assert (len(limits), costs.get(unknown)) == (2, None)
    assert costs.all_seconds(ZOO["vit-mu"], [unknown])["d1 r8"] > 0
    trainer.phase_seconds[unknown] = [50.0, 2.0]
    assert complete(costs, trainer, [plain_choice(unknown)]), "own steps take no time"


def test_seconds_of_all_subnets_come_with_their_data_and_with_estimates() -> None:
    cells = {
        "d2 r8 b16": StepCost(seconds=0.1, data_seconds=0.01),
        "d4 r8 b16": StepCost(seconds=0.2, data_seconds=0.01),
        "d4 r16 b16": StepCost(seconds=0.8, data_seconds=0.04),
    }
    costs = Costs(CostTable(step_costs=cells), BATCH)
    found = costs.all_seconds(ZOO["vit-mu"], [SMALL, SubnetConfig(3, 8), FULL])
    assert found["d2 r8"] == pytest.approx(0.11)
    assert found["d4 r16"] == pytest.approx(0.84)
    assert found["d3 r8"] == pytest.approx(0.16, rel=0.1)


def test_a_round_trip_over_the_disk_changes_nothing(trainer: Trainer) -> None:
    costs = Costs({}, BATCH)
    complete(costs, trainer, [plain_choice(SMALL)])
    trainer.folder.write_costs(costs.table)
    assert load_run(trainer.folder.path).cost_table == costs.table
    read = Costs.read(trainer.folder.path / "costs.json", BATCH)
    assert read.table == costs.table.as_given()


def test_given_costs_are_on_record_in_the_run_folder_from_the_start(lab: Any) -> None:
    given = lab.costs()
    searcher = lab.prepare(lab.settings(costs=given))
    recorded = load_run(searcher.trainer.folder.path)
    assert recorded.costs == json.loads(given.read_text())
    assert {cost.source for cost in recorded.cost_table.step_costs.values()} == {"file"}


def test_a_run_that_goes_on_keeps_its_own_costs(lab: Any) -> None:
    settings = lab.settings(costs=lab.costs())
    searcher = lab.prepare(settings)
    before = dict(searcher.costs.seconds)
    searcher.trainer.folder.close()
    lab.costs(**{"d2 r8 b16": 7.0})
    assert lab.prepare(settings).costs.seconds == before
    assert before["d2 r8 b16"] != 7.0


def begun(searcher: Any) -> None:
    """Carry a search out until its first stage has started, which nothing is measured after."""
    events = searcher.run()
    next(event for event in events if event.kind == "stage_started")
    events.close()  # type: ignore[attr-defined]


def test_a_search_measures_a_grid_before_its_first_step_and_never_again(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    searcher = lab.prepare(lab.settings())
    begun(searcher)
    folder = searcher.trainer.folder
    recorded = load_run(folder.path).cost_table
    assert {"d1 r8 b16", "d4 r16 b16"} <= set(recorded.step_costs)
    assert {cost.source for cost in recorded.step_costs.values()} == {"grid"}
    assert recorded.conditions["device"] == "cpu"
    assert searcher.trainer.ledger.seconds["search"] > 0
    folder.close()
    monkeypatch.setattr(measured_costs, "measure_step_costs", None)  # what is called fails
    again = lab.prepare(lab.settings())
    begun(again)
    assert again.costs.table == recorded


def test_a_search_that_is_given_all_costs_measures_none(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured_costs, "measure_step_costs", None)
    begun(lab.prepare(lab.settings(costs=lab.costs())))
