"""The console of the whole program: rich's, to which text is text, never markup nor an escape sequence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich import console
from rich.segment import Segment
from rich.text import Text

from autoprog.printable import is_printable, printable

__all__ = ["Console"]


class Console(console.Console):
    """Rich's console for text that others wrote, such as names of classes, files and runs.

    ``[bold]`` and ``:smile:`` in a text stand for themselves, and control characters are shown by visible
    signs. Only rich itself moves the cursor and sets colours.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, **settings})

    def render(
        self, renderable: console.RenderableType, options: console.ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield the segments of a renderable, which rich calls for each part of it as well."""
        if isinstance(renderable, Text) and not is_printable(renderable.plain):
            renderable = renderable.copy()  # before lines are broken: the signs take room
            renderable.plain = printable(renderable.plain)
        for segment in super().render(renderable, options):
            if segment.control or is_printable(segment.text):
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)

    def out(self, *objects: Any, **settings: Any) -> None:
        """Write texts as they are, without breaking lines."""
        super().out(*(printable(str(text)) for text in objects), **settings)
