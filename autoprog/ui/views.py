"""All views of a subject, in the order in which they are printed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from autoprog.ui.budget import budget_of, budget_view
from autoprog.ui.curves import curves_view
from autoprog.ui.decision import decision_view
from autoprog.ui.fidelity import fidelity_view
from autoprog.ui.growth import growth_view
from autoprog.ui.header import header_view, lengths_of
from autoprog.ui.palette import DIM
from autoprog.ui.result import result_view
from autoprog.ui.subject import Subject
from autoprog.ui.timeline import timeline
from autoprog.ui.track import measured_speed_up
from autoprog.ui.trials import trials_view

__all__ = ["result_of", "timeline_of", "views"]


def views(subject: Subject) -> Iterator[RenderableType]:
    """Yield the header, the schedule, and what a run has of curves, decisions, and what follows."""
    yield header_view(subject)
    picture = timeline_of(subject)
    if picture is not None:
        yield picture
    curves = curves_view(subject.state)
    if curves is not None:
        yield curves
    yield from map(decision_view, subject.decisions)
    if subject.fidelity is not None:
        yield fidelity_view(subject.fidelity)
    if subject.state.trials:
        yield trials_view(subject.state.trials)
    if subject.state.growths:
        yield growth_view(subject.state.growths)
    budget = budget_of(subject)
    if budget is not None:
        yield budget_view(budget)
    result = result_of(subject)
    if result is not None:
        yield result_view(result)


def timeline_of(subject: Subject) -> RenderableType | None:
    """Return the schedule of a subject as a picture, and its lengths; None while nothing is known of it."""
    if subject.track is None:
        return None
    costs = subject.run.step_seconds if subject.run is not None else {}
    picture = timeline(subject.track, measured_speed_up(subject.track, costs))
    lengths = lengths_of(subject)
    if lengths is None:
        return picture
    return Group(picture, Text(f"lengths: {lengths.sentence()}", DIM))


def result_of(subject: Subject) -> Mapping[str, Any] | None:
    """Return the result of a complete run."""
    if subject.run is None or subject.run.result is None:
        return None
    return subject.run.result.model_dump(mode="json", by_alias=True)
