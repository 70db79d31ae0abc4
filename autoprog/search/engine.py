"""The search: a training run that decides its own schedule on the way."""

from __future__ import annotations

from collections.abc import Iterator

from autoprog.events import CostsKnown, Event
from autoprog.search.decide import ONCE, forced_decision
from autoprog.search.found import found_lengths, found_schedule
from autoprog.search.length import cost_pace
from autoprog.search.notes import noting_losses
from autoprog.search.profile import completing_costs
from autoprog.search.searcher import (
    Piece,
    Searcher,
    announce,
    build_searcher,
    recorded_decision,
    settle,
    tell_again,
    turn_to,
)
from autoprog.search.supernet import decision_point
from autoprog.train.engine import finish, start
from autoprog.train.phase import GrowTo, plain_choice
from autoprog.train.stop import GaveUpError
from supernet.config import SubnetConfig

__all__ = ["build_searcher", "search_schedule"]


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
        searcher.trainer.feed.close()


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
        yield from _follow_tail(searcher)
    if searcher.current != searcher.full:
        yield from _train_until(searcher, searcher.plan.full_step)
        yield from _become_full(searcher)
    yield from _train_to_the_end(searcher)


def _follow_tail(searcher: Searcher) -> Iterator[Event]:
    """Carry out what was decided for the rest of the run."""
    for step, subnet in searcher.tail[1:]:
        for turn in _piece_starts(searcher, step):
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
    for stop in [*_piece_starts(searcher, total), total] if total > searcher.position else []:
        if searcher.curriculum(searcher.position) != searcher.pieces[-1].curriculum:
            turn_to(searcher, searcher.full, searcher.position)
        yield from searcher.trainer.run(searcher.next_phase(stop))


def _piece_starts(searcher: Searcher, stop: int) -> list[int]:
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
