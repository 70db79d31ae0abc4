"""What the steps that remain of a run will take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supernet.config import SubnetConfig
from supernet.cost import relative_cost

if TYPE_CHECKING:
    from autoprog.ui.state import RunState

__all__ = ["remaining_seconds"]


def remaining_seconds(state: RunState, now: SubnetConfig) -> float:
    """Return the seconds of the steps that remain, with `now` as the subnet whose speed is known."""
    if state.table is None:
        return max(0, state.total_steps - state.step) * state.step_seconds[now]
    return sum(
        (segment.stop_step - max(segment.start_step, state.step))
        * _seconds_of(state, segment.subnet, now)
        for segment in state.table.segments
        if segment.stop_step > state.step
    )


def _seconds_of(state: RunState, subnet: SubnetConfig, now: SubnetConfig) -> float:
    if subnet in state.step_seconds:
        return state.step_seconds[subnet]
    if state.spec is None:
        return state.step_seconds[now]
    scale = relative_cost(state.spec, subnet) / relative_cost(state.spec, now)
    return state.step_seconds[now] * scale
