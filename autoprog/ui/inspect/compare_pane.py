"""The comparison of the runs that are marked."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.console import Group, RenderableType
from rich.text import Text
from textual.binding import Binding, BindingType

from autoprog.ui.inspect.library import Compared, Library, Marks
from autoprog.ui.inspect.panes import PagePane
from autoprog.ui.palette import DIM, WARNING
from autoprog.ui.subject import Subject

if TYPE_CHECKING:
    from autoprog.ui.compare import Axis

__all__ = ["ComparePane", "compared_view"]

AROUND_PLOT_ROWS = 6  # its title, legend and axis, and the head of the table
LEAST_PLOT_ROWS = 5
_AXES: tuple[Axis, ...] = ("seconds", "images", "macs")


class ComparePane(PagePane):
    """The table of ``autoprog compare`` and its curves."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("x", "axis", "Seconds, images, MACs")]

    def __init__(self, library: Library) -> None:
        super().__init__("compare")
        self._library, self._axis = library, 0
        self._compared: Compared | None = None

    def look(self, subject: Subject | None, marks: Marks) -> Compared:
        """Read the runs that are marked."""
        return self._library.compared(marks.runs)

    def take(self, value: object) -> None:
        """Draw what was read."""
        if value is not self._compared:
            assert isinstance(value, Compared)
            self._compared = value
            self.draw()

    def action_axis(self) -> None:
        """Draw the curves over another axis."""
        self._axis = (self._axis + 1) % len(_AXES)
        self.draw()

    def picture(self, subject: Subject | None, columns: int, rows: int) -> RenderableType | None:
        """Return the table, the curves below it, and what both mean."""
        if self._compared is None:
            return None
        return compared_view(self._compared, _AXES[self._axis], rows)


def compared_view(compared: Compared, axis: Axis, rows: int) -> RenderableType:
    """Return the comparison, drawn for so many rows."""
    from autoprog.ui.compare import comparison_curves, comparison_notes, comparison_table

    left_out = [Text(f"! left out: {name}: {why}", WARNING) for name, why in compared.left_out]
    comparison = compared.comparison
    if comparison is None:
        law = "No complete runs to compare: mark some under Runs with Space; the first is the reference."
        return Group(Text(law, DIM), *left_out)
    free = rows - len(comparison.groups) - len(left_out) - AROUND_PLOT_ROWS
    curves = comparison_curves(comparison, axis, max(LEAST_PLOT_ROWS, free))
    pictures = [] if curves is None else [curves]
    table = comparison_table(comparison)
    return Group(table, *left_out, *pictures, *comparison_notes(comparison))
