from __future__ import annotations

from pathlib import Path

import pytest

from autoprog.errors import ConfigError
from autoprog.files import parse, parse_yaml
from autoprog.space import SearchSpace, SpaceFile, find_space, shipped_spaces
from supernet.config import ModelSpec, SubnetConfig
from supernet.zoo import ZOO


def space(axes: str, spec: ModelSpec) -> SearchSpace:
    text = f"schema: 2\naxes: {axes}"
    return parse(SpaceFile, parse_yaml(text, "a.yaml"), "a.yaml").space(spec, "a.yaml")


def shipped(name: str) -> SearchSpace:
    """Return a shipped space for the model it is meant for; those of no model fit them all."""
    file, where = find_space(name, "deit-s")
    spec = ZOO[file.model or "deit-s"]
    return file.space(spec.with_img_size(file.img_size) if file.img_size else spec, where)


@pytest.mark.parametrize("name", shipped_spaces())
def test_every_shipped_space_leads_to_the_full_model(name: str) -> None:
    found = shipped(name)
    candidates = found.above(found.smallest)
    assert len(candidates) >= 4
    assert candidates[0] == found.smallest
    assert candidates[-1] == found.spec.full
    assert all(found.smallest.within(point) for point in candidates)
    assert all(point.img_size % found.spec.patch_size == 0 for point in candidates)


@pytest.mark.parametrize("name", shipped_spaces())
def test_a_shipped_space_of_a_model_is_named_after_it(name: str) -> None:
    file, where = find_space(name, "deit-s")
    assert where == f"search_spaces/{name}.yaml"
    assert file.model in (None, name)


@pytest.mark.parametrize("model", ZOO)
def test_every_model_has_a_space_without_naming_one(model: str) -> None:
    file, where = find_space(None, model)
    assert where == f"search_spaces/{model.removesuffix('-local')}.yaml"
    assert file.space(ZOO[model], where).spec == ZOO[model]


def test_a_model_without_a_space_takes_the_default() -> None:
    file, where = find_space(None, "vit_small_patch16_384")
    assert where == "search_spaces/default.yaml"
    assert file.model is None


@pytest.mark.parametrize(
    ("model", "depths", "sizes"),
    [
        ("deit-s", ((6,), (8,), (10,), (12,)), (112, 144, 192, 224)),
        ("vit-mu", ((2,), (3,), (4,)), (8, 12, 16)),
    ],
)
def test_the_default_space_is_fractions_of_any_model(
    model: str, depths: tuple[tuple[int, ...], ...], sizes: tuple[int, ...]
) -> None:
    file, where = find_space("default", model)
    found = file.space(ZOO[model], where)
    assert (found.depths, found.sizes) == (depths, sizes)


def test_given_weights_leave_the_sizes() -> None:
    found = shipped("deit-s").at_full_depth()
    assert found.depths == ((12,),)
    assert found.smallest == SubnetConfig(12, 128)
    assert [point.img_size for point in found.above(found.smallest)] == [128, 160, 192, 224]


def test_given_weights_must_leave_something_to_search(vit_mu: ModelSpec) -> None:
    only_depth = space("{img_size: {values: [16]}}", vit_mu)
    with pytest.raises(ConfigError, match=r"axes.img_size: must have several .* but got \[16\]"):
        only_depth.at_full_depth()
    tokens = space("{img_size: {values: [16]}, keep_rate: {values: [0.5, 1]}}", vit_mu)
    assert len(tokens.at_full_depth().above(tokens.at_full_depth().smallest)) == 2


def test_a_model_that_needs_its_grid_keeps_all_tokens(two_stages: ModelSpec) -> None:
    for spec in (ZOO["vit-mu-local"], two_stages):
        with pytest.raises(ConfigError) as refusal:
            space("{keep_rate: {values: [0.5, 1]}}", spec)
        assert str(refusal.value) == (
            "a.yaml: axes.keep_rate.values: must be [1.0], but got [0.5, 1.0];"
            f" {spec.name} needs the whole grid"
        )


def test_the_space_of_deit_is_the_published_grid() -> None:
    found = shipped("deit-s")
    assert found.depths == ((6,), (8,), (10,), (12,))
    assert found.sizes == (128, 160, 192, 224)


@pytest.mark.parametrize(
    "depth", ["{fractions: [0.25, 0.5, 0.75, 1.0]}", "{values: [4, 9, 14, 18]}"]
)
def test_the_depth_of_a_model_in_two_stages_counts_all_blocks(
    depth: str, two_stages: ModelSpec
) -> None:
    found = space(f"{{depth: {depth}, img_size: {{values: [224]}}}}", two_stages)
    assert found.depths == ((2, 2), (2, 7), (4, 10), (4, 14))
    assert found.above(SubnetConfig((2, 7), 224)) == tuple(
        SubnetConfig(depth, 224) for depth in ((2, 7), (4, 10), (4, 14))
    )


def test_the_space_of_volo_is_the_published_grid() -> None:
    found = shipped("volo-d1")
    assert found.depths == ((2, 7), (4, 8), (4, 11), (4, 14))
    assert found.sizes == (128, 160, 192, 224)


def test_fractions_that_round_to_one_depth_count_once(two_stages: ModelSpec) -> None:
    found = space("{depth: {fractions: [0.98, 0.99, 1.0]}}", two_stages)
    assert found.depths == ((4, 14),)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ("{depth: {values: [6, 8]}}", "axes.depth: must end at the full value 12, but got [6, 8]"),
        (
            "{depth: {values: [6, 24]}}",
            "axes.depth: must end at the full value 12, but got [6, 24]",
        ),
        (
            "{img_size: {values: [128, 208]}}",
            "axes.img_size: must end at the full value 224, but got [128, 208]",
        ),
        (
            "{img_size: {values: [120, 224]}}",
            "axes.img_size: must be a multiple of the stride 16, but got 120; "
            "nearest are 112 and 128",
        ),
        (
            "{depth: {values: [8, 6, 12]}}",
            "axes.depth: must be rising and above 0, but got [8, 6, 12]",
        ),
        (
            "{depth: {values: [6, 6, 12]}}",
            "axes.depth: must be rising and above 0, but got [6, 6, 12]",
        ),
        (
            "{depth: {values: [0, 12]}}",
            "axes.depth.values[0]: must be a whole number from 1 to 4,096, but got 0",
        ),
        ("{depth: {values: []}}", "axes.depth: must give either values or fractions"),
        ("{depth: {}}", "axes.depth: must give either values or fractions"),
        (
            "{depth: {values: [12], fractions: [1.0]}}",
            "axes.depth: must give either values or fractions",
        ),
        (
            "{depth: {fractions: [0.5, 0.9]}}",
            "axes.depth.fractions: must end at 1.0, but got [0.5, 0.9]",
        ),
        (
            "{depth: {value: [12]}}",
            "axes.depth.value: unknown key, but got 'value'; did you mean 'values'?",
        ),
        (
            "{heads: {values: [6]}}",
            "axes.heads: unknown key, but got 'heads'; known: batch_scale, depth, drop_path,"
            " img_size, init, keep_rate, lr, placement, randaug",
        ),
        ("{depth: [6, 12]}", "axes.depth: must be a mapping of keys to values, but got [6, 12]"),
    ],
)
def test_a_wrong_axis_is_told_in_one_line(axes: str, message: str, deit_s: ModelSpec) -> None:
    with pytest.raises(ConfigError) as caught:
        space(axes, deit_s)
    assert str(caught.value) == f"a.yaml: {message}"


def test_no_stage_of_a_model_may_fall_where_the_whole_rises(two_stages: ModelSpec) -> None:
    with pytest.raises(ConfigError) as caught:
        space("{depth: {values: [9, 10, 18]}}", two_stages)
    assert str(caught.value) == (
        "a.yaml: axes.depth: must not fall in a stage of the model, but 9 blocks are [2, 7] and"
        " 10 are [4, 6]; leave out one of the two"
    )


def test_the_depths_of_a_model_in_two_stages_end_at_all_blocks(two_stages: ModelSpec) -> None:
    with pytest.raises(ConfigError) as caught:
        space("{depth: {values: [9, 14]}}", two_stages)
    assert str(caught.value) == (
        "a.yaml: axes.depth: must end at the full value 18, but got [9, 14]"
    )


@pytest.mark.parametrize("name", shipped_spaces())
def test_the_points_above_contain_staying_and_the_full_model(name: str) -> None:
    found = shipped(name)
    for current in found.above(found.smallest):
        points = found.above(current)
        assert current in points
        assert found.spec.full in points
        assert all(current.within(point) for point in points)
        assert len(set(points)) == len(points)


@pytest.mark.parametrize("name", shipped_spaces())
def test_growing_never_opens_what_staying_had_closed(name: str) -> None:
    found = shipped(name)
    for current in found.above(found.smallest):
        for grown in found.above(current):
            assert set(found.above(grown)) <= set(found.above(current))


def test_a_point_off_the_grid_may_stay_where_it_is() -> None:
    current = SubnetConfig(7, 176)
    assert shipped("deit-s").above(current)[0] == current


def test_the_full_model_has_nowhere_to_grow(deit_s: ModelSpec) -> None:
    assert shipped("deit-s").above(deit_s.full) == (deit_s.full,)


def test_a_space_can_be_given_as_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("schema: 2\ndecisions: {num_stages: 2}\nrecipe: {mixup: 0.0}\n")
    file, where = find_space(str(path), "deit-s")
    assert (file.decisions.num_stages, file.recipe, where) == (2, {"mixup": 0.0}, str(path))


def test_an_unknown_space_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError) as caught:
        find_space("deit-ss", "deit-s")
    assert str(caught.value) == (
        "--space: unknown space, but got 'deit-ss'; did you mean 'deit-s'?"
    )


def test_a_space_survives_its_own_file_form() -> None:
    found = shipped("deit-s")
    assert SearchSpace.model_validate(found.model_dump(mode="json", by_alias=True)) == found


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"depths": [[999]]}, "depths: must be depths of deit-s, at most [12], but got [[999]]"),
        ({"depths": [[4, 8]]}, "depths: must be depths of deit-s, at most [12], but got [[4, 8]]"),
        ({"depths": []}, "depths: must have at least one entry, but got []"),
        (
            {"depths": [[True]]},
            "depths[0][0]: must be a whole number from 1 to 1,000, but got True",
        ),
        ({"sizes": [448]}, "sizes: must be multiples of the stride 16, at most 224, but got [448]"),
        ({"sizes": [10]}, "sizes: must be multiples of the stride 16, at most 224, but got [10]"),
        (
            {"keep_rates": [{"keep_rate": "1"}]},
            "keep_rates[0].keep_rate: must be a number from 1e-06 to 1, but got '1'",
        ),
        (
            {"decisions": {"num_points": 10**12}},
            "decisions.num_points: must be a whole number from 1 to 1,000, but got 1000000000000",
        ),
        (
            {
                "depths": [[depth] for depth in range(1, 13)],
                "sizes": [*range(16, 225, 16)],
                "keep_rates": [{"keep_rate": number / 20} for number in range(1, 21)],
            },
            "axes: must make at most 2,000 subnets, but got 3360; give fewer values to an axis",
        ),
    ],
)
def test_the_space_of_a_run_file_lies_in_its_model(values: dict[str, object], message: str) -> None:
    """What a run folder holds of its space was checked when it was made, but anybody may write one."""
    body = {**shipped("deit-s").model_dump(), **values}
    with pytest.raises(ConfigError) as caught:
        parse(SearchSpace, body, "run.yaml")
    assert str(caught.value) == f"run.yaml: {message}"


def test_a_space_of_too_many_subnets_is_refused() -> None:
    rates = [number / 20 for number in range(1, 21)]
    axes = f"{{depth: {{values: {[*range(1, 13)]}}}, img_size: {{values: {[*range(16, 225, 16)]}}},"
    with pytest.raises(ConfigError, match=r"a\.yaml: axes: must make at most 2,000 subnets"):
        space(f"{axes} keep_rate: {{values: {rates}}}}}", ZOO["deit-s"])
