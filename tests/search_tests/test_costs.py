from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from autoprog.errors import ConfigError
from autoprog.search.profile import Costs, cell_name, measure_seconds
from autoprog.train.phase import Choice, plain_choice
from autoprog.train.timing import typical_seconds
from autoprog.train.trainer import Trainer
from supernet.config import SubnetConfig

SMALL, MIDDLE, FULL = SubnetConfig(2, 8), SubnetConfig(3, 12), SubnetConfig(4, 16)
BATCH = 16


@pytest.fixture
def trainer(lab: Any) -> Trainer:
    found: Trainer = lab.prepare(lab.settings()).trainer
    return found


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "costs.json"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_cell_names_depth_size_and_batch() -> None:
    assert cell_name(SubnetConfig(6, 128), 1024) == "d6 r128 b1024"
    assert cell_name(SubnetConfig((4, 14), 224), 64) == "d4+14 r224 b64"


def test_costs_are_those_of_their_batch_size(tmp_path: Path) -> None:
    path = written(tmp_path, '{"d2 r8 b16": 0.5, "d2 r8 b64": 0.9, "d3 r12 b16": 1}')
    costs = Costs.read(path, BATCH)
    assert (costs.get(SMALL), costs.get(MIDDLE), costs.get(FULL)) == (0.5, 1, None)
    assert Costs.read(path, 64).seconds_of(SMALL) == 0.9


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
    rubbish = tmp_path / "rubbish"
    rubbish.write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none.json", tmp_path, rubbish):
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
    assert costs.complete(trainer, [plain_choice(SMALL)])
    assert costs.seconds == {"d2 r8 b16": 2.0}


@pytest.mark.parametrize("seconds", [[], [50.0]])
def test_a_missing_cell_is_measured(trainer: Trainer, seconds: list[float]) -> None:
    trainer.phase_seconds[MIDDLE] = seconds
    costs = Costs({}, BATCH)
    assert costs.complete(trainer, [Choice(MIDDLE, ((0, 1, 3),))])
    assert 0 < costs.seconds_of(MIDDLE) < 10


def test_what_is_on_record_is_never_measured_again(trainer: Trainer) -> None:
    trainer.phase_seconds[SMALL] = [50.0, 2.0]
    costs = Costs({"d2 r8 b16": 0.5}, BATCH)
    assert not costs.complete(trainer, [plain_choice(SMALL)])
    assert costs.seconds_of(SMALL) == 0.5


def test_measuring_changes_no_weight_and_leaves_no_gradient(trainer: Trainer) -> None:
    stepper = trainer.stepper
    before = copy.deepcopy(stepper.model.state_dict())
    assert measure_seconds(stepper, plain_choice(FULL), trainer, repeats=1) > 0
    assert all(t.equal(before[name]) for name, t in stepper.model.state_dict().items())
    assert all(parameter.grad is None for parameter in stepper.model.parameters())
    assert stepper.optimizer.state == {}


@pytest.mark.parametrize(("accumulated", "parts"), [(1, [16]), (4, [4, 4, 4, 4])])
def test_measuring_takes_a_batch_in_the_parts_that_training_takes_it_in(
    lab: Any, accumulated: int, parts: list[int]
) -> None:
    settings = lab.settings(recipe={"grad_accum_steps": accumulated})
    trainer = lab.prepare(settings).trainer
    seen: list[torch.Size] = []
    trainer.stepper.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    measure_seconds(trainer.stepper, plain_choice(MIDDLE), trainer, repeats=1)
    assert seen == [torch.Size((part, 3, 12, 12)) for part in parts] * 2


def test_given_costs_are_on_record_in_the_run_folder_from_the_start(lab: Any) -> None:
    given = lab.costs()
    searcher = lab.prepare(lab.settings(costs=given))
    recorded = json.loads((searcher.trainer.folder.path / "costs.json").read_text())
    assert recorded == json.loads(given.read_text())


def test_a_run_that_goes_on_keeps_its_own_costs(lab: Any) -> None:
    settings = lab.settings(costs=lab.costs())
    searcher = lab.prepare(settings)
    before = dict(searcher.costs.seconds)
    searcher.trainer.folder.close()
    lab.costs(**{"d2 r8 b16": 7.0})
    assert lab.prepare(settings).costs.seconds == before
    assert before["d2 r8 b16"] != 7.0
