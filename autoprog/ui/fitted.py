"""Renderables that are drawn for the width they get."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.panel import Panel
from rich.text import Text

from autoprog.ui.palette import DIM

__all__ = ["Fitted", "flowing", "panel"]


@dataclass(frozen=True)
class Fitted:
    """A renderable that is made by a pure function of the width in columns."""

    draw: Callable[[int], RenderableType]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the drawing at the width that there is."""
        yield self.draw(options.max_width)


def flowing(parts: Sequence[Text], width: int, gap: str = "   ") -> Text:
    """Return parts one after the other, a new line before each that would be broken."""
    text, used = Text(), 0
    for part in parts:
        if used and used + len(gap) + part.cell_len > width:
            text.append("\n")
            used = 0
        text.append(gap if used else "").append_text(part)
        used += len(gap) * bool(used) + part.cell_len
    return text


def panel(content: RenderableType, title: str) -> Panel:
    """Return `content` in the frame that all views share."""
    heading = Text(f" {title} ", "bold")
    return Panel(content, title=heading, title_align="left", box=box.ROUNDED, border_style=DIM)
