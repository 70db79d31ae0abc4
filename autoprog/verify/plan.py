"""What a verification runs, and in which order: its plan, and the results of a seed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from autoprog.bounds import Epochs, Few, Points, Processes, Seconds, Seed
from autoprog.errors import ConfigError
from autoprog.files import FileModel, Line
from autoprog.runs import Result
from autoprog.verify.arms import Arm, ArmName, ArmSettings, with_numbers

__all__ = ["ARMS", "SCHEDULE_FILE", "OtherArm", "Pair", "Plan"]

ARMS: tuple[Arm, Arm] = ("baseline", "candidate")
"""The two arms that the verdict is about."""
SCHEDULE_FILE = "candidate.yaml"
"""Name of the copy of a verified schedule, so that later changes of the file do not matter."""
_MAX_OTHERS = 300  # the file may come from somebody else, and each of them is a training
_MAX_LETTERS = 2**22  # of a schedule file

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
        seeds: The number of first seeds that it is trained for; None for all.
    """

    name: ArmName
    role: Literal["length", "longer", "control"]
    settings: ArmSettings
    schedule: ScheduleText | None = None
    epochs: Epochs
    about: Line = ""
    seeds: Few | None = None

    def is_trained_for(self, number: int) -> bool:
        """Return whether it is trained for a seed, by its number from 0."""
        return self.seeds is None or number < self.seeds


class Plan(FileModel):
    """What is verified, fixed before the first run but for the number of seeds.

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
    def _names_differ_and_files_are_there(self) -> Plan:
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
        """Return whether each candidate run is a whole search."""
        return self.candidate.command == "search"

    @property
    def arms(self) -> tuple[Arm, ...]:
        """Return the names of all arms, the two of the verdict first."""
        return (*ARMS, *(arm.name for arm in self.others))

    @property
    def max_at_once(self) -> int:
        """Return how many runs go on at a time."""
        return 2 if self.side_by_side else 1

    def order(self, number: int) -> tuple[Arm, ...]:
        """Return in which order the arms of a seed start: longer baselines, the pair, the others.

        `number` counts seeds from 0. Side by side the next arm starts as one ends.
        """
        beside = [arm for arm in self.others if arm.is_trained_for(number)]
        longer = tuple(arm.name for arm in beside if arm.role == "longer")
        others = tuple(arm.name for arm in beside if arm.role != "longer")
        # In every other seed the arms go backwards: what a machine does to the first run of a seed (a cold
        # cache, a cool processor) then falls to both. Longer baselines come first, since side by side
        # with the shorter runs they would otherwise go on alone at the end.
        step = 1 if number % 2 == 0 else -1
        return (*longer, *ARMS[::step], *others[::step])

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
        # The baseline and the controls needed no search.
        candidates = {"candidate", *(one.name for one in self.others if one.role == "length")}
        return run.wall_seconds + (self.search_seconds if arm in candidates else 0.0)

    def verifies_the_same(self, other: Plan) -> bool:
        """Return whether it is about the same runs, whatever margin and number of seeds."""
        free = {"margin", "seeds"}
        # As numbers: --lr 2.5e-4 and --lr 0.00025 are the same run.
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
        for arm in (*ARMS, *self.others):  # the means of ratios are taken on logarithms
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
        """Return whether an arm was trained for this seed."""
        return arm in ARMS or arm in self.others

    def run(self, arm: Arm) -> Result:
        """Return the run of an arm that was trained for this seed."""
        pair = {"baseline": self.baseline, "candidate": self.candidate}
        return pair[arm] if arm in pair else self.others[arm]
