"""Fidelity: at one decision, are estimates true? Some subnets are really trained, and the orders compared.

What that takes is charged as search and never recycled. The run itself is left as it is: its decisions and
weights are those of a run without the check.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from autoprog.events import Event, SubnetTrained, WarningRaised
from autoprog.fidelity_report import (
    Agreement,
    ComparedSubnet,
    FidelityReport,
    FidelitySettings,
    RealTraining,
    append_training,
    read_trainings,
    write_fidelity,
)
from autoprog.runfiles import remove_checkpoints
from autoprog.search.estimate import held_out_losses
from autoprog.search.plan import DecisionPoint
from autoprog.space import SearchSpace
from autoprog.stage import Curriculum, Grow
from autoprog.train.checkpoint import load_newest, publish, write_pending
from autoprog.train.initial_weights import load_initial
from autoprog.train.model import build_model
from autoprog.train.optim import ElasticEma, create_optimizer, create_scheduler
from autoprog.train.pace import StepPace
from autoprog.train.phase import Phase, plain_choice, step_seed
from autoprog.train.step import Stepper, input_config_at, scaled_batch_size
from autoprog.train.stop import GaveUpError, StopNow
from supernet.config import SubnetConfig
from supernet.cost import relative_cost
from supernet.elastic import ElasticViT
from supernet.grow import grow

if TYPE_CHECKING:
    from autoprog.train.trainer import Trainer

__all__ = [
    "COST_RATIO",
    "MIN_SUBNETS",
    "FidelityCheck",
    "ShortTrainings",
    "agreement",
    "beyond_seed_noise",
    "bootstrap_interval",
    "equal_cost",
    "kendall_tau",
    "spread_over_cost",
]

COST_RATIO = 1.15
"""Subnets whose multiply-accumulates differ by no more than this factor count as equally expensive."""

MIN_SUBNETS = 6
"""Below that no interval is given: two that are in order would be in order in all draws."""

_DRAWS = 2000
_STOP_STEPS = 5  # between two agreements of all processes on whether to stop
_EMA_FRACTION = 0.1  # of a training, over which its weights are averaged


@dataclass(frozen=True)
class FidelityCheck:
    """The check of one decision's estimates against real trainings.

    Attributes:
        trainer: The run.
        settings: How many subnets are trained, from where, and for how long.
        space: The space of the search.
        point: The decision.
        current: The subnet trained before its supernet phase.
        last_phase: Number of the phase before that.
        run_steps: No fewer than the run makes.
        curriculum: How the supernet phase is regularised.
    """

    trainer: Trainer
    settings: FidelitySettings
    space: SearchSpace
    point: DecisionPoint
    current: SubnetConfig
    last_phase: int
    run_steps: int
    curriculum: Curriculum

    @property
    def _start_folder(self) -> Path:
        return self.trainer.folder.checkpoints / "fidelity"

    def keep_start(self) -> None:
        """Keep the network from before the supernet phase, for as long as trainings begin from it."""
        trainer, folder = self.trainer, self._start_folder
        if self.settings.begin == "start" and trainer.ranks.is_main:
            folder.mkdir(exist_ok=True)
            with trainer.ledger.charge("search"):
                publish(folder, write_pending(folder, trainer.snapshot()))

    def measure(
        self, subnets: Sequence[SubnetConfig], estimate: Callable[[SubnetConfig], float]
    ) -> Iterator[Event]:
        """Train some of `subnets` for real, compare with their estimates, and write the report.

        Each training is written down when it is finished, and none is made again after a resume.

        Args:
            subnets: Those that are estimated, just after the supernet phase.
            estimate: Returns the one-shot loss of a subnet; called on rank 0 only.

        Raises:
            InterruptedRunError: If a stop was requested; a checkpoint has been written.
        """
        trainer = self.trainer
        costs = [relative_cost(self.space.spec, subnet) for subnet in subnets]
        chosen = [subnets[i] for i in spread_over_cost(costs, self.settings.candidates)]
        start = None
        if self.settings.begin == "start":
            start, _ = load_newest(self._start_folder, trainer.check_state)
            is_lost = start is None or start["phase"] != self.last_phase
            if trainer.ranks.most(int(is_lost)):
                text = (
                    "no fidelity: the network from before the supernet phase is not there any more"
                )
                yield WarningRaised(step=trainer.step, message=text)
                return
        yield from trainer.save()  # a crash in what follows need not repeat the supernet phase
        point = self.point
        steps = point.stop_step - point.start_step
        if self.settings.epochs is not None:
            steps = max(1, round(self.settings.epochs * trainer.steps_per_epoch))
        elif start is not None:
            steps = trainer.step - start["step"]  # by time more than the plan says
        trainings = ShortTrainings(
            trainer=trainer,
            start=start,
            before=self.current,
            step=point.start_step,
            steps=steps,
            run_steps=self.run_steps,
            curriculum=self.curriculum,
            grow=self.space.decisions.grow,
        )
        yield from self._train_all(trainings, chosen)
        if trainer.ranks.is_main:
            with suppress(GaveUpError), trainer.ledger.charge("search"):
                report = self._report(chosen, steps, estimate)
                write_fidelity(trainer.folder.path, report)
                remove_checkpoints(self._start_folder)
        yield from trainer.halt_if_asked()

    def _train_all(
        self, trainings: ShortTrainings, subnets: Sequence[SubnetConfig]
    ) -> Iterator[Event]:
        """Train each subnet with each seed, but for those that are on record."""
        trainer = self.trainer
        wanted = [(subnet, seed) for seed in range(self.settings.seeds) for subnet in subnets]
        on_record = [(one.subnet, one.seed) for one in read_trainings(trainer.folder.path)]
        rest = [number for number, one in enumerate(wanted) if one not in on_record]
        for number in json.loads(trainer.ranks.broadcast(json.dumps(rest))):
            subnet, seed = wanted[number]
            begin = trainer.clock()
            loss = yield from trainings.train(subnet, seed)
            seconds = trainer.clock() - begin
            if trainer.ranks.is_main:
                done = RealTraining(subnet=subnet, seed=seed, loss=loss, seconds=seconds)
                append_training(trainer.folder.path, done)
                yield SubnetTrained(
                    step=trainer.step,
                    decision=self.point.index,
                    number=number,
                    total=len(wanted),
                    subnet=subnet,
                    loss=loss,
                    seconds=seconds,
                )

    def _report(
        self,
        subnets: Sequence[SubnetConfig],
        steps: int,
        estimate: Callable[[SubnetConfig], float],
    ) -> FidelityReport:
        trainer, settings = self.trainer, self.settings
        rows = {(row.subnet, row.seed): row for row in read_trainings(trainer.folder.path)}
        judged = tuple(
            ComparedSubnet(
                subnet=subnet,
                relative_cost=relative_cost(self.space.spec, subnet),
                estimate=estimate(subnet),
                losses=tuple(rows[subnet, seed].loss for seed in range(settings.seeds)),
            )
            for subnet in subnets
        )
        beyond_noise = beyond_seed_noise(judged)
        return FidelityReport(
            decision=self.point.index,
            step=trainer.step,
            begin=settings.begin,
            epochs=settings.epochs or steps / trainer.steps_per_epoch,
            seeds=settings.seeds,
            subnets=judged,
            overall=agreement(judged),
            equal_cost=agreement(judged, equal_cost([one.relative_cost for one in judged])),
            beyond_seed_noise=None if beyond_noise is None else agreement(judged, beyond_noise),
            cost_ratio=COST_RATIO,
            seconds=sum(row.seconds for row in rows.values()),
        )


def spread_over_cost(costs: Sequence[float], count: int) -> list[int]:
    """Return which `count` subnets to train, by rising cost: the ends, and near pairs in between.

    What lies between the ends is cut into strata of equal numbers, and each gives the two neighbours whose
    costs differ least: so that estimates are judged over the whole range, but also where cost says
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

        def gap(index: int) -> float:
            """Return how far a cost is from the nearest chosen one, on a logarithmic scale."""
            return min(abs(math.log(costs[index] / costs[other])) for other in chosen)

        chosen.add(max((i for i in order if i not in chosen), key=gap))
    return [index for index in order if index in chosen]


@dataclass(frozen=True)
class ShortTrainings:
    """Short trainings of any subnet from one start, by the run's own steps, images and recipe.

    From the run's network as it was at ``step`` the learning rate follows that of the run and is annealed
    linearly to 0 over the training besides: unannealed losses are mostly noise of the last steps, which
    hides what subnets differ in. From new weights, or those that the run was given, it takes the recipe's
    whole shape, warm-up included, in ``steps`` steps. Images are drawn in passes that the run never makes,
    and the held-out slice stays out.

    Attributes:
        trainer: The run, which is left as it is.
        start: The run's state at ``step``, what a checkpoint holds; None for new weights.
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
        trainer, recipe = self.trainer, self.trainer.recipe
        with trainer.ledger.charge("search"):
            first = self.step if self.start is not None else 0
            phase = Phase(
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
            stepper = self._stepper(phase, seed)
            full_px = trainer.settings.model.img_size
            batches = trainer.data.batches(
                # Passes after those of the run, others for each seed.
                first_sample=(1 + seed) * self.run_steps * recipe.batch_size
                + self.step * recipe.batch_size,
                batch_size=scaled_batch_size(recipe, phase.training),
                steps=self.steps,
                config_at=lambda k: input_config_at(phase, recipe, full_px, seed, first + k),
                held_out=True,
            )
        for number in range(self.steps):
            try:
                with trainer.ledger.charge("search"), trainer.stop.at_once(trainer.ranks):
                    batch = next(batches)
            except StopNow as request:
                yield from trainer.halt(request.signal_name)
                raise
            with trainer.ledger.charge("search"):
                if self.start is not None:
                    stepper.lr_scale = trainer.stepper.lr_scale * (1.0 - number / self.steps)
                stepper.step(*batch, phase.choices[0], phase.slots, phase.start_step + number)
            if trainer.ranks.alone or number % _STOP_STEPS == 0:
                yield from trainer.halt_if_asked()
        average, loss = stepper.emas[0].module, math.nan
        with trainer.ledger.charge("search"), suppress(GaveUpError):
            loss = fmean(held_out_losses(trainer, average, plain_choice(subnet)))
        yield from trainer.halt_if_asked()
        return loss if math.isfinite(loss) else None

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
            model.vit.load_state_dict(self.start["model"])
            # An optimizer takes over the tensors it is given, and steps change them in place.
            optimizer.load_state_dict(copy.deepcopy(self.start["optimizer"]))
            if phase.depth != self.before.depth:
                average = self._network(0)
                average.vit.load_state_dict(self.start["emas"][-1])
                rule = self.grow.rule()
                grow(model, [average], optimizer, self.before.depth, phase.depth, rule)
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
        stepper.regularise(phase, recipe, trainer.data.num_classes)
        stepper.enter(phase)
        model.train()
        return stepper

    def _network(self, seed: int) -> ElasticViT:
        trainer = self.trainer
        spec, classes = trainer.settings.model.spec(), trainer.data.num_classes
        return build_model(spec, classes, seed).to(trainer.compute.device)


# Legend of what follows: n subnets. Signs (n, n) hold -1, 0 or 1 for each ordered pair; masks (n, n) say
# which pairs count. scipy.stats.kendalltau has no such mask.


def agreement(subnets: Sequence[ComparedSubnet], among: np.ndarray | None = None) -> Agreement:
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

    # Of few subnets, any order may be by chance.
    low = high = gain_low = gain_high = None
    if len(subnets) >= MIN_SUBNETS:
        interval = bootstrap_interval(len(subnets), lambda drawn: of(estimates, drawn))
        low, high = interval or (None, None)
        gain_low, gain_high = bootstrap_interval(len(subnets), gain) or (None, None)
    # Correlations between any two seeds; None with one seed.
    columns = zip(*(subnet.losses for subnet in subnets), strict=True)
    worst = [[_or_worst(loss) for loss in column] for column in columns]
    taus = [kendall_tau(a, b, mask) for a, b in combinations(worst, 2)]
    known = [tau for tau in taus if tau is not None]
    return Agreement(
        pairs=int(mask.sum()) // 2,
        tau=_tau(estimates, real, mask),
        low=low,
        high=high,
        null_tau=_tau(cheapness, real, mask),
        gain_low=gain_low,
        gain_high=gain_high,
        seeds_tau=sum(known) / len(known) if known else None,
    )


def equal_cost(costs: Sequence[float]) -> np.ndarray:
    """Return the mask of the pairs whose costs differ by a factor of at most :data:`COST_RATIO`."""
    logs = np.log(np.asarray(costs, dtype=float))
    near = np.abs(logs[:, None] - logs[None, :]) <= math.log(COST_RATIO) + 1e-9
    return near & _everything(len(costs))


def beyond_seed_noise(subnets: Sequence[ComparedSubnet]) -> np.ndarray | None:
    """Return the mask of the pairs whose mean losses differ by more than two standard errors.

    Trainings of one seed share their images, drops and mixes, so what a seed does to all subnets alike does
    not blur their differences: the error is that of a difference of means, from what is left of the losses
    after the means of subnets and of seeds (two-way layout without interaction). A training that was not
    finite differs from those that were. None with one seed, of which no error is known.
    """
    if min(len(one.losses) for one in subnets) < 2:
        return None
    finite = np.array([one.loss is not None for one in subnets])
    means = np.array([one.loss or 0.0 for one in subnets])
    known = [one.losses for one in subnets if one.loss is not None]
    losses = np.array(known, dtype=float)  # (finite subnets, seeds)
    error = math.inf
    if len(losses) >= 2:
        rows, seeds = losses.shape
        left = losses - losses.mean(1, keepdims=True) - losses.mean(0) + losses.mean()
        error = math.sqrt(2 * float((left**2).sum()) / ((rows - 1) * (seeds - 1)) / seeds)
    apart = np.abs(means[:, None] - means[None, :]) > 2 * error
    return np.where(finite[:, None] & finite[None, :], apart, finite[:, None] != finite[None, :])


def bootstrap_interval(
    count: int, statistic: Callable[[np.ndarray], float | None], seed: int = 0
) -> tuple[float, float] | None:
    """Return the 95 % percentile interval of a statistic of `count` subnets over resampled ones.

    Draws for which it is not defined are left out, unlike by ``scipy.stats.bootstrap``, whose interval is
    NaN then. With few subnets such an interval is rather too short than too long.

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
