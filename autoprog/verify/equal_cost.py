"""Schedules that cost as much as another one, by any measure of what steps cost; pure."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from autoprog.costs.model import CostModel, predict_seconds
from autoprog.errors import ConfigError
from autoprog.files import parse
from autoprog.schedule import GrowthSchedule
from autoprog.space import SearchSpace
from autoprog.stage import (
    FullModel,
    LearningRate,
    Stage,
    Tokens,
    depth_value,
    linspace,
    relative_step_cost,
)
from autoprog.steptable import StepTable
from supernet.config import ModelSpec, SubnetConfig

__all__ = [
    "Control",
    "Cost",
    "Make",
    "always",
    "epochs_of_cost",
    "images_cost",
    "macs_cost",
    "ramps",
    "random_schedules",
    "seconds_cost",
]

Cost = Callable[[StepTable], float]
"""What a schedule in steps costs, in any unit."""

Make = Callable[[float], GrowthSchedule]
"""Makes a schedule for a run of so many epochs."""

_TRIES = 200  # of schedules that are drawn
_ROUNDS = 8  # of correcting a length, of which two or three are usual
_LONG_STEPS = 5000  # enough for the stages of any schedule


@dataclass(frozen=True)
class Control:
    """A schedule, and the epochs at which it costs as much as the candidate that it controls."""

    name: str
    about: str
    schedule: GrowthSchedule
    epochs: float


def macs_cost(spec: ModelSpec) -> Cost:
    """Return the cost that counts multiply-accumulates, in plain steps of the full model."""

    def cost(table: StepTable) -> float:
        return sum(
            segment.steps * relative_step_cost(spec, segment.subnet, segment.training)
            for segment in table.segments
        )

    return cost


def images_cost(table: StepTable) -> float:
    """Return the images that a schedule sees, in batches of the recipe's size."""
    return table.image_epochs * table.steps_per_epoch


def seconds_cost(model: CostModel, batch_size: int) -> Cost:
    """Return the cost that predicts the seconds of the steps and their data."""
    return lambda table: predict_seconds(table, model, batch_size).total


def epochs_of_cost(make: Make, steps_per_epoch: int, cost: Cost, target: float) -> float:
    """Return the epochs, in whole steps, at which a schedule costs `target` or as near as steps allow.

    Raises:
        ConfigError: If a stage is shorter than a step then.
    """
    steps, nearest = _LONG_STEPS, (math.inf, 0)
    # Cost is all but proportional to length, but for whole steps and stages that begin at whole epochs.
    for _ in range(_ROUNDS):
        epochs = steps / steps_per_epoch
        found = cost(make(epochs).resolve(steps_per_epoch, epochs))
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
            # Evenly over the values that there are; a value that is chosen twice makes one longer stage.
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
    full, min_full = space.spec.full, space.decisions.min_full_fraction
    for _ in range(_TRIES):
        # A chain of subnets that grow, at least one of them below the full model, which ends it.
        before, chain = None, list[SubnetConfig]()
        for _ in range(rng.randint(1, max(1, space.decisions.num_stages - 1))):
            points = space.above(before or space.smallest)
            before = rng.choice([point for point in points if point != full] or [full])
            chain.append(before)
        chain = [point for point in dict.fromkeys(chain) if point != full]
        if not chain:
            continue
        # No more than 0.6 for the full model leaves room to save; no stage is below a fifth of another.
        full_fraction = rng.uniform(min_full, 0.6)
        parts = [rng.uniform(0.2, 1.0) for _ in chain]
        fractions = [(1 - full_fraction) * part / sum(parts) for part in parts]
        schedule = _schedule(space, lr, [*chain, full], [*fractions, full_fraction])
        try:
            epochs = epochs_of_cost(always(schedule), steps_per_epoch, cost, target)
        except ConfigError:
            continue
        if all(schedule != control.schedule for control in found):
            name = f"random-{len(found) + 1}"
            found.append(Control(name, "random schedule", schedule, epochs))
        if len(found) == count:
            return found
    problem = f"must find {count} schedules, but only {len(found)} of {_TRIES} drawn differ and fit"
    raise ConfigError("--controls", "random", problem, hint="train longer or ask for fewer")


def _schedule(
    space: SearchSpace, lr: LearningRate, points: list[SubnetConfig], fractions: list[float]
) -> GrowthSchedule:
    stages = [
        Stage(
            # The last stage takes what rounding leaves; a file shows six digits.
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
