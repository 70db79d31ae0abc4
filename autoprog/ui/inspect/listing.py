"""The runs of a folder, one row each, from the ends of their logs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoprog.errors import AutoprogError, consistent
from autoprog.jsonlines import LONGEST_ROW_BYTES
from autoprog.runs import event_of, load_run
from autoprog.settings import RunSettings
from autoprog.ui.inspect.follow import FILES, Stamp, stamp
from autoprog.ui.inspect.log import open_log, parse_rows
from autoprog.ui.palette import STATUS
from autoprog.ui.state import RunState, fold
from autoprog.ui.subject import Subject, run_start, run_subject
from autoprog.ui.tables import Column
from autoprog.ui.units import duration, number, per_cent

__all__ = ["Listing", "RunRow", "filtered", "run_columns"]

TAIL_BYTES = 1 << 16
STALE_CHECK_SECONDS = 60.0  # a run becomes stale without a sign


@dataclass(frozen=True)
class RunRow:
    """A run in a list. ``status`` is as in a subject, or ``unreadable`` with the reason in ``note``."""

    path: Path
    name: str
    status: str
    model: str = ""
    schedule: str = ""
    data: str = ""
    epochs: str = ""
    time: str = ""
    stage: str = ""
    done: str = ""
    came_to: str = ""
    note: str = ""


class Listing:
    """The runs of a folder, or those that were named; a folder is read again only if it has changed."""

    def __init__(
        self, runs_dir: Path | None, named: Sequence[Path], clock: Callable[[], float] = time.time
    ) -> None:
        self._runs_dir, self._named, self._clock = runs_dir, tuple(named), clock
        self._known: dict[Path, tuple[tuple[Stamp, float], RunRow]] = {}

    def rows(self) -> list[RunRow]:
        """Return the rows, the newest run first."""
        return [self._row(path) for path in self.paths()]

    def paths(self) -> list[Path]:
        """Return the folders of the runs, the newest first."""
        inside = self._runs_dir.glob("*/run.yaml") if self._runs_dir is not None else ()
        found = {*(file.parent for file in inside), *(p for p in self._named if p.is_dir())}
        return sorted(found, key=lambda path: path.name, reverse=True)

    def _row(self, path: Path) -> RunRow:
        seconds = self._clock()
        now = (stamp(path, (*FILES, "events.jsonl")), seconds // STALE_CHECK_SECONDS)
        known = self._known.get(path)
        if known is None or known[0] != now:
            known = self._known[path] = (now, _read(path, seconds))
        return known[1]


def run_columns(
    rows: Sequence[RunRow], marked: Sequence[Path] = (), baseline: Path | None = None
) -> list[Column]:
    """Return the table of runs; notes only where there are any.

    A star is before the runs that are marked, and a b before the baseline.
    """
    notes = tuple(row.note for row in rows)
    flags = [f"{'*' * (r.path in marked)}{'b' * (r.path == baseline)}" for r in rows]
    room = max(map(len, flags), default=0) + 1 if any(flags) else 0
    states = (
        f"{flag:<{room}}{_mark(row.status)} {row.status}"
        for flag, row in zip(flags, rows, strict=True)
    )
    return [
        Column("state", tuple(states), "left"),
        Column("run", tuple(row.name for row in rows), "left", keeps_end=True),
        Column("model", tuple(row.model for row in rows), "left", rank=1),
        Column("schedule", tuple(row.schedule for row in rows), "left", rank=4),
        Column("data", tuple(row.data for row in rows), "left", rank=5),
        Column("epochs", tuple(row.epochs for row in rows), rank=3),
        Column("time", tuple(row.time for row in rows), rank=2),
        Column("stage", tuple(row.stage for row in rows), "left", rank=7),
        Column("done", tuple(row.done for row in rows), rank=6),
        Column("left or top-1", tuple(row.came_to for row in rows)),
        *([Column("note", notes, "left", rank=8)] if any(notes) else []),
    ]


def filtered(rows: Iterable[RunRow], words: str) -> list[RunRow]:
    """Return the rows that hold all of some words, in capitals or not, in any column but the numbers."""
    wanted = words.lower().split()
    return [row for row in rows if all(word in _text(row) for word in wanted)]


def _text(row: RunRow) -> str:
    return f"{row.name} {row.model} {row.schedule} {row.data} {row.status} {row.stage}".lower()


def _mark(status: str) -> str:
    return STATUS[status][0] if status in STATUS else "!"


def _read(path: Path, now: float) -> RunRow:
    try:
        with consistent(str(path)):
            run = load_run(path)
            state = fold(map(event_of, _ends(path / "events.jsonl")), run_start(run))
            return _row_of(path, run_subject(run, state, None, now))
    except (AutoprogError, OSError) as error:
        return RunRow(path, path.name, "unreadable", note=str(error))


def _ends(log: Path) -> list[dict[str, object]]:
    """Return the first row of a log and its last ones, as far as they are whole."""
    opened = open_log(log)
    if opened is None:
        return []
    with opened as file:
        first = file.readline(LONGEST_ROW_BYTES)
        size = file.seek(0, 2)
        start = max(len(first), size - TAIL_BYTES)
        file.seek(start - 1 if start else 0)
        tail = file.read()
    whole = tail[: tail.rfind(b"\n") + 1].split(b"\n")[
        1:-1
    ]  # what is before the first line end is cut
    return parse_rows([*([first] if first.endswith(b"\n") else []), *whole], str(log))


def _row_of(path: Path, subject: Subject) -> RunRow:
    run, state = subject.run, subject.state
    assert run is not None, "a row is that of a run"
    data = run.manifest.settings.data
    return RunRow(
        path=path,
        name=path.name,
        status=subject.status,
        model=subject.spec.name,
        schedule=_schedule(run.manifest.settings),
        data="digits" if data.embedded else data.dataset or Path(str(data.dir)).name,
        epochs=_epochs(subject),
        time=duration(run.result.wall_seconds if run.result is not None else state.train_seconds),
        stage=_stage(state),
        done=per_cent(state.share_done) if state.total_steps else "",
        came_to=_came_to(subject),
    )


def _schedule(settings: RunSettings) -> str:
    """Return what a run trains along: the name of a preset or a file, or how a search decides."""
    if settings.search is None:
        return Path(settings.schedule_from or "").name
    trials = settings.search.trials
    return f"search, {settings.search.rule if trials is None else f'{trials} trials'}"


def _epochs(subject: Subject) -> str:
    """Return the epochs of a complete run; of another one those so far, and of how many."""
    state = subject.state
    if not state.total_steps:
        return ""
    total = number(state.total_steps / max(1, state.steps_per_epoch), 3)
    if subject.status == "complete":
        return total
    return f"{number(state.epoch, 3)}/{'≈' * state.is_open_ended}{total}"


def _stage(state: RunState) -> str:
    if state.stage is None:
        return str(state.subnet or "")
    total = "" if state.num_stages is None else f"/{state.num_stages}"
    return f"{state.stage + 1}{total} {state.subnet or ''}".rstrip()


def _came_to(subject: Subject) -> str:
    if subject.run is not None and subject.run.result is not None:
        return f"{subject.run.result.top1_ema:.2f} % EMA"
    if subject.status in ("training", "supernet"):
        return f"{duration(subject.state.eta_seconds)} left"
    return ""
