"""The length of a run in steps; an epoch is as many whole batches as come nearest to one pass.

Nothing here needs torch, so that plans, checks and views of a schedule come without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoprog.bounds import MAX_STEPS
from autoprog.errors import ConfigError

if TYPE_CHECKING:
    from autoprog.recipe import Recipe
    from autoprog.schedule import GrowthSchedule
    from autoprog.steptable import StepTable

__all__ = ["RunLength", "nominal_epochs", "run_length", "step_table", "steps_per_epoch_of"]


@dataclass(frozen=True)
class RunLength:
    """How long a run is."""

    steps_per_epoch: int
    total_steps: int


_MAX_LEFT_OUT = 0.05


def steps_per_epoch_of(num_images: int, batch_size: int) -> int:
    """Return the steps of an epoch: as many whole batches as the training images fill, at least one.

    Where that leaves out more than 5 % of them it is the nearest number instead, so that epochs are passes
    over the images in small data sets as well.
    """
    exact = num_images / batch_size
    whole = max(1, int(exact))
    return whole if exact - whole <= _MAX_LEFT_OUT * exact else max(1, round(exact))


def run_length(num_images: int, batch_size: int, epochs: float) -> RunLength:
    """Return the length of a run; it has at least two steps.

    Raises:
        ConfigError: If it has more steps than a run may have.
    """
    steps_per_epoch = steps_per_epoch_of(num_images, batch_size)
    # Products such as 0.29 * 100 fall short of a whole number by a rounding error.
    return RunLength(steps_per_epoch, _few_enough(int(epochs * steps_per_epoch + 1e-6)))


def _few_enough(steps: int) -> int:
    if steps > MAX_STEPS:
        problem, hint = f"must make at most {MAX_STEPS:,} steps", "train for fewer epochs"
        raise ConfigError("--epochs", "", problem, steps, hint)
    return max(2, steps)


def step_table(recipe: Recipe, schedule: GrowthSchedule, num_images: int) -> StepTable:
    """Return a schedule in steps of a run over `num_images`; it has at least two steps.

    Raises:
        ConfigError: If a stage is shorter than a step, or there are more steps than a run may have.
    """
    steps_per_epoch = steps_per_epoch_of(num_images, recipe.batch_size)
    table = schedule.resolve(steps_per_epoch, nominal_epochs(recipe, num_images))
    _few_enough(table.total_steps)  # small batches make more steps of as many epochs
    return table


def nominal_epochs(recipe: Recipe, num_images: int) -> float:
    """Return the epochs that a schedule is resolved for: as many whole steps as the recipe's fill."""
    length = run_length(num_images, recipe.batch_size, recipe.epochs)
    return length.total_steps / length.steps_per_epoch
