from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import pytest

from autoprog.search.forecast import interpolate_losses
from supernet.config import ALL_TOKENS, SubnetConfig, TokenRule

DEPTHS, SIZES = (6, 8, 10, 12), (128, 160, 192, 224)
RATES = (TokenRule(0.5), TokenRule(0.7), ALL_TOKENS)
GRID = tuple(SubnetConfig(*point) for point in product(DEPTHS, SIZES, RATES))
CORNERS = tuple(
    SubnetConfig(*point) for point in product((6, 12), (128, 224), (RATES[0], RATES[2]))
)
Plane = Callable[[SubnetConfig], float]


def plane(depth: float, size: float, rate: float) -> Plane:
    """Return a loss that is a power law in each axis."""
    return lambda subnet: (
        9.0 * subnet.total_depth**depth * subnet.img_size**size * subnet.tokens.keep_rate**rate
    )


@pytest.mark.parametrize(
    "planted",
    [plane(-0.1, -0.2, -0.05), plane(0.0, -0.3, 0.0), plane(0.15, 0.02, -0.4)],
    ids=["all better", "size alone", "deeper is worse"],
)
def test_losses_on_a_plane_are_recovered(planted: Plane) -> None:
    known = {subnet: planted(subnet) for subnet in CORNERS}
    filled = interpolate_losses(known, GRID)
    assert tuple(filled) == GRID
    for subnet, loss in filled.items():
        assert math.log(loss) == pytest.approx(math.log(planted(subnet)), abs=1e-3)


def test_known_losses_stay_as_they_are() -> None:
    known = {subnet: 2.0 + 0.1 * (number % 3) for number, subnet in enumerate(CORNERS)}
    filled = interpolate_losses(known, GRID)
    assert {subnet: filled[subnet] for subnet in known} == known
    assert interpolate_losses(known, CORNERS[:3]) == {s: known[s] for s in CORNERS[:3]}


def test_noise_does_not_move_the_plane_by_more_than_itself() -> None:
    planted = plane(-0.1, -0.2, -0.05)
    noisy = {s: planted(s) * math.exp(0.01 * (-1) ** n) for n, s in enumerate(GRID[::5])}
    for subnet, loss in interpolate_losses(noisy, GRID).items():
        assert math.log(loss / planted(subnet)) == pytest.approx(0.0, abs=0.02)


def test_nothing_leaves_the_range_of_what_is_known() -> None:
    """Beyond the largest known subnet the plane would go on falling."""
    planted = plane(-0.5, -0.5, 0.0)
    known = {s: planted(s) for s in GRID if s.total_depth <= 8 and s.img_size <= 160}
    filled = interpolate_losses(known, GRID)
    assert min(filled.values()) == min(known.values())
    assert max(filled.values()) == max(known.values())
    assert filled[SubnetConfig(12, 224)] == min(known.values())


def test_an_axis_of_which_nothing_is_known_plays_no_part() -> None:
    known = {SubnetConfig(depth, 160): 8.0 / depth for depth in DEPTHS}
    filled = interpolate_losses(known, [SubnetConfig(8, 128), SubnetConfig(8, 224)])
    assert list(filled.values()) == pytest.approx([1.0, 1.0], rel=1e-2)


def test_one_known_loss_is_that_of_all() -> None:
    filled = interpolate_losses({GRID[0]: 2.5}, GRID)
    assert list(filled.values()) == pytest.approx([2.5] * len(GRID))


def test_stages_count_by_all_their_blocks() -> None:
    known = {SubnetConfig((2, 6), 224): 3.0, SubnetConfig((4, 12), 224): 2.0}
    between = interpolate_losses(known, [SubnetConfig((3, 9), 224)])[SubnetConfig((3, 9), 224)]
    assert 2.0 < between < 3.0


def test_the_order_of_what_is_known_changes_nothing_that_counts() -> None:
    planted = plane(-0.1, -0.2, -0.05)
    known = {subnet: planted(subnet) for subnet in CORNERS}
    backwards = dict(reversed(known.items()))
    one, two = (interpolate_losses(given, GRID) for given in (known, backwards))
    assert list(one.values()) == pytest.approx(list(two.values()), rel=1e-12)
