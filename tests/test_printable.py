from __future__ import annotations

import time

import pytest

from autoprog.errors import AutoprogError, ConfigError
from autoprog.printable import is_printable, one_line, printable, short_repr

CLIPBOARD = "\x1b]52;c;cHduZWQ=\x07"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü → 図\ta\nb", "plain ü → 図\ta\nb"),
        (CLIPBOARD, "␛]52;c;cHduZWQ=␇"),
        ("\x1b[2Jgone", "␛[2Jgone"),
        ("over\rwritten\x08", "over␍written␈"),
        ("\x9b2J\x9d0;title\x9c", "�2J�0;title�"),
        ("\x7f\x00", "␡␀"),
        ("evil\u202egnp.exe", "evil�gnp.exe"),
        ("two\u2028lines", "two�lines"),
        ("right\u200fto\u200eleft\u061c", "right�to�left�"),
        ("no\u200bbody\u2060sees\ufeff", "no�body�sees�"),
        ("👩\u200d🔬 क्\u200dष", "👩\u200d🔬 क्\u200dष"),  # joined letters
        ("name \udcff", "name �"),
    ],
)
def test_control_characters_become_visible(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert len(shown) == len(text)
    assert is_printable(shown)
    assert is_printable(text) == (text == shown)


def test_no_character_that_steers_a_terminal_is_left() -> None:
    text = printable("".join(map(chr, range(0x3000))))
    assert not {c for c in text if (ord(c) < 32 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0}


def test_one_line_is_short_and_keeps_both_ends() -> None:
    line = one_line("begin\n" + "x" * 10**6 + "\tend", most=80)
    assert len(line) == 80
    assert line.startswith("begin x")
    assert line.endswith("x end")
    assert " … " in line


@pytest.mark.parametrize(
    "value",
    [
        [[[[[[[[list(range(10**6))]]]]]]]],
        "x" * 10**7,
        pytest.param(10**5000, id="long"),
        {str(n): "y" * 1000 for n in range(1000)},
        set(range(10**5)),
    ],
)
def test_a_brief_text_is_short_whatever_the_value(value: object) -> None:
    begin = time.monotonic()
    assert len(short_repr(value)) <= 500
    assert time.monotonic() - begin < 0.5


def test_a_shared_value_that_would_be_a_billion_texts_takes_no_time() -> None:
    value: list[object] = ["lol"]
    for _ in range(30):
        value = [value] * 9
    assert len(short_repr(value)) <= 500


def test_errors_are_one_printable_line() -> None:
    for error in (
        ConfigError(f"a{CLIPBOARD}.yaml", "key\nkey", "must be\x9b fine", "v" * 10**6, "do\rit"),
        AutoprogError(f"{CLIPBOARD}\n" + "x" * 10**6),
    ):
        text = str(error)
        assert is_printable(text)
        assert "\n" not in text
        assert "\t" not in text
        assert len(text) <= 2000
