"""Kill a run again and again and see whether it still comes to the same end."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import struct
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import cycle, islice, pairwise
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from autoprog.console import Console
from autoprog.errors import AutoprogError, ConfigError, RunError
from autoprog.files import read_yaml
from autoprog.runs import load_run
from autoprog.supervise import Attempt, Row, SignalName
from autoprog.ui.format import ascii_text, duration
from autoprog.ui.tables import Column, plain_table, rich_table

__all__ = [
    "EXIT_CODES",
    "SPECIAL",
    "Kill",
    "KilledRun",
    "Moment",
    "Plan",
    "PlannedKill",
    "Position",
    "Reference",
    "RefusedError",
    "RemainingTime",
    "Report",
    "StepReached",
    "StressView",
    "Summary",
    "compare_runs",
    "draw_signals",
    "follow",
    "plan_kills",
    "position_of",
    "row_seconds",
    "stress",
    "tensor_hashes",
    "timeline",
]

SPECIAL = {
    "checkpoint_saved": "writing a checkpoint",
    "grown": "growing",
    "evaluated": "evaluating",
    "estimated": "estimating candidates",
    "decided": "deciding",
    "run_finished": "writing the final weights",
}
"""What a run does that is not training, by the kind of the row that ends it."""

EXIT_CODES = {"KILL": -signal.SIGKILL, "TERM": 143, "INT": 130}
"""What an attempt ends with when it gets that signal."""

_REFERENCE_STALL_SECONDS = 3600.0  # nothing is known yet of how long its steps take
_MIN_STALL_SECONDS = 120.0
_POLL_SECONDS = (
    0.004  # short, since kills are to hit what takes milliseconds, such as writing a file
)
_OVERSHOOT = 1.2
_SLACK_SECONDS = 0.005
_RESULTS = ("top1", "top1_ema", "loss", "loss_ema", "epochs", "macs", "image_epochs")


@dataclass(frozen=True)
class Plan:
    """What to do: the words after ``autoprog``, how many kills by which signal, the folder for all files.

    ``again`` are those of the words that a run is given again when it goes on.
    """

    words: tuple[str, ...]
    kills: int
    signal: str
    seed: int
    work: Path
    again: tuple[str, ...] = ()


@dataclass(frozen=True)
class StepReached:
    """The run under way has come to a step."""

    step: int
    total_steps: int


@dataclass(frozen=True)
class Reference:
    """The run that nothing interrupted is done."""

    folder: Path
    moments: tuple[Moment, ...]
    startup_seconds: float
    longest_gap_seconds: float

    @property
    def train_seconds(self) -> float:
        """Return what it took from the first row to the last."""
        return self.moments[-1].seconds

    @property
    def stall_seconds(self) -> float:
        """Return after how long without a row a run counts as stuck."""
        return max(_MIN_STALL_SECONDS, 20 * max(self.startup_seconds, self.longest_gap_seconds))


@dataclass(frozen=True)
class Kill:
    """A kill, and where the next attempt went on.

    ``seconds`` are from the start of training in that attempt. ``lost_seconds`` is what this attempt trained
    after the checkpoint that the next one goes on from, and the time until that one trains.
    """

    number: int
    signal: SignalName
    attempt: int
    seconds: float
    step: int
    place: str
    doing: str
    resumed_step: int
    lost_seconds: float

    @property
    def replayed_steps(self) -> int:
        """Return the steps that were done again."""
        return max(0, self.step - self.resumed_step)


@dataclass(frozen=True)
class KilledRun:
    """A killed run has come to its end: with which attempts, and by artefact how that end differs.

    ``left`` are the kills of the plan that it ended too soon for.
    """

    folder: Path
    attempts: int
    left: int
    differences: dict[str, str]


Report = StepReached | Reference | Kill | KilledRun


class RefusedError(AutoprogError):
    """A command line that the program itself refuses."""

    exit_code = 2


def stress(plan: Plan) -> Generator[Report, None, None]:
    """Carry out a command once without kills and as often as it takes with them; yield what happens.

    Raises:
        RefusedError: If the program refuses the command.
        RunError: If an attempt fails, is stuck, or does not answer a signal as it should.
    """
    rng = random.Random(plan.seed)
    runs = plan.work / "reference"
    runs.mkdir()
    begin, rows = time.time(), []
    attempt = Attempt(_first_words(plan.words, runs), runs, 0)
    try:
        for row in follow(attempt, None, _REFERENCE_STALL_SECONDS):
            rows.append(row)
            yield _step_reached(rows, row)
    finally:
        attempt.kill()
    if attempt.exit_code == RefusedError.exit_code:
        raise RefusedError(attempt.last_line())
    if attempt.exit_code != 0:
        raise RunError(f"the run without kills failed: {attempt.last_line()}")
    times = [row_seconds(row) for row in rows]
    gap = max(later - earlier for earlier, later in pairwise(times))
    reference = Reference(attempt.folder, timeline(rows), times[0] - begin, gap)
    yield reference
    # A run may end before all its kills have come; those that are left go to another run.
    signals, number = draw_signals(plan.signal, plan.kills, rng), 0
    while signals:
        number += 1
        kills = plan_kills(reference.moments, signals, rng)
        num_before = plan.kills - len(kills)
        killed = _RunWithKills(plan, reference, plan.work / f"killed-{number}", num_before)
        signals = [kill.signal for kill in (yield from killed.carry_out(kills))]


@dataclass
class _OpenKill:
    """A kill that has been made, while it is open where the next attempt goes on."""

    signal: SignalName
    attempt: int
    seconds: float
    step: int
    position: Position


@dataclass
class _RunWithKills:
    """A run that is killed as planned and then comes to its end. ``num_made`` kills came before it."""

    plan: Plan
    reference: Reference
    runs: Path
    num_made: int
    rows: list[Row] = field(default_factory=list)

    def carry_out(self, kills: Sequence[PlannedKill]) -> Generator[Report, None, list[PlannedKill]]:
        """Yield what happens; return the kills that the run ended too soon for."""
        self.runs.mkdir()
        words = _first_words(self.plan.words, self.runs)
        # At the costs that the reference measured: a search decides by them.
        costs = self.reference.folder / "costs.json"
        if costs.exists() and not any(word.partition("=")[0] == "--costs" for word in words):
            words += ["--costs", str(costs)]
        waiting, number, open_kill = list(kills), 0, None
        while True:
            attempt = Attempt(words, self.runs, number)
            planned = waiting[0] if waiting else None
            killed_at = yield from self._follow(attempt, planned, open_kill)
            number += 1
            if (attempt.folder / "result.json").exists():
                break
            if planned is None or killed_at is None:
                code, line = attempt.exit_code, attempt.last_line()
                raise RunError(f"attempt {number} ended by itself with exit code {code}: {line}")
            open_kill = self._checked_kill(attempt, waiting.pop(0), killed_at)
            resume = ("--resume", str(attempt.folder), *self.plan.again)
            words = [self.plan.words[0], *resume, "-q"]
        differences = compare_runs(self.reference.folder, attempt.folder, self.plan.words[0])
        yield KilledRun(attempt.folder, number, len(waiting), differences)
        return waiting

    def _follow(
        self, attempt: Attempt, planned: PlannedKill | None, open_kill: _OpenKill | None
    ) -> Generator[Report, None, float | None]:
        """Yield the progress of an attempt to its end; return when it was killed, in seconds since 1970."""
        killed_at = None
        stall_seconds = self.reference.stall_seconds
        rows = follow(attempt, planned, stall_seconds)
        try:
            while True:
                row = next(rows)
                if row["kind"] == "run_started" and open_kill is not None:
                    yield self._closed_kill(open_kill, row)
                self.rows.append(row)
                yield _step_reached(self.rows, row)
        except StopIteration as stop:
            if stop.value:
                killed_at = time.time()
                if not attempt.wait(stall_seconds):
                    late = f"did not end within {stall_seconds:.0f} s of its signal"
                    raise RunError(f"attempt {attempt.number + 1} {late}") from None
        finally:
            attempt.kill()
        self.rows += attempt.new_rows()
        return killed_at

    def _checked_kill(self, attempt: Attempt, planned: PlannedKill, killed_at: float) -> _OpenKill:
        """Return a kill after checking what the program made of it."""
        name, number = f"SIG{planned.signal}", attempt.number + 1
        if attempt.exit_code != EXIT_CODES[planned.signal]:
            raise RunError(
                f"attempt {number} ended with exit code {attempt.exit_code} instead of"
                f" {EXIT_CODES[planned.signal]} after {name}: {attempt.last_line()}"
            )
        if attempt.has_traceback():
            raise RunError(f"attempt {number} ended with a traceback after {name}")
        mine = [row for row in self.rows if row["attempt"] == attempt.number]
        last = ([row for row in mine if row_seconds(row) <= killed_at] or mine[:1])[-1]
        position = position_of(self.reference.moments, last, killed_at - row_seconds(last))
        step = position.step
        if planned.signal != "KILL":
            if [row["kind"] for row in mine[-2:]] != ["checkpoint_saved", "interrupted"]:
                raise RunError(f"attempt {number} wrote no checkpoint after {name}")
            step = mine[-1]["step"]
        seconds = killed_at - row_seconds(mine[0])
        return _OpenKill(planned.signal, number, seconds, step, position)

    def _closed_kill(self, kill: _OpenKill, started: Row) -> Kill:
        """Return a kill, now that the next attempt has begun at a step."""
        self.num_made += 1
        mine = [row for row in self.rows if row["attempt"] == kill.attempt - 1]
        at = (row for row in reversed(mine) if row["step"] == started["step"])
        base = next((row for row in at if row["kind"] == "checkpoint_saved"), mine[0])
        return Kill(
            number=self.num_made,
            signal=kill.signal,
            attempt=kill.attempt,
            seconds=kill.seconds,
            step=kill.step,
            place=kill.position.place,
            doing=kill.position.doing,
            resumed_step=started["step"],
            lost_seconds=row_seconds(started) - row_seconds(base),
        )


def _first_words(words: Sequence[str], runs: Path) -> list[str]:
    # A checkpoint as often as can be: kills are to come while one is written.
    return [*words, "--runs-dir", str(runs), "--checkpoint-minutes", "0", "-q"]


def _step_reached(rows: Sequence[Row], row: Row) -> StepReached:
    started = next(row for row in rows if row["kind"] == "run_started")
    return StepReached(row["step"], started["total_steps"])


def follow(
    attempt: Attempt,
    planned: PlannedKill | None,
    stall_seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> Generator[Row, None, bool]:
    """Yield the rows of an attempt as they come; kill it as planned; return whether that was done.

    Raises:
        RunError: If no row comes for `stall_seconds`; the process is killed then.
    """
    last_row_at, due = clock(), None
    while True:
        ended = attempt.exit_code is not None  # asked before reading, so that no row is missed
        rows = attempt.new_rows()
        yield from rows
        now = clock()
        last_row_at = now if rows else last_row_at
        if ended:
            return False
        if planned is not None and due is None and any(map(planned.is_reached_by, rows)):
            due = now + planned.delay_seconds
        if planned is not None and due is not None and now >= due:
            attempt.send(planned.signal)
            return True
        if now - last_row_at > stall_seconds:
            attempt.kill()
            raise RunError(
                f"attempt {attempt.number + 1} wrote nothing for {stall_seconds:.0f} s:"
                " a dead-lock; it was killed"
            )
        time.sleep(_POLL_SECONDS if due is None else min(_POLL_SECONDS, max(0.0, due - now)))


# When to kill: moments of a run that nothing interrupted, and kills spread over all of them.


@dataclass(frozen=True)
class Moment:
    """A row of a run's log, ``seconds`` after the start of training; ``place`` says where the run stood."""

    seconds: float
    kind: str
    step: int
    place: str


@dataclass(frozen=True)
class PlannedKill:
    """A kill to come: ``signal``, ``delay_seconds`` after the log has come to ``after``."""

    after: Moment
    delay_seconds: float
    signal: SignalName

    @property
    def seconds(self) -> float:
        """Return where in the run it lies, in seconds of the run that nothing interrupted."""
        return self.after.seconds + self.delay_seconds

    def is_reached_by(self, row: Mapping[str, Any]) -> bool:
        """Return whether a row stands where the delay begins, or later in the run."""
        if row["step"] != self.after.step:
            return bool(row["step"] > self.after.step)
        return row["kind"] in (self.after.kind, "run_started")


@dataclass(frozen=True)
class Position:
    """Where a kill came: at about ``step``, in ``place``, while the run was ``doing`` something."""

    step: int
    place: str
    doing: str


def timeline(rows: Sequence[Mapping[str, Any]]) -> tuple[Moment, ...]:
    """Return the moments of a run that one attempt carried out from its beginning to its end."""
    begin, place, moments = row_seconds(rows[0]), "the start", []
    for row in rows:
        if row["kind"] == "stage_started":
            place = f"stage {row['stage'] + 1}"
        elif row["kind"] == "supernet_started":
            place = f"supernet of decision {row['decision']}"
        moments.append(Moment(row_seconds(row) - begin, row["kind"], row["step"], place))
    return tuple(moments)


def row_seconds(row: Mapping[str, Any]) -> float:
    """Return when a row was written, in seconds since 1970."""
    return datetime.fromisoformat(row["time"]).timestamp()


def draw_signals(name: str, count: int, rng: random.Random) -> list[SignalName]:
    """Return the signal of each kill: one for all, or with ``mixed`` equal fractions in a drawn order."""
    kinds: tuple[SignalName, ...] = ("KILL", "TERM", "INT")
    if name != "mixed":
        return [next(kind for kind in kinds if kind == name)] * count
    drawn = [kinds[index % len(kinds)] for index in range(count)]
    rng.shuffle(drawn)
    return drawn


def plan_kills(
    moments: Sequence[Moment], signals: Sequence[SignalName], rng: random.Random
) -> list[PlannedKill]:
    """Return one kill a signal, in the order of the run.

    Half of them come while the run does something else than training, each such thing in turn, or just
    after it; the others fall evenly over the whole run, one at a random point of each of equal spans.
    A signal that asks the run to stop comes before its last step, since the run would else just end.
    """
    end, last_step = moments[-1].seconds, moments[-1].step
    until = max(
        (m.seconds for m in moments if m.kind == "step_logged" and m.step < last_step), default=end
    )
    kinds = sorted({m.kind for m in moments} & SPECIAL.keys())
    rng.shuffle(kinds)
    drawn = []
    for kind in islice(cycle(kinds), len(signals) // 2):
        spans = [(a.seconds, b.seconds) for a, b in pairwise(moments) if b.kind == kind]
        start, stop = rng.choice(spans)
        # A little beyond its row as well: what comes right after writing a file may break, too.
        seconds = start + rng.random() * (_OVERSHOOT * (stop - start) + _SLACK_SECONDS)
        drawn.append(min(seconds, end))
    rest = len(signals) - len(drawn)
    drawn += [(index + rng.random()) * end / rest for index in range(rest)]
    kills = []
    for seconds, name in zip(sorted(drawn), signals, strict=True):
        if name != "KILL" and seconds > until:
            seconds += until - end
        after = next((m for m in reversed(moments) if m.seconds <= seconds), moments[0])
        kills.append(PlannedKill(after, seconds - after.seconds, name))
    return sorted(kills, key=lambda kill: kill.seconds)


def position_of(
    moments: Sequence[Moment], row: Mapping[str, Any], elapsed_seconds: float
) -> Position:
    """Return where a run stood `elapsed_seconds` after its last row, by the run that nothing interrupted."""
    kind, step = row["kind"], row["step"]
    same = [i for i, m in enumerate(moments) if (m.kind, m.step) == (kind, step)]
    if same and kind != "run_started":
        last = same[-1]
    else:
        # A resumed run starts from a checkpoint: behind what came before that one at the same step.
        saved = ("checkpoint_saved", step)
        before = [i for i, m in enumerate(moments) if m.step < step or (m.kind, m.step) == saved]
        last = max(before, default=0)
    here = moments[last]
    if last + 1 == len(moments):
        return Position(step, here.place, "writing the result")
    there = moments[last + 1]
    place = there.place if there.kind in ("stage_started", "supernet_started") else here.place
    if there.kind in SPECIAL or there.step <= step:
        return Position(step, place, SPECIAL.get(there.kind, "training"))
    # Below 1: the next row would be there if its step had been done.
    fraction = min(elapsed_seconds / max(there.seconds - here.seconds, 1e-9), 0.999)
    return Position(step + int(fraction * (there.step - step)), place, "training")


# Whether two runs came to the same end: weights bit for bit, schedules, decisions, accuracies.


def compare_runs(one: Path, other: Path, kind: str) -> dict[str, str]:
    """Return by artefact how the second run differs from the first: an empty text where it does not.

    Args:
        one: A finished run folder.
        other: Another one of the same command line.
        kind: ``train`` or ``search``.
    """
    readers: dict[str, Callable[[Path], Any]] = {
        "checkpoints/final.safetensors": tensor_hashes,
        "checkpoints/final_ema.safetensors": tensor_hashes,
        "schedule.yaml": _schedule,
        **({"best.yaml": _schedule, "decisions.jsonl": _winners} if kind == "search" else {}),
        "result.json": _accuracies,
    }
    return {name: _difference(one / name, other / name, read) for name, read in readers.items()}


def _difference(one: Path, other: Path, read: Callable[[Path], Any]) -> str:
    missing = [str(path) for path in (one, other) if not path.is_file()]
    if missing:
        return f"{missing[0]} is missing"
    try:
        first, second = read(one), read(other)
    except ConfigError as error:
        return str(error)
    different = [key for key in {**first, **second} if first.get(key) != second.get(key)]
    if not different:
        return ""
    return f"{len(different)} of {len(first)} differ, such as {different[0]}"


def tensor_hashes(path: Path) -> dict[str, str]:
    """Return the type, the shape and a hash of the bits of each tensor of a safetensors file.

    Raises:
        ConfigError: If it is no such file.
    """
    # Read by hand: as tensors, nan would differ from itself and -0 be equal to 0.
    data = path.read_bytes()
    try:
        (size,) = struct.unpack("<Q", data[:8])
        header, body, found = json.loads(data[8 : 8 + size]), data[8 + size :], {}
        for name, entry in sorted(header.items()):
            if name == "__metadata__":
                continue
            begin, end = entry["data_offsets"]
            if not 0 <= begin <= end <= len(body):
                raise ValueError("cut short")
            bits = hashlib.sha256(body[begin:end]).hexdigest()
            found[name] = f"{entry['dtype']} {entry['shape']} {bits}"
    except (struct.error, ValueError, KeyError, AttributeError, TypeError):
        raise ConfigError(str(path), "", "this is no safetensors file") from None
    return found


def _schedule(path: Path) -> dict[str, Any]:
    """Return a schedule file without the name of the run that it came from."""
    found: dict[str, Any] = read_yaml(path)
    if "found_by" in found:
        found = {**found, "found_by": {**found["found_by"], "run": ""}}
    return found


def _winners(path: Path) -> dict[str, str]:
    decisions = load_run(path.parent).decisions
    return {f"decision {d.index}": f"{d.subnet} at step {d.step}" for d in decisions}


def _accuracies(path: Path) -> dict[str, float]:
    found = json.loads(path.read_text(encoding="utf-8"))
    return {name: found[name] for name in _RESULTS}


# What is shown: a line a kill, how long it will take, and the verdict.


@dataclass
class Summary:
    """All that has happened so far."""

    plan: Plan
    reference: Reference | None = None
    kills: list[Kill] = field(default_factory=list)
    runs: list[KilledRun] = field(default_factory=list)

    def add(self, report: Report) -> None:
        """Take in what has happened."""
        match report:
            case Reference():
                self.reference = report
            case Kill():
                self.kills.append(report)
            case KilledRun():
                self.runs.append(report)

    @property
    def equal(self) -> bool:
        """Return whether all runs with kills came to the end of the one without."""
        return bool(self.runs) and not any(any(run.differences.values()) for run in self.runs)

    @property
    def artefacts(self) -> dict[str, str]:
        """Return by artefact its first difference in any run; empty where there is none."""
        first: dict[str, str] = {}
        for run in self.runs:
            for name, text in run.differences.items():
                first[name] = first.get(name) or text
        return first

    @property
    def facts(self) -> dict[str, Any]:
        """Return the figures of the verdict."""
        return {
            "runs": 1 + len(self.runs),
            "kills": len(self.kills),
            "attempts": 1 + sum(run.attempts for run in self.runs),
            "steps_replayed": sum(kill.replayed_steps for kill in self.kills),
            "seconds_lost": round(sum(kill.lost_seconds for kill in self.kills), 1),
            "struck_while": dict(Counter(kill.doing for kill in self.kills).most_common()),
        }

    def as_json(self, wall_seconds: float) -> dict[str, Any]:
        """Return everything for ``--json``."""
        return {
            "command": list(self.plan.words),
            "equal": self.equal,
            **self.facts,
            "wall_seconds": round(wall_seconds, 1),
            "artefacts": {name: text or "equal" for name, text in self.artefacts.items()},
            "each_kill": [asdict(kill) for kill in self.kills],
        }


class RemainingTime:
    """How long it will take, from how long things took so far."""

    def __init__(self, summary: Summary, clock: Callable[[], float]) -> None:
        self._summary, self._clock = summary, clock
        self._begin = clock()
        self._first_progress: float | None = None
        self._fraction = 0.0
        self._remaining: float | None = None
        self._at = self._begin

    def add(self, report: Report) -> None:
        """Take in what has happened; the summary has it already."""
        now = self._clock()
        if isinstance(report, StepReached):
            self._first_progress = now if self._first_progress is None else self._first_progress
            self._fraction = report.step / report.total_steps
        elif isinstance(report, Reference | KilledRun):
            self._fraction = 0.0
        self._remaining, self._at = self._estimate(now), now

    def remaining_seconds(self) -> float | None:
        """Return the seconds left as of now; None while nothing is known."""
        if self._remaining is None:
            return None
        return max(0.0, self._remaining - (self._clock() - self._at))

    def fraction_done(self) -> float:
        """Return what part of the whole time is over."""
        left, gone = self.remaining_seconds(), self._clock() - self._begin
        return 0.0 if left is None else gone / max(gone + left, 1e-9)

    def _estimate(self, now: float) -> float | None:
        if self._first_progress is None:
            return None
        known, kills, to_do = self._summary.reference, self._summary.kills, self._fraction
        left = self._summary.plan.kills - len(kills)
        if known is None:
            if to_do == 0:
                return None
            startup = self._first_progress - self._begin
            train = (now - self._first_progress) / to_do
            return train * (2 - to_do) + (left + 1) * startup
        lost = known.startup_seconds
        if kills:
            lost = sum(kill.lost_seconds for kill in kills) / len(kills)
        return known.train_seconds * (1 - to_do) + left * lost


class StressView:
    """Shows reports as they come: lines, with a bar below them on a terminal; a context manager."""

    def __init__(
        self, console: Console, plan: Plan, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.summary = Summary(plan)
        self._console, self._clock, self._begin = console, clock, clock()
        self._remaining_time = RemainingTime(self.summary, clock)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            _TimeLeftColumn(self._remaining_time),
        )
        is_hidden = not console.is_terminal
        self._bar = Progress(*columns, console=console, transient=True, disable=is_hidden)
        self._task = self._bar.add_task("run without kills", total=1.0)

    def __enter__(self) -> StressView:
        """Say what will be done and begin to show."""
        plan = self.summary.plan
        self._say("stress", f"autoprog {' '.join(plan.words)}")
        by = "signals mixed" if plan.signal == "mixed" else f"SIG{plan.signal}"
        self._say(
            "plan",
            f"one run without kills, then the same with {plan.kills} ({by}, seed {plan.seed}),"
            " each followed by --resume; both must end in the same bits",
        )
        self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Take the bar away."""
        self._bar.stop()

    @property
    def wall_seconds(self) -> float:
        """Return how long it has taken."""
        return self._clock() - self._begin

    def show(self, report: Report) -> None:
        """Take in what has happened and show it."""
        self.summary.add(report)
        self._remaining_time.add(report)
        kills, most = len(self.summary.kills), self.summary.plan.kills
        if self.summary.reference is not None:
            self._bar.update(self._task, description=f"kill {kills}/{most}")
        match report:
            case Reference():
                self._say(
                    "reference",
                    f"{report.moments[-1].step} steps in {duration(report.train_seconds)},"
                    f" after {duration(report.startup_seconds)} of starting up",
                )
            case Kill():
                self._say(
                    f"kill {report.number}/{most}",
                    f"SIG{report.signal} {report.seconds:.1f} s into attempt {report.attempt}, at about"
                    f" step {report.step}, {report.place}, while {report.doing};"
                    f" went on from step {report.resumed_step}",
                )
            case KilledRun() if report.left:
                done = f"run {len(self.summary.runs)} with kills came to its end after"
                self._say("again", f"{done} {kills} of {most}; the others go to another one")

    def conclude(self) -> None:
        """Print the verdict."""
        facts, equal = self.summary.facts, self.summary.equal
        self._say(
            "verdict",
            f"{'equal' if equal else 'NOT equal'}: {facts['runs']} runs, {facts['kills']} kills,"
            f" {facts['attempts']} attempts, {facts['steps_replayed']} steps replayed,"
            f" {duration(facts['seconds_lost'])} lost, {duration(self.wall_seconds)} in all",
        )
        killed = ", ".join(f"{doing} {times}" for doing, times in facts["struck_while"].items())
        self._say("killed", f"while {killed}")
        names, texts = zip(*self.summary.artefacts.items(), strict=True)
        answers = tuple(f"no: {text}" if text else "yes" for text in texts)
        columns = [Column("artefact", names, "left"), Column("equal", answers, "left")]
        if self._console.is_terminal:
            self._console.print(rich_table(columns, self._console.width))
        else:
            for line in plain_table(columns):
                self._console.print(Text(line), soft_wrap=True)

    def _say(self, name: str, text: str) -> None:
        shown = text if self._console.is_terminal else ascii_text(text)
        self._console.print(Text.assemble((f"{name:<10}", "bold"), " ", shown), soft_wrap=True)


class _TimeLeftColumn(ProgressColumn):
    """The time left, counted down between reports."""

    def __init__(self, remaining: RemainingTime) -> None:
        super().__init__()
        self._remaining_time = remaining

    def render(self, task: Task) -> Text:
        """Return the time left; move the bar."""
        task.completed = self._remaining_time.fraction_done()
        return Text(f"left {duration(self._remaining_time.remaining_seconds())}")
