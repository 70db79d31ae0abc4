"""What a state keeps of the past, cut down so that a long run costs no more than a short one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from autoprog.curves import Curriculum
from supernet.config import SubnetConfig

__all__ = ["Piece", "Point", "extended", "stretched", "thinned", "with_point"]

MAX_POINTS = 512


@dataclass(frozen=True, slots=True)
class Point:
    """One kept progress report."""

    step: int
    epoch: float
    loss: float
    lr: float
    images_per_second: float
    train_seconds: float


@dataclass(frozen=True, slots=True)
class Piece:
    """Steps ``start_step`` to ``stop_step`` (exclusive, as far as is known) that were or are carried out.

    In a supernet phase ``subnet`` is the one that training came with.
    """

    start_step: int
    stop_step: int
    stage: int
    subnet: SubnetConfig
    curriculum: Curriculum
    supernet: bool = False


def extended(pieces: tuple[Piece, ...], new: Piece) -> tuple[Piece, ...]:
    """Return `pieces` cut where `new` begins, with `new` behind; an equal neighbour is merged."""
    cut = list(pieces)
    while cut and cut[-1].start_step >= new.start_step:
        cut.pop()
    if cut:  # those before it end where it begins
        cut[-1] = replace(cut[-1], stop_step=min(cut[-1].stop_step, new.start_step))
    if cut and replace(cut[-1], start_step=0, stop_step=0) == replace(
        new, start_step=0, stop_step=0
    ):
        new = replace(new, start_step=cut.pop().start_step)
    return (*cut, new)


def stretched(pieces: tuple[Piece, ...], stop_step: int) -> tuple[Piece, ...]:
    """Return `pieces` with the last one ending at `stop_step`."""
    return (*pieces[:-1], *(replace(piece, stop_step=stop_step) for piece in pieces[-1:]))


def with_point(
    points: tuple[Point, ...], spacing_steps: int, point: Point
) -> tuple[tuple[Point, ...], int]:
    """Return the points and their least spacing after one more, which is kept if it is far enough.

    A full list loses every second point and doubles the spacing.
    """
    if points and point.step - points[-1].step < spacing_steps:
        return points, spacing_steps
    points = (*points, point)
    if len(points) > MAX_POINTS:
        points = points[::2]
        spacing_steps = max(1, (points[-1].step - points[0].step) // (len(points) - 1))
    return points, spacing_steps


class _Stepped(Protocol):
    @property
    def step(self) -> int: ...


Item = TypeVar("Item", bound=_Stepped)


def thinned(items: tuple[Item, ...], most: int) -> tuple[Item, ...]:
    """Return at most `most` items: every second one but the last where there are more."""
    return items if len(items) <= most else (*items[:-1:2], items[-1])
