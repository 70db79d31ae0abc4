"""Ways to go on to the end of a run: the one that was chosen, and those that none beats."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Group, RenderableType
from rich.text import Text

from autoprog.decisions import Decision, FrontPoint, Tail
from autoprog.ui.fitted import Fitted, panel
from autoprog.ui.palette import DIM, MARK_GROWTH, MARK_WINNER, SKY
from autoprog.ui.plot import Series, Span, chart
from autoprog.ui.tables import GAP, Column, rich_table, table_width
from autoprog.ui.units import duration, milliseconds, number

__all__ = [
    "continuation_columns",
    "continuations_view",
    "front_columns",
    "front_view",
    "then_text",
    "way_text",
]

CHART_ROWS = 5
MOST_ROWS = 8


def then_text(decision: Decision) -> str:
    """Return what is to follow the subnet that was decided for; empty where nothing does."""
    later = decision.tail[1:]
    return f"then {_stretches_text(decision, later)}" if later else ""


def way_text(decision: Decision) -> str:
    """Return the subnet that was decided for and what is to follow it."""
    return ", ".join(filter(None, (str(decision.subnet), then_text(decision))))


def continuation_columns(decision: Decision) -> list[Column]:
    """Return the table of the ways on that were weighed, one for each candidate, best first."""
    rows = sorted(decision.candidates, key=lambda row: row.score)
    ways = tuple(
        f"{row.subnet}, {_stretches_text(decision, row.tail[1:])}"
        if row.tail[1:]
        else str(row.subnet)
        for row in rows
    )
    return [
        Column(" ", tuple(MARK_WINNER if r is decision.chosen else " " for r in rows), "left"),
        Column("end loss", tuple(f"{row.predicted_loss:.4f}" for row in rows)),
        Column("left", tuple(duration(row.remaining_seconds) for row in rows)),
        Column("score", tuple(f"{row.score:.4f}" for row in rows), rank=1),
        Column("ms/step", tuple(milliseconds(row.step_seconds) for row in rows), rank=2),
        Column("way on", ways, "left"),
    ]


def continuations_view(decision: Decision) -> RenderableType:
    """Return the ways on that were weighed, and the front that they are from where it is known."""
    title = (
        f"Decision {decision.index} · epoch {number(decision.epoch)} · ways on that were weighed"
    )
    return panel(Fitted(lambda width: _continuations(decision, width)), title)


def _continuations(decision: Decision, width: int) -> RenderableType:
    columns = continuation_columns(decision)
    chosen = columns[0].cells.index(MARK_WINNER)
    front = front_view(decision, width)
    table = rich_table(columns, width, chosen, wraps=True)
    return Group(table, *([] if front is None else [Text(""), front]))


def front_columns(decision: Decision, most: int | None = None) -> list[Column]:
    """Return the table of the front, cheapest first, with the chosen way marked.

    Args:
        decision: With a front.
        most: Rows, evenly picked, beside that of the chosen way; None for all.
    """
    points = _picked(decision, len(decision.front) if most is None else most)
    return [
        Column(" ", tuple(MARK_WINNER if _is_chosen(decision, p) else " " for p in points), "left"),
        Column("left", tuple(duration(p.remaining_seconds) for p in points)),
        Column("end loss", tuple(f"{p.predicted_loss:.4f}" for p in points)),
        Column("way on", tuple(_point_text(decision, p) for p in points), "left", rank=1),
    ]


def front_view(decision: Decision, width: int) -> RenderableType | None:
    """Return the front as a chart, with its table where the rule takes a point of it; None below three."""
    front = decision.front
    if len(front) < 3:
        return None
    chosen = [point for point in front if _is_chosen(decision, point)]
    legend = Text(no_wrap=True, overflow="ellipsis")
    legend.append("⠂ end loss over time left, on the front", f"bold {SKY}")
    legend.append(f"   {MARK_GROWTH} chosen" if chosen else "", DIM)
    points = tuple((point.remaining_seconds, point.predicted_loss) for point in front)
    first, last = points[0][0], points[-1][0]
    picture = chart(
        [Series("front", points, SKY, line=False)],
        [point.remaining_seconds for point in chosen],
        Span(first, last, duration(first), duration(last)),
        width,
        CHART_ROWS,
    )
    if decision.rule == "rollout":
        return Group(legend, picture)
    columns = _fitted(front_columns(decision, MOST_ROWS), width)
    row = next((i for i, mark in enumerate(columns[0].cells) if mark == MARK_WINNER), None)
    return Group(legend, picture, Text(""), rich_table(columns, width, row))


def _fitted(columns: list[Column], width: int) -> list[Column]:
    """Return the columns with the last one cut to what is left of `width`."""
    *others, way = columns
    room = width - table_width(others) - GAP
    cells = (cell if len(cell) <= room else f"{cell[: room - 1]}…" for cell in way.cells)
    return [*others, replace(way, cells=tuple(cells))]


def _picked(decision: Decision, most: int) -> list[FrontPoint]:
    """Return so many points of the front with both its ends, and the chosen one."""
    front, last = decision.front, len(decision.front) - 1
    if last < most:
        return list(front)
    places = {round(k * last / (most - 1)) for k in range(most)}
    return [p for i, p in enumerate(front) if i in places or _is_chosen(decision, p)]


def _is_chosen(decision: Decision, point: FrontPoint) -> bool:
    return point.tail == decision.tail


def _point_text(decision: Decision, point: FrontPoint) -> str:
    first, later = str(point.tail[0][1]), point.tail[1:]
    return f"{first}, {_stretches_text(decision, later)}" if later else first


def _stretches_text(decision: Decision, tail: Tail) -> str:
    """Return the subnets of a tail and from where on each trains: an epoch, or a share of the time."""
    if decision.length is not None:
        shares = ((subnet, step / decision.length) for step, subnet in tail)
        return ", ".join(f"{subnet} from {share:.0%} of the time" for subnet, share in shares)
    epochs = decision.epoch / max(1, decision.step)
    return ", ".join(f"{subnet} from epoch {number(step * epochs)}" for step, subnet in tail)
