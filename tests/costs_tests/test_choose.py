from __future__ import annotations

from itertools import product

from autoprog.costs.table import CostKey, keys_to_measure, most_informative_first
from supernet.config import SubnetConfig, TokenRule

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
