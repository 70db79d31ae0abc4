"""Kill a run again and again and see whether it still comes to the same end."""

from __future__ import annotations

import random
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from autoprog.bench.stress_child import EXIT_CODES, Attempt, RefusedError, Row, follow
from autoprog.bench.stress_plan import (
    Aim,
    Moment,
    SignalName,
    Spot,
    draw_signals,
    plan_kills,
    row_seconds,
    spot_of,
    timeline,
)
from autoprog.bench.stress_verdict import compare_runs
from autoprog.errors import RunError

__all__ = ["Kill", "KilledRun", "Plan", "Reference", "Report", "Tick", "stress"]

_REFERENCE_STALL_SECONDS = 3600.0
_LEAST_STALL_SECONDS = 120.0


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
class Tick:
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
        """Return after how long without a word a run counts as stuck."""
        return max(_LEAST_STALL_SECONDS, 20 * max(self.startup_seconds, self.longest_gap_seconds))


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


Report = Tick | Reference | Kill | KilledRun


def stress(plan: Plan) -> Generator[Report, None, None]:
    """Carry out a command once in peace and as often as it takes with kills; yield what happens.

    Raises:
        RefusedError: If the program refuses the command.
        RunError: If an attempt fails, is stuck, or does not answer a signal as it should.
    """
    rng = random.Random(plan.seed)
    reference = yield from _reference(plan)
    yield reference
    signals, runs = draw_signals(plan.signal, plan.kills, rng), 0
    while signals:
        runs += 1
        aims = plan_kills(reference.moments, signals, rng)
        killed = _Killed(plan, reference, plan.work / f"killed-{runs}", plan.kills - len(aims))
        signals = [aim.signal for aim in (yield from killed.carry_out(aims))]


def _reference(plan: Plan) -> Generator[Report, None, Reference]:
    runs = plan.work / "reference"
    runs.mkdir()
    begin, rows = time.time(), []
    attempt = Attempt(_first_words(plan.words, runs), runs, 0)
    try:
        for row in follow(attempt, None, _REFERENCE_STALL_SECONDS):
            rows.append(row)
            yield _tick(rows, row)
    finally:
        attempt.end()
    if attempt.exit_code == RefusedError.exit_code:
        raise RefusedError(attempt.last_words())
    if attempt.exit_code != 0:
        raise RunError(f"the run without kills failed: {attempt.last_words()}")
    times = [row_seconds(row) for row in rows]
    gap = max(later - earlier for earlier, later in pairwise(times))
    return Reference(attempt.folder, timeline(rows), times[0] - begin, gap)


@dataclass
class _Strike:
    """A kill that has been made, while it is open where the next attempt goes on."""

    aim: Aim
    attempt: int
    seconds: float
    step: int
    spot: Spot


@dataclass
class _Killed:
    """A run that is killed at each aim in turn and then comes to its end. ``made`` kills came before it."""

    plan: Plan
    reference: Reference
    runs: Path
    made: int
    rows: list[Row] = field(default_factory=list)

    def carry_out(self, aims: Sequence[Aim]) -> Generator[Report, None, list[Aim]]:
        """Yield what happens; return the aims that the run ended too soon for."""
        self.runs.mkdir()
        waiting, number, strike = list(aims), 0, None
        words = self._first_words()
        while True:
            attempt = Attempt(words, self.runs, number)
            aim = waiting[0] if waiting else None
            struck_at = yield from self._follow(attempt, aim, strike)
            number += 1
            if (attempt.folder / "result.json").exists():
                break
            if aim is None or struck_at is None:
                code, said = attempt.exit_code, attempt.last_words()
                raise RunError(f"attempt {number} ended by itself with exit code {code}: {said}")
            strike = self._judged(attempt, waiting.pop(0), struck_at)
            words = _resuming(self.plan, attempt.folder)
        differences = compare_runs(self.reference.folder, attempt.folder, self.plan.words[0])
        yield KilledRun(attempt.folder, number, len(waiting), differences)
        return waiting

    def _follow(
        self, attempt: Attempt, aim: Aim | None, strike: _Strike | None
    ) -> Generator[Report, None, float | None]:
        """Yield the progress of an attempt to its end; return when it was struck, in seconds since 1970."""
        struck_at = None
        stall_seconds = self.reference.stall_seconds
        rows = follow(attempt, aim, stall_seconds)
        try:
            while True:
                row = next(rows)
                if row["kind"] == "run_started" and strike is not None:
                    yield self._kill(strike, row)
                self.rows.append(row)
                yield _tick(self.rows, row)
        except StopIteration as stop:
            if stop.value:
                struck_at = time.time()
                attempt.wait(stall_seconds)
        finally:
            attempt.end()
        self.rows += attempt.new_rows()
        return struck_at

    def _first_words(self) -> list[str]:
        """Return the command line of the first attempt, at the costs that the reference measured."""
        words, costs = (
            _first_words(self.plan.words, self.runs),
            self.reference.folder / "costs.json",
        )
        pinned = any(word.partition("=")[0] == "--costs" for word in words)
        return words if pinned or not costs.exists() else [*words, "--costs", str(costs)]

    def _judged(self, attempt: Attempt, aim: Aim, struck_at: float) -> _Strike:
        """Return a strike after checking what the program made of it."""
        name, number = f"SIG{aim.signal}", attempt.number + 1
        if attempt.exit_code != EXIT_CODES[aim.signal]:
            raise RunError(
                f"attempt {number} ended with exit code {attempt.exit_code} instead of"
                f" {EXIT_CODES[aim.signal]} after {name}: {attempt.last_words()}"
            )
        if attempt.has_traceback():
            raise RunError(f"attempt {number} ended with a traceback after {name}")
        mine = [row for row in self.rows if row["attempt"] == attempt.number]
        before = [row for row in mine if row_seconds(row) <= struck_at] or mine[:1]
        spot = spot_of(self.reference.moments, before[-1], struck_at - row_seconds(before[-1]))
        step = spot.step
        if aim.signal != "KILL":
            if [row["kind"] for row in mine[-2:]] != ["checkpoint_saved", "interrupted"]:
                raise RunError(f"attempt {number} wrote no checkpoint after {name}")
            step = mine[-1]["step"]
        return _Strike(aim, number, struck_at - row_seconds(mine[0]), step, spot)

    def _kill(self, strike: _Strike, started: Row) -> Kill:
        """Return a kill, now that the next attempt tells where it goes on."""
        self.made += 1
        mine = [row for row in self.rows if row["attempt"] == strike.attempt - 1]
        at = (row for row in reversed(mine) if row["step"] == started["step"])
        base = next((row for row in at if row["kind"] == "checkpoint_saved"), mine[0])
        return Kill(
            number=self.made,
            signal=strike.aim.signal,
            attempt=strike.attempt,
            seconds=strike.seconds,
            step=strike.step,
            place=strike.spot.place,
            doing=strike.spot.doing,
            resumed_step=started["step"],
            lost_seconds=row_seconds(started) - row_seconds(base),
        )


def _first_words(words: Sequence[str], runs: Path) -> list[str]:
    return [*words, "--runs-dir", str(runs), "--checkpoint-minutes", "0", "-q"]


def _resuming(plan: Plan, folder: Path) -> list[str]:
    return [plan.words[0], "--resume", str(folder), *plan.again, "-q"]


def _tick(rows: Sequence[Row], row: Row) -> Tick:
    started = next(row for row in rows if row["kind"] == "run_started")
    return Tick(row["step"], started["total_steps"])
