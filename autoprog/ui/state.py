"""What is known about a run while its events come in: a fold, cheap an event and bounded in memory."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeVar

from autoprog.curves import Curriculum
from autoprog.decisions import Decision
from autoprog.errors import ConfigError
from autoprog.events import (
    CostsKnown,
    CostsMeasured,
    Decided,
    Evaluated,
    Event,
    Grown,
    Interrupted,
    RunFinished,
    RunStarted,
    StageStarted,
    StepLogged,
    SupernetStarted,
    TrialFinished,
    WarningRaised,
)
from autoprog.printable import one_line
from autoprog.schedule import GrowthSchedule
from autoprog.stage import Training, Unfrozen, relative_step_cost
from autoprog.steptable import StepTable
from supernet.config import ModelSpec, SubnetConfig
from supernet.zoo import lookup

__all__ = [
    "Clock",
    "Piece",
    "Point",
    "RunState",
    "clock_of",
    "extended",
    "fold",
    "projected_steps",
    "reduce",
    "remaining_seconds",
    "stretched",
    "thinned",
    "with_point",
]


# --------------------------------------------------------------------------------------------------
# When a run was where, by wall time: what is between evaluations is between their times.


Knots = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Clock:
    """Wall time by training time and by step, straight between knots that rise in both."""

    wall_by_train: tuple[tuple[float, float], ...]
    train_by_step: tuple[tuple[float, float], ...]

    def wall_seconds(self, train_seconds: float) -> float:
        """Return the wall time at which so much had been trained."""
        return _at(self.wall_by_train, train_seconds)

    def wall_seconds_at(self, step: float) -> float:
        """Return the wall time of a step."""
        return self.wall_seconds(_at(self.train_by_step, step))


def clock_of(state: RunState) -> Clock:
    """Return the clock of a run; after its last evaluation, wall time goes on as training does."""
    evaluations = [(one.train_seconds, one.wall_seconds) for one in state.evaluations]
    last_train, last_wall = evaluations[-1] if evaluations else (0.0, 0.0)
    after = max(last_train, state.train_seconds) + 1.0
    steps = [(point.step, point.train_seconds) for point in state.points]
    return Clock(
        ((0.0, 0.0), *evaluations, (after, last_wall + after - last_train)), ((0.0, 0.0), *steps)
    )


def _at(knots: Knots, x: float) -> float:
    """Return the value at `x`; before the first knot and after the last one that of the knot."""
    index = bisect_right(knots, x, key=lambda knot: knot[0])
    if index in (0, len(knots)):
        return knots[min(index, len(knots) - 1)][1]
    (x0, y0), (x1, y1) = knots[index - 1], knots[index]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


# --------------------------------------------------------------------------------------------------
# What a state keeps of the past, cut down so that a long run costs no more than a short one.


MAX_POINTS = 512


@dataclass(frozen=True, slots=True)
class Point:
    """One kept progress report."""

    step: int
    epoch: float
    loss: float
    lr: float
    images_per_second: float
    train_seconds: float


@dataclass(frozen=True, slots=True)
class Piece:
    """Steps ``start_step`` to ``stop_step`` (exclusive, as far as is known) that were or are carried out.

    In a supernet phase ``subnet`` is the one that training came with.
    """

    start_step: int
    stop_step: int
    stage: int
    subnet: SubnetConfig
    curriculum: Curriculum
    supernet: bool = False


def extended(pieces: tuple[Piece, ...], new: Piece) -> tuple[Piece, ...]:
    """Return `pieces` cut where `new` begins, with `new` behind; an equal neighbour is merged."""
    cut = list(pieces)
    while cut and cut[-1].start_step >= new.start_step:
        cut.pop()
    if cut:  # those before it end where it begins
        cut[-1] = replace(cut[-1], stop_step=min(cut[-1].stop_step, new.start_step))
    if cut and replace(cut[-1], start_step=0, stop_step=0) == replace(
        new, start_step=0, stop_step=0
    ):
        new = replace(new, start_step=cut.pop().start_step)
    return (*cut, new)


def stretched(pieces: tuple[Piece, ...], stop_step: int) -> tuple[Piece, ...]:
    """Return `pieces` with the last one ending at `stop_step`."""
    return (*pieces[:-1], *(replace(piece, stop_step=stop_step) for piece in pieces[-1:]))


def with_point(
    points: tuple[Point, ...], spacing_steps: int, point: Point
) -> tuple[tuple[Point, ...], int]:
    """Return the points and their least spacing after one more, which is kept if it is far enough.

    A full list loses every second point and doubles the spacing.
    """
    if points and point.step - points[-1].step < spacing_steps:
        return points, spacing_steps
    points = (*points, point)
    if len(points) > MAX_POINTS:
        points = points[::2]
        spacing_steps = max(1, (points[-1].step - points[0].step) // (len(points) - 1))
    return points, spacing_steps


class _Stepped(Protocol):
    @property
    def step(self) -> int: ...


Item = TypeVar("Item", bound=_Stepped)


def thinned(items: tuple[Item, ...], most: int) -> tuple[Item, ...]:
    """Return at most `most` items: every second one but the last where there are more."""
    return items if len(items) <= most else (*items[:-1:2], items[-1])


# --------------------------------------------------------------------------------------------------
# What the rest of a run will take, and how many steps that makes.


_TRUST = 0.1
"""Measured costs count as much as so large a fraction of the run in which steps took what they say."""

_MIN_FRACTION = 0.02  # of the run, from which on its evaluations tell how many are to come


def remaining_seconds(state: RunState) -> float | None:
    """Return the seconds that remain, data and evaluations included; None before any speed is known."""
    if state.phase == "complete":
        return 0.0
    if state.time_budget_seconds is not None:
        return (1.0 - state.fraction_done) * state.time_budget_seconds
    if state.measuring is not None and not state.cost_seconds:
        told = state.measuring
        return None if told.run_seconds is None else told.left_seconds + told.run_seconds
    if state.cost_seconds:
        seconds = _to_come_by_costs(state) * _correction(state)
    elif state.cost_fraction is not None:
        if not state.fraction_done:
            return None
        seconds = state.train_seconds * (1.0 - state.fraction_done) / state.fraction_done
    elif state.subnet is None or state.subnet not in state.step_seconds:
        return None
    else:
        waits = min(state.data_wait_smoothed or 0.0, 0.99)
        seconds = _to_come_by_speed(state, state.subnet) / (1.0 - waits)
    return seconds + _evaluations_to_come(state)


def projected_steps(state: RunState) -> int:
    """Return about how many steps a search by time will have made, by the plan in force and its costs."""
    costs = state.cost_seconds
    full = costs[_full(state)]
    steps = sum(
        units * max(1.0, full / costs.get(subnet, full)) for units, subnet in _planned(state)
    )
    return state.step + round(steps)


def _to_come_by_costs(state: RunState) -> float:
    """Return the seconds of the steps to come by the costs that were measured at the start."""
    costs, full = state.cost_seconds, state.cost_seconds[_full(state)]
    if state.cost_fraction is not None:
        return (1.0 - state.fraction_done) * state.nominal_steps * full
    return sum(steps * costs.get(subnet, full) for steps, subnet in _planned(state))


def _full(state: RunState) -> SubnetConfig:
    """Return the full model, which is the last of the subnets of a space."""
    return next(reversed(state.cost_seconds))


def _correction(state: RunState) -> float:
    """Return how much longer than measured steps and their data take, as far as can be told by now."""
    if state.first_costed_seconds is None:
        return 1.0
    costed = state.costed_seconds - state.first_costed_seconds
    trust = _TRUST * (state.costed_seconds + _to_come_by_costs(state))
    return (state.stepped_seconds + trust) / (costed + trust) if costed + trust > 0 else 1.0


def _planned(state: RunState) -> Iterator[tuple[float, SubnetConfig]]:
    """Yield the plan in force from now on: (steps, subnet); by time steps of the full model.

    Before the first decision half of the rest is taken to be that of now and half the full model.
    """
    now = state.fraction_done * state.nominal_steps
    full = _full(state)
    continuation = state.decisions[-1].continuation if state.decisions else ()
    if not state.decisions:
        continuation = ((0, state.subnet or full), (round((now + state.nominal_steps) / 2), full))
    elif not continuation:
        continuation = ((0, state.decisions[-1].subnet),)
    stops = [start for start, _ in continuation[1:]] + [state.nominal_steps]
    for (start, subnet), stop in zip(continuation, stops, strict=True):
        yield max(0.0, stop - max(start, now)), subnet


def _evaluations_to_come(state: RunState) -> float:
    """Return the seconds of evaluations: one at the end, or as often as there were any so far."""
    if not state.evaluations:
        return 0.0
    fraction = state.fraction_done
    as_often = (
        state.evaluation_seconds * (1.0 - fraction) / fraction if fraction > _MIN_FRACTION else 0.0
    )
    return max(state.evaluations[-1].seconds, as_often)


def _to_come_by_speed(state: RunState, now: SubnetConfig) -> float:
    """Return the seconds of the steps to come, by the speed of those that were seen."""
    if state.table is None:
        return max(0, state.total_steps - state.step) * state.step_seconds[now]
    return sum(
        (segment.stop_step - max(segment.start_step, state.step))
        * _seconds_of(state, segment.subnet, segment.training, now)
        for segment in state.table.segments
        if segment.stop_step > state.step
    )


def _seconds_of(
    state: RunState, subnet: SubnetConfig, training: Training, now: SubnetConfig
) -> float:
    """Return the seconds of a step: as seen, or on the line through the two largest seen, by MACs."""
    seen = state.step_seconds
    if subnet in seen:
        return seen[subnet]
    if state.spec is None:
        return seen[now]
    spec, classes = state.spec, state.num_classes
    cost = relative_step_cost(spec, subnet, training, classes)
    known = sorted(
        (relative_step_cost(spec, one, Training(), classes), s) for one, s in seen.items()
    )
    if len(known) == 1:
        return seen[now] * cost / known[0][0]
    (low, low_seconds), (high, high_seconds) = known[-2:]
    slope = max(0.0, (high_seconds - low_seconds) / (high - low)) if high > low else 0.0
    return max(high_seconds + slope * (cost - high), min(seen.values()))


MAX_EVALUATIONS = 1024
MAX_WARNINGS = 20
MAX_DECISIONS = 1024
LONGEST_WARNING = 1000
SMOOTHING = 0.3  # weight of the newest step time; the first steps of a stage are slow

Phase = Literal["starting", "measuring", "training", "supernet", "interrupted", "complete"]


@dataclass(frozen=True, slots=True)
class RunState:
    """A run as far as its events tell. Start with ``schedule`` and ``spec`` where they are known.

    ``nominal_steps`` is the length of the run as it was told at the start, which a search by time counts in
    steps of the full model; ``total_steps`` the number of steps, a guess where time bounds the run.
    ``cost_seconds`` are those of a step by the costs on record, ``costed_seconds`` what the steps so far
    take by them. From the first report on, when that was ``first_costed_seconds``, steps and their data
    have taken ``stepped_seconds``.
    """

    schedule: GrowthSchedule | None = None
    spec: ModelSpec | None = None
    table: StepTable | None = None
    phase: Phase = "starting"
    run_id: str = ""
    run_kind: str = ""
    model: str = ""
    device: str = ""
    amp: str = ""
    seed: int = 0
    num_images: int = 0
    num_classes: int = 1000
    nominal_steps: int = 0
    total_steps: int = 0
    steps_per_epoch: int = 0
    step: int = 0
    epoch: float = 0.0
    stage: int | None = None
    subnet: SubnetConfig | None = None
    loss: float | None = None
    lr: float | None = None
    images_per_second: float | None = None
    data_wait_fraction: float | None = None
    data_wait_smoothed: float | None = None
    train_seconds: float = 0.0
    stepped_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    measuring: CostsMeasured | None = None
    cost_seconds: dict[SubnetConfig, float] = field(default_factory=dict)
    num_estimated_costs: int = 0
    costed_seconds: float = 0.0
    first_costed_seconds: float | None = None
    time_budget_seconds: float | None = None
    cost_fraction: float | None = None
    budget_fraction: float | None = None
    step_seconds: Mapping[SubnetConfig, float] = field(default_factory=dict)
    points: tuple[Point, ...] = ()
    point_spacing_steps: int = 0
    pieces: tuple[Piece, ...] = ()
    evaluations: tuple[Evaluated, ...] = ()
    decisions: tuple[Decision, ...] = ()
    trials: tuple[TrialFinished, ...] = ()
    growths: tuple[Grown, ...] = ()
    warnings: tuple[str, ...] = ()
    num_warnings: int = 0
    result: Mapping[str, Any] | None = None

    @property
    def is_open_ended(self) -> bool:
        """Tell whether the number of steps is a guess: time bounds the run."""
        return self.time_budget_seconds is not None or self.cost_fraction is not None

    @property
    def fraction_done(self) -> float:
        """Return the fraction of the steps that are done, or of the time that bounds the run."""
        if self.is_open_ended:
            return min(1.0, self.budget_fraction or 0.0)
        return min(1.0, self.step / self.total_steps) if self.total_steps else 0.0

    @property
    def unfrozen(self) -> Unfrozen | None:
        """Return which blocks the stage that has begun trains, where the schedule tells it; None for all."""
        if self.schedule is None or self.stage is None or self.stage >= len(self.schedule.stages):
            return None
        trainable = self.schedule.stages[self.stage].trainable
        return None if trainable == "all" else trainable

    @property
    def num_stages(self) -> int | None:
        """Return the number of stages where a schedule tells it."""
        return None if self.schedule is None else len(self.schedule.stages)

    @property
    def shown_total_steps(self) -> int | None:
        """Return the number of steps as far as it can be told; None where nobody knows it yet."""
        if self.cost_fraction is None or self.phase == "complete":
            return self.total_steps
        is_planned = self.decisions if self.cost_seconds else self.budget_fraction
        return self.total_steps if is_planned else None

    @property
    def eta_seconds(self) -> float | None:
        """Return the seconds that remain, waiting for data and evaluations included; None before any speed.

        A search goes by the costs that it measured at its start and the plan in force, corrected by what
        steps have taken so far. Otherwise remaining stages cost what was seen of their subnet; where nothing
        was, speeds seen are carried on by multiply-accumulates. Where time bounds the run, what is left of
        it counts.
        """
        return remaining_seconds(self)


def reduce(state: RunState, event: Event) -> RunState:
    """Return the state after one more event."""
    change = _FOLDS.get(type(event))
    return replace(state, step=event.step) if change is None else change(state, event)


def fold(events: Iterable[Event], start: RunState | None = None) -> RunState:
    """Return the state after `events` of a run, from its beginning."""
    state = RunState() if start is None else start
    trials = {trial.number: trial for trial in state.trials}
    for event in events:
        if isinstance(event, TrialFinished):  # one by one, 100,000 of them would take minutes
            trials.pop(event.number, None)
            trials[event.number] = event
        else:
            state = reduce(state, event)
    return replace(state, trials=tuple(trials.values()))


def _started(state: RunState, event: RunStarted) -> RunState:
    return replace(
        state,
        spec=_known_spec(state, event.model),
        table=_resolve(state.schedule, event),
        phase="training",
        run_id=event.run_id,
        run_kind=event.run_kind,
        model=event.model,
        device=event.device,
        amp=event.amp,
        seed=event.seed,
        num_images=event.num_images,
        num_classes=event.num_classes,
        nominal_steps=event.total_steps,
        total_steps=event.total_steps,
        steps_per_epoch=event.steps_per_epoch,
        time_budget_seconds=event.time_budget_seconds,
        cost_fraction=event.cost_fraction,
        step=event.step,
        epoch=event.step / max(1, event.steps_per_epoch),
        pieces=tuple(piece for piece in state.pieces if piece.start_step < event.step),
    )


def _known_spec(state: RunState, model: str) -> ModelSpec | None:
    if state.spec is not None or state.schedule is None:
        return state.spec or lookup(model)
    return state.schedule.full.spec()


def _resolve(schedule: GrowthSchedule | None, event: RunStarted) -> StepTable | None:
    if schedule is None or event.steps_per_epoch < 1:
        return None
    if event.time_budget_seconds is not None or event.cost_fraction is not None:
        return None  # nobody knows yet how many steps there will be
    try:
        return schedule.resolve(event.steps_per_epoch, event.epochs)
    except ConfigError:
        return None  # a display must not stop a run; it falls back to what the events tell


def _costs_measured(state: RunState, event: CostsMeasured) -> RunState:
    return replace(state, phase="measuring", measuring=event)


def _costs_known(state: RunState, event: CostsKnown) -> RunState:
    return replace(
        state,
        phase="training",
        cost_seconds=dict(event.step_seconds),
        num_estimated_costs=event.num_estimated,
    )


def _stage_started(state: RunState, event: StageStarted) -> RunState:
    if state.is_open_ended:
        state = replace(state, pieces=stretched(state.pieces, event.step))
    piece = Piece(event.step, event.stop_step, event.stage, event.subnet, event.curriculum)
    return replace(
        state,
        phase="training",
        step=event.step,
        stage=event.stage,
        subnet=event.subnet,
        pieces=extended(state.pieces, piece),
    )


def _supernet_started(state: RunState, event: SupernetStarted) -> RunState:
    curriculum = state.pieces[-1].curriculum if state.pieces else Curriculum()
    piece = Piece(
        event.step, event.stop_step, state.stage or 0, event.current, curriculum, supernet=True
    )
    return replace(state, phase="supernet", step=event.step, pieces=extended(state.pieces, piece))


def _progressed(state: RunState, event: StepLogged) -> RunState:
    before = state.step_seconds.get(event.subnet, event.step_seconds)
    seconds = before + SMOOTHING * (event.step_seconds - before)
    point = Point(
        event.step,
        event.epoch,
        event.loss,
        event.lr,
        event.images_per_second,
        event.train_seconds,
    )
    points, spacing = with_point(state.points, state.point_spacing_steps, point)
    waited = state.data_wait_smoothed
    before = event.data_wait_fraction if waited is None else waited
    costed, stepped = _costed_seconds(state, event), state.stepped_seconds
    first = state.first_costed_seconds
    if first is not None:
        waits = min(event.data_wait_fraction, 0.99)
        stepped += (event.train_seconds - state.train_seconds) / (1.0 - waits)
    after = replace(
        state,
        step=event.step,
        epoch=event.epoch,
        subnet=event.subnet,
        loss=event.loss,
        lr=event.lr,
        images_per_second=event.images_per_second,
        data_wait_fraction=event.data_wait_fraction,
        data_wait_smoothed=before + SMOOTHING * (event.data_wait_fraction - before),
        train_seconds=event.train_seconds,
        costed_seconds=costed,
        first_costed_seconds=costed if first is None else first,
        stepped_seconds=stepped,
        budget_fraction=event.budget_fraction,
        step_seconds={**state.step_seconds, event.subnet: seconds},
        points=points,
        point_spacing_steps=spacing,
    )
    if not event.budget_fraction:
        return after
    if not state.cost_seconds:
        return _reprojected(after, round(event.step / event.budget_fraction), event.step)
    return _reprojected(after, projected_steps(after), event.step)


def _costed_seconds(state: RunState, event: StepLogged) -> float:
    """Return what the steps so far take by the costs on record."""
    if not state.cost_seconds:
        return 0.0
    full = next(reversed(state.cost_seconds.values()))
    if event.budget_fraction is not None:
        return event.budget_fraction * state.nominal_steps * full
    steps = event.step - state.step
    return state.costed_seconds + steps * state.cost_seconds.get(event.subnet, full)


def _reprojected(state: RunState, total_steps: int, step: int) -> RunState:
    """Return the state with another guess of how many steps the time allows."""
    last = state.pieces[-1].stop_step if state.pieces else 0
    pieces = stretched(state.pieces, max(step, min(last, total_steps)))
    return replace(state, total_steps=max(step, total_steps), pieces=pieces)


def _evaluated(state: RunState, event: Evaluated) -> RunState:
    return replace(
        state,
        step=event.step,
        epoch=event.epoch,
        train_seconds=event.train_seconds,
        evaluation_seconds=state.evaluation_seconds + event.seconds,
        evaluations=thinned((*state.evaluations, event), MAX_EVALUATIONS),
    )


def _decided(state: RunState, event: Decided) -> RunState:
    others = tuple(old for old in state.decisions if old.index != event.decision.index)
    decisions = (*others, event.decision)[-MAX_DECISIONS:]
    return replace(state, step=event.step, decisions=decisions)


def _trial_told(state: RunState, event: TrialFinished) -> RunState:
    return replace(state, trials=(*(t for t in state.trials if t.number != event.number), event))


def _grown(state: RunState, event: Grown) -> RunState:
    return replace(state, step=event.step, growths=(*state.growths, event))


def _warned(state: RunState, event: WarningRaised) -> RunState:
    return replace(
        state,
        step=event.step,
        warnings=(*state.warnings, one_line(event.message, LONGEST_WARNING))[-MAX_WARNINGS:],
        num_warnings=state.num_warnings + 1,
    )


def _interrupted(state: RunState, event: Interrupted) -> RunState:
    return replace(state, step=event.step, phase="interrupted")


def _finished(state: RunState, event: RunFinished) -> RunState:
    if state.is_open_ended:
        state = replace(state, budget_fraction=1.0)
        state = _reprojected(state, event.step, event.step)
    return replace(state, step=event.step, phase="complete", result=event.result)


_FOLDS: dict[type[Any], Callable[[RunState, Any], RunState]] = {
    RunStarted: _started,
    CostsMeasured: _costs_measured,
    CostsKnown: _costs_known,
    StageStarted: _stage_started,
    SupernetStarted: _supernet_started,
    StepLogged: _progressed,
    Evaluated: _evaluated,
    Decided: _decided,
    TrialFinished: _trial_told,
    Grown: _grown,
    WarningRaised: _warned,
    Interrupted: _interrupted,
    RunFinished: _finished,
}
