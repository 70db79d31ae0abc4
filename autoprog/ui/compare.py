"""Runs side by side: the table and the curves on a terminal, as Markdown and as plain values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Literal

from rich.console import Group as Stack
from rich.console import RenderableType
from rich.text import Text

from autoprog.proof.compare import Comparison, Difference, Group, Spread, charged_parts
from autoprog.proof.finished import Finished, Point
from autoprog.ui.fitted import Fitted
from autoprog.ui.palette import BLUE, DIM, GREEN, ORANGE, PURPLE, SKY, VERMILLION, WARNING
from autoprog.ui.plot import Series, Span, chart
from autoprog.ui.tables import Column, markdown_table, plain_table, rich_table
from autoprog.ui.units import amount, ascii_text, duration, mebibytes, number, signed

__all__ = [
    "AXES",
    "CHARGED",
    "COLOURS",
    "PAIRED",
    "Axis",
    "compare_document",
    "compare_markdown",
    "compare_plain",
    "compare_views",
    "comparison_columns",
    "comparison_curves",
    "comparison_notes",
    "comparison_table",
    "difference_lines",
    "difference_texts",
    "value_text",
    "x_of",
    "x_text",
]

Axis = Literal["seconds", "images", "macs"]
AXES: dict[Axis, str] = {
    "seconds": "wall time",
    "images": "images",
    "macs": "multiply-accumulates",
}
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
PLOT_ROWS = 12

CHARGED = (
    "Time is all wall time: training, supernets, waiting for data, search, growth, evaluation and"
    " checkpoints. ± is the sample standard deviation over seeds."
)
PAIRED = (
    "Δ is in points of top-1, of the averaged (EMA) and of the online networks, paired by seed where both"
    " have it; the interval is that of the sign test for the median of the EMA's pairs, with how sure it is."
)


def comparison_columns(comparison: Comparison) -> list[Column]:
    """Return the table: one row a group; what matters least leaves first."""
    groups = comparison.groups
    models = {group.runs[0].result.model for group in groups}
    columns = [
        Column("", tuple(group.label for group in groups)),
        Column("run", tuple(group.name for group in groups), "left"),
        Column("model", tuple(group.runs[0].result.model for group in groups), "left", rank=4),
        Column("n", tuple(str(len(group.seeds)) for group in groups)),
        Column("top-1 EMA %", tuple(_top1_text(group.top1_ema) for group in groups)),
        Column("online %", tuple(_top1_text(group.top1) for group in groups), rank=4),
        Column("Δ EMA", tuple(_difference_text(group.difference) for group in groups)),
        Column("Δ online", tuple(_difference_text(g.difference_online) for g in groups), rank=1),
        Column("interval", tuple(_interval_text(group.difference) for group in groups), rank=1),
        Column("time", tuple(_seconds_text(group.seconds) for group in groups)),
        Column("× time", tuple(_ratio_text(group.seconds_ratio) for group in groups)),
        Column("MACs", tuple(amount(group.macs.mean) for group in groups), rank=3),
        Column("× MACs", tuple(_ratio_text(group.macs_ratio) for group in groups), rank=2),
        Column("image-epochs", tuple(number(g.image_epochs.mean) for g in groups), rank=5),
        Column("memory", tuple(mebibytes(g.peak_memory_bytes) for g in groups), rank=6),
    ]
    return [column for column in columns if column.header != "model" or len(models) > 1]


def difference_lines(comparison: Comparison) -> list[str]:
    """Return, for each group but the reference, where its configuration leaves that of the reference."""
    reference = comparison.groups[0].label
    return [
        f"{group.label} differs from {reference} in " + "; ".join(difference_texts(group))
        for group in comparison.groups[1:]
    ]


def difference_texts(group: Group) -> list[str]:
    """Return each setting in which a group leaves the reference, in a few words."""
    return [
        key if key == "schedule" else f"{key} ({value_text(value)}, not {value_text(reference)})"
        for key, value, reference in group.differs_in
    ]


def compare_views(comparison: Comparison, axis: Axis) -> Iterator[RenderableType]:
    """Yield the table, what it means, and the curves."""
    yield comparison_table(comparison)
    yield from comparison_notes(comparison)
    curves = comparison_curves(comparison, axis)
    if curves is not None:
        yield curves


def comparison_table(comparison: Comparison) -> RenderableType:
    """Return the table as it fits."""
    return Fitted(lambda width: rich_table(comparison_columns(comparison), width))


def comparison_notes(comparison: Comparison) -> list[Text]:
    """Return what the table means, and what makes its numbers hard to compare."""
    return [
        *(Text(line, DIM) for line in difference_lines(comparison)),
        *(Text(fact, DIM) for fact in comparison.facts),
        Text(f"{CHARGED} {PAIRED}", DIM),
        *(Text(f"! {note}", WARNING) for note in comparison.notes),
    ]


def comparison_curves(
    comparison: Comparison, axis: Axis, plot_rows: int = PLOT_ROWS
) -> RenderableType | None:
    """Return top-1 EMA over an axis; None where no run was evaluated on the way."""
    if not any(run.curve for group in comparison.groups for run in group.runs):
        return None
    return Fitted(lambda width: _plot(comparison, axis, width, plot_rows))


def compare_plain(comparison: Comparison) -> str:
    """Return the table and what it means as aligned ASCII text."""
    lines = plain_table(comparison_columns(comparison))
    lines += [*difference_lines(comparison), *map(ascii_text, comparison.facts)]
    lines += [f"! {note}" for note in comparison.notes]
    return "\n".join(lines)


def compare_markdown(comparison: Comparison) -> str:
    """Return the table and what it means as GitHub's Markdown."""
    lines = markdown_table(comparison_columns(comparison))
    said = [*difference_lines(comparison), *comparison.facts]
    notes = [*said, CHARGED, PAIRED, *comparison.notes]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)])


def compare_document(
    comparison: Comparison, left_out: Sequence[tuple[str, str]] = ()
) -> dict[str, Any]:
    """Return all of it as values that JSON can hold; no number is rounded."""
    return {
        "schema": 1,
        "reference": comparison.groups[0].label,
        "groups": [_group_values(group) for group in comparison.groups],
        "facts": list(comparison.facts),
        "notes": list(comparison.notes),
        "left_out": [{"path": path, "reason": reason} for path, reason in left_out],
    }


def x_of(point: Point, axis: Axis) -> float:
    """Return where an evaluation lies on an axis."""
    return {"seconds": point.seconds, "images": point.images, "macs": point.macs}[axis]


def x_text(value: float, axis: Axis) -> str:
    """Return a value of an axis with its unit."""
    if axis == "seconds":
        return duration(value)
    return amount(value) + (" images" if axis == "images" else " MACs")


def value_text(value: Any) -> str:
    """Return a setting in one short line."""
    if value is None:
        return "none"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else text[:37] + "…"


def _plot(comparison: Comparison, axis: Axis, width: int, plot_rows: int) -> RenderableType:
    series, legend = [], Text()
    for index, group in enumerate(comparison.groups):
        style = COLOURS[index % len(COLOURS)]
        legend.append(f"━ {group.label} {group.name}   ", f"bold {style}")
        for run in group.runs:
            points = tuple((x_of(point, axis), point.top1_ema) for point in run.curve)
            series.append(Series(group.label, points, style, label=group.label[:1]))
    right = max(x for one in series for x, _ in one.points)
    title = Text(f"top-1 EMA % over {AXES[axis]}, one line a run", DIM)
    span = Span(0.0, right or 1.0, "0", x_text(right, axis))
    return Stack(title, legend, chart(series, (), span, width, plot_rows))


def _group_values(group: Group) -> dict[str, Any]:
    values = asdict(group)
    for key in ("runs", "differs_in"):
        del values[key]
    return {
        **values,
        "model": group.runs[0].result.model,
        "n": len(group.seeds),
        "configuration": group.runs[0].configuration,
        "differs_in": [
            {"key": key, "value": value, "reference": other}
            for key, value, other in group.differs_in
        ],
        "runs": [_run_values(run) for run in group.runs],
    }


def _run_values(run: Finished) -> dict[str, Any]:
    result = run.result
    return {
        "path": run.path,
        "run_id": result.run_id,
        "seed": result.seed,
        "top1": result.top1,
        "top1_ema": result.top1_ema,
        "seconds": result.wall_seconds,
        "parts_seconds": charged_parts(result),
        "image_epochs": result.image_epochs,
        "macs": result.macs,
        "peak_memory_bytes": result.peak_memory_bytes,
        "conditions": dict(run.conditions),
        "curve": [asdict(point) for point in run.curve],
    }


def _top1_text(top1: Spread) -> str:
    return f"{top1.mean:.2f}" + ("" if top1.sd is None else f" ± {top1.sd:.2f}")


def _seconds_text(seconds: Spread) -> str:
    return duration(seconds.mean) + ("" if seconds.sd is None else f" ± {duration(seconds.sd)}")


def _ratio_text(ratio: float | None) -> str:
    if ratio is None:
        return "–"
    return f"{ratio:.2f}" if ratio >= 0.1 else number(ratio, 2)


def _difference_text(difference: Difference | None) -> str:
    return "–" if difference is None else signed(difference.mean, 2)


def _interval_text(difference: Difference | None) -> str:
    if difference is None or difference.paired is None:
        return "–"
    paired = difference.paired
    return f"[{signed(paired.low, 2)}, {signed(paired.high, 2)}] {paired.confidence:.0%}"
