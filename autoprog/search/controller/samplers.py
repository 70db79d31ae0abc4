"""Samplers: each draw is a function of the seed, the trial and what was told before it, of nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from typing import Any, TypeGuard

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import (
    BaseGASampler,
    BaseSampler,
    GPSampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from autoprog.errors import ConfigError, suggest
from autoprog.train.phase import step_seed

__all__ = [
    "ATTEMPT",
    "ERROR",
    "FINISHED",
    "LEASE",
    "LOST",
    "ORIGIN",
    "RELEASED",
    "RETRY_OF",
    "SAMPLERS",
    "Halving",
    "SteadySampler",
    "attempt_of",
    "create_sampler",
    "index_of",
    "num_points",
    "origin_of",
    "points_of",
    "retried_by",
    "rung_name",
    "should_stop",
]


# --------------------------------------------------------------------------------------------------
# What this package writes into the user attributes of a trial; each is one word for one thing.


FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
"""The states of trials that count: those that have told what they were asked for."""

LEASE = "lease"
"""Who works on the trial and until when nobody else may."""

LOST = "lost"
"""Why a failed trial has no result: its worker died, or gave it back. Such a trial is tried again."""

RELEASED = "given back"
"""Why a trial is lost whose worker was asked to stop; it did not die over the trial."""

RETRY_OF = "retry_of"
"""The number of the lost trial that this one repeats."""

ORIGIN = "origin"
"""The number of the first trial of such a chain."""

ATTEMPT = "attempt"
"""How many workers have died over the parameters of this trial before it."""

ERROR = "error"
"""The message of the error that the trial failed by; it is not tried again."""


def rung_name(rung: int) -> str:
    """Return the name of the attribute that holds the value at a rung."""
    return f"rung_{rung}"


def origin_of(trial: FrozenTrial | Trial) -> int:
    """Return the number of the trial that this one is, or repeats."""
    origin = trial.user_attrs.get(ORIGIN)
    return origin if _is_count(origin) and origin < trial.number else trial.number


def attempt_of(trial: FrozenTrial | Trial) -> int:
    """Return how many workers have died over the parameters of a trial."""
    attempt = trial.user_attrs.get(ATTEMPT)
    return attempt if _is_count(attempt) else 0


def retried_by(trial: FrozenTrial | Trial) -> int | None:
    """Return the number of the lost trial that this one repeats, if it does."""
    number = trial.user_attrs.get(RETRY_OF)
    return number if _is_count(number) and number < trial.number else None


def index_of(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> int:
    """Return which trial this would be had no worker ever died; `trials` are all of its study."""
    origin = origin_of(trial)
    return origin - sum(RETRY_OF in earlier.user_attrs for earlier in trials[:origin])


def _is_count(value: Any) -> TypeGuard[int]:
    """Tell whether an attribute, which may be of somebody else, is a count from 0."""
    return type(value) is int and value >= 0


Space = Mapping[str, BaseDistribution]

_MAX_POINTS = 100_000
_TPE_STARTUP_TRIALS = 10
_POPULATION = 50
"""Of NSGA-II; searches on the surrogate have hundreds to thousands of trials (Optuna's default)."""


def create_sampler(
    name: str,
    seed: int,
    space: Space,
    *,
    startup_trials: int | None = None,
    population: int = _POPULATION,
) -> BaseSampler:
    """Return a sampler for studies of one or more objectives, with or without constraints.

    ``tpe`` models all parameters together, also with several objectives; ``nsga2`` is for many cheap trials,
    ``gp`` for few dear ones, ``brute_force`` takes every point of a small grid once.

    Args:
        name: One of :data:`SAMPLERS`.
        seed: Any whole number.
        space: What every trial of the study is asked for.
        startup_trials: Random trials before ``tpe`` (10) or ``gp`` (twice the parameters) has a model.
        population: Trials in a generation of ``nsga2``.

    Raises:
        ConfigError: If the name is unknown, a package for it is missing, or the space has no grid.
    """
    axes = sum(not distribution.single() for distribution in space.values())
    if name == "brute_force":
        return _EveryPointSampler(space, seed)
    if name == "gp" and find_spec("scipy") is None:
        raise ConfigError("--sampler", "", "must be tpe where scipy is missing", name)
    tpe_startup = _TPE_STARTUP_TRIALS if startup_trials is None else startup_trials
    gp_startup = max(2, 2 * axes) if startup_trials is None else startup_trials
    creators: dict[str, Callable[[int], BaseSampler]] = {
        "tpe": lambda s: TPESampler(seed=s, multivariate=True, n_startup_trials=tpe_startup),
        "nsga2": lambda s: NSGAIISampler(seed=s, population_size=population),
        "random": lambda s: RandomSampler(seed=s),
        "gp": lambda s: GPSampler(
            seed=s, n_startup_trials=gp_startup, warn_independent_sampling=False
        ),
    }
    if name not in creators:
        problem = f"unknown sampler {name!r}"
        raise ConfigError("--sampler", "", problem, hint=suggest(name, SAMPLERS))
    return SteadySampler(creators[name], seed, space)


SAMPLERS = ("tpe", "nsga2", "random", "gp", "brute_force")


class SteadySampler(BaseSampler):
    """A sampler that forgets: it is made anew, with a seed of its own, for each draw.

    So a search that was killed and goes on draws what it would have drawn, and trials of different workers
    never draw alike without each worker having a seed of its own: the first trials of a search
    are the same whatever the number of workers. A repeated trial draws as the first of its chain.
    """

    def __init__(self, create: Callable[[int], BaseSampler], seed: int, space: Space) -> None:
        self._create, self._seed = create, seed
        self._space = {key: space[key] for key in sorted(space) if not space[key].single()}
        self._index = (-1, -1)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Give the trial its place in a genetic search, also where all its parameters are given."""
        self._index = (-1, -1)  # the number may be of another study
        sampler = self._create(0)
        if isinstance(sampler, BaseGASampler):
            generation = sampler.get_trial_generation(study, trial)
            # The first look at the parents of a generation has them in another order than all later
            # ones.
            sampler.get_parent_population(study, generation)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return what is drawn together: all, known from the start and not found out from trials."""
        return self._space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw the parameters together, once there are trials enough for that."""
        return self._fresh(study, trial, "").sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw one parameter, from a stream of its own: a repeated trial may have some of them already."""
        sampler = self._fresh(study, trial, param_name)
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def _fresh(self, study: Study, trial: FrozenTrial, name: str) -> BaseSampler:
        if self._index[0] != trial.number:
            index = index_of(trial, study.get_trials(deepcopy=False))
            self._index = trial.number, index
        return self._create(_numpy_seed(self._seed, f"sampler/{name}", self._index[1]))


class _EveryPointSampler(BaseSampler):
    """Takes each point of a grid once, in a drawn order; points that other trials have taken are left out.

    Optuna's own one breaks for good on a trial that was killed between two of its parameters, and
    takes points twice when its seed is given and there are several workers.
    """

    def __init__(self, space: Space, seed: int) -> None:
        self._space = {key: space[key] for key in sorted(space) if not space[key].single()}
        order = enumerate(points_of(self._space))
        keyed = [(step_seed(seed, "point", index), point) for index, point in order]
        self._points = [point for _, point in sorted(keyed, key=lambda pair: pair[0])]
        self._others = SteadySampler(lambda s: RandomSampler(seed=s), seed, space)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return what is drawn together: all."""
        return self._space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the next point, or nothing where all are taken."""
        others = study.get_trials(deepcopy=False)
        taken = {self._key(other.params) for other in others if other.number != trial.number}
        return next((p for p in self._points if self._key(p) not in taken), {})

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw at random, once every point is taken."""
        return self._others.sample_independent(study, trial, param_name, param_distribution)

    def _key(self, params: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(params.get(name) for name in self._space)


def num_points(space: Space) -> int:
    """Count the points of a space.

    Raises:
        ConfigError: If a parameter takes any number.
    """
    return math.prod(len(_values(name, axis)) for name, axis in space.items())


def points_of(space: Space) -> list[dict[str, Any]]:
    """Return every point of a space that has few.

    Raises:
        ConfigError: If there are more than 100 000, or a parameter takes any number.
    """
    if (count := num_points(space)) > _MAX_POINTS:
        problem = f"must not be brute_force for more than {_MAX_POINTS} points"
        raise ConfigError("--sampler", "", problem, count, "take tpe or nsga2")
    values = [_values(name, axis) for name, axis in space.items()]
    return [dict(zip(space, point, strict=True)) for point in product(*values)]


def _values(name: str, axis: BaseDistribution) -> list[Any]:
    if isinstance(axis, CategoricalDistribution):
        return list(axis.choices)
    if isinstance(axis, IntDistribution):
        return list(range(axis.low, axis.high + 1, axis.step))
    assert isinstance(axis, FloatDistribution), f"what is a {axis}?"
    if axis.step is None:
        problem = f"must not be brute_force where {name} takes any number"
        raise ConfigError("--sampler", "", problem, hint="give it a step, or take tpe")
    return [axis.low + k * axis.step for k in range(round((axis.high - axis.low) / axis.step) + 1)]


def _numpy_seed(seed: int, purpose: str, index: int) -> int:
    return step_seed(seed, purpose, index) & 0xFFFFFFFF  # numpy takes no more


# --------------------------------------------------------------------------------------------------
# Asynchronous successive halving: poor trials end early, with one or several objectives.


@dataclass(frozen=True)
class Halving:
    """Where trials are compared: at ``first_step · reduction^k``, the rungs.

    Of those that have come to a rung, one in ``reduction`` goes on (ASHA, arXiv 1810.05934, in the variant
    that stops trials and never pauses them). Optuna's own pruners refuse several objectives.
    """

    first_step: int
    reduction: int = 3

    def __post_init__(self) -> None:
        if self.first_step < 1:
            raise ValueError(f"first_step must be >= 1, but got {self.first_step}")
        if self.reduction < 2:
            raise ValueError(f"reduction must be >= 2, but got {self.reduction}")

    def rung_of(self, step: int) -> int | None:
        """Return the highest rung that is not above `step`."""
        if step < self.first_step:
            return None
        rung = 0
        while self.first_step * self.reduction ** (rung + 1) <= step:
            rung += 1
        return rung


def should_stop(value: float, others: Sequence[float], reduction: int) -> bool:
    """Tell whether a trial ends at a rung: whether it is outside the best one in `reduction`.

    As long as fewer than `reduction` trials have come there, none is stopped. Ties go on.

    Args:
        value: Of the trial at this rung; lower is better.
        others: Of all other trials that have come to this rung so far.
        reduction: Of so many trials one goes on.
    """
    if math.isnan(value):
        return True
    count = len(others) + 1
    better = sum(other < value for other in others)
    return count >= reduction and better >= count // reduction
