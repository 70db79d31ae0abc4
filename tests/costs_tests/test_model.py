"""Measured where it was measured, estimated elsewhere, and never the wrong way round."""

from __future__ import annotations

import random
from itertools import product
from typing import Any

import pytest

from autoprog.costs.model import CostModel, data_terms, fit_regression, predict_seconds, step_terms
from autoprog.costs.table import CostKey, CostTable, StepCost
from autoprog.schedule import GrowthSchedule
from autoprog.stage import FullModel, Training, Unfrozen, image_macs
from autoprog.steptable import StepTable
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


# --- The law between cells: planted coefficients come back, and noise does not run away with it.

CELLS = [CostKey(SubnetConfig(*one), 256) for one in product((6, 8, 10, 12), (96, 160, 192, 224))]
# Of a device that computes 20 T linear and 8 T attention MACs a second, 4 ms a step and 0.3 ms a block.
PLANTED = (1 / 20e12, 0.004, 1 / 8e12, 0.0003, 2e-10, 0.0)


def planted_seconds(cell: CostKey) -> float:
    return sum(c * t for c, t in zip(PLANTED, step_terms(DEIT, cell), strict=True))


def test_the_terms_of_a_full_step_by_hand() -> None:
    """deit-s: 12 blocks of width 384 on 197 tokens; forward and backward are three times forward."""
    linear, one, attention, blocks, pixels, cut = step_terms(DEIT, CostKey(DEIT.full, 2))
    assert attention == 2 * 3 * 12 * 2 * 197**2 * 384
    assert linear + attention == 2 * image_macs(DEIT, DEIT.full, Training())
    assert (one, blocks, pixels, cut) == (1, 12, 2 * 224**2, 0)


def test_frozen_blocks_and_dropped_tokens_and_cut_images_show_in_the_terms() -> None:
    plain = step_terms(DEIT, CostKey(SubnetConfig(12, 160), 2))
    frozen = step_terms(
        DEIT, CostKey(SubnetConfig(12, 160), 2, unfrozen=Unfrozen(every=4, level=1))
    )
    fewer = step_terms(DEIT, CostKey(SubnetConfig(12, 160, TokenRule(0.5)), 2))
    cut = step_terms(DEIT, CostKey(SubnetConfig(12, 160), 2, "fourier"))
    assert 0.73 < frozen[0] / plain[0] < 0.75, "nine of twelve blocks lack a third of their work"
    assert fewer[2] == 2 * 3 * 12 * 2 * 50**2 * 384, "50 of 101 tokens"
    assert cut[:5] == plain[:5]
    assert cut[5] == 2 * 224**2


def test_of_a_volo_only_transformers_attend_to_all_tokens() -> None:
    """volo-d1: 14 transformers of width 384 on 196 cells; its outlookers' windows count as linear layers."""
    volo = ZOO["volo-d1"]
    linear, _, attention, blocks, _, _ = step_terms(volo, CostKey(volo.full, 1))
    tokens = 196 + volo.num_prefix_tokens
    assert attention == 3 * 14 * 2 * tokens**2 * 384
    assert linear > 5 * attention
    assert blocks == 18


def test_a_planted_law_is_found_again_within_two_per_cent() -> None:
    """A third of the grid, with noise of 1 %, tells the rest of it."""
    noise = random.Random(0)
    rows = [step_terms(DEIT, cell) for cell in CELLS]
    exact = [planted_seconds(cell) for cell in CELLS]
    seen = [seconds * noise.gauss(1, 0.01) for seconds in exact]
    known = [0, 2, 3, 5, 8, 10, 12, 15]
    law = fit_regression([rows[k] for k in known], [seen[k] for k in known])
    for row, seconds in zip(rows, exact, strict=True):
        assert law.seconds(row) == pytest.approx(seconds, rel=0.02)


def test_without_noise_the_planted_coefficients_come_back() -> None:
    law = fit_regression([step_terms(DEIT, c) for c in CELLS], [planted_seconds(c) for c in CELLS])
    assert law.coefficients == pytest.approx(PLANTED, rel=1e-6)


def test_no_coefficient_is_negative() -> None:
    """Seconds that fall with the size of the network have no physical law; the best one is flat."""
    rows = [step_terms(DEIT, cell) for cell in CELLS]
    law = fit_regression(rows, [2.0 - 0.05 * k for k in range(len(rows))])
    assert min(law.coefficients) >= 0
    assert law.seconds(rows[-1]) >= law.seconds(rows[0])


def test_one_cell_makes_seconds_go_by_linear_work_and_two_add_what_is_always_there() -> None:
    small, large = (step_terms(DEIT, CELLS[k]) for k in (0, 15))
    alone = fit_regression([large], [1.0])
    assert alone.seconds(small) == pytest.approx(small[0] / large[0])
    both = fit_regression([small, large], [0.5, 1.0])
    assert both.seconds(small) == pytest.approx(0.5)
    assert both.seconds(large) == pytest.approx(1.0)
    assert both.coefficients[1] > 0


def test_batches_take_what_images_and_pixels_take() -> None:
    sizes = [(64, 96), (64, 224), (128, 160), (256, 96), (256, 224)]
    planted = (40e-6, 3e-9, 0.002)
    rows = [data_terms(*size) for size in sizes]
    seconds = [sum(c * t for c, t in zip(planted, row, strict=True)) for row in rows]
    law = fit_regression(rows[:4], seconds[:4])
    assert law.seconds(rows[4]) == pytest.approx(seconds[4], rel=1e-6)


# --- What a schedule will take, against sums by hand.

MU = ZOO["vit-mu"]
RUN_BATCH = 16
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
    found = predict_seconds(steps(), costs(), RUN_BATCH)
    assert found.train == pytest.approx(10 * 0.1 + 20 * 0.3 + 30 * 1.0)
    assert found.data == pytest.approx(10 * 0.04 + 20 * 0.05 + 30 * 0.06)
    assert found.total == found.train + found.data


def test_with_workers_only_what_is_not_hidden_is_waited_for() -> None:
    slow = {"d2 r8 b16": 0.4, "d3 r12 b16": 0.2, "d4 r16 b16": 0.2}
    found = predict_seconds(steps(), costs(slow, overlap=1.0), RUN_BATCH)
    assert found.train == pytest.approx(37.0)
    assert found.data == pytest.approx(10 * 0.3)


def test_unknown_data_counts_as_none() -> None:
    assert predict_seconds(steps(), costs({}), RUN_BATCH).data == 0


def test_larger_batches_are_cells_of_their_own() -> None:
    scaled = [{**STAGES[0], "batch_scale": 2.0}, *STAGES[1:]]
    model = costs(**SECONDS, **{"d2 r8 b32": 0.17})
    found = predict_seconds(steps(*scaled), model, RUN_BATCH)
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
    found = predict_seconds(steps(stage, end="free"), model, RUN_BATCH)
    four = 1.0 + 0.6 + 0.3 + 0.2
    assert found.train == pytest.approx(10 * (four - 3 * model.fixed_seconds))
    assert found.train > 10 * 1.0
