"""What ``autoprog stress`` shows: a line a kill, how long it will take, and the verdict."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from autoprog.bench.stress import Kill, KilledRun, Plan, Reference, Report, Tick
from autoprog.console import Console
from autoprog.ui.tables import Column, plain_table, rich_table
from autoprog.ui.units import ascii_text, duration

__all__ = ["Forecast", "StressView", "Summary"]

Clock = Callable[[], float]


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
        """Tell whether all runs with kills came to the end of the one without."""
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


class Forecast:
    """How long it will take, from how long things took so far."""

    def __init__(self, summary: Summary, clock: Clock) -> None:
        self._summary, self._clock = summary, clock
        self._begin = clock()
        self._first_tick: float | None = None
        self._share = 0.0
        self._remaining: float | None = None
        self._at = self._begin

    def add(self, report: Report) -> None:
        """Take in what has happened; the summary has it already."""
        now = self._clock()
        if isinstance(report, Tick):
            self._first_tick = now if self._first_tick is None else self._first_tick
            self._share = report.step / report.total_steps
        elif isinstance(report, Reference | KilledRun):
            self._share = 0.0
        self._remaining, self._at = self._estimate(now), now

    def remaining_seconds(self) -> float | None:
        """Return the seconds left as of now; None while nothing is known."""
        if self._remaining is None:
            return None
        return max(0.0, self._remaining - (self._clock() - self._at))

    def share_done(self) -> float:
        """Return what part of the whole time is over."""
        left, gone = self.remaining_seconds(), self._clock() - self._begin
        return 0.0 if left is None else gone / max(gone + left, 1e-9)

    def _estimate(self, now: float) -> float | None:
        if self._first_tick is None:
            return None
        known, kills, to_do = self._summary.reference, self._summary.kills, self._share
        left = self._summary.plan.kills - len(kills)
        if known is None:
            if to_do == 0:
                return None
            startup = self._first_tick - self._begin
            train = (now - self._first_tick) / to_do
            return train * (2 - to_do) + (left + 1) * startup
        lost = known.startup_seconds
        if kills:
            lost = sum(kill.lost_seconds for kill in kills) / len(kills)
        return known.train_seconds * (1 - to_do) + left * lost


class StressView:
    """Shows reports as they come: lines, with a bar below them on a terminal; a context manager."""

    def __init__(self, console: Console, plan: Plan, clock: Clock = time.monotonic) -> None:
        self.summary = Summary(plan)
        self._console, self._clock, self._begin = console, clock, clock()
        self._forecast = Forecast(self.summary, clock)
        self._bar = _bar(console, self._forecast)
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Take the bar away."""
        self._bar.stop()

    @property
    def wall_seconds(self) -> float:
        """Return how long it has taken."""
        return self._clock() - self._begin

    def show(self, report: Report) -> None:
        """Take in what has happened and show it."""
        self.summary.add(report)
        self._forecast.add(report)
        kills, most = len(self.summary.kills), self.summary.plan.kills
        if self.summary.reference is not None:
            self._bar.update(self._task, description=f"kill {kills}/{most}")
        match report:
            case Reference():
                self._say("reference", _reference_text(report))
            case Kill():
                self._say(f"kill {report.number}/{most}", kill_text(report))
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
        struck = ", ".join(f"{doing} {times}" for doing, times in facts["struck_while"].items())
        self._say("struck", f"while {struck}")
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


def kill_text(kill: Kill) -> str:
    """Return where a kill struck and where the run went on."""
    return (
        f"SIG{kill.signal} {kill.seconds:.1f} s into attempt {kill.attempt}, at about step {kill.step},"
        f" {kill.place}, while {kill.doing}; went on from step {kill.resumed_step}"
    )


def _reference_text(reference: Reference) -> str:
    return (
        f"{reference.moments[-1].step} steps in {duration(reference.train_seconds)},"
        f" after {duration(reference.startup_seconds)} of starting up"
    )


class _TimeLeft(ProgressColumn):
    """The forecast, counted down between reports."""

    def __init__(self, forecast: Forecast) -> None:
        super().__init__()
        self._forecast = forecast

    def render(self, task: Task) -> Text:
        """Return the time left; move the bar."""
        task.completed = self._forecast.share_done()
        return Text(f"left {duration(self._forecast.remaining_seconds())}")


def _bar(console: Console, forecast: Forecast) -> Progress:
    """Return a bar that only a terminal shows."""
    columns = TextColumn("{task.description}"), BarColumn(), _TimeLeft(forecast)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
