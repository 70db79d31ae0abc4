"""What an arm may say, and the words of a command line that are made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autoprog.cli import build_parser, flags_of
from autoprog.errors import ConfigError
from autoprog.files import parse
from autoprog.verify.arms import (
    FLAGS_OF_BOTH,
    FLAGS_OF_SEARCH,
    PAIRS,
    SWITCHES,
    ArmSettings,
    flag_words,
    flags_of_words,
    with_numbers,
)

NEVER = {
    *("--help", "--debug", "--quiet", "--seed", "--runs-dir", "--resume", "--json", "--dry-run"),
    *("--allow-changed-data", "--costs", "--storage", "--join", "--replay"),
}
"""Flags of a search that an arm has not: of a single run, or for what is no new run of its own."""


def test_the_list_is_that_of_a_search_but_for_those_that_no_arm_has() -> None:
    allowed = {f"--{flag}" for flag in FLAGS_OF_BOTH | FLAGS_OF_SEARCH}
    assert allowed == flags_of(build_parser("search"), "search") - NEVER
    assert {f"--{flag}" for flag in FLAGS_OF_BOTH} <= flags_of(build_parser("train"), "train")
    verify = flags_of(build_parser("verify"), "verify")
    assert {f"--{flag}" for flag in FLAGS_OF_BOTH} <= verify
    assert not {f"--{flag}" for flag in FLAGS_OF_SEARCH - {"epochs"}} & verify


def test_each_flag_has_as_many_values_as_the_parser_wants() -> None:
    (commands,) = (a for a in build_parser("search")._actions if a.choices)
    assert isinstance(commands.choices, dict)
    for action in commands.choices["search"]._actions:
        flag = action.option_strings[-1].removeprefix("--")
        if flag in FLAGS_OF_BOTH | FLAGS_OF_SEARCH:
            wanted = 0 if flag in SWITCHES else 2 if flag in PAIRS else None
            assert action.nargs == ("?" if flag == "cache" else wanted), flag


@pytest.mark.parametrize("value", ["--debug", "-q", "", "a b", "=", "--seed=1", "@x", "-1", "---"])
@pytest.mark.parametrize("flag", ["model", "opt", "cache", "data", "recipe"])
def test_no_value_is_taken_for_a_flag(flag: str, value: str) -> None:
    settings = ArmSettings(command="train", preset="constant", flags={flag: value})
    args = build_parser("train").parse_args(settings.words(None))
    assert getattr(args, flag) == value
    assert (args.debug, args.quiet, hasattr(args, "seed")) == (False, False, False)


def test_words_and_flags_are_the_same_thing() -> None:
    words = ("--compile", "--scale", "0.5", "1.0", "--lr=2.5e-4", "--cache=auto", "--model=a=b")
    flags = flags_of_words(words, FLAGS_OF_BOTH)
    assert flags == {
        **{"compile": True, "scale": ("0.5", "1.0"), "lr": "2.5e-4", "cache": "auto"},
        "model": "a=b",
    }
    assert flag_words(flags) == words
    more = flags_of_words(
        ["--cache", "--cost-fraction", "0.3", "-j", "4", "--cost-fraction=0.15"],
        FLAGS_OF_BOTH | FLAGS_OF_SEARCH,
    )
    assert more == {"cache": "auto", "cost-fraction": "0.15", "jobs": "4"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train"], "train: must be a flag of a run"),
        (["-q"], "-q: must be a flag of a run"),
        (["--"], "--: must be a flag of a run"),
        (["lr=1"], "lr: must be a flag of a run"),
        (["-lr=1"], "-lr: must be a flag of a run"),
        (["--lr"], "--lr: must have a value"),
        (["--lr", "--compile"], "--lr: must have a value"),
        (["--scale", "0.5"], "--scale: must have a value"),
        (["--scale", "0.5", "--lr=1"], "--scale: must have a value"),
        (["--compile=1"], "--compile: must have no value, but got '1'"),
        (["--rule=pareto"], "--rule: must be a flag of a run"),
    ],
)
def test_other_words_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        flags_of_words(words, FLAGS_OF_BOTH)
    assert str(refused.value).startswith(said)


def test_texts_of_one_number_are_the_same() -> None:
    one, two = (
        {"lr": lr, "scale": ("0.5", end)} for lr, end in (("2.5e-4", "1"), ("0.00025", "1.0"))
    )
    assert one != two
    assert with_numbers(one) == with_numbers(two)
    assert with_numbers({"model": "x1"}) == {"model": "x1"}


def test_a_schedule_is_a_preset_or_the_copied_file() -> None:
    file = ArmSettings(command="train", follows_file=True)
    assert file.words(Path("V/--x.yaml")) == ("train", "--schedule=V/--x.yaml")
    preset = ArmSettings(command="train", preset="linear")
    assert preset.words(Path("V/x.yaml")) == ("train", "--schedule=linear")
    assert preset.following_file() == file
    assert ArmSettings(command="search").words(Path("x")) == ("search",)


@pytest.mark.parametrize(
    "values",
    [
        {"command": "search", "preset": "linear"},
        {"command": "search", "follows_file": True},
        {"command": "train"},
        {"command": "train", "preset": "linear", "follows_file": True},
        {"command": "train", "preset": "linear", "flags": {"space": "x"}},
        {"command": "train", "preset": "linear", "flags": {"": "x"}},
        {"command": "train", "preset": "linear", "flags": {"model": "x" * 5000}},
        {"command": "train", "preset": "linear", "flags": {"model": None}},
        {"command": "train", "preset": "linear", "flags": {"model": "--"}},
        {"command": "train", "preset": "linear", "flags": None},
    ],
)
def test_settings_of_no_run_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^f: "):
        parse(ArmSettings, values, "f")
