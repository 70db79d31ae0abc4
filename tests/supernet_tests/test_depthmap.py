from __future__ import annotations

from itertools import pairwise

import pytest

from supernet.depthmap import PLACEMENTS, interpolate, new_slots, skip_list, skip_lists, stack

INTERPOLATED = [
    (6, 8, (0, 1, 2, 3, 4, 4, 5, 5), (5, 7)),
    (6, 12, (0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5), (1, 3, 5, 7, 9, 11)),
    (8, 10, (0, 1, 2, 3, 4, 5, 6, 6, 7, 7), (7, 9)),
    (8, 12, (0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 7, 7), (5, 7, 9, 11)),
    (9, 12, (0, 1, 2, 3, 4, 5, 6, 6, 7, 7, 8, 8), (7, 9, 11)),
    (10, 12, (0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 9), (9, 11)),
    (9, 18, tuple(slot // 2 for slot in range(18)), tuple(range(1, 18, 2))),
    (
        12,
        18,
        (0, 1, 2, 3, 4, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11),
        (7, 9, 11, 13, 15, 17),
    ),
    (3, 7, (0, 0, 1, 1, 2, 2, 2), (1, 3, 5, 6)),
    (4, 4, (0, 1, 2, 3), ()),
]


@pytest.mark.parametrize(("base", "target", "sources", "new"), INTERPOLATED)
def test_interpolation_repeats_the_deepest_blocks_first(
    base: int, target: int, sources: tuple[int, ...], new: tuple[int, ...]
) -> None:
    assert interpolate(base, target) == sources
    assert new_slots(sources) == new


def test_stacking_repeats_the_whole_network() -> None:
    assert stack(6, 8) == (0, 1, 2, 3, 4, 5, 0, 1)
    assert stack(2, 5) == (0, 1, 0, 1, 0)
    assert new_slots(stack(6, 8)) == (6, 7)


@pytest.mark.parametrize("name", PLACEMENTS)
def test_every_map_keeps_each_block_once_and_never_reads_above_its_slot(name: str) -> None:
    for base in range(1, 13):
        for target in range(base, 25):
            sources = PLACEMENTS[name](base, target)
            firsts = [sources[i] for i in range(target) if i not in new_slots(sources)]
            assert firsts == list(range(base))
            assert all(source <= slot for slot, source in enumerate(sources))


@pytest.mark.parametrize("name", PLACEMENTS)
@pytest.mark.parametrize(("base", "target"), [(6, 5), (0, 4)])
def test_a_map_refuses_to_shrink(name: str, base: int, target: int) -> None:
    with pytest.raises(ValueError, match=f"but got {base} -> {target}"):
        PLACEMENTS[name](base, target)


def test_a_candidate_runs_first_copies_and_the_last_new_slots() -> None:
    evens = tuple(range(0, 18, 2))
    assert skip_list(9, 18, 9) == evens
    assert skip_list(9, 18, 12) == tuple(sorted((*evens, 13, 15, 17)))
    assert skip_list(9, 18, 18) == tuple(range(18))
    assert skip_list(6, 12, 8, "stack") == (0, 1, 2, 3, 4, 5, 10, 11)


def test_volo_trains_and_extracts_the_same_blocks() -> None:
    # 9 -> 18 layers with the winner 12 are (2, 7) -> (4, 14) and (4, 8) by stage. Nesting from the
    # smallest candidate instead of the base trained 0,1,2,4,6,8,10,12 and extracted the list below.
    slots = skip_lists((2, 7), (4, 14), (4, 8))
    assert slots == ((0, 1, 2, 3), (0, 2, 4, 6, 8, 10, 12, 13))


@pytest.mark.parametrize("name", PLACEMENTS)
def test_candidates_are_nested(name: str) -> None:
    lists = [set(skip_list(5, 12, depth, name)) for depth in range(5, 13)]
    assert [len(slots) for slots in lists] == list(range(5, 13))
    assert all(small < large for small, large in pairwise(lists))


@pytest.mark.parametrize("depth", [5, 13])
def test_a_candidate_outside_the_supernet_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=rf"must lie in 6\.\.12, but got {depth}"):
        skip_list(6, 12, depth)
