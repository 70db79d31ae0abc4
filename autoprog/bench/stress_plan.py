"""When to strike: moments of a run that nothing interrupted, and kills spread over all of them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import cycle, islice, pairwise
from typing import Any, Literal

__all__ = [
    "SPECIAL",
    "Aim",
    "Moment",
    "SignalName",
    "Spot",
    "draw_signals",
    "plan_kills",
    "row_seconds",
    "spot_of",
    "timeline",
]

SignalName = Literal["KILL", "TERM", "INT"]

SPECIAL = {
    "checkpoint_saved": "writing a checkpoint",
    "grown": "growing",
    "evaluated": "evaluating",
    "estimated": "estimating candidates",
    "decided": "deciding",
    "run_finished": "writing the final weights",
}
"""What a run does that is not training, by the kind of the row that ends it."""

_OVERSHOOT = 1.2
_SLACK_SECONDS = 0.005


@dataclass(frozen=True)
class Moment:
    """A row of a run's log, ``seconds`` after the start of training; ``place`` says where the run stood."""

    seconds: float
    kind: str
    step: int
    place: str


@dataclass(frozen=True)
class Aim:
    """A kill to come: ``signal``, ``delay_seconds`` after the log has come to ``after``."""

    after: Moment
    delay_seconds: float
    signal: SignalName

    @property
    def seconds(self) -> float:
        """Return where in the run it lies, in seconds of the run that nothing interrupted."""
        return self.after.seconds + self.delay_seconds

    def is_reached_by(self, row: Mapping[str, Any]) -> bool:
        """Tell whether a row stands where the delay begins, or later in the run."""
        if row["step"] != self.after.step:
            return bool(row["step"] > self.after.step)
        return row["kind"] in (self.after.kind, "run_started")


@dataclass(frozen=True)
class Spot:
    """Where a kill struck: at about ``step``, in ``place``, while the run was ``doing`` something."""

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
    """Return the signal of each kill: one for all, or with ``mixed`` equal shares in a drawn order."""
    kinds: tuple[SignalName, ...] = ("KILL", "TERM", "INT")
    if name != "mixed":
        return [next(kind for kind in kinds if kind == name)] * count
    drawn = [kinds[index % len(kinds)] for index in range(count)]
    rng.shuffle(drawn)
    return drawn


def plan_kills(
    moments: Sequence[Moment], signals: Sequence[SignalName], rng: random.Random
) -> list[Aim]:
    """Return one kill a signal, in the order of the run.

    Half of them strike while the run does something else than training, each such thing in turn, or just
    after it; the others fall evenly over the whole run, one at a random point of each of equal stretches.
    A signal that asks the run to stop comes before its last step, since the run would else just end.
    """
    end, last_step = moments[-1].seconds, moments[-1].step
    until = max(
        (m.seconds for m in moments if m.kind == "progressed" and m.step < last_step), default=end
    )
    drawn = list(_special_seconds(moments, len(signals) // 2, rng))
    rest = len(signals) - len(drawn)
    drawn += [(index + rng.random()) * end / rest for index in range(rest)]
    aims = [
        _aim(
            moments,
            seconds if signal == "KILL" or seconds <= until else seconds - end + until,
            signal,
        )
        for seconds, signal in zip(sorted(drawn), signals, strict=True)
    ]
    return sorted(aims, key=lambda aim: aim.seconds)


def spot_of(moments: Sequence[Moment], row: Mapping[str, Any], elapsed_seconds: float) -> Spot:
    """Return where a run stood `elapsed_seconds` after its last row, as the uninterrupted run tells."""
    last = _index_of(moments, row)
    here = moments[last]
    if last + 1 == len(moments):
        return Spot(row["step"], here.place, "writing the result")
    there = moments[last + 1]
    place = there.place if there.kind in ("stage_started", "supernet_started") else here.place
    if there.kind in SPECIAL or there.step <= row["step"]:
        return Spot(row["step"], place, SPECIAL.get(there.kind, "training"))
    share = min(elapsed_seconds / max(there.seconds - here.seconds, 1e-9), 0.999)
    return Spot(row["step"] + int(share * (there.step - row["step"])), place, "training")


def _special_seconds(moments: Sequence[Moment], most: int, rng: random.Random) -> Iterator[float]:
    """Yield points in time inside random stretches of each special kind in turn."""
    kinds = sorted({m.kind for m in moments} & SPECIAL.keys())
    rng.shuffle(kinds)
    for kind in islice(cycle(kinds), most):
        stretches = [(a.seconds, b.seconds) for a, b in pairwise(moments) if b.kind == kind]
        begin, end = rng.choice(stretches)
        seconds = begin + rng.random() * (_OVERSHOOT * (end - begin) + _SLACK_SECONDS)
        yield min(seconds, moments[-1].seconds)


def _aim(moments: Sequence[Moment], seconds: float, signal: SignalName) -> Aim:
    after = next((m for m in reversed(moments) if m.seconds <= seconds), moments[0])
    return Aim(after, seconds - after.seconds, signal)


def _index_of(moments: Sequence[Moment], row: Mapping[str, Any]) -> int:
    """Return the last moment of that kind and step; for one that is not there, the last before that step.

    A resume goes on from a checkpoint, with which it stands behind what came before it at the same step.
    """
    kind, step = row["kind"], row["step"]
    same = [i for i, m in enumerate(moments) if (m.kind, m.step) == (kind, step)]
    if same and kind != "run_started":
        return same[-1]
    saved = ("checkpoint_saved", step)
    before = [i for i, m in enumerate(moments) if m.step < step or (m.kind, m.step) == saved]
    return max(before, default=0)
