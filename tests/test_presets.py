from __future__ import annotations

import pytest

from autoprog.curves import Curriculum, Ramp
from autoprog.errors import ConfigError
from autoprog.presets import (
    PRESETS,
    constant,
    linear,
    linear_ramp,
    make_divisible,
    preset,
    ramped_curriculum,
)
from autoprog.recipe import RECIPES
from autoprog.schedule import GrowthSchedule
from autoprog.stage import LearningRate
from supernet.config import ModelSpec
from supernet.zoo import ZOO

FULL_STRENGTH = Curriculum(randaug=9, drop_path=0.1, reprob=0.25, mixup=0.8, cutmix=1.0)


def grid(schedule: GrowthSchedule) -> list[tuple[object, object]]:
    return [(stage.depth, stage.img_size) for stage in schedule.stages]


@pytest.mark.parametrize(
    ("start", "top", "divisor", "expected"),
    [
        (0.5, 224, 32, [128, 160, 192, 224]),
        (0.4, 224, 32, [96, 128, 192, 224]),
        (0.5, 12, 1, [6, 8, 10, 12]),
        (0.4, 12, 1, [5, 7, 10, 12]),
        (0.5, 18, 1, [9, 12, 15, 18]),
        (0.4, 18, 1, [7, 11, 14, 18]),
        (1.0, 12, 2, [12, 12, 12, 12]),
    ],
)
def test_a_linear_ramp_gives_the_published_values(
    start: float, top: int, divisor: int, expected: list[int]
) -> None:
    assert linear_ramp(start, 4, top, divisor) == expected


def test_a_ramp_of_one_value_is_the_top() -> None:
    assert linear_ramp(0.5, 1, 224, 32) == [224]


@pytest.mark.parametrize(
    ("value", "divisor", "expected"),
    [
        (112, 32, 128),  # half of 224 rounds up: 112 px is never used
        (111.9, 32, 128),  # 96 would be less than 0.9 of it
        (89.6, 32, 96),
        (106.0, 32, 96),  # rounding down by less than a tenth is allowed
        (3, 32, 32),
        (7.2, 1, 7),
    ],
)
def test_make_divisible_rounds_to_the_grid_but_not_far_below(
    value: float, divisor: int, expected: int
) -> None:
    assert make_divisible(value, divisor) == expected


@pytest.mark.parametrize("model", ["deit-ti", "deit-s", "deit-b"])
def test_the_linear_preset_of_deit_is_the_published_one(model: str) -> None:
    schedule = linear(ZOO[model], 100, FULL_STRENGTH)
    assert grid(schedule) == [(6, 128), (8, 160), (10, 192), (12, 224)]
    assert [stage.length for stage in schedule.stages] == [25, 25, 25, 25]


def test_the_linear_preset_grows_each_stage_of_a_model_by_itself(two_stages: ModelSpec) -> None:
    assert grid(linear(two_stages, 100, FULL_STRENGTH)) == [
        ((2, 7), 128),
        ((3, 9), 160),
        ((3, 12), 192),
        ((4, 14), 224),
    ]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("vit-xs", [(3, 16), (4, 24), (5, 24), (6, 32)]),
        ("vit-mu", [(2, 8), (3, 12), (3, 12), (4, 16)]),
    ],
)
def test_the_linear_preset_of_a_small_model_keeps_to_its_patches(
    model: str, expected: list[tuple[int, int]]
) -> None:
    assert grid(linear(ZOO[model], 20, FULL_STRENGTH)) == expected


def test_an_image_size_off_the_grid_of_two_patches_still_ends_full(deit_s: ModelSpec) -> None:
    sizes = [stage.img_size for stage in linear(deit_s.with_img_size(240), 8, Curriculum()).stages]
    assert sizes == [128, 160, 192, 240]


def test_regularisation_ramps_to_the_published_strengths() -> None:
    stages = linear(ZOO["deit-s"], 100, FULL_STRENGTH).stages
    assert [stage.curriculum.randaug for stage in stages] == [4, 6, 7, 9]
    assert [stage.curriculum.drop_path for stage in stages] == [
        pytest.approx(value, abs=5e-4) for value in (0, 0.033, 0.067, 0.1)
    ]
    assert [stage.curriculum.reprob for stage in stages] == [
        pytest.approx(value, abs=5e-4) for value in (0, 0.083, 0.167, 0.25)
    ]
    assert {stage.curriculum.mixup for stage in stages} == {None}


def test_the_last_stage_has_exactly_the_full_strength() -> None:
    last = ramped_curriculum(FULL_STRENGTH, 3, 4)
    assert (last.randaug, last.drop_path, last.reprob) == (9, 0.1, 0.25)


def test_a_strength_that_is_not_given_is_not_ramped() -> None:
    assert ramped_curriculum(Curriculum(drop_path=0.3), 1, 3) == Curriculum(drop_path=0.15)


def test_a_ramped_strength_counts_with_its_end() -> None:
    strength = Curriculum(randaug=Ramp.model_validate({"ramp": "linear", "from": 0, "to": 9}))
    assert ramped_curriculum(strength, 3, 4).randaug == 9


@pytest.mark.parametrize(
    ("epochs", "lengths"),
    [(90, [22, 23, 22, 23]), (10.5, [2, 3, 2, 3.5]), (2, [0.5, 0.5, 0.5, 0.5])],
)
def test_stages_are_whole_epochs_where_the_run_is_long_enough(
    epochs: float, lengths: list[float]
) -> None:
    stages = linear(ZOO["deit-s"], epochs, FULL_STRENGTH).stages
    assert [stage.length for stage in stages] == lengths


def test_the_number_of_stages_and_the_start_can_be_chosen() -> None:
    schedule = linear(ZOO["deit-s"], 30, FULL_STRENGTH, num_stages=3, start=0.4)
    assert grid(schedule) == [(5, 96), (8, 160), (12, 224)]


def test_the_baseline_is_the_full_model_with_the_recipes_own_strength() -> None:
    schedule = constant(ZOO["deit-b"], 300, FULL_STRENGTH, LearningRate(shape="wsd"))
    assert grid(schedule) == [(12, 224)]
    assert (schedule.stages[0].length, schedule.stages[0].curriculum) == (300, Curriculum())
    assert schedule.lr.shape == "wsd"


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("model", ZOO)
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("epochs", [0.5, 3, 100, 299.5])
def test_every_preset_resolves_for_every_model(
    name: str, model: str, recipe: str, epochs: float
) -> None:
    schedule = preset(name, ZOO[model], epochs, RECIPES[recipe].strength)
    table = schedule.resolve(steps_per_epoch=12, epochs=epochs)
    assert table.total_steps == int(epochs * 12)
    assert table.segments[-1].subnet == ZOO[model].full


def test_an_unknown_preset_is_refused_with_the_nearest_name(deit_s: ModelSpec) -> None:
    with pytest.raises(ConfigError) as caught:
        preset("linaer", deit_s, 10, Curriculum())
    assert str(caught.value) == (
        "--schedule: unknown preset or missing file, but got 'linaer'; did you mean 'linear'?"
    )
