"""The settings of a run: what its file may say of a search."""

from __future__ import annotations

from typing import Any

import pytest

from autoprog.errors import ConfigError
from autoprog.files import parse
from autoprog.recipe import RECIPES
from autoprog.settings import DataSettings, RunSettings
from autoprog.space import find_space
from autoprog.stage import FullModel
from supernet.zoo import ZOO


def search_of(space_of: str, **values: Any) -> dict[str, Any]:
    """Return the settings of a search of DeiT-S, as a file holds them, with the space of a model."""
    file, where = find_space(None, space_of)
    space = file.space(ZOO[space_of], where).model_dump()
    return {
        "kind": "search",
        "model": FullModel.of(ZOO["deit-s"]).model_dump(),
        "data": DataSettings().model_dump(),
        "recipe_name": "digits",
        "recipe": RECIPES["digits"].model_dump(),
        "search": {"space": space, "space_from": where},
        **values,
    }


def test_a_search_is_one_of_the_model_of_the_run() -> None:
    assert parse(RunSettings, search_of("deit-s"), "run.yaml").search is not None
    with pytest.raises(ConfigError) as refused:
        parse(RunSettings, search_of("deit-b"), "run.yaml")
    assert str(refused.value) == (
        "run.yaml: search.space.spec: must be the model of the run, deit-s, but got 'deit-b'"
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": -1}, "seed: must be a whole number from 0 to 9.223e+18, but got -1"),
        ({"seed": 2**63}, "seed: must be a whole number from 0 to 9.223e+18, but got"),
        ({"workers": "2"}, "workers: must be a whole number from 0 to 256 or 'auto', but got '2'"),
        ({"workers": 10**9}, "workers: must be a whole number from 0 to 256 or 'auto', but got"),
        ({"threads": True}, "threads: must be a whole number from 1 to 1,024, but got True"),
        ({"table_sizes": [8] * 65}, "table_sizes: must have at most 64 items"),
        ({"eval_every_epochs": 1e-300}, "eval_every_epochs: must be 0 or a number from 1e-06 to"),
        ({"time_budget_seconds": 1e300}, "time_budget_seconds: must be a number from 0.001 to"),
    ],
)
def test_numbers_of_a_run_file_have_bounds(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(RunSettings, search_of("deit-s", **values), "run.yaml")
    assert str(refused.value).startswith(f"run.yaml: {message}")
