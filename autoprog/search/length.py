"""How long a search is: as many epochs as the recipe says, or a share of the time that these would take."""

from __future__ import annotations

from collections.abc import Mapping

from autoprog.recipe import Recipe
from autoprog.search.plan import SearchPlan, make_plan
from autoprog.search.profile import Costs
from autoprog.settings import SearchSettings
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
        ConfigError: If the plan does not fit the length.
    """
    share = 1.0 if search.time_share is None else search.time_share
    length = run_length(num_images, recipe.batch_size, recipe.epochs * share)
    by_time = search.time_share is not None
    plan = make_plan(search.rule, search.space, length.steps_per_epoch, length.total_steps, by_time)
    return length, plan


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
