"""Events as lines of ASCII, each understood alone; for pipes, logs and simple terminals."""

from __future__ import annotations

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
    TrialTold,
    Warned,
)
from autoprog.ui.curves import evaluation_text
from autoprog.ui.decision import decision_summary, ranked
from autoprog.ui.fidelity import training_text
from autoprog.ui.growth import growth_text
from autoprog.ui.result import finished_lines
from autoprog.ui.state import RunState
from autoprog.ui.track import CURRICULUM_NAMES
from autoprog.ui.trials import trial_text
from autoprog.ui.units import (
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
from autoprog.ui.ways import then_text

__all__ = [
    "costs_text",
    "event_lines",
    "forecast_text",
    "measuring_text",
    "progress_line",
    "supernet_text",
]


def event_lines(event: Event, state: RunState) -> list[str]:
    """Return the lines that tell an event; none for those that the progress line covers."""
    return [ascii_text(line) for line in _told(event, state)]


def progress_line(state: RunState) -> str:
    """Return where training stands."""
    wait = state.data_wait_share
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
        case TrialTold():
            return [trial_text(event)]
        case Warned():
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
    if state.time_share is None:
        return f"the whole search: at most about {duration(told.run_seconds)}"
    share = number(state.time_share)
    return f"the whole search: about {duration(told.run_seconds)} by time share {share}"


def costs_text(state: RunState) -> str:
    """Return how many step times were measured, and what the search is now known to take."""
    count_, estimated = len(state.cost_seconds), state.num_estimated_costs
    measured = f"step times of {count_ - estimated} of {count_} subnets"
    if estimated:
        measured += f", the {'other is' if estimated == 1 else 'others are'} interpolated"
    left = state.eta_seconds if state.time_share is not None else None
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
    done = per_cent(state.share_done)
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
    if event.time_share is not None:
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
