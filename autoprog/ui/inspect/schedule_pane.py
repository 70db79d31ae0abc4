"""The schedule of what is open: as it is, beside another one, or with its boundaries moved in a copy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rich.console import Group, RenderableType
from rich.text import Text
from textual.binding import Binding, BindingType

from autoprog.errors import AutoprogError
from autoprog.ui.inspect.library import Library, Marks, subject_of
from autoprog.ui.inspect.pages import PAGES
from autoprog.ui.inspect.panes import PagePane
from autoprog.ui.palette import DIM, WARNING
from autoprog.ui.subject import Subject
from autoprog.ui.timeline import timeline

if TYPE_CHECKING:
    from autoprog.ui.diff import ScheduleDiff
    from autoprog.ui.draft import Draft

__all__ = ["SchedulePane", "draft_view"]

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
    """The timeline, the diff and the editor."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("d", "diff", "Diff"),
        Binding("e", "edit", "Edit"),
        Binding("left,h", "move_boundary(-1)", "Earlier"),
        Binding("right,l", "move_boundary(1)", "Later"),
        Binding("tab", "next_boundary(1)", "Next boundary"),
        Binding("shift+tab", "next_boundary(-1)", "Boundary before", show=False),
        Binding("s", "save", "Save"),
        Binding("escape", "leave", "Leave"),
        Binding("q", "keep", show=False),
    ]

    def __init__(self, library: Library) -> None:
        super().__init__("schedule")
        self._library = library
        self._diffing: int | None = None
        self._other: _Other | None = None
        self.draft: Draft | None = None

    @property
    def is_editing(self) -> bool:
        """Tell whether keys move boundaries."""
        return self.draft is not None

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Leave the keys of the editor to others while nothing is edited."""
        if action in ("move_boundary", "next_boundary", "save", "keep"):
            return self.is_editing
        if action == "leave":
            return self.is_editing or self._diffing is not None
        return not self.is_editing if action in ("edit", "diff") else True

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
            diff: ScheduleDiff | str = schedule_diff(
                subject, subject_of(self._library, others[index])
            )
        except (AutoprogError, OSError) as error:
            diff = str(error)
        return _Other(diff, index, len(others))

    def take(self, value: object) -> None:
        """Draw the diff where it has changed."""
        assert value is None or isinstance(value, _Other)
        if value != self._other:
            self._other = value
            self.draw()

    def show(self, subject: Subject | None) -> None:
        """Draw a subject; a draft of another one ends."""
        if subject is None or self._subject is None or subject.name != self._subject.name:
            self.draft = None
            self.refresh_bindings()
        super().show(subject)

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

    def action_edit(self) -> None:
        """Begin to move boundaries in a copy."""
        if self._subject is None:
            return
        from autoprog.ui.draft import draft_of

        try:
            self.draft = draft_of(self._subject)
        except AutoprogError as error:
            self.notify(str(error), severity="warning")
        self._diffing = self._other = None
        self._changed()

    def action_move_boundary(self, by: int) -> None:
        """Move the end of the stage by a unit."""
        if self.draft is not None:
            self.draft = self.draft.moved(by)
            self.draw()

    def action_next_boundary(self, by: int) -> None:
        """Choose another boundary."""
        if self.draft is not None:
            self.draft = self.draft.next_boundary(by)
            self.draw()

    def action_save(self) -> None:
        """Ask for a file and write the draft."""
        if self.draft is not None:
            from autoprog.ui.inspect.save import SaveScreen

            self.app.push_screen(SaveScreen(self.draft), self._saved)

    def action_keep(self) -> None:
        """Say how to leave, so that a draft is not lost by a slip."""
        self.notify("s saves the edited schedule, Esc leaves it")

    def action_leave(self) -> None:
        """End the editor or the diff; the schedule is as it was."""
        self.draft = self._diffing = self._other = None
        self._changed()

    def picture(self, subject: Subject | None, columns: int, rows: int) -> RenderableType | None:
        """Return the editor, the diff or the schedule."""
        if self.draft is not None:
            return draft_view(self.draft)
        if self._diffing is not None:
            return _diff_picture(self._other)
        return None if subject is None else PAGES["schedule"](subject, columns, rows)

    def _saved(self, path: Path | None) -> None:
        if path is not None:
            self.notify(f"saved {path}")
            self.action_leave()

    def _changed(self) -> None:
        self.refresh_bindings()
        self.draw()
        self.read_on()


def draft_view(draft: Draft) -> RenderableType:
    """Return the boundary that is moved, what the draft costs, and the draft as a timeline."""
    lines = [
        Text(draft.boundary_text(), "bold"),
        Text(draft.cost_text()),
        Text(f"← → by {draft.move_text} · Tab next boundary · s save as · Esc leave", DIM),
    ]
    if draft.problem:
        lines.append(Text(f"! {draft.problem}", WARNING))
    return Group(*lines, timeline(draft.track(), None, "Edited copy"))


def _diff_picture(other: _Other | None) -> RenderableType:
    if other is None:
        return Text("reading …", DIM)
    if isinstance(other.diff, str):
        return Text(other.diff, DIM)
    from autoprog.ui.diff import diff_view

    place = f"{other.number + 1} of {other.count}" if other.count > 1 else "the only other one"
    note = Text(f"{place}: d shows the next, Esc leaves", DIM)
    return Group(diff_view(other.diff), note)
