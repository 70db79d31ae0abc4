"""What is known about a run while its events come in: a fold, cheap an event and bounded in memory."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

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
from autoprog.stage import Curriculum, Training, Unfrozen, relative_step_cost
from autoprog.steptable import StepTable
from supernet.config import ModelSpec, SubnetConfig
from supernet.zoo import lookup

__all__ = ["Clock", "Point", "RunSegment", "RunState", "fold", "reduce"]

MAX_POINTS = 512
MAX_EVALUATIONS = 1024
MAX_WARNINGS = 20
MAX_DECISIONS = 1024
LONGEST_WARNING = 1000
SMOOTHING = 0.3  # weight of the newest step time; the first steps of a stage are slow

# Measured costs count as much as so large a fraction of the run in which steps took what they say: the
# first steps of a stage are slower than those that were timed, and would double the estimate alone.
_TRUST = 0.1

_MIN_FRACTION = 0.02  # of the run, from which on its evaluations say how many are to come

Phase = Literal["starting", "measuring", "training", "supernet", "interrupted", "complete"]


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
class RunSegment:
    """Steps ``start_step`` to ``stop_step`` (exclusive, as far as is known) that were or are carried out.

    In a supernet phase ``subnet`` is the one that training came with.
    """

    start_step: int
    stop_step: int
    stage: int
    subnet: SubnetConfig
    curriculum: Curriculum
    supernet: bool = False


@dataclass(frozen=True)
class Clock:
    """Wall time by training time and by step, straight between knots that rise in both."""

    wall_by_train: tuple[tuple[float, float], ...]
    train_by_step: tuple[tuple[float, float], ...]

    def wall_seconds(self, train_seconds: float) -> float:
        """Return the wall time at which so much had been trained."""
        return _interpolated(self.wall_by_train, train_seconds)

    def wall_seconds_at(self, step: float) -> float:
        """Return the wall time of a step."""
        return self.wall_seconds(_interpolated(self.train_by_step, step))


def _interpolated(knots: Sequence[tuple[float, float]], x: float) -> float:
    """Return the value at `x`; before the first knot and after the last one that of the knot."""
    index = bisect_right(knots, x, key=lambda knot: knot[0])
    if index in (0, len(knots)):
        return knots[min(index, len(knots) - 1)][1]
    (x0, y0), (x1, y1) = knots[index - 1], knots[index]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


@dataclass(frozen=True, slots=True)
class RunState:
    """A run as far as its events say. Start with ``schedule`` and ``spec`` where they are known.

    ``nominal_steps`` is the length of the run as it was announced at the start, which a search by time counts
    in steps of the full model; ``total_steps`` the number of steps, a guess where time bounds the run.
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
    segments: tuple[RunSegment, ...] = ()
    evaluations: tuple[Evaluated, ...] = ()
    decisions: tuple[Decision, ...] = ()
    trials: tuple[TrialFinished, ...] = ()
    growths: tuple[Grown, ...] = ()
    warnings: tuple[str, ...] = ()
    num_warnings: int = 0
    result: Mapping[str, Any] | None = None

    @property
    def is_open_ended(self) -> bool:
        """Return whether the number of steps is a guess, since time bounds the run."""
        return self.time_budget_seconds is not None or self.cost_fraction is not None

    @property
    def fraction_done(self) -> float:
        """Return the fraction of the steps that are done, or of the time that bounds the run."""
        if self.is_open_ended:
            return min(1.0, self.budget_fraction or 0.0)
        return min(1.0, self.step / self.total_steps) if self.total_steps else 0.0

    @property
    def unfrozen(self) -> Unfrozen | None:
        """Return which blocks the stage that has begun trains, where the schedule says so; None for all."""
        if self.schedule is None or self.stage is None or self.stage >= len(self.schedule.stages):
            return None
        trainable = self.schedule.stages[self.stage].trainable
        return None if trainable == "all" else trainable

    @property
    def num_stages(self) -> int | None:
        """Return the number of stages where a schedule says it."""
        return None if self.schedule is None else len(self.schedule.stages)

    @property
    def shown_total_steps(self) -> int | None:
        """Return the number of steps as far as it is known; None where nobody knows it yet."""
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
        if self.phase == "complete":
            return 0.0
        if self.time_budget_seconds is not None:
            return (1.0 - self.fraction_done) * self.time_budget_seconds
        if self.measuring is not None and not self.cost_seconds:
            measuring = self.measuring
            if measuring.run_seconds is None:
                return None
            return measuring.left_seconds + measuring.run_seconds
        if self.cost_seconds:
            seconds = self._seconds_to_come_by_costs()
            if self.first_costed_seconds is not None:
                # How much longer than measured steps and their data take, as far as is known by now.
                costed = self.costed_seconds - self.first_costed_seconds
                trust = _TRUST * (self.costed_seconds + seconds)
                if costed + trust > 0:
                    seconds *= (self.stepped_seconds + trust) / (costed + trust)
        elif self.cost_fraction is not None:
            if not self.fraction_done:
                return None
            seconds = self.train_seconds * (1.0 - self.fraction_done) / self.fraction_done
        elif self.subnet is None or self.subnet not in self.step_seconds:
            return None
        else:
            # A loader that delivers nothing would make the rest infinite.
            waits = min(self.data_wait_smoothed or 0.0, 0.99)
            seconds = self._seconds_to_come_by_speed(self.subnet) / (1.0 - waits)
        if not self.evaluations:
            return seconds
        # Evaluations: one at the end, or as often as there were any so far.
        # Too early in a run, one evaluation at its start would promise hundreds of them.
        done, as_often = self.fraction_done, 0.0
        if done > _MIN_FRACTION:
            as_often = self.evaluation_seconds * (1.0 - done) / done
        return seconds + max(self.evaluations[-1].seconds, as_often)

    def clock(self) -> Clock:
        """Return the clock of the run; after its last evaluation, wall time goes on as training does."""
        evaluations = [(one.train_seconds, one.wall_seconds) for one in self.evaluations]
        last_train, last_wall = evaluations[-1] if evaluations else (0.0, 0.0)
        # One second further, so that the last knot lies above all times that are asked for.
        after = max(last_train, self.train_seconds) + 1.0
        steps = [(point.step, point.train_seconds) for point in self.points]
        return Clock(
            ((0.0, 0.0), *evaluations, (after, last_wall + after - last_train)),
            ((0.0, 0.0), *steps),
        )

    def projected_steps(self) -> int:
        """Return about how many steps a search by time will have made, by the plan in force and its costs."""
        costs, full = self.cost_seconds, self.full_step_seconds
        steps = sum(
            units * max(1.0, full / costs.get(subnet, full))
            for units, subnet in self._planned_steps()
        )
        return self.step + round(steps)

    @property
    def full_step_seconds(self) -> float:
        """Return the seconds of a step of the full model, which is the last subnet of a space."""
        return next(reversed(self.cost_seconds.values()))

    def _seconds_to_come_by_costs(self) -> float:
        costs, full = self.cost_seconds, self.full_step_seconds
        if self.cost_fraction is not None:
            return (1.0 - self.fraction_done) * self.nominal_steps * full
        return sum(steps * costs.get(subnet, full) for steps, subnet in self._planned_steps())

    def _planned_steps(self) -> Iterator[tuple[float, SubnetConfig]]:
        """Yield the plan in force from now on: (steps, subnet); by time steps of the full model.

        Before the first decision half of the rest is taken to be that of now and half the full model.
        """
        now = self.fraction_done * self.nominal_steps
        full = next(reversed(self.cost_seconds))
        # A decision says what would follow if none came after it, which is the plan in force.
        continuation = self.decisions[-1].continuation if self.decisions else ()
        if not self.decisions:
            half = round((now + self.nominal_steps) / 2)
            continuation = ((0, self.subnet or full), (half, full))
        elif not continuation:
            continuation = ((0, self.decisions[-1].subnet),)
        stops = [start for start, _ in continuation[1:]] + [self.nominal_steps]
        for (start, subnet), stop in zip(continuation, stops, strict=True):
            yield max(0.0, stop - max(start, now)), subnet

    def _seconds_to_come_by_speed(self, now: SubnetConfig) -> float:
        if self.table is None:
            return max(0, self.total_steps - self.step) * self.step_seconds[now]
        return sum(
            (segment.stop_step - max(segment.start_step, self.step))
            * self._seconds_of(segment.subnet, segment.training, now)
            for segment in self.table.segments
            if segment.stop_step > self.step
        )

    def _seconds_of(self, subnet: SubnetConfig, training: Training, now: SubnetConfig) -> float:
        """Return the seconds of a step: as seen, or on the line through the two largest seen, by MACs."""
        seen = self.step_seconds
        if subnet in seen:
            return seen[subnet]
        if self.spec is None:
            return seen[now]
        spec, classes = self.spec, self.num_classes
        cost = relative_step_cost(spec, subnet, training, classes)
        known = sorted(
            (relative_step_cost(spec, one, Training(), classes), s) for one, s in seen.items()
        )
        # With one speed seen, cost alone scales it.
        if len(known) == 1:
            return seen[now] * cost / known[0][0]
        (low, low_seconds), (high, high_seconds) = known[-2:]
        # The two largest: small networks are bound by launches and data, and would flatten the line.
        slope = max(0.0, (high_seconds - low_seconds) / (high - low)) if high > low else 0.0
        return max(high_seconds + slope * (cost - high), min(seen.values()))


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


def reduce(state: RunState, event: Event) -> RunState:
    """Return the state after one more event."""
    match event:
        case RunStarted():
            return _started(state, event)
        case CostsMeasured():
            return replace(state, phase="measuring", measuring=event)
        case CostsKnown():
            return replace(
                state,
                phase="training",
                cost_seconds=dict(event.step_seconds),
                num_estimated_costs=event.num_estimated,
            )
        case StageStarted():
            segments = state.segments
            if state.is_open_ended:  # nobody knew where the stage before would end
                segments = _with_end(segments, event.step)
            new = RunSegment(
                event.step, event.stop_step, event.stage, event.subnet, event.curriculum
            )
            return replace(
                state,
                phase="training",
                step=event.step,
                stage=event.stage,
                subnet=event.subnet,
                segments=_with_segment(segments, new),
            )
        case SupernetStarted():
            segments = state.segments
            curriculum = segments[-1].curriculum if segments else Curriculum()
            stage = state.stage or 0
            new = RunSegment(event.step, event.stop_step, stage, event.current, curriculum, True)
            segments = _with_segment(segments, new)
            return replace(state, phase="supernet", step=event.step, segments=segments)
        case StepLogged():
            return _step_logged(state, event)
        case Evaluated():
            evaluations = (*state.evaluations, event)
            if len(evaluations) > MAX_EVALUATIONS:  # every second one goes, the last one stays
                evaluations = (*evaluations[:-1:2], event)
            return replace(
                state,
                step=event.step,
                epoch=event.epoch,
                train_seconds=event.train_seconds,
                evaluation_seconds=state.evaluation_seconds + event.seconds,
                evaluations=evaluations,
            )
        case Decided():
            # A resumed run may decide again what it had decided after its last checkpoint.
            others = (old for old in state.decisions if old.index != event.decision.index)
            decisions = (*others, event.decision)[-MAX_DECISIONS:]
            return replace(state, step=event.step, decisions=decisions)
        case TrialFinished():
            trials = (trial for trial in state.trials if trial.number != event.number)
            return replace(state, trials=(*trials, event))
        case Grown():
            return replace(state, step=event.step, growths=(*state.growths, event))
        case WarningRaised():
            message = one_line(event.message, LONGEST_WARNING)
            return replace(
                state,
                step=event.step,
                warnings=(*state.warnings, message)[-MAX_WARNINGS:],
                num_warnings=state.num_warnings + 1,
            )
        case Interrupted():
            return replace(state, step=event.step, phase="interrupted")
        case RunFinished():
            if state.is_open_ended:
                state = _reprojected(replace(state, budget_fraction=1.0), event.step, event.step)
            return replace(state, step=event.step, phase="complete", result=event.result)
        case _:
            return replace(state, step=event.step)


def _started(state: RunState, event: RunStarted) -> RunState:
    """Return the state at the start of an attempt; a resumed run begins in the midst of its steps."""
    spec = state.spec
    if spec is None:
        spec = lookup(event.model) if state.schedule is None else state.schedule.full.spec()
    table, is_bounded_by_time = None, event.time_budget_seconds is not None
    is_bounded_by_time |= event.cost_fraction is not None
    # Where time bounds the run nobody knows yet how many steps there will be.
    if state.schedule is not None and event.steps_per_epoch >= 1 and not is_bounded_by_time:
        with suppress(ConfigError):  # a display must not stop a run; it shows what the events say
            table = state.schedule.resolve(event.steps_per_epoch, event.epochs)
    return replace(
        state,
        spec=spec,
        table=table,
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
        segments=tuple(one for one in state.segments if one.start_step < event.step),
    )


def _step_logged(state: RunState, event: StepLogged) -> RunState:
    # Smoothed by subnet, since a stage of another one begins at another speed.
    before = state.step_seconds.get(event.subnet, event.step_seconds)
    seconds = before + SMOOTHING * (event.step_seconds - before)
    points, spacing = state.points, state.point_spacing_steps
    if not points or event.step - points[-1].step >= spacing:
        point = Point(
            event.step,
            event.epoch,
            event.loss,
            event.lr,
            event.images_per_second,
            event.train_seconds,
        )
        points = (*points, point)
        if len(points) > MAX_POINTS:  # every second one goes, and half as many come from here on
            points = points[::2]
            spacing = max(1, (points[-1].step - points[0].step) // (len(points) - 1))
    waited = state.data_wait_smoothed
    before = event.data_wait_fraction if waited is None else waited
    costed, stepped = 0.0, state.stepped_seconds  # by the costs on record, and as it was
    if state.cost_seconds:
        full = state.full_step_seconds
        if event.budget_fraction is not None:
            costed = event.budget_fraction * state.nominal_steps * full
        else:
            steps = event.step - state.step
            costed = state.costed_seconds + steps * state.cost_seconds.get(event.subnet, full)
    # Counted from the first report on: before it lie compiling and the first batch.
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
    return _reprojected(after, after.projected_steps(), event.step)


def _reprojected(state: RunState, total_steps: int, step: int) -> RunState:
    """Return the state with another guess of how many steps the time allows."""
    last = state.segments[-1].stop_step if state.segments else 0
    segments = _with_end(state.segments, max(step, min(last, total_steps)))
    return replace(state, total_steps=max(step, total_steps), segments=segments)


def _with_segment(segments: tuple[RunSegment, ...], new: RunSegment) -> tuple[RunSegment, ...]:
    """Return the segments cut where `new` begins, with `new` behind; an equal neighbour is merged."""
    # An attempt that is resumed repeats steps: what was recorded of them gives way.
    kept = list(segments)
    while kept and kept[-1].start_step >= new.start_step:
        kept.pop()
    if kept:  # the last one before it ends where it begins
        kept[-1] = replace(kept[-1], stop_step=min(kept[-1].stop_step, new.start_step))
        same = replace(kept[-1], start_step=new.start_step, stop_step=new.stop_step) == new
        if same:
            new = replace(new, start_step=kept.pop().start_step)
    return (*kept, new)


def _with_end(segments: tuple[RunSegment, ...], stop_step: int) -> tuple[RunSegment, ...]:
    """Return the segments with the last one ending at `stop_step`."""
    return (*segments[:-1], *(replace(one, stop_step=stop_step) for one in segments[-1:]))
