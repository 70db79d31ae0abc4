"""Which parameters matter, as bars."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from autoprog.importance import Importance
from autoprog.ui.fitted import Fitted, panel
from autoprog.ui.palette import DIM, SKY
from autoprog.ui.units import per_cent

__all__ = ["importances_view"]

MOST_PARAMETERS = 8
SHARE_WIDTH = 6


def importances_view(found: Sequence[Importance]) -> RenderableType:
    """Return a bar for each parameter, by study and metric."""
    return panel(
        Fitted(lambda width: Group(*(_bars(one, width) for one in found))),
        "Which parameters matter, by PED-ANOVA",
    )


def _bars(one: Importance, width: int) -> RenderableType:
    heading = Text(f"{one.metric} · {one.study} · {one.num_trials} trials", DIM)
    heading.no_wrap, heading.overflow = True, "ellipsis"
    if one.problem:
        return Group(heading, Text(one.problem))
    shown = list(one.shares.items())[:MOST_PARAMETERS]
    room = max(len(name) for name, _ in shown) + 2
    columns = max(5, width - room - SHARE_WIDTH)
    top = max(share for _, share in shown) or 1.0
    rows = [
        Text(f"{name:<{room}}", no_wrap=True)
        .append("█" * round(columns * share / top), SKY)
        .append(f" {per_cent(share)}")
        for name, share in shown
    ]
    return Group(heading, *rows)
