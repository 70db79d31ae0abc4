"""The schedule of what is open: as it is, or beside another one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rich.console import Group, RenderableType
from rich.text import Text
from textual.binding import Binding, BindingType

from autoprog.errors import AutoprogError, consistent
from autoprog.ui.inspect.library import Library, Marks, subject_of
from autoprog.ui.inspect.pages import PAGES
from autoprog.ui.inspect.panes import READING, PagePane
from autoprog.ui.palette import DIM
from autoprog.ui.subject import Subject

if TYPE_CHECKING:
    from autoprog.ui.diff import ScheduleDiff

__all__ = ["SchedulePane"]

NO_OTHER = (
    "Nothing to compare with: mark a run under Runs with Space, or name two schedules on the"
    " command line."
)


@dataclass(frozen=True)
class _Other:
    """What the schedule is compared with: number `number` of `count`, as a diff or what is wrong."""

    diff: ScheduleDiff | str
    number: int
    count: int


class SchedulePane(PagePane):
    """The timeline and the diff."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("d", "diff", "Diff"),
        Binding("escape", "leave", "Leave"),
    ]

    def __init__(self, library: Library) -> None:
        super().__init__("schedule")
        self._library = library
        self._diffing: int | None = None
        self._other: _Other | None = None

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Leave Esc to others while there is no diff."""
        return self._diffing is not None if action == "leave" else True

    def look(self, subject: Subject | None, marks: Marks) -> _Other | None:
        """Read the other schedule."""
        number = self._diffing
        if number is None or subject is None:
            return None
        from autoprog.ui.diff import schedule_diff  # not before it is asked for

        others = self._library.others(subject, marks)
        if not others:
            return _Other(NO_OTHER, 0, 0)
        index = number % len(others)
        try:
            with consistent("these schedules"):
                other = subject_of(self._library, others[index])
                diff: ScheduleDiff | str = schedule_diff(subject, other)
        except (AutoprogError, OSError) as error:
            diff = str(error)
        return _Other(diff, index, len(others))

    def take(self, value: object) -> None:
        """Draw the diff where it has changed."""
        assert value is None or isinstance(value, _Other)
        if value != self._other:
            self._other = value
            self.draw()

    def action_diff(self) -> None:
        """Compare with the next of the other schedules; after the last one with none."""
        if self._diffing is None:
            self._diffing = 0
        elif self._other is None or self._diffing + 1 >= self._other.count:
            self._diffing = None
        else:
            self._diffing += 1
        self._other = None
        self.scroll_home(animate=False)
        self._changed()

    def action_leave(self) -> None:
        """End the diff."""
        self._diffing = self._other = None
        self._changed()

    def picture(self, subject: Subject | None, columns: int, rows: int) -> RenderableType | None:
        """Return the diff or the schedule."""
        if self._diffing is not None:
            return _diff_picture(self._other)
        return None if subject is None else PAGES["schedule"](subject, columns, rows)

    def _changed(self) -> None:
        self.refresh_bindings()
        self.draw()
        self.read_on()


def _diff_picture(other: _Other | None) -> RenderableType:
    if other is None:
        return Text(READING, DIM)
    if isinstance(other.diff, str):
        return Text(other.diff, DIM)
    from autoprog.ui.diff import diff_view

    place = f"{other.number + 1} of {other.count}" if other.count > 1 else "the only other one"
    note = Text(f"{place}: d shows the next, Esc leaves", DIM)
    return Group(diff_view(other.diff), note)
