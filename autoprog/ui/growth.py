"""Growth events: what each changed, and what it cost."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType

from autoprog.events import Grown
from autoprog.ui.fitted import Fitted, panel
from autoprog.ui.tables import Column, rich_table
from autoprog.ui.units import count, duration, number, signed

__all__ = ["growth_columns", "growth_text", "growth_view"]


def growth_columns(growths: Sequence[Grown]) -> list[Column]:
    """Return the table of growth events, in order."""
    return [
        Column("step", tuple(count(growth.step) for growth in growths)),
        Column("from", tuple(str(growth.before) for growth in growths), "left"),
        Column("to", tuple(str(growth.after) for growth in growths), "left"),
        Column("for", tuple(_purpose(growth) for growth in growths), "left", rank=6),
        Column("op", tuple(growth.op for growth in growths), "left", rank=1),
        Column("map", tuple(growth.map for growth in growths), "left", rank=5),
        Column("source", tuple(growth.source for growth in growths), "left", rank=4),
        Column("state", tuple(growth.state for growth in growths), "left", rank=3),
        Column("Δloss", tuple(signed(growth.delta_loss) for growth in growths)),
        Column("‖Δlogits‖", tuple(number(growth.delta_logits, 3) for growth in growths), rank=2),
        Column("lost", tuple(duration(growth.lost_seconds) for growth in growths)),
    ]


def growth_text(growth: Grown) -> str:
    """Return a growth event in one line of ASCII."""
    return (
        f"grown from {growth.before} to {growth.after} by {growth.op} ({growth.map}, from"
        f" {growth.source}, state {growth.state}): loss {signed(growth.delta_loss)},"
        f" logits {number(growth.delta_logits, 3)}, lost {duration(growth.lost_seconds)}"
    )


def _purpose(growth: Grown) -> str:
    return "supernet" if growth.opens_supernet else "stage"


def growth_view(growths: Sequence[Grown]) -> RenderableType:
    """Return the table of growth events in its frame."""
    return panel(Fitted(lambda width: rich_table(growth_columns(growths), width)), "Growth")
