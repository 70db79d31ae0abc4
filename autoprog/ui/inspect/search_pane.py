"""What a search tried: its trials, its workers and which parameters matter."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text
from textual.message import Message

from autoprog.errors import AutoprogError
from autoprog.importance import Importance
from autoprog.ui.importance import importances_view
from autoprog.ui.inspect.follow import Stamp, stamp
from autoprog.ui.inspect.library import Marks
from autoprog.ui.inspect.pages import weighed
from autoprog.ui.inspect.panes import PagePane
from autoprog.ui.palette import DIM
from autoprog.ui.subject import Subject
from autoprog.ui.trials import trials_view
from autoprog.ui.workers import workers_view

__all__ = ["Importances", "SearchPane"]

Importances = Callable[[Path], Sequence[Importance]]
"""Reads a journal; may take seconds."""

JOURNAL = "search.journal"
REST_SECONDS = 10.0  # between two computations of importances that keep changing


class SearchPane(PagePane):
    """Front, trials, workers and importances; those are computed in a thread of their own."""

    class Computed(Message):
        """Importances of a journal as it was are known."""

        def __init__(self, path: Path, found: Sequence[Importance] | str) -> None:
            self.path, self.found = path, found
            super().__init__()

    def __init__(self, importances: Importances | None) -> None:
        super().__init__("search")
        self._importances = importances
        self._journal: Path | None = None
        self._stamp: Stamp = ()
        self._begun = 0.0
        self._found: Sequence[Importance] | str | None = None
        self.is_computing = False

    def look(self, subject: Subject | None, marks: Marks) -> Path | None:
        """Return the journal of the run, if it has one."""
        if subject is None or subject.run is None or not subject.state.trials:
            return None
        path = subject.run.path / JOURNAL
        return path if path.exists() else None

    def take(self, value: object) -> None:
        """Begin to compute where the journal has changed, and draw how old the signs of life are."""
        assert value is None or isinstance(value, Path)
        if value != self._journal:
            self._journal, self._found, self._stamp, self._begun = value, None, (), 0.0
        if value is not None and self._importances is not None and not self.is_computing:
            self._begin(value, self._importances)
        self.draw()

    def picture(self, subject: Subject | None, columns: int, rows: int) -> RenderableType | None:
        """Return all that a search left, or what there is instead."""
        if subject is None:
            return None
        parts: list[RenderableType] = []
        if subject.state.trials:
            parts.append(trials_view(subject.state.trials))
        if subject.workers:
            parts.append(workers_view(subject.workers, time.time()))
        parts += [*self._important(), *weighed(subject)]
        if parts:
            return Group(*parts)
        law = "Nothing was searched: the schedule was given."
        if subject.kind == "search":
            law = "Nothing is weighed yet: ways on appear with the first decision, costs when measured."
        return Text(law, DIM)

    def on_search_pane_computed(self, event: Computed) -> None:
        """Draw what was computed."""
        self.is_computing = False
        if event.path == self._journal:
            self._found = event.found
            self.draw()

    def _begin(self, journal: Path, importances: Importances) -> None:
        now, seconds = stamp(journal.parent, (JOURNAL,)), time.monotonic()
        if now == self._stamp or (self._begun and seconds - self._begun < REST_SECONDS):
            return
        self._stamp, self._begun, self.is_computing = now, seconds, True
        self.run_worker(
            partial(self._compute, journal, importances), thread=True, group="importances"
        )

    def _compute(self, journal: Path, importances: Importances) -> None:
        try:
            found: Sequence[Importance] | str = importances(journal)
        except (AutoprogError, OSError) as error:
            found = str(error)
        self.post_message(self.Computed(journal, found))

    def _important(self) -> list[RenderableType]:
        if self._journal is None or self._importances is None:
            return []
        if self._found is None:
            return [Text("Which parameters matter: computing …", DIM)]
        if isinstance(self._found, str):
            return [Text(f"Which parameters matter: {self._found}", DIM)]
        known = [one for one in self._found if one.shares]
        if known:
            return [importances_view(known)]
        reasons = dict.fromkeys(one.problem for one in self._found)
        return [Text(f"Which parameters matter: {', '.join(reasons) or 'no trials yet'}", DIM)]
