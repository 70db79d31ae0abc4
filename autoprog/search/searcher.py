"""What a search is made of, what it has decided so far, and the schedule that this comes to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from autoprog.curves import Curriculum
from autoprog.decisions import Decision
from autoprog.events import Decided, Event, Progressed
from autoprog.presets import ramped_curriculum
from autoprog.runs import Run, RunFolder, load_run
from autoprog.schedule import FoundBy, FullModel, GrowthSchedule, LearningRate, Stage, depth_value
from autoprog.search.controller import Controller
from autoprog.search.decide import Situation
from autoprog.search.plan import SearchPlan, make_plan
from autoprog.search.profile import Costs
from autoprog.settings import RunSettings, SearchSettings
from autoprog.train.data import OpenedData
from autoprog.train.device import resolve_compute
from autoprog.train.engine import build_trainer, run_length
from autoprog.train.phase import Compact, GrowTo, Phase, plain_choice
from autoprog.train.trainer import StopRequest, Trainer
from supernet.config import SubnetConfig
from supernet.cost import relative_cost

__all__ = [
    "Piece",
    "Searcher",
    "announce",
    "build_searcher",
    "found_schedule",
    "noting_curve",
    "recorded_decision",
    "situation_of",
    "turn_to",
]


@dataclass(frozen=True)
class Piece:
    """A stretch of the schedule as decided: from ``step`` on, at ``subnet``."""

    step: int
    subnet: SubnetConfig
    curriculum: Curriculum


@dataclass
class Searcher:
    """What a search holds beside the trainer: the plan, the costs, the controller, the decisions so far."""

    trainer: Trainer
    search: SearchSettings
    plan: SearchPlan
    costs: Costs
    controller: Controller
    recorded: tuple[Decision, ...]
    lr: LearningRate
    num_phases: int = 0
    position: int = 0
    announced_stage: int = -1
    pieces: list[Piece] = field(default_factory=list)
    enter: GrowTo | Compact | None = None

    @property
    def current(self) -> SubnetConfig:
        """Return the subnet that trains now."""
        return self.pieces[-1].subnet

    @property
    def full(self) -> SubnetConfig:
        """Return the full model."""
        return self.search.space.spec.full

    def curriculum(self, step: int) -> Curriculum:
        """Return the regularisation of the piece that holds `step`."""
        count = self.search.space.decisions.num_stages
        strength = self.trainer.recipe.strength
        return ramped_curriculum(strength, self.plan.piece_at(step), count)

    def next_phase(self, stop: int, **fields: object) -> Phase:
        """Return a phase from the position to `stop` at the current subnet; `fields` override."""
        stage = len(self.pieces) - 1
        phase = Phase(
            index=self.num_phases,
            kind="plain",
            stage=stage,
            start_step=self.position,
            stop_step=stop,
            choices=(plain_choice(self.current),),
            depth=self.current.depth,
            curriculum=self.pieces[-1].curriculum,
            enter=self.enter,
            starts_stage=stage != self.announced_stage,
            held_out=self.position < self.plan.full_step and self.current != self.full,
        )
        self.num_phases, self.position, self.enter = self.num_phases + 1, stop, None
        phase = replace(phase, **fields)  # type: ignore[arg-type]
        if phase.kind == "plain":
            self.announced_stage = stage
        return phase


def build_searcher(
    settings: RunSettings, folder: RunFolder, opened: OpenedData, stop: StopRequest
) -> Searcher:
    """Return a search, new or with the decisions and costs that its folder records.

    Raises:
        ConfigError: If the plan does not fit the length of the run, or the costs cannot be read.
    """
    search, recipe = settings.search, settings.recipe
    assert search is not None, "a search has search settings"
    length = run_length(len(opened.train), recipe.batch_size, recipe.epochs)
    plan = make_plan(
        search.rule, search.space.decisions, length.steps_per_epoch, length.total_steps
    )
    compute = resolve_compute(settings.device, settings.amp, settings.threads)
    recorded = load_run(folder.path)
    return Searcher(
        trainer=build_trainer(settings, folder, opened, compute, length, recipe.sched, stop),
        search=search,
        plan=plan,
        costs=_known_costs(search, recorded, recipe.batch_size),
        controller=Controller(
            folder.journal, folder.manifest.run_id, settings.seed, search.sampler
        ),
        recorded=recorded.decisions,
        lr=recipe.learning_rate,
    )


def _known_costs(search: SearchSettings, recorded: Run, batch_size: int) -> Costs:
    """Return the costs on record: this run's own, or those of the file that it was given."""
    if recorded.costs or search.costs_from is None:
        return Costs(dict(recorded.costs), batch_size)
    return Costs.read(Path(search.costs_from), batch_size)


def turn_to(searcher: Searcher, subnet: SubnetConfig, step: int) -> None:
    """Begin a new stretch of the schedule at `step`."""
    searcher.pieces.append(Piece(step, subnet, searcher.curriculum(step)))


def situation_of(searcher: Searcher, index: int) -> Situation:
    """Return where the run stands at decision `index`."""
    trainer, plan, spec = searcher.trainer, searcher.plan, searcher.search.space.spec
    later = [point.start_step for point in plan.points if point.start_step > trainer.step]
    decisions = searcher.search.space.decisions
    return Situation(
        index=index,
        step=trainer.step,
        steps_per_epoch=trainer.steps_per_epoch,
        total_steps=trainer.total_steps,
        current=searcher.current,
        switch_steps=tuple(dict.fromkeys([*later, plan.full_step])),
        progress_so_far=tuple(
            (relative_cost(spec, subnet), steps)
            for subnet, steps in trainer.steps_by_subnet.items()
        ),
        curve=_after_warmup(trainer),
        recovery_steps=decisions.supernet_epochs * trainer.steps_per_epoch,
    )


def _after_warmup(trainer: Trainer) -> tuple[tuple[float, float], ...]:
    warmup = trainer.recipe.warmup_share * trainer.total_steps
    return tuple((step, loss) for step, loss in trainer.notes.get("curve", []) if step > warmup)


def recorded_decision(searcher: Searcher, index: int) -> Decision | None:
    """Return decision `index` if an earlier attempt took it."""
    return next((d for d in searcher.recorded if d.index == index), None)


def announce(searcher: Searcher, decision: Decision) -> Iterator[Event]:
    """Put a decision on disk before it is executed, then tell of it."""
    searcher.trainer.folder.record_decision(decision)
    yield Decided(step=searcher.trainer.step, decision=decision)


def noting_curve(trainer: Trainer, phase: Phase) -> Iterator[Event]:
    """Run a phase and keep its training losses, which the roll-out fits."""
    for event in trainer.run(phase):
        if isinstance(event, Progressed):
            trainer.notes.setdefault("curve", []).append([event.step, event.loss])
        yield event


def found_schedule(searcher: Searcher) -> GrowthSchedule:
    """Return what was decided as a schedule; stretches in which nothing changes are one stage."""
    pieces = _merged(searcher.pieces)
    trainer, search = searcher.trainer, searcher.search
    stops = [piece.step for piece in pieces[1:]] + [trainer.total_steps]
    stages = tuple(
        Stage(
            length=(stop - piece.step) / trainer.steps_per_epoch,
            depth=depth_value(piece.subnet.depth),
            img_size=piece.subnet.img_size,
            grow=search.space.decisions.grow,
            curriculum=piece.curriculum,
        )
        for piece, stop in zip(pieces, stops, strict=True)
    )
    found_by = FoundBy(
        run=trainer.folder.manifest.run_id, rule=search.rule, seed=trainer.settings.seed
    )
    full = FullModel.of(search.space.spec)
    return GrowthSchedule(full=full, lr=searcher.lr, stages=stages, found_by=found_by)


def _merged(pieces: Sequence[Piece]) -> list[Piece]:
    kept: list[Piece] = []
    for piece in pieces:
        same = kept and (kept[-1].subnet, kept[-1].curriculum) == (piece.subnet, piece.curriculum)
        if kept and kept[-1].step == piece.step:
            kept[-1] = piece
        elif not same:
            kept.append(piece)
    return kept
