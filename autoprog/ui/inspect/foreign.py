"""What others wrote, on the screen of the program: text that steers nothing, views that cannot fail."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text
from textual.color import Color
from textual.filter import LineFilter

from autoprog.errors import ConfigError, consistent
from autoprog.printable import is_printable, printable
from autoprog.ui.palette import WARNING

__all__ = ["Checked", "PrintableLines", "without_markup"]


class PrintableLines(LineFilter):
    """Shows control characters by visible signs, in every line that Textual draws."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """Return a line of the same width (a method that Textual calls)."""
        if all(is_printable(text) for text, _, _ in segments):
            return segments
        width = Segment.get_line_length(segments)
        shown = [Segment(printable(s.text), s.style, s.control) for s in segments]
        return Segment.adjust_line_length(shown, width, pad=False)  # the signs take room


@dataclass(frozen=True)
class Checked:
    """A view, or in one sentence what is wrong with the values that it is drawn from."""

    view: RenderableType

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[Segment | Text]:
        """Yield what is drawn."""
        try:
            with consistent("this view"):
                drawn: list[Segment | Text] = [*console.render(self.view, options)]
        except ConfigError as error:
            drawn = [Text(f"! {error}", WARNING)]
        yield from drawn


def without_markup(text: str) -> str:
    """Return a text for the palette of commands, which reads markup in all that it is given."""
    return text.replace("[", "\\[")
