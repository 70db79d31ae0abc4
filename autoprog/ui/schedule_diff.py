"""Two schedules beside each other: where they differ, and what each costs."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from autoprog.errors import ConfigError
from autoprog.stage import Training, image_macs
from autoprog.ui.format import duration, number
from autoprog.ui.section import LaneDiff, Line, Part, Section, Table
from autoprog.ui.subject import UNKNOWN_CLASSES, Subject
from autoprog.ui.tables import Column
from autoprog.ui.track import Track

__all__ = ["DiffSpan", "ScheduleDiff", "SideCost", "diff_section", "schedule_diff"]


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
        return tuple(lane.name for lane in self.tracks[0].all_lanes() if lane.name in found)


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
    costs, macs = [], []
    for side, (subject, track) in enumerate(zip((a, b), tracks, strict=True)):
        steps_per_epoch = known[side] or known[1 - side]
        seconds = None  # of a plan for data of unknown size
        if steps_per_epoch:
            seconds = track.seconds(own[side] or other[side])
        if seconds is not None:
            seconds *= steps_per_epoch / track.steps_per_epoch
        origin = None if subject.run is None else subject.run.manifest.settings.schedule_from
        name = subject.name if origin is None else f"{subject.name} ({Path(origin).name})"
        epochs, full_epochs = track.known_steps / track.steps_per_epoch, track.full_epochs()
        costs.append(SideCost(name, subject.spec.name, epochs, full_epochs, seconds))
        full_macs = image_macs(track.spec, track.spec.full, Training(), track.num_classes)
        macs.append(full_epochs * full_macs)
    merged = []  # of neighbours that differ in the same way
    for _, group in groupby(_spans(*tracks), lambda span: span.differs):
        same = list(group)
        merged.append(replace(same[0], stop_epoch=same[-1].stop_epoch))
    both = (costs[0].seconds, costs[1].seconds)
    return ScheduleDiff(
        tracks=(tracks[0], tracks[1]),
        costs=(costs[0], costs[1]),
        spans=tuple(merged),
        macs_ratio=macs[1] / macs[0],
        seconds_ratio=both[1] / both[0] if both[0] and both[1] else None,
        notes=(*a.notes, *b.notes),
    )


def _track(subject: Subject, other: Subject) -> Track:
    """Return the track of a subject; a plan for unknown classes is drawn for those of the other."""
    if subject.track is None:
        raise ConfigError(subject.name, "", "the run has not begun, so it has no schedule yet")
    if subject.run is not None or subject.track.num_classes != UNKNOWN_CLASSES:
        return subject.track
    return replace(subject.track, num_classes=other.state.num_classes)


def _spans(a: Track, b: Track) -> Iterator[DiffSpan]:
    """Yield the epochs between any two steps at which one of them changes."""
    tracks = (a, b)
    lanes = [track.all_lanes() for track in tracks]
    # Two schedules of other steps an epoch meet at the same epoch but for rounding, which makes no span.
    edges = [
        [
            round(step / track.steps_per_epoch, 6)
            for step in [*(segment.start_step for segment in track.segments), track.known_steps]
        ]
        for track in tracks
    ]

    def texts(side: int, epoch: float) -> dict[str, str]:
        """Return the text of each axis; empty after the end."""
        index = bisect_right(edges[side], epoch) - 1
        if index >= len(edges[side]) - 1:
            return {}
        return {lane.name: lane.texts[index] for lane in lanes[side]}

    for start, stop in pairwise(sorted({edge for side in edges for edge in side})):
        if stop - start < 1e-6:
            continue
        first, second = (texts(side, (start + stop) / 2) for side in (0, 1))
        if not first or not second:
            ends = ("goes on" if first else "has ended", "goes on" if second else "has ended")
            yield DiffSpan(start, stop, {"training": ends})
            continue
        pairs = {axis: (text, second[axis]) for axis, text in first.items()}
        yield DiffSpan(start, stop, {axis: two for axis, two in pairs.items() if two[0] != two[1]})


def diff_section(diff: ScheduleDiff) -> Section:
    """Return what each side costs, both schedules lane by lane, and where they differ."""

    def values() -> dict[str, Any]:
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

    models = {cost.model for cost in diff.costs}
    texts = []
    for side, cost in zip("AB", diff.costs, strict=True):
        model = f"  {cost.model}" if len(models) > 1 else ""
        text = f"{side} {cost.name}{model}  {number(cost.epochs)} epochs"
        text += f" = {number(cost.full_epochs)} full"
        if cost.seconds is not None:
            text += f", {duration(cost.seconds)} by measured step times"
        texts.append(text)
    ratio = f"B costs {diff.macs_ratio:.3f}× of A by multiply-accumulates"
    if diff.seconds_ratio is not None:
        ratio += f" · {diff.seconds_ratio:.3f}× by measured step times"
    spans = diff.spans
    axes = [*diff.axes, *(["training"] if "training" in spans[-1].differs else [])]

    def pair_text(span: DiffSpan, axis: str) -> str:
        pair = span.differs.get(axis)
        return "same" if pair is None else f"{pair[0]}, {pair[1]}"

    columns = [
        Column("from epoch", tuple(number(span.start_epoch) for span in spans)),
        Column("to epoch", tuple(number(span.stop_epoch) for span in spans)),
        *(
            Column(f"{axis} A, B", tuple(pair_text(span, axis) for span in spans), "left")
            for axis in axes
        ),
    ]
    lanes = LaneDiff(
        names=(diff.costs[0].name, diff.costs[1].name),
        tracks=diff.tracks,
        axes=diff.axes,
        spans=tuple((span.start_epoch, span.stop_epoch) for span in spans if span.differs),
        right=spans[-1].stop_epoch,
        table=Table.of(columns),
    )
    notes = (Line(note, "dim") for note in diff.notes)
    parts: list[Part] = [*map(Line, texts), Line(ratio), *notes, lanes]
    return Section("diff", tuple(parts), "Schedules A and B", values=values)
