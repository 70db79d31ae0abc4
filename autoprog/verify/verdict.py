"""Which runs a verification makes, in which order, and what their results come to; pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from scipy.special import stdtrit

from autoprog.bounds import Count, Epochs, Few, Measured, Points, Processes, Seconds, Seed
from autoprog.errors import ConfigError
from autoprog.files import FileModel, Line
from autoprog.runs import Result
from autoprog.verify.arms import ArmName, ArmSettings, with_numbers
from autoprog.verify.attempts import Arm, ArmEnded, ArmStarted, Waiting
from autoprog.verify.compare import Spread, charged_parts, spread

__all__ = [
    "ARMS",
    "NEAR_CONVERGENCE_POINTS",
    "SCHEDULE_FILE",
    "SURENESS",
    "Margin",
    "OtherArm",
    "Outcome",
    "Pair",
    "PairEnded",
    "Plan",
    "Ratio",
    "Report",
    "Standing",
    "Verification",
    "judge",
    "lengths_of",
    "pairs_needed",
    "ratio",
    "standings",
    "summarise",
    "t_quantile",
    "time_to_accuracy",
]


# --------------------------------------------------------------------------------------------------
# The arithmetic of a verdict: paired differences, one-sided bounds, ratios with intervals; pure.


SURENESS = 0.95
"""How surely a one-sided bound holds, and a two-sided interval."""

_LARGEST_LOGARITHM = 709.0

Outcome = Literal["non-inferior", "inferior", "undecided"]


@dataclass(frozen=True)
class Margin:
    """How a candidate stands against a margin, in points of top-1, candidate minus baseline.

    ``lower`` and ``upper`` are each a one-sided bound, at 95 % unless asked otherwise; they, and ``sd``,
    are None below two pairs. ``more_seeds`` would decide if mean and standard deviation stayed; 0 once
    decided, None where no number would, or nothing is known yet.
    """

    outcome: Outcome
    pairs: int
    mean: float
    sd: float | None
    lower: float | None
    upper: float | None
    more_seeds: int | None


@dataclass(frozen=True)
class Ratio:
    """A geometric mean of paired ratios, with the two-sided 95 % interval by Student's t on logarithms.

    The interval is None below two pairs.
    """

    mean: float
    low: float | None
    high: float | None


def t_quantile(probability: float, degrees: int) -> float:
    """Return the value that Student's t with so many degrees of freedom stays below with a probability."""
    return float(stdtrit(degrees, probability))


def judge(differences: Sequence[float], margin: float, sureness: float = SURENESS) -> Margin:
    """Return the verdict on paired differences (at least one), candidate minus baseline, in points.

    Each bound holds as surely as `sureness`. Non-inferior if the lower one lies above ``-margin``, inferior
    if the upper one lies below it.
    """
    count, mean = len(differences), fmean(differences)
    if count < 2:
        return Margin("undecided", count, mean, None, None, None, None)
    sd = stdev(differences)
    reach = _reach(sd, count, sureness)
    lower, upper = mean - reach, mean + reach
    if lower > -margin:
        outcome: Outcome = "non-inferior"
    elif upper < -margin:
        outcome = "inferior"
    else:
        outcome = "undecided"
    needed = count if outcome != "undecided" else pairs_needed(mean, sd, margin, sureness)
    more = None if needed is None else needed - count
    return Margin(outcome, count, mean, sd, lower, upper, more)


def pairs_needed(mean: float, sd: float, margin: float, sureness: float = SURENESS) -> int | None:
    """Return the fewest pairs whose bound clears ``-margin`` at this mean and standard deviation.

    None where the mean lies on the margin itself: then no number does.
    """
    gap = abs(mean + margin)
    if gap <= 1e-9 * max(sd, margin):
        return None
    enough = 2
    while _reach(sd, enough, sureness) >= gap:
        enough *= 2
    too_few = max(1, enough // 2)
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        if _reach(sd, middle, sureness) < gap:
            enough = middle
        else:
            too_few = middle
    return enough


def ratio(candidate: Sequence[float], baseline: Sequence[float]) -> Ratio:
    """Return candidate over baseline of paired positive values (at least one pair)."""
    logs = [math.log(c) - math.log(b) for c, b in zip(candidate, baseline, strict=True)]
    mean, count = fmean(logs), len(logs)
    if count < 2:
        return Ratio(_exp(mean), None, None)
    reach = t_quantile((1 + SURENESS) / 2, count - 1) * stdev(logs) / math.sqrt(count)
    return Ratio(_exp(mean), _exp(mean - reach), _exp(mean + reach))


def _exp(logarithm: float) -> float:
    """Return the number of a logarithm, at most about the greatest that there is."""
    return math.exp(min(logarithm, _LARGEST_LOGARITHM))


def _reach(sd: float, count: int, sureness: float) -> float:
    """Return how far a one-sided bound lies from the mean of so many pairs (at least two)."""
    return t_quantile(sureness, count - 1) * sd / math.sqrt(count)


# --------------------------------------------------------------------------------------------------
# How each arm of a verification stands to the one that it is set against; pure.


NEAR_CONVERGENCE_POINTS = 2.0
"""A baseline that more epochs lift by less was trained for long enough to be compared with."""


@dataclass(frozen=True)
class Standing:
    """An arm over the seeds that it was trained for.

    Attributes:
        arm: Its name.
        role: ``baseline``, ``candidate``, or that of another arm.
        seeds: How many it was trained for.
        about: What it is, in a few words.
        image_epochs: How often it saw each training image.
        top1_ema: In per cent, over seeds.
        seconds: Of its mean run, everything charged.
        wall: Seconds over those of the baseline.
        macs: Multiply-accumulates over those of the baseline.
        against: What its accuracy is set against: the candidate for a control, else the baseline.
        difference: Its top-1 (EMA) minus that, paired by seed, in points; None for the baseline.
        sureness: How surely each bound of the difference holds.
    """

    arm: Arm
    role: str
    seeds: int
    about: str
    image_epochs: float
    top1_ema: Spread
    seconds: float
    wall: Ratio
    macs: Ratio
    against: Arm | None
    difference: Margin | None
    sureness: float


def lengths_of(plan: Plan) -> list[Arm]:
    """Return the arms that are the candidate, at its own length and at others."""
    return ["candidate", *(arm.name for arm in plan.others if arm.role == "length")]


def standings(pairs: Sequence[Pair], plan: Plan) -> list[Standing]:
    """Return the standing of each arm, after at least one pair."""
    return [_standing(pairs, plan, arm) for arm in plan.arms]


def time_to_accuracy(pairs: Sequence[Pair], plan: Plan) -> dict[str, Any]:
    """Return the cheapest of the candidate's lengths whose mean reaches the baseline's mean.

    Every length is a complete, annealed run of its own. Choosing among several is a choice: `lower`, the
    bound of the difference of the chosen one, holds for all of them together (Bonferroni).
    """
    target = fmean(pair.baseline.top1_ema for pair in pairs)
    arms = [_standing(pairs, plan, arm) for arm in lengths_of(plan)]
    enough = [arm for arm in arms if arm.top1_ema.mean >= target]
    if not enough:
        return {"reached": False, "seconds": None, "lengths": len(arms)}
    best = min(enough, key=lambda arm: arm.seconds)
    assert best.difference is not None, "no candidate is the baseline"
    return {
        "reached": True,
        "seconds": best.seconds,
        "lengths": len(arms),
        "arm": best.arm,
        "ratio": best.wall.mean,
        "lower": best.difference.lower,
    }


def _standing(pairs: Sequence[Pair], plan: Plan, arm: Arm) -> Standing:
    other = next((one for one in plan.others if one.name == arm), None)
    role = other.role if other is not None else arm
    against = {"baseline": None, "control": "candidate"}.get(role, "baseline")
    choices = len(lengths_of(plan)) if role in ("candidate", "length") else 1
    sureness = 1 - (1 - SURENESS) / choices
    pairs = [pair for pair in pairs if pair.has(arm)]
    runs = [pair.run(arm) for pair in pairs]
    seconds = [plan.charged_seconds(arm, run) for run in runs]
    return Standing(
        arm=arm,
        role=role,
        seeds=len(runs),
        about="" if other is None else other.about,
        image_epochs=fmean(run.image_epochs for run in runs),
        top1_ema=spread([run.top1_ema for run in runs]),
        seconds=fmean(seconds),
        wall=ratio(seconds, [pair.baseline.wall_seconds for pair in pairs]),
        macs=ratio([run.macs for run in runs], [pair.baseline.macs for pair in pairs]),
        against=against,
        difference=None if against is None else _difference(pairs, plan, arm, against, sureness),
        sureness=sureness,
    )


def _difference(
    pairs: Sequence[Pair], plan: Plan, arm: Arm, against: Arm, sureness: float
) -> Margin:
    differences = [pair.run(arm).top1_ema - pair.run(against).top1_ema for pair in pairs]
    return judge(differences, plan.margin, sureness)


ARMS: tuple[Arm, Arm] = ("baseline", "candidate")
"""The two arms that the verdict is about."""
SCHEDULE_FILE = "candidate.yaml"
"""Name of the copy of a verified schedule, so that later changes of the file do not matter."""
_MAX_LOOKS, _MAX_OTHERS = 1_000, 300
_MAX_LETTERS = 2**22  # of a schedule file

RecipeValue = bool | Count | Measured | Line | tuple[Measured, Measured] | None
ScheduleText = Annotated[str, Field(max_length=_MAX_LETTERS)]


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
    others: tuple[OtherArm, ...] = Field(default=(), max_length=_MAX_OTHERS)
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

    schema_version: Literal[3] = Field(default=3, alias="schema")
    verify_id: Line
    created: Line
    plan: Plan
    looks: tuple[Few, ...] = Field(max_length=_MAX_LOOKS)
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
                problem = f"must hold the runs of seed {seed} that the plan says"
                raise ConfigError("", f"pairs[{number}]", problem)
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
