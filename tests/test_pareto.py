"""The front holds what nothing beats; ties are kept where they are asked for."""

from __future__ import annotations

import random

import pytest

from autoprog.pareto import pareto_front, pareto_knee


@pytest.mark.parametrize("seed", range(20))
def test_ties_are_on_the_front_where_they_are_kept(seed: int) -> None:
    draw = random.Random(seed)
    points = [(float(draw.randint(1, 8)), float(draw.randint(1, 8))) for _ in range(40)]

    def is_beaten(point: tuple[float, float]) -> bool:
        return any(a <= point[0] and b <= point[1] and (a, b) != point for a, b in points)

    costs, losses = zip(*points, strict=True)
    kept = pareto_front(costs, losses, keep_ties=True)
    assert set(kept) == {i for i, point in enumerate(points) if not is_beaten(point)}
    front = pareto_front(costs, losses)
    assert [points[i] for i in front] == sorted({points[i] for i in kept})
    assert set(front) <= set(kept)


def test_nothing_has_no_front_and_one_point_is_its_own_knee() -> None:
    assert pareto_front([], []) == []
    assert pareto_knee([2.0], [1.0]) == 0
