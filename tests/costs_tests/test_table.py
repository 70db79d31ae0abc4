from __future__ import annotations

import json
from typing import Any

import pytest

from autoprog.costs.table import CostTable, StepCost, overlapped_seconds, table_of
from autoprog.errors import ConfigError

MEASURED = StepCost(seconds=0.5, interval=(0.48, 0.53), data_seconds=0.02, rounds=9, source="grid")


def test_a_table_is_the_same_after_a_round_trip() -> None:
    table = CostTable(
        overlap=0.75,
        overlap_is_measured=True,
        conditions={"device": "cpu", "threads": 1},
        step_costs={"d2 r8 b16": MEASURED, "d4 r16 b16": StepCost(seconds=1.25, source="own")},
    )
    body = json.loads(json.dumps(table.body()))
    assert body["schema"] == 2
    assert body["step_costs"]["d4 r16 b16"] == {"seconds": 1.25, "rounds": 0, "source": "own"}
    assert table_of(body, "costs.json") == table


def test_a_file_that_is_just_seconds_is_read_as_given() -> None:
    table = table_of({"d2 r8 b16": 0.5, "d4 r16 b16": 1}, "costs.json")
    assert table.seconds == {"d2 r8 b16": 0.5, "d4 r16 b16": 1.0}
    assert {cost.source for cost in table.step_costs.values()} == {"file"}
    assert {cost.data_seconds for cost in table.step_costs.values()} == {None}


@pytest.mark.parametrize(
    ("cost", "complaint"),
    [
        (
            {"seconds": 0},
            "step_costs.d2 r8 b16.seconds: must be a number from 1e-09 to 1e+10, but got 0",
        ),
        (
            {"seconds": float("inf")},
            "step_costs.d2 r8 b16.seconds: must be a number from 1e-09 to 1e+10, but got inf",
        ),
        (
            {"seconds": True},
            "step_costs.d2 r8 b16.seconds: must be a number from 1e-09 to 1e+10, but got True",
        ),
        (
            {"seconds": "1"},
            "step_costs.d2 r8 b16.seconds: must be a number from 1e-09 to 1e+10, but got '1'",
        ),
        ({}, "step_costs.d2 r8 b16.seconds: must be given; add this key"),
        (
            {"seconds": 1.0, "data_seconds": -1.0},
            "step_costs.d2 r8 b16.data_seconds: must be a number from 0 to 1e+10, but got -1.0",
        ),
        (
            {"seconds": 1.0, "interval": [1.1, 1.2]},
            "step_costs.d2 r8 b16.interval: must hold seconds, 1, but got [1.1, 1.2]",
        ),
        (
            {"seconds": 1.0, "second": 1.0},
            "step_costs.d2 r8 b16.second: unknown key, but got 'second'; did you mean 'seconds'?",
        ),
    ],
)
def test_what_is_no_cost_is_refused(cost: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        table_of({"schema": 2, "step_costs": {"d2 r8 b16": cost}}, "costs.json")
    assert str(refused.value) == f"costs.json: {complaint}"


def test_a_later_schema_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"costs.json: schema: "):
        table_of({"schema": 3, "step_costs": {}}, "costs.json")


def test_what_is_there_stays() -> None:
    table = CostTable(step_costs={"d2 r8 b16": MEASURED})
    more = table.with_costs({"d2 r8 b16": StepCost(seconds=9.0), "d4 r16 b16": MEASURED})
    assert list(more.seconds.items()) == [("d2 r8 b16", 0.5), ("d4 r16 b16", 0.5)]
    assert more.step_costs["d2 r8 b16"] == MEASURED


def test_what_another_run_measured_is_given_to_this_one() -> None:
    given = CostTable(step_costs={"d2 r8 b16": MEASURED}).as_given()
    assert given.step_costs["d2 r8 b16"] == MEASURED.model_copy(update={"source": "file"})


@pytest.mark.parametrize(
    ("step", "data", "overlap", "together"),
    [
        (3.0, 1.0, 0.0, 4.0),
        (3.0, 1.0, 1.0, 3.0),
        (1.0, 3.0, 1.0, 3.0),
        (3.0, 1.0, 0.5, 3.5),
        (3.0, 0.0, 0.0, 3.0),
    ],
)
def test_workers_hide_the_shorter_of_step_and_data(
    step: float, data: float, overlap: float, together: float
) -> None:
    assert overlapped_seconds(step, data, overlap) == together
