"""Text from files and names as a terminal or a log may have it: nothing in it steers the terminal."""

from __future__ import annotations

import re
import reprlib
from typing import IO, Any

__all__ = ["brief", "is_printable", "one_line", "printable", "say"]

_PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"}
_REPLACED = {
    **_PICTURES,  # C0: ␛ stands for an escape, of the same width, so that tables keep their shape
    0x7F: 0x2421,
    **dict.fromkeys(range(0x80, 0xA0), 0xFFFD),  # C1: an escape and a letter in one character
    **dict.fromkeys((0x2028, 0x2029), 0xFFFD),  # line and paragraph separators
    # What reverses the direction of text, and what nobody sees.
    **dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), 0xFFFD),
    **dict.fromkeys((0x061C, 0x200B, 0x200E, 0x200F, 0x2060, 0xFEFF), 0xFFFD),
    **dict.fromkeys(
        range(0xD800, 0xE000), 0xFFFD
    ),  # lone surrogates: bytes of a name in no encoding
}
_ANY_REPLACED = re.compile(f"[{''.join(map(re.escape, map(chr, _REPLACED)))}]")
_LONGEST_LINE = 2000
_LONGEST_VALUE = 500


def printable(text: str) -> str:
    """Return `text` with visible signs for control characters; new lines and tabs stay.

    A terminal's escape sequences begin with a control character, so that none is left.
    """
    return text if is_printable(text) else text.translate(_REPLACED)


def is_printable(text: str) -> bool:
    """Return whether `text` holds no control character but new lines and tabs."""
    return text.isprintable() or _ANY_REPLACED.search(text) is None  # the first is much faster


def say(
    text: object = "", file: IO[str] | None = None, end: str = "\n", flush: bool = False
) -> None:
    """Print a text, made :func:`printable`: the one way to print anything that is not drawn."""
    print(printable(str(text)), file=file, end=end, flush=flush)


def one_line(text: str, most: int = _LONGEST_LINE) -> str:
    """Return `text` as one printable line of at most `most` characters, cut in the middle."""
    if len(text) > most:
        end = most // 4
        text = f"{text[: most - end - 3]} … {text[-end:]}"
    return printable(text).replace("\n", " ").replace("\t", " ")


class _Brief(reprlib.Repr):
    """Texts of values: reprlib stops at its limits, so that huge or nested values take no time."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxdict = self.maxset = self.maxfrozenset = 8
        self.maxlist = self.maxtuple = self.maxdeque = self.maxarray = 12
        self.maxstring = self.maxother = 120

    def repr_int(self, x: int, level: int) -> str:
        """Return an integer; one of thousands of digits has no text in Python."""
        return repr(x) if x.bit_length() < 256 else f"a number of {x.bit_length()} bits"


_BRIEF = _Brief()


def brief(value: Any) -> str:
    """Return `value` as Python writes it, cut where it is long, wide or deep."""
    text = _BRIEF.repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."
