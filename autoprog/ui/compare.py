"""Finished runs side by side: a table of groups that differ in their seed alone, notes and curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from autoprog.ui.format import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    amount,
    duration,
    mebibytes,
    number,
    signed,
)
from autoprog.ui.section import Chart, Line, Section, Series, Span, Table, Warnings
from autoprog.ui.tables import Column
from autoprog.verify.compare import (
    Comparison,
    Difference,
    Group,
    Point,
    Spread,
    charged_parts,
)

__all__ = [
    "AXES",
    "CHARGED",
    "COLOURS",
    "PAIRED",
    "Axis",
    "compare_document",
    "compare_sections",
    "comparison_columns",
    "comparison_curves",
    "comparison_notes",
    "difference_lines",
    "difference_texts",
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
_PLOT_ROWS = 12

CHARGED = (
    "Time is all wall time: training, supernets, waiting for data, search, growth, evaluation and"
    " checkpoints. ± is the sample standard deviation over seeds."
)
PAIRED = (
    "Δ is in points of top-1, of the averaged (EMA) and of the online networks, paired by seed where both"
    " have it; the interval is that of the sign test for the median of the EMA's pairs, with how sure it is."
)


def compare_sections(
    comparison: Comparison, axis: Axis = "seconds", plot_rows: int = _PLOT_ROWS
) -> list[Section]:
    """Return the table, what it means, and the curves."""
    return [
        Section("table", (Table.of(comparison_columns(comparison)),)),
        comparison_notes(comparison),
        comparison_curves(comparison, axis, plot_rows),
    ]


def comparison_columns(comparison: Comparison) -> list[Column]:
    """Return the table: one row a group; what matters least leaves first."""
    groups = comparison.groups

    def top1(value: Spread) -> str:
        return f"{value.mean:.2f}" + ("" if value.sd is None else f" ± {value.sd:.2f}")

    def seconds(value: Spread) -> str:
        return duration(value.mean) + ("" if value.sd is None else f" ± {duration(value.sd)}")

    def ratio(value: float | None) -> str:
        if value is None:
            return "–"
        # Two decimals of 0.004 would be 0.00.
        return f"{value:.2f}" if value >= 0.1 else number(value, 2)

    def difference(value: Difference | None) -> str:
        return "–" if value is None else signed(value.mean, 2)

    def interval(value: Difference | None) -> str:
        if value is None or value.paired is None:
            return "–"
        paired = value.paired
        return f"[{signed(paired.low, 2)}, {signed(paired.high, 2)}] {paired.confidence:.0%}"

    # Of one model the column would say the same in every row.
    models = {group.runs[0].result.model for group in groups}
    columns = [
        Column("", tuple(group.label for group in groups)),
        Column("run", tuple(group.name for group in groups), "left"),
        Column("model", tuple(group.runs[0].result.model for group in groups), "left", rank=4),
        Column("n", tuple(str(len(group.seeds)) for group in groups)),
        Column("top-1 EMA %", tuple(top1(group.top1_ema) for group in groups)),
        Column("online %", tuple(top1(group.top1) for group in groups), rank=4),
        Column("Δ EMA", tuple(difference(group.difference) for group in groups)),
        Column("Δ online", tuple(difference(g.difference_online) for g in groups), rank=1),
        Column("interval", tuple(interval(group.difference) for group in groups), rank=1),
        Column("time", tuple(seconds(group.seconds) for group in groups)),
        Column("× time", tuple(ratio(group.seconds_ratio) for group in groups)),
        Column("MACs", tuple(amount(group.macs.mean) for group in groups), rank=3),
        Column("× MACs", tuple(ratio(group.macs_ratio) for group in groups), rank=2),
        Column("image-epochs", tuple(number(g.image_epochs.mean) for g in groups), rank=5),
        Column("memory", tuple(mebibytes(g.peak_memory_bytes) for g in groups), rank=6),
    ]
    return [column for column in columns if column.header != "model" or len(models) > 1]


def comparison_notes(comparison: Comparison) -> Section:
    """Return what the table means, and what makes its numbers hard to compare."""
    texts = [*difference_lines(comparison), *comparison.facts, CHARGED, PAIRED]
    warnings = [Warnings(comparison.notes)] if comparison.notes else []
    return Section("notes", (*(Line(text, "dim") for text in texts), *warnings))


def difference_lines(comparison: Comparison) -> list[str]:
    """Return, for each group but the reference, where its configuration leaves that of the reference."""
    reference = comparison.groups[0].label
    return [
        f"{group.label} differs from {reference} in " + "; ".join(difference_texts(group))
        for group in comparison.groups[1:]
    ]


def difference_texts(group: Group) -> list[str]:
    """Return each setting in which a group leaves the reference, in a few words."""

    def short(value: Any) -> str:
        if value is None:
            return "none"
        text = f"{value:g}" if isinstance(value, float) else str(value)
        return text if len(text) <= 40 else text[:37] + "…"

    return [
        key if key == "schedule" else f"{key} ({short(value)}, not {short(reference)})"
        for key, value, reference in group.differs_in
    ]


def comparison_curves(comparison: Comparison, axis: Axis, plot_rows: int = _PLOT_ROWS) -> Section:
    """Return top-1 EMA over an axis, one line a run; nothing to see where none was evaluated on the way."""
    series = [
        Series(
            f"{group.label} {group.name}",
            tuple((x_of(point, axis), point.top1_ema) for point in run.curve),
            COLOURS[index % len(COLOURS)],
            label=group.label,
            detail=f"{run.name}, seed {run.result.seed}",
        )
        for index, group in enumerate(comparison.groups)
        for run in group.runs
    ]
    right = max((x for one in series for x, _ in one.points), default=None)
    if right is None:
        return Section("curves")

    def tick_text(value: float) -> str:
        # The name of the axis says the unit already.
        text = x_text(value, axis)
        return "0" if value == 0 else text.removesuffix(" images").removesuffix(" MACs")

    end = x_text(right, axis)
    span = Span(0.0, right or 1.0, "0", end, AXES[axis], tick_text, is_time=axis == "seconds")
    title = f"top-1 EMA % over {AXES[axis]}, one line a run"
    return Section("curves", (Chart(tuple(series), span, title, rows=plot_rows),))


def x_of(point: Point, axis: Axis) -> float:
    """Return where an evaluation lies on an axis."""
    return {"seconds": point.seconds, "images": point.images, "macs": point.macs}[axis]


def x_text(value: float, axis: Axis) -> str:
    """Return a value of an axis with its unit."""
    if axis == "seconds":
        return duration(value)
    return amount(value) + (" images" if axis == "images" else " MACs")


def compare_document(
    comparison: Comparison, left_out: Sequence[tuple[str, str]] = ()
) -> dict[str, Any]:
    """Return all of it as values that JSON can hold; no number is rounded."""
    own = ("runs", "differs_in")  # written in another form
    return {
        "schema": 1,
        "reference": comparison.groups[0].label,
        "groups": [
            {
                **{key: value for key, value in asdict(group).items() if key not in own},
                "model": group.runs[0].result.model,
                "n": len(group.seeds),
                "configuration": group.runs[0].configuration,
                "differs_in": [
                    {"key": key, "value": value, "reference": other}
                    for key, value, other in group.differs_in
                ],
                "runs": [
                    {
                        "path": run.path,
                        "run_id": run.result.run_id,
                        "seed": run.result.seed,
                        "top1": run.result.top1,
                        "top1_ema": run.result.top1_ema,
                        "seconds": run.result.wall_seconds,
                        "parts_seconds": charged_parts(run.result),
                        "image_epochs": run.result.image_epochs,
                        "macs": run.result.macs,
                        "peak_memory_bytes": run.result.peak_memory_bytes,
                        "conditions": dict(run.conditions),
                        "curve": [asdict(point) for point in run.curve],
                    }
                    for run in group.runs
                ],
            }
            for group in comparison.groups
        ],
        "facts": list(comparison.facts),
        "notes": list(comparison.notes),
        "left_out": [{"path": path, "reason": reason} for path, reason in left_out],
    }
