"""Runs side by side: the table and the curves on a terminal, as Markdown and as plain values."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, Literal

from rich.console import Group as Rows
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.text import Text

from autoprog.errors import ConfigError
from autoprog.stage import Training, image_macs
from autoprog.ui.charts import Series, Span, chart
from autoprog.ui.format import (
    BLUE,
    DIM,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    WARNING,
    amount,
    ascii_text,
    duration,
    lane_style,
    mebibytes,
    number,
    signed,
)
from autoprog.ui.subject import UNKNOWN_CLASSES, Subject
from autoprog.ui.tables import Column, Fitted, markdown_table, panel, plain_table, rich_table
from autoprog.ui.timeline import (
    Lane,
    Track,
    all_lanes,
    full_epochs,
    lane_changes,
    place_labels,
    step_plot,
    step_seconds_sum,
)
from autoprog.verify.compare import (
    Comparison,
    Difference,
    FinishedRun,
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
    "DiffSpan",
    "ScheduleDiff",
    "SideCost",
    "compare_document",
    "compare_markdown",
    "compare_plain",
    "compare_views",
    "comparison_columns",
    "comparison_curves",
    "comparison_notes",
    "comparison_table",
    "cost_lines",
    "diff_columns",
    "diff_document",
    "diff_plain",
    "diff_view",
    "difference_lines",
    "difference_texts",
    "schedule_diff",
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


def _run_values(run: FinishedRun) -> dict[str, Any]:
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


# --------------------------------------------------------------------------------------------------
# Two schedules beside each other: where they differ, and what each costs.


NAME_WIDTH = 14
MARK_DIFFERENT = "≠"


@dataclass(frozen=True)
class SideCost:
    """What a schedule costs, as far as it is known.

    Attributes:
        name: Where it is from.
        model: What it ends at.
        epochs: Its known length.
        full_epochs: Its multiply-accumulates, in epochs of its full model.
        seconds: Of its steps by measured costs; None where one is missing.
    """

    name: str
    model: str
    epochs: float
    full_epochs: float
    seconds: float | None


@dataclass(frozen=True)
class DiffSpan:
    """Epochs in which the same axes differ: the texts of A and B by axis, empty where nothing does.

    Beyond the end of the shorter schedule the only axis is ``training``.
    """

    start_epoch: float
    stop_epoch: float
    differs: Mapping[str, tuple[str, str]]


@dataclass(frozen=True)
class ScheduleDiff:
    """Two schedules, A and B; ratios are those of B to A, None where they cannot be known."""

    tracks: tuple[Track, Track]
    costs: tuple[SideCost, SideCost]
    spans: tuple[DiffSpan, ...]
    macs_ratio: float
    seconds_ratio: float | None
    notes: tuple[str, ...] = ()

    @property
    def axes(self) -> tuple[str, ...]:
        """Return the axes that differ anywhere, in their order."""
        found = {axis for span in self.spans for axis in span.differs}
        return tuple(lane.name for lane in all_lanes(self.tracks[0]) if lane.name in found)


def schedule_diff(a: Subject, b: Subject) -> ScheduleDiff:
    """Return how the schedule of B differs from that of A.

    Step times are those of a run's own ``costs.json``; a plan takes the other's, its steps an epoch and its
    classes.

    Raises:
        ConfigError: If one of them has no schedule yet.
    """
    tracks = (_track(a, b), _track(b, a))
    own = [{} if subject.run is None else subject.run.step_seconds for subject in (a, b)]
    other = own[::-1] if a.spec == b.spec else [{}, {}]
    known = [subject.state.steps_per_epoch for subject in (a, b)]
    costs = [
        _cost(subject, track, own[side] or other[side], known[side] or known[1 - side])
        for side, (subject, track) in enumerate(zip((a, b), tracks, strict=True))
    ]
    seconds = (costs[0].seconds, costs[1].seconds)
    macs = [cost.full_epochs * _full_macs(track) for cost, track in zip(costs, tracks, strict=True)]
    return ScheduleDiff(
        tracks=(tracks[0], tracks[1]),
        costs=(costs[0], costs[1]),
        spans=tuple(_merged(_spans(tracks[0], tracks[1]))),
        macs_ratio=macs[1] / macs[0],
        seconds_ratio=seconds[1] / seconds[0] if seconds[0] and seconds[1] else None,
        notes=(*a.notes, *b.notes),
    )


def diff_view(diff: ScheduleDiff) -> RenderableType:
    """Return both schedules lane by lane, with what they share in grey."""
    return panel(Fitted(lambda width: _picture(diff, width)), "Schedules A and B")


def diff_plain(diff: ScheduleDiff) -> str:
    """Return the diff as aligned ASCII text."""
    lines = [ascii_text(line.plain) for line in cost_lines(diff)]
    return "\n".join([*lines, "", *plain_table(diff_columns(diff))]) + "\n"


def diff_columns(diff: ScheduleDiff) -> list[Column]:
    """Return the table of the spans: from, to, and both values of every axis that differs anywhere."""
    spans = diff.spans
    axes = [*diff.axes, *(["training"] if "training" in spans[-1].differs else [])]
    return [
        Column("from epoch", tuple(number(span.start_epoch) for span in spans)),
        Column("to epoch", tuple(number(span.stop_epoch) for span in spans)),
        *(
            Column(f"{axis} A, B", tuple(_pair_text(s, axis) for s in spans), "left")
            for axis in axes
        ),
    ]


def diff_document(diff: ScheduleDiff) -> dict[str, Any]:
    """Return the diff as values that JSON can hold; no number is rounded."""
    return {
        "schema": 1,
        "a": asdict(diff.costs[0]),
        "b": asdict(diff.costs[1]),
        "macs_ratio": diff.macs_ratio,
        "seconds_ratio": diff.seconds_ratio,
        "notes": list(diff.notes),
        "spans": [
            {
                "start_epoch": span.start_epoch,
                "stop_epoch": span.stop_epoch,
                "differs": {axis: list(pair) for axis, pair in span.differs.items()},
            }
            for span in diff.spans
        ],
    }


def _track(subject: Subject, other: Subject) -> Track:
    """Return the track of a subject; a plan for unknown classes is drawn for those of the other."""
    if subject.track is None:
        raise ConfigError(subject.name, "", "must have a schedule: the run has not begun")
    if subject.run is not None or subject.track.num_classes != UNKNOWN_CLASSES:
        return subject.track
    return replace(subject.track, num_classes=other.state.num_classes)


def _cost(
    subject: Subject, track: Track, step_seconds: Mapping[str, float], steps_per_epoch: int
) -> SideCost:
    """Return what a schedule costs; a plan for unknown data, with 0 steps an epoch, has no seconds."""
    seconds = step_seconds_sum(track, step_seconds) if steps_per_epoch else None
    if seconds is not None:
        seconds *= steps_per_epoch / track.steps_per_epoch
    known = track.known_steps / track.steps_per_epoch
    return SideCost(_name(subject), subject.spec.name, known, full_epochs(track), seconds)


def _name(subject: Subject) -> str:
    """Return the name of a plan, or of a run with what it trained along."""
    origin = None if subject.run is None else subject.run.manifest.settings.schedule_from
    return subject.name if origin is None else f"{subject.name} ({Path(origin).name})"


def _full_macs(track: Track) -> int:
    return image_macs(track.spec, track.spec.full, Training(), track.num_classes)


def _spans(a: Track, b: Track) -> Iterator[DiffSpan]:
    tables = [_Texts(track) for track in (a, b)]
    bounds = sorted({bound for table in tables for bound in table.bounds})
    for start, stop in pairwise(bounds):
        if stop - start < 1e-6:
            continue
        first, second = (table.at((start + stop) / 2) for table in tables)
        if not first or not second:
            ends = ("goes on" if first else "has ended", "goes on" if second else "has ended")
            yield DiffSpan(start, stop, {"training": ends})
            continue
        pairs = {axis: (text, second[axis]) for axis, text in first.items()}
        yield DiffSpan(start, stop, {axis: two for axis, two in pairs.items() if two[0] != two[1]})


def _merged(spans: Iterator[DiffSpan]) -> Iterator[DiffSpan]:
    for _, group in groupby(spans, lambda span: span.differs):
        same = list(group)
        yield replace(same[0], stop_epoch=same[-1].stop_epoch)


class _Texts:
    """The texts of all axes of a track by epoch."""

    def __init__(self, track: Track) -> None:
        steps = [*(segment.start_step for segment in track.segments), track.known_steps]
        self.bounds = [round(step / track.steps_per_epoch, 6) for step in steps]
        self._lanes = all_lanes(track)

    def at(self, epoch: float) -> dict[str, str]:
        """Return the text of each axis; empty after the end."""
        index = bisect_right(self.bounds, epoch) - 1
        if index >= len(self.bounds) - 1:
            return {}
        return {lane.name: lane.texts[index] for lane in self._lanes}


def _pair_text(span: DiffSpan, axis: str) -> str:
    pair = span.differs.get(axis)
    return "same" if pair is None else f"{pair[0]}, {pair[1]}"


def _picture(diff: ScheduleDiff, width: int) -> RenderableType:
    columns = max(10, width - NAME_WIDTH)
    right = diff.spans[-1].stop_epoch
    different = _different_columns(diff, right, columns)
    rows = [row for axis in diff.axes for row in _axis_rows(diff, axis, right, different)]
    marks = "".join(MARK_DIFFERENT if one else " " for one in different)
    ends = place_labels([(0, "0"), (columns - 1, f"epoch {number(right)}")], columns)
    rows += [_row("differ", Text(marks, WARNING)), _row("", Text(ends, DIM))]
    if not diff.axes:
        rows = [Text("The same on every axis.", DIM)]
    return Rows(*cost_lines(diff), Text(""), *rows)


def _different_columns(diff: ScheduleDiff, right: float, columns: int) -> list[bool]:
    cells = [False] * columns
    for span in diff.spans:
        if span.differs:
            first = min(columns - 1, round(span.start_epoch * columns / right))
            last = max(first + 1, round(span.stop_epoch * columns / right))
            cells[first:last] = [True] * (min(last, columns) - first)
    return cells


def _axis_rows(diff: ScheduleDiff, axis: str, right: float, different: list[bool]) -> list[Text]:
    """Return the labels and the steps of one axis for A and for B."""
    pair = [next(lane for lane in all_lanes(t) if lane.name == axis) for t in diff.tracks]
    top = max(lane.top for lane in pair)
    rows = []
    for side, lane, track in zip("AB", pair, diff.tracks, strict=True):
        name = f"{axis if side == 'A' else '':<12}{side}"
        labels, plot = _lane_texts(replace(lane, top=top), track, right, len(different))
        style = lane_style(axis, 0)
        text = Text(plot, DIM)
        for column, one in enumerate(different):
            if one:
                text.stylize(f"bold {style}", column, column + 1)
        rows += [_row(name, Text(labels, f"bold {style}")), _row("", text)]
    return rows


def _lane_texts(lane: Lane, track: Track, right: float, columns: int) -> tuple[str, str]:
    def column(step: int) -> int:
        return min(columns, round(step / track.steps_per_epoch * columns / right))

    starts = [column(segment.start_step) for segment in track.segments]
    stop = column(track.known_steps)
    plot = step_plot(lane, starts, columns, stop, columns)
    return place_labels(lane_changes(lane, starts), columns), plot[:stop].ljust(columns)


def cost_lines(diff: ScheduleDiff) -> list[Text]:
    """Return what each side costs, the ratios and what the schedules were drawn for, a line each."""
    lines, models = [], {cost.model for cost in diff.costs}
    for side, cost in zip("AB", diff.costs, strict=True):
        model = f"  {cost.model}" if len(models) > 1 else ""
        line = Text(f"{side} ", "bold").append(f"{cost.name}{model}", "not bold")
        line.append(f"  {number(cost.epochs)} epochs = {number(cost.full_epochs)} full", DIM)
        if cost.seconds is not None:
            line.append(f", {duration(cost.seconds)} by measured step times", DIM)
        lines.append(line)
    ratio = Text("B costs ").append(f"{diff.macs_ratio:.3f}×", "bold")
    ratio.append(" of A by multiply-accumulates")
    if diff.seconds_ratio is not None:
        ratio.append(" · ").append(f"{diff.seconds_ratio:.3f}×", "bold")
        ratio.append(" by measured step times")
    return [*lines, ratio, *(Text(note, DIM) for note in diff.notes)]


def _row(name: str, content: Text) -> Text:
    return Text(name.ljust(NAME_WIDTH), DIM, no_wrap=True, overflow="crop").append_text(content)
