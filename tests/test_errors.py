from __future__ import annotations

import pytest

from autoprog.errors import AutoprogError, ConfigError, DivergedError, RunError, suggest


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ConfigError("a.yaml", "stages[2].img_size", "must be even", 7, "nearest are 6 and 8"),
            "a.yaml: stages[2].img_size: must be even, but got 7; nearest are 6 and 8",
        ),
        (ConfigError("--lr", "", "must be above 0", -1.0), "--lr: must be above 0, but got -1.0"),
        (
            ConfigError("a.yaml", "lr", "must be given", hint="add it"),
            "a.yaml: lr: must be given; add it",
        ),
        (ConfigError("", "lr", "unknown key", "lr"), "lr: unknown key, but got 'lr'"),
        (
            ConfigError("a.yaml", "aa", "must be a policy", None),
            "a.yaml: aa: must be a policy, but got None",
        ),
    ],
)
def test_a_message_says_where_key_law_value_and_cure(error: ConfigError, message: str) -> None:
    assert str(error) == message


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (AutoprogError("x"), 1),
        (RunError("x"), 1),
        (DivergedError("x"), 1),
        (ConfigError("a", "b", "c"), 2),
    ],
)
def test_errors_know_their_exit_code(error: AutoprogError, code: int) -> None:
    assert error.exit_code == code


def test_a_bad_configuration_is_also_a_value_error() -> None:
    assert issubclass(ConfigError, ValueError)
    assert not issubclass(RunError, ValueError)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("lineer", "did you mean 'linear'?"),
        ("xyz", "known: constant, linear"),
        ("", "known: constant, linear"),
    ],
)
def test_a_wrong_word_gets_the_nearest_or_all_known(word: str, expected: str) -> None:
    assert suggest(word, ["linear", "constant"]) == expected


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("DEIT-S", "deit-s"),
        ("Linear", "linear"),
        ("sched", "schedules"),
        ("TOR", "torch-export"),
        ("de", None),  # too short to be told from anything
    ],
)
def test_a_suggestion_heeds_beginnings_and_no_capitals(word: str, near: str | None) -> None:
    known = ["deit-s", "deit-b", "linear", "schema", "schedules", "torch-export"]
    expected = "" if near is None else f"did you mean {near!r}?"
    assert suggest(word, known, list_all=False) == expected
