"""The stretches of a schedule as they are decided one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autoprog.curves import Curriculum
from supernet.config import SubnetConfig

__all__ = ["Piece", "merged"]


@dataclass(frozen=True)
class Piece:
    """A stretch of the schedule as decided: from ``step`` on, at ``subnet``."""

    step: int
    subnet: SubnetConfig
    curriculum: Curriculum


def merged(pieces: Sequence[Piece]) -> list[Piece]:
    """Return the pieces without those that have no step, neighbours that are alike as one."""
    kept: list[Piece] = []
    for piece in pieces:
        same = kept and (kept[-1].subnet, kept[-1].curriculum) == (piece.subnet, piece.curriculum)
        if kept and kept[-1].step == piece.step:
            kept[-1] = piece
        elif not same:
            kept.append(piece)
    return kept
