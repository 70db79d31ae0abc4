"""The law between cells: planted coefficients come back, and noise does not run away with it."""

from __future__ import annotations

import random
from itertools import product

import pytest

from autoprog.costs.model import data_terms, fit_regression, step_terms
from autoprog.costs.table import CostKey
from autoprog.stage import Training, Unfrozen, image_macs
from supernet.config import SubnetConfig, TokenRule
from supernet.zoo import ZOO

DEIT = ZOO["deit-s"]
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
