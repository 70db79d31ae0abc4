"""Flags are made from the fields of settings: help, defaults, and words that mean the same values again."""

from __future__ import annotations

import argparse
from typing import Any

import pytest
from pydantic import BaseModel

from autoprog.commands.flags import add_search_flags
from autoprog.errors import ConfigError
from autoprog.fidelity_report import FidelitySettings
from autoprog.options import (
    add_options,
    check_needs,
    flag_words,
    flags_of_model,
    given,
    number_text,
)
from autoprog.recipe import Recipe
from autoprog.settings import (
    OUTSIDE,
    REPEATABLE,
    DataSettings,
    RunSettings,
    SearchSettings,
    changed_on_resume,
)
from autoprog.space import Decisions
from autoprog.stage import Grow

MODELS = (DataSettings, SearchSettings, RunSettings, Recipe, Decisions, FidelitySettings, Grow)


def parser_of(model: type[BaseModel]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_options(parser, model)
    return parser


@pytest.mark.parametrize("model", MODELS)
def test_every_flag_says_what_it_does(model: type[BaseModel]) -> None:
    for action in parser_of(model)._actions:
        assert action.help
        assert action.dest == action.option_strings[-1][2:].replace("-", "_")


def test_no_two_settings_share_a_flag() -> None:
    names = [flag.name for model in MODELS for flag in flags_of_model(model)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("--seed", "(default: 0)"),
        ("--checkpoint-minutes", "(default: 10)"),
        ("--num-points", "(default: 8)"),
        ("--scale", "(default: 0.08 1)"),
        ("--clip-grad", "(default: none)"),
        ("--wandb-mode", "(default: WANDB_MODE, else online)"),
        ("--cost-fraction", "(default: 0.5 for --rule rollout)"),
    ],
)
def test_the_help_shows_the_default(flag: str, text: str) -> None:
    defaults = {"clip_grad": "none"}
    texts = {}
    for model in MODELS:
        parser = argparse.ArgumentParser()
        add_options(parser, model, defaults=defaults)
        texts |= {action.option_strings[-1]: str(action.help) for action in parser._actions}
    assert texts[flag].endswith(text)


@pytest.mark.parametrize("switch", ["--compile", "--pretrained", "--held-out"])
def test_a_switch_has_no_default_to_show(switch: str) -> None:
    models = (RunSettings, DataSettings)
    texts = {a.option_strings[-1]: str(a.help) for m in models for a in parser_of(m)._actions}
    assert "default" not in texts[switch]


@pytest.mark.parametrize(
    ("model", "values"),
    [
        (DataSettings, {"dir": "a b", "val_fraction": 0.2, "fraction": 1 / 3, "on_held_out": True}),
        (RunSettings, {"seed": 7, "workers": "auto", "cache": "auto", "compile": True}),
        (RunSettings, {"cache": "-odd name", "time_budget_seconds": None, "fresh_head": False}),
        (SearchSettings, {"rule": "pareto", "costs_from": "c.json", "proxy": 0.1}),
        (Recipe, {"lr": 2.5e-4, "scale": (0.5, 1.0), "aa": "none", "batch_size": 64}),
        (FidelitySettings, {"candidates": 4, "begin": "scratch"}),
        (Grow, {"old_blocks": "ema"}),
    ],
)
def test_words_made_of_values_are_parsed_to_the_same_values(
    model: type[BaseModel], values: dict[str, Any]
) -> None:
    words = flag_words(flags_of_model(model), values)
    found = given(parser_of(model).parse_args(words), model)
    said = {key: value for key, value in values.items() if value not in (None, False)}
    assert {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()} == said


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "1"), (0.1, "0.1"), (1 / 3, "0.3333333333333333"), (5, "5"), ("x", "x")],
)
def test_a_number_is_as_short_as_it_stays_the_same(value: Any, text: str) -> None:
    assert number_text(value) == text


def test_a_flag_that_says_more_of_another_needs_it() -> None:
    parser = parser_of(DataSettings)
    with pytest.raises(ConfigError) as refused:
        check_needs(parser.parse_args(["--num-classes=3"]), DataSettings)
    assert str(refused.value) == "--num-classes: must be given together with --dataset"
    check_needs(parser.parse_args(["--num-classes=3", "--dataset=wds/x"]), DataSettings)


def test_what_reaches_outside_a_run_folder_is_listed() -> None:
    """A flag more in here is a decision about what a foreign run folder may do."""
    changed = {"compile", "log_wandb", "wandb_project"}
    images = {"dataset", "data_dir", "train_split", "val_split"}
    assert {"cache", "storage", "pretrained", *images} == REPEATABLE
    assert set(OUTSIDE) == REPEATABLE | changed
    assert changed <= changed_on_resume("search")


def test_a_resume_may_change_how_a_run_is_carried_out_and_nothing_that_it_computes() -> None:
    loggers = {"log_tensorboard", "log_wandb", "wandb_project", "wandb_mode"}
    here = {"device", "amp", "workers", "threads", "compile", "checkpoint_minutes"}
    faults = {"max_bad_images", "on_divergence"}
    assert changed_on_resume("search") == loggers | here | faults
    assert changed_on_resume("train") == changed_on_resume("search") | {"log_every_steps"}


def test_the_settings_of_a_search_are_all_flags_of_it() -> None:
    parser = argparse.ArgumentParser()
    add_search_flags(parser)
    known = {option for action in parser._actions for option in action.option_strings}
    models = (SearchSettings, Decisions, FidelitySettings, Grow)
    assert {flag.name for model in models for flag in flags_of_model(model)} <= known
