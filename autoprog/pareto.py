"""The Pareto front of points that have a cost and a loss, and its knee."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["pareto_front", "pareto_knee"]


def pareto_front(
    costs: Sequence[float], losses: Sequence[float], keep_ties: bool = False
) -> list[int]:
    """Return the indices of the points that no other beats in both cost and loss, cheapest first.

    Of points that are equal in both the first is on the front; with ``keep_ties`` all of them are.
    """
    front: list[int] = []
    for index in sorted(range(len(costs)), key=lambda i: (costs[i], losses[i])):
        # Sorted by cost, a point is beaten unless its loss is below that of all cheaper ones.
        is_tie = keep_ties and bool(front) and costs[index] == costs[front[-1]]
        is_tie = is_tie and losses[index] == losses[front[-1]]
        if not front or losses[index] < losses[front[-1]] or is_tie:
            front.append(index)
    return front


def pareto_knee(costs: Sequence[float], losses: Sequence[float]) -> int:
    """Return the index of the point of a front furthest below the line between its ends.

    Both axes are logarithmic, so the knee does not depend on units. A front of one or two points has none:
    the last, of the lowest loss, is returned.

    Args:
        costs: Of the points of a front, rising and above 0.
        losses: Of the same points, falling and above 0.
    """
    last = len(costs) - 1
    if last < 2:
        return last
    width, height = math.log(costs[last] / costs[0]), math.log(losses[0] / losses[last])

    def distance(index: int) -> float:
        spent = math.log(costs[index] / costs[0]) / width
        won = math.log(losses[0] / losses[index]) / height
        return won - spent

    return max(range(len(costs)), key=distance)
