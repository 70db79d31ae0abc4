from __future__ import annotations

import json
from itertools import product
from typing import Any

import pytest

from autoprog.costs.table import (
    CostKey,
    CostTable,
    StepCost,
    full_key,
    key_of_step,
    keys_to_measure,
    most_informative_first,
    overlapped_seconds,
    space_keys,
    table_of,
)
from autoprog.errors import ConfigError
from autoprog.space import SpaceFile
from autoprog.stage import Training, Unfrozen
from supernet.config import ModelSpec, SubnetConfig, TokenRule

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


HALF = TokenRule(0.5, "class_attention", (3, 6, 9))

NAMES = {
    "d6 r128 b1024": CostKey(SubnetConfig(6, 128), 1024),
    "d4+14 r224 b64": CostKey(SubnetConfig((4, 14), 224), 64),
    "d6 r128 k0.6 b64": CostKey(SubnetConfig(6, 128, TokenRule(0.6)), 64),
    "d6 r128 k0.5 class_attention@3,6,9 b64": CostKey(SubnetConfig(6, 128, HALF), 64),
    "d6 r128 k0.25 random@0 b64": CostKey(SubnetConfig(6, 128, TokenRule(0.25, "random")), 64),
    "d6 r128 b64 fourier": CostKey(SubnetConfig(6, 128), 64, "fourier"),
    "d6 r128 b64 u2/4": CostKey(SubnetConfig(6, 128), 64, unfrozen=Unfrozen(every=4, level=2)),
    "d6 r128 k0.6 b64 fourier u1/3": CostKey(
        SubnetConfig(6, 128, TokenRule(0.6)), 64, "fourier", Unfrozen(every=3, level=1)
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_cell_has_one_name_and_a_name_one_cell(name: str) -> None:
    assert NAMES[name].name == name
    assert CostKey.parse(name) == NAMES[name]


def test_no_two_cells_share_a_name() -> None:
    subnets = [
        SubnetConfig(depth, size, rule)
        for depth, size, rule in product(
            (6, 12), (128, 160), (TokenRule(), TokenRule(0.5), TokenRule(0.5, "random"), HALF)
        )
    ]
    some = (None, Unfrozen(every=4, level=1), Unfrozen(every=4, level=2))
    cells = {
        CostKey(subnet, batch, shrink, unfrozen)  # type: ignore[arg-type]
        for subnet, batch, shrink, unfrozen in product(
            subnets, (64, 128), ("resize", "fourier"), some
        )
    }
    assert len(cells) == 4 * 4 * 2 * 2 * 3
    assert len({cell.name for cell in cells}) == len(cells)


@pytest.mark.parametrize(
    "name",
    ["", "d6 r128", "d6r128 b64", "d0 r8 b4", "d6 r128 b64 u5/4", "d6 r128 k2 b64", "schema"],
)
def test_what_is_no_name_of_a_cell_is_none(name: str) -> None:
    assert CostKey.parse(name) is None


def test_the_name_of_a_plain_step_is_what_it_always_was() -> None:
    assert CostKey(SubnetConfig(6, 128), 1024).name == "d6 r128 b1024"


def test_training_all_blocks_is_training_all_blocks() -> None:
    everything = CostKey(SubnetConfig(6, 128), 64, unfrozen=Unfrozen(every=4, level=4))
    assert everything == CostKey(SubnetConfig(6, 128), 64)


def test_the_cell_of_a_step_counts_its_batch_and_how_its_images_shrink(vit_mu: ModelSpec) -> None:
    training = Training(shrink_by="fourier", batch_scale=1.5, unfrozen=Unfrozen(every=2, level=1))
    small = key_of_step(vit_mu, SubnetConfig(2, 8), training, 16)
    assert small.name == "d2 r8 b24 fourier u1/2"
    assert small.loaded_px(16) == 16
    assert CostKey(SubnetConfig(2, 8), 16).loaded_px(16) == 8


def test_images_of_full_size_are_not_cut(vit_mu: ModelSpec) -> None:
    cut = Training(shrink_by="fourier")
    assert key_of_step(vit_mu, vit_mu.full, cut, 16) == full_key(vit_mu, 16)


def test_the_cells_of_a_space_are_its_subnets_at_each_batch_size(vit_mu: ModelSpec) -> None:
    axes = {
        "depth": {"values": [2, 4]},
        "img_size": {"values": [8, 16]},
        "keep_rate": {"values": [0.5, 1.0]},
        "batch_scale": {"values": [2, 1]},
    }
    space = SpaceFile.model_validate({"axes": axes}).space(vit_mu, "here")
    names = [cell.name for cell in space_keys(space, 16)]
    assert len(names) == 16
    assert names[:3] == ["d2 r8 k0.5 b16", "d2 r8 b16", "d2 r16 k0.5 b16"]
    assert names[-1] == "d4 r16 b32"


@pytest.mark.parametrize(
    "name",
    [
        f"d{'9' * 5000} r8 b16",
        f"d2 r8 b{'9' * 5000}",
        "d2 r99999999 b16",
        "d２ r8 b16",
        "d2 r8 kinf b16",
        "d2 r8 b16 u1/0",
        f"d2 r8 k0.5 magnitude@{'9' * 5000} b16",
    ],
)
def test_numbers_beyond_all_sense_name_no_cell(name: str) -> None:
    assert CostKey.parse(name) is None


GRID = [CostKey(SubnetConfig(*one), 64) for one in product((6, 8, 10, 12), (96, 160, 224))]
FULL = GRID[-1]


def names(cells: list[CostKey]) -> list[str]:
    return [str(cell.subnet) for cell in cells]


def test_corners_come_first_then_the_lines_of_the_full_cell_then_the_rest() -> None:
    ordered = names(most_informative_first(GRID, FULL))
    assert ordered[:4] == ["d12 r224", "d6 r96", "d6 r224", "d12 r96"]
    assert set(ordered[4:7]) == {"d8 r224", "d10 r224", "d12 r160"}
    assert set(ordered[7:]) == {"d6 r160", "d8 r96", "d8 r160", "d10 r96", "d10 r160"}


def test_a_third_axis_has_corners_too() -> None:
    rules = (TokenRule(0.5), TokenRule())
    cube = [CostKey(SubnetConfig(*one), 64) for one in product((6, 9, 12), (96, 160, 224), rules)]
    ordered = most_informative_first(cube, FULL)
    assert names(ordered[:3]) == ["d12 r224", "d6 r96 k0.5", "d6 r96"]
    assert {(c.subnet.total_depth, c.subnet.img_size) for c in ordered[:8]} == set(
        product((6, 12), (96, 224))
    )


def test_cells_are_taken_as_far_as_the_time_reaches() -> None:
    assert len(keys_to_measure(GRID, FULL, lambda _: 1.0, 7.5)) == 7
    assert len(keys_to_measure(GRID, FULL, lambda _: 1.0, 99)) == len(GRID)


def test_the_full_cell_and_one_more_are_always_taken() -> None:
    assert names(keys_to_measure(GRID, FULL, lambda _: 1.0, 0.0)) == ["d12 r224", "d6 r96"]


def test_the_full_cell_is_added_where_it_is_missing() -> None:
    one = GRID[4]
    assert keys_to_measure([one], FULL, lambda _: 1.0, 0.0) == [FULL, one]
    assert keys_to_measure([], FULL, lambda _: 1.0, 0.0) == [FULL]


def test_a_dear_cell_ends_the_list_so_that_what_tells_less_does_not_push_in() -> None:
    price = dict.fromkeys(GRID, 1.0) | {GRID[0]: 1.0, most_informative_first(GRID, FULL)[4]: 100.0}
    assert len(keys_to_measure(GRID, FULL, price.__getitem__, 50.0)) == 4
