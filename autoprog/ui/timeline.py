"""The schedule as a picture: one lane an axis over the epochs, with the value written at each change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from rich.console import Group, RenderableType
from rich.text import Text

from autoprog.curves import Curriculum, curve_value
from autoprog.stage import Grow, Training, relative_step_cost
from autoprog.steptable import Segment, StepTable
from autoprog.ui.format import (
    BLOCKS,
    DIM,
    MARK_DECISION,
    MARK_GROWTH,
    MARK_NOW,
    MARK_PLANNED,
    MARK_SUPERNET,
    MARK_UNDECIDED,
    depth_text,
    lane_style,
    number,
    per_cent,
    trained_text,
)
from autoprog.ui.state import Piece, RunState
from autoprog.ui.tables import Fitted, flowing, panel
from supernet.config import ALL_TOKENS, ModelSpec, SubnetConfig

__all__ = [
    "CURRICULUM_NAMES",
    "Lane",
    "Track",
    "all_lanes",
    "constants",
    "curriculum_value",
    "full_epochs",
    "lane_changes",
    "lanes",
    "mean_relative_cost",
    "measured_speed_up",
    "place_labels",
    "step_plot",
    "step_seconds_sum",
    "timeline",
    "track_of_run",
    "track_of_table",
    "unfrozen_lines",
]


# --------------------------------------------------------------------------------------------------
# What a timeline shows: the segments of a plan or of a run, one lane an axis, and what a step
# costs.


CURRICULUM_NAMES = {
    "randaug": "RandAugment",
    "drop_path": "drop-path",
    "reprob": "erasing",
    "mixup": "mixup",
    "cutmix": "cutmix",
}


@dataclass(frozen=True)
class Track:
    """Consecutive segments from step 0, and where a run stands in them.

    ``total_steps`` may lie beyond the last segment: a search has not decided the rest yet. ``strength`` is
    the recipe's regularisation, which holds where a stage names no value. Spans are (start, stop) in steps.
    """

    spec: ModelSpec
    segments: tuple[Segment, ...]
    total_steps: int
    steps_per_epoch: int
    strength: Curriculum = field(default_factory=Curriculum)
    unit: str = "epoch"
    now_step: int | None = None
    supernet_spans: tuple[tuple[int, int], ...] = ()
    decision_steps: tuple[int, ...] = ()
    growth_steps: tuple[int, ...] = ()
    num_classes: int = 1000

    @property
    def known_steps(self) -> int:
        """Return the step up to which the plan is known."""
        return self.segments[-1].stop_step

    def position(self, step: int) -> float:
        """Return a step in the unit of the axis."""
        return step if self.unit == "step" else step / self.steps_per_epoch


@dataclass(frozen=True)
class Lane:
    """One axis over the segments: the value of each, its text, and the value that fills the height."""

    name: str
    values: tuple[float, ...]
    texts: tuple[str, ...]
    top: float


def track_of_table(
    spec: ModelSpec, table: StepTable, strength: Curriculum = Curriculum(), unit: str = "epoch"
) -> Track:
    """Return the track of a plan that nobody has begun to carry out."""
    return Track(spec, table.segments, table.total_steps, table.steps_per_epoch, strength, unit)


def track_of_run(state: RunState, strength: Curriculum = Curriculum()) -> Track | None:
    """Return what a run did so far and, where its plan is known, what it will do; None before its start."""
    if state.spec is None or not state.total_steps:
        return None
    segments = _done_then_planned(state)
    if not segments:
        return None
    return Track(
        spec=state.spec,
        segments=segments,
        total_steps=state.total_steps,
        steps_per_epoch=max(1, state.steps_per_epoch),
        strength=strength,
        now_step=None if state.phase == "complete" else state.step,
        supernet_spans=tuple((p.start_step, p.stop_step) for p in state.pieces if p.supernet),
        decision_steps=tuple(decision.step for decision in state.decisions),
        growth_steps=tuple(growth.step for growth in state.growths),
        num_classes=state.num_classes,
    )


def _done_then_planned(state: RunState) -> tuple[Segment, ...]:
    table = state.table
    done = [_segment(piece) for piece in state.pieces]
    if done and done[0].start_step > 0:
        done = []  # the log begins in the middle, so the plan alone is whole
    if table is None or table.total_steps != state.total_steps:
        return tuple(done)
    if not done or not any(piece.supernet for piece in state.pieces):
        return table.segments
    end = min(done[-1].stop_step, state.total_steps)
    rest = [
        replace(segment, start_step=max(segment.start_step, end))
        for segment in table.segments
        if segment.stop_step > end
    ]
    return (*done, *rest)


def _segment(piece: Piece) -> Segment:
    return Segment(
        piece.start_step, piece.stop_step, piece.stage, piece.subnet, piece.curriculum, Grow()
    )


def lanes(track: Track) -> tuple[Lane, ...]:
    """Return the lanes: depth, image size, whatever else varies, and the cost of a step."""
    hidden = {
        *(() if _drops_tokens(track) else ("keep-rate",)),
        *(lane.name for lane in _training_lanes(track, plain=True)),
        *(shown for name, shown in CURRICULUM_NAMES.items() if not _varies(track, name)),
    }
    return tuple(lane for lane in all_lanes(track) if lane.name not in hidden)


def all_lanes(track: Track) -> tuple[Lane, ...]:
    """Return a lane for every axis, also where nothing happens on it; the same axes for every track."""
    subnets = [segment.subnet for segment in track.segments]
    full, costs = track.spec.full, [_cost(track, segment) for segment in track.segments]
    return (
        _lane("depth", subnets, lambda s: s.total_depth, depth_text, full.total_depth),
        _lane("image px", subnets, lambda s: s.img_size, lambda s: str(s.img_size), full.img_size),
        _lane("keep-rate", subnets, lambda s: s.tokens.keep_rate, _keep_text, 1.0),
        *_training_lanes(track, plain=None),
        *(_curriculum_lane(track, name) for name in CURRICULUM_NAMES),
        Lane("step cost", tuple(costs), tuple(map(per_cent, costs)), max(1.0, *costs)),
    )


def _drops_tokens(track: Track) -> bool:
    return any(segment.subnet.tokens != ALL_TOKENS for segment in track.segments)


def _keep_text(subnet: SubnetConfig) -> str:
    return number(subnet.tokens.keep_rate, 3)


def _training_lanes(track: Track, plain: bool | None) -> Iterator[Lane]:
    """Yield a lane for each way in which steps may differ from plain ones.

    Args:
        track: Whose steps.
        plain: Only the lanes in which they do not, or only those in which they do; None for all.
    """
    trainings = [segment.training for segment in track.segments]
    for name, value, text in _TRAINING_LANES:
        values = [value(training) for training in trainings]
        if plain is None or plain == all(one == value(Training()) for one in values):
            yield Lane(name, tuple(values), tuple(map(text, track.segments)), max(1.0, *values))


_TRAINING_LANES: tuple[tuple[str, Callable[[Training], float], Callable[[Segment], str]], ...] = (
    ("batch", lambda t: t.batch_scale, lambda s: f"x{s.training.batch_scale:g}"),
    ("rate", lambda t: t.lr_scale, lambda s: f"x{number(s.training.lr_scale, 3)}"),
    ("trained", lambda t: t.unfrozen.fraction if t.unfrozen else 1.0, lambda s: _trained_text(s)),
    (
        "subnets",
        lambda t: 4.0 if t.sandwich else 1.0,
        lambda s: "4" if s.training.sandwich else "1",
    ),
    ("fourier", lambda t: float(t.shrink_by == "fourier"), lambda s: _crop_text(s.training)),
)


def _trained_text(segment: Segment) -> str:
    own, depth = segment.training.unfrozen, segment.subnet.total_depth
    return "all" if own is None else f"{len(own.blocks(depth))} of {depth}"


def _crop_text(training: Training) -> str:
    return "crop" if training.shrink_by == "fourier" else "-"


def unfrozen_lines(track: Track) -> list[str]:
    """Return, for each stage in which not all blocks train, which ones do."""
    lines = [
        f"stage {one.stage + 1}: {trained_text(one.training.unfrozen, one.subnet.total_depth)}"
        for one in track.segments
        if one.training.unfrozen is not None
    ]
    return list(dict.fromkeys(lines))


def _cost(track: Track, segment: Segment) -> float:
    return relative_step_cost(track.spec, segment.subnet, segment.training, track.num_classes)


def constants(track: Track) -> dict[str, str]:
    """Return the regularisation that stays the same for the whole run, by name."""
    last = track.segments[-1]
    texts = {name: _curriculum_text(track, last, name) for name in CURRICULUM_NAMES}
    return {
        CURRICULUM_NAMES[name]: text
        for name, text in texts.items()
        if text != "recipe" and not _varies(track, name)
    }


def mean_relative_cost(track: Track) -> float:
    """Return the mean cost of a step as a fraction of a plain full one's, by multiply-accumulates.

    A step of a larger batch counts as so many.
    """
    nominal = sum(s.steps * s.training.batch_scale for s in track.segments)
    return sum(s.steps * _cost(track, s) for s in track.segments) / nominal


def full_epochs(track: Track) -> float:
    """Return what the known steps cost, in epochs of the full model, by multiply-accumulates."""
    return sum(s.steps * _cost(track, s) for s in track.segments) / track.steps_per_epoch


def step_seconds_sum(track: Track, step_seconds: Mapping[str, float]) -> float | None:
    """Return the seconds of the known steps by the costs of plain ones; None if one is missing."""
    plain = all(segment.training == Training() for segment in track.segments)
    seconds = [step_seconds.get(str(segment.subnet)) for segment in track.segments]
    if not plain or any(one is None for one in seconds):
        return None
    pairs = zip(track.segments, seconds, strict=True)
    return sum(segment.steps * (one or 0.0) for segment, one in pairs)


def measured_speed_up(track: Track, step_seconds: Mapping[str, float]) -> float | None:
    """Return how much faster the steps are than full ones by measured costs; None if one is missing."""
    names = [str(segment.subnet) for segment in track.segments]
    full = step_seconds.get(str(track.spec.full))
    if full is None or any(name not in step_seconds for name in names):
        return None
    seconds = sum(
        segment.steps * step_seconds[name]
        for segment, name in zip(track.segments, names, strict=True)
    )
    return full * track.known_steps / seconds


def _lane(
    name: str,
    subnets: list[SubnetConfig],
    value: Callable[[SubnetConfig], float],
    text: Callable[[SubnetConfig], str],
    top: float,
) -> Lane:
    return Lane(name, tuple(map(value, subnets)), tuple(map(text, subnets)), top)


def curriculum_value(track: Track, segment: Segment, name: str) -> float | None:
    """Return a regularisation of a segment; the recipe's where it names none, None if unknown."""
    own = getattr(segment.curriculum, name)
    curve = own if own is not None else getattr(track.strength, name)
    return None if curve is None else curve_value(curve, 1.0)


def _curriculum_text(track: Track, segment: Segment, name: str) -> str:
    value = curriculum_value(track, segment, name)
    return "recipe" if value is None else number(value, 3)


def _curriculum_lane(track: Track, name: str) -> Lane:
    values = [curriculum_value(track, segment, name) for segment in track.segments]
    top = max((value for value in values if value is not None), default=1.0) or 1.0
    return Lane(
        CURRICULUM_NAMES[name],
        tuple(top if value is None else value for value in values),
        tuple(_curriculum_text(track, segment, name) for segment in track.segments),
        top,
    )


def _varies(track: Track, name: str) -> bool:
    texts = [_curriculum_text(track, segment, name) for segment in track.segments]
    return any(before != after for before, after in pairwise(texts))


NAME_WIDTH = 12


def timeline(track: Track, measured: float | None = None) -> RenderableType:
    """Return the picture of a track; it takes the width that it is printed at.

    Args:
        track: What to draw.
        measured: Speed-up of the steps by measured costs, where known.
    """
    return panel(Fitted(lambda width: _rows(track, measured, width)), "Schedule")


def step_plot(lane: Lane, starts: Sequence[int], now: int, known: int, width: int) -> str:
    """Return one row of blocks, a column per step range.

    Args:
        lane: Values; the height of a block is the value over the lane's top, at least an eighth.
        starts: First column of each value.
        now: First column that is planned only, which is hatched.
        known: First column that nobody has decided yet.
        width: Number of columns.
    """
    cells = [MARK_UNDECIDED] * width
    for value, start, stop in zip(lane.values, starts, [*starts[1:], known], strict=True):
        level = max(1, min(8, round(8 * value / lane.top)))
        for column in range(start, stop):
            cells[column] = BLOCKS[level] if column < now else MARK_PLANNED
    if now < width:
        cells[now] = MARK_NOW
    return "".join(cells)


def place_labels(labels: Sequence[tuple[int, str]], width: int) -> str:
    """Return one row with each text at its column; the ends come first, others where there is room."""
    row = [" "] * width
    order = [0, len(labels) - 1, *range(1, len(labels) - 1)]
    for index in dict.fromkeys(order):
        column, text = labels[index]
        start = max(0, min(column, width - len(text)))
        around = row[max(0, start - 1) : start + len(text) + 1]
        if all(cell == " " for cell in around):
            row[start : start + len(text)] = text
    return "".join(row)


def _rows(track: Track, measured: float | None, width: int) -> RenderableType:
    columns = max(10, width - NAME_WIDTH)
    rows = [
        row
        for index, lane in enumerate(lanes(track))
        for row in _drawn_lane(track, lane, index, columns)
    ]
    rows += _axis(track, columns)
    rows.append(_cost_line(track, measured))
    rows += _legend(track, width)
    return Group(*rows)


def _drawn_lane(track: Track, lane: Lane, index: int, columns: int) -> list[Text]:
    style = lane_style(lane.name, index)
    starts = [_column(track, segment.start_step, columns) for segment in track.segments]
    now = columns if track.now_step is None else _column(track, track.now_step, columns)
    known = _column(track, track.known_steps, columns)
    plot = Text(step_plot(lane, starts, now, known, columns), style)
    plot.stylize(DIM, now)
    if now < columns:
        plot.stylize("bold", now, now + 1)
    labels = Text(place_labels(lane_changes(lane, starts), columns), f"bold {style}")
    return [_row(lane.name, labels), _row("", plot)]


def lane_changes(lane: Lane, starts: Sequence[int]) -> list[tuple[int, str]]:
    """Return (column, text) where a lane begins and where its text changes."""
    texts = lane.texts
    return [
        (starts[index], text)
        for index, text in enumerate(texts)
        if index == 0 or text != texts[index - 1]
    ]


def _axis(track: Track, columns: int) -> list[Text]:
    steps = _stage_steps(track)
    ruler = ["─"] * columns
    for step in steps[:-1]:
        ruler[_column(track, step, columns)] = "┬"
    ruler[-1] = "┐"
    ticks = [(_column(track, s, columns), number(track.position(s), 4)) for s in steps]
    rows = [
        _row("", Text("".join(ruler), DIM)),
        _row(track.unit, Text(place_labels(ticks, columns))),
    ]
    if track.supernet_spans or track.decision_steps or track.growth_steps:
        rows.insert(0, _row("events", Text(_events(track, columns))))
    if track.now_step is not None:
        rows.append(_row("", Text(_now(track, track.now_step, columns), "bold")))
    return rows


def _stage_steps(track: Track) -> list[int]:
    """Return the first step of each stage, and the end."""
    starts = {
        segment.start_step
        for before, segment in zip((None, *track.segments), track.segments, strict=False)
        if before is None or before.stage != segment.stage
    }
    return [*sorted(starts), track.total_steps]


def _events(track: Track, columns: int) -> str:
    row = [" "] * columns
    for start, stop in track.supernet_spans:
        first, last = _column(track, start, columns - 1), _column(track, stop, columns - 1)
        row[first : max(last, first + 1)] = MARK_SUPERNET * (max(last, first + 1) - first)
    for mark, steps in ((MARK_DECISION, track.decision_steps), (MARK_GROWTH, track.growth_steps)):
        for step in steps:
            row[_column(track, step, columns - 1)] = mark
    return "".join(row)


def _now(track: Track, step: int, columns: int) -> str:
    column = min(_column(track, step, columns), columns - 1)
    text = f"now: {track.unit} {number(track.position(step), 4)}"
    if column + 2 + len(text) <= columns:
        return " " * column + f"{MARK_NOW} {text}"
    return f"{text} {MARK_NOW}".rjust(column + 1)


def _cost_line(track: Track, measured: float | None) -> Text:
    mean = mean_relative_cost(track)
    line = Text(f"mean step cost {per_cent(mean)} of the full model → ideal speed-up ")
    line.append(f"{1 / mean:.2f}×", "bold")
    line.append("" if track.known_steps >= track.total_steps else " so far")
    if measured is not None:
        line.append(" · by measured step times ")
        line.append(f"{measured:.2f}×", "bold")
    return line


def _legend(track: Track, width: int) -> list[Text]:
    parts = [Text(f"{name} {text}", DIM) for name, text in constants(track).items()]
    lines = []
    if parts:
        first = Text("constant: ", DIM).append_text(parts[0])
        lines.append(flowing([first, *parts[1:]], width, " · "))
    lines += [Text(line, DIM) for line in unfrozen_lines(track)]
    marks = []
    if track.supernet_spans:
        marks.append(f"{MARK_SUPERNET} supernet, priced at the size before it")
    if track.decision_steps:
        marks.append(f"{MARK_DECISION} decision")
    if track.growth_steps:
        marks.append(f"{MARK_GROWTH} growth")
    if track.now_step is not None:
        marks.append(f"{MARK_PLANNED} planned")
    if track.known_steps < track.total_steps:
        marks.append(f"{MARK_UNDECIDED} not decided yet")
    return [*lines, *([flowing([Text(mark, DIM) for mark in marks], width)] if marks else [])]


def _column(track: Track, step: int, columns: int) -> int:
    return min(columns, round(step * columns / track.total_steps))


def _row(name: str, content: Text) -> Text:
    row = Text(name.ljust(NAME_WIDTH), DIM, no_wrap=True, overflow="crop")
    return row.append_text(content)
