"""A search: a training run that decides its own schedule on the way.

:meth:`Searcher.run` reads downwards: costs, then for each decision point training up to it, a supernet over
the candidates, their estimates, the inputs on record, the decision, and the switch to the winner.
"""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean

from autoprog.data.dataset import OpenedData
from autoprog.decisions import Continuation, Decision, DecisionInputs, ReachedLosses
from autoprog.events import CostsKnown, Decided, Estimated, Event, StepLogged, SupernetStarted
from autoprog.fidelity_report import read_fidelity
from autoprog.files import parse
from autoprog.runs import RunFolder, load_run
from autoprog.schedule import FoundBy, GrowthSchedule, Lengths, LengthUnit
from autoprog.search.controller import Controller
from autoprog.search.decide import DECIDE_ONCE, Chooser, decide, forced_decision
from autoprog.search.estimate import estimate_losses
from autoprog.search.fidelity import FidelityCheck
from autoprog.search.forecast import target_entropy
from autoprog.search.measured_costs import Costs, result_of
from autoprog.search.plan import DecisionPoint, SearchPlan, length_and_plan, point_candidates
from autoprog.settings import RunSettings, SearchSettings
from autoprog.space import by_size
from autoprog.stage import Curriculum, FullModel, LearningRate, Stage, Tokens, depth_value
from autoprog.train.device import resolve_compute
from autoprog.train.pace import CostPace
from autoprog.train.phase import Choice, Compact, GrowTo, Phase, plain_choice
from autoprog.train.run import Job, build_trainer, finish, start
from autoprog.train.stop import GaveUpError
from autoprog.train.trainer import Trainer
from supernet.config import SubnetConfig
from supernet.depthmap import skip_lists

__all__ = ["DecidedSegment", "Searcher", "build_searcher", "merged"]

_RECENT_POINTS = 4  # of the training curve, whose mean is the training loss of late


@dataclass(frozen=True)
class DecidedSegment:
    """A segment of the schedule as decided: from ``step`` on, at ``subnet``."""

    step: int
    subnet: SubnetConfig
    curriculum: Curriculum


def merged(segments: Sequence[DecidedSegment]) -> list[DecidedSegment]:
    """Return the segments without those that have no step, neighbours that are alike as one."""
    kept: list[DecidedSegment] = []
    for one in segments:
        # A later segment at the same step took the place of one that was never trained.
        same = kept and (kept[-1].subnet, kept[-1].curriculum) == (one.subnet, one.curriculum)
        if kept and kept[-1].step == one.step:
            kept[-1] = one
        elif not same:
            kept.append(one)
    return kept


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
    if recorded.costs or search.costs_from is None:
        costs = Costs(recorded.cost_table, recipe.batch_size)
    else:
        costs = Costs.read(Path(search.costs_from), recipe.batch_size)
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
    controller = None
    if job.ranks.is_main:
        sampler = "random" if search.sampler == "random" else "tpe"  # candidates are few for nsga2
        controller = Controller(folder.journal, folder.manifest.run_id, settings.seed, sampler)
    lr = recipe.learning_rate
    if search.cost_fraction is not None:
        lr = lr.model_copy(update={"clock": "compute"})
    return Searcher(
        trainer=trainer,
        search=search,
        plan=plan,
        costs=costs,
        controller=controller,
        recorded=recorded.decisions,
        recorded_inputs=recorded.inputs(),
        lr=lr,
    )


@dataclass
class Searcher:
    """A search in progress: the trainer, the plan, the costs, the controller, the decisions so far.

    Attributes:
        trainer: What trains.
        search: The settings of the search.
        plan: When to decide.
        costs: What steps take.
        controller: Proposes candidates; on rank 0 alone.
        recorded: Decisions that earlier attempts took; they are executed, never taken again.
        recorded_inputs: What earlier attempts wrote down to decide from.
        lr: The learning rate of the schedule that is found.
        num_phases: Phases handed out so far.
        position: Where the next phase begins, in steps or, by time, in steps of the full model.
        announced_segments: Segments of which a stage has been announced.
        segments: The schedule as decided so far.
        continuation: What would come next if nothing were decided again.
        full_regularisation: Whether regularisation is of full strength from here on.
        pending_change: How the network changes at the start of the next phase.
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
    announced_segments: int = 0
    segments: list[DecidedSegment] = field(default_factory=list)
    continuation: Continuation = ()
    full_regularisation: bool = False
    pending_change: GrowTo | Compact | None = None

    def run(self) -> Iterator[Event]:
        """Train along a schedule that is decided on the way; write it down; finish the run.

        Raises:
            DivergedError: If a loss is not finite.
            InterruptedRunError: If a stop was requested.
        """
        trainer = self.trainer
        try:
            yield from start(trainer)
            yield from self._measure_costs()
            if self.by_time:

                def entered() -> SubnetConfig:
                    subnet = trainer.stepper.subnet
                    assert subnet is not None, "a phase has been entered"
                    return subnet

                trainer.stepper.pace = CostPace(
                    trainer.steps_by_subnet, self.step_costs, entered, trainer.total_steps
                )
            self._begin_segment(self.search.space.smallest, 0)
            for point in self.plan.points:
                if self.current != self.full:
                    yield from self._train_until(point.start_step)
                    yield from self._decide_at(point)
            if self.search.rule in DECIDE_ONCE:
                yield from self._follow_continuation()
            if self.current != self.full:
                yield from self._train_until(self.plan.full_step)
                yield from self._become_full()
            yield from self._train_to_the_end()
            schedule = self.found_schedule()
            lengths = Lengths(
                named_epochs=trainer.recipe.epochs,
                cost_fraction=self.search.cost_fraction,
                steps=trainer.step,
                trained_epochs=trainer.step / trainer.steps_per_epoch,
                schedule_epochs=schedule.own_epochs(trainer.steps_per_epoch),
                full_epochs=schedule.full_model_epochs(trainer.data.num_classes),
            )
            sentence = f"Lengths: {lengths.sentence()}."
            trainer.folder.write_schedule(schedule, "best.yaml", sentence)
            trainer.folder.write_schedule(schedule)
            yield from finish(trainer, schedule)
        finally:
            trainer.data.close()

    def _measure_costs(self) -> Iterator[Event]:
        """Measure what the subnets of the space cost, once in a run; what is on record stays.

        Raises:
            InterruptedRunError: If a stop was requested; nothing is on record then.
        """
        trainer, costs, space = self.trainer, self.costs, self.search.space
        subnets = space.above(space.smallest)
        # Where the length of the run goes by costs, those that were given stand as they are: with more of
        # them it would be another run.
        if not costs.has_grid and not (self.by_time and costs.seconds):
            try:
                with trainer.ledger.charge("search"):
                    choices = [plain_choice(subnet) for subnet in subnets]
                    added = yield from costs.complete(trainer, choices, together=True)
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

    def _train_until(self, stop: int) -> Iterator[Event]:
        """Train the current subnet up to `stop`; keep the training losses that decisions are taken from."""
        if stop <= self.position:
            return
        trainer = self.trainer
        # The scaling law is fitted on the curve of the first subnet, as far as no other has trained.
        keeps_curve = set(trainer.steps_by_subnet) <= {self.segments[0].subnet}
        phase = self.next_phase(stop)
        name = str(phase.choices[0].subnet)
        for event in trainer.run(phase):
            if isinstance(event, StepLogged):
                # Kept with checkpoints, so that a resume decides from the same curve.
                recent = trainer.search_state.setdefault("recent", {}).setdefault(name, [])
                self._append_loss(recent, phase, event)
                del recent[:-_RECENT_POINTS]
                if keeps_curve:
                    curve = trainer.search_state.setdefault("curve", [])
                    self._append_loss(curve, phase, event)
            yield event

    def _append_loss(self, curve: list[list[float]], phase: Phase, event: StepLogged) -> None:
        """Append to a curve; what a stop had split in two becomes one point again."""
        loss, every = event.loss, self.trainer.settings.log_every_steps
        if curve and curve[-1][0] > phase.start_step and curve[-1][0] % every:
            step, earlier = curve.pop()
            begin = max(phase.start_step, step - step % every)
            loss = (earlier * (step - begin) + loss * (event.step - step)) / (event.step - begin)
        curve.append([event.step, loss])

    def _decide_at(self, point: DecisionPoint) -> Iterator[Event]:
        """Train a supernet over the candidates, estimate them, decide, and switch to the winner."""
        yield from self._apply_pending_change()
        trainer, search, started = self.trainer, self.search, self.position
        # 1. The candidates.
        grid = point_candidates(search.rule, search.space, self.current, point.index == 0)
        depth = max(subnet.depth for subnet in grid)
        # Candidates are parts of one supernet as deep as the deepest: each runs its own slots of that.
        placement, before = search.space.decisions.grow.placement, self.current.depth
        choices = {
            subnet: Choice(subnet, skip_lists(before, depth, subnet.depth, placement))
            for subnet in grid
        }
        # 2. The losses reached before them, by which the rule sees overfitting.
        if search.rule == "rollout" and self.next_is_new:
            with suppress(GaveUpError):
                self._keep_reached_losses(point.index)
            yield from trainer.halt_if_asked()
        # 3. The supernet, and where asked for a check of its estimates against real trainings.
        check = self._fidelity_check(point)
        if check is not None and self.next_is_new:
            check.keep_start()
        yield from self._train_supernet(point, choices, depth)
        if check is not None:

            def estimate(subnet: SubnetConfig) -> float:
                """Return the one-shot loss that the rule goes by: of all time points (AutoProg), or one."""
                number = list(choices).index(subnet)
                earlier = [fmean(row[number]) for row in self._earlier_losses(point)]
                last = fmean(self._losses(choices[subnet]))
                return fmean([*earlier, last]) if search.rule == "autoprog" else last

            yield from check.measure(tuple(choices), estimate)
        # 4. The decision: taken once, then on record.
        decision = self.recorded_decision(point.index)
        if decision is None:
            decision = yield from self._decide(point, choices)
        else:
            yield from self._announce_again(decision)
        # 5. The switch to the winner: its blocks move to the front at the start of the next phase.
        self.pending_change = Compact(choices[decision.subnet].slots)
        self.continuation = decision.continuation
        # The supernet phase counts to the stage that it leads to: this is what a replay of the schedule does.
        self._begin_segment(decision.subnet, started)
        if decision.full_regularisation:
            self.full_regularisation = True
            self._begin_segment(decision.subnet, self.position)

    def _keep_reached_losses(self, index: int) -> None:
        """Keep what the current subnet has reached before decision `index`; once, and by rank 0 alone."""
        trainer = self.trainer
        reached = trainer.search_state.setdefault("reached_losses", {})
        recent = trainer.search_state.get("recent", {}).get(str(self.current), [])
        if not trainer.ranks.is_main or str(index) in reached or len(recent) < _RECENT_POINTS:
            return
        with trainer.ledger.charge("search"):
            held_out = fmean(estimate_losses(trainer, plain_choice(self.current)))
        # Rounded, since a point made of two is that of a straight run but for the last bits.
        training = round(fmean(loss for _, loss in recent), 6)
        losses = ReachedLosses(subnet=self.current, held_out_loss=held_out, training_loss=training)
        reached[str(index)] = losses.model_dump(mode="json")

    def _fidelity_check(self, point: DecisionPoint) -> FidelityCheck | None:
        """Return the check of a decision's estimates where it is due and was not done before; collective."""
        settings, trainer = self.search.fidelity, self.trainer
        if settings is None or self.plan.supernet_points[settings.at] != point:
            return None
        done = read_fidelity(trainer.folder.path) is not None
        if trainer.ranks.broadcast("done" if done else ""):
            return None
        # By time cheap steps count for less than one, so there may be more of them.
        cheapest = min(self.step_costs.values()) if self.by_time else 1.0
        return FidelityCheck(
            trainer=trainer,
            settings=settings,
            space=self.search.space,
            point=point,
            current=self.current,
            last_phase=self.num_phases - 1,
            run_steps=math.ceil(trainer.total_steps / cheapest),
            curriculum=self._supernet_curriculum(point),
        )

    def _train_supernet(
        self,
        point: DecisionPoint,
        choices: dict[SubnetConfig, Choice],
        depth: tuple[int, ...],
    ) -> Iterator[Event]:
        """Train one sampled candidate a step; estimate all of them at each time point but the last."""
        trainer = self.trainer
        if depth != self.current.depth:
            grow = self.search.space.decisions.grow
            self.pending_change = GrowTo(self.current, max(choices, key=by_size), grow)
        if self.next_is_new:
            yield SupernetStarted(
                step=trainer.step,
                decision=point.index,
                current=self.current,
                candidates=tuple(choices),
                stop_step=point.stop_step,
            )
        for number, stop in enumerate(point.estimate_steps):
            phase = self.next_phase(
                stop,
                kind="supernet",
                choices=tuple(choices.values()),
                depth=depth,
                curriculum=self._supernet_curriculum(point),
                ends_stage=False,
                starts_stage=False,
                held_out=True,
            )
            yield from trainer.run(phase)
            if stop == point.stop_step:  # the last estimates are those of the decision
                continue
            earlier = self._earlier_losses(point)
            is_needed = self.recorded_decision(point.index) is None and len(earlier) <= number
            if is_needed and trainer.ranks.is_main:
                begin = trainer.clock()
                with suppress(GaveUpError):  # all ranks halt below
                    earlier.append([self._losses(choice) for choice in choices.values()])
                    losses = dict(zip(choices, earlier[number], strict=True))
                    yield self._estimated(point, number, losses, begin)
            yield from trainer.halt_if_asked()

    def _supernet_curriculum(self, point: DecisionPoint) -> Curriculum:
        """Return the regularisation of a supernet phase: the final one (AutoProg), or that of its stage."""
        if self.search.rule == "autoprog":
            return self.trainer.recipe.strength.ramped(0, 1)
        return self.curriculum(point.start_step)

    def _earlier_losses(self, point: DecisionPoint) -> list[list[list[float]]]:
        """Return the batch losses by time point, candidate and batch that are kept with checkpoints."""
        estimates = self.trainer.search_state.setdefault("estimates", {})
        return estimates.setdefault(str(point.index), [])

    def _losses(self, choice: Choice) -> list[float]:
        with self.trainer.ledger.charge("search"):
            return estimate_losses(self.trainer, choice)

    def _estimated(
        self,
        point: DecisionPoint,
        number: int,
        losses: Mapping[SubnetConfig, Sequence[float]],
        begin: float,
    ) -> Estimated:
        return Estimated(
            step=self.trainer.step,
            decision=point.index,
            point=number,
            losses=tuple((subnet, fmean(values)) for subnet, values in losses.items()),
            seconds=self.trainer.clock() - begin,
        )

    def _decide(
        self, point: DecisionPoint, choices: dict[SubnetConfig, Choice]
    ) -> Generator[Event, None, Decision]:
        """Let rank 0 estimate, decide and write it down; the other ranks receive the decision."""
        trainer, search, text = self.trainer, self.search, ""
        if trainer.ranks.is_main:
            with suppress(GaveUpError):
                begin = trainer.clock()
                # What an earlier attempt wrote down is not estimated again.
                inputs = next(
                    (one for one in self.recorded_inputs if one.index == point.index), None
                )
                if inputs is None:
                    inputs = self._inputs(point, choices, self._proposed_losses(point, choices))
                    trainer.folder.record_inputs(inputs)
                losses = dict(zip(inputs.candidates, inputs.losses[-1], strict=True))
                estimated = self._estimated(point, len(point.estimate_steps) - 1, losses, begin)
                chooser = Chooser(search.rule, search.space, search.sampler, trainer.settings.seed)
                with trainer.ledger.charge("search"):
                    decision = decide(chooser, inputs)
                yield estimated
                yield from self._announce(decision)
                text = decision.model_dump_json()
        text = trainer.ranks.broadcast(text)
        if not text:  # rank 0 was asked to stop
            yield from trainer.halt_if_asked()
        # Parsed on rank 0 too, so that a straight run goes on with what a resume would read.
        return parse(Decision, json.loads(text), "decision of rank 0")

    def _proposed_losses(
        self, point: DecisionPoint, choices: dict[SubnetConfig, Choice]
    ) -> dict[SubnetConfig, list[float]]:
        """Return the batch losses of the candidates that the controller proposes, by those before."""
        assert self.controller is not None, "rank 0 has the controller"
        trainer, costs = self.trainer, self.costs
        ordered, max_candidates = tuple(choices), self.search.space.decisions.max_candidates
        # Always among them: staying (or the smallest step up) and the largest, between which losses are
        # interpolated, and what the decision before had planned.
        stay = self.current if self.current in choices else ordered[0]
        planned = [subnet for _, subnet in self.continuation if subnet in choices]
        anchors = tuple(dict.fromkeys((stay, ordered[-1], *planned)))
        proposals = self.controller.propose(point.index, ordered, anchors, max_candidates)
        losses: dict[SubnetConfig, list[float]] = {}
        for subnet in proposals:
            losses[subnet] = self._losses(choices[subnet])
            if not self.by_time:  # where the run goes by costs, those of its start stand
                with trainer.ledger.charge("search"):
                    added = result_of(costs.complete(trainer, (choices[subnet],)))
                if added:  # recorded before they are used
                    trainer.folder.write_costs(costs.table)
            seconds = costs.all_seconds(self.search.space.spec, [subnet])[str(subnet)]
            loss = fmean(losses[subnet])
            proposals.tell(subnet, loss, loss=loss, step_seconds=seconds)
        return losses

    def _inputs(
        self,
        point: DecisionPoint,
        choices: dict[SubnetConfig, Choice],
        losses: Mapping[SubnetConfig, list[float]],
    ) -> DecisionInputs:
        """Return all that a decision is taken from: the candidates estimated, in the order of the grid."""
        trainer, space, budget = self.trainer, self.search.space, self.search.budget_seconds
        candidates = [subnet for subnet in choices if subnet in losses]
        earlier = [
            [values for subnet, values in zip(choices, row, strict=True) if subnet in losses]
            for row in self._earlier_losses(point)
        ]
        by_point = [*earlier, [losses[subnet] for subnet in candidates]]
        # Losses of warm-up fall for another reason than those that the scaling law is fitted on.
        warmup = trainer.recipe.warmup_fraction * trainer.total_steps
        warmup /= self.step_costs[space.smallest]
        curve = trainer.search_state.get("curve", [])
        reached = trainer.search_state.get("reached_losses", {})
        current_losses, previous_losses = (
            ReachedLosses.model_validate(reached[str(index)]) if str(index) in reached else None
            for index in (point.index, point.index - 1)
        )
        return DecisionInputs(
            index=point.index,
            step=trainer.step,
            position=self.position if self.by_time else None,
            chance_loss=math.log(trainer.data.num_classes) if self.by_time else None,
            loss_floor=target_entropy(trainer.recipe.smoothing, trainer.data.num_classes),
            steps_per_epoch=trainer.steps_per_epoch,
            total_steps=trainer.total_steps,
            full_step=self.plan.full_step,
            current=self.current,
            incumbent=self.continuation,
            num_points=sum(later.start_step > self.position for later in self.plan.points),
            steps_so_far=tuple(trainer.steps_by_subnet.items()),
            # Rounded, since a point made of two is that of a straight run but for the last bits.
            curve=tuple((step, round(loss, 6)) for step, loss in curve if step > warmup),
            candidates=tuple(candidates),
            losses=tuple(tuple(tuple(batches) for batches in one) for one in by_point),
            step_seconds=self.costs.all_seconds(
                space.spec, (*candidates, *space.above(self.current))
            ),
            current_losses=current_losses,
            previous_losses=previous_losses,
            full_regularisation=self.full_regularisation,
            seconds_left=(
                None if budget is None else max(0.0, budget - trainer.ledger.wall_seconds())
            ),
        )

    def recorded_decision(self, index: int) -> Decision | None:
        """Return decision `index` if an earlier attempt took it."""
        return next((d for d in self.recorded if d.index == index), None)

    def _announce(self, decision: Decision) -> Iterator[Event]:
        """Put a decision on disk before it is executed, then announce it."""
        self.trainer.folder.record_decision(decision)
        yield Decided(step=self.trainer.step, decision=decision)

    def _announce_again(self, decision: Decision) -> Iterator[Event]:
        """Announce a recorded decision that is executed once more, since the log drops what is replayed."""
        if self.next_is_new:
            yield Decided(step=self.trainer.step, decision=decision)

    def _follow_continuation(self) -> Iterator[Event]:
        """Carry out what was decided for the rest of the run."""
        for step, subnet in self.continuation[1:]:
            for start_step in self._stage_starts_before(step):
                if self.curriculum(start_step) != self.segments[-1].curriculum:
                    yield from self._train_until(start_step)
                    self._begin_segment(self.current, start_step)
            yield from self._train_until(step)
            yield from self._apply_pending_change()
            self._grow_to(subnet)

    def _become_full(self) -> Iterator[Event]:
        """Grow to the full model where it is the only candidate left."""
        yield from self._apply_pending_change()
        index = len(self.plan.points)
        decision = self.recorded_decision(index)
        if decision is None:
            why = "the full model is due for the rest of the run"
            place = (index, self.trainer.step, self.trainer.epoch)
            decision = forced_decision(self.search.rule, self.current, self.full, place, why)
            yield from self._announce(decision)
        else:
            yield from self._announce_again(decision)
        self._grow_to(self.full)

    def _train_to_the_end(self) -> Iterator[Event]:
        """Train the full model through the remaining stages, each with its regularisation."""
        total = self.plan.total_steps
        if total <= self.position:
            return
        for stop in [*self._stage_starts_before(total), total]:
            if self.curriculum(self.position) != self.segments[-1].curriculum:
                self._begin_segment(self.full, self.position)
            yield from self.trainer.run(self.next_phase(stop))

    def _stage_starts_before(self, stop: int) -> list[int]:
        """Return where stages, and with them regularisation, begin between the position and `stop`."""
        return [step for step in self.plan.stage_starts if self.position < step < stop]

    def _grow_to(self, subnet: SubnetConfig) -> None:
        """Begin a segment of a larger subnet; blocks are added at the start of its first phase."""
        if subnet.depth != self.current.depth:
            self.pending_change = GrowTo(self.current, subnet, self.search.space.decisions.grow)
        self._begin_segment(subnet, self.position)

    def _begin_segment(self, subnet: SubnetConfig, step: int) -> None:
        self.segments.append(DecidedSegment(step, subnet, self.curriculum(step)))

    def _apply_pending_change(self) -> Iterator[Event]:
        """Change the network now, by a phase without steps, before another change takes its place."""
        if self.pending_change is not None:
            yield from self.trainer.run(self.next_phase(self.position))

    def next_phase(self, stop: int, **fields: object) -> Phase:
        """Return a phase from the position to `stop` at the current subnet; `fields` override."""
        to_come = any(point.stop_step > self.position for point in self.plan.points)
        phase = Phase(
            index=self.num_phases,
            kind="plain",
            stage=len(merged(self.segments)) - 1,
            start_step=self.position,
            stop_step=stop,
            choices=(plain_choice(self.current),),
            depth=self.current.depth,
            curriculum=self.segments[-1].curriculum,
            change=self.pending_change,
            starts_stage=len(self.segments) != self.announced_segments,
            # Candidates are estimated on images that training must not have seen.
            held_out=to_come and self.current != self.full,
        )
        self.num_phases, self.position, self.pending_change = self.num_phases + 1, stop, None
        phase = replace(phase, **fields)  # type: ignore[arg-type]
        if phase.kind == "plain":
            self.announced_segments = len(self.segments)
        return phase

    @property
    def next_is_new(self) -> bool:
        """Return whether no earlier attempt entered the next phase: its events are not in the log then."""
        return self.trainer.phase < self.num_phases

    @property
    def current(self) -> SubnetConfig:
        """Return the subnet that trains now."""
        return self.segments[-1].subnet

    @property
    def full(self) -> SubnetConfig:
        """Return the full model."""
        return self.search.space.spec.full

    @property
    def by_time(self) -> bool:
        """Return whether the length of the run is the time that its steps are known to take."""
        return self.search.cost_fraction is not None

    @cached_property
    def step_costs(self) -> dict[SubnetConfig, float]:
        """Return what a step of each subnet counts for: 1, or its seconds relative to the full model's.

        None counts for more than a full step, whatever was measured; costs have been measured.
        """
        space = self.search.space
        subnets = space.above(space.smallest)
        if not self.by_time:
            return dict.fromkeys(subnets, 1.0)
        seconds = self.costs.all_seconds(space.spec, subnets)
        full = seconds[str(self.full)]
        return {subnet: min(1.0, seconds[str(subnet)] / full) for subnet in subnets}

    def curriculum(self, step: int) -> Curriculum:
        """Return the regularisation of the stage that holds `step`, or all of it if that was decided."""
        strength = self.trainer.recipe.strength
        if self.full_regularisation:
            return strength.ramped(0, 1)
        count = self.search.space.decisions.num_stages
        return strength.ramped(self.plan.stage_at(step), count)

    def found_schedule(self) -> GrowthSchedule:
        """Return what was decided as a schedule; segments in which nothing changes are one stage."""
        segments = merged(self.segments)
        trainer, search = self.trainer, self.search
        stops = [one.step for one in segments[1:]] + [trainer.total_steps]
        by_proxy = search.proxy < 1  # meant for runs of another length
        whole: LengthUnit = "compute_fraction" if self.by_time else "fraction"
        units = {
            subnet: trainer.total_steps if by_proxy else cost * trainer.steps_per_epoch
            for subnet, cost in self.step_costs.items()
        }
        stages = tuple(
            Stage(
                length=(stop - one.step) / units[one.subnet],
                depth=depth_value(one.subnet.depth),
                img_size=one.subnet.img_size,
                tokens=Tokens.of(one.subnet.tokens),
                grow=search.space.decisions.grow,
                curriculum=one.curriculum,
            )
            for one, stop in zip(segments, stops, strict=True)
        )
        fidelity = read_fidelity(trainer.folder.path)
        found_by = FoundBy(
            run=trainer.folder.manifest.run_id,
            rule=search.rule,
            seed=trainer.settings.seed,
            fidelity=None if fidelity is None else fidelity.summary,
        )
        return GrowthSchedule(
            full=FullModel.of(search.space.spec),
            length_unit=whole if by_proxy else "epochs",
            lr=self.lr,
            stages=stages,
            found_by=found_by,
        )
