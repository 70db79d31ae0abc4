"""Which runs a verification makes, in which order, and what their results come to; pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from pydantic import Field

from autoprog.bounds import Epochs, Few, Points, Processes, Seconds, Seed
from autoprog.files import FileModel
from autoprog.proof.compare import charged_parts
from autoprog.proof.rounds import Arm, ArmEnded, ArmStarted, Waiting
from autoprog.proof.standings import standings, time_to_accuracy
from autoprog.proof.verdict import Ratio, judge, ratio
from autoprog.runs import Result

__all__ = [
    "ARMS",
    "SCHEDULE_FILE",
    "SCHEDULE_WORD",
    "OtherArm",
    "Pair",
    "PairEnded",
    "Plan",
    "Report",
    "Verification",
    "summarise",
]

ARMS: tuple[Arm, Arm] = ("baseline", "candidate")
"""The two arms that the verdict is about."""
SCHEDULE_FILE = "candidate.yaml"
"""Name of the copy of a verified schedule, so that later changes of the file do not matter."""
SCHEDULE_WORD = "{schedule}"
"""Stands for the path of that copy among the words of a plan."""


class OtherArm(FileModel):
    """A run beside the two of a pair.

    Args:
        name: Such as ``candidate-0.5``; names its folder.
        role: ``length``: the candidate at another length; ``longer``: the baseline at a greater one;
            ``control``: what costs as much as the candidate.
        words: As those of a plan; a schedule file of its own stands there as :data:`SCHEDULE_WORD`.
        schedule: Text of that file; None for that of the candidate, or where there is none.
        epochs: Its length.
        about: What it is, in a few words.
        seeds: It is trained for so many of the first seeds; None for all.
    """

    name: str
    role: Literal["length", "longer", "control"]
    words: tuple[str, ...]
    schedule: str | None = None
    epochs: Epochs
    about: str = ""
    seeds: Few | None = None

    def is_trained_for(self, number: int) -> bool:
        """Tell whether it is trained for a seed, by its number from 0."""
        return self.seeds is None or number < self.seeds


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
        side_by_side: Whether two runs go on at once.
        search_seconds: That a schedule's search took, charged to each candidate run; 0 for a search, whose
            runs hold their own.
        nproc: Processes that carry out a run, through torchrun if there are several.
        others: Arms beside the two.
        equal_by: What makes controls cost as much as the candidate; empty without controls.
    """

    model: str
    baseline: tuple[str, ...]
    candidate: tuple[str, ...]
    schedule: str | None
    settings: str
    margin: Points
    first_seed: Seed
    seeds: Few
    side_by_side: bool
    search_seconds: Seconds
    nproc: Processes = 1
    others: tuple[OtherArm, ...] = ()
    equal_by: str = ""

    @property
    def searches(self) -> bool:
        """Tell whether each candidate run is a whole search."""
        return self.candidate[0] == "search"

    @property
    def arms(self) -> tuple[Arm, ...]:
        """Return the names of all arms, the two of the verdict first."""
        return (*ARMS, *(arm.name for arm in self.others))

    @property
    def at_once(self) -> int:
        """Return how many runs go on at a time."""
        return 2 if self.side_by_side else 1

    def order(self, number: int) -> tuple[Arm, ...]:
        """Return in which order the arms of a seed start: longer baselines, the pair, the others.

        In every other seed pair and others go backwards. Side by side the next one starts as one ends.
        """
        beside = [arm for arm in self.others if arm.is_trained_for(number)]
        longer = tuple(arm.name for arm in beside if arm.role == "longer")
        others = tuple(arm.name for arm in beside if arm.role != "longer")
        turn = 1 if number % 2 == 0 else -1
        return (*longer, *ARMS[::turn], *others[::turn])

    def words(self, arm: Arm, folder: Path) -> tuple[str, ...]:
        """Return the words of an arm, with its schedule file in `folder` where that is."""
        if arm in ARMS:
            words, file = (self.baseline if arm == "baseline" else self.candidate), SCHEDULE_FILE
        else:
            other = next(one for one in self.others if one.name == arm)
            words, file = other.words, SCHEDULE_FILE if other.schedule is None else f"{arm}.yaml"
        return tuple(str(folder / file) if word == SCHEDULE_WORD else word for word in words)

    def files(self) -> dict[str, str]:
        """Return the schedule files of the arms by name."""
        own = {f"{arm.name}.yaml": arm.schedule for arm in self.others}
        return {name: text for name, text in {SCHEDULE_FILE: self.schedule, **own}.items() if text}

    def charged_seconds(self, arm: Arm, run: Result) -> float:
        """Return what a run took, with the search for its schedule."""
        candidates = {"candidate", *(one.name for one in self.others if one.role == "length")}
        return run.wall_seconds + (self.search_seconds if arm in candidates else 0.0)

    def verifies_the_same(self, other: Plan) -> bool:
        """Tell whether it is about the same runs, whatever margin and number of seeds."""
        free = {"margin", "seeds"}
        return self.model_dump(exclude=free) == other.model_dump(exclude=free)


class Pair(FileModel):
    """The complete runs of one seed."""

    seed: Seed
    order: tuple[Arm, ...]
    baseline: Result
    candidate: Result
    others: dict[Arm, Result] = Field(default_factory=dict)

    @property
    def difference(self) -> float:
        """Return candidate minus baseline top-1 (EMA), in points."""
        return self.candidate.top1_ema - self.baseline.top1_ema

    def has(self, arm: Arm) -> bool:
        """Tell whether an arm was trained for this seed."""
        return arm in ARMS or arm in self.others

    def run(self, arm: Arm) -> Result:
        """Return the run of an arm that was trained for this seed."""
        pair = {"baseline": self.baseline, "candidate": self.candidate}
        return pair[arm] if arm in pair else self.others[arm]


class Verification(FileModel):
    """``verify.json``. ``looks`` are the numbers of seeds that were asked for, one after another.

    ``differing`` are recipe values that differ between the arms; ``verdict`` is None before the first pair.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    verify_id: str
    created: str
    plan: Plan
    looks: tuple[Few, ...]
    differing: dict[str, tuple[Any, Any]]
    pairs: tuple[Pair, ...] = ()
    verdict: dict[str, Any] | None = None

    def with_pair(self, pair: Pair) -> Verification:
        """Return it with one more pair and the verdict on all."""
        pairs = (*self.pairs, pair)
        verdict = summarise(pairs, self.plan)
        return self.model_copy(update={"pairs": pairs, "verdict": verdict})


@dataclass(frozen=True)
class PairEnded:
    """A pair is complete and written to ``verify.json``."""

    verification: Verification


Report = ArmStarted | ArmEnded | PairEnded | Waiting


def summarise(pairs: Sequence[Pair], plan: Plan) -> dict[str, Any] | None:
    """Return everything that follows from complete pairs; None without one.

    Ratios are candidate over baseline. ``wall`` has everything charged, the search of a schedule too;
    ``wall_amortised`` leaves that search out.
    """
    if not pairs:
        return None
    margin = judge([pair.difference for pair in pairs], plan.margin)
    charged = _ratio(pairs, lambda run: run.wall_seconds, plan.search_seconds)
    means = {arm: fmean(getattr(pair, arm).top1_ema for pair in pairs) for arm in ARMS}
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
        "time_to_baseline_accuracy": time_to_accuracy(pairs, plan),
        "arms": [asdict(standing) for standing in standings(pairs, plan)],
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
