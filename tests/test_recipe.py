from __future__ import annotations

import pytest

from autoprog.errors import ConfigError
from autoprog.files import parse_yaml
from autoprog.recipe import (
    RECIPES,
    Recipe,
    default_recipe_name,
    fitting_batch_size,
    randaug_magnitude,
    resolve_recipe,
    with_randaug_magnitude,
)
from autoprog.stage import Curriculum, LearningRate
from autoprog.train.length import steps_per_epoch_of


def test_later_layers_win_and_untouched_keys_stay() -> None:
    recipe = resolve_recipe(
        "small-data",
        ("space.yaml", {"epochs": 20, "mixup": 0.2, "smoothing": 0.0}),
        ("recipe.yaml", {"epochs": 30, "mixup": 0.3}),
        ("command line", {"epochs": 40}),
    )
    assert (recipe.epochs, recipe.mixup, recipe.smoothing) == (40, 0.3, 0.0)
    changed = recipe.model_dump(exclude={"epochs", "mixup", "smoothing"})
    assert changed == RECIPES["small-data"].model_dump(exclude={"epochs", "mixup", "smoothing"})


def test_no_layers_give_the_recipe_itself() -> None:
    assert resolve_recipe("digits", ("command line", {})) == RECIPES["digits"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mixpu": 1}, "mixpu: unknown key, but got 'mixpu'; did you mean 'mixup'?"),
        ({"lr": -1}, "lr: must be a number from 1e-12 to 1,000, but got -1"),
        ({"epochs": float("inf")}, "epochs: must be a number from 1e-06 to 100,000, but got inf"),
        ({"drop_path": 1.0}, "drop_path: must be a number from 0 to 0.99, but got 1.0"),
        ({"scale": [0.9, 0.1]}, "scale: must be two rising numbers above 0, but got (0.9, 0.1)"),
        ({"ratio": [0.0, 1.0]}, "ratio[0]: must be a number from 0.01 to 100, but got 0.0"),
        ({"scale": [0.5]}, "scale[1]: must be given; add this key"),
        (
            {"sched": "cosin"},
            "sched: must be 'cosine', 'wsd' or 'constant', but got 'cosin'",
        ),
        (
            {"aa": "rand-m15-mstd0.5"},
            "aa: must have a magnitude of at most 10, but got 'rand-m15-mstd0.5'",
        ),
        (
            {"aa": "rand-m9-n99999999"},
            "aa: after -n must be a whole number from 0 to 16, but got 'rand-m9-n99999999'",
        ),
        (
            {"aa": "rand-m9-m99"},
            "aa: after -m must be a number from 0 to 10, but got 'rand-m9-m99'",
        ),
        (
            {"aa": "augmix-w99"},
            "aa: after -w must be a whole number from 1 to 16, but got 'augmix-w99'",
        ),
        (
            {"aa": "augmix-a0"},
            "aa: after -a must be a number from 0.01 to 100, but got 'augmix-a0'",
        ),
        (
            {"aa": "rand-n９"},
            "aa: after -n must be a whole number from 0 to 16, but got 'rand-n９'",
        ),
        (
            {"aa": "rand-inc9"},
            "aa: after -inc must be a whole number from 0 to 1, but got 'rand-inc9'",
        ),
    ],
)
def test_a_bad_value_names_its_layer(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_recipe("deit", ("a.yaml", {"epochs": 3}), ("b.yaml", values))
    assert str(caught.value) == f"b.yaml: {message}"


def test_an_unknown_recipe_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_recipe("digit")
    assert str(caught.value) == (
        "--recipe: unknown recipe, but got 'digit'; did you mean 'digits'?"
    )


@pytest.mark.parametrize("off", ["none", "", None])
def test_auto_augment_can_be_turned_off(off: str | None) -> None:
    assert resolve_recipe("deit", ("flags", {"aa": off})).aa is None


def test_a_number_without_a_point_is_one_and_a_text_is_none() -> None:
    values = parse_yaml("lr: 1e-3", "a.yaml")
    assert resolve_recipe("deit", ("a.yaml", values)).lr == 0.001
    with pytest.raises(ConfigError, match="must be a number from 1e-12 to 1,000, but got '1e-3'"):
        resolve_recipe("deit", ("a.yaml", parse_yaml("lr: '1e-3'", "a.yaml")))


@pytest.mark.parametrize(
    ("policy", "magnitude"),
    [
        ("rand-m9-mstd0.5-inc1", 9),
        ("rand-m4.5", 4.5),
        ("rand-mstd0.5-inc1", 10),  # timm's default magnitude
        ("rand", 10),
        ("original", None),
        ("augmix-m5-w4", None),
        (None, None),
    ],
)
def test_the_magnitude_of_a_policy_is_read(policy: str | None, magnitude: float | None) -> None:
    assert randaug_magnitude(policy) == magnitude


@pytest.mark.parametrize(
    ("policy", "magnitude", "expected"),
    [
        ("rand-m9-mstd0.5-inc1", 4, "rand-m4-mstd0.5-inc1"),
        ("rand-m9-mstd0.5-inc1", 4.5, "rand-m4-mstd0.5-inc1"),
        ("rand-m9-mstd0.5-inc1", 9, "rand-m9-mstd0.5-inc1"),
        ("rand-mstd0.5-inc1", 4, "rand-m4-mstd0.5-inc1"),
        ("rand-n3-m7.5", 1, "rand-m1-n3"),
        ("rand-m9-mstd0.5-inc1", 0, "rand-m0-mstd0.5-inc1"),
        ("rand-m9-mstd0.5-inc1", None, "rand-m9-mstd0.5-inc1"),
        ("original", 4, "original"),
        ("augmix-m5-w4", 0, "augmix-m5-w4"),
        (None, 4, None),
    ],
)
def test_a_policy_is_rewritten_for_another_magnitude(
    policy: str | None, magnitude: float | None, expected: str | None
) -> None:
    assert with_randaug_magnitude(policy, magnitude) == expected


@pytest.mark.parametrize("magnitude", [0, 1, 4, 9, 10])
def test_a_rewritten_magnitude_reads_back(magnitude: float) -> None:
    rewritten = with_randaug_magnitude("rand-m9-mstd0.5-inc1", magnitude)
    assert randaug_magnitude(rewritten) == magnitude


@pytest.mark.parametrize(
    ("batch_size", "expected"), [(512, 5e-4), (1024, 1e-3), (64, 6.25e-5), (4096, 4e-3)]
)
def test_the_rate_scales_linearly_with_the_batch(batch_size: int, expected: float) -> None:
    assert Recipe(batch_size=batch_size).peak_lr == pytest.approx(expected)


def test_a_rate_that_is_given_is_not_scaled() -> None:
    assert Recipe(lr=0.003, batch_size=64).peak_lr == 0.003


@pytest.mark.parametrize(
    ("num_images", "embedded", "expected"),
    [
        (1_281_167, False, "deit"),
        (200_000, False, "deit"),
        (199_999, False, "small-data"),
        (50_000, False, "small-data"),
        (1_500, True, "digits"),
    ],
)
def test_the_recipe_follows_the_number_of_images(
    num_images: int, embedded: bool, expected: str
) -> None:
    assert default_recipe_name(num_images, embedded) == expected
    assert expected in RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_its_own_file_form(name: str) -> None:
    recipe = RECIPES[name]
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_the_strength_of_a_recipe_is_what_a_schedule_may_ramp() -> None:
    assert RECIPES["deit"].strength == Curriculum(
        randaug=9, drop_path=0.1, reprob=0.25, mixup=0.8, cutmix=1.0
    )
    assert RECIPES["digits"].strength.randaug is None


def test_a_recipe_says_which_shape_its_schedules_carry() -> None:
    assert Recipe(sched="wsd").learning_rate == LearningRate(shape="wsd")


def test_every_setting_says_what_it_means() -> None:
    assert [name for name, field in Recipe.model_fields.items() if not field.description] == []


@pytest.mark.parametrize(
    ("num_images", "asked", "size", "steps"),
    [
        (36, 512, 36, 1),
        (36, 25, 18, 2),
        (587, 128, 117, 5),
        (31, 8, 8, 4),
        (640, 128, 128, 5),
        (1437, 64, 64, 22),
        (1281167, 1024, 1024, 1251),
    ],
)
def test_batches_fit_so_that_epochs_are_passes(
    num_images: int, asked: int, size: int, steps: int
) -> None:
    assert fitting_batch_size(asked, num_images) == size
    assert steps_per_epoch_of(num_images, size) == steps


def test_epochs_are_passes_within_a_tenth_whatever_the_batch() -> None:
    for num_images in range(21, 300):
        for asked in range(1, 400, 3):
            size = fitting_batch_size(asked, num_images)
            passes = steps_per_epoch_of(num_images, size) * size / num_images
            assert size <= asked
            assert passes == pytest.approx(1, abs=0.1), (num_images, asked)


def test_a_lowered_batch_is_what_processes_and_mixing_need() -> None:
    assert fitting_batch_size(1024, 25, multiple_of=2) == 24
    assert fitting_batch_size(8, 20, multiple_of=2) == 6
    assert fitting_batch_size(8, 3, multiple_of=4) == 3
    assert fitting_batch_size(25, 25, multiple_of=2) == 25, "as asked for"
