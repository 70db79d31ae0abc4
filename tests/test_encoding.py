"""Vectors of whole numbers as growing schedules: whatever is proposed is valid, and nothing is lost."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise, product

import pytest

from autoprog.files import parse, parse_yaml
from autoprog.schedule import GrowthSchedule
from autoprog.search.encoding import AxisRange, Encoding, Timeline
from autoprog.space import SearchSpace, SpaceFile, shipped_spaces
from autoprog.stage import FullModel, Stage, Tokens, depth_value
from supernet.zoo import ZOO

SHIPPED = tuple(shipped_spaces())
NUM_PROPOSALS = 1000
CELLS = 20
TWO = Encoding((AxisRange("depth", 0, 2), AxisRange("img_size", 0, 1)), 0.0, 0.8, 4)


def space_of(name: str) -> SearchSpace:
    """Return a shipped space for its own model, or for deit-s; the digits' are of 64 px."""
    file = parse(SpaceFile, parse_yaml(shipped_spaces()[name], name), name)
    spec = ZOO[file.model or "deit-s"]
    return file.space(spec.with_img_size(64) if name == "digits" else spec, name)


def encoding_of(space: SearchSpace, draw: random.Random) -> Encoding:
    """Return the vectors from any point of a space and of a run on, over a grid of any fineness."""
    tops = {
        "depth": len(space.depths) - 1,
        "img_size": len(space.sizes) - 1,
        "keep_rate": len(space.keep_rates) - 1,
    }
    axes = tuple(AxisRange(name, draw.randint(0, top), top) for name, top in tops.items())
    end = 1 - space.decisions.min_full_fraction
    return Encoding(axes, draw.uniform(0.0, end), end, draw.randint(1, 40))


def drawn(encoding: Encoding, draw: random.Random) -> dict[str, int]:
    return {key: draw.randint(low, high) for key, (low, high) in encoding.bounds().items()}


def proposals(name: str) -> Iterator[tuple[Encoding, dict[str, int]]]:
    draw, space = random.Random(name), space_of(name)
    for _ in range(NUM_PROPOSALS):
        encoding = encoding_of(space, draw)
        yield encoding, drawn(encoding, draw)


def arrivals_of(encoding: Encoding, timeline: Timeline) -> dict[str, list[float]]:
    """Return when each value comes into force on a timeline."""
    return {
        axis.name: [
            next(fraction for fraction, numbers in timeline if numbers[place] >= number)
            for number in range(axis.first + 1, axis.last + 1)
        ]
        for place, axis in enumerate(encoding.axes)
    }


@pytest.mark.parametrize("name", SHIPPED)
def test_every_proposal_is_a_rising_way_to_the_full_model(name: str) -> None:
    lengths = set()
    for encoding, vector in proposals(name):
        timeline = encoding.decode(vector)
        fractions = [fraction for fraction, _ in timeline]
        assert fractions[0] == encoding.start_fraction
        assert all(earlier < later for earlier, later in pairwise(fractions))
        assert fractions[-1] <= encoding.full_fraction
        for (_, before), (_, after) in pairwise(timeline):
            assert before != after
            assert all(a <= b for a, b in zip(before, after, strict=True))
        for axis, first, last in zip(encoding.axes, timeline[0][1], timeline[-1][1], strict=True):
            assert axis.first <= first
            assert last == axis.last
        lengths.add(len(timeline))
    assert {1, 2, 3} <= lengths


@pytest.mark.parametrize("name", SHIPPED)
def test_every_proposal_makes_a_schedule_that_keeps_all_laws(name: str) -> None:
    draw, space = random.Random(name), space_of(name)
    whole = replace(encoding_of(space, draw), start_fraction=0.0)
    axes = tuple(replace(axis, first=0) for axis in whole.axes)
    encoding = replace(whole, axes=axes)
    for _ in range(NUM_PROPOSALS // 10):
        timeline = encoding.decode(drawn(encoding, draw))
        stops = [fraction for fraction, _ in timeline[1:]] + [1.0]
        stages = tuple(
            Stage(
                length=stop - start,
                depth=depth_value(space.depths[depth]),
                img_size=space.sizes[size],
                tokens=Tokens.of(space.keep_rates[rate]),
            )
            for (start, (depth, size, rate)), stop in zip(timeline, stops, strict=True)
        )
        schedule = GrowthSchedule(
            full=FullModel.of(space.spec), length_unit="fraction", stages=stages
        )
        table = schedule.resolve(1000, 10.0)
        assert table.segments[-1].subnet == space.spec.full
        least = space.decisions.min_full_fraction * table.total_steps
        assert table.total_steps - table.segments[-1].start_step >= math.floor(least)


@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_decoded_encodes_to_the_same_way(name: str) -> None:
    for encoding, vector in proposals(name):
        timeline = encoding.decode(vector)
        again = encoding.encode(arrivals_of(encoding, timeline))
        assert encoding.decode(again) == timeline
        bounds = encoding.bounds()
        assert again.keys() == vector.keys() == bounds.keys()
        assert all(bounds[key][0] <= value <= bounds[key][1] for key, value in again.items())


def test_a_vector_holds_the_increments_between_dates() -> None:
    vector = {"depth.1": 1, "depth.2": 2, "img_size.1": 2}
    assert TWO.bounds() == dict.fromkeys(vector, (0, 4))
    assert TWO.decode(vector) == (
        (0.0, (0, 0)),
        (pytest.approx(0.2), (1, 0)),
        (pytest.approx(0.4), (1, 1)),
        (pytest.approx(0.6), (2, 1)),
    )


def test_an_increment_of_zero_skips_a_value() -> None:
    skipped = TWO.decode({"depth.1": 2, "depth.2": 0, "img_size.1": 2})
    assert [numbers for _, numbers in skipped] == [(0, 0), (2, 1)]


def test_increments_that_begin_with_zero_are_there_at_once() -> None:
    assert TWO.decode({"depth.1": 0, "depth.2": 0, "img_size.1": 0}) == ((0.0, (2, 1)),)


def test_what_would_come_too_late_comes_at_the_end_of_the_grid() -> None:
    late = TWO.decode({"depth.1": 3, "depth.2": 4, "img_size.1": 4})
    assert late == ((0.0, (0, 0)), (pytest.approx(0.6), (1, 0)), (pytest.approx(0.8), (2, 1)))


def test_every_way_on_a_small_grid_has_a_vector() -> None:
    """Two values may come in at 5 x 5 dates in order, the third at 5: 15 x 5 ways, each found."""
    vectors = product(range(5), repeat=3)
    found = {TWO.decode(dict(zip(TWO.bounds(), vector, strict=True))) for vector in vectors}
    assert len(found) == 15 * 5


@pytest.mark.parametrize(
    ("fractions", "increments"),
    [
        ([0.0, 0.0], [0, 0]),
        ([0.2, 0.8], [1, 3]),
        ([0.29, 0.31], [1, 1]),
        ([0.31, 0.31], [2, 0]),
        ([0.5, 0.9], [2, 2]),
        ([-0.5, 2.0], [0, 4]),
    ],
    ids=str,
)
def test_arrivals_go_to_the_nearest_cells(fractions: list[float], increments: list[int]) -> None:
    vector = TWO.encode({"depth": fractions, "img_size": [0.4]})
    assert vector == {"depth.1": increments[0], "depth.2": increments[1], "img_size.1": 2}


def test_arrivals_that_are_not_one_for_each_value_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="shorter"):
        TWO.encode({"depth": [0.2], "img_size": [0.4]})


def test_an_axis_that_has_arrived_has_no_increments() -> None:
    encoding = replace(TWO, axes=(AxisRange("depth", 2, 2), AxisRange("img_size", 0, 1)))
    assert encoding.bounds() == {"img_size.1": (0, 4)}
    assert encoding.decode({"img_size.1": 4}) == ((0.0, (2, 0)), (pytest.approx(0.8), (2, 1)))
    assert encoding.encode({"depth": [], "img_size": [0.8]}) == {"img_size.1": 4}


def test_where_nothing_is_left_to_grow_there_is_one_stretch() -> None:
    encoding = replace(TWO, axes=(AxisRange("depth", 2, 2),))
    assert encoding.bounds() == {}
    assert encoding.decode({}) == ((0.0, (2,)),)


def test_without_cells_everything_arrives_at_the_start() -> None:
    encoding = replace(TWO, intervals=0, start_fraction=0.3)
    assert set(encoding.bounds().values()) == {(0, 0)}
    vector = encoding.encode({"depth": [0.5, 0.8], "img_size": [0.8]})
    assert vector == {"depth.1": 0, "depth.2": 0, "img_size.1": 0}
    assert encoding.decode(vector) == ((0.3, (2, 1)),)


def test_a_part_of_no_length_is_full_where_it_begins() -> None:
    encoding = replace(TWO, start_fraction=0.8)
    vector = encoding.encode({"depth": [0.8, 0.8], "img_size": [0.8]})
    assert encoding.decode(vector) == ((0.8, (2, 1)),)
