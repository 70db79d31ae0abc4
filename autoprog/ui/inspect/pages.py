"""What each view shows of a subject, as pure functions to renderables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich.console import Group, RenderableType
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from autoprog.decisions import Decision
from autoprog.ui.charts import (
    TWO_PLOTS_WIDTH,
    CurveAxis,
    Ghost,
    accuracy_series,
    curves_view,
    loss_series,
)
from autoprog.ui.format import DIM, STATUS, duration, number, per_cent
from autoprog.ui.live import frame
from autoprog.ui.run_views import growth_view, header_view, result_of, result_view, timeline_of
from autoprog.ui.search_views import (
    continuations_view,
    costs_view,
    decision_summary,
    fidelity_view,
    front_view,
)
from autoprog.ui.subject import Subject
from autoprog.ui.tables import Column, Fitted, panel

__all__ = ["DARK", "LIGHT", "PAGES", "Page", "decision_list_columns", "headline", "live", "weighed"]


# --------------------------------------------------------------------------------------------------
# What the sixteen colours of a terminal look like on the grounds that the program paints.


_COLOURS = [
    (213, 94, 0),
    (0, 158, 115),
    (230, 159, 0),
    (86, 180, 233),
    (204, 121, 167),
    (86, 180, 233),
]  # red, green, yellow, blue, magenta, cyan, as in the palette

# Dim text has to be read: 6.6 to 1 on the dark ground, 5.3 to 1 on the light one.
DARK = TerminalTheme(
    (18, 18, 18),
    (224, 224, 224),
    [(40, 40, 40), *_COLOURS, (208, 208, 208)],
    [(150, 150, 150), *_COLOURS, (255, 255, 255)],
)
LIGHT = TerminalTheme(
    (255, 255, 255),
    (31, 31, 31),
    [(0, 0, 0), *_COLOURS, (90, 90, 90)],
    [(107, 107, 107), *_COLOURS, (0, 0, 0)],
)


Page = Callable[[Subject, int, int], RenderableType]
"""From a subject and the columns and rows that there are."""

FRAME_ROWS = 3
AROUND_PLOT_ROWS = 3  # its legend, its axis and the axis labels
MIN_PLOT_ROWS = 4
CURVES_TOO_ROWS = 40  # from this height on, the schedule has room for the curves below it


def headline(subject: Subject) -> Text:
    """Return what is shown and how it stands, in one line."""
    line = Text(no_wrap=True, overflow="ellipsis")
    if subject.status:
        mark, style = STATUS[subject.status]
        line.append(f" {mark} {subject.status}", style)
    line.append(f"  {subject.spec.name}", "bold").append(_standing(subject))
    return line.append(f"  {subject.kind} {subject.name}", DIM)  # last: a long name is what is cut


def decision_list_columns(decisions: Sequence[Decision]) -> list[Column]:
    """Return the table of decisions in order, one row each."""
    return [
        Column("#", tuple(str(decision.index) for decision in decisions)),
        Column("epoch", tuple(number(decision.epoch) for decision in decisions)),
        Column("decided", tuple(map(decision_summary, decisions)), "left"),
        Column("of", tuple(str(len(decision.candidates)) for decision in decisions), rank=1),
    ]


def _standing(subject: Subject) -> str:
    state, result = subject.state, result_of(subject)
    if result is not None:
        return f"  top-1 EMA {result['top1_ema']:.2f} %  in {duration(result['wall_seconds'])}"
    if not state.total_steps:
        return ""
    left = f"  {duration(state.eta_seconds)} left" if state.eta_seconds is not None else ""
    return f"  {per_cent(state.fraction_done)} done{left}"


def _schedule(subject: Subject, columns: int, rows: int) -> RenderableType:
    picture, result = timeline_of(subject), result_of(subject)
    curves = curves_view(subject.state) if rows >= CURVES_TOO_ROWS else None
    parts = [header_view(subject), picture or _note("No schedule is known yet: the run begins.")]
    parts += [] if curves is None else [curves]
    return Group(*parts, *([] if result is None else [result_view(result)]))


def weighed(subject: Subject) -> Iterator[RenderableType]:
    """Yield the ways on that decisions weighed, the newest first, then costs and fidelity of a search."""
    for decision in reversed(subject.decisions):
        if decision.candidates:
            yield continuations_view(decision)
        elif len(decision.front) > 2:
            yield _front(decision)
    costs = None if subject.run is None else costs_view(subject.run, subject.state.num_classes)
    if costs is not None:
        yield costs
    if subject.fidelity is not None:
        yield fidelity_view(subject.fidelity)


def _front(decision: Decision) -> RenderableType:
    picture = Fitted(lambda width: front_view(decision, width) or Text(""))
    return panel(picture, f"Front · decision {decision.index} · epoch {number(decision.epoch)}")


def live(
    subject: Subject,
    columns: int,
    rows: int,
    axis: CurveAxis = "epochs",
    ghost: Ghost | None = None,
) -> RenderableType:
    """Return where a run stands and its curves, which fill the view."""
    state = subject.state
    if not state.total_steps:
        return _note("Nothing is measured yet: curves begin with the first steps of a run.")
    curves = curves_view(state, _plot_rows(subject, columns, rows), axis, ghost)
    return Group(frame(state), curves or _note("A curve begins with its second point."))


def _plot_rows(subject: Subject, columns: int, rows: int) -> int:
    """Return the height at which the plots fill the view."""
    plots = sum(bool(kind) for kind in (accuracy_series(subject.state), loss_series(subject.state)))
    stacked = 1 if columns - 4 >= TWO_PLOTS_WIDTH else max(1, plots)
    free = rows - FRAME_ROWS - 2
    return max(MIN_PLOT_ROWS, free // stacked - AROUND_PLOT_ROWS)


def _growth(subject: Subject, columns: int, rows: int) -> RenderableType:
    growths = subject.state.growths
    if not growths:
        return _note("The network has not grown yet.")
    origins = [
        panel(Text("\n".join(growth.origins)), f"Step {growth.step:,} · what each block came from")
        for growth in growths
        if growth.origins
    ]
    return Group(growth_view(growths), *origins)


def _note(text: str) -> Text:
    return Text(text, DIM)


PAGES: dict[str, Page] = {
    "schedule": _schedule,
    "growth": _growth,
}
