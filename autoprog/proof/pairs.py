"""Which runs a verification makes, in which order, and what their results come to; pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from pydantic import Field

from autoprog.files import FileModel
from autoprog.proof.compare import charged_parts
from autoprog.proof.verdict import Ratio, judge, ratio
from autoprog.runs import Result

__all__ = [
    "ARMS",
    "SCHEDULE_FILE",
    "SCHEDULE_WORD",
    "Arm",
    "ArmEnded",
    "ArmStarted",
    "Pair",
    "PairEnded",
    "Plan",
    "Report",
    "Verification",
    "Waiting",
    "order_of",
    "summarise",
]

Arm = Literal["baseline", "candidate"]
ARMS: tuple[Arm, Arm] = ("baseline", "candidate")
SCHEDULE_FILE = "candidate.yaml"
"""Name of the copy of a verified schedule, so that later changes of the file do not matter."""
SCHEDULE_WORD = "{schedule}"
"""Stands for the path of that copy among the words of a plan."""


class Plan(FileModel):
    """What is verified, fixed before the first run.

    Args:
        model: Name of the full model.
        baseline: Words after ``autoprog`` of a baseline run, without seed and folder.
        candidate: The same of a candidate run; a schedule file stands there as :data:`SCHEDULE_WORD`.
        schedule: Text of that schedule file; None for a search or a preset.
        settings: Digest of everything that decides what the two arms compute.
        margin: In points of top-1 (EMA) that the candidate may be worse by.
        first_seed: Seeds count up from here.
        seeds: Number of pairs.
        side_by_side: Whether the two arms of a pair run at once.
        search_seconds: That a schedule's search took, charged to each candidate run; 0 for a search, whose
            runs hold their own.
    """

    model: str
    baseline: tuple[str, ...]
    candidate: tuple[str, ...]
    schedule: str | None
    settings: str
    margin: float = Field(gt=0, allow_inf_nan=False)
    first_seed: int = Field(ge=0)
    seeds: int = Field(ge=1)
    side_by_side: bool
    search_seconds: float = Field(ge=0, allow_inf_nan=False)

    @property
    def searches(self) -> bool:
        """Tell whether each candidate run is a whole search."""
        return self.candidate[0] == "search"

    def words(self, arm: Arm, schedule: Path) -> tuple[str, ...]:
        """Return the words of an arm, with the schedule file where that is."""
        words = self.baseline if arm == "baseline" else self.candidate
        return tuple(str(schedule) if word == SCHEDULE_WORD else word for word in words)

    def verifies_the_same(self, other: Plan) -> bool:
        """Tell whether it is about the same runs, whatever margin and number of seeds."""
        free = {"margin", "seeds"}
        return self.model_dump(exclude=free) == other.model_dump(exclude=free)


class Pair(FileModel):
    """The two complete runs of one seed."""

    seed: int
    order: tuple[Arm, Arm]
    baseline: Result
    candidate: Result

    @property
    def difference(self) -> float:
        """Return candidate minus baseline top-1 (EMA), in points."""
        return self.candidate.top1_ema - self.baseline.top1_ema


class Verification(FileModel):
    """``verify.json``. ``looks`` are the numbers of seeds that were asked for, one after another.

    ``differing`` are recipe values that differ between the arms; ``verdict`` is None before the first pair.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    verify_id: str
    created: str
    plan: Plan
    looks: tuple[int, ...]
    differing: dict[str, tuple[Any, Any]]
    pairs: tuple[Pair, ...] = ()
    verdict: dict[str, Any] | None = None

    @property
    def complete(self) -> bool:
        """Tell whether all pairs are done."""
        return len(self.pairs) >= self.plan.seeds

    def with_pair(self, pair: Pair) -> Verification:
        """Return it with one more pair and the verdict on all."""
        pairs = (*self.pairs, pair)
        verdict = summarise(pairs, self.plan)
        return self.model_copy(update={"pairs": pairs, "verdict": verdict})


@dataclass(frozen=True)
class ArmStarted:
    """A run has been started, or gone on with."""

    seed: int
    arm: Arm
    resumed: bool


@dataclass(frozen=True)
class ArmEnded:
    """A run is complete; ``reused`` if it was so before."""

    seed: int
    arm: Arm
    result: Result
    reused: bool


@dataclass(frozen=True)
class PairEnded:
    """A pair is complete and written to ``verify.json``."""

    verification: Verification


@dataclass(frozen=True)
class Waiting:
    """Runs are under way."""


Report = ArmStarted | ArmEnded | PairEnded | Waiting


def order_of(number: int) -> tuple[Arm, Arm]:
    """Return which arm of a pair comes first: alternating, so that a drift of the machine cancels out."""
    return ("baseline", "candidate") if number % 2 == 0 else ("candidate", "baseline")


def summarise(pairs: Sequence[Pair], plan: Plan) -> dict[str, Any]:
    """Return everything that follows from complete pairs (at least one).

    Ratios are candidate over baseline. ``wall`` has everything charged, the search of a schedule too;
    ``wall_amortised`` leaves that search out.
    """
    margin = judge([pair.difference for pair in pairs], plan.margin)
    charged = _ratio(pairs, lambda run: run.wall_seconds, plan.search_seconds)
    means = {arm: fmean(getattr(pair, arm).top1_ema for pair in pairs) for arm in ARMS}
    reached = means["candidate"] >= means["baseline"]
    seconds = fmean(pair.candidate.wall_seconds for pair in pairs) + plan.search_seconds
    return {
        **asdict(margin),
        "margin": plan.margin,
        "top1_ema": means,
        "ratios": {
            "wall": asdict(charged),
            "wall_amortised": asdict(_ratio(pairs, lambda run: run.wall_seconds)),
            "image_epochs": asdict(_ratio(pairs, lambda run: run.image_epochs)),
            "macs": asdict(_ratio(pairs, lambda run: run.macs)),
            "peak_memory": asdict(_ratio(pairs, lambda run: float(run.peak_memory_bytes))),
        },
        "charged_seconds": {arm: _charges(pairs, arm, plan) for arm in ARMS},
        "time_to_baseline_accuracy": {"reached": reached, "seconds": seconds if reached else None},
    }


def _ratio(
    pairs: Sequence[Pair], cost: Callable[[Result], float], extra_seconds: float = 0.0
) -> Ratio:
    return ratio(
        [cost(pair.candidate) + extra_seconds for pair in pairs],
        [cost(pair.baseline) for pair in pairs],
    )


def _charges(pairs: Sequence[Pair], arm: Arm, plan: Plan) -> dict[str, float]:
    """Return seconds of an arm's mean run: ``wall``, its parts, and ``supernet``, a part of ``train``."""
    runs: list[Result] = [getattr(pair, arm) for pair in pairs]
    extra = plan.search_seconds if arm == "candidate" else 0.0
    parts = [charged_parts(run) for run in runs]
    means = {name: fmean(one[name] for one in parts) for name in parts[0]}
    return {
        **means,
        "search": means["search"] + extra,
        "wall": fmean(run.wall_seconds for run in runs) + extra,
        "supernet": fmean(run.supernet_seconds for run in runs),
    }
