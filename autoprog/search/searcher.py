"""What a search is made of, what it has decided so far, and the schedule that this comes to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from autoprog.curves import Curriculum
from autoprog.decisions import Decision, DecisionInputs, Tail
from autoprog.events import Decided, Event
from autoprog.ramps import ramped_curriculum
from autoprog.runs import Run, RunFolder, load_run
from autoprog.search.controller import Controller
from autoprog.search.decide import Chooser
from autoprog.search.length import learning_rate_of, length_and_plan, step_costs
from autoprog.search.notes import shown_at
from autoprog.search.pieces import Piece, merged
from autoprog.search.plan import SearchPlan
from autoprog.search.profile import Costs
from autoprog.search.rollout import target_entropy
from autoprog.settings import RunSettings, SearchSettings
from autoprog.stage import LearningRate
from autoprog.train.data import OpenedData
from autoprog.train.device import resolve_compute
from autoprog.train.engine import Job, build_trainer
from autoprog.train.phase import Compact, GrowTo, Phase, plain_choice
from autoprog.train.trainer import Trainer
from supernet.config import SubnetConfig

__all__ = [
    "Piece",
    "Searcher",
    "announce",
    "build_searcher",
    "inputs_of",
    "recorded_decision",
    "recorded_inputs",
    "settle",
    "tell_again",
    "turn_to",
]


@dataclass
class Searcher:
    """What a search holds beside the trainer: the plan, the costs, the controller, the decisions so far.

    Only rank 0 has a controller. With ``is_strengthened`` regularisation is of full strength from here on.
    """

    trainer: Trainer
    search: SearchSettings
    plan: SearchPlan
    costs: Costs
    controller: Controller | None
    recorded: tuple[Decision, ...]
    recorded_inputs: tuple[DecisionInputs, ...]
    lr: LearningRate
    num_phases: int = 0
    position: int = 0
    announced_pieces: int = 0
    pieces: list[Piece] = field(default_factory=list)
    tail: Tail = ()
    is_strengthened: bool = False
    enter: GrowTo | Compact | None = None

    @property
    def current(self) -> SubnetConfig:
        """Return the subnet that trains now."""
        return self.pieces[-1].subnet

    @property
    def full(self) -> SubnetConfig:
        """Return the full model."""
        return self.search.space.spec.full

    @property
    def will_estimate(self) -> bool:
        """Tell whether candidates will still be estimated, on images that training must not have seen."""
        to_come = any(point.stop_step > self.position for point in self.plan.points)
        return to_come and self.current != self.full

    @property
    def chooser(self) -> Chooser:
        """Return how decisions are taken."""
        search, seed = self.search, self.trainer.settings.seed
        return Chooser(search.rule, search.space, search.sampler, seed)

    @property
    def next_is_new(self) -> bool:
        """Tell whether no earlier attempt has entered the next phase; then its events are yet to be told."""
        return self.trainer.phase < self.num_phases

    def curriculum(self, step: int) -> Curriculum:
        """Return the regularisation of the piece that holds `step`, or all of it if that was decided."""
        count = self.search.space.decisions.num_stages
        strength = self.trainer.recipe.strength
        if self.is_strengthened:
            return ramped_curriculum(strength, 0, 1)
        return ramped_curriculum(strength, self.plan.piece_at(step), count)

    @property
    def by_time(self) -> bool:
        """Tell whether the length of the run is the time that its steps are known to take."""
        return self.search.time_share is not None

    @cached_property
    def step_costs(self) -> dict[SubnetConfig, float]:
        """Return how far a step of each subnet moves the run; costs have been measured."""
        return step_costs(self.search, self.costs)

    def next_phase(self, stop: int, **fields: object) -> Phase:
        """Return a phase from the position to `stop` at the current subnet; `fields` override."""
        phase = Phase(
            index=self.num_phases,
            kind="plain",
            stage=len(merged(self.pieces)) - 1,
            start_step=self.position,
            stop_step=stop,
            choices=(plain_choice(self.current),),
            depth=self.current.depth,
            curriculum=self.pieces[-1].curriculum,
            enter=self.enter,
            starts_stage=len(self.pieces) != self.announced_pieces,
            held_out=self.will_estimate,
        )
        self.num_phases, self.position, self.enter = self.num_phases + 1, stop, None
        phase = replace(phase, **fields)  # type: ignore[arg-type]
        if phase.kind == "plain":
            self.announced_pieces = len(self.pieces)
        return phase


def build_searcher(
    settings: RunSettings, folder: RunFolder, opened: OpenedData, job: Job
) -> Searcher:
    """Return a search, new or with the decisions and costs that its folder records.

    Raises:
        ConfigError: If the plan does not fit the length of the run, or the costs cannot be read.
    """
    search, recipe = settings.search, settings.recipe
    assert search is not None, "a search has search settings"
    length, plan = length_and_plan(search, recipe, len(opened.train))
    compute = resolve_compute(settings, job.ranks)
    recorded = load_run(folder.path)
    costs = _known_costs(search, recorded, recipe.batch_size)
    if costs.seconds and not recorded.costs:
        folder.write_costs(costs.table)  # so that a resume does not depend on another file
    trainer = build_trainer(
        settings,
        folder,
        opened,
        compute,
        length,
        recipe.sched,
        job,
        supernet_steps=plan.supernet_steps,
    )
    return Searcher(
        trainer=trainer,
        search=search,
        plan=plan,
        costs=costs,
        controller=_controller(settings, search, folder) if job.ranks.is_main else None,
        recorded=recorded.decisions,
        recorded_inputs=recorded.inputs(),
        lr=learning_rate_of(recipe, search),
    )


def _controller(settings: RunSettings, search: SearchSettings, folder: RunFolder) -> Controller:
    sampler = "random" if search.sampler == "random" else "tpe"  # candidates are too few for nsga2
    return Controller(folder.journal, folder.manifest.run_id, settings.seed, sampler)


def _known_costs(search: SearchSettings, recorded: Run, batch_size: int) -> Costs:
    """Return the costs on record: this run's own, or those of the file that it was given."""
    if recorded.costs or search.costs_from is None:
        return Costs(recorded.cost_table, batch_size)
    return Costs.read(Path(search.costs_from), batch_size)


def settle(searcher: Searcher) -> Iterator[Event]:
    """Carry out a change that waits for the next phase, before another one takes its place."""
    if searcher.enter is not None:
        yield from searcher.trainer.run(searcher.next_phase(searcher.position))


def turn_to(searcher: Searcher, subnet: SubnetConfig, step: int) -> None:
    """Begin a new stretch of the schedule at `step`."""
    searcher.pieces.append(Piece(step, subnet, searcher.curriculum(step)))


def inputs_of(
    searcher: Searcher,
    index: int,
    losses: Sequence[Sequence[Sequence[float]]],
    candidates: Sequence[SubnetConfig],
) -> DecisionInputs:
    """Return all that decision `index` is taken from, with the losses by time point, candidate and batch."""
    trainer, plan, space = searcher.trainer, searcher.plan, searcher.search.space
    budget = searcher.search.budget_seconds
    subnets = (*candidates, *space.above(searcher.current))
    return DecisionInputs(
        index=index,
        step=trainer.step,
        position=searcher.position if searcher.by_time else None,
        chance_loss=math.log(trainer.feed.num_classes) if searcher.by_time else None,
        loss_floor=target_entropy(trainer.recipe.smoothing, trainer.feed.num_classes),
        steps_per_epoch=trainer.steps_per_epoch,
        total_steps=trainer.total_steps,
        full_step=plan.full_step,
        current=searcher.current,
        incumbent=searcher.tail,
        num_points=sum(point.start_step > searcher.position for point in plan.points),
        steps_so_far=tuple(trainer.steps_by_subnet.items()),
        curve=_after_warmup(searcher),
        candidates=tuple(candidates),
        losses=tuple(tuple(tuple(batches) for batches in point) for point in losses),
        step_seconds=searcher.costs.all_seconds(space.spec, subnets),
        shown=shown_at(trainer, index),
        shown_before=shown_at(trainer, index - 1),
        is_strengthened=searcher.is_strengthened,
        seconds_left=None if budget is None else max(0.0, budget - trainer.ledger.wall_seconds()),
    )


def _after_warmup(searcher: Searcher) -> tuple[tuple[float, float], ...]:
    trainer, first = searcher.trainer, searcher.search.space.smallest
    warmup = trainer.recipe.warmup_share * trainer.total_steps / searcher.step_costs[first]
    curve = trainer.notes.get("curve", [])
    # Rounded, since a point made of two is that of a straight run but for the last bits.
    return tuple((step, round(loss, 6)) for step, loss in curve if step > warmup)


def recorded_decision(searcher: Searcher, index: int) -> Decision | None:
    """Return decision `index` if an earlier attempt took it."""
    return next((d for d in searcher.recorded if d.index == index), None)


def tell_again(searcher: Searcher, decision: Decision) -> Iterator[Event]:
    """Tell of a recorded decision that is executed once more, since the log drops what is replayed."""
    if searcher.next_is_new:
        yield Decided(step=searcher.trainer.step, decision=decision)


def recorded_inputs(searcher: Searcher, index: int) -> DecisionInputs | None:
    """Return what decision `index` is to be taken from, if an earlier attempt got as far as that."""
    return next((one for one in searcher.recorded_inputs if one.index == index), None)


def announce(searcher: Searcher, decision: Decision) -> Iterator[Event]:
    """Put a decision on disk before it is executed, then tell of it."""
    searcher.trainer.folder.record_decision(decision)
    yield Decided(step=searcher.trainer.step, decision=decision)
