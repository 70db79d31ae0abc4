"""Which cells to measure where there is no time for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from autoprog.costs.cells import CostCell

__all__ = ["by_worth", "cells_to_measure"]

_ALWAYS = 2


def cells_to_measure(
    cells: Sequence[CostCell],
    full: CostCell,
    seconds_of: Callable[[CostCell], float],
    budget_seconds: float,
) -> list[CostCell]:
    """Return the full cell and those that tell most about the others, as far as a budget reaches.

    The full cell and the smallest are always among them: with one alone nothing can be said about others.

    Args:
        cells: All that are of interest; `full` is added where it is missing.
        full: The reference.
        seconds_of: What it takes to measure a cell.
        budget_seconds: For all of them.
    """
    ordered = by_worth(cells, full)
    chosen, left = ordered[:_ALWAYS], budget_seconds
    left -= sum(map(seconds_of, chosen))
    for cell in ordered[_ALWAYS:]:
        left -= seconds_of(cell)
        if left < 0:
            break
        chosen.append(cell)
    return chosen


def by_worth(cells: Sequence[CostCell], full: CostCell) -> list[CostCell]:
    """Return cells in the order of their worth: full, corners, those that differ in one axis, the rest.

    Corners have the least or the greatest value on every axis, the smallest corner first. Those that differ
    from the full cell in one axis are its lines; within lines and rest the order is that of `cells`.
    """
    every = list(dict.fromkeys((full, *cells)))
    ends = [{min(values), max(values)} for values in zip(*map(_place, every), strict=True)]

    def worth(cell: CostCell) -> tuple[int, tuple[float, ...]]:
        place = _place(cell)
        if cell == full:
            return 0, ()
        if all(value in end for value, end in zip(place, ends, strict=True)):
            return 1, place
        changed = sum(a != b for a, b in zip(place, _place(full), strict=True))
        return (2, ()) if changed == 1 else (3, ())

    return sorted(every, key=worth)


def _place(cell: CostCell) -> tuple[float, ...]:
    """Return where a cell lies on each axis."""
    share = 1.0 if cell.unfrozen is None else cell.unfrozen.share
    subnet = cell.subnet
    return (
        subnet.total_depth,
        subnet.img_size,
        subnet.tokens.keep_rate,
        cell.batch_size,
        float(cell.shrink_by == "fourier"),
        share,
    )
