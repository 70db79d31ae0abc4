"""Measured where it was measured, estimated elsewhere, and never the wrong way round."""

from __future__ import annotations

from itertools import product

import pytest

from autoprog.costs.model import CostModel
from autoprog.costs.table import CostKey, CostTable, StepCost
from supernet.config import SubnetConfig, TokenRule
from supernet.zoo import ZOO

DEIT = ZOO["deit-s"]
BATCH = 64


def cell(depth: int, size: int, rate: float = 1.0, batch: int = BATCH) -> CostKey:
    return CostKey(SubnetConfig(depth, size, TokenRule(rate)), batch)


def table(seconds: dict[CostKey, float], data: dict[CostKey, float] | None = None) -> CostTable:
    waits = data or {}
    cells = {
        one.name: StepCost(seconds=s, data_seconds=waits.get(one)) for one, s in seconds.items()
    }
    return CostTable(step_costs=cells)


def by_work(one: CostKey) -> float:
    return 1e-4 * one.subnet.total_depth * (one.subnet.img_size / 16) ** 2 + 0.005


CORNERS = {one: by_work(one) for one in (cell(6, 96), cell(6, 224), cell(12, 96), cell(12, 224))}


def test_what_was_measured_is_not_estimated() -> None:
    model = CostModel(DEIT, table({**CORNERS, cell(8, 160): 9.0}))
    assert model.step(cell(8, 160)) == (9.0, False)
    assert model.step(cell(10, 160)).is_estimated


def test_an_estimate_is_near_what_the_others_say() -> None:
    model = CostModel(DEIT, table(CORNERS))
    guess = model.step(cell(8, 160))
    assert guess.is_estimated
    assert guess.seconds == pytest.approx(by_work(cell(8, 160)), rel=0.1)


def test_an_estimate_lies_between_its_measured_neighbours() -> None:
    """A cell that took longer than any law expects makes no larger one faster than itself."""
    slow = cell(8, 160)
    model = CostModel(DEIT, table({**CORNERS, slow: 0.115}))
    assert by_work(slow) < 0.09
    for larger in (cell(9, 160), cell(8, 176), cell(10, 192)):
        assert 0.115 <= model.step(larger).seconds <= CORNERS[cell(12, 224)]
    assert model.step(cell(7, 144)).seconds <= 0.115


def test_estimates_rise_with_every_axis() -> None:
    model = CostModel(DEIT, table(CORNERS))
    for depth, size in product((6, 8, 10), (96, 128, 160, 192)):
        here = model.step(cell(depth, size)).seconds
        assert here <= model.step(cell(depth + 2, size)).seconds
        assert here <= model.step(cell(depth, size + 32)).seconds
        assert here <= model.step(cell(depth, size, batch=2 * BATCH)).seconds


def test_neighbours_that_noise_has_exchanged_do_not_bind() -> None:
    crossed = {**CORNERS, cell(7, 128): 0.2, cell(9, 160): 0.05}
    guess = CostModel(DEIT, table(crossed)).step(cell(8, 144))
    assert 0.02 < guess.seconds < 0.2


def test_dropping_tokens_is_no_neighbour_of_keeping_them() -> None:
    """Sorting tokens costs something: a step on half of them may take longer than one on all of them."""
    model = CostModel(DEIT, table({**CORNERS, cell(6, 96, 0.5): 5.0}))
    assert model.step(cell(6, 112)).seconds < 1.0


def test_data_is_that_of_the_images_whatever_the_depth() -> None:
    model = CostModel(
        DEIT, table(CORNERS, {cell(6, 96): 0.010, cell(6, 224): 0.030, cell(12, 224): 0.032})
    )
    assert model.data(cell(9, 96)) == (0.010, False)
    found = model.data(cell(9, 224))
    assert found is not None
    assert found == (pytest.approx(0.031), False)
    between = model.data(cell(9, 160))
    assert between is not None
    assert between.is_estimated
    assert 0.010 < between.seconds < 0.031


def test_cut_images_are_loaded_at_full_size() -> None:
    model = CostModel(DEIT, table(CORNERS, {cell(6, 96): 0.010, cell(6, 224): 0.030}))
    assert model.data(CostKey(SubnetConfig(6, 96), BATCH, "fourier")) == (0.030, False)


def test_a_step_with_its_data_goes_by_the_overlap() -> None:
    costs = table({cell(12, 224): 0.3}, {cell(12, 224): 0.1})
    assert CostModel(DEIT, costs).wall(cell(12, 224)) == (pytest.approx(0.4), False)
    hidden = costs.model_copy(update={"overlap": 1.0})
    assert CostModel(DEIT, hidden).wall(cell(12, 224)) == (0.3, False)


def test_without_any_batch_measured_the_step_is_all_there_is() -> None:
    model = CostModel(DEIT, table(CORNERS))
    assert model.data(cell(6, 96)) is None
    assert model.wall(cell(6, 96)) == model.step(cell(6, 96))


def test_left_out_errors_need_three_cells() -> None:
    assert set(CostModel(DEIT, table(CORNERS)).left_out_errors()) == {c.name for c in CORNERS}
    two = {one: CORNERS[one] for one in list(CORNERS)[:2]}
    assert CostModel(DEIT, table(two)).left_out_errors() == {}


def test_a_left_out_error_is_that_of_the_estimate_without_the_cell() -> None:
    """By depths and sizes on a grid; the odd one is kept between its neighbours, as any estimate."""
    seconds = {cell(d, s): by_work(cell(d, s)) for d in (6, 8, 10, 12) for s in (96, 160, 224)}
    assert max(map(abs, CostModel(DEIT, table(seconds)).left_out_errors().values())) < 0.1
    odd = cell(8, 160)
    seconds[odd] *= 2
    error = CostModel(DEIT, table(seconds)).left_out_errors()[odd.name]
    assert error == pytest.approx(-0.5, abs=0.05)
    slow = {**CORNERS, cell(6, 224): 10 * CORNERS[cell(6, 224)]}
    others = {one: s for one, s in slow.items() if one != cell(12, 224)}
    guess = CostModel(DEIT, table(others)).step(cell(12, 224)).seconds
    assert guess == slow[cell(6, 224)]  # not below a smaller neighbour
    found = CostModel(DEIT, table(slow)).left_out_errors()[cell(12, 224).name]
    assert found == pytest.approx(guess / slow[cell(12, 224)] - 1)


def test_a_batch_that_takes_nothing_makes_others_no_cheaper() -> None:
    sizes = {cell(6, 96): 0.004, cell(6, 160): 0.01, cell(6, 224): 0.02}
    guesses = []
    for smallest in (0.004, 0.0):
        waits = {**sizes, cell(6, 96): smallest}
        guess = CostModel(DEIT, table(CORNERS | sizes, waits)).data(cell(6, 192))
        assert guess is not None
        guesses.append(guess.seconds)
    assert guesses[1] > 0.002
    assert guesses[0] == pytest.approx(0.0147, rel=0.2)


def test_names_that_are_no_cells_do_not_count() -> None:
    odd = table(CORNERS).with_costs({"warm-up": StepCost(seconds=99.0)})
    assert CostModel(DEIT, odd).step(cell(8, 160)).seconds < 1
