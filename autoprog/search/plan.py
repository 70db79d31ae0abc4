"""How long a search is, when it decides and between what: arithmetic over a space and the length of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar

from autoprog.errors import ConfigError
from autoprog.fidelity_report import FidelitySettings
from autoprog.recipe import Recipe
from autoprog.settings import Rule, SearchSettings
from autoprog.space import Decisions, SearchSpace, is_shipped
from autoprog.train.length import RunLength, run_length
from supernet.config import SubnetConfig
from supernet.cost import relative_cost

Value = TypeVar("Value")

__all__ = [
    "DecisionPoint",
    "SearchPlan",
    "check_fidelity",
    "length_and_plan",
    "make_plan",
    "point_candidates",
]

_MAX_EPOCHS = 2**16
_PLAN_FLAGS = {
    "decisions.min_full_fraction": "--min-full-fraction",
    "decisions.supernet_epochs": "--supernet-epochs",
}

_ZERO_STEP_DIVISOR = 8  # a zero-step probe lies at an eighth of the time before the full model
_ONCE_DIVISOR = 3  # one decision for the whole run takes a third of what supernets may take


@dataclass(frozen=True)
class DecisionPoint:
    """A decision: the supernet trains from ``start_step`` to ``stop_step``, where the decision is taken.

    ``estimate_steps`` are the steps at which candidates are estimated, the last of them ``stop_step``.
    Without a step in between the decision is a zero-step probe: candidates are estimated as they are grown.
    """

    index: int
    start_step: int
    stop_step: int
    estimate_steps: tuple[int, ...]

    @property
    def is_zero_step_probe(self) -> bool:
        """Tell whether no supernet is trained."""
        return self.start_step == self.stop_step


@dataclass(frozen=True)
class SearchPlan:
    """All decision points, and the step from which only the full model trains.

    ``stage_starts`` are where the ``num_stages`` equal stages begin, with which regularisation rises.
    """

    points: tuple[DecisionPoint, ...]
    full_step: int
    total_steps: int
    stage_starts: tuple[int, ...]

    @property
    def supernet_steps(self) -> int:
        """Return the length of a supernet phase."""
        first = self.supernet_points[0]
        return first.stop_step - first.start_step

    @property
    def supernet_points(self) -> tuple[DecisionPoint, ...]:
        """Return the decisions that a supernet is trained for."""
        return tuple(point for point in self.points if not point.is_zero_step_probe)

    def stage_at(self, step: int) -> int:
        """Return which of the equal stages `step` lies in."""
        return sum(start <= step for start in self.stage_starts) - 1


def length_and_plan(
    search: SearchSettings, recipe: Recipe, num_images: int
) -> tuple[RunLength, SearchPlan]:
    """Return the length of a search and when it decides.

    The length is that of the recipe, or a fraction of the time that these steps of the full model would
    take; it is counted in such steps then.

    Raises:
        ConfigError: If the plan does not fit the length, with what would make it fit.
    """
    try:
        return _length_and_plan(search, recipe, num_images)
    except ConfigError as error:
        if error.key not in _PLAN_FLAGS:  # more steps than a run may have
            raise
        raise _refusal(search, recipe, num_images, error) from None


def _length_and_plan(
    search: SearchSettings, recipe: Recipe, num_images: int
) -> tuple[RunLength, SearchPlan]:
    by_time = search.cost_fraction is not None
    fraction = 1.0 if search.cost_fraction is None else search.cost_fraction
    length = run_length(num_images, recipe.batch_size, recipe.epochs * fraction)
    plan = make_plan(search.rule, search.space, length.steps_per_epoch, length.total_steps, by_time)
    return length, plan


def make_plan(
    rule: Rule, space: SearchSpace, steps_per_epoch: int, total_steps: int, by_time: bool = False
) -> SearchPlan:
    """Return when to decide.

    ``autoprog`` decides at the start of every stage but the last, which is full (CVPR 2022). ``rollout``
    decides at ``num_points`` points, evenly spread up to ``min_full_fraction`` before the end, from where on
    the model is full; at fewer points in runs so short that a supernet phase would train each of its
    subnets for less than ``good_visits`` steps. ``pareto`` and ``budget`` decide at the first of them, for
    good. Up to there the smallest subnet trains, since losses near the start of warm-up say nothing.

    With ``by_time`` steps are those of the full model that take as long as what is trained; before any is
    measured, a subnet counts by its multiply-accumulates.

    Raises:
        ConfigError: If the supernet phases do not fit between the decisions, or none is left.
    """
    decisions = space.decisions

    def whole_epoch(step: float) -> int:
        """Round down to a whole epoch, or to a step where the run is shorter than 8 epochs."""
        unit = steps_per_epoch if total_steps >= 8 * steps_per_epoch else 1
        return math.floor(step / unit + 1e-9) * unit  # quotients that rounding puts below a whole

    count = decisions.num_stages
    stages = tuple(whole_epoch(k * total_steps / count) for k in range(count))
    full_step = whole_epoch(total_steps * (1 - decisions.min_full_fraction))
    if rule == "autoprog":
        full_step = min(stages[-1], full_step)
        points = _published_points(decisions, stages, full_step, steps_per_epoch)
    else:
        points = _even_points(rule, space, full_step, total_steps, by_time)
    if by_time and rule != "autoprog":
        # Much of the time goes to the smallest subnet before a supernet can be afforded. So the candidates
        # are estimated before, without training them: does anything of the smallest carry over?
        step = min(full_step // _ZERO_STEP_DIVISOR, points[0].start_step - 1)
        if step >= 1:
            later = [replace(point, index=point.index + 1) for point in points]
            points = [DecisionPoint(0, step, step, estimate_steps=(step,)), *later]
    return SearchPlan(tuple(points), full_step, total_steps, stages)


def check_fidelity(settings: FidelitySettings | None, plan: SearchPlan) -> None:
    """Refuse to check the estimates of a decision that the search does not take.

    Raises:
        ConfigError: If there is no such decision.
    """
    if settings is not None and settings.at >= len(plan.supernet_points):
        count = len(plan.supernet_points)
        problem = f"must be below {count}, the number of decisions with a supernet, from 0 on"
        raise ConfigError("--fidelity-at", "", problem, settings.at)


def _published_points(
    decisions: Decisions, stages: Sequence[int], full_step: int, steps_per_epoch: int
) -> list[DecisionPoint]:
    """Return a decision at the start of each stage but the last, as far as there is time for it."""
    supernet_steps = max(1, round(decisions.supernet_epochs * steps_per_epoch))
    points: list[DecisionPoint] = []
    for index, (start, next_start) in enumerate(pairwise(stages)):
        stop = start + supernet_steps
        if stop > next_start:
            apart = (next_start - start) / steps_per_epoch
            raise ConfigError(
                "--space",
                "decisions.supernet_epochs",
                f"must fit between two decisions, which are {apart:.3g} epochs apart",
                decisions.supernet_epochs,
                "train longer, lower it, or decide less often (num_stages)",
            )
        if stop > full_step:
            break
        # AutoProg estimates from quarter to quarter of the last epoch of the supernet (CVPR 2022).
        begin = max(start, stop - steps_per_epoch)
        steps = sorted({begin + round(q * (stop - begin) / 4) for q in range(5)})
        points.append(DecisionPoint(index, start, stop, tuple(steps)))
    if not points:
        raise _no_room(decisions, supernet_steps)
    return points


def _even_points(
    rule: Rule, space: SearchSpace, full_step: int, total_steps: int, by_time: bool
) -> list[DecisionPoint]:
    """Return evenly spread decisions whose supernet phases train each subnet a few times.

    A phase ends before the next begins, whatever its fraction of the steps.
    """
    decisions, subnets = space.decisions, space.above(space.smallest)
    # The length of a supernet phase that gives each subnet one step.
    visit = sum(relative_cost(space.spec, subnet) if by_time else 1.0 for subnet in subnets)
    in_supernets = decisions.supernet_fraction * total_steps
    least, good = (math.ceil(v * visit) for v in (decisions.min_visits, decisions.good_visits))
    good = max(good, least)
    most = min(int(in_supernets / good), full_step // good - 1)
    count = max(1, min(decisions.num_points, most))
    apart = full_step // (count + 1)
    if rule == "rollout":
        supernet_steps = max(least, min(round(in_supernets / count), apart))
    else:
        supernet_steps = max(least, min(round(in_supernets / _ONCE_DIVISOR), full_step - apart))
    if apart + supernet_steps > full_step:
        raise _no_room(decisions, supernet_steps)
    starts = [number * full_step // (count + 1) for number in range(1, count + 1)]
    if rule != "rollout":
        starts = starts[:1]
    return [
        DecisionPoint(index, start, start + supernet_steps, (start + supernet_steps,))
        for index, start in enumerate(starts)
    ]


def _no_room(decisions: Decisions, supernet_steps: int) -> ConfigError:
    """Return the error of a fraction of the full model that leaves no time for the first decision."""
    problem = f"must leave {supernet_steps} steps for a supernet phase before the full model"
    hint = "lower it, train longer, or make the space smaller"
    return ConfigError(
        "--space", "decisions.min_full_fraction", problem, decisions.min_full_fraction, hint
    )


def _refusal(
    search: SearchSettings, recipe: Recipe, num_images: int, error: ConfigError
) -> ConfigError:
    """Return why there is no plan: too few steps, where more would do, else the value that leaves no room."""

    def fits(search: SearchSettings = search, **changes: float) -> bool:
        try:
            _length_and_plan(search, recipe.model_copy(update=changes), num_images)
        except ConfigError:
            return False
        return True

    hints = []
    # The least whole number of epochs that is long enough, if one of a sensible size is.
    low, high = math.floor(recipe.epochs), max(1, math.floor(recipe.epochs)) * 2
    while high <= _MAX_EPOCHS and not fits(epochs=high):
        low, high = high, 2 * high
    if high <= _MAX_EPOCHS:
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if fits(epochs=middle) else (middle, high)
        hints.append(f"--epochs {math.ceil(high / search.proxy)}")
    # The largest half, quarter … of the batch that is small enough; even, as mixing images needs.
    batch_size = recipe.batch_size // 2
    while batch_size >= 2 and (batch_size % 2 or not fits(batch_size=batch_size)):
        batch_size //= 2
    if batch_size >= 2:
        hints.append(f"--batch-size {batch_size}")
    decisions, name = search.space.decisions, error.key.removeprefix("decisions.")
    for halvings in range(1, 5):  # the value that leaves no room: a half, a quarter … of it
        value = float(f"{getattr(decisions, name) / 2**halvings:.2g}")
        lower = decisions.model_copy(update={name: value})
        space = search.space.model_copy(update={"decisions": lower})
        if fits(search.model_copy(update={"space": space})):
            hints.append(f"{_PLAN_FLAGS[error.key]} {value:g}")
            break
    if not hints:
        if not is_shipped(search.space_from):
            return ConfigError(search.space_from, error.key, error.problem, error.value, error.hint)
        return ConfigError(_PLAN_FLAGS[error.key], "", error.problem, error.value, error.hint)
    fraction = 1.0 if search.cost_fraction is None else search.cost_fraction
    length = run_length(num_images, recipe.batch_size, recipe.epochs * fraction)
    full = "" if search.cost_fraction is None else " of the full model"
    return ConfigError(
        "search",
        "",
        f"{length.total_steps} steps{full} are too few to search",
        hint=f"take {' or '.join(hints)}",
    )


def point_candidates(
    rule: Rule, space: SearchSpace, current: SubnetConfig, first: bool
) -> tuple[SubnetConfig, ...]:
    """Return the subnets that a decision chooses between, smallest first.

    ``autoprog``: at the first decision the first, middle and last value of each axis; later this size or the
    next, and up to three depths *above* the current one, so that depth grows until it is full (as released).
    Other rules: everything from staying to the full model.
    """
    if rule != "autoprog":
        return space.above(current)
    if first:
        depths, sizes = _first_middle_last(space.depths), _first_middle_last(space.sizes)
    else:
        deeper = [
            depth
            for depth in space.depths
            if depth != current.depth
            and all(a >= b for a, b in zip(depth, current.depth, strict=True))
        ]
        depths = deeper[:3] or [current.depth]
        sizes = [size for size in space.sizes if size >= current.img_size][:2]
    grid = {SubnetConfig(depth, size) for depth in depths for size in sizes}
    return tuple(sorted(grid, key=lambda point: (point.total_depth, point.img_size)))


def _first_middle_last(values: Sequence[Value]) -> list[Value]:
    return list(dict.fromkeys([values[0], values[len(values) // 2], values[-1]]))
