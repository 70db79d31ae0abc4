"""Which runs a verification makes, in which order, and what their results come to; pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from autoprog.bounds import Count, Epochs, Few, Measured, Points, Processes, Seconds, Seed
from autoprog.errors import ConfigError
from autoprog.files import FileModel, Line
from autoprog.proof.arms import ArmName, ArmSettings, with_numbers
from autoprog.proof.compare import charged_parts
from autoprog.proof.rounds import Arm, ArmEnded, ArmStarted, Waiting
from autoprog.proof.standings import standings, time_to_accuracy
from autoprog.proof.verdict import Ratio, judge, ratio
from autoprog.runs import Result

__all__ = [
    "ARMS",
    "SCHEDULE_FILE",
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
_MOST_LOOKS, _MOST_OTHERS = 1_000, 300
_MOST_LETTERS = 2**22  # of a schedule file

RecipeValue = bool | Count | Measured | Line | tuple[Measured, Measured] | None
ScheduleText = Annotated[str, Field(max_length=_MOST_LETTERS)]


class OtherArm(FileModel):
    """A run beside the two of a pair.

    Args:
        name: Such as ``candidate-0.5``; names its folder.
        role: ``length``: the candidate at another length; ``longer``: the baseline at a greater one;
            ``control``: what costs as much as the candidate.
        settings: What is run.
        schedule: Text of a schedule file of its own; None for that of the candidate, or where there is none.
        epochs: Its length.
        about: What it is, in a few words.
        seeds: It is trained for so many of the first seeds; None for all.
    """

    name: ArmName
    role: Literal["length", "longer", "control"]
    settings: ArmSettings
    schedule: ScheduleText | None = None
    epochs: Epochs
    about: Line = ""
    seeds: Few | None = None

    def is_trained_for(self, number: int) -> bool:
        """Tell whether it is trained for a seed, by its number from 0."""
        return self.seeds is None or number < self.seeds


class Plan(FileModel):
    """What is verified, fixed before the first run.

    Args:
        model: Name of the full model.
        baseline: What a baseline run is.
        candidate: What a candidate run is.
        schedule: Text of the schedule file that it follows; None for a search or a preset.
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

    model: Line
    baseline: ArmSettings
    candidate: ArmSettings
    schedule: ScheduleText | None
    settings: Line
    margin: Points
    first_seed: Seed
    seeds: Few
    side_by_side: bool
    search_seconds: Seconds
    nproc: Processes = 1
    others: tuple[OtherArm, ...] = Field(default=(), max_length=_MOST_OTHERS)
    equal_by: Line = ""

    @model_validator(mode="after")
    def _arms_are_told_apart_and_have_their_files(self) -> Plan:
        names = self.arms
        for name in names:
            if names.count(name) > 1:
                raise ConfigError("", "others", "must have names that differ", name)
        for arm in ("candidate", *(one.name for one in self.others)):
            if self.settings_of(arm).follows_file and self.file_of(arm) not in self.files():
                raise ConfigError("", "schedule", f"must be given: {arm} follows it")
        if self.baseline.follows_file:
            raise ConfigError("", "baseline.follows_file", "must be false", True)
        return self

    @property
    def searches(self) -> bool:
        """Tell whether each candidate run is a whole search."""
        return self.candidate.command == "search"

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

    def settings_of(self, arm: Arm) -> ArmSettings:
        """Return what a run of an arm is."""
        if arm in ARMS:
            return self.baseline if arm == "baseline" else self.candidate
        return next(one.settings for one in self.others if one.name == arm)

    def file_of(self, arm: Arm) -> str:
        """Return the name of the schedule file of an arm that follows one."""
        own = {one.name for one in self.others if one.schedule is not None}
        return f"{arm}.yaml" if arm in own else SCHEDULE_FILE

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
        one, two = (plan.model_dump(exclude=free) for plan in (self, other))
        return bool(with_numbers(one) == with_numbers(two))


class Pair(FileModel):
    """The complete runs of one seed."""

    seed: Seed
    order: tuple[Arm, ...]
    baseline: Result
    candidate: Result
    others: dict[Arm, Result] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _costs_have_ratios(self) -> Pair:
        for arm in (*ARMS, *self.others):
            for cost in ("wall_seconds", "image_epochs", "macs", "peak_memory_bytes"):
                value = getattr(self.run(arm), cost)
                if value <= 0:
                    raise ConfigError("", f"{arm}.{cost}", "must be above 0", value)
        return self

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

    schema_version: Literal[2] = Field(default=2, alias="schema")
    verify_id: Line
    created: Line
    plan: Plan
    looks: tuple[Few, ...] = Field(max_length=_MOST_LOOKS)
    differing: dict[Line, tuple[RecipeValue, RecipeValue]]
    pairs: tuple[Pair, ...] = ()
    verdict: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _pairs_are_those_of_the_plan(self) -> Verification:
        plan = self.plan
        if len(self.pairs) > plan.seeds:
            raise ConfigError("", "pairs", f"must be at most {plan.seeds}", len(self.pairs))
        for number, pair in enumerate(self.pairs):
            seed, order = plan.first_seed + number, plan.order(number)
            others = {arm for arm in order if arm not in ARMS}
            is_whole = sorted(pair.order) == sorted(order) and {*pair.others} == others
            if pair.seed != seed or not is_whole:
                law = f"must hold the runs of seed {seed} that the plan says"
                raise ConfigError("", f"pairs[{number}]", law)
        return self

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
