"""Warnings of the libraries: printed once a kind, in one line, with the image that they are about."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TextIO

from autoprog.printable import one_line

__all__ = ["LibraryWarning", "about", "passed_on"]

_image: ContextVar[str] = ContextVar("image", default="")
_HINTS = {
    "decompression bomb": "an image so large may exhaust the memory: make it smaller",
}


class LibraryWarning(UserWarning):
    """What another process was warned of: a whole line already."""


@contextmanager
def about(image: str) -> Iterator[None]:
    """Name the image that is read meanwhile in what is warned of."""
    token = _image.set(image)
    try:
        yield
    finally:
        _image.reset(token)


@contextmanager
def passed_on(report: Callable[[str], None]) -> Iterator[None]:
    """Give warnings to `report` as lines, each kind once, instead of printing them with a place in the code.

    Two are of one kind if they differ in the image and in numbers alone.
    """
    seen: set[str] = set()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        text = one_line(" ".join(str(message).split()).rstrip("."))
        # Pillow warns with the numbers of each file: a million times over a large data set.
        kind = re.sub(r"\d+", "#", text.rpartition(_MARK)[2])
        if kind not in seen:
            seen.add(kind)
            # What a loader worker was warned of comes as a whole line, with its image.
            report(text if issubclass(category, LibraryWarning) else _line(text))

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


_MARK = ": its reader warns: "


def _line(text: str) -> str:
    hint = next((f"; {hint}" for word, hint in _HINTS.items() if word in text), "")
    image = _image.get()
    return f"{image}{_MARK}{text}{hint}" if image else f"{text}{hint}"
