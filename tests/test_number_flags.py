"""Every flag that takes a number takes those in its bounds, and refuses all else in one line."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from autoprog.bounds import Range
from autoprog.cli import COMMANDS, build_parser, main
from autoprog.options import duration_seconds

NO_NUMBERS = ("", " 5", "1_000", "0x10", "１２", "nan", "inf", "-inf", "1e400", "five", "\x1b[2J")
BEYOND = ("-1", "1e300", "-1e300", str(10**40), "9" * 5000, "1e-320")
NEEDED = {
    "show": ["linear"],
    "evaluate": ["a.safetensors"],
    "export": ["run", "--output", "a.pth"],
}
"""What a command must be given besides."""


@cache
def parser_of(command: str) -> argparse.ArgumentParser:
    return build_parser(command)


def actions(command: str) -> list[argparse.Action]:
    parser = parser_of(command.split()[0])
    for word in command.split():
        parser = subparsers(parser)[word]
    return list(parser._actions)


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = (a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return dict(next(found, {}))


def commands() -> Iterator[str]:
    """Yield the commands, those with a second word with each of these."""
    for name in COMMANDS:
        words = subparsers(subparsers(parser_of(name))[name])
        yield from (f"{name} {word}" for word in words) if words else (name,)


def number_flags() -> Iterator[tuple[str, argparse.Action, Range]]:
    for command in commands():
        for action in actions(command):
            if isinstance(action.type, Range):
                yield command, action, action.type


FLAGS = [*number_flags()]


@pytest.mark.parametrize("command", [*commands()])
def test_every_flag_for_a_number_has_bounds(command: str) -> None:
    kinds = {action.dest: action.type for action in actions(command)}
    assert not [name for name, kind in kinds.items() if kind in (int, float)]
    known = {Path, None, duration_seconds}
    assert {kind for kind in kinds.values() if not isinstance(kind, Range)} <= known


@pytest.mark.parametrize("command", ["train", "search", "verify", "bench runner", "bench presets"])
def test_every_number_of_a_recipe_is_a_flag_with_bounds(command: str) -> None:
    letters = [a for a in actions(command) if a.metavar == "N" or a.metavar == ("LOW", "HIGH")]
    assert len(letters) > 20
    assert {a.option_strings[-1] for a in letters if not isinstance(a.type, Range)} == set()


@pytest.mark.parametrize(
    ("command", "action", "bounds"), FLAGS, ids=[f"{c} {a.option_strings[-1]}" for c, a, _ in FLAGS]
)
def test_what_is_no_number_or_beyond_the_bounds_is_refused_in_one_line(
    command: str,
    action: argparse.Action,
    bounds: Range,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    flag = action.option_strings[-1]
    count = action.nargs if isinstance(action.nargs, int) else 1
    for text in (*NO_NUMBERS, *(text for text in BEYOND if float(text) not in bounds)):
        words = [f"{flag}={text}"] if count == 1 else [flag, *[f" {text}"] * count]
        with pytest.raises(SystemExit) as ended:
            parser_of(command.split()[0]).parse_args(
                [*command.split(), *NEEDED.get(command, []), *words]
            )
        told = capsys.readouterr()
        assert ended.value.code == 2
        assert told.err.count("\n") == 1
        assert len(told.err) < 700
        assert "\x1b" not in told.err
        assert f"argument {'/'.join(action.option_strings)}: {bounds.problem}" in told.err
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("flag", ["--seed", "--time-budget", "--schedule", "--model", "--data"])
def test_two_dashes_are_no_value(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", f"{flag}=--"])
    assert f"argument {flag}: must be given a value, but got '--'" in capsys.readouterr().err


def test_a_list_of_numbers_has_an_end(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", "a.safetensors", "--img-sizes", *["32"] * 100_000])
    problem = "argument --img-sizes: must be at most 64 values, but got 100,000 of them"
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "h",
        "1e300h",
        "nanh",
        "infs",
        "-1h",
        "1_0h",
        "１h",
        "9" * 500 + "h",
        "1h 30m",
        "87601h",
    ],
)
def test_a_duration_is_one_or_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", f"--time-budget={text}"])
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "argument --time-budget: must be a duration" in told
    assert len(told) < 700
