"""Samplers: each draw is a function of the seed, the trial and the results before it, of nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import (
    BaseGASampler,
    BaseSampler,
    GPSampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)
from optuna.study import Study
from optuna.trial import FrozenTrial

from autoprog.errors import ConfigError, suggest
from autoprog.search.controller.study import RETRY_OF, origin_of
from autoprog.train.phase import step_seed

__all__ = ["SteadySampler", "create_sampler"]

Space = Mapping[str, BaseDistribution]

_TPE_STARTUP_TRIALS = 10
_POPULATION = 50  # Optuna's default; searches on the surrogate have hundreds to thousands of trials


def create_sampler(
    name: str,
    seed: int,
    space: Space,
    *,
    startup_trials: int | None = None,
    population: int = _POPULATION,
) -> BaseSampler:
    """Return a sampler for studies of one or more objectives.

    ``tpe`` models all parameters together, also with several objectives; ``nsga2`` is for many cheap trials,
    ``gp`` for few dear ones, ``random`` for a comparison.

    Args:
        name: One of these four.
        seed: Any whole number.
        space: What every trial of the study is asked for.
        startup_trials: Random trials before ``tpe`` (10) or ``gp`` (twice the parameters) has a model.
        population: Trials in a generation of ``nsga2``.

    Raises:
        ConfigError: If the name is unknown, or scipy is missing for ``gp``.
    """
    if name == "gp" and find_spec("scipy") is None:
        raise ConfigError("--sampler", "", "gp needs scipy, which is missing", hint="take tpe")
    axes = sum(not distribution.single() for distribution in space.values())
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
        raise ConfigError("--sampler", "", problem, hint=suggest(name, creators))
    return SteadySampler(creators[name], seed, space)


class SteadySampler(BaseSampler):
    """A sampler that forgets: it is made anew, with a seed of its own, for each draw.

    So a search that was killed and goes on draws what it would have drawn, and trials of different workers
    never draw alike without each worker having a seed of its own: the first trials of a search
    are the same whatever the number of workers. A repeated trial draws as the first of its chain.
    """

    def __init__(self, create: Callable[[int], BaseSampler], seed: int, space: Space) -> None:
        self._create, self._seed = create, seed
        # Sorted: the order of the draws is part of the seed, that of a mapping is an accident.
        self._space = {key: space[key] for key in sorted(space) if not space[key].single()}
        self._index = (-1, -1)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Give the trial its place in a genetic search, also where all its parameters are given."""
        self._index = (-1, -1)  # the number may be of another study
        sampler = self._create(0)
        if isinstance(sampler, BaseGASampler):
            generation = sampler.get_trial_generation(study, trial)
            # Optuna keeps the parents of a generation with the study when they are first asked for, and
            # returns them in another order then than at all later times.
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
            # Which trial this would be had no worker ever died: repeats take the place of the first.
            origin = origin_of(trial)
            earlier = study.get_trials(deepcopy=False)[:origin]
            repeats = sum(RETRY_OF in other.user_attrs for other in earlier)
            self._index = trial.number, origin - repeats
        seed = step_seed(self._seed, f"sampler/{name}", self._index[1])
        return self._create(seed & 0xFFFFFFFF)  # numpy takes no more
