"""A run, a schedule or a diff of two as one web page."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from autoprog.decisions import Decision
from autoprog.ui.budget import budget_columns, budget_of, budget_text
from autoprog.ui.curves import accuracy_series, evaluation_columns, loss_series
from autoprog.ui.decision import (
    decision_columns,
    decision_heading,
    decision_summary,
    ranked,
    runner_up_text,
)
from autoprog.ui.diff import ScheduleDiff, cost_lines, diff_columns
from autoprog.ui.fidelity import fidelity_columns, fidelity_lines
from autoprog.ui.growth import growth_columns
from autoprog.ui.header import header_facts, lengths_of
from autoprog.ui.html import column_table, facts_list, page
from autoprog.ui.plain import stage_columns
from autoprog.ui.plot import Span
from autoprog.ui.result import result_rows
from autoprog.ui.subject import Subject
from autoprog.ui.svg import curves_of_series, lanes_svg
from autoprog.ui.track import (
    Track,
    all_lanes,
    constants,
    mean_relative_cost,
    measured_speed_up,
    unfrozen_lines,
)
from autoprog.ui.trials import trial_columns
from autoprog.ui.units import number, per_cent
from autoprog.ui.views import result_of
from autoprog.ui.ways import front_columns, then_text
from autoprog.ui.workers import worker_columns

__all__ = ["diff_page", "show_page"]


def show_page(subject: Subject) -> str:
    """Return all that is known of a subject as a page."""
    return page(f"{subject.spec.name} {subject.name}", _body(subject))


def diff_page(diff: ScheduleDiff) -> str:
    """Return two schedules beside each other: what each costs, the axes that differ, and where."""
    right = diff.spans[-1].stop_epoch
    pictures = []
    for side, cost, track in zip("AB", diff.costs, diff.tracks, strict=True):
        shown = [lane for lane in all_lanes(track) if lane.name in diff.axes]
        title = f"schedule {side}: {cost.name}"
        pictures.append(
            f"<h3>{side} {escape(cost.name)}</h3>{lanes_svg(track, right, shown, title)}"
        )
    same = ["<p>The same on every axis.</p>"]
    body = [
        "<h1>Schedules A and B</h1>",
        *(f"<p>{escape(line.plain)}</p>" for line in cost_lines(diff)),
        "<h2>Where they differ</h2>",
        *(f'<div class="card">{one}</div>' for one in (pictures if diff.axes else ())),
        *([column_table(diff_columns(diff))] if diff.axes else same),
    ]
    return page(f"{diff.costs[0].name} and {diff.costs[1].name}", body)


def _body(subject: Subject) -> Iterator[str]:
    status = f' <span class="status">{escape(subject.status)}</span>' if subject.status else ""
    yield f"<h1>{escape(subject.spec.name)} · {escape(subject.kind)} {escape(subject.name)}{status}</h1>"
    yield facts_list(header_facts(subject))
    yield from (f"<p>{escape(note)}</p>" for note in subject.notes)
    yield from (f'<p class="warn">{escape(message)}</p>' for message in subject.state.warnings)
    result = result_of(subject)
    if result is not None:
        yield f'<h2>Result</h2><div class="card">{facts_list(result_rows(result))}</div>'
    if subject.track is not None:
        yield from _schedule(subject, subject.track)
    yield from _curves(subject)
    if subject.decisions:
        yield "<h2>Decisions</h2>"
        yield from map(_decision, subject.decisions)
    yield from _tables(subject)


def _schedule(subject: Subject, track: Track) -> Iterator[str]:
    yield f'<h2>Schedule</h2><div class="card">{lanes_svg(track)}</div>'
    mean, costs = mean_relative_cost(track), subject.run.step_seconds if subject.run else {}
    measured = measured_speed_up(track, costs)
    by_time = "" if measured is None else f"; by measured step times {measured:.2f}×"
    so_far = "" if track.known_steps >= track.total_steps else " so far"
    if track.supernet_spans or track.decision_steps or track.growth_steps:
        yield "<p>◆ decision, ▲ growth, a bar on the axis: supernet phase.</p>"
    yield (
        f"<p>Mean step cost {per_cent(mean)} of the full model: ideal speed-up"
        f" {1 / mean:.2f}×{so_far}{by_time}.</p>"
    )
    lengths = lengths_of(subject)
    if lengths is not None:
        yield f"<p>Lengths: {escape(lengths.sentence())}.</p>"
    same = " · ".join(f"{name} {text}" for name, text in constants(track).items())
    if same:
        yield f"<p>Constant: {escape(same)}.</p>"
    yield from (f"<p>{escape(line)}</p>" for line in unfrozen_lines(track))
    yield f"<details><summary>Table of stages</summary>{column_table(stage_columns(track))}</details>"


def _curves(subject: Subject) -> Iterator[str]:
    state = subject.state
    kinds = [kind for kind in (accuracy_series(state), loss_series(state)) if kind]
    if not kinds:
        return
    marks = [growth.step / max(1, state.steps_per_epoch) for growth in state.growths]
    right = max(x for kind in kinds for one in kind for x in [x for x, _ in one.points] + marks)
    yield '<h2>Curves</h2><div class="figures">'
    for kind in kinds:
        keys = "".join(
            f'<span class="key c{index}">{escape(one.name)}</span>'
            for index, one in enumerate(kind)
        )
        picture = curves_of_series(kind, Span.epochs(right), marks, kind[0].name)
        yield f'<div class="card"><div class="legend">{keys}</div>{picture}</div>'
    yield "</div>"


def _decision(decision: Decision) -> str:
    parts = [
        f"<h3>Decision {decision.index} · epoch {number(decision.epoch)}</h3>",
        f"<p>{escape(decision_heading(decision))}</p>",
    ]
    if decision.candidates:
        winner = next(k for k, row in enumerate(ranked(decision)) if row is decision.chosen)
        parts.append(column_table(decision_columns(decision), winner))
    parts.append(f'<p class="strong">{escape(decision_summary(decision))}</p>')
    lines = (then_text(decision), decision.reason, runner_up_text(decision))
    parts += [f"<p>{escape(line)}</p>" for line in lines if line]
    if decision.front:
        table = column_table(front_columns(decision))
        parts.append(f"<details><summary>Ways on that none beats</summary>{table}</details>")
    return f'<div class="card">{"".join(parts)}</div>'


def _tables(subject: Subject) -> Iterator[str]:
    state, budget = subject.state, budget_of(subject)
    if subject.fidelity is not None:
        lines = "".join(f"<p>{escape(line)}</p>" for line in fidelity_lines(subject.fidelity))
        yield f"<h2>Fidelity</h2>{column_table(fidelity_columns(subject.fidelity))}{lines}"
    if state.trials:
        yield f"<h2>Trials</h2>{column_table(trial_columns(state.trials))}"
    if subject.workers:
        yield f"<h2>Workers</h2>{column_table(worker_columns(subject.workers))}"
    if state.growths:
        yield f"<h2>Growth</h2>{column_table(growth_columns(state.growths))}"
    if budget is not None:
        yield f"<h2>Time budget</h2><p>{escape(budget_text(budget))}</p>"
        yield column_table(budget_columns(budget))
    if state.evaluations:
        table = column_table(evaluation_columns(state.evaluations))
        yield f"<h2>Evaluations</h2><details open><summary>All</summary>{table}</details>"
