"""``autoprog show``: the views of a run, a schedule file or a preset, printed once."""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from autoprog.console import Console
from autoprog.errors import ConfigError, consistent
from autoprog.events import encode
from autoprog.files import write_outputs
from autoprog.presets import PRESETS
from autoprog.printable import say
from autoprog.processes import WorkerSeen
from autoprog.stage import Training, relative_step_cost
from autoprog.steptable import Segment
from autoprog.ui.compare import diff_document, diff_plain, diff_view, schedule_diff
from autoprog.ui.html import FONT_ASPECT_RATIO, diff_page, show_page, with_local_fonts
from autoprog.ui.plain import plain_text
from autoprog.ui.run_views import budget_of, lengths_of, result_of, views
from autoprog.ui.subject import Subject, find_subject, preset_beside
from autoprog.ui.timeline import (
    CURRICULUM_NAMES,
    Track,
    curriculum_value,
    mean_relative_cost,
    measured_speed_up,
)
from supernet.config import ModelSpec

__all__ = ["document", "show"]


# --------------------------------------------------------------------------------------------------
# The same views as plain values for programs.


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


MIN_WIDTH, MAX_WIDTH = 60, 200
PICTURE_WIDTH = 110


def show(
    target: str,
    *,
    spec: ModelSpec | None = None,
    epochs: float | None = None,
    recipe: str | None = None,
    plain: bool = False,
    as_json: bool = False,
    svg: Path | None = None,
    html: Path | None = None,
    diff: str | None = None,
    console: Console | None = None,
    clock: Callable[[], float] = time.time,
) -> None:
    """Print the views of `target`, or write them to files.

    Args:
        target: Path of a run folder or of a schedule file, or the name of a preset.
        spec: Model of a preset; else that of the other schedule of a diff.
        epochs: Length of the run of a preset, or of a file in fractions or with 'rest'.
        recipe: Recipe that gives a preset its length and strength.
        plain: Print aligned ASCII text; also done where the terminal takes nothing else.
        as_json: Print one JSON object.
        svg: File for a picture, instead of printing.
        html: File for a web page, instead of printing.
        diff: Another run, file or preset, whose schedule is set beside that of `target` instead.
        console: Where to print; standard output if None.
        clock: Seconds since the epoch, by which a silent run counts as stale.

    Raises:
        ConfigError: If `target` is nothing that can be shown.
        RunError: If a file cannot be written; then none is.
    """
    console = Console() if console is None else console
    if spec is not None and not {target, diff} & PRESETS.keys():
        problem = "must go with a preset: a run and a schedule file say it themselves"
        raise ConfigError("--model", "", problem, spec.name)
    with consistent(target):
        subject = find_subject(target, spec, epochs, recipe, clock())
        forms = _forms(subject)
        if diff is not None:
            other = find_subject(diff, spec, epochs, recipe, clock())
            if other.kind == "preset" != subject.kind:
                other = preset_beside(diff, subject, spec, epochs, recipe)
            elif subject.kind == "preset" != other.kind:
                subject = preset_beside(target, other, spec, epochs, recipe)
            forms = _diff_forms(subject, other)
        if as_json:
            text = json.dumps(forms.document(), indent=1, allow_nan=False)
            say(text, file=console.file)  # rich takes ten times as long
        elif svg is not None or html is not None:
            _export(forms, svg, html)
        elif plain or not _draws(console):
            console.out(forms.plain(), end="", highlight=False)
        else:
            width = max(MIN_WIDTH, min(console.width, MAX_WIDTH))
            for view in forms.views():
                console.print(view, width=width, crop=False)


@dataclass(frozen=True)
class _Forms:
    """One thing in the forms in which it is shown."""

    name: str
    document: Callable[[], dict[str, Any]]
    plain: Callable[[], str]
    views: Callable[[], Iterable[RenderableType]]
    page: Callable[[], str]


def _forms(subject: Subject) -> _Forms:
    return _Forms(
        subject.name,
        lambda: document(subject),
        lambda: plain_text(subject),
        lambda: views(subject),
        lambda: show_page(subject),
    )


def _diff_forms(a: Subject, b: Subject) -> _Forms:
    found = schedule_diff(a, b)
    return _Forms(
        f"{a.name} --diff {b.name}",
        lambda: diff_document(found),
        lambda: diff_plain(found),
        lambda: [diff_view(found)],
        lambda: diff_page(found),
    )


def _draws(console: Console) -> bool:
    return not console.is_dumb_terminal and console.encoding.startswith("utf")


def _export(forms: _Forms, svg: Path | None, html: Path | None) -> None:
    texts = {}
    if svg is not None:
        console = Console(
            record=True,
            file=io.StringIO(),
            width=PICTURE_WIDTH,
            force_terminal=True,
            color_system="truecolor",
            _environ={},
        )
        for view in forms.views():
            console.print(view)
        title = f"autoprog show {forms.name}"
        picture = console.export_svg(title=title, font_aspect_ratio=FONT_ASPECT_RATIO)
        texts[svg] = with_local_fonts(picture)
    if html is not None:
        texts[html] = forms.page()
    write_outputs(texts)
