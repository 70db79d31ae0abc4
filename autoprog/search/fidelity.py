"""Fidelity: at one decision, are estimates true? Some subnets are really trained, and the orders compared.

What that takes is charged as search and never recycled. The run itself is left as it is: its decisions and
weights are those of a run that does not look.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from autoprog.curves import Curriculum
from autoprog.errors import ConfigError
from autoprog.events import Event, SubnetTrained, Warned
from autoprog.fidelity import (
    Fidelity,
    FidelitySettings,
    Judged,
    RealTraining,
    append_training,
    read_fidelity,
    read_trainings,
    write_fidelity,
)
from autoprog.runfiles import remove_checkpoints
from autoprog.search.brief import BriefTrainings
from autoprog.search.plan import DecisionPoint, SearchPlan
from autoprog.search.rank import COST_RATIO, agreement, equal_cost, spread_over_cost, told_apart
from autoprog.search.searcher import Searcher
from autoprog.train.checkpoint import load_newest, publish, stage_as
from autoprog.train.state import snapshot
from autoprog.train.state_check import check_state
from autoprog.train.stop import GaveUpError
from autoprog.train.trainer import Trainer
from supernet.config import SubnetConfig
from supernet.cost import relative_cost

__all__ = ["check_fidelity", "is_due", "keep_start", "measure_fidelity"]


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
    return not searcher.trainer.ranks.share("done" if done else "")


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
        yield Warned(step=trainer.step, message=text)
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
        run_steps=_most_steps(searcher),
        curriculum=curriculum,
        grow=searcher.search.space.decisions.grow,
    )


def _most_steps(searcher: Searcher) -> int:
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
        trainer.ranks.share(json.dumps([n for n, w in enumerate(wanted) if w not in on_record]))
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
        told_apart=None if apart is None else agreement(judged, apart),
        cost_ratio=COST_RATIO,
        seconds=sum(row.seconds for row in rows.values()),
    )
