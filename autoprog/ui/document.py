"""The same views as plain values for programs."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from autoprog.effort import relative_step_cost
from autoprog.events import encode
from autoprog.stage import Training
from autoprog.steptable import Segment
from autoprog.ui.budget import budget_of
from autoprog.ui.header import lengths_of
from autoprog.ui.subject import Subject
from autoprog.ui.track import (
    CURRICULUM_NAMES,
    Track,
    curriculum_value,
    mean_relative_cost,
    measured_speed_up,
)
from autoprog.ui.views import result_of
from autoprog.workers import WorkerSeen

__all__ = ["document"]


def document(subject: Subject) -> dict[str, Any]:
    """Return all that is known of a subject as values that JSON can hold; no number is rounded."""
    schedule, state, budget = subject.schedule, subject.state, budget_of(subject)
    lengths = lengths_of(subject)
    body = {
        "name": subject.name,
        "kind": subject.kind,
        "model": subject.spec.name,
        "status": subject.status or None,
        "notes": list(subject.notes),
        "schedule": None
        if schedule is None
        else schedule.model_dump(mode="json", by_alias=True, exclude_none=True),
        **_track_values(subject),
        "lengths": None if lengths is None else asdict(lengths),
        "step": state.step,
        "train_seconds": state.train_seconds,
        "eta_seconds": state.eta_seconds,
        "decisions": [decision.model_dump(mode="json") for decision in subject.decisions],
        "trials": [encode(event) for event in state.trials],
        "workers": [_worker_values(worker) for worker in subject.workers],
        "fidelity": None
        if subject.fidelity is None
        else subject.fidelity.model_dump(mode="json", by_alias=True),
        "evaluations": [encode(event) for event in state.evaluations],
        "growths": [encode(event) for event in state.growths],
        "warnings": list(state.warnings),
        "costs": {} if subject.run is None else dict(subject.run.costs),
        "budget": None if budget is None else budget.model_dump(mode="json", by_alias=True),
        "result": result_of(subject),
    }
    return {key: _finite(value) for key, value in body.items()}


def _track_values(subject: Subject) -> dict[str, Any]:
    track = subject.track
    if track is None:
        return {"step_table": []}
    mean = mean_relative_cost(track)
    return {
        "steps_per_epoch": track.steps_per_epoch,
        "steps_are_nominal": not subject.state.total_steps,
        "total_steps": track.total_steps,
        "step_table": [_segment_values(track, segment) for segment in track.segments],
        "mean_relative_cost": mean,
        "ideal_speed_up": 1 / mean,
        "measured_speed_up": measured_speed_up(
            track, {} if subject.run is None else subject.run.step_seconds
        ),
    }


def _worker_values(worker: WorkerSeen) -> dict[str, Any]:
    return {**worker.status.model_dump(mode="json"), "is_alive": worker.is_alive}


def _segment_values(track: Track, segment: Segment) -> dict[str, Any]:
    values = {name: curriculum_value(track, segment, name) for name in CURRICULUM_NAMES}
    return {
        "stage": segment.stage,
        "start_step": segment.start_step,
        "stop_step": segment.stop_step,
        "start_epoch": segment.start_step / track.steps_per_epoch,
        "stop_epoch": segment.stop_step / track.steps_per_epoch,
        "depth": list(segment.subnet.depth),
        "img_size": segment.subnet.img_size,
        "tokens": asdict(segment.subnet.tokens),
        "training": _training_values(segment.training),
        "curriculum": {name: value for name, value in values.items() if value is not None},
        "relative_cost": relative_step_cost(
            track.spec, segment.subnet, segment.training, track.num_classes
        ),
    }


def _training_values(training: Training) -> dict[str, Any]:
    unfrozen, sandwich = training.unfrozen, training.sandwich
    return {
        "shrink_by": training.shrink_by,
        "batch_scale": training.batch_scale,
        "lr_scale": training.lr_scale,
        "trainable": "all" if unfrozen is None else unfrozen.model_dump(mode="json"),
        "sandwich": None if sandwich is None else sandwich.model_dump(mode="json"),
    }


def _finite(value: Any) -> Any:
    """Return `value` with null for what JSON has no number for."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
