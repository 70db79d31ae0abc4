"""Fidelity: at one decision, are estimates true? Some subnets are really trained, and the orders compared.

What that takes is charged as search and never recycled. The run itself is left as it is: its decisions and
weights are those of a run that does not look.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from autoprog.curves import Curriculum
from autoprog.data.loader import Batch
from autoprog.decisions import (
    Agreement,
    Fidelity,
    FidelitySettings,
    Judged,
    RealTraining,
    append_training,
    read_fidelity,
    read_trainings,
    write_fidelity,
)
from autoprog.errors import ConfigError
from autoprog.events import Event, SubnetTrained, WarningRaised
from autoprog.runfiles import remove_checkpoints
from autoprog.search.estimate import held_out_losses
from autoprog.search.plan import DecisionPoint, SearchPlan
from autoprog.stage import Grow
from autoprog.train.checkpoint import check_state, load_newest, publish, stage_as
from autoprog.train.initial_weights import load_initial
from autoprog.train.model import build_model
from autoprog.train.optim import ElasticEma, create_optimizer, create_scheduler
from autoprog.train.pace import StepPace
from autoprog.train.phase import Phase, plain_choice, step_seed
from autoprog.train.step import Stepper, batch_size_of, input_config_at, regularise
from autoprog.train.stop import GaveUpError, StopNow
from autoprog.train.trainer import Trainer, snapshot
from supernet.config import SubnetConfig
from supernet.cost import relative_cost
from supernet.elastic import ElasticViT
from supernet.grow import grow

if TYPE_CHECKING:
    from autoprog.search.searcher import Searcher

__all__ = [
    "COST_RATIO",
    "MIN_SUBNETS",
    "BriefTrainings",
    "agreement",
    "bootstrap_interval",
    "check_fidelity",
    "equal_cost",
    "is_due",
    "keep_start",
    "kendall_tau",
    "measure_fidelity",
    "spread_over_cost",
    "told_apart",
]


# --------------------------------------------------------------------------------------------------
# Rank correlation: do two numbers of each subnet put the subnets into the same order?
#
# Legend: n subnets. Signs (n, n) hold -1, 0 or 1 for each ordered pair; masks (n, n) say which
# pairs count.


COST_RATIO = 1.15
"""Subnets whose multiply-accumulates differ by no more than this factor count as equally expensive."""

MIN_SUBNETS = 6
"""Below that no interval is given: two that are in order would be in order in all draws."""

_DRAWS = 2000


def kendall_tau(
    x: Sequence[float], y: Sequence[float], among: np.ndarray | None = None
) -> float | None:
    """Return Kendall's tau-b of two lists of numbers, in -1..1.

    It is the mean of sign(x_i - x_j) · sign(y_i - y_j) over pairs, over the geometric mean of the fractions
    of pairs that are not tied in x and in y (Kendall 1945).

    Args:
        x: One number a subnet; infinite ones are equal to each other.
        y: The other number.
        among: Mask of the pairs to compare; None compares all.

    Returns:
        The correlation, None where all pairs are tied in x or in y.
    """
    return _tau(_signs(x), _signs(y), _everything(len(x)) if among is None else among)


def bootstrap_interval(
    count: int, statistic: Callable[[np.ndarray], float | None], seed: int = 0
) -> tuple[float, float] | None:
    """Return the 95 % percentile interval of a statistic of `count` subnets over resampled ones.

    Draws for which it is not defined are left out. With few subnets such an interval is rather too short
    than too long.

    Args:
        count: Number of subnets.
        statistic: Is given the indices (count) of the subnets drawn, some of them more than once.
        seed: Of the draws.

    Returns:
        Lower and upper end, None where the statistic is defined for less than half of the draws.
    """
    generator = np.random.default_rng(seed)
    values = (statistic(generator.integers(0, count, count)) for _ in range(_DRAWS))
    found = [value for value in values if value is not None]
    if 2 * len(found) < _DRAWS:
        return None
    low, high = np.percentile(found, (2.5, 97.5))
    return float(low), float(high)


def equal_cost(costs: Sequence[float], ratio: float = COST_RATIO) -> np.ndarray:
    """Return the mask of the pairs whose costs differ by a factor of at most `ratio`."""
    logs = np.log(np.asarray(costs, dtype=float))
    near = np.abs(logs[:, None] - logs[None, :]) <= math.log(ratio) + 1e-9
    return near & _everything(len(costs))


def told_apart(subnets: Sequence[Judged]) -> np.ndarray | None:
    """Return the mask of the pairs whose mean losses differ by more than two standard errors.

    Trainings of one seed share their images, drops and mixes, so what a seed does to all subnets alike does
    not blur their differences: the error is that of a difference of means, from what is left of the losses
    after the means of subnets and of seeds (two-way layout without interaction). A training that was not
    finite is told apart from those that were. None with one seed, of which no error is known.
    """
    if min(len(one.losses) for one in subnets) < 2:
        return None
    finite = np.array([one.loss is not None for one in subnets])
    means = np.array([one.loss or 0.0 for one in subnets])
    losses = np.array([one.losses for one in subnets if one.loss is not None], dtype=float)
    apart = np.abs(means[:, None] - means[None, :]) > 2 * _difference_error(losses)
    return np.where(finite[:, None] & finite[None, :], apart, finite[:, None] != finite[None, :])


def _difference_error(losses: np.ndarray) -> float:
    """Return the standard error of a difference of the means of two rows (subnets, seeds)."""
    if len(losses) < 2:
        return math.inf
    rows, seeds = losses.shape
    left = losses - losses.mean(1, keepdims=True) - losses.mean(0) + losses.mean()
    return math.sqrt(2 * float((left**2).sum()) / ((rows - 1) * (seeds - 1)) / seeds)


def agreement(subnets: Sequence[Judged], among: np.ndarray | None = None) -> Agreement:
    """Return how estimates, cost alone and one more real training agree with the real trainings.

    Args:
        subnets: The subnets, at least one.
        among: Mask of the pairs to compare; None compares all.
    """
    mask = _everything(len(subnets)) if among is None else among
    estimates = _signs([subnet.estimate for subnet in subnets])
    cheapness = _signs([-subnet.relative_cost for subnet in subnets])
    real = _signs([_or_worst(subnet.loss) for subnet in subnets])

    def of(signs: np.ndarray, drawn: np.ndarray) -> float | None:
        pairs = np.ix_(drawn, drawn)  # a subnet drawn twice is no pair with itself
        return _tau(signs[pairs], real[pairs], mask[pairs])

    def gain(drawn: np.ndarray) -> float | None:
        tau, null = of(estimates, drawn), of(cheapness, drawn)
        return None if tau is None or null is None else tau - null

    count = len(subnets)
    low, high = _interval(count, lambda drawn: of(estimates, drawn))
    gain_low, gain_high = _interval(count, gain)
    return Agreement(
        pairs=int(mask.sum()) // 2,
        tau=_tau(estimates, real, mask),
        low=low,
        high=high,
        null_tau=_tau(cheapness, real, mask),
        gain_low=gain_low,
        gain_high=gain_high,
        seeds_tau=_tau_of_seeds(subnets, mask),
    )


def _interval(
    count: int, statistic: Callable[[np.ndarray], float | None]
) -> tuple[float | None, float | None]:
    """Return the bootstrap interval; nothing of few subnets, of which any order may be by chance."""
    found = bootstrap_interval(count, statistic) if count >= MIN_SUBNETS else None
    return found or (None, None)


def spread_over_cost(costs: Sequence[float], count: int) -> list[int]:
    """Return which `count` subnets to look at, by rising cost: the ends, and near pairs in between.

    What lies between the ends is cut into strata of equal numbers, and each gives the two neighbours whose
    costs differ least: so that estimates are judged over the whole range, but also where cost tells
    nothing. An odd one is the subnet furthest from all others.
    """
    order = sorted(range(len(costs)), key=lambda index: (costs[index], index))
    if count >= len(order):
        return order
    if count < 2:
        return order[:count]
    inner, num_pairs = order[1:-1], (count - 2) // 2
    chosen = {order[0], order[-1]}
    for number in range(num_pairs):
        stratum = inner[number * len(inner) // num_pairs : (number + 1) * len(inner) // num_pairs]
        start = min(
            range(len(stratum) - 1), key=lambda i: costs[stratum[i + 1]] / costs[stratum[i]]
        )
        chosen.update(stratum[start : start + 2])
    if len(chosen) < count:
        chosen.add(max((i for i in order if i not in chosen), key=lambda i: _gap(costs, i, chosen)))
    return [index for index in order if index in chosen]


def _gap(costs: Sequence[float], index: int, chosen: set[int]) -> float:
    """Return how far a cost is from the nearest chosen one, on a logarithmic scale."""
    return min(abs(math.log(costs[index] / costs[other])) for other in chosen)


def _tau_of_seeds(subnets: Sequence[Judged], mask: np.ndarray) -> float | None:
    """Return the mean correlation of two real trainings of each subnet; None with one seed."""
    columns = list(zip(*(subnet.losses for subnet in subnets), strict=True))
    worst = [[_or_worst(loss) for loss in column] for column in columns]
    taus = [kendall_tau(a, b, mask) for a, b in combinations(worst, 2)]
    known = [tau for tau in taus if tau is not None]
    return sum(known) / len(known) if known else None


def _or_worst(loss: float | None) -> float:
    return math.inf if loss is None else loss


def _signs(values: Sequence[float]) -> np.ndarray:
    numbers = np.asarray(values, dtype=float)
    return np.greater.outer(numbers, numbers).astype(int) - np.less.outer(numbers, numbers)


def _everything(count: int) -> np.ndarray:
    return ~np.eye(count, dtype=bool)


def _tau(signs_x: np.ndarray, signs_y: np.ndarray, mask: np.ndarray) -> float | None:
    x, y = signs_x[mask], signs_y[mask]
    untied = math.sqrt(int((x * x).sum()) * int((y * y).sum()))
    return float((x * y).sum()) / untied if untied else None


# --------------------------------------------------------------------------------------------------
# Brief real trainings: one subnet by itself, on a throw-away copy of the run's network.


_STOP_STEPS = 5
_EMA_FRACTION = 0.1


@dataclass(frozen=True)
class BriefTrainings:
    """Trainings of any subnet from one start, by the run's own steps, images and recipe.

    From the run's network as it was at ``step`` the learning rate follows that of the run and is annealed
    linearly to 0 over the training besides: unannealed losses are mostly noise of the last steps, which
    hides what subnets differ in. From new weights, or those that the run was given, it takes the recipe's
    whole shape, warm-up included, in ``steps`` steps. Images are drawn in passes that the run never makes,
    and the held-out slice stays out.

    Attributes:
        trainer: The run, which is left as it is.
        start: The run's state at ``step``, as of :func:`autoprog.train.trainer.snapshot`; None for new weights.
        before: The subnet trained up to there.
        step: Position of the run: its step, or by time as many steps of the full model as take as long.
        steps: Length of each training.
        run_steps: No fewer than the run makes.
        curriculum: Regularisation.
        grow: How a subnet is grown from ``before``.
    """

    trainer: Trainer
    start: Mapping[str, Any] | None
    before: SubnetConfig
    step: int
    steps: int
    run_steps: int
    curriculum: Curriculum
    grow: Grow

    def train(self, subnet: SubnetConfig, seed: int) -> Generator[Event, None, float | None]:
        """Train `subnet` and return its held-out loss by averaged weights; None if that is not finite.

        Args:
            subnet: At least as large as ``before``, unless it begins with new weights.
            seed: Number of the training; another one sees other images, drops and mixes.

        Raises:
            InterruptedRunError: If a stop was requested; a checkpoint of the run has been written.
        """
        trainer = self.trainer
        with trainer.ledger.charge("search"):
            phase = self._phase(subnet)
            stepper = self._stepper(phase, seed)
            batches = self._batches(phase, seed)
        for number in range(self.steps):
            try:
                with trainer.ledger.charge("search"), trainer.stop.at_once(trainer.ranks):
                    batch = next(batches)
            except StopNow as request:
                yield from trainer.halt(request.signal_name)
                raise
            with trainer.ledger.charge("search"):
                self._take_step(stepper, phase, number, batch)
            if trainer.ranks.alone or number % _STOP_STEPS == 0:
                yield from trainer.halt_if_asked()
        average, loss = stepper.emas[0].module, math.nan
        with trainer.ledger.charge("search"), suppress(GaveUpError):
            loss = fmean(held_out_losses(trainer, average, plain_choice(subnet)))
        yield from trainer.halt_if_asked()
        return loss if math.isfinite(loss) else None

    def _phase(self, subnet: SubnetConfig) -> Phase:
        first = self.step if self.start is not None else 0
        return Phase(
            index=0,
            kind="plain",
            stage=0,
            start_step=first,
            stop_step=first + self.steps,
            choices=(plain_choice(subnet),),
            depth=subnet.depth,
            curriculum=self.curriculum,
            held_out=True,
        )

    def _take_step(self, stepper: Stepper, phase: Phase, number: int, batch: Batch) -> None:
        if self.start is not None:
            stepper.lr_scale = self.trainer.stepper.lr_scale * (1.0 - number / self.steps)
        stepper.step(*batch, phase.choices[0], phase.slots, phase.start_step + number)

    def _batches(self, phase: Phase, seed: int) -> Iterator[Batch]:
        trainer, recipe = self.trainer, self.trainer.recipe
        batch_size, full_px = batch_size_of(phase, recipe), trainer.settings.model.img_size
        of_the_run = self.run_steps * recipe.batch_size
        return trainer.data.batches(
            first_sample=(1 + seed) * of_the_run + self.step * recipe.batch_size,
            batch_size=batch_size,
            steps=self.steps,
            config_at=lambda k: input_config_at(phase, recipe, full_px, seed, phase.start_step + k),
            held_out=True,
        )

    def _stepper(self, phase: Phase, seed: int) -> Stepper:
        """Return what trains a copy of the network, grown to the subnet of `phase`."""
        trainer, recipe = self.trainer, self.trainer.recipe
        own_seed = step_seed(trainer.settings.seed, "real training", seed)
        model = self._network(own_seed)
        if self.start is None:
            load_initial((model,), trainer.settings, trainer.data.class_names)
        optimizer = create_optimizer(model, recipe, trainer.compute.device)
        length = self.steps if self.start is None else trainer.total_steps
        scheduler = create_scheduler(optimizer, recipe, recipe.sched, length)
        if self.start is not None:
            self._begin_from(self.start, model, optimizer, phase.depth)
        stepper = replace(
            trainer.stepper,
            model=model,
            emas=(ElasticEma(model, _EMA_FRACTION * self.steps),),
            optimizer=optimizer,
            scheduler=scheduler,
            scaler=trainer.compute.scaler(),
            seed=own_seed,
            pace=StepPace() if self.start is None else trainer.pace,
        )
        regularise(stepper, phase, recipe, trainer.data.num_classes)
        stepper.enter(phase)
        model.train()
        return stepper

    def _begin_from(
        self, start: Mapping[str, Any], model: ElasticViT, optimizer: Any, depth: tuple[int, ...]
    ) -> None:
        """Load the run's state into a copy and grow it to `depth`."""
        model.vit.load_state_dict(start["model"])
        # An optimizer takes over the tensors it is given, and steps change them in place.
        optimizer.load_state_dict(copy.deepcopy(start["optimizer"]))
        if depth != self.before.depth:
            average = self._network(0)
            average.vit.load_state_dict(start["emas"][-1])
            grow(model, [average], optimizer, self.before.depth, depth, self.grow.rule())

    def _network(self, seed: int) -> ElasticViT:
        trainer = self.trainer
        spec, classes = trainer.settings.model.spec(), trainer.data.num_classes
        return build_model(spec, classes, seed).to(trainer.compute.device)


def check_fidelity(settings: FidelitySettings | None, plan: SearchPlan) -> None:
    """Refuse to look at a decision that the search does not take.

    Raises:
        ConfigError: If there is no such decision.
    """
    if settings is not None and settings.at >= len(plan.supernet_points):
        count = len(plan.supernet_points)
        law = f"must be below {count}, the number of decisions with a supernet, which count from 0"
        raise ConfigError("--fidelity-at", "", law, settings.at)


def is_due(searcher: Searcher, point: DecisionPoint) -> bool:
    """Tell whether the estimates of a decision are to be checked, and no earlier attempt did; collective."""
    settings = searcher.search.fidelity
    if settings is None or searcher.plan.supernet_points[settings.at] != point:
        return False
    done = read_fidelity(searcher.trainer.folder.path) is not None
    return not searcher.trainer.ranks.broadcast("done" if done else "")


def keep_start(searcher: Searcher) -> None:
    """Keep the network from before the supernet phase, for as long as trainings begin from it."""
    trainer, settings = searcher.trainer, searcher.search.fidelity
    assert settings is not None
    is_there = searcher.next_is_new and trainer.ranks.is_main
    if settings.begin == "start" and is_there:
        folder = _start_folder(trainer)
        folder.mkdir(exist_ok=True)
        with trainer.ledger.charge("search"):
            publish(folder, stage_as(folder, snapshot(trainer)))


def measure_fidelity(
    searcher: Searcher,
    point: DecisionPoint,
    subnets: Sequence[SubnetConfig],
    curriculum: Curriculum,
    estimate: Callable[[SubnetConfig], float],
) -> Iterator[Event]:
    """Train some of `subnets` for real, compare with their estimates, and write the report.

    Each training is written down when it is finished, and none is made again after a resume.

    Args:
        searcher: Just after the supernet phase of the decision.
        point: The decision.
        subnets: Those that are estimated.
        curriculum: How the supernet phase was regularised.
        estimate: Returns the one-shot loss of a subnet; asked on rank 0 only.

    Raises:
        InterruptedRunError: If a stop was requested; a checkpoint has been written.
    """
    trainer, settings = searcher.trainer, searcher.search.fidelity
    assert settings is not None
    chosen = _chosen(searcher, settings, subnets)
    trainings = _trainings(searcher, settings, point, curriculum)
    if trainings is None:
        text = "no fidelity: the network from before the supernet phase is not there any more"
        yield WarningRaised(step=trainer.step, message=text)
        return
    yield from trainer.save()  # a crash in what follows need not repeat the supernet phase
    yield from _train_all(trainer, trainings, settings.seeds, chosen, point.index)
    if trainer.ranks.is_main:
        with suppress(GaveUpError), trainer.ledger.charge("search"):
            report = _report(searcher, settings, point, chosen, trainings.steps, estimate)
            write_fidelity(trainer.folder.path, report)
            remove_checkpoints(_start_folder(trainer))
    yield from trainer.halt_if_asked()


def _start_folder(trainer: Trainer) -> Path:
    return trainer.folder.checkpoints / "fidelity"


def _chosen(
    searcher: Searcher, settings: FidelitySettings, subnets: Sequence[SubnetConfig]
) -> list[SubnetConfig]:
    spec = searcher.search.space.spec
    costs = [relative_cost(spec, subnet) for subnet in subnets]
    return [subnets[index] for index in spread_over_cost(costs, settings.candidates)]


def _trainings(
    searcher: Searcher, settings: FidelitySettings, point: DecisionPoint, curriculum: Curriculum
) -> BriefTrainings | None:
    """Return what trains the subnets; None if the network that they begin from has been lost."""
    trainer, start = searcher.trainer, None
    if settings.begin == "start":
        start, _ = load_newest(_start_folder(trainer), partial(check_state, trainer))
        before = searcher.num_phases - len(point.estimate_steps) - 1
        if trainer.ranks.most(int(start is None or start["phase"] != before)):
            return None
    steps = point.stop_step - point.start_step
    if settings.epochs is not None:
        steps = max(1, round(settings.epochs * trainer.steps_per_epoch))
    elif start is not None:
        steps = trainer.step - start["step"]  # by time more than the plan says
    return BriefTrainings(
        trainer=trainer,
        start=start,
        before=searcher.current,
        step=point.start_step,
        steps=steps,
        run_steps=_max_steps(searcher),
        curriculum=curriculum,
        grow=searcher.search.space.decisions.grow,
    )


def _max_steps(searcher: Searcher) -> int:
    """Return what the steps of the run cannot be more than: by time cheap ones count for less than one."""
    total = searcher.trainer.total_steps
    return math.ceil(total / min(searcher.step_costs.values())) if searcher.by_time else total


def _train_all(
    trainer: Trainer,
    trainings: BriefTrainings,
    seeds: int,
    subnets: Sequence[SubnetConfig],
    decision: int,
) -> Iterator[Event]:
    """Train each subnet with each seed, but for those that are on record."""
    wanted = [(subnet, seed) for seed in range(seeds) for subnet in subnets]
    on_record = [(one.subnet, one.seed) for one in read_trainings(trainer.folder.path)]
    missing = json.loads(
        trainer.ranks.broadcast(json.dumps([n for n, w in enumerate(wanted) if w not in on_record]))
    )
    for number in missing:
        subnet, seed = wanted[number]
        begin = trainer.clock()
        loss = yield from trainings.train(subnet, seed)
        seconds = trainer.clock() - begin
        if trainer.ranks.is_main:
            done = RealTraining(subnet=subnet, seed=seed, loss=loss, seconds=seconds)
            append_training(trainer.folder.path, done)
            yield SubnetTrained(
                step=trainer.step,
                decision=decision,
                number=number,
                total=len(wanted),
                subnet=subnet,
                loss=loss,
                seconds=seconds,
            )


def _report(
    searcher: Searcher,
    settings: FidelitySettings,
    point: DecisionPoint,
    subnets: Sequence[SubnetConfig],
    steps: int,
    estimate: Callable[[SubnetConfig], float],
) -> Fidelity:
    trainer, spec = searcher.trainer, searcher.search.space.spec
    rows = {(row.subnet, row.seed): row for row in read_trainings(trainer.folder.path)}
    judged = tuple(
        Judged(
            subnet=subnet,
            relative_cost=relative_cost(spec, subnet),
            estimate=estimate(subnet),
            losses=tuple(rows[subnet, seed].loss for seed in range(settings.seeds)),
        )
        for subnet in subnets
    )
    apart = told_apart(judged)
    epochs = settings.epochs or steps / trainer.steps_per_epoch
    return Fidelity(
        decision=point.index,
        step=trainer.step,
        begin=settings.begin,
        epochs=epochs,
        seeds=settings.seeds,
        subnets=judged,
        overall=agreement(judged),
        equal_cost=agreement(judged, equal_cost([one.relative_cost for one in judged])),
        beyond_seed_noise=None if apart is None else agreement(judged, apart),
        cost_ratio=COST_RATIO,
        seconds=sum(row.seconds for row in rows.values()),
    )
