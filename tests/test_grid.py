"""The cells of an evaluation, and which of them are on the front."""

from __future__ import annotations

import itertools

import pytest

from autoprog.evaluation_grid import EvaluatedCell, cells_of, front
from autoprog.train.grid import forward_speeds
from supernet.config import SubnetConfig, TokenRule

FULL = SubnetConfig(4, 16)


def cell(top1: float, macs: int) -> EvaluatedCell:
    return EvaluatedCell(FULL, top1, loss=1.0, macs=macs)


def test_every_size_meets_every_rate_largest_first() -> None:
    rules = [TokenRule(rate) for rate in (0.5, 1.0, 0.5)]
    assert cells_of(FULL, (8, 16, 8), rules) == [
        SubnetConfig(4, 16),
        SubnetConfig(4, 16, TokenRule(0.5)),
        SubnetConfig(4, 8),
        SubnetConfig(4, 8, TokenRule(0.5)),
    ]


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(80, 10), (70, 5), (60, 7)], [True, True, False]),
        ([(80, 10), (80, 9)], [False, True]),
        ([(80, 10), (81, 10)], [False, True]),
        ([(80, 10), (80, 10), (79, 10)], [True, True, False]),
        ([(80, 10)], [True]),
    ],
)
def test_the_front_holds_what_nothing_beats(
    points: list[tuple[float, int]], expected: list[bool]
) -> None:
    for order in itertools.permutations(range(len(points))):
        found = front([cell(*points[place]) for place in order])
        assert found == tuple(expected[place] for place in order)


def test_speeds_are_medians_of_interleaved_blocks() -> None:
    calls: list[tuple[str, int]] = []
    reported: list[tuple[str, int, int]] = []
    slowness = {"fast": itertools.repeat(0.001), "slow": itertools.repeat(0.02)}
    hiccup = iter([0.02] * 3 + [9.0] + [0.02] * 9)  # in the first timed round

    def arm(name: str):  # type: ignore[no-untyped-def]
        def block(forwards: int) -> float:
            calls.append((name, forwards))
            return forwards * next(hiccup if name == "slow" else slowness[name])

        return block

    speeds = forward_speeds(
        {name: arm(name) for name in slowness},
        rounds=4,
        batch_size=10,
        report=lambda *report: reported.append(report),
    )
    assert speeds == pytest.approx([10 / 0.001, 10 / 0.02])
    # Five forwards of the slower one last a tenth of a second; the faster one has as many.
    assert calls[:4] == [("fast", 1), ("slow", 1)] * 2
    blocks = calls[4:]
    assert {forwards for _, forwards in blocks} == {5}
    names = [name for name, _ in blocks]
    pairs = list(zip(names[::2], names[1::2], strict=True))
    assert [set(pair) for pair in pairs] == [{"fast", "slow"}] * 5
    assert pairs[1] != pairs[2]
    assert reported == [("speed", number, 5) for number in range(6)]
