"""What a schedule will take, against sums by hand."""

from __future__ import annotations

from typing import Any

import pytest

from autoprog.costs.model import CostModel, predict_seconds
from autoprog.costs.table import CostTable, StepCost
from autoprog.schedule import GrowthSchedule
from autoprog.stage import FullModel
from autoprog.steptable import StepTable
from supernet.zoo import ZOO

MU = ZOO["vit-mu"]
BATCH = 16
SECONDS = {"d2 r8 b16": 0.1, "d3 r12 b16": 0.3, "d4 r16 b16": 1.0}
DATA = {"d2 r8 b16": 0.04, "d3 r12 b16": 0.05, "d4 r16 b16": 0.06}
STAGES: tuple[dict[str, Any], ...] = (
    {"length": 10, "depth": 2, "img_size": 8},
    {"length": 20, "depth": 3, "img_size": 12},
    {"length": 30, "depth": 4, "img_size": 16},
)


def steps(*stages: dict[str, Any], **values: Any) -> StepTable:
    body = {"full": FullModel.of(MU), "length_unit": "steps", "stages": stages or STAGES, **values}
    return GrowthSchedule.model_validate(body).resolve(10, None)


def costs(
    data: dict[str, float] | None = None, overlap: float = 0.0, **seconds: float
) -> CostModel:
    waits = DATA if data is None else data
    cells = {
        name: StepCost(seconds=s, data_seconds=waits.get(name))
        for name, s in (seconds or SECONDS).items()
    }
    return CostModel(MU, CostTable(overlap=overlap, step_costs=cells))


def test_seconds_add_up_over_a_schedule() -> None:
    found = predict_seconds(steps(), costs(), BATCH)
    assert found.train == pytest.approx(10 * 0.1 + 20 * 0.3 + 30 * 1.0)
    assert found.data == pytest.approx(10 * 0.04 + 20 * 0.05 + 30 * 0.06)
    assert found.total == found.train + found.data


def test_with_workers_only_what_is_not_hidden_is_waited_for() -> None:
    slow = {"d2 r8 b16": 0.4, "d3 r12 b16": 0.2, "d4 r16 b16": 0.2}
    found = predict_seconds(steps(), costs(slow, overlap=1.0), BATCH)
    assert found.train == pytest.approx(37.0)
    assert found.data == pytest.approx(10 * 0.3)


def test_unknown_data_counts_as_none() -> None:
    assert predict_seconds(steps(), costs({}), BATCH).data == 0


def test_larger_batches_are_cells_of_their_own() -> None:
    scaled = [{**STAGES[0], "batch_scale": 2.0}, *STAGES[1:]]
    model = costs(**SECONDS, **{"d2 r8 b32": 0.17})
    found = predict_seconds(steps(*scaled), model, BATCH)
    assert found.train == pytest.approx(10 * 0.17 + 20 * 0.3 + 30 * 1.0)


def test_a_sandwich_step_is_its_four_passes() -> None:
    sandwich = {"sandwich": {"sizes": [8, 12], "keep_rates": [0.5]}}
    stage = {"length": 10, "depth": 4, "img_size": 16, "step": sandwich}
    seconds = {
        "d4 r16 b16": 1.0,
        "d4 r16 k0.5 b16": 0.6,
        "d4 r8 b16": 0.2,
        "d4 r12 b16": 0.4,
        "d4 r8 k0.5 b16": 0.1,
        "d4 r12 k0.5 b16": 0.3,
    }
    model = costs({}, **seconds)
    found = predict_seconds(steps(stage, end="free"), model, BATCH)
    four = 1.0 + 0.6 + 0.3 + 0.2
    assert found.train == pytest.approx(10 * (four - 3 * model.fixed_seconds))
    assert found.train > 10 * 1.0
