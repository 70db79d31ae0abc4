"""One decision: train a supernet over the candidates, estimate them, choose."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from statistics import fmean

from autoprog.curves import Curriculum
from autoprog.decisions import Decision, DecisionInputs
from autoprog.events import Estimated, Event, SupernetStarted
from autoprog.files import parse
from autoprog.ramps import ramped_curriculum
from autoprog.search.decide import decide
from autoprog.search.estimate import estimate_losses
from autoprog.search.fidelity import is_due, keep_start, measure_fidelity
from autoprog.search.notes import note_shown
from autoprog.search.plan import DecisionPoint, point_candidates
from autoprog.search.searcher import (
    Searcher,
    announce,
    inputs_of,
    recorded_decision,
    recorded_inputs,
    settle,
    tell_again,
    turn_to,
)
from autoprog.space import by_size
from autoprog.train.phase import Choice, Compact, GrowTo
from autoprog.train.stop import GaveUpError
from supernet.config import Slots, SubnetConfig
from supernet.depthmap import skip_lists

__all__ = ["decision_point"]


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
            note_shown(searcher.trainer, point.index, searcher.current)
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
    searcher.enter, searcher.tail = Compact(choices[decision.subnet].slots), decision.tail
    # The supernet phase counts to the stage that it leads to: this is what a replay of the schedule does.
    turn_to(searcher, decision.subnet, started)
    if decision.strengthens:
        searcher.is_strengthened = True
        turn_to(searcher, decision.subnet, searcher.position)


def _choice(searcher: Searcher, subnet: SubnetConfig, top: tuple[int, ...]) -> Choice:
    """Return a candidate with the slots it runs inside the supernet, over one base: the current depth."""
    grow = searcher.search.space.decisions.grow
    slots: Slots = skip_lists(searcher.current.depth, top, subnet.depth, grow.map)
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
    notes = searcher.trainer.notes.setdefault("estimates", {})
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
    text = trainer.ranks.share(text)
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
    planned = [subnet for _, subnet in searcher.tail if subnet in choices]
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
