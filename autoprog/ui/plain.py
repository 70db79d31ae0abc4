"""The same views as lines of ASCII, for screen readers, simple terminals and diffs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from autoprog.decisions import Candidate, Decision
from autoprog.events import (
    CostsKnown,
    CostsMeasured,
    Decided,
    Evaluated,
    Event,
    Grown,
    Interrupted,
    RunFinished,
    RunStarted,
    StageStarted,
    SubnetTrained,
    SupernetStarted,
    TrialFinished,
    WarningRaised,
)
from autoprog.steptable import but_for_tokens
from autoprog.ui.charts import evaluation_columns, evaluation_text
from autoprog.ui.format import (
    ascii_text,
    count,
    depth_text,
    duration,
    loss_text,
    milliseconds,
    number,
    per_cent,
    signed,
    speed_text,
    subnet_text,
    trained_text,
)
from autoprog.ui.run_views import (
    budget_columns,
    budget_of,
    budget_text,
    finished_lines,
    growth_columns,
    growth_text,
    header_facts,
    lengths_of,
    result_of,
    result_rows,
)
from autoprog.ui.search_views import (
    decision_columns,
    decision_heading,
    decision_summary,
    fidelity_columns,
    fidelity_lines,
    front_columns,
    ranked,
    runner_up_text,
    then_text,
    training_text,
    trial_columns,
    trial_text,
    worker_columns,
)
from autoprog.ui.state import RunState
from autoprog.ui.subject import Subject
from autoprog.ui.tables import Column, plain_table
from autoprog.ui.timeline import (
    CURRICULUM_NAMES,
    Lane,
    Track,
    constants,
    lanes,
    mean_relative_cost,
    measured_speed_up,
    unfrozen_lines,
)

__all__ = [
    "costs_text",
    "event_lines",
    "forecast_text",
    "measuring_text",
    "plain_text",
    "progress_line",
    "stage_columns",
    "supernet_text",
]


# --------------------------------------------------------------------------------------------------
# Events as lines of ASCII, each understood alone; for pipes, logs and simple terminals.


def event_lines(event: Event, state: RunState) -> list[str]:
    """Return the lines that tell an event; none for those that the progress line covers."""
    return [ascii_text(line) for line in _told(event, state)]


def progress_line(state: RunState) -> str:
    """Return where training stands."""
    wait = state.data_wait_fraction
    parts = [
        *_place_texts(state),
        f"epoch {number(state.epoch)}",
        str(state.subnet),
        f"loss {loss_text(state.loss)}",
        f"lr {number(state.lr, 3)}",
        f"{speed_text(state.images_per_second)} img/s",
        f"data wait {'-' if wait is None else per_cent(wait)}",
        f"trained {duration(state.train_seconds)}",
        f"left {duration(state.eta_seconds)}",
    ]
    return ascii_text(", ".join(parts))


def _told(event: Event, state: RunState) -> list[str]:
    match event:
        case RunStarted():
            return [_run_text(event)]
        case CostsMeasured():
            forecast = forecast_text(state)
            return [measuring_text(event) + (f"; {forecast}" if forecast else "")]
        case CostsKnown():
            return [f"measured {costs_text(state)}"] if state.measuring is not None else []
        case StageStarted():
            return [_stage_text(event, state)]
        case SupernetStarted():
            names = ", ".join(str(subnet) for subnet in event.candidates)
            until = "" if state.is_open_ended else f" until step {event.stop_step}"
            return [f"{supernet_text(event)}{until}; candidates {names}"]
        case Evaluated():
            return [f"epoch {number(event.epoch)}, {evaluation_text(event, state.num_classes)}"]
        case Grown():
            return [] if event.opens_supernet else [f"step {event.step}, {growth_text(event)}"]
        case Decided():
            closed = "supernet closed; " if state.phase == "supernet" else ""
            first, *others = _decision_lines(event.decision)
            return [f"{closed}{first}", *others]
        case SubnetTrained():
            return [f"decision {event.decision}, {training_text(event)}"]
        case TrialFinished():
            return [trial_text(event)]
        case WarningRaised():
            return [f"warning: {event.message}"]
        case Interrupted():
            return [f"interrupted by {event.signal} at step {event.step}; a checkpoint is saved"]
        case RunFinished():
            return finished_lines(event.result)
        case _:
            return []


def measuring_text(event: CostsMeasured) -> str:
    """Return how far the measuring of step times is."""
    left = f"at most {duration(event.left_seconds)}"
    if not event.num_measured:
        return f"measuring the step times of {event.num_subnets} subnets: {left}"
    return f"measuring step times: {event.num_measured} of {event.num_subnets} subnets, {left} left"


def forecast_text(state: RunState) -> str:
    """Return what a search will take as far as its first steps tell; empty before them."""
    told = state.measuring
    if told is None or told.run_seconds is None:
        return ""
    if state.cost_fraction is None:
        return f"the whole search: at most about {duration(told.run_seconds)}"
    fraction = number(state.cost_fraction)
    return f"the whole search: about {duration(told.run_seconds)} by cost fraction {fraction}"


def costs_text(state: RunState) -> str:
    """Return how many step times were measured, and what the search is now known to take."""
    count_, estimated = len(state.cost_seconds), state.num_estimated_costs
    measured = f"step times of {count_ - estimated} of {count_} subnets"
    if estimated:
        measured += f", the {'other is' if estimated == 1 else 'others are'} interpolated"
    left = state.eta_seconds if state.cost_fraction is not None else None
    return measured if left is None else f"{measured}; about {duration(left)} to go"


def supernet_text(event: SupernetStarted) -> str:
    """Return what a supernet holds."""
    deepest = max((subnet for subnet in event.candidates), key=lambda one: one.total_depth)
    largest_px = max(subnet.img_size for subnet in event.candidates)
    holds = f"depth up to {depth_text(deepest)}, up to {largest_px} px"
    if event.stop_step == event.step:
        return f"supernet opened without training it: {holds}"
    return f"supernet opened: {holds}"


def _place_texts(state: RunState) -> list[str]:
    """Return where a run stands, by steps or by the time that bounds it."""
    done = per_cent(state.fraction_done)
    if not state.is_open_ended:
        return [f"step {state.step}/{state.total_steps} ({done})"]
    total = state.shown_total_steps
    return [
        f"{done} of the time",
        f"step {state.step}" + ("" if total is None else f" of ~{total}"),
    ]


def _run_text(event: RunStarted) -> str:
    verb = "goes on" if event.step else "starts"
    budget = event.time_budget_seconds
    length = f"{count(event.total_steps)} steps" if budget is None else duration(budget)
    if event.cost_fraction is not None:
        length = f"the time of {count(event.total_steps)} full steps"
    ranks = f" x {event.world_size}" if event.world_size > 1 else ""
    return (
        f"{event.run_kind} {event.run_id} {verb} at step {event.step}: {event.model},"
        f" {count(event.num_images)} images, {length},"
        f" {event.device}{ranks} {event.amp}, seed {event.seed}"
    )


def _stage_text(event: StageStarted, state: RunState) -> str:
    total = "" if state.num_stages is None else f"/{state.num_stages}"
    span = f"step {event.step} to {event.stop_step}"
    if state.is_open_ended:
        span = f"from step {event.step}"
    unfrozen = state.unfrozen
    curriculum = [
        f"{CURRICULUM_NAMES[name]} {number(value)}"
        for name, value in event.curriculum
        if isinstance(value, int | float)
    ]
    return ", ".join(
        [
            f"stage {event.stage + 1}{total}: {span}",
            subnet_text(event.subnet),
            *([] if unfrozen is None else [trained_text(unfrozen, event.subnet.total_depth)]),
            *curriculum,
        ]
    )


def _decision_lines(decision: Decision) -> list[str]:
    head = f"decision {decision.index}"
    chosen = f"{head} at step {decision.step} by {decision.rule}: {decision_summary(decision)}"
    chosen += f", {then_text(decision)}" if then_text(decision) else ""
    rows = [
        f"{head} candidate {_candidate_text(decision, candidate)}" for candidate in ranked(decision)
    ]
    return [f"{chosen}; {decision.reason}" if decision.reason else chosen, *rows]


def _candidate_text(decision: Decision, row: Candidate) -> str:
    name = str(row.subnet) if row.label == str(row.subnet) else f"{row.label} ({row.subnet})"
    won = " (winner)" if row is decision.chosen else ""
    return (
        f"{name}: loss {row.loss:.4f},"
        f" vs stay {signed(row.difference)} +-{row.difference_se:.4f},"
        f" {milliseconds(row.step_seconds)} ms/step, end loss {row.predicted_loss:.4f},"
        f" left {duration(row.remaining_seconds)}, score {row.score:.4f}{won}"
    )


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
        rows += [numbers] if len(numbers) > _MAX_RATES else [[number] for number in numbers]
    return rows


def _range(lane: Lane, numbers: Sequence[int]) -> str:
    low = min(numbers, key=lambda number: lane.values[number])
    high = max(numbers, key=lambda number: lane.values[number])
    same = lane.texts[low] == lane.texts[high]
    return lane.texts[low] if same else f"{lane.texts[low]} to {lane.texts[high]}"


_MAX_RATES = 8


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
