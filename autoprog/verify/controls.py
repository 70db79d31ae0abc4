"""A field of schedules run side by side over seeds, and which of the runs are still to be made."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from autoprog import migration
from autoprog.bounds import Few, Seed, SomeAmount
from autoprog.curves import linspace
from autoprog.errors import ConfigError, RunError
from autoprog.files import FileModel, Line, parse, read_object
from autoprog.openfiles import write_atomically
from autoprog.schedule import GrowthSchedule
from autoprog.space import SearchSpace
from autoprog.stage import FullModel, LearningRate, Stage, Tokens, depth_value, relative_step_cost
from autoprog.steptable import StepTable
from autoprog.verify.arms import ArmSettings, with_settings
from autoprog.verify.attempts import (
    Arm,
    ArmEnded,
    ArmStarted,
    Round,
    Start,
    Waiting,
    alone,
    check_folder,
    run_folders,
    starter,
)
from autoprog.verify.compare import Finished, read_finished
from supernet.config import ModelSpec, SubnetConfig

__all__ = [
    "Control",
    "Cost",
    "Entrant",
    "FieldFile",
    "Make",
    "Progress",
    "always",
    "epochs_of_cost",
    "finished_runs",
    "images_cost",
    "macs_cost",
    "ramps",
    "random_schedules",
    "read_field",
    "run_field",
]


# --------------------------------------------------------------------------------------------------
# Controls: other schedules that cost as much as a candidate; pure, by any law of what steps cost.


Cost = Callable[[StepTable], float]
"""What a schedule in steps costs, in any unit."""

Make = Callable[[float], GrowthSchedule]
"""Makes a schedule for a run of so many epochs."""

_TRIES = 200
_ROUNDS = 8


@dataclass(frozen=True)
class Control:
    """A schedule and the epochs at which it costs as much as it should."""

    name: str
    about: str
    schedule: GrowthSchedule
    epochs: float


def macs_cost(spec: ModelSpec) -> Cost:
    """Return the law that counts multiply-accumulates, in plain steps of the full model."""

    def cost(table: StepTable) -> float:
        return sum(
            segment.steps * relative_step_cost(spec, segment.subnet, segment.training)
            for segment in table.segments
        )

    return cost


def images_cost(table: StepTable) -> float:
    """Return the images that a schedule sees, in batches of the recipe's size."""
    return table.image_epochs * table.steps_per_epoch


def epochs_of_cost(make: Make, steps_per_epoch: int, cost: Cost, target: float) -> float:
    """Return the epochs, in whole steps, at which a schedule costs `target` or as near as steps allow.

    Raises:
        ConfigError: If a stage is shorter than a step then.
    """
    steps, nearest = 5000, (math.inf, 0)  # long enough for its stages, whatever they are
    for _ in range(
        _ROUNDS
    ):  # cost is all but proportional to length, but for whole steps and epochs
        found = cost(
            make(steps / steps_per_epoch).resolve(steps_per_epoch, steps / steps_per_epoch)
        )
        nearest = min(nearest, (abs(found - target), steps))
        nearer = max(2, round(steps * target / found))
        if nearer == steps:
            break
        steps = nearer
    return nearest[1] / steps_per_epoch


def always(schedule: GrowthSchedule) -> Make:
    """Return what makes this schedule, whatever the length of the run."""
    return lambda epochs: schedule


def ramps(
    space: SearchSpace, lr: LearningRate, steps_per_epoch: int, cost: Cost, target: float
) -> list[Control]:
    """Return, for each axis of depth, size and keep-rate that can save, its linear ramp at equal cost.

    A ramp goes through equal stages from the axis's smallest value in the space to the full one.

    Raises:
        ConfigError: If no axis can save, or a stage is shorter than a step at that cost.
    """
    full, found = space.spec.full, []
    axes = {
        "depth": [SubnetConfig(depth, full.img_size) for depth in space.depths],
        "size": [SubnetConfig(full.depth, size) for size in space.sizes],
        "keep-rate": [SubnetConfig(full.depth, full.img_size, rule) for rule in space.keep_rates],
    }
    for axis, points in axes.items():
        if len(points) > 1:
            count = max(2, space.decisions.num_stages)
            chosen = [points[round(at)] for at in linspace(0, len(points) - 1, count)]
            schedule = _schedule(space, lr, chosen, [1 / count] * count)
            epochs = epochs_of_cost(always(schedule), steps_per_epoch, cost, target)
            found.append(Control(f"ramp-{axis}", f"linear ramp of {axis}", schedule, epochs))
    if not found:
        hint = "leave out ramp, or give another --controls-space"
        raise ConfigError("--controls", "ramp", "must have an axis that can save", hint=hint)
    return found


def random_schedules(
    space: SearchSpace,
    lr: LearningRate,
    steps_per_epoch: int,
    cost: Cost,
    target: float,
    count: int,
    seed: int,
) -> list[Control]:
    """Return `count` different random schedules of the space at equal cost; the seed decides which.

    One with a stage below one step is drawn anew.

    Raises:
        ConfigError: If too few of those drawn can be trained.
    """
    rng, found = random.Random(seed), list[Control]()
    for schedule in _drawn(space, lr, rng):
        if len(found) == count:
            return found
        try:
            epochs = epochs_of_cost(always(schedule), steps_per_epoch, cost, target)
        except ConfigError:
            continue
        if all(schedule != control.schedule for control in found):
            name = f"random-{len(found) + 1}"
            found.append(Control(name, "random schedule", schedule, epochs))
    law = f"must find {count} schedules, but only {len(found)} of {_TRIES} drawn differ and fit"
    raise ConfigError("--controls", "random", law, hint="train longer or ask for fewer")


def _drawn(space: SearchSpace, lr: LearningRate, rng: random.Random) -> Iterator[GrowthSchedule]:
    """Yield random schedules that grow once at least and train the full model at the end."""
    full, least = space.spec.full, space.decisions.min_full_fraction
    for _ in range(_TRIES + 1):
        before, chain = None, list[SubnetConfig]()
        for _ in range(rng.randint(1, max(1, space.decisions.num_stages - 1))):
            points = space.above(before or space.smallest)
            before = rng.choice([point for point in points if point != full] or [full])
            chain.append(before)
        chain = [point for point in dict.fromkeys(chain) if point != full]
        if not chain:
            continue
        full_fraction = rng.uniform(least, 0.6)
        parts = [rng.uniform(0.2, 1.0) for _ in chain]
        fractions = [(1 - full_fraction) * part / sum(parts) for part in parts]
        yield _schedule(space, lr, [*chain, full], [*fractions, full_fraction])


def _schedule(
    space: SearchSpace, lr: LearningRate, points: list[SubnetConfig], fractions: list[float]
) -> GrowthSchedule:
    stages = [
        Stage(
            length="rest" if index == len(points) - 1 else round(fraction, 6),
            depth=depth_value(point.depth),
            img_size=point.img_size,
            tokens=Tokens.of(point.tokens),
            grow=space.decisions.grow,
        )
        for index, (point, fraction) in enumerate(zip(points, fractions, strict=True))
    ]
    values = {"full": FullModel.of(space.spec), "length_unit": "fraction", "lr": lr}
    return parse(GrowthSchedule, {**values, "stages": tuple(stages)}, "--controls")


_FILE, _LOCK_FILE = "bench.json", "bench.lock"
_MAX_ENTRANTS = 100


class Entrant(FileModel):
    """One schedule of the field.

    Args:
        settings: A training along a preset.
        cost: Of a run, in any unit that is the same for all; says how much of the work is done.
    """

    name: Line
    settings: ArmSettings
    cost: SomeAmount

    @model_validator(mode="after")
    def _is_named_as_its_preset(self) -> Entrant:
        if self.settings.preset != self.name:
            law = f"must be {self.settings.preset!r}, the preset of its settings"
            raise ConfigError("", "name", law, self.name)
        return self

    @property
    def arm(self) -> Arm:
        """Return the name of its folders."""
        return self.name.replace(":", "-")


class FieldFile(FileModel):
    """``bench.json``, fixed before the first run but for the number of seeds.

    Args:
        model: Name of the full model.
        equal: What is the same for all schedules.
        request: Digest of what was asked for; the same asked again goes on with the same folder.
        first_seed: Seeds count up from here.
        seeds: Runs of each entrant.
        schedules: What is compared, the reference first.
        left_out: Presets that could not enter, and why.
    """

    schema_version: Literal[3] = Field(default=3, alias="schema")
    model: Line
    equal: Literal["epochs", "macs", "wall-clock"]
    request: Line
    first_seed: Seed
    seeds: Few
    schedules: tuple[Entrant, ...] = Field(min_length=1, max_length=_MAX_ENTRANTS)
    left_out: dict[Line, Line] = Field(default_factory=dict, max_length=_MAX_ENTRANTS)

    @model_validator(mode="after")
    def _each_enters_once(self) -> FieldFile:
        arms = [entrant.arm for entrant in self.schedules]
        for arm in arms:
            if arms.count(arm) > 1:
                raise ConfigError("", "schedules", "must have names that differ", arm)
        return self

    @property
    def seeds_in_order(self) -> range:
        """Return the seeds."""
        return range(self.first_seed, self.first_seed + self.seeds)


@dataclass(frozen=True)
class Progress:
    """How far a field is: what has just happened, and the fraction of all cost that is done."""

    report: ArmStarted | ArmEnded | Waiting
    done: int
    runs: int
    fraction: float


def read_field(folder: Path) -> FieldFile:
    """Read the file of a field.

    Raises:
        ConfigError: If the folder holds none, or one that is damaged, or one of our files is a link.
    """
    path = folder / _FILE
    if not path.is_file():
        raise ConfigError(str(folder), "", f"must be a folder with a {_FILE} in it")
    body = read_object(path)
    if body.get("schema", 1) == 1 and isinstance(body.get("entrants"), list):
        entrants = [
            with_settings(entrant, "words", "settings", str(path), f"entrants[{number}]")
            for number, entrant in enumerate(body["entrants"])
        ]
        body = {**body, "schema": 2, "entrants": entrants}
    found = parse(FieldFile, migration.bench(body), str(path))
    check_folder(folder, (_FILE, _LOCK_FILE))
    return found


def run_field(
    folder: Path, field: FieldFile, start: Start | None = None
) -> Generator[Progress, None, None]:
    """Write the plan, then make the runs that are missing, seed by seed; yield what happens.

    Raises:
        ConfigError: If one of our files in the folder is a link, or a result is not one.
        RunError: If a run fails, or a file cannot be written, or another process is at it.
    """
    entrants = {entrant.arm: entrant for entrant in field.schedules}
    arms = {arm: entrant.settings for arm, entrant in entrants.items()}
    all_cost = field.seeds * sum(entrant.cost for entrant in field.schedules)
    hint, done, cost = "the same command goes on with it", 0, 0.0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_folder(folder, (_FILE, _LOCK_FILE))
        with alone(folder, _LOCK_FILE) as lock:
            body = json.dumps(field.model_dump(mode="json", by_alias=True), indent=1)
            write_atomically(folder / _FILE, body + "\n")
            begin = start or starter(1, lock)
            for seed in field.seeds_in_order:
                one = Round(folder, seed, arms, {}, begin, hint)
                for report in one.carry_out(arms):
                    if isinstance(report, ArmEnded):
                        done, cost = done + 1, cost + entrants[report.arm].cost
                    runs = field.seeds * len(entrants)
                    yield Progress(report, done, runs, cost / all_cost)
    except OSError as error:
        raise RunError(f"{folder}: {error}") from error


def finished_runs(folder: Path, field: FieldFile) -> list[Finished]:
    """Return all runs of a complete field, those of the reference first."""
    return [
        read_finished(run)
        for entrant in field.schedules
        for seed in field.seeds_in_order
        for run in run_folders(folder / f"seed-{seed}-{entrant.arm}")
        if (run / "result.json").exists()
    ]
