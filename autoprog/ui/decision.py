"""Why a decision was taken: the candidates with all that their scores are made of."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autoprog.decisions import Candidate, Decision
from autoprog.ui.fitted import Fitted, panel
from autoprog.ui.palette import DIM, MARK_WINNER, SHADES, WINNER
from autoprog.ui.tables import Column, rich_table, table_width
from autoprog.ui.units import count, depth_text, duration, milliseconds, number, signed, subnet_text
from autoprog.ui.ways import front_view, then_text

__all__ = [
    "decision_columns",
    "decision_heading",
    "decision_summary",
    "decision_view",
    "heat_map",
    "ranked",
    "runner_up_text",
]


MAP_GAP = 4


def decision_view(decision: Decision) -> RenderableType:
    """Return a decision as heading, candidates, a map where two axes vary, the way on, reason and front."""
    title = f"Decision {decision.index} · epoch {number(decision.epoch)}"
    return panel(Fitted(lambda width: _body(decision, width)), title)


def ranked(decision: Decision) -> list[Candidate]:
    """Return the candidates by score, best first."""
    return sorted(decision.candidates, key=lambda candidate: candidate.score)


def decision_heading(decision: Decision) -> str:
    """Return when, by which rule and from where the decision was taken."""
    is_priced = decision.candidates and decision.length is None
    alpha = f" · alpha {number(decision.alpha)}" if is_priced else ""
    return (
        f"step {count(decision.step)} · rule {decision.rule}{alpha}"
        f" · from {subnet_text(decision.current)}"
    )


def decision_summary(decision: Decision) -> str:
    """Return what was decided, in one line."""
    stays = decision.subnet == decision.current
    return f"{'stay at' if stays else 'grow to'} {subnet_text(decision.subnet)}"


def decision_columns(decision: Decision) -> list[Column]:
    """Return the table of candidates, best first, with the winner marked."""
    rows = ranked(decision)
    return [
        Column(" ", tuple(_mark(decision, row) for row in rows), "left"),
        Column("rank", tuple(str(place) for place in range(1, len(rows) + 1)), rank=3),
        Column("candidate", tuple(row.label for row in rows), "left", rank=5),
        Column("depth", tuple(depth_text(row.subnet) for row in rows)),
        Column("px", tuple(str(row.subnet.img_size) for row in rows)),
        Column("loss", tuple(f"{row.loss:.4f}" for row in rows)),
        Column("vs stay", tuple(_difference(decision, row) for row in rows), rank=2),
        Column("ms/step", tuple(milliseconds(row.step_seconds) for row in rows), rank=6),
        Column("end loss", tuple(f"{row.predicted_loss:.4f}" for row in rows)),
        Column("left", tuple(duration(row.remaining_seconds) for row in rows), rank=4),
        Column("score", tuple(f"{row.score:.4f}" for row in rows)),
    ]


def runner_up_text(decision: Decision) -> str:
    """Return the best candidate that lost and by how much; empty when there was no other."""
    if len(decision.candidates) < 2:
        return ""
    chosen = decision.chosen
    others = [row for row in ranked(decision) if row is not chosen]
    second = others[0]
    margin = "" if chosen.score == 0 else f" ({100 * (second.score / chosen.score - 1):+.2f} %)"
    name = f"{second.label} ({subnet_text(second.subnet)})"
    return f"runner-up: {name}, score {second.score:.4f}{margin}"


def heat_map(decision: Decision) -> Text | None:
    """Return scores over depth and image size, darker being better; None unless both axes vary.

    Of candidates that differ in their keep-rates alone, the best is shown.
    """
    best_last = reversed(ranked(decision))
    scores = {(row.subnet.depth, row.subnet.img_size): row.score for row in best_last}
    depths = sorted({depth for depth, _ in scores})
    sizes = sorted({size for _, size in scores})
    if len(depths) < 2 or len(sizes) < 2:
        return None
    map_text = Text(no_wrap=True, overflow="crop")
    map_text.append("score  " + "".join(f"{size} px".center(12) for size in sizes), DIM)
    for depth in depths:
        map_text.append("\n" + f"d{'+'.join(map(str, depth))}".rjust(5) + "  ", DIM)
        for size in sizes:
            map_text.append_text(_cell(decision, scores, depth, size))
    return map_text


def _body(decision: Decision, width: int) -> RenderableType:
    heading = Text(decision_heading(decision), DIM)
    numbers = [Text(""), *_numbers(decision, width)] if decision.candidates else []
    parts = [heading, *numbers, Text("")]
    parts.append(Text(f"{MARK_WINNER} {decision_summary(decision)}", WINNER))
    lines = (then_text(decision), decision.reason, runner_up_text(decision))
    parts += [Text(line) for line in lines if line]
    front = front_view(decision, width)
    return Group(*parts, *([] if front is None else [Text(""), front]))


def _numbers(decision: Decision, width: int) -> list[RenderableType]:
    """Return the table and the map, side by side where there is room for all of both."""
    chosen = next(i for i, row in enumerate(ranked(decision)) if row is decision.chosen)
    columns = decision_columns(decision)
    picture = heat_map(decision)
    if picture is None:
        return [rich_table(columns, width, chosen)]
    room = width - MAP_GAP - max(map(len, picture.plain.splitlines()))
    if table_width(columns) > room:
        return [rich_table(columns, width, chosen), Text(""), picture]
    grid = Table.grid(padding=(0, MAP_GAP, 0, 0))
    grid.add_row(rich_table(columns, room, chosen), picture)
    return [grid]


def _mark(decision: Decision, row: Candidate) -> str:
    return MARK_WINNER if row is decision.chosen else " "


def _difference(decision: Decision, row: Candidate) -> str:
    if row.subnet == decision.current:
        return "stay"
    return f"{signed(row.difference)} ±{row.difference_se:.4f}"


def _cell(
    decision: Decision,
    scores: dict[tuple[tuple[int, ...], int], float],
    depth: tuple[int, ...],
    size: int,
) -> Text:
    score = scores.get((depth, size))
    if score is None:
        return Text("·".center(12), DIM)
    order = sorted(set(scores.values()), reverse=True)
    shade = SHADES[order.index(score) * (len(SHADES) - 1) // max(1, len(order) - 1)]
    won = (decision.chosen.subnet.depth, decision.chosen.subnet.img_size) == (depth, size)
    mark = MARK_WINNER if won else " "
    return Text(f"{mark}{score:.4f} {shade * 2}".center(12), WINNER if won else "")
