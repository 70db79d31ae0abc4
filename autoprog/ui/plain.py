"""The same views as lines of ASCII, for screen readers, simple terminals and diffs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from autoprog.decisions import Decision
from autoprog.steptable import but_for_tokens
from autoprog.ui.budget import budget_columns, budget_of, budget_text
from autoprog.ui.curves import evaluation_columns
from autoprog.ui.decision import (
    decision_columns,
    decision_heading,
    decision_summary,
    runner_up_text,
)
from autoprog.ui.fidelity import fidelity_columns, fidelity_lines
from autoprog.ui.growth import growth_columns
from autoprog.ui.header import header_facts, lengths_of
from autoprog.ui.result import result_rows
from autoprog.ui.subject import Subject
from autoprog.ui.tables import Column, plain_table
from autoprog.ui.track import (
    Lane,
    Track,
    constants,
    lanes,
    mean_relative_cost,
    measured_speed_up,
    unfrozen_lines,
)
from autoprog.ui.trials import trial_columns
from autoprog.ui.units import ascii_text, number, per_cent
from autoprog.ui.views import result_of
from autoprog.ui.ways import front_columns, then_text
from autoprog.ui.workers import worker_columns

__all__ = ["plain_text", "stage_columns"]


def plain_text(subject: Subject) -> str:
    """Return all that is known of a subject as text in ASCII, tables aligned."""
    return "\n".join(_lines(subject)) + "\n"


def stage_columns(track: Track) -> list[Column]:
    """Return the table of stages: from, to, and the value of every lane.

    Where the keep-rate changes in more than a few steps, one row says between what.
    """
    groups = _rows(track)
    firsts, lasts = (
        [track.segments[own[0]] for own in groups],
        [track.segments[own[-1]] for own in groups],
    )
    supernet = [any(a <= s.start_step < b for a, b in track.supernet_spans) for s in firsts]
    phases = tuple("supernet" if phase else "training" for phase in supernet)
    return [
        Column("stage", tuple(str(segment.stage + 1) for segment in firsts)),
        Column(f"from {track.unit}", tuple(_place(track, s.start_step) for s in firsts)),
        Column(f"to {track.unit}", tuple(_place(track, s.stop_step) for s in lasts)),
        *(Column(lane.name, tuple(_range(lane, own) for own in groups)) for lane in lanes(track)),
        *([Column("phase", phases, "left")] if any(supernet) else []),
    ]


def _rows(track: Track) -> list[list[int]]:
    """Return the numbers of the segments that a row stands for."""
    rows: list[list[int]] = []
    for _, group in groupby(
        range(len(track.segments)), lambda k: but_for_tokens(track.segments[k])
    ):
        numbers = list(group)
        rows += [numbers] if len(numbers) > _MOST_RATES else [[number] for number in numbers]
    return rows


def _range(lane: Lane, numbers: Sequence[int]) -> str:
    low = min(numbers, key=lambda number: lane.values[number])
    high = max(numbers, key=lambda number: lane.values[number])
    same = lane.texts[low] == lane.texts[high]
    return lane.texts[low] if same else f"{lane.texts[low]} to {lane.texts[high]}"


_MOST_RATES = 8


def _lines(subject: Subject) -> Iterator[str]:
    yield f"{subject.kind}: {ascii_text(subject.name)}"
    yield f"model: {subject.spec.name}"
    if subject.status:
        yield f"status: {subject.status}"
    for name, text in header_facts(subject):
        yield f"{name}: {ascii_text(text)}"
    lengths = lengths_of(subject)
    if lengths is not None:
        yield f"lengths: {ascii_text(lengths.sentence())}"
    for note in subject.notes:
        yield f"note: {ascii_text(note)}"
    for message in subject.state.warnings:
        yield f"warning: {ascii_text(message)}"
    if subject.track is not None:
        yield from _schedule(subject, subject.track)
    for decision in subject.decisions:
        yield from _decision(decision)
    if subject.fidelity is not None:
        yield from ("", "Fidelity", *plain_table(fidelity_columns(subject.fidelity)))
        yield from map(ascii_text, fidelity_lines(subject.fidelity))
    if subject.state.trials:
        yield from ("", "Trials", *plain_table(trial_columns(subject.state.trials)))
    if subject.workers:
        yield from ("", "Workers", *plain_table(worker_columns(subject.workers)))
    if subject.state.growths:
        yield from ("", "Growth", *plain_table(growth_columns(subject.state.growths)))
    if subject.state.evaluations:
        yield from ("", "Evaluations", *plain_table(evaluation_columns(subject.state.evaluations)))
    budget = budget_of(subject)
    if budget is not None:
        yield from ("", "Time budget", ascii_text(budget_text(budget)))
        yield from plain_table(budget_columns(budget))
    result = result_of(subject)
    if result is not None:
        yield from ("", "Result", *(f"{name}: {text}" for name, text in result_rows(result)))


def _schedule(subject: Subject, track: Track) -> Iterator[str]:
    yield from ("", "Schedule", *plain_table(stage_columns(track)))
    mean = mean_relative_cost(track)
    so_far = "" if track.known_steps >= track.total_steps else " so far"
    cost = f"mean step cost: {per_cent(mean)} of the full model"
    yield f"{cost}; ideal speed-up {1 / mean:.2f}{so_far}"
    measured = measured_speed_up(track, subject.run.step_seconds if subject.run is not None else {})
    if measured is not None:
        yield f"speed-up by measured step times: {measured:.2f}"
    for name, text in constants(track).items():
        yield f"constant {name}: {text}"
    yield from unfrozen_lines(track)
    if track.known_steps < track.total_steps:
        yield f"not decided yet: from {track.unit} {_place(track, track.known_steps)} on"
    if track.now_step is not None:
        yield f"now: {track.unit} {_place(track, track.now_step)}"


def _decision(decision: Decision) -> Iterator[str]:
    yield from ("", f"Decision {decision.index} at epoch {number(decision.epoch)}")
    yield ascii_text(decision_heading(decision))
    yield from plain_table(decision_columns(decision))
    yield f"decided: {decision_summary(decision)}"
    if then_text(decision):
        yield ascii_text(then_text(decision))
    if decision.reason:
        yield f"reason: {ascii_text(decision.reason)}"
    if runner_up_text(decision):
        yield runner_up_text(decision)
    if decision.front:
        yield from ("ways on that none beats:", *plain_table(front_columns(decision)))


def _place(track: Track, step: int) -> str:
    return number(track.position(step))
