"""Other runs and plans than the one that is open: to compare with, read when a view needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autoprog.errors import AutoprogError, ConfigError, consistent
from autoprog.runs import load_run
from autoprog.ui.curves import Ghost
from autoprog.ui.inspect.follow import FILES, Follower, PlanFollower, RunFollower, Stamp, stamp
from autoprog.ui.subject import Subject

if TYPE_CHECKING:
    from autoprog.proof.compare import Comparison
    from autoprog.proof.finished import Finished

__all__ = ["BASELINE_SCHEDULE", "Compared", "Library", "Marks", "subject_of"]

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
        self._finished: dict[Path, tuple[Stamp, Finished | str]] = {}
        self._baselines: dict[Path, tuple[Stamp, str]] = {}
        self._compared: tuple[tuple[Finished | str, ...], Compared] = ((), Compared())

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

    def others(self, subject: Subject, marks: Marks) -> list[Path | PlanFollower]:
        """Return what the schedule of a subject may be compared with: plans and marked runs."""
        runs = dict.fromkeys([*marks.runs, *([marks.baseline] if marks.baseline else [])])
        own = None if subject.run is None else subject.run.path
        plans = [plan for plan in self.plans if subject.run or plan.target != subject.name]
        return [*plans, *(run for run in runs if run != own)]

    def compared(self, paths: Sequence[Path]) -> Compared:
        """Return the comparison of runs; the same one while nothing changes."""
        read = tuple(self._read(path) for path in paths)
        if read != self._compared[0]:
            runs = [one for one in read if not isinstance(one, str)]
            reasons = zip(paths, read, strict=True)
            left_out = tuple((path.name, why) for path, why in reasons if isinstance(why, str))
            self._compared = (read, _compared(runs, left_out))
        return self._compared[1]

    def ghost(self, subject: Subject, marks: Marks) -> Ghost | None:
        """Return the baseline of a run: the one that was chosen, or the newest that fits.

        That is a training along the schedule ``constant`` with the same model and data.
        """
        path = marks.baseline or next(self._fitting(subject), None)
        if path is None or (subject.run is not None and path == subject.run.path):
            return None
        try:
            return Ghost(f"baseline {path.name}", self.subject(path).state)
        except (AutoprogError, OSError):
            return None  # the list says what is wrong with it

    def _fitting(self, subject: Subject) -> Iterator[Path]:
        if subject.run is None:
            return
        settings = subject.run.manifest.settings
        wanted = f"{settings.model!r} {settings.data!r}"
        for path in self._listed():
            now = stamp(path, ("run.yaml",))
            known = self._baselines.get(path)
            if known is None or known[0] != now:
                known = self._baselines[path] = (now, _baseline_of(path))
            if known[1] == wanted and path != subject.run.path:
                yield path

    def _read(self, path: Path) -> Finished | str:
        now = stamp(path, (*FILES, "events.jsonl"))
        known = self._finished.get(path)
        if known is None or known[0] != now:
            known = self._finished[path] = (now, _finished(path))
        return known[1]


def subject_of(library: Library, other: Path | Follower) -> Subject:
    """Return the run or the plan that is to be compared with.

    Raises:
        AutoprogError: If it cannot be read.
    """
    if isinstance(other, Path):
        return library.subject(other)
    assert other.subject is not None
    return other.subject


def _compared(runs: Sequence[Finished], left_out: tuple[tuple[str, str], ...]) -> Compared:
    """Return the comparison of runs; without one where they cannot be compared, which is told too."""
    from autoprog.proof.compare import compare

    try:
        with consistent("these runs"):
            return Compared(compare(runs) if runs else None, left_out)
    except ConfigError as error:
        return Compared(None, (*left_out, ("the comparison", str(error))))


def _finished(path: Path) -> Finished | str:
    from autoprog.proof.finished import read_finished  # not before a view needs it

    try:
        return read_finished(path)
    except ConfigError as error:
        return ": ".join(part for part in (error.key, error.law) if part)
    except (AutoprogError, OSError) as error:
        return str(error)


def _baseline_of(path: Path) -> str:
    """Return model and data of a training along the baseline's schedule; empty for any other run."""
    try:
        settings = load_run(path).manifest.settings
    except (AutoprogError, OSError):
        return ""
    schedule = Path(settings.schedule_from or "").stem
    is_baseline = settings.kind == "train" and schedule == BASELINE_SCHEDULE
    return f"{settings.model!r} {settings.data!r}" if is_baseline else ""
