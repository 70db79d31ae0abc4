"""What a search is made of, what it has decided so far, and the schedule that this comes to."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean

from autoprog.curves import Curriculum, ramped_curriculum
from autoprog.data.sources import OpenedData
from autoprog.decisions import Continuation, Decision, DecisionInputs, ReachedLosses, read_fidelity
from autoprog.errors import ConfigError
from autoprog.events import CostsKnown, Decided, Estimated, Event, StepLogged, SupernetStarted
from autoprog.files import parse
from autoprog.recipe import Recipe
from autoprog.runs import Run, RunFolder, load_run
from autoprog.schedule import FoundBy, GrowthSchedule, Lengths, LengthUnit, full_epochs_of
from autoprog.search.controller import Controller
from autoprog.search.decide import ONCE, Chooser, decide, forced_decision
from autoprog.search.estimate import estimate_losses
from autoprog.search.fidelity import is_due, keep_start, measure_fidelity
from autoprog.search.forecast import target_entropy
from autoprog.search.measured_costs import Costs, completing_costs
from autoprog.search.plan import DecisionPoint, SearchPlan, make_plan, point_candidates
from autoprog.settings import RunSettings, SearchSettings
from autoprog.space import by_size, is_shipped
from autoprog.stage import FullModel, LearningRate, Stage, Tokens, depth_value
from autoprog.train.device import resolve_compute
from autoprog.train.pace import CostPace
from autoprog.train.phase import Choice, Compact, GrowTo, Phase, plain_choice
from autoprog.train.run import Job, RunLength, build_trainer, finish, run_length, start
from autoprog.train.stop import GaveUpError
from autoprog.train.trainer import Trainer
from supernet.config import Slots, SubnetConfig
from supernet.depthmap import skip_lists

__all__ = [
    "Piece",
    "Searcher",
    "announce",
    "build_searcher",
    "cost_pace",
    "decision_point",
    "found_lengths",
    "found_schedule",
    "inputs_of",
    "learning_rate_of",
    "length_and_plan",
    "losses_at",
    "merged",
    "note_losses",
    "noting_losses",
    "recorded_decision",
    "recorded_inputs",
    "search_schedule",
    "settle",
    "step_costs",
    "tell_again",
    "turn_to",
]


# --------------------------------------------------------------------------------------------------
# The stretches of a schedule as they are decided one after another.


@dataclass(frozen=True)
class Piece:
    """A stretch of the schedule as decided: from ``step`` on, at ``subnet``."""

    step: int
    subnet: SubnetConfig
    curriculum: Curriculum


def merged(pieces: Sequence[Piece]) -> list[Piece]:
    """Return the pieces without those that have no step, neighbours that are alike as one."""
    kept: list[Piece] = []
    for piece in pieces:
        same = kept and (kept[-1].subnet, kept[-1].curriculum) == (piece.subnet, piece.curriculum)
        if kept and kept[-1].step == piece.step:
            kept[-1] = piece
        elif not same:
            kept.append(piece)
    return kept


# --------------------------------------------------------------------------------------------------
# What a search keeps with its checkpoints: training losses, and what the subnet of each time came
# to.


_RECENT_POINTS = 4


def noting_losses(trainer: Trainer, phase: Phase, keeps_curve: bool) -> Iterator[Event]:
    """Run a plain phase and keep its training losses: the last ones, and the curve that the roll-out fits."""
    name = str(phase.choices[0].subnet)
    for event in trainer.run(phase):
        if isinstance(event, StepLogged):
            recent = trainer.search_state.setdefault("recent", {}).setdefault(name, [])
            _note(trainer, recent, phase, event)
            del recent[:-_RECENT_POINTS]
            if keeps_curve:
                _note(trainer, trainer.search_state.setdefault("curve", []), phase, event)
        yield event


def note_losses(trainer: Trainer, index: int, current: SubnetConfig) -> None:
    """Keep what the current subnet has come to before decision `index`; once, and by rank 0 alone."""
    reached = trainer.search_state.setdefault("reached_losses", {})
    recent = trainer.search_state.get("recent", {}).get(str(current), [])
    if not trainer.ranks.is_main or str(index) in reached or len(recent) < _RECENT_POINTS:
        return
    with trainer.ledger.charge("search"):
        held_out = fmean(estimate_losses(trainer, plain_choice(current)))
    # Rounded, since a point made of two is that of a straight run but for the last bits.
    training = round(fmean(loss for _, loss in recent), 6)
    found = ReachedLosses(subnet=current, held_out_loss=held_out, training_loss=training)
    reached[str(index)] = found.model_dump(mode="json")


def losses_at(trainer: Trainer, index: int) -> ReachedLosses | None:
    """Return what was kept before a decision, if anything was."""
    found = trainer.search_state.get("reached_losses", {}).get(str(index))
    return None if found is None else ReachedLosses.model_validate(found)


def _note(trainer: Trainer, curve: list[list[float]], phase: Phase, event: StepLogged) -> None:
    """Append to a curve; what a stop had split in two becomes one point again."""
    loss, every = event.loss, trainer.settings.log_every_steps
    if curve and curve[-1][0] > phase.start_step and curve[-1][0] % every:
        step, earlier = curve.pop()
        begin = max(phase.start_step, step - step % every)
        loss = (earlier * (step - begin) + loss * (event.step - step)) / (event.step - begin)
    curve.append([event.step, loss])


# --------------------------------------------------------------------------------------------------
# The schedule that a search has found: what it decided, piece by piece.


def found_schedule(searcher: Searcher) -> GrowthSchedule:
    """Return what was decided as a schedule; stretches in which nothing changes are one stage."""
    pieces = merged(searcher.pieces)
    trainer, search = searcher.trainer, searcher.search
    stops = [piece.step for piece in pieces[1:]] + [trainer.total_steps]
    by_proxy = search.proxy < 1  # meant for runs of another length
    whole: LengthUnit = "compute_fraction" if searcher.by_time else "fraction"
    units = {
        subnet: trainer.total_steps if by_proxy else cost * trainer.steps_per_epoch
        for subnet, cost in searcher.step_costs.items()
    }
    stages = tuple(
        Stage(
            length=(stop - piece.step) / units[piece.subnet],
            depth=depth_value(piece.subnet.depth),
            img_size=piece.subnet.img_size,
            tokens=Tokens.of(piece.subnet.tokens),
            grow=search.space.decisions.grow,
            curriculum=piece.curriculum,
        )
        for piece, stop in zip(pieces, stops, strict=True)
    )
    fidelity = read_fidelity(trainer.folder.path)
    found_by = FoundBy(
        run=trainer.folder.manifest.run_id,
        rule=search.rule,
        seed=trainer.settings.seed,
        fidelity=None if fidelity is None else fidelity.summary,
    )
    full = FullModel.of(search.space.spec)
    return GrowthSchedule(
        full=full,
        length_unit=whole if by_proxy else "epochs",
        lr=searcher.lr,
        stages=stages,
        found_by=found_by,
    )


def found_lengths(searcher: Searcher, schedule: GrowthSchedule) -> Lengths:
    """Return how long the search was and how long what it found is."""
    trainer = searcher.trainer
    return Lengths(
        named_epochs=trainer.recipe.epochs,
        cost_fraction=searcher.search.cost_fraction,
        steps=trainer.step,
        trained_epochs=trainer.step / trainer.steps_per_epoch,
        schedule_epochs=schedule.own_epochs(trainer.steps_per_epoch),
        full_epochs=full_epochs_of(schedule, trainer.data.num_classes),
    )


# --------------------------------------------------------------------------------------------------
# How long a search is: as many epochs as the recipe says, or a fraction of the time that these
# would take.


def length_and_plan(
    search: SearchSettings, recipe: Recipe, num_images: int
) -> tuple[RunLength, SearchPlan]:
    """Return the length of a search and when it decides; a fraction of time counts in steps of the full model.

    Raises:
        ConfigError: If the plan does not fit the length, with what would make it fit.
    """
    try:
        return _length_and_plan(search, recipe, num_images)
    except ConfigError as error:
        raise _refusal(search, recipe, num_images, error) from None


def _length_and_plan(
    search: SearchSettings, recipe: Recipe, num_images: int
) -> tuple[RunLength, SearchPlan]:
    length = _length(search, recipe, num_images)
    by_time = search.cost_fraction is not None
    plan = make_plan(search.rule, search.space, length.steps_per_epoch, length.total_steps, by_time)
    return length, plan


def _length(search: SearchSettings, recipe: Recipe, num_images: int) -> RunLength:
    fraction = 1.0 if search.cost_fraction is None else search.cost_fraction
    return run_length(num_images, recipe.batch_size, recipe.epochs * fraction)


_MAX_EPOCHS = 2**16
_PLAN_FLAGS = {
    "decisions.min_full_fraction": "--min-full-fraction",
    "decisions.supernet_epochs": "--supernet-epochs",
}


def _refusal(
    search: SearchSettings, recipe: Recipe, num_images: int, error: ConfigError
) -> ConfigError:
    """Return why there is no plan: too few steps, where more would do, else the value that leaves no room."""

    def fits(**changes: float) -> bool:
        try:
            _length_and_plan(search, recipe.model_copy(update=changes), num_images)
        except ConfigError:
            return False
        return True

    epochs, batch_size = _enough_epochs(recipe.epochs, fits), _small_batch(recipe.batch_size, fits)
    hints = [] if epochs is None else [f"--epochs {math.ceil(epochs / search.proxy)}"]
    hints += [] if batch_size is None else [f"--batch-size {batch_size}"]
    lower = _lower(search, recipe, num_images, error.key)
    hints += [] if lower is None else [lower]
    if not hints:
        if not is_shipped(search.space_from):
            return ConfigError(search.space_from, error.key, error.problem, error.value, error.hint)
        return ConfigError(_PLAN_FLAGS[error.key], "", error.problem, error.value, error.hint)
    steps = _length(search, recipe, num_images).total_steps
    full = "" if search.cost_fraction is None else " of the full model"
    return ConfigError(
        "search",
        "",
        f"{steps} steps{full} are too few to search",
        hint=f"take {' or '.join(hints)}",
    )


def _lower(search: SearchSettings, recipe: Recipe, num_images: int, key: str) -> str | None:
    """Return the flag with a half, a quarter … of the value that leaves no room; None if none does."""
    name = key.removeprefix("decisions.")
    decisions = search.space.decisions
    for halvings in range(1, 5):
        value = float(f"{getattr(decisions, name) / 2**halvings:.2g}")
        lower = decisions.model_copy(update={name: value})
        space = search.space.model_copy(update={"decisions": lower})
        try:
            _length_and_plan(search.model_copy(update={"space": space}), recipe, num_images)
        except ConfigError:
            continue
        return f"{_PLAN_FLAGS[key]} {value:g}"
    return None


def _enough_epochs(epochs: float, fits: Callable[..., bool]) -> int | None:
    """Return the least whole number of epochs that is long enough; None if none of a sensible size is."""
    low, high = math.floor(epochs), max(1, math.floor(epochs)) * 2
    while not fits(epochs=high):
        low, high = high, 2 * high
        if high > _MAX_EPOCHS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(epochs=middle) else (middle, high)
    return high


def _small_batch(batch_size: int, fits: Callable[..., bool]) -> int | None:
    """Return the largest half, quarter … of a batch that is small enough; even, as mixing images needs."""
    halves = batch_size // 2
    while halves >= 2:
        if halves % 2 == 0 and fits(batch_size=halves):
            return halves
        halves //= 2
    return None


def step_costs(search: SearchSettings, costs: Costs) -> dict[SubnetConfig, float]:
    """Return what a step of each subnet counts for: 1, or its seconds relative to the full model's.

    None counts for more than a full step, whatever was measured.
    """
    space = search.space
    subnets = space.above(space.smallest)
    if search.cost_fraction is None:
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
    return lr if search.cost_fraction is None else lr.model_copy(update={"clock": "compute"})


@dataclass
class Searcher:
    """What a search holds beside the trainer: the plan, the costs, the controller, the decisions so far.

    Only rank 0 has a controller. With ``full_regularisation`` regularisation is of full strength from here on.
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
    continuation: Continuation = ()
    full_regularisation: bool = False
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
        if self.full_regularisation:
            return ramped_curriculum(strength, 0, 1)
        return ramped_curriculum(strength, self.plan.piece_at(step), count)

    @property
    def by_time(self) -> bool:
        """Tell whether the length of the run is the time that its steps are known to take."""
        return self.search.cost_fraction is not None

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
        chance_loss=math.log(trainer.data.num_classes) if searcher.by_time else None,
        loss_floor=target_entropy(trainer.recipe.smoothing, trainer.data.num_classes),
        steps_per_epoch=trainer.steps_per_epoch,
        total_steps=trainer.total_steps,
        full_step=plan.full_step,
        current=searcher.current,
        incumbent=searcher.continuation,
        num_points=sum(point.start_step > searcher.position for point in plan.points),
        steps_so_far=tuple(trainer.steps_by_subnet.items()),
        curve=_after_warmup(searcher),
        candidates=tuple(candidates),
        losses=tuple(tuple(tuple(batches) for batches in point) for point in losses),
        step_seconds=searcher.costs.all_seconds(space.spec, subnets),
        current_losses=losses_at(trainer, index),
        previous_losses=losses_at(trainer, index - 1),
        full_regularisation=searcher.full_regularisation,
        seconds_left=None if budget is None else max(0.0, budget - trainer.ledger.wall_seconds()),
    )


def _after_warmup(searcher: Searcher) -> tuple[tuple[float, float], ...]:
    trainer, first = searcher.trainer, searcher.search.space.smallest
    warmup = trainer.recipe.warmup_fraction * trainer.total_steps / searcher.step_costs[first]
    curve = trainer.search_state.get("curve", [])
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


# --------------------------------------------------------------------------------------------------
# One decision: train a supernet over the candidates, estimate them, choose.


def decision_point(searcher: Searcher, point: DecisionPoint) -> Iterator[Event]:
    """Train a supernet over the candidates, estimate them, decide, and go on with the winner."""
    yield from settle(searcher)
    search, first = searcher.search, point.index == 0
    grid = point_candidates(search.rule, search.space, searcher.current, first)
    top = max(subnet.depth for subnet in grid)
    choices = {subnet: _choice(searcher, subnet, top) for subnet in grid}
    started = searcher.position
    if search.rule == "rollout" and searcher.next_is_new:
        with suppress(GaveUpError):
            note_losses(searcher.trainer, point.index, searcher.current)
        yield from searcher.trainer.halt_if_asked()
    check = is_due(searcher, point)
    if check:
        keep_start(searcher)
    yield from _train_supernet(searcher, point, choices, top)
    if check:
        estimate = partial(_estimate, searcher, point, choices)
        curriculum = _curriculum(searcher, point)
        yield from measure_fidelity(searcher, point, tuple(choices), curriculum, estimate)
    decision = recorded_decision(searcher, point.index)
    if decision is None:
        decision = yield from _decide_for_all(searcher, point, choices)
    else:
        yield from tell_again(searcher, decision)
    searcher.enter, searcher.continuation = (
        Compact(choices[decision.subnet].slots),
        decision.continuation,
    )
    # The supernet phase counts to the stage that it leads to: this is what a replay of the schedule
    # does.
    turn_to(searcher, decision.subnet, started)
    if decision.full_regularisation:
        searcher.full_regularisation = True
        turn_to(searcher, decision.subnet, searcher.position)


def _choice(searcher: Searcher, subnet: SubnetConfig, top: tuple[int, ...]) -> Choice:
    """Return a candidate with the slots it runs inside the supernet, over one base: the current depth."""
    grow = searcher.search.space.decisions.grow
    slots: Slots = skip_lists(searcher.current.depth, top, subnet.depth, grow.placement)
    return Choice(subnet, slots)


def _train_supernet(
    searcher: Searcher,
    point: DecisionPoint,
    choices: dict[SubnetConfig, Choice],
    top: tuple[int, ...],
) -> Iterator[Event]:
    """Train one sampled candidate a step, stopping at each time point to estimate all of them."""
    trainer = searcher.trainer
    largest = max(choices, key=by_size)
    if top != searcher.current.depth:
        grow = searcher.search.space.decisions.grow
        searcher.enter = GrowTo(searcher.current, largest, grow)
    if searcher.next_is_new:
        yield SupernetStarted(
            step=trainer.step,
            decision=point.index,
            current=searcher.current,
            candidates=tuple(choices),
            stop_step=point.stop_step,
        )
    curriculum = _curriculum(searcher, point)
    for number, stop in enumerate(point.estimate_steps):
        phase = searcher.next_phase(
            stop,
            kind="supernet",
            choices=tuple(choices.values()),
            depth=top,
            curriculum=curriculum,
            ends_stage=False,
            starts_stage=False,
            held_out=True,
        )
        yield from trainer.run(phase)
        if stop != point.stop_step:
            yield from _estimate_all(searcher, point, number, choices)
            yield from trainer.halt_if_asked()


def _curriculum(searcher: Searcher, point: DecisionPoint) -> Curriculum:
    """Return the regularisation of a supernet phase: as published the final one, else that of its piece."""
    if searcher.search.rule == "autoprog":
        return ramped_curriculum(searcher.trainer.recipe.strength, 0, 1)
    return searcher.curriculum(point.start_step)


def _estimate_all(
    searcher: Searcher,
    point: DecisionPoint,
    number: int,
    choices: dict[SubnetConfig, Choice],
) -> Iterator[Event]:
    """Estimate all candidates at one time point, unless that has been done or is not needed any more."""
    done = _noted_losses(searcher, point)
    if recorded_decision(searcher, point.index) is not None or len(done) > number:
        return
    if not searcher.trainer.ranks.is_main:
        return
    begin = searcher.trainer.clock()
    try:
        done.append([_losses(searcher, choice) for choice in choices.values()])
    except GaveUpError:
        return  # the caller halts the run, on all ranks
    yield _estimated(searcher, point, number, dict(zip(choices, done[number], strict=True)), begin)


def _noted_losses(searcher: Searcher, point: DecisionPoint) -> list[list[list[float]]]:
    """Return the batch losses by time point and candidate that are kept with checkpoints."""
    notes = searcher.trainer.search_state.setdefault("estimates", {})
    return notes.setdefault(str(point.index), [])


def _estimate(
    searcher: Searcher,
    point: DecisionPoint,
    choices: dict[SubnetConfig, Choice],
    subnet: SubnetConfig,
) -> float:
    """Return the one-shot loss that the rule goes by: over all time points (AutoProg), or at the last."""
    number = list(choices).index(subnet)
    earlier = [fmean(row[number]) for row in _noted_losses(searcher, point)]
    last = fmean(_losses(searcher, choices[subnet]))
    return fmean([*earlier, last]) if searcher.search.rule == "autoprog" else last


def _losses(searcher: Searcher, choice: Choice) -> list[float]:
    with searcher.trainer.ledger.charge("search"):
        return estimate_losses(searcher.trainer, choice)


def _estimated(
    searcher: Searcher,
    point: DecisionPoint,
    number: int,
    losses: Mapping[SubnetConfig, Sequence[float]],
    begin: float,
) -> Estimated:
    trainer = searcher.trainer
    return Estimated(
        step=trainer.step,
        decision=point.index,
        point=number,
        losses=tuple((subnet, fmean(values)) for subnet, values in losses.items()),
        seconds=trainer.clock() - begin,
    )


def _decide_for_all(
    searcher: Searcher, point: DecisionPoint, choices: dict[SubnetConfig, Choice]
) -> Generator[Event, None, Decision]:
    """Let rank 0 estimate, decide and write it down; the other ranks are told."""
    trainer, text = searcher.trainer, ""
    if trainer.ranks.is_main:
        with suppress(GaveUpError):
            estimated, decision = _decide(searcher, point, choices)
            yield estimated
            yield from announce(searcher, decision)
            text = decision.model_dump_json()
    text = trainer.ranks.broadcast(text)
    if not text:  # rank 0 was asked to stop
        yield from trainer.halt_if_asked()
    return parse(Decision, json.loads(text), "decision of rank 0")


def _decide(
    searcher: Searcher, point: DecisionPoint, choices: dict[SubnetConfig, Choice]
) -> tuple[Estimated, Decision]:
    """Estimate the candidates that the controller proposes, write down what came out, and decide.

    What an earlier attempt wrote down is not estimated again.
    """
    begin = searcher.trainer.clock()
    inputs = recorded_inputs(searcher, point.index)
    if inputs is None:
        inputs = _inputs(searcher, point, _estimated_losses(searcher, point, choices))
        searcher.trainer.folder.record_inputs(inputs)
    losses = dict(zip(inputs.candidates, inputs.losses[-1], strict=True))
    estimated = _estimated(searcher, point, len(point.estimate_steps) - 1, losses, begin)
    with searcher.trainer.ledger.charge("search"):
        return estimated, decide(searcher.chooser, inputs)


def _estimated_losses(
    searcher: Searcher, point: DecisionPoint, choices: dict[SubnetConfig, Choice]
) -> dict[SubnetConfig, list[float]]:
    """Return the batch losses of the candidates; proposals adapt to the losses so far."""
    anchors = _anchors(searcher, choices)
    most = searcher.search.space.decisions.max_candidates
    assert searcher.controller is not None, "rank 0 has the controller"
    proposals = searcher.controller.propose(point.index, tuple(choices), anchors, most)
    losses: dict[SubnetConfig, list[float]] = {}
    for subnet in proposals:
        losses[subnet] = _losses(searcher, choices[subnet])
        seconds = _step_seconds(searcher, choices[subnet])
        loss = fmean(losses[subnet])
        proposals.tell(subnet, loss, loss=loss, step_seconds=seconds)
    return losses


def _anchors(searcher: Searcher, choices: dict[SubnetConfig, Choice]) -> tuple[SubnetConfig, ...]:
    """Return what is always looked at: staying (or the smallest step up) and the largest candidate."""
    ordered = tuple(choices)
    stay = searcher.current if searcher.current in choices else ordered[0]
    planned = [subnet for _, subnet in searcher.continuation if subnet in choices]
    return tuple(dict.fromkeys((stay, ordered[-1], *planned)))


def _step_seconds(searcher: Searcher, choice: Choice) -> float:
    """Return a candidate's step seconds, recorded before they are used, or estimated from those on record.

    Where the run goes by costs, those of its start stand.
    """
    if not searcher.by_time:
        with searcher.trainer.ledger.charge("search"):
            added = searcher.costs.complete(searcher.trainer, (choice,))
        if added:
            searcher.trainer.folder.write_costs(searcher.costs.table)
    spec = searcher.search.space.spec
    return searcher.costs.all_seconds(spec, [choice.subnet])[str(choice.subnet)]


def _inputs(
    searcher: Searcher, point: DecisionPoint, losses: dict[SubnetConfig, list[float]]
) -> DecisionInputs:
    """Return what the decision is taken from: the candidates estimated, in the order of the grid."""
    search = searcher.search
    grid = point_candidates(search.rule, search.space, searcher.current, point.index == 0)
    subnets = [subnet for subnet in grid if subnet in losses]
    earlier = [
        [values for subnet, values in zip(grid, row, strict=True) if subnet in losses]
        for row in _noted_losses(searcher, point)
    ]
    last = [losses[subnet] for subnet in subnets]
    return inputs_of(searcher, point.index, [*earlier, last], subnets)


# --------------------------------------------------------------------------------------------------
# The search: a training run that decides its own schedule on the way.


def search_schedule(searcher: Searcher) -> Iterator[Event]:
    """Train along a schedule that is decided on the way; write it down; finish the run.

    A recorded decision is executed, never taken again.

    Raises:
        DivergedError: If a loss is not finite.
        InterruptedRunError: If a stop was requested.
    """
    try:
        yield from start(searcher.trainer)
        yield from _measure_costs(searcher)
        if searcher.by_time:
            searcher.trainer.stepper.pace = cost_pace(searcher.trainer, searcher.step_costs)
        yield from _train(searcher)
        schedule = found_schedule(searcher)
        lengths = f"Lengths: {found_lengths(searcher, schedule).sentence()}."
        searcher.trainer.folder.write_schedule(schedule, "best.yaml", lengths)
        searcher.trainer.folder.write_schedule(schedule)
        yield from finish(searcher.trainer, schedule)
    finally:
        searcher.trainer.data.close()


def _measure_costs(searcher: Searcher) -> Iterator[Event]:
    """Measure what the subnets of the space cost, once in a run; what is on record stays.

    Where the length of the run goes by costs, those that were given stand as they are: more cells would make
    it another run.

    Raises:
        InterruptedRunError: If a stop was requested; nothing is on record then.
    """
    trainer, costs, space = searcher.trainer, searcher.costs, searcher.search.space
    subnets = space.above(space.smallest)
    if not costs.has_grid and not (searcher.by_time and costs.seconds):
        try:
            with trainer.ledger.charge("search"):
                choices = [plain_choice(subnet) for subnet in subnets]
                added = yield from completing_costs(trainer, costs, choices, together=True)
        except GaveUpError:
            yield from trainer.halt_if_asked()
            raise  # no rank has been asked to stop
        if added:
            trainer.folder.write_costs(costs.table)
    seconds = costs.all_seconds(space.spec, subnets)
    yield CostsKnown(
        step=trainer.step,
        step_seconds=tuple((subnet, seconds[str(subnet)]) for subnet in subnets),
        num_estimated=sum(costs.get(subnet) is None for subnet in subnets),
    )


def _train(searcher: Searcher) -> Iterator[Event]:
    """Train from the smallest subnet to the full model, by way of all decisions."""
    space = searcher.search.space
    searcher.pieces.append(Piece(0, space.smallest, searcher.curriculum(0)))
    for point in searcher.plan.points:
        if searcher.current != searcher.full:
            yield from _train_until(searcher, point.start_step)
            yield from decision_point(searcher, point)
    if searcher.search.rule in ONCE:
        yield from _follow_continuation(searcher)
    if searcher.current != searcher.full:
        yield from _train_until(searcher, searcher.plan.full_step)
        yield from _become_full(searcher)
    yield from _train_to_the_end(searcher)


def _follow_continuation(searcher: Searcher) -> Iterator[Event]:
    """Carry out what was decided for the rest of the run."""
    for step, subnet in searcher.continuation[1:]:
        for turn in _announced_starts(searcher, step):
            if searcher.curriculum(turn) != searcher.pieces[-1].curriculum:
                yield from _train_until(searcher, turn)
                turn_to(searcher, searcher.current, turn)
        yield from _train_until(searcher, step)
        yield from settle(searcher)
        _grow_to(searcher, subnet)


def _train_until(searcher: Searcher, stop: int) -> Iterator[Event]:
    """Train the current subnet up to `stop`."""
    if stop > searcher.position:
        trainer = searcher.trainer
        first = set(trainer.steps_by_subnet) <= {searcher.pieces[0].subnet}
        phase = searcher.next_phase(stop)
        yield from noting_losses(trainer, phase, keeps_curve=first)


def _train_to_the_end(searcher: Searcher) -> Iterator[Event]:
    """Train the full model through the remaining pieces, each with its regularisation."""
    total = searcher.plan.total_steps
    for stop in [*_announced_starts(searcher, total), total] if total > searcher.position else []:
        if searcher.curriculum(searcher.position) != searcher.pieces[-1].curriculum:
            turn_to(searcher, searcher.full, searcher.position)
        yield from searcher.trainer.run(searcher.next_phase(stop))


def _announced_starts(searcher: Searcher, stop: int) -> list[int]:
    """Return where pieces of the run begin between the position and `stop`."""
    return [step for step in searcher.plan.piece_starts if searcher.position < step < stop]


def _become_full(searcher: Searcher) -> Iterator[Event]:
    """Grow to the full model where it is the only candidate left."""
    yield from settle(searcher)
    index = len(searcher.plan.points)
    decision = recorded_decision(searcher, index)
    if decision is None:
        why = "the full model is due for the rest of the run"
        place = (index, searcher.trainer.step, searcher.trainer.epoch)
        rule, current = searcher.search.rule, searcher.current
        decision = forced_decision(rule, current, searcher.full, place, why)
        yield from announce(searcher, decision)
    else:
        yield from tell_again(searcher, decision)
    _grow_to(searcher, searcher.full)


def _grow_to(searcher: Searcher, subnet: SubnetConfig) -> None:
    grow = searcher.search.space.decisions.grow
    if subnet.depth != searcher.current.depth:
        searcher.enter = GrowTo(searcher.current, subnet, grow)
    turn_to(searcher, subnet, searcher.position)
