"""How far a run is: by its steps, by their known costs, or by how much of a time budget it has used.

A position is counted in steps of the run as configured (nominal steps). Stages and learning rate go by
positions, so a schedule means the same under a budget, only that its steps are as many as fill the time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Protocol

from autoprog.errors import RunError
from supernet.config import SubnetConfig

__all__ = ["BudgetPace", "CostPace", "Pace", "StepPace"]


_SETTLING_UPDATES = 6
"""The first steps fill caches and compile graphs: what they take foretells nothing."""


class Pace(Protocol):
    """Where step n of a run stands."""

    budget_seconds: float | None
    """The time budget; None for a run without one."""

    counts_steps: bool
    """Whether a position is a number of steps, so that these are known beforehand."""

    @property
    def is_settling(self) -> bool:
        """Return whether a step's seconds are not known well enough yet to foresee 20 of them."""

    def position(self, step: int) -> float:
        """Return the position before step `step`, counted from 0; it never falls."""

    def lr_position(self, step: int) -> float:
        """Return where the learning rate stands before `step`, from 0 to the nominal steps."""

    def projected_step(self, step: int, position: float) -> int:
        """Return the step at which `position` will be reached, as seen from `step`."""

    def update(self, step: int, used_seconds: float, step_seconds: float) -> None:
        """Note the time used before `step` and the seconds of the steps just made."""

    def reserve(self, seconds: float, is_start: bool = False) -> None:
        """Keep time for what comes after the last step."""


class StepPace:
    """A run that is as long as its steps.

    Args:
        clock: The clock of the learning rate, as :meth:`autoprog.steptable.StepTable.clock`.
    """

    budget_seconds: float | None = None
    counts_steps = True

    def __init__(self, clock: Callable[[int], float] = float) -> None:
        self._clock = clock

    @property
    def is_settling(self) -> bool:
        """Return False: nothing is foreseen."""
        return False

    def position(self, step: int) -> float:
        """Return the step itself."""
        return step

    def lr_position(self, step: int) -> float:
        """Return what the clock says."""
        return self._clock(step)

    def projected_step(self, step: int, position: float) -> int:
        """Return the position itself."""
        return int(position)

    def update(self, step: int, used_seconds: float, step_seconds: float) -> None:
        """Do nothing."""

    def reserve(self, seconds: float, is_start: bool = False) -> None:
        """Do nothing."""


class CostPace:
    """A run that is as long as what its steps are known to take, relative to a step of the full model.

    Costs are a recorded input and steps are counted, so a position does not depend on the clock: a resume
    finds the same one. It is counted in full steps that would take as long.

    Args:
        steps: Of each subnet so far; the trainer goes on counting.
        costs: Of a step of each subnet, relative to the full model.
        subnet: Returns the subnet that the phase entered last trains.
        total_steps: The position at the end.
    """

    budget_seconds: float | None = None
    counts_steps = False
    is_settling = False

    def __init__(
        self,
        steps: Mapping[SubnetConfig, int],
        costs: Mapping[SubnetConfig, float],
        subnet: Callable[[], SubnetConfig],
        total_steps: int,
    ) -> None:
        self._steps, self._costs, self._subnet = steps, costs, subnet
        self._total_steps = total_steps

    def position(self, step: int) -> float:
        """Return what the steps made so far took; exact whatever their order."""
        return math.fsum(count * self._costs[subnet] for subnet, count in self._steps.items())

    def lr_position(self, step: int) -> float:
        """Return the position: the learning rate goes by time."""
        return min(self.position(step), float(self._total_steps))

    def projected_step(self, step: int, position: float) -> int:
        """Return when `position` comes by steps of the phase that is entered."""
        left = max(0.0, position - self.position(step))
        return step + math.ceil(left / self._costs[self._subnet()])

    def update(self, step: int, used_seconds: float, step_seconds: float) -> None:
        """Do nothing: the clock has no say."""

    def reserve(self, seconds: float, is_start: bool = False) -> None:
        """Do nothing: what comes after the last step is not counted."""


class BudgetPace:
    """A run that is as long as its time budget.

    Between two updates, steps count what those before the last one took. So the position is a pure function
    of what rank 0 has seen of the clock, which it shares with the other ranks.

    Args:
        budget_seconds: For everything from the first step to the last evaluation.
        total_steps: Nominal steps; the position at the end.
    """

    counts_steps = False

    def __init__(self, budget_seconds: float, total_steps: int) -> None:
        self.budget_seconds: float | None = budget_seconds
        self._budget, self._total_steps = budget_seconds, total_steps
        self._reserved_seconds = 0.0
        self._step, self._used_seconds, self._step_seconds = 0, 0.0, 0.0
        self._floor, self._updates = 0.0, 0

    @property
    def is_settling(self) -> bool:
        """Return whether the last steps may have been slow ones, as the first steps are."""
        return self._updates < _SETTLING_UPDATES

    def position(self, step: int) -> float:
        """Return the fraction of the budget used before `step`, times the nominal steps."""
        foreseen = 0 if self.is_settling else step - self._step
        used = self._used_seconds + foreseen * self._step_seconds
        fraction = used / (self._budget - self._reserved_seconds)
        return max(self._floor, min(1.0, fraction) * self._total_steps)

    def lr_position(self, step: int) -> float:
        """Return the position: under a budget the learning rate goes by the time used."""
        return self.position(step)

    def projected_step(self, step: int, position: float) -> int:
        """Return when `position` comes if steps take as long as the last ones; `step` if it has."""
        left = max(0.0, position - self.position(step)) / self._total_steps
        seconds = left * (self._budget - self._reserved_seconds)
        return step + round(seconds / self._step_seconds) if self._step_seconds else step

    def update(self, step: int, used_seconds: float, step_seconds: float) -> None:
        """Note the time used before `step` and the seconds of the steps just made; 0 if unknown."""
        # A phase that is over stays over: a position never falls, however slow the last steps were.
        self._floor = self.position(step)
        self._updates += 1
        self._step, self._used_seconds = step, used_seconds
        self._step_seconds = step_seconds or self._step_seconds

    def reserve(self, seconds: float, is_start: bool = False) -> None:
        """Keep time for the last evaluation and its checkpoint, at most half of the budget.

        Raises:
            RunError: At the start, if that is not enough.
        """
        if is_start and seconds > self._budget / 2:
            raise RunError(
                f"--time-budget: {self._budget:.0f} s are too short, evaluating and saving the final"
                f" network alone takes {seconds:.0f} s; give at least {4 * seconds:.0f} s"
            )
        # With more time kept for the end, less is left: the same seconds used are a larger fraction.
        self._floor = self.position(self._step)
        self._reserved_seconds = min(seconds, self._budget / 2)
