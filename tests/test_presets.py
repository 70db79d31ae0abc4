from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from autoprog.errors import ConfigError
from autoprog.files import parse, parse_yaml
from autoprog.presets import (
    PRESETS,
    constant,
    linear,
    linear_ramp,
    preset,
    summary_of,
)
from autoprog.recipe import RECIPES
from autoprog.schedule import GrowthSchedule
from autoprog.stage import Curriculum, KeepCurve, LearningRate, Ramp, relative_step_cost
from supernet.config import ModelSpec
from supernet.depthmap import make_divisible
from supernet.zoo import ZOO

POSSIBLE_PRESETS = [
    (name, model)
    for name in PRESETS
    for model, spec in ZOO.items()
    if not spec.needs_grid or not name.startswith(("patch-sampling", "supervit"))
]
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


def test_the_linear_preset_splits_blocks_among_stages_as_published(two_stages: ModelSpec) -> None:
    assert grid(linear(two_stages, 100, FULL_STRENGTH)) == [
        ((2, 7), 128),
        ((4, 8), 160),
        ((4, 11), 192),
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
    last = FULL_STRENGTH.ramped(3, 4)
    assert (last.randaug, last.drop_path, last.reprob) == (9, 0.1, 0.25)


def test_a_strength_that_is_not_given_is_not_ramped() -> None:
    assert Curriculum(drop_path=0.3).ramped(1, 3) == Curriculum(drop_path=0.15)


def test_a_ramped_strength_counts_with_its_end() -> None:
    strength = Curriculum(randaug=Ramp.model_validate({"ramp": "linear", "from": 0, "to": 9}))
    assert strength.ramped(3, 4).randaug == 9


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


@pytest.mark.parametrize(("name", "model"), POSSIBLE_PRESETS)
@pytest.mark.parametrize(("recipe", "epochs"), [("deit", 0.5), ("digits", 3), ("deit", 299.5)])
def test_every_preset_resolves_for_every_model(
    name: str, model: str, recipe: str, epochs: float
) -> None:
    schedule = preset(name, ZOO[model], epochs, RECIPES[recipe].strength)
    table = schedule.resolve(steps_per_epoch=120, epochs=epochs)
    if schedule.end == "full":
        assert table.segments[-1].subnet == ZOO[model].full
    assert from_text(schedule.to_yaml()) == schedule
    if schedule.length_unit != "compute_fraction":
        assert table.total_steps == int(epochs * 120)
        return
    costs = [relative_step_cost(ZOO[model], s.subnet, s.training) for s in table.segments]
    spent = sum(s.steps * cost for s, cost in zip(table.segments, costs, strict=True))
    assert spent == pytest.approx(epochs * 120, abs=len(costs))


@pytest.mark.parametrize("name", ["patch-sampling", "supervit"])
@pytest.mark.parametrize("model", [model for model, spec in ZOO.items() if spec.needs_grid])
def test_presets_of_tokens_are_refused_for_models_that_need_the_whole_grid(
    name: str, model: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        preset(name, ZOO[model], 100, FULL_STRENGTH)
    assert str(caught.value) == (
        f"--schedule: stages[0].tokens.keep_rate: must keep all tokens: {model} needs the whole grid"
    )


def from_text(text: str) -> GrowthSchedule:
    return parse(GrowthSchedule, parse_yaml(text, "s.yaml"), "s.yaml")


def test_an_unknown_preset_is_refused_with_the_nearest_name(deit_s: ModelSpec) -> None:
    with pytest.raises(ConfigError) as caught:
        preset("linaer", deit_s, 10, Curriculum())
    assert str(caught.value) == (
        "--schedule: unknown preset or missing file, but got 'linaer'; did you mean 'linear'?"
    )


def sizes_of(name: str, epochs: float, model: str = "deit-s") -> list[tuple[float, int]]:
    table = preset(name, ZOO[model], epochs, FULL_STRENGTH).resolve(1000, epochs)
    return [(s.start_step / 1000, s.subnet.img_size) for s in table.segments]


def test_the_size_curriculum_is_the_published_one() -> None:
    expected = [(0, 32), (5, 64), (10, 96), (15, 128), (20, 160), (25, 192), (30, 224)]
    assert sizes_of("size-curriculum", 300) == expected


def test_its_exponential_form_has_the_published_dates() -> None:
    dates = [start for start, _ in sizes_of("size-curriculum:exponential", 300)]
    assert dates == [0, 2, 4, 8, 12, 20, 36]


def test_a_short_run_reaches_full_size_at_60_per_cent() -> None:
    assert sizes_of("size-curriculum", 10)[-1] == (6, 224)


def test_patch_sampling_has_the_published_boundaries() -> None:
    table = preset("patch-sampling", ZOO["deit-s"], 300, FULL_STRENGTH).resolve(2502, 300)
    firsts = [(s.start_step, s.subnet.tokens.keep_rate) for s in table.segments[:10]]
    assert firsts == [
        (0, 0.2),
        (140, 0.4),
        (418, 0.6),
        (696, 0.8),
        (973, 1.0),
        (1530, 0.8),
        (1807, 0.6),
        (2085, 0.4),
        (2363, 0.2),
        (2642, 0.4),
    ]
    rates = sum(s.steps * s.subnet.tokens.keep_rate for s in table.segments) / table.total_steps
    assert rates == pytest.approx(0.656, abs=5e-4)
    assert table.segments[-1].start_step == 290 * 2502


@pytest.mark.parametrize(
    ("curve", "mean"), [("cyclic", 0.644), ("linear", 0.644), ("cosine", 0.634)]
)
def test_the_mean_keep_rates_are_the_published_ones(curve: str, mean: float) -> None:
    levels = [*KeepCurve(curve=curve).levels(25_020, 2502), (25_020, 0.0)]
    total = sum(rate * (stop - start) for (start, rate), (stop, _) in pairwise(levels))
    assert total / 25_020 == pytest.approx(mean, abs=1e-3)


def test_patch_sampling_at_a_fixed_rate_keeps_it_to_the_end() -> None:
    schedule = preset("patch-sampling:fixed", ZOO["deit-s"], 300, FULL_STRENGTH)
    (only,) = schedule.resolve(2502, 300).segments
    assert (only.start_step, only.stop_step) == (0, 300 * 2502)
    assert (only.subnet.tokens.keep_rate, only.subnet.tokens.by) == (0.6, "magnitude")
    assert schedule.end == "free"


@pytest.mark.parametrize("name", PRESETS)
def test_only_two_presets_end_at_less_than_a_training_of_the_full_model(name: str) -> None:
    ends = {"patch-sampling:fixed": "free", "supervit": "free"}
    assert preset(name, ZOO["deit-s"], 30, FULL_STRENGTH).end == ends.get(name, "full")


def test_efficienttrain_has_the_released_sizes_and_magnitudes() -> None:
    schedule = preset("efficienttrain", ZOO["deit-s"], 200, FULL_STRENGTH)
    sizes = [stage.img_size for stage in schedule.stages]
    assert sizes == [96] * 2 + [160] * 4 + [192] * 2 + [224] * 2
    magnitudes = [stage.curriculum.randaug for stage in schedule.stages]
    assert magnitudes == [pytest.approx(k) for k in range(10)]
    image_epochs = schedule.resolve(1000, 200).image_epochs
    # Released: epochs = budget (224 / r)^2, so 469; attention makes small sizes cheaper still.
    assert 469 < image_epochs < 520


def test_efficienttrains_learning_rate_goes_by_compute() -> None:
    table = preset("efficienttrain", ZOO["deit-s"], 200, FULL_STRENGTH).resolve(100, 200)
    starts = [a.stop_step for a, b in pairwise(table.segments) if a.stage != b.stage]
    starts = [0, *starts]
    clocks = [table.clock(step) / table.total_steps for step in starts]
    assert clocks == [pytest.approx(k / 10, abs=2e-3) for k in range(10)]
    assert table.clock(table.total_steps) == table.total_steps


IMAGENET_BATCHES = [256, 512, 1024, 1536, 2048, 4096]


def composers_sizes(side: int, patch: int, total_steps: int) -> list[tuple[int, int]]:
    """Return (first step, size) as Composer counts them: size rises steadily and is rounded to the grid."""
    rising = (np.arange(total_steps) / total_steps - 0.5) / 0.3
    scale = 0.5 + 0.5 * np.clip(rising, 0, 1)
    sizes = np.round(side * scale).astype(int) * patch
    starts = [0, *(np.flatnonzero(np.diff(sizes)) + 1).tolist()]
    return [(start, int(sizes[start])) for start in starts]


@pytest.mark.parametrize("epochs", [30, 50, 100, 150, 200, 250, 300])
@pytest.mark.parametrize("batch_size", IMAGENET_BATCHES)
def test_progressive_resizing_has_composers_dates(epochs: int, batch_size: int) -> None:
    steps_per_epoch = 1_281_167 // batch_size
    table = preset("progressive-resizing", ZOO["deit-s"], epochs, FULL_STRENGTH).resolve(
        steps_per_epoch, epochs
    )
    expected = composers_sizes(14, 16, epochs * steps_per_epoch)
    assert [s.subnet.img_size for s in table.segments] == [px for _, px in expected]
    starts = [s.start_step for s in table.segments]
    # Composer rounds each date up; here a stage and its plateaus are rounded down, one after the other.
    assert starts == [pytest.approx(start, abs=2) for start, _ in expected]
    rungs = [s.steps for s in table.segments[1:-1]]
    assert max(rungs) - min(rungs) <= 1


def test_progressive_resizing_of_deit_s_for_100_epochs_of_1251_steps() -> None:
    table = preset("progressive-resizing", ZOO["deit-s"], 100, FULL_STRENGTH).resolve(1251, 100)
    assert [(s.steps, s.subnet.img_size) for s in table.segments] == [
        (65_230, 112),  # half of the run and half a rung
        (5_361, 128),
        (5_362, 144),
        (5_361, 160),
        (5_362, 176),
        (5_361, 192),
        (5_362, 208),
        (27_701, 224),  # half a rung and a fifth of the run
    ]


@pytest.mark.parametrize("side", range(2, 25))
def test_progressive_resizing_of_any_number_of_patches(side: int) -> None:
    spec = ZOO["deit-s"].with_img_size(16 * side)
    table = preset("progressive-resizing", spec, 90, FULL_STRENGTH).resolve(1000, 90)
    found = [(s.start_step, s.subnet.img_size) for s in table.segments]
    expected = composers_sizes(side, 16, 90_000)
    assert [px for _, px in found] == [px for _, px in expected]
    assert [start for start, _ in found] == [pytest.approx(s, abs=2) for s, _ in expected]


def test_a_late_jump_comes_before_the_rate_decays() -> None:
    schedule = preset("late-jump", ZOO["deit-s"], 100, FULL_STRENGTH)
    assert schedule.lr.shape == "wsd"
    assert grid(schedule) == [(6, 224), (12, 224)]
    assert schedule.stages[0].length == 70


def test_unfreezing_trains_interleaved_blocks() -> None:
    schedule = preset("unfreezing", ZOO["deit-s"], 100, FULL_STRENGTH)
    found = [stage.trainable for stage in schedule.stages]
    trained = [
        12 if own == "all" else sum(own.trains(block) for block in range(12)) for own in found
    ]
    assert trained == [3, 6, 9, 12]
    first = found[0]
    assert not isinstance(first, str)
    assert [block for block in range(28) if first.trains(block)] == [0, 4, 8, 12, 16, 20, 24]


def test_supervit_has_the_published_sizes_rates_and_places() -> None:
    stage = preset("supervit", ZOO["deit-s"], 300, FULL_STRENGTH).stages[0]
    assert not isinstance(stage.step, str)
    assert stage.step.sandwich.sizes == (128, 160, 192)
    assert stage.step.sandwich.keep_rates == (0.5, 0.7)
    assert (stage.tokens.by, stage.tokens.at_blocks) == ("class_attention", (3, 6, 9))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_says_what_it_is(name: str) -> None:
    summary = summary_of(name)
    assert len(summary) > 20
    assert summary.endswith(".")
    assert sum(summary == summary_of(other) for other in PRESETS) == 1
