"""Class names of one run set against those of other images or other weights, in words."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["class_difference", "order_of", "some"]

_MOST_NAMED = 3


def class_difference(found: Sequence[str], expected: Sequence[str]) -> str:
    """Return in words how class names differ from the expected ones; empty for the same in the same order."""
    known, held = set(expected), set(found)
    new = [name for name in found if name not in known]
    missing = [name for name in expected if name not in held]
    parts = [
        f"{some(names)} {'is' if len(names) == 1 else 'are'} {word}"
        for names, word in ((new, "new"), (missing, "missing"))
        if names
    ]
    if parts or list(found) == list(expected):
        return " and ".join(parts)
    number = next(k for k, pair in enumerate(zip(found, expected, strict=True)) if len({*pair}) > 1)
    return f"in another order: class {number} is {found[number]!r}, not {expected[number]!r}"


def order_of(names: Sequence[str], among: Sequence[str]) -> list[int] | None:
    """Return the number that each name has among others; None if one is not there."""
    numbers = {name: number for number, name in enumerate(among)}
    if not all(name in numbers for name in names):
        return None
    return [numbers[name] for name in names]


def some(names: Sequence[str]) -> str:
    """Return the first few of some names, and how many more there are."""
    text = ", ".join(map(repr, names[:_MOST_NAMED]))
    more = len(names) - _MOST_NAMED
    return f"{text} and {more} more" if more > 0 else text
