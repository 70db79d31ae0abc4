"""What the program reads in a thread of its own: what is open, all runs, and what to compare with."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from autoprog.errors import AutoprogError, ConfigError, RunError, consistent
from autoprog.eventlog import (
    MAX_PROGRESS,
    WHOLE_BYTES,
    Row,
    RowCounter,
    effective_rows,
    event_of,
    event_row,
    picked,
    read_chunk,
)
from autoprog.fidelity_report import read_fidelity
from autoprog.files import LONGEST_ROW_BYTES
from autoprog.openfiles import NotRegularFileError, open_regular
from autoprog.runs import load_run
from autoprog.ui.format import STATUS, duration, number, per_cent
from autoprog.ui.state import RunState, fold
from autoprog.ui.subject import OtherRun, Subject, run_start, run_subject
from autoprog.ui.tables import Column

if TYPE_CHECKING:
    from autoprog.verify.compare import Comparison, FinishedRun

__all__ = [
    "BASELINE_SCHEDULE",
    "Compared",
    "EventLog",
    "Follower",
    "Library",
    "Listing",
    "Marks",
    "PlanFollower",
    "RunFollower",
    "RunRow",
    "Stamp",
    "filtered",
    "open_log",
    "parse_rows",
    "run_columns",
    "stamp",
]


# --------------------------------------------------------------------------------------------------
# A run folder or a plan that is looked at: read again only where it has changed.


FILES = (
    "run.yaml",
    "schedule.yaml",
    "best.yaml",
    "costs.json",
    "decisions.jsonl",
    "fidelity.json",
    "result.json",
)

Stamp = tuple[tuple[int, int] | None, ...]


class Follower(Protocol):
    """Something to look at, as far as it has been read; ``subject`` is None before the first reading."""

    target: str
    subject: Subject | None

    def advance(self) -> bool:
        """Read on; return whether there is more to read at once."""


class RunFollower:
    """Follows a run folder, which another process may be writing; itself it writes nothing."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.target = str(path)
        self.subject: Subject | None = None
        self._path, self._clock = path, clock
        self._stamp: Stamp = ()
        self._log = EventLog(path / "events.jsonl")

    def advance(self) -> bool:
        """Read what is new of the folder, and the next part of its log.

        Raises:
            ConfigError: If a file in it is wrong.
            RunError: If the folder is gone.
        """
        if not self._path.is_dir():
            raise RunError(f"{self._path}: the run folder is gone; this is how it was last seen")
        now = stamp(self._path, FILES)
        with consistent(str(self._path)):
            # Files beside the log are small and change rarely: they are read again only then.
            if now != self._stamp:
                self._run, self._fidelity = load_run(self._path), read_fidelity(self._path)
                self._log.begin(run_start(self._run))
                self._stamp = now
            more = self._log.advance()
            self.subject = run_subject(self._run, self._log.state, self._fidelity, self._clock())
        return more


class PlanFollower:
    """A schedule file or a preset, which stays as it was when it was opened."""

    def __init__(self, target: str, subject: Subject) -> None:
        self.target = target
        self.subject: Subject | None = subject

    def advance(self) -> bool:
        """Do nothing."""
        return False


def stamp(folder: Path, names: tuple[str, ...]) -> Stamp:
    """Return what distinguishes a changed file from the one that was read: time in ns and size of each."""
    found: list[tuple[int, int] | None] = []
    for name in names:
        try:
            stat = (folder / name).stat()
            found.append((stat.st_mtime_ns, stat.st_size))
        except FileNotFoundError:
            found.append(None)
    return tuple(found)


class EventLog:
    """Follows ``events.jsonl``; :attr:`state` is the fold of all rows that hold.

    Args:
        path: The log; it may not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start = self.state = RunState()
        self._rows: list[Row] = []
        self._offset = 0
        self._spacing_bytes = 0
        self._counter = RowCounter(str(path))

    def begin(self, start: RunState) -> None:
        """Fold from another state before the first event, because more is known of the run."""
        if start != self._start:
            self._start = start
            self.state = fold(map(event_of, self._rows), start)

    def advance(self) -> bool:
        """Take in the next rows; return whether there are more.

        Raises:
            ConfigError: If a whole line is no event.
        """
        file = open_log(self._path)
        if file is None:
            self._forget()
            return False
        with file:
            size = os.fstat(file.fileno()).st_size
            if size < self._offset:  # another run in its place
                self._forget()
            if not self._spacing_bytes and size - self._offset > WHOLE_BYTES:
                # Of a long log progress is picked evenly as it is read; the curves show no more points.
                self._spacing_bytes = (size - self._offset) // MAX_PROGRESS
            lines, length = read_chunk(file, str(self._path), self._offset)
        new = parse_rows(picked(lines, self._spacing_bytes), str(self._path), self._counter)
        if any(row["kind"] == "run_started" and row["attempt"] > 0 for row in new):
            # A resumed run: what came after its checkpoint holds no more, so all is folded anew.
            self._rows = effective_rows(iter([*self._rows, *new]))
            self.state = fold(map(event_of, self._rows), self._start)
        else:
            self.state = fold(map(event_of, new), self.state)
            self._rows += new
        progress = [k for k, row in enumerate(self._rows) if row["kind"] == "step_logged"]
        if len(progress) > 4 * MAX_PROGRESS:  # every second report goes, so that memory is bounded
            gone = set(progress[1:-1:2])
            self._rows = [row for k, row in enumerate(self._rows) if k not in gone]
        self._offset += length
        if not length:
            self._spacing_bytes = 0
        return length > 0

    def _forget(self) -> None:
        self._rows, self._offset, self._spacing_bytes = [], 0, 0
        self._counter = RowCounter(str(self._path))
        self.state = self._start


def parse_rows(lines: Iterable[bytes], where: str, counter: RowCounter | None = None) -> list[Row]:
    """Return the rows of whole lines.

    Raises:
        ConfigError: If a line is no row of an event log.
    """
    counter = counter or RowCounter(where)
    rows: list[Row] = []
    for line in lines:
        rows.append(event_row(line, where))
        counter.add(rows[-1], len(line))
    return rows


def open_log(path: Path) -> IO[bytes] | None:
    """Open a log; None where it is not there yet.

    Raises:
        ConfigError: If it is no regular file.
    """
    try:
        return open_regular(path)
    except FileNotFoundError:
        return None
    except NotRegularFileError as error:
        problem = f"must be a regular file, but it is {error.strerror}"
        raise ConfigError(str(path), "", problem) from None


# --------------------------------------------------------------------------------------------------
# The runs of a folder, one row each, from the ends of their logs.


TAIL_BYTES = 1 << 16
STALE_CHECK_SECONDS = 60.0  # a run becomes stale while nothing in its folder changes


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
        seconds, rows = self._clock(), []
        for path in self.paths():
            now = (stamp(path, (*FILES, "events.jsonl")), seconds // STALE_CHECK_SECONDS)
            known = self._known.get(path)
            if known is None or known[0] != now:
                known = self._known[path] = (now, read_row(path, seconds))
            rows.append(known[1])
        return rows

    def paths(self) -> list[Path]:
        """Return the folders of the runs, the newest first."""
        inside = self._runs_dir.glob("*/run.yaml") if self._runs_dir is not None else ()
        found = {*(file.parent for file in inside), *(p for p in self._named if p.is_dir())}
        return sorted(found, key=lambda path: path.name, reverse=True)


def read_row(path: Path, now: float) -> RunRow:
    """Return the row of a run, from the ends of its log; of one that cannot be read, why."""
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
        # The first row says what began, the last 64 KiB how it stands: so long logs are listed at once.
        first = file.readline(LONGEST_ROW_BYTES)
        size = file.seek(0, 2)
        start = max(len(first), size - TAIL_BYTES)
        file.seek(start - 1 if start else 0)
        tail = file.read()
    # What is before the first line end is cut, and behind the last one it is half written.
    whole = tail[: tail.rfind(b"\n") + 1].split(b"\n")[1:-1]
    return parse_rows([*([first] if first.endswith(b"\n") else []), *whole], str(log))


def _row_of(path: Path, subject: Subject) -> RunRow:
    run, state = subject.run, subject.state
    assert run is not None, "a row is that of a run"
    settings = run.manifest.settings
    data, search = settings.data, settings.search
    # What a run trains along: the name of a preset or a file, or how a search decides.
    schedule = Path(settings.schedule_from or "").name
    if search is not None:
        how = search.rule if search.trials is None else f"{search.trials} trials"
        schedule = f"search, {how}"
    epochs = ""
    if state.total_steps:
        epochs = number(state.total_steps / max(1, state.steps_per_epoch), 3)
        if subject.status != "complete":  # those so far, and of how many
            epochs = f"{number(state.epoch, 3)}/{'≈' * state.is_open_ended}{epochs}"
    stage = str(state.subnet or "")
    if state.stage is not None:
        of = "" if state.num_stages is None else f"/{state.num_stages}"
        stage = f"{state.stage + 1}{of} {stage}".rstrip()
    came_to = ""
    if run.result is not None:
        came_to = f"{run.result.top1_ema:.2f} % EMA"
    elif subject.status in ("training", "supernet"):
        came_to = f"{duration(state.eta_seconds)} left"
    return RunRow(
        path=path,
        name=path.name,
        status=subject.status,
        model=subject.spec.name,
        schedule=schedule,
        data="digits" if data.embedded else data.dataset or Path(str(data.dir)).name,
        epochs=epochs,
        time=duration(run.result.wall_seconds if run.result is not None else state.train_seconds),
        stage=stage,
        done=per_cent(state.fraction_done) if state.total_steps else "",
        came_to=came_to,
    )


def run_columns(
    rows: Sequence[RunRow], marked: Sequence[Path] = (), baseline: Path | None = None
) -> list[Column]:
    """Return the table of runs; notes only where there are any.

    A star is before the runs that are marked, and a b before the baseline.
    """
    notes = tuple(row.note for row in rows)
    flags = [f"{'*' * (r.path in marked)}{'b' * (r.path == baseline)}" for r in rows]
    room = max(map(len, flags), default=0) + 1 if any(flags) else 0
    marks = (STATUS[row.status][0] if row.status in STATUS else "!" for row in rows)
    states = (
        f"{flag:<{room}}{mark} {row.status}"
        for flag, mark, row in zip(flags, marks, rows, strict=True)
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

    def text(row: RunRow) -> str:
        columns = (row.name, row.model, row.schedule, row.data, row.status, row.stage)
        return " ".join(columns).lower()

    return [row for row in rows if all(word in text(row) for word in wanted)]


# --------------------------------------------------------------------------------------------------
# Other runs and plans than the one that is open, read when a view compares with them.


BASELINE_SCHEDULE = "constant"


@dataclass(frozen=True)
class Marks:
    """What was chosen in the list: runs in the order in which they were marked, and the baseline."""

    runs: tuple[Path, ...] = ()
    baseline: Path | None = None


@dataclass(frozen=True)
class Compared:
    """The comparison of the runs that are complete, and (path, reason) of those that are not."""

    comparison: Comparison | None = None
    left_out: tuple[tuple[str, str], ...] = ()


class Library:
    """Reads runs and keeps them until their files change; for use by one thread at a time.

    Args:
        plans: The plans that were named.
        listed: Gives the folders of all runs, the newest first.
    """

    def __init__(self, plans: Sequence[PlanFollower], listed: Callable[[], Sequence[Path]]) -> None:
        self.plans = tuple(plans)
        self._listed = listed
        self._followers: dict[Path, RunFollower] = {}
        self._finished: dict[Path, tuple[Stamp, FinishedRun | str]] = {}
        self._baselines: dict[Path, tuple[Stamp, str]] = {}
        self._compared: tuple[tuple[FinishedRun | str, ...], Compared] = ((), Compared())

    def subject(self, path: Path) -> Subject:
        """Return a run, read to its end.

        Raises:
            AutoprogError: If it cannot be read.
        """
        follower = self._followers.setdefault(path, RunFollower(path))
        while follower.advance():
            pass
        assert follower.subject is not None
        return follower.subject

    def subject_of(self, other: Path | Follower) -> Subject:
        """Return the run or the plan that is to be compared with.

        Raises:
            AutoprogError: If it cannot be read.
        """
        if isinstance(other, Path):
            return self.subject(other)
        assert other.subject is not None
        return other.subject

    def others(self, subject: Subject, marks: Marks) -> list[Path | PlanFollower]:
        """Return what the schedule of a subject may be compared with: plans and marked runs."""
        runs = dict.fromkeys([*marks.runs, *([marks.baseline] if marks.baseline else [])])
        own = None if subject.run is None else subject.run.path
        plans = [plan for plan in self.plans if subject.run or plan.target != subject.name]
        return [*plans, *(run for run in runs if run != own)]

    def compared(self, paths: Sequence[Path]) -> Compared:
        """Return the comparison of runs; the same one while nothing changes."""
        read = tuple(self._finished_run(path) for path in paths)
        if read != self._compared[0]:
            runs = [one for one in read if not isinstance(one, str)]
            # What cannot be read or has not ended is named, and does not keep the others from being compared.
            reasons = zip(paths, read, strict=True)
            left_out = tuple((path.name, why) for path, why in reasons if isinstance(why, str))
            from autoprog.verify.compare import compare

            try:
                with consistent("these runs"):
                    found = Compared(compare(runs) if runs else None, left_out)
            except ConfigError as error:  # they are whole, but go not together
                found = Compared(None, (*left_out, ("the comparison", str(error))))
            self._compared = (read, found)
        return self._compared[1]

    def baseline(self, subject: Subject, marks: Marks) -> OtherRun | None:
        """Return the baseline of a run: the one that was chosen, or the newest that fits.

        That is a training along the schedule ``constant`` with the same model and data.
        """
        path = marks.baseline or next(self._fitting(subject), None)
        if path is None or (subject.run is not None and path == subject.run.path):
            return None
        try:
            return OtherRun(f"baseline {path.name}", self.subject(path).state)
        except (AutoprogError, OSError):
            return None  # the list says what is wrong with it

    def _fitting(self, subject: Subject) -> Iterator[Path]:
        """Yield the trainings along the baseline's schedule with the model and the data of a run."""
        if subject.run is None:
            return
        settings = subject.run.manifest.settings
        # Another model or other data would be a line that proves nothing.
        wanted = f"{settings.model!r} {settings.data!r}"
        for path in self._listed():
            now = stamp(path, ("run.yaml",))
            known = self._baselines.get(path)
            if known is None or known[0] != now:
                known = self._baselines[path] = (now, baseline_text(path))
            if known[1] == wanted and path != subject.run.path:
                yield path

    def _finished_run(self, path: Path) -> FinishedRun | str:
        from autoprog.verify.compare import read_finished_run  # not before a view needs it

        now = stamp(path, (*FILES, "events.jsonl"))
        known = self._finished.get(path)
        if known is not None and known[0] == now:
            return known[1]
        try:
            found: FinishedRun | str = read_finished_run(path)
        except ConfigError as error:
            found = ": ".join(part for part in (error.key, error.problem) if part)
        except (AutoprogError, OSError) as error:
            found = str(error)
        self._finished[path] = (now, found)
        return found


def baseline_text(path: Path) -> str:
    """Return model and data of a training along the baseline's schedule; empty for any other run."""
    try:
        settings = load_run(path).manifest.settings
    except (AutoprogError, OSError):
        return ""
    schedule = Path(settings.schedule_from or "").stem
    is_baseline = settings.kind == "train" and schedule == BASELINE_SCHEDULE
    return f"{settings.model!r} {settings.data!r}" if is_baseline else ""
