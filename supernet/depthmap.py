"""Where new blocks go: the source of each block of a deeper network, and which blocks a candidate runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

__all__ = [
    "PLACEMENTS",
    "interpolate",
    "make_divisible",
    "new_slots",
    "skip_list",
    "skip_lists",
    "split_blocks",
    "stack",
]


def interpolate(base: int, target: int) -> tuple[int, ...]:
    """Return the source of each of ``target`` slots when every block is followed by its copies.

    Below ``2 * base`` only the deepest ``target - base`` blocks are doubled, as in AutoProg.
    """
    _check_growth(base, target)
    copies, remainder = divmod(target, base)
    single = base - remainder

    # The first `single` blocks have `copies` slots each, the deeper ones one more.
    def source(slot: int) -> int:
        early = slot // copies
        return early if early < single else (slot + single) // (copies + 1)

    return tuple(source(slot) for slot in range(target))


def stack(base: int, target: int) -> tuple[int, ...]:
    """Return the source of each of ``target`` slots when the network is stacked on itself."""
    _check_growth(base, target)
    return tuple(slot % base for slot in range(target))


PLACEMENTS: dict[str, Callable[[int, int], tuple[int, ...]]] = {
    "interpolate": interpolate,
    "stack": stack,
}
"""The source of each slot, by the name of a placement, for depths before and after a growth."""


def new_slots(source_map: Sequence[int]) -> tuple[int, ...]:
    """Return the slots that repeat a source which an earlier slot already has."""
    return tuple(slot for slot, source in enumerate(source_map) if source in source_map[:slot])


def skip_list(base: int, top: int, depth: int, placement: str = "interpolate") -> tuple[int, ...]:
    """Return the slots that a candidate of ``depth`` runs in a supernet grown ``base`` to ``top``.

    All first copies and the last ``depth - base`` new slots: capacity is added from the deep end,
    and ``depth == base`` is the network before growth. Raises ValueError unless base <= depth <= top.
    """
    source_map = PLACEMENTS[placement](base, top)
    if not base <= depth <= top:
        raise ValueError(f"depth of a candidate must lie in {base}..{top}, but got {depth}")
    new = new_slots(source_map)
    skipped = set(new[: top - depth])
    return tuple(slot for slot in range(top) if slot not in skipped)


def skip_lists(
    base: Sequence[int], top: Sequence[int], depth: Sequence[int], placement: str = "interpolate"
) -> tuple[tuple[int, ...], ...]:
    """Return the skip-list of each stage; stages are mapped independently."""
    ends = zip(base, top, depth, strict=True)
    return tuple(skip_list(*numbers, placement=placement) for numbers in ends)


def split_blocks(blocks: int, outlookers: int, transformers: int) -> tuple[int, int]:
    """Return how many of ``blocks`` of a VOLO are outlookers and how many are transformers.

    Outlookers are 0.23 of them on the grid of 2, as in AutoProg, bounded by what the full model has. Up to
    two blocks are one of each.
    """
    low, high = max(1, blocks - transformers), max(1, min(outlookers, blocks - 1))
    # 0.23 * 18 = 4.14 gives the 4 outlookers among the 18 blocks of VOLO-D1.
    first = min(max(make_divisible(0.23 * blocks, 2), low), high)
    return first, max(1, blocks - first)


def make_divisible(value: float, divisor: int) -> int:
    """Round to the grid of ``divisor``, never below 0.9 of ``value``, at least one ``divisor``."""
    rounded = max(divisor, math.floor((value + divisor / 2) / divisor + 1e-9) * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def _check_growth(base: int, target: int) -> None:
    if not 1 <= base <= target:
        raise ValueError(f"depth must grow from at least 1 block, but got {base} -> {target}")
