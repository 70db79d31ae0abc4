"""The curves of a run as it goes, beside those of the baseline."""

from __future__ import annotations

from typing import ClassVar, get_args

from rich.console import RenderableType
from textual.binding import Binding, BindingType

from autoprog.ui.curves import CurveAxis, Ghost
from autoprog.ui.inspect.library import Library, Marks
from autoprog.ui.inspect.pages import live
from autoprog.ui.inspect.panes import PagePane
from autoprog.ui.subject import Subject

__all__ = ["LivePane"]


class LivePane(PagePane):
    """Where a run stands and how it came there."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("x", "axis", "Epochs or seconds")]

    def __init__(self, library: Library) -> None:
        super().__init__("live")
        self._library = library
        self._axis: CurveAxis = "epochs"
        self._ghost: Ghost | None = None

    def look(self, subject: Subject | None, marks: Marks) -> Ghost | None:
        """Read the baseline."""
        return None if subject is None else self._library.ghost(subject, marks)

    def take(self, value: object) -> None:
        """Draw the baseline where it has changed."""
        assert value is None or isinstance(value, Ghost)
        if value != self._ghost:
            self._ghost = value
            self.draw()

    def action_axis(self) -> None:
        """Draw the curves over the other axis."""
        axes = get_args(CurveAxis)
        self._axis = axes[(axes.index(self._axis) + 1) % len(axes)]
        self.draw()

    def picture(self, subject: Subject | None, columns: int, rows: int) -> RenderableType | None:
        """Return the bar and the curves."""
        return None if subject is None else live(subject, columns, rows, self._axis, self._ghost)
