"""How long a search is: as many epochs as the recipe says, or a share of the time that these would take."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from autoprog.errors import ConfigError
from autoprog.recipe import Recipe
from autoprog.search.plan import SearchPlan, make_plan
from autoprog.search.profile import Costs
from autoprog.settings import SearchSettings
from autoprog.space import is_shipped
from autoprog.stage import LearningRate
from autoprog.train.engine import RunLength, run_length
from autoprog.train.pace import CostPace
from autoprog.train.trainer import Trainer
from supernet.config import SubnetConfig

__all__ = ["cost_pace", "learning_rate_of", "length_and_plan", "step_costs"]


def length_and_plan(
    search: SearchSettings, recipe: Recipe, num_images: int
) -> tuple[RunLength, SearchPlan]:
    """Return the length of a search and when it decides; a share of time counts in steps of the full model.

    Raises:
        ConfigError: If the plan does not fit the length, with what would make it fit.
    """
    try:
        return _length_and_plan(search, recipe, num_images)
    except ConfigError as error:
        raise _refusal(search, recipe, num_images, error) from None


def _length_and_plan(
    search: SearchSettings, recipe: Recipe, num_images: int
) -> tuple[RunLength, SearchPlan]:
    length = _length(search, recipe, num_images)
    by_time = search.time_share is not None
    plan = make_plan(search.rule, search.space, length.steps_per_epoch, length.total_steps, by_time)
    return length, plan


def _length(search: SearchSettings, recipe: Recipe, num_images: int) -> RunLength:
    share = 1.0 if search.time_share is None else search.time_share
    return run_length(num_images, recipe.batch_size, recipe.epochs * share)


_MOST_EPOCHS = 2**16
_PLAN_FLAGS = {
    "decisions.min_full_share": "--min-full-share",
    "decisions.supernet_epochs": "--supernet-epochs",
}


def _refusal(
    search: SearchSettings, recipe: Recipe, num_images: int, error: ConfigError
) -> ConfigError:
    """Return why there is no plan: too few steps, where more would do, else the value that leaves no room."""

    def fits(**changes: float) -> bool:
        try:
            _length_and_plan(search, recipe.model_copy(update=changes), num_images)
        except ConfigError:
            return False
        return True

    epochs, batch_size = _enough_epochs(recipe.epochs, fits), _small_batch(recipe.batch_size, fits)
    cures = [] if epochs is None else [f"--epochs {math.ceil(epochs / search.proxy)}"]
    cures += [] if batch_size is None else [f"--batch-size {batch_size}"]
    lower = _lower(search, recipe, num_images, error.key)
    cures += [] if lower is None else [lower]
    if not cures:
        if not is_shipped(search.space_from):
            return ConfigError(search.space_from, error.key, error.law, error.value, error.cure)
        return ConfigError(_PLAN_FLAGS[error.key], "", error.law, error.value, error.cure)
    steps = _length(search, recipe, num_images).total_steps
    full = "" if search.time_share is None else " of the full model"
    return ConfigError(
        "search",
        "",
        f"{steps} steps{full} are too few to search",
        cure=f"take {' or '.join(cures)}",
    )


def _lower(search: SearchSettings, recipe: Recipe, num_images: int, key: str) -> str | None:
    """Return the flag with a half, a quarter … of the value that leaves no room; None if none does."""
    name = key.removeprefix("decisions.")
    decisions = search.space.decisions
    for halvings in range(1, 5):
        value = float(f"{getattr(decisions, name) / 2**halvings:.2g}")
        lower = decisions.model_copy(update={name: value})
        space = search.space.model_copy(update={"decisions": lower})
        try:
            _length_and_plan(search.model_copy(update={"space": space}), recipe, num_images)
        except ConfigError:
            continue
        return f"{_PLAN_FLAGS[key]} {value:g}"
    return None


def _enough_epochs(epochs: float, fits: Callable[..., bool]) -> int | None:
    """Return the least whole number of epochs that is long enough; None if none of a sensible size is."""
    low, high = math.floor(epochs), max(1, math.floor(epochs)) * 2
    while not fits(epochs=high):
        low, high = high, 2 * high
        if high > _MOST_EPOCHS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(epochs=middle) else (middle, high)
    return high


def _small_batch(batch_size: int, fits: Callable[..., bool]) -> int | None:
    """Return the largest half, quarter … of a batch that is small enough; even, as mixing images needs."""
    halves = batch_size // 2
    while halves >= 2:
        if halves % 2 == 0 and fits(batch_size=halves):
            return halves
        halves //= 2
    return None


def step_costs(search: SearchSettings, costs: Costs) -> dict[SubnetConfig, float]:
    """Return what a step of each subnet counts for: 1, or its seconds relative to the full model's.

    None counts for more than a full step, whatever was measured.
    """
    space = search.space
    subnets = space.above(space.smallest)
    if search.time_share is None:
        return dict.fromkeys(subnets, 1.0)
    seconds = costs.all_seconds(space.spec, subnets)
    full = seconds[str(space.spec.full)]
    return {subnet: min(1.0, seconds[str(subnet)] / full) for subnet in subnets}


def cost_pace(trainer: Trainer, costs: Mapping[SubnetConfig, float]) -> CostPace:
    """Return the pace of a run whose length is what its steps take."""
    stepper = trainer.stepper

    def subnet() -> SubnetConfig:
        assert stepper.subnet is not None, "a phase has been entered"
        return stepper.subnet

    return CostPace(trainer.steps_by_subnet, costs, subnet, trainer.total_steps)


def learning_rate_of(recipe: Recipe, search: SearchSettings) -> LearningRate:
    """Return the learning rate of the schedule that is found."""
    lr = recipe.learning_rate
    return lr if search.time_share is None else lr.model_copy(update={"clock": "compute"})
