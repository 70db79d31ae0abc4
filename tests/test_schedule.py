from __future__ import annotations

import math
import random
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from autoprog.errors import ConfigError
from autoprog.files import parse, parse_yaml
from autoprog.presets import PRESETS, preset
from autoprog.recipe import RECIPES
from autoprog.schedule import FoundBy, GrowthSchedule, load_schedule
from autoprog.stage import Curriculum, FullModel, Grow, LearningRate, Ramp, Stage, nearest_multiples
from autoprog.step_table import StepTable
from supernet.config import GrowthRule, ModelSpec, SubnetConfig
from supernet.zoo import ZOO

DEIT_S = """\
schema: 2
full: {model: deit-s, timm: deit_small_patch16_224, depth: 12, img_size: 224, stride: 16,
       embed_dim: 384, num_heads: 6}
"""
TWO_STAGES = """\
schema: 2
full: {model: volo, timm: volo_d1_224, depth: [4, 14], img_size: 224, stride: 16,
       embed_dim: 384, num_heads: 12, mlp_ratio: 3.0, outlook: {embed_dim: 192, num_heads: 6}}
"""
LAST = "{length: 1, depth: 12, img_size: 224}"

HAND_WRITTEN = {
    "one stage": DEIT_S + f"stages: [{LAST}]",
    "rest": DEIT_S + "stages: [{length: 3, depth: 6, img_size: 128}, "
    "{length: rest, depth: 12, img_size: 224}]",
    "steps and wsd": DEIT_S
    + f"length_unit: steps\nlr: {{shape: wsd, clock: epochs}}\nstages: [{LAST}]",
    "fractions with ramps": DEIT_S
    + """\
length_unit: fraction
stages:
  - length: 0.5
    depth: 8
    img_size: {ramp: linear, from: 128, to: 192, every_epochs: 5}
    curriculum: {randaug: {ramp: exponential, from: 1, to: 9}, mixup: 0.2, cutmix: 0}
  - length: 0.5
    depth: 12
    img_size: {ramp: linear, from: 192, to: 224}
    grow: {init: copy, placement: stack, optimizer_state: fresh}
""",
    "falling": DEIT_S + f"monotone: false\nstages: [{{length: 2.5, depth: 12, img_size: 224}}, "
    f"{{length: 1, depth: 9, img_size: 160}}, {LAST}]",
    "two stages": TWO_STAGES
    + "stages: [{length: 1, depth: [2, 7], img_size: 128, grow: {init: zero}}, "
    "{length: 1, depth: [4, 14], img_size: 224}]",
    "found by a search": DEIT_S
    + f"stages: [{LAST}]\nfound_by: {{run: runs/a, rule: rollout, seed: 3}}",
}

BROKEN = {
    f"stages: [{LAST}]\nmonotonic: true": "monotonic: unknown key, but got 'monotonic'; "
    "did you mean 'monotone'?",
    "stages: [{length: 1, dept: 12, img_size: 224}]": "stages[0].dept: unknown key, "
    "but got 'dept'; did you mean 'depth'?",
    "stages: [{length: 1, depth: 12, img_size: 224, Depth: 12}]": "stages[0].Depth: unknown key, "
    "but got 'Depth'; did you mean 'depth'?",
    "stages: [{length: 1, depth: 12, img_size: {ramp: linear, from: 160, too: 224}}]": "stages[0]"
    ".img_size.too: unknown key, but got 'too'; did you mean 'to'?",
    "length_unit: fraction": "stages: must be given; add this key",
    "stages: []": "stages: must have at least one entry, but got []",
    "stages: 5": "stages: must be a list, but got 5",
    "stages: [5]": "stages[0]: must be a mapping of keys to values, but got 5",
    "5: 6": "[5]: keys must be words, but got 5",
    f"length_unit: hours\nstages: [{LAST}]": "length_unit: must be 'epochs', 'steps', 'fraction', "
    "'budget_fraction' or 'compute_fraction', but got 'hours'",
    "stages: [{length: 0, depth: 12, img_size: 224}]": "stages[0].length: must be a number "
    "from 1e-09 to 1,000,000,000 or 'rest', but got 0",
    "stages: [{length: .inf, depth: 12, img_size: 224}]": "stages[0].length: must be a number "
    "from 1e-09 to 1,000,000,000 or 'rest', but got inf",
    "stages: [{length: long, depth: 12, img_size: 224}]": "stages[0].length: must be a number "
    "from 1e-09 to 1,000,000,000 or 'rest', but got 'long'",
    f"stages: [{{length: rest, depth: 12, img_size: 224}}, {LAST}]": "stages[0].length: only the "
    "last stage may be 'rest'",
    "length_unit: fraction\nstages: [{length: 0.4, depth: 12, img_size: 224}]": "stages: fractions must "
    "sum to 1, but got 0.4; or end with length: rest",
    f"length_unit: fraction\nstages: [{LAST}, {{length: rest, depth: 12, img_size: 224}}]": "stages: "
    "fractions must sum to less than 1 before 'rest', but got 1.0; leave some for 'rest'",
    "stages: [{length: 1, depth: 0, img_size: 224}]": "stages[0].depth: must be a whole number "
    "from 1 to 1,000, but got 0",
    "stages: [{length: 1, depth: 13, img_size: 224}]": "stages[0].depth: must lie in 1 to 12, "
    "but got 13",
    "stages: [{length: 1, depth: deep, img_size: 224}]": "stages[0].depth: must be a whole number "
    "from 1 to 1,000, but got 'deep'",
    "stages: [{length: 1, depth: [4, 8], img_size: 224}]": "stages[0].depth: must have one entry "
    "for each stage of deit-s, 1 in all, but got [4, 8]",
    "stages: [{length: 1, depth: 12, img_size: 200}]": "stages[0].img_size: must be a multiple of "
    "the stride 16, but got 200; nearest are 192 and 208",
    "stages: [{length: 1, depth: 12, img_size: 0}]": "stages[0].img_size: must be a whole "
    "number from 1 to 4,096, but got 0",
    "stages: [{length: 1, depth: 12, img_size: 200.5}]": "stages[0].img_size: must be a whole "
    "number from 1 to 4,096, but got 200.5",
    "stages: [{length: 1, depth: 12, img_size: {ramp: linear, from: 100, to: 224}}]": "stages[0]"
    ".img_size: must be a multiple of the stride 16, but got 100; nearest are 96 and 112",
    "stages: [{length: 1, depth: 12, img_size: {ramp: linear, from: 160}}]": "stages[0].img_size"
    ".to: must be given; add this key",
    "stages: [{length: 1, depth: 12, img_size: {ramp: linear, from: .inf, to: 224}}]": "stages[0]"
    ".img_size.from: must be 0 or a number from 1e-06 to 4,096, but got inf",
    "stages: [{length: 1, depth: 12, img_size: {ramp: exponential, from: 0, to: 224}}]": "stages[0]"
    ".img_size.from: must be above 0 for an exponential ramp, but got 0.0",
    "stages: [{length: 1, depth: 12, img_size: 240}]": "stages[0].img_size: must be at most 224, "
    "but got 240",
    "stages: [{length: 1, depth: 11, img_size: 224}]": "stages[0].depth: must end at the full "
    "depth 12, but got 11; make the last stage the full model",
    "stages: [{length: 1, depth: 12, img_size: 208}]": "stages[0].img_size: must end at the full "
    "size 224, but got 208; make the last stage the full model",
    f"stages: [{LAST}, {{length: 1, depth: 11, img_size: 224}}, {LAST}]": "stages[1].depth: must "
    "not fall below 12, but got 11; set monotone: false to allow it",
    f"stages: [{LAST}, {{length: 1, depth: 12, img_size: 208}}, {LAST}]": "stages[1].img_size: "
    "must not fall below 224, but got 208; set monotone: false to allow it",
    f"stages: [{{length: 1, depth: 12, img_size: {{ramp: linear, from: 224, to: 160}}}}, {LAST}]": (
        "stages[0].img_size: must not fall below 224, but got 160; set monotone: false to allow it"
    ),
    "stages: [{length: 1, depth: 12, img_size: 224, curriculum: {randaug: 11}}]": "stages[0]"
    ".curriculum.randaug: must lie in [0, 10], but got 11.0",
    "stages: [{length: 1, depth: 12, img_size: 224, curriculum: {mixup: .inf}}]": "stages[0]"
    ".curriculum.mixup: must be 0 or a number from 1e-12 to 4,096, but got inf",
    "stages: [{length: 1, depth: 12, img_size: 224, curriculum: {reprob: {ramp: x, from: 0, to: 1}"
    "}}]": "stages[0].curriculum.reprob.ramp: must be 'linear' or 'exponential', but got 'x'",
    "stages: [{length: 1, depth: 12, img_size: 224, grow: {init: copy, old_blocks: ema}}]": "stages[0]"
    ".grow.old_blocks: must be 'keep' unless init is 'ema', but got 'ema'",
    "stages: [{length: 1, depth: 12, img_size: 224, grow: {init: widen}}]": "stages[0].grow.init: must "
    "be 'ema', 'copy' or 'zero', but got 'widen'",
}


def from_text(text: str) -> GrowthSchedule:
    return parse(GrowthSchedule, parse_yaml(text, "s.yaml"), "s.yaml")


def schedule(*stages: dict[str, Any], **values: Any) -> GrowthSchedule:
    return parse(
        GrowthSchedule, {"full": FullModel.of(ZOO["deit-s"]), "stages": stages, **values}, "s.yaml"
    )


def equal_stages(lengths: list[Any], **values: Any) -> GrowthSchedule:
    return schedule(*({"length": n, "depth": 12, "img_size": 224} for n in lengths), **values)


def starts(table: StepTable) -> list[int]:
    stages = groupby(table.segments, key=lambda segment: segment.stage)
    return [next(segments).start_step for _, segments in stages]


@pytest.mark.parametrize(
    ("name", "model"),
    [
        (name, model)
        for name in PRESETS
        for model, spec in ZOO.items()
        if not spec.needs_grid or not name.startswith(("patch-sampling", "supervit"))
    ],
)
@pytest.mark.parametrize("recipe", ["deit", "digits"])
def test_a_saved_preset_loads_as_it_was(name: str, model: str, recipe: str, tmp_path: Path) -> None:
    made = preset(name, ZOO[model], 100, RECIPES[recipe].strength, LearningRate(shape="wsd"))
    (tmp_path / "s.yaml").write_text(made.to_yaml())
    assert load_schedule(tmp_path / "s.yaml") == made


@pytest.mark.parametrize("name", HAND_WRITTEN)
def test_a_hand_written_file_survives_saving_and_loading(name: str, tmp_path: Path) -> None:
    read = from_text(HAND_WRITTEN[name])
    (tmp_path / "s.yaml").write_text(read.to_yaml())
    assert load_schedule(tmp_path / "s.yaml") == read


def test_the_text_of_a_schedule_is_what_a_person_would_write() -> None:
    made = schedule(
        {"length": 3, "depth": 6, "img_size": 128, "curriculum": {"randaug": 4}},
        {"length": "rest", "depth": 12, "img_size": {"ramp": "linear", "from": 128, "to": 224}},
    )
    assert made.to_yaml().splitlines() == [
        "schema: 2",
        "full:",
        "  model: deit-s",
        "  timm: deit_small_patch16_224",
        "  depth: 12",
        "  img_size: 224",
        "  stride: 16",
        "  embed_dim: 384",
        "  num_heads: 6",
        "stages:",
        "- length: 3.0",
        "  depth: 6",
        "  img_size: 128",
        "  curriculum:",
        "    randaug: 4.0",
        "- length: rest",
        "  depth: 12",
        "  img_size:",
        "    ramp: linear",
        "    from: 128.0",
        "    to: 224.0",
    ]


@pytest.mark.parametrize("body", BROKEN)
def test_a_broken_rule_is_reported_in_one_line(body: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_text(DEIT_S + body)
    assert str(caught.value) == f"s.yaml: {BROKEN[body]}"


@pytest.mark.parametrize(
    ("depth", "message"),
    [
        ("[2]", "depth: must have one entry for each stage of volo, 2 in all, but got 2"),
        ("[5, 14]", "depth: must lie in 1 to [4, 14], but got [5, 14]"),
        ("[0, 14]", "depth[0]: must be a whole number from 1 to 1,000, but got 0"),
        (
            "[4, 13]",
            "depth: must end at the full depth [4, 14], but got [4, 13]; make the last stage the full"
            " model",
        ),
    ],
)
def test_a_model_of_two_stages_keeps_the_rules_of_depth(depth: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_text(TWO_STAGES + f"stages: [{{length: 1, depth: {depth}, img_size: 224}}]")
    assert str(caught.value) == f"s.yaml: stages[0].{message}"


@pytest.mark.parametrize(
    ("part", "place"),
    [
        ("trainable: {every: 4, level: 9}", "trainable"),
        ("trainable: {every: 0, level: 0}", "trainable"),
        ("step: {sandwich: {sizes: [], keep_rates: [0.5]}}", "step"),
    ],
)
def test_a_mapping_that_breaks_a_rule_is_not_said_to_be_a_word(part: str, place: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_text(DEIT_S + f"stages: [{{length: rest, depth: 12, img_size: 224, {part}}}]")
    message = str(caught.value)
    assert message.startswith(f"s.yaml: stages[0].{place}")
    assert "must be 'all'" not in message
    assert "must be 'plain'" not in message


def test_one_axis_of_depth_may_not_fall_while_the_other_grows() -> None:
    body = (
        "stages: [{length: 1, depth: [3, 7], img_size: 224}, {length: 1, depth: [2, 14], "
        "img_size: 224}, {length: 1, depth: [4, 14], img_size: 224}]"
    )
    with pytest.raises(ConfigError, match=r"stages\[1\]\.depth: must not fall below \[3, 7\]"):
        from_text(TWO_STAGES + body)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("schema: 2", "schema: 3", "schema: must be 2, but got 3"),
        ("depth: 12", "depth: 0", "full.depth: must be a whole number from 1 to 1,000, but got 0"),
        ("num_heads: 6", "num_heads: 5", "full: embed_dim must be a multiple of 5, but got 384"),
        (
            "stride: 16",
            "stride: 15",
            "full: img_size must be a multiple of the stride 15, but got 224; "
            "nearest are 210 and 225",
        ),
        ("model: deit-s, ", "", "full.model: must be given; add this key"),
        (
            "num_heads: 6",
            "mlp_ratio: 4",
            "full.num_heads: must be given; autoprog init schedule --model deit-s writes all keys of deit-s",
        ),
    ],
)
def test_a_full_model_that_cannot_be_is_refused(old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_text(DEIT_S.replace(old, new, 1) + f"stages: [{LAST}]")
    assert str(caught.value) == f"s.yaml: {message}"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: must be a readable file: No such file"):
        load_schedule(tmp_path / "none.yaml")


def test_a_schedule_is_frozen() -> None:
    made = equal_stages([1])
    with pytest.raises(ValidationError):
        made.monotone = False  # type: ignore[misc]


def test_a_growth_rule_goes_over_to_the_supernet_unchanged() -> None:
    grow = Grow(init="ema", placement="stack", old_blocks="ema", optimizer_state="reset")
    assert grow.rule() == GrowthRule("ema", "stack", "ema", "reset")


@pytest.mark.parametrize("model", ZOO)
def test_the_full_model_of_a_file_is_the_model_it_was_made_of(model: str) -> None:
    assert FullModel.of(ZOO[model]).spec() == ZOO[model]


@pytest.mark.parametrize(
    ("value", "expected"), [(200, (192, 208)), (7, (16, 32)), (224, (224, 240))]
)
def test_nearest_multiples_lie_around_a_value(value: int, expected: tuple[int, int]) -> None:
    assert nearest_multiples(value, 16) == expected


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [(100, [0, 25, 50, 75]), (300, [0, 75, 150, 225]), (90, [0, 22, 45, 67])],
)
def test_equal_stages_start_at_the_floor_of_k_e_over_k(epochs: int, expected: list[int]) -> None:
    linear = preset("linear", ZOO["deit-s"], epochs, Curriculum())
    assert starts(linear.resolve(steps_per_epoch=7)) == [7 * start for start in expected]
    assert linear.resolve(steps_per_epoch=7).total_steps == 7 * epochs


def test_equal_lengths_start_at_the_floor_in_steps() -> None:
    table = equal_stages([1, 1, 1, 1]).resolve(steps_per_epoch=10, epochs=9)
    assert (starts(table), table.total_steps) == ([0, 22, 45, 67], 90)


def test_lengths_in_steps_do_not_depend_on_the_epoch() -> None:
    table = equal_stages([3, 4], length_unit="steps").resolve(steps_per_epoch=100)
    assert (starts(table), table.total_steps) == ([0, 3], 7)


def test_lengths_in_fractions_are_of_the_whole_run() -> None:
    made = equal_stages([0.25, 0.75], length_unit="fraction")
    table = made.resolve(steps_per_epoch=10, epochs=8)
    assert (starts(table), table.total_steps) == ([0, 20], 80)


def test_fractions_that_miss_one_by_a_rounding_still_fill_the_run() -> None:
    made = equal_stages([0.3333333, 0.3333333, 0.3333333], length_unit="fraction")
    table = made.resolve(steps_per_epoch=10_000, epochs=300)
    assert (starts(table), table.total_steps) == ([0, 1_000_000, 2_000_000], 3_000_000)


@pytest.mark.parametrize(
    ("unit", "lengths", "expected"),
    [
        ("epochs", [2, "rest"], [0, 20]),
        ("steps", [2, "rest"], [0, 2]),
        ("fraction", [0.25, "rest"], [0, 25]),
        ("epochs", ["rest"], [0]),
    ],
)
def test_rest_takes_what_the_run_has_left(
    unit: str, lengths: list[Any], expected: list[int]
) -> None:
    table = equal_stages(lengths, length_unit=unit).resolve(steps_per_epoch=10, epochs=10)
    assert (starts(table), table.total_steps) == (expected, 100)


@pytest.mark.parametrize(("unit", "lengths"), [("epochs", [10, 30]), ("steps", [70, 210])])
def test_a_longer_run_stretches_epochs_and_steps(unit: str, lengths: list[float]) -> None:
    table = equal_stages(lengths, length_unit=unit).resolve(steps_per_epoch=10, epochs=8)
    assert (starts(table), table.total_steps) == ([0, 20], 80)


def test_a_run_may_end_inside_an_epoch() -> None:
    assert equal_stages([2.5]).resolve(steps_per_epoch=3).total_steps == 7


@pytest.mark.parametrize(
    ("unit", "lengths"),
    [("fraction", [0.5, 0.5]), ("epochs", [1, "rest"]), ("fraction", [0.5, "rest"])],
)
def test_fractions_and_rest_need_the_length_of_the_run(unit: str, lengths: list[Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        equal_stages(lengths, length_unit=unit).resolve(steps_per_epoch=10)
    problem = "--epochs: must be given for a schedule in fractions or with 'rest'"
    assert str(caught.value) == problem


@pytest.mark.parametrize(
    ("unit", "lengths", "expected"),
    [
        ("epochs", [10, 2.5], 12.5),
        ("steps", [10, 25], 3.5),
        ("fraction", [0.5, 0.5], None),
        ("epochs", [1, "rest"], None),
    ],
)
def test_a_schedule_knows_its_own_epochs_if_it_says_them(
    unit: str, lengths: list[Any], expected: float | None
) -> None:
    assert equal_stages(lengths, length_unit=unit).own_epochs(steps_per_epoch=10) == expected


@pytest.mark.parametrize(
    ("lengths", "epochs", "stage", "value"),
    [([1, 1000], 1, 0, "1.0"), ([25, 25, "rest"], 30, 2, "'rest'")],
)
def test_a_stage_without_a_step_is_refused(
    lengths: list[Any], epochs: float, stage: int, value: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        equal_stages(lengths).resolve(steps_per_epoch=10, epochs=epochs)
    assert str(caught.value) == (
        f"schedule: stages[{stage}].length: must last at least one step at 10 steps an epoch, "
        f"but got {value}; train longer or drop the stage"
    )


def test_a_ramp_climbs_in_levels() -> None:
    ramp = {"ramp": "linear", "from": 160, "to": 224, "every_epochs": 5}
    made = schedule({"length": 25, "depth": 12, "img_size": ramp})
    table = made.resolve(steps_per_epoch=10)
    plateaus = [(s.start_step, s.stop_step, s.subnet.img_size) for s in table.segments]
    assert plateaus == [
        (0, 50, 160),
        (50, 100, 176),
        (100, 150, 192),
        (150, 200, 208),
        (200, 250, 224),
    ]


def test_levels_of_equal_size_are_one_segment() -> None:
    ramp = {"ramp": "linear", "from": 208, "to": 224, "every_epochs": 1}
    made = schedule({"length": 4, "depth": 12, "img_size": ramp})
    sizes = [(s.steps, s.subnet.img_size) for s in made.resolve(steps_per_epoch=3).segments]
    assert sizes == [(6, 208), (6, 224)]


def test_each_ramp_keeps_its_own_levels() -> None:
    made = schedule(
        {
            "length": 4,
            "depth": 12,
            "img_size": {"ramp": "linear", "from": 192, "to": 224, "every_epochs": 2},
            "curriculum": {"reprob": {"ramp": "linear", "from": 0, "to": 0.3, "every_epochs": 1}},
        }
    )
    table = made.resolve(steps_per_epoch=1)
    assert [s.subnet.img_size for s in table.segments] == [192, 192, 224, 224]
    reprobs = [s.curriculum.reprob for s in table.segments]
    assert reprobs == [pytest.approx(value) for value in (0, 0.1, 0.2, 0.3)]


def test_a_stage_shorter_than_a_level_is_at_the_ramps_end() -> None:
    ramp = {"ramp": "linear", "from": 128, "to": 224, "every_epochs": 50}
    made = schedule({"length": 3, "depth": 12, "img_size": ramp})
    assert [s.subnet.img_size for s in made.resolve(10).segments] == [224]


def ramp_starts(stage_steps: int, every_epochs: float, steps_per_epoch: float) -> list[int]:
    ramp = Ramp.model_validate({"ramp": "linear", "from": 1, "to": 9, "every_epochs": every_epochs})
    levels = ramp.levels(stage_steps, steps_per_epoch)
    assert levels[-1][1] == 9
    return [start for start, _ in levels]


@pytest.mark.parametrize("seed", range(100))
def test_levels_of_a_ramp_are_equal_to_a_step(seed: int) -> None:
    draw = random.Random(seed)
    steps_per_epoch = draw.choice([1.0, 7.0, 312.0, 1251.0, 5004.0, draw.uniform(1, 5000)])
    every_epochs = draw.choice([0.01, 1.0, 2.5, 30 / 7, draw.uniform(0.01, 40)])
    stage_steps = draw.randint(1, 200_000)
    starts = ramp_starts(stage_steps, every_epochs, steps_per_epoch)
    lengths = [stop - start for start, stop in pairwise([*starts, stage_steps])]
    assert min(lengths) >= 1
    assert max(lengths) - min(lengths) <= 1
    plateau_steps = every_epochs * steps_per_epoch
    if plateau_steps >= 2 and stage_steps >= 2 * plateau_steps:
        # No other count of levels is nearer to the length that was asked for.
        assert abs(len(starts) - stage_steps / plateau_steps) <= 0.5


@pytest.mark.parametrize("seed", range(100))
def test_a_ramp_has_as_many_levels_as_its_stage_was_cut_into(seed: int) -> None:
    """Also where a level is no whole number of steps, and the stage starts and ends within a step."""
    draw = random.Random(seed)
    steps_per_epoch, count = draw.choice([312, 1251, 2502, 5004]), draw.randint(1, 20)
    before_epochs, rising_epochs = draw.uniform(0, 200), draw.uniform(0.2, 100)
    start = math.floor(before_epochs * steps_per_epoch)
    stop = math.floor((before_epochs + rising_epochs) * steps_per_epoch)
    assert len(ramp_starts(stop - start, rising_epochs / count, steps_per_epoch)) == count


def test_a_stage_longer_than_a_level_shows_both_ends_of_its_ramp() -> None:
    assert ramp_starts(500, 5.0, 100) == [0]
    assert ramp_starts(510, 5.0, 100) == [0, 255]
    assert ramp_starts(740, 5.0, 100) == [0, 370]
    assert ramp_starts(760, 2.5, 100) == [0, 253, 506]
    assert ramp_starts(3, 0.001, 100) == [0, 1, 2]


@pytest.mark.parametrize(("given", "lr_scale"), [(None, math.sqrt(2)), (1.0, 1.0)])
def test_a_stage_of_larger_batches_takes_fewer_steps_for_its_length(
    given: float | None, lr_scale: float
) -> None:
    first = {"length": 4, "depth": 6, "img_size": 128, "batch_scale": 2, "lr_scale": given}
    made = schedule(first, {"length": 4, "depth": 12, "img_size": 224})
    table = made.resolve(steps_per_epoch=10)
    assert [(s.start_step, s.stop_step) for s in table.segments] == [(0, 20), (20, 60)]
    assert table.image_epochs == 8
    found = [(s.training.batch_scale, s.training.lr_scale) for s in table.segments]
    assert found == [(2, pytest.approx(lr_scale)), (1, 1)]
    # A step of twice the images moves the learning rate twice as far: half of the images is half of the way.
    assert [table.clock(step) / 60 for step in (0, 10, 20, 40)] == [0, 0.25, 0.5, 0.75]


def test_steps_are_steps_whatever_their_batch() -> None:
    first = {"length": 4, "depth": 6, "img_size": 128, "batch_scale": 2}
    made = schedule(first, {"length": 4, "depth": 12, "img_size": 224}, length_unit="steps")
    assert [s.stop_step for s in made.resolve(10).segments] == [4, 8]


@pytest.mark.parametrize("kind", ["linear", "exponential"])
def test_a_ramp_ends_exactly_at_its_end(kind: str) -> None:
    ends = [hundredths / 100 for hundredths in range(1, 100)]
    ramps = [
        Ramp.model_validate({"ramp": kind, "from": start, "to": to})
        for start in ends
        for to in ends
    ]
    assert [ramp.at(1.0) for ramp in ramps] == [ramp.to for ramp in ramps]
    assert [ramp.at(0.0) for ramp in ramps] == [ramp.start for ramp in ramps]


def test_an_exponential_ramp_grows_by_equal_factors() -> None:
    ramp = Ramp.model_validate({"ramp": "exponential", "from": 1, "to": 16})
    assert [ramp.at(fraction) for fraction in (0.0, 0.25, 0.5, 0.75)] == [1, 2, 4, 8]


def random_curve(draw: random.Random, low: float, high: float) -> dict[str, Any]:
    kind = draw.choice(["linear", "exponential"])
    return {"ramp": kind, "from": low, "to": high, "every_epochs": draw.choice([0.3, 1, 2.5, 7])}


def random_schedule(draw: random.Random) -> GrowthSchedule:
    unit = draw.choice(["epochs", "steps", "fraction"])
    count = draw.randint(1, 5)
    depths = [*sorted(draw.randint(1, 12) for _ in range(count - 1)), 12]
    sizes = [*sorted(draw.randint(1, 14) * 16 for _ in range(count - 1)), 224]
    stages: list[dict[str, Any]] = []
    for depth, low, high in zip(depths, [sizes[0], *sizes], sizes, strict=False):
        size = high if draw.random() < 0.5 else random_curve(draw, low, high)
        stages.append({"length": draw.uniform(1, 9), "depth": depth, "img_size": size})
        if draw.random() < 0.5:
            stages[-1]["curriculum"] = {"randaug": random_curve(draw, 1, 9), "mixup": 0.8}
    if unit == "steps":
        for stage in stages:
            stage["length"] *= 50
    if unit == "fraction":
        total = sum(stage["length"] for stage in stages)
        for stage in stages:
            stage["length"] /= total
    if draw.random() < 0.3:
        stages[-1]["length"] = "rest"
    return schedule(*stages, length_unit=unit)


@pytest.mark.parametrize("seed", range(150))
def test_the_table_covers_every_step_once_and_ends_at_the_full_model(seed: int) -> None:
    draw = random.Random(seed)
    made = random_schedule(draw)
    steps_per_epoch, epochs = draw.randint(20, 60), draw.uniform(60, 90)
    table = made.resolve(steps_per_epoch, epochs)
    assert table.segments[0].start_step == 0
    assert table.total_steps == int(epochs * steps_per_epoch)
    assert all(before.stop_step == after.start_step for before, after in pairwise(table.segments))
    assert all(segment.steps >= 1 for segment in table.segments)
    assert [stage for stage, _ in groupby(s.stage for s in table.segments)] == list(
        range(len(made.stages))
    )
    assert table.segments[-1].subnet == made.full.spec().full
    for before, after in pairwise(table.segments):
        assert before.subnet.within(after.subnet)
        assert (before.stage, before.subnet, before.curriculum) != (
            after.stage,
            after.subnet,
            after.curriculum,
        )
    lasts = {segment.stage: segment for segment in table.segments}
    for index, stage in enumerate(made.stages):
        if isinstance(stage.img_size, Ramp):
            assert lasts[index].subnet.img_size == stage.img_size.to
        if isinstance(stage.curriculum.randaug, Ramp):
            assert lasts[index].curriculum.randaug == stage.curriculum.randaug.to


@pytest.mark.parametrize("seed", range(20))
def test_a_generated_schedule_survives_saving_and_loading(seed: int) -> None:
    made = random_schedule(random.Random(seed))
    assert from_text(made.to_yaml()) == made


def test_a_step_finds_its_segment_and_no_other_step_does() -> None:
    table = equal_stages([2, 3]).resolve(steps_per_epoch=5)
    assert [table.at(step).stage for step in (0, 9, 10, 24)] == [0, 0, 1, 1]
    for step in (-1, 25):
        with pytest.raises(IndexError, match=rf"step must lie in \[0, 25\), but got {step}"):
            table.at(step)


def test_a_segment_says_what_to_train(two_stages: ModelSpec) -> None:
    stage = Stage(
        length=2,
        depth=(2, 7),
        img_size=128,
        grow=Grow(init="zero"),
        curriculum=Curriculum(drop_path=0.1),
    )
    last = Stage(length=2, depth=(4, 14), img_size=224)
    made = GrowthSchedule(full=FullModel.of(two_stages), stages=(stage, last))
    first, final = made.resolve(steps_per_epoch=4).segments
    assert (first.subnet, first.steps) == (SubnetConfig((2, 7), 128), 8)
    assert (first.curriculum, first.grow) == (Curriculum(drop_path=0.1), Grow(init="zero"))
    assert (final.subnet, final.curriculum) == (SubnetConfig((4, 14), 224), Curriculum())


def test_where_a_schedule_was_found_is_kept() -> None:
    read = from_text(HAND_WRITTEN["found by a search"])
    assert read.found_by == FoundBy(run="runs/a", rule="rollout", seed=3, costs="costs.json")


RISING = "{ramp: linear, from: 1, to: 9, every_epochs: %s}"


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (
            [f"curriculum: {{randaug: {RISING % 1e-6}}}"],
            "schedule: every_epochs: must make at most 200,000 levels a stage, not 10,000,000, but got",
        ),
        (
            ["tokens: {keep_rate: {curve: cyclic, period_epochs: 0.00001}}"],
            "schedule: period_epochs: must make at most 200,000 levels a stage, not",
        ),
        (
            [f"curriculum: {{randaug: {RISING % 0.004}}}"] * 10,
            "schedule: stages[8]: must change sizes, keep-rates and regularisation at most 20,000 times",
        ),
    ],
)
@pytest.mark.parametrize("unit", ["epochs", "compute_fraction"])
def test_levels_beyond_number_are_refused_before_they_are_made(
    stages: list[str], message: str, unit: str
) -> None:
    length = 10.0 if unit == "epochs" else 1 / len(stages)
    body = ", ".join(f"{{length: {length}, depth: 12, img_size: 224, {one}}}" for one in stages)
    text = f"{DEIT_S}length_unit: {unit}\nmonotone: false\nend: free\nstages: [{body}]"
    schedule = from_text(text)
    with pytest.raises(ConfigError) as caught:
        schedule.resolve(1_250_000, 10.0 * len(stages))
    assert str(caught.value).startswith(message)


def test_a_schedule_of_a_million_stages_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"stages: .*at most 1000"):
        from_text(DEIT_S + f"stages: [{', '.join([LAST] * 2000)}]")


def test_a_ramp_may_rise_in_the_smallest_steps() -> None:
    rising = "{ramp: linear, from: 0, to: 0.000001, every_epochs: 0.001}"
    text = f"stages: [{{length: 10, depth: 12, img_size: 224, curriculum: {{mixup: {rising}}}}}]"
    segments = from_text(DEIT_S + text).resolve(1000).segments
    assert len(segments) == 10_000
    assert segments[1].curriculum.mixup == pytest.approx(1e-10, rel=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        {"timm": "hf-hub:timm/vit_tiny"},
        {"timm": "/tmp/vit"},
        {"model": "\x1b[2J"},
        {"depth": 10**9},
        {"img_size": 2**40},
        {"embed_dim": 10**9, "num_heads": 1},
        {"mlp_ratio": 1e300},
        {"overrides": {"checkpoint_path": "/etc/passwd"}},
        {"overrides": {"depth": 10**9}},
        {"overrides": {"pretrained_cfg": "x"}},
        {"overrides": {"depth": True}},
        {"in_chans": 10**9},
        {"num_prefix_tokens": 10**9},
    ],
)
def test_a_hostile_model_is_refused_before_it_is_built(changes: dict[str, Any]) -> None:
    body = FullModel.of(ZOO["vit-mu"]).model_dump(mode="json")
    with pytest.raises(ConfigError) as caught:
        parse(FullModel, {**body, **changes}, "run.yaml")
    assert str(caught.value).startswith("run.yaml: ")
    assert len(str(caught.value)) < 400
