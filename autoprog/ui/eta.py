"""What the rest of a run will take, and how many steps that makes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from autoprog.effort import relative_step_cost
from autoprog.stage import Training
from supernet.config import SubnetConfig

if TYPE_CHECKING:
    from autoprog.ui.state import RunState

__all__ = ["projected_steps", "remaining_seconds"]

_TRUST = 0.1
"""Measured costs count as much as so large a share of the run in which steps took what they say."""

_LEAST_SHARE = 0.02  # of the run, from which on its evaluations tell how many are to come


def remaining_seconds(state: RunState) -> float | None:
    """Return the seconds that remain, data and evaluations included; None before any speed is known."""
    if state.phase == "complete":
        return 0.0
    if state.time_budget_seconds is not None:
        return (1.0 - state.share_done) * state.time_budget_seconds
    if state.measuring is not None and not state.cost_seconds:
        told = state.measuring
        return None if told.run_seconds is None else told.left_seconds + told.run_seconds
    if state.cost_seconds:
        seconds = _to_come_by_costs(state) * _correction(state)
    elif state.time_share is not None:
        if not state.share_done:
            return None
        seconds = state.train_seconds * (1.0 - state.share_done) / state.share_done
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
    if state.time_share is not None:
        return (1.0 - state.share_done) * state.nominal_steps * full
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
    now = state.share_done * state.nominal_steps
    full = _full(state)
    tail = state.decisions[-1].tail if state.decisions else ()
    if not state.decisions:
        tail = ((0, state.subnet or full), (round((now + state.nominal_steps) / 2), full))
    elif not tail:
        tail = ((0, state.decisions[-1].subnet),)
    stops = [start for start, _ in tail[1:]] + [state.nominal_steps]
    for (start, subnet), stop in zip(tail, stops, strict=True):
        yield max(0.0, stop - max(start, now)), subnet


def _evaluations_to_come(state: RunState) -> float:
    """Return the seconds of evaluations: one at the end, or as often as there were any so far."""
    if not state.evaluations:
        return 0.0
    share = state.share_done
    as_often = state.evaluation_seconds * (1.0 - share) / share if share > _LEAST_SHARE else 0.0
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
