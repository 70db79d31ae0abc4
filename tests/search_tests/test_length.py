"""A search that is too short is refused at once, and the advice that comes with it works."""

from __future__ import annotations

import re
from typing import Any

import pytest

from autoprog.errors import ConfigError
from autoprog.recipe import Recipe, resolve_recipe
from autoprog.search.plan import length_and_plan
from autoprog.settings import Rule, SearchSettings
from autoprog.space import SpaceFile, find_space
from supernet.zoo import ZOO


def refusal(search: SearchSettings, recipe: Recipe, num_images: int) -> str:
    with pytest.raises(ConfigError) as refused:
        length_and_plan(search, recipe, num_images)
    return str(refused.value)


def search_of(
    model: str = "deit-s",
    rule: Rule = "rollout",
    cost_fraction: float | None = 0.5,
    **decisions: Any,
) -> SearchSettings:
    file, where = find_space(None, model)
    body = file.model_dump(by_alias=True)
    body["decisions"] |= decisions
    space = SpaceFile.model_validate(body).space(ZOO[model], where)
    return SearchSettings(space=space, space_from=where, rule=rule, cost_fraction=cost_fraction)


def recipe_of(epochs: float, batch_size: int) -> Recipe:
    layer = {"epochs": epochs, "batch_size": batch_size}
    return resolve_recipe("small-data", ("test", layer))


@pytest.mark.parametrize(
    ("num_images", "epochs", "batch_size"),
    [(587, 4, 128), (587, 4, 512), (100, 1, 64), (1437, 1.5, 64), (40, 30, 128), (5000, 0.1, 256)],
)
@pytest.mark.parametrize(
    ("rule", "cost_fraction"),
    [("rollout", 0.5), ("rollout", None), ("rollout", 0.1), ("autoprog", None), ("pareto", None)],
)
def test_whoever_takes_the_advice_can_search(
    num_images: int, epochs: float, batch_size: int, rule: Rule, cost_fraction: float | None
) -> None:
    search, recipe = (
        search_of(rule=rule, cost_fraction=cost_fraction),
        recipe_of(epochs, batch_size),
    )
    try:
        length_and_plan(search, recipe, num_images)
    except ConfigError as error:
        said = str(error)
    else:
        return
    assert re.match(r"search: \d+ steps( of the full model)? are too few to search; take --", said)
    assert "--space" not in said
    advised = dict(re.findall(r"--(epochs|batch-size) (\d+)", said))
    assert advised.keys() & {"epochs"}
    assert float(advised["epochs"]) > epochs
    for flag, value in advised.items():
        changed = recipe.model_copy(update={flag.replace("-", "_"): int(value)})
        length_and_plan(search, changed, num_images)


def test_few_photographs_and_few_epochs_are_told_so() -> None:
    said = refusal(search_of(), recipe_of(4, 128), 587)
    assert said == (
        "search: 10 steps of the full model are too few to search; take --epochs 17 or --batch-size 16"
    )


def test_the_epochs_advised_are_the_fewest() -> None:
    search, num_images = search_of(), 587
    said = refusal(search, recipe_of(4, 128), num_images)
    (epochs,) = re.findall(r"--epochs (\d+)", said)
    refusal(search, recipe_of(int(epochs) - 1, 128), num_images)


@pytest.mark.parametrize(
    ("rule", "decisions", "flag"),
    [
        ("rollout", {"min_full_fraction": 0.9}, "--min-full-fraction"),
        ("autoprog", {"supernet_epochs": 3.0}, "--supernet-epochs"),
    ],
)
def test_a_value_that_leaves_no_room_is_named_by_its_flag(
    rule: Rule, decisions: dict[str, float], flag: str
) -> None:
    recipe = recipe_of(10, 64)
    search = search_of(rule=rule, cost_fraction=None, **decisions)
    said = refusal(search, recipe, 1437)
    (value,) = re.findall(rf"{flag} ([\d.]+)", said)
    name = flag[2:].replace("-", "_")
    length_and_plan(
        search_of(rule=rule, cost_fraction=None, **{**decisions, name: float(value)}), recipe, 1437
    )


def test_a_shipped_space_that_does_not_fit_the_size_names_one_that_does() -> None:
    file, where = find_space(None, "vit-xs")
    with pytest.raises(ConfigError, match="take --space default"):
        file.space(ZOO["vit-xs"].with_img_size(48), where)
    find_space("default", "vit-xs")[0].space(ZOO["vit-xs"].with_img_size(48), "default")
