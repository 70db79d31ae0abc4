"""What is shown of a run, a search, a schedule file or a preset: one section for each thing to know."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from autoprog.accuracy import is_unbalanced, sampling_error
from autoprog.budget_record import budget_record
from autoprog.events import Evaluated, Grown, encode
from autoprog.schedule import Lengths
from autoprog.steptable import Segment
from autoprog.ui.format import (
    DIM,
    GREEN,
    ORANGE,
    SKY,
    amount,
    count,
    duration,
    loss_text,
    mebibytes,
    number,
    per_cent,
    signed,
    speed_text,
    steps_text,
    subnet_text,
)
from autoprog.ui.search_sections import (
    decisions_section,
    fidelity_section,
    trials_section,
    workers_section,
)
from autoprog.ui.section import (
    Chart,
    Facts,
    Figures,
    Headline,
    Lanes,
    Line,
    Section,
    Series,
    Span,
    Table,
    Warnings,
    lines,
)
from autoprog.ui.state import RunState
from autoprog.ui.subject import OtherRun, Subject
from autoprog.ui.tables import Column
from autoprog.ui.track import CURRICULUM_NAMES, Track
from supernet.cost import macs, parameters

__all__ = [
    "CurveAxis",
    "accuracy_series",
    "curves_section",
    "evaluation_text",
    "finished_line",
    "finished_lines",
    "growth_section",
    "growth_text",
    "header_facts",
    "header_section",
    "lengths_section",
    "loss_series",
    "notes_section",
    "result_of",
    "result_rows",
    "result_section",
    "run_sections",
    "schedule_section",
]

CurveAxis = Literal["epochs", "seconds"]

_MAX_WARNINGS_DRAWN = 3  # on a terminal, so that the schedule is not pushed off the screen


def run_sections(subject: Subject) -> list[Section]:
    """Return all that is known of a subject, in the order in which it is shown."""
    state = subject.state
    return [
        header_section(subject),
        lengths_section(subject),
        notes_section(subject),
        schedule_section(subject),
        curves_section(state),
        decisions_section(subject.decisions),
        fidelity_section(subject.fidelity),
        trials_section(state.trials),
        workers_section(subject.workers),
        growth_section(state.growths),
        evaluations_section(state.evaluations),
        budget_section(subject),
        result_section(result_of(subject)),
    ]


# What is shown and how it stands.


def header_section(subject: Subject) -> Section:
    """Return the name, the state and the facts of a subject."""
    state = subject.state

    def values() -> dict[str, Any]:
        return {
            "name": subject.name,
            "kind": subject.kind,
            "model": subject.spec.name,
            "status": subject.status or None,
            "step": state.step,
            "train_seconds": state.train_seconds,
            "eta_seconds": state.eta_seconds,
            "costs": {} if subject.run is None else dict(subject.run.costs),
        }

    headline = Headline(subject.kind, subject.name, subject.spec.name, subject.status)
    return Section("header", (headline, Facts(tuple(header_facts(subject)))), values=values)


def lengths_of(subject: Subject) -> Lengths | None:
    """Return the lengths of a plan or a run; None for what is only counted in steps, or has not begun."""
    run, state, track = subject.run, subject.state, subject.track
    if track is None or track.unit != "epoch":
        return None
    schedule_epochs = track.total_steps / track.steps_per_epoch
    if run is None:
        return Lengths(schedule_epochs=schedule_epochs, full_epochs=track.full_epochs())
    steps, per_epoch = state.step or None, max(1, state.steps_per_epoch)
    search, schedule = run.manifest.settings.search, subject.schedule
    trained = None if steps is None else steps / per_epoch
    # A search whose length is a time ends after as many epochs as that allows, so its lengths differ.
    if search is None or search.trials is not None:
        return Lengths(
            steps=steps,
            trained_epochs=trained,
            schedule_epochs=schedule_epochs,
            full_epochs=track.full_epochs(),
        )
    return Lengths(
        named_epochs=run.manifest.settings.recipe.epochs,
        cost_fraction=search.cost_fraction,
        steps=steps,
        trained_epochs=trained,
        schedule_epochs=None if schedule is None else schedule.own_epochs(per_epoch),
        full_epochs=None if schedule is None else schedule.full_model_epochs(state.num_classes),
    )


def lengths_section(subject: Subject) -> Section:
    """Return how long the run, its schedule and its compute are, in epochs."""
    lengths = lengths_of(subject)
    return Section(
        "lengths",
        () if lengths is None else (Line(f"lengths: {lengths.sentence()}", "dim"),),
        values=lambda: {"lengths": None if lengths is None else asdict(lengths)},
    )


def notes_section(subject: Subject) -> Section:
    """Return what a plan was drawn for, and the warnings of a run."""
    notes, warnings = subject.notes, subject.state.warnings
    return Section(
        "notes",
        (
            *(Line(note, "dim", label="note") for note in notes),
            *([Warnings(warnings, _MAX_WARNINGS_DRAWN)] if warnings else []),
        ),
        values=lambda: {"notes": list(notes), "warnings": list(warnings)},
    )


def header_facts(subject: Subject) -> list[tuple[str, str]]:
    """Return (name, text) of the model, of where a run stands and of what it was started with."""
    # With the number of classes of the data, as the head is a good part of a small model.
    spec, track, state = subject.spec, subject.track, subject.state
    facts = [
        ("full", subnet_text(spec.full)),
        ("MACs", amount(macs(spec, spec.full, state.num_classes))),
        ("parameters", amount(parameters(spec, spec.depth, state.num_classes))),
    ]
    if track is not None and track.unit == "epoch":
        facts.append(("epochs", number(track.total_steps / track.steps_per_epoch)))
    if subject.schedule is not None:
        facts.append(("learning rate", subject.schedule.lr.shape))
    if subject.run is None:
        return facts
    settings = subject.run.manifest.settings
    data = settings.data
    facts += [
        ("data", "embedded digits" if data.embedded else data.dataset or str(data.dir)),
        ("recipe", settings.recipe_name),
        ("seed", str(settings.seed)),
    ]
    if settings.time_budget_seconds is not None:
        facts.append(("time budget", duration(settings.time_budget_seconds)))
    if subject.status == "measuring" and state.measuring is not None:
        measuring = state.measuring
        facts.append(("measured", f"{measuring.num_measured} of {measuring.num_subnets} subnets"))
    if state.num_estimated_costs:
        known = len(state.cost_seconds)
        interpolated = f"{known - state.num_estimated_costs} of {known}, the rest interpolated"
        facts.append(("step times measured", interpolated))
    if state.total_steps:
        facts += [
            ("device", f"{state.device} {state.amp}"),
            ("step", steps_text(state.step, state.shown_total_steps, state.is_open_ended)),
            ("done", per_cent(state.fraction_done)),
            ("trained", duration(state.train_seconds)),
        ]
    # A run that is interrupted or stale has no time left that could be counted.
    if subject.status in ("measuring", "training", "supernet"):
        facts.append(("left", duration(state.eta_seconds)))
    return facts


# The schedule: a picture, and what a step costs.


def schedule_section(subject: Subject) -> Section:
    """Return the schedule of a subject; nothing to see before anything is known of it."""
    schedule, track = subject.schedule, subject.track
    measured = None
    if track is not None and subject.run is not None:
        # By the step times that this run measured; a plan for unknown hardware has none.
        measured = track.measured_speed_up(subject.run.step_seconds)

    def values() -> dict[str, Any]:
        written = {
            "schedule": None
            if schedule is None
            else schedule.model_dump(mode="json", by_alias=True, exclude_none=True)
        }
        if track is None:
            return {**written, "step_table": []}
        mean = track.mean_step_cost()
        return {
            **written,
            "steps_per_epoch": track.steps_per_epoch,
            # Of a plan, for data of unknown size.
            "steps_are_nominal": not subject.state.total_steps,
            "total_steps": track.total_steps,
            "step_table": [_segment_values(track, segment) for segment in track.segments],
            "mean_relative_cost": mean,
            "ideal_speed_up": 1 / mean,
            "measured_speed_up": measured,
        }

    if track is None:
        return Section("schedule", title="Schedule", values=values)
    mean = track.mean_step_cost()
    so_far = "" if track.known_steps >= track.total_steps else " so far"
    by_time = "" if measured is None else f"speed-up by measured step times: {measured:.2f}×"
    constants = tuple((f"constant {name}", text) for name, text in track.constants().items())
    cost = f"mean step cost: {per_cent(mean)} of the full model; ideal speed-up {1 / mean:.2f}×"
    return Section(
        "schedule",
        (
            Lanes(track),
            *lines(f"{cost}{so_far}", by_time),
            *([Facts(constants)] if constants else []),
            *(Line(text, "dim") for text in track.unfrozen_lines()),
        ),
        "Schedule",
        values=values,
    )


def _segment_values(track: Track, segment: Segment) -> dict[str, Any]:
    """Return a row of the step table as values."""
    curriculum = {name: track.curriculum_value(segment, name) for name in CURRICULUM_NAMES}
    training = segment.training
    unfrozen, sandwich = training.unfrozen, training.sandwich
    return {
        "stage": segment.stage,
        "start_step": segment.start_step,
        "stop_step": segment.stop_step,
        "start_epoch": segment.start_step / track.steps_per_epoch,
        "stop_epoch": segment.stop_step / track.steps_per_epoch,
        "depth": list(segment.subnet.depth),
        "img_size": segment.subnet.img_size,
        "tokens": asdict(segment.subnet.tokens),
        "training": {
            "shrink_by": training.shrink_by,
            "batch_scale": training.batch_scale,
            "lr_scale": training.lr_scale,
            "trainable": "all" if unfrozen is None else unfrozen.model_dump(mode="json"),
            "sandwich": None if sandwich is None else sandwich.model_dump(mode="json"),
        },
        "curriculum": {name: value for name, value in curriculum.items() if value is not None},
        "relative_cost": track.step_cost(segment),
    }


# Accuracy and loss, as curves and as a table.


def curves_section(
    state: RunState,
    rows: int = 7,
    axis: CurveAxis = "epochs",
    beside: OtherRun | None = None,
) -> Section:
    """Return the curves of a run; nothing to see before two points of any.

    Args:
        state: The run.
        rows: Height of each plot on a terminal, without what is around it.
        axis: What they are drawn over: epochs, which count the images that were seen, or wall time.
        beside: A run to compare with.
    """
    both = (accuracy_series(state, axis, beside), loss_series(state, axis))
    shown = [series for series in both if series]
    if not shown:
        return Section("curves")
    if axis == "epochs":
        marks = tuple(growth.step / max(1, state.steps_per_epoch) for growth in state.growths)
    else:
        clock = state.clock()
        marks = tuple(clock.wall_seconds_at(growth.step) for growth in state.growths)
    # One span for both plots, so that what lies below each other happened at the same time.
    right = max(
        x for series in shown for one in series for x in [*(x for x, _ in one.points), *marks]
    )
    span = Span.epochs(right) if axis == "epochs" else Span.seconds(0.0, right)
    charts = tuple(Chart(series, span, marks=marks, rows=rows) for series in shown)
    return Section("curves", (Figures(charts),), "Curves")


def accuracy_series(
    state: RunState, axis: CurveAxis = "epochs", beside: OtherRun | None = None
) -> tuple[Series, ...]:
    """Return top-1 of the network as points and of its average as a line; empty below two points.

    That of another run lies under them, as a dotted line.
    """

    def points(run: RunState, name: str) -> tuple[tuple[float, float], ...]:
        return tuple(
            (one.epoch if axis == "epochs" else one.wall_seconds, value)
            for one in run.evaluations
            if math.isfinite(value := getattr(one, name))
        )

    # Both, since an average that lags behind must not be all that is shown.
    online, averaged = points(state, "top1"), points(state, "top1_ema")
    if min(len(online), len(averaged)) < 2:
        return ()
    other = () if beside is None else points(beside.state, "top1_ema")
    under = []
    if beside is not None and len(other) >= 2:
        under = [Series(f"{beside.name} {other[-1][1]:.2f} %", other, DIM, dotted=True)]
    return (
        *under,
        Series(f"top-1 EMA {averaged[-1][1]:.2f} %", averaged, SKY),
        Series(f"online {online[-1][1]:.2f} %", online, ORANGE, line=False),
    )


def loss_series(state: RunState, axis: CurveAxis = "epochs") -> tuple[Series, ...]:
    """Return the training loss; empty below two points."""
    # Losses are logged by training time; evaluations say what wall time that was.
    clock = state.clock()
    points = tuple(
        (point.epoch if axis == "epochs" else clock.wall_seconds(point.train_seconds), point.loss)
        for point in state.points
        if math.isfinite(point.loss)
    )
    if len(points) < 2:
        return ()
    return (Series(f"training loss {loss_text(points[-1][1])}", points, GREEN),)


def evaluation_text(event: Evaluated, num_classes: int) -> str:
    """Return an evaluation in one line of ASCII; balanced accuracy where classes differ in their images."""
    fraction, balanced = event.largest_class_fraction, event.balanced_top1_ema
    also = ""
    if fraction is not None and balanced is not None and is_unbalanced(fraction, num_classes):
        also = f" balanced EMA {balanced:.2f} %,"
    return (
        f"evaluated: top-1 {event.top1:.2f} %, EMA {event.top1_ema:.2f} %,{also}"
        f" loss {loss_text(event.loss)}, EMA {loss_text(event.loss_ema)}, in {duration(event.seconds)}"
    )


def evaluations_section(evaluations: Sequence[Evaluated]) -> Section:
    """Return the table of evaluations; a terminal has their curves instead."""
    # Runs of before balanced accuracy was recorded have none.
    balanced = tuple(number(one.balanced_top1_ema) for one in evaluations)
    columns = [
        Column("epoch", tuple(number(one.epoch) for one in evaluations)),
        Column("top-1 %", tuple(f"{one.top1:.2f}" for one in evaluations)),
        Column("EMA %", tuple(f"{one.top1_ema:.2f}" for one in evaluations)),
        *([Column("balanced EMA %", balanced)] if any(text != "–" for text in balanced) else []),
        Column("loss", tuple(loss_text(one.loss) for one in evaluations)),
        Column("EMA loss", tuple(loss_text(one.loss_ema) for one in evaluations)),
        Column("train time", tuple(duration(one.train_seconds) for one in evaluations)),
    ]
    return Section(
        "evaluations",
        (Table.of(columns),) if evaluations else (),
        "Evaluations",
        on_terminal=False,
        values=lambda: {"evaluations": [encode(event) for event in evaluations]},
    )


# Growth events: what each changed, and what it cost.


def growth_section(growths: Sequence[Grown]) -> Section:
    """Return the table of growth events, in order."""
    columns = [
        Column("step", tuple(count(growth.step) for growth in growths)),
        Column("from", tuple(str(growth.before) for growth in growths), "left"),
        Column("to", tuple(str(growth.after) for growth in growths), "left"),
        Column(
            "for",
            tuple("supernet" if growth.opens_supernet else "stage" for growth in growths),
            "left",
            rank=6,
        ),
        Column("init", tuple(growth.init for growth in growths), "left", rank=1),
        Column("placement", tuple(growth.placement for growth in growths), "left", rank=5),
        Column("old blocks", tuple(growth.old_blocks for growth in growths), "left", rank=4),
        Column("optimizer", tuple(growth.optimizer_state for growth in growths), "left", rank=3),
        Column("Δloss", tuple(signed(growth.delta_loss) for growth in growths)),
        Column("‖Δlogits‖", tuple(number(growth.delta_logits, 3) for growth in growths), rank=2),
        Column("lost", tuple(duration(growth.lost_seconds) for growth in growths)),
    ]
    return Section(
        "growth",
        (Table.of(columns),) if growths else (),
        "Growth",
        values=lambda: {"growths": [encode(event) for event in growths]},
    )


def growth_text(growth: Grown) -> str:
    """Return a growth event in one line of ASCII."""
    return (
        f"grown from {growth.before} to {growth.after} by {growth.init} ({growth.placement}, old"
        f" blocks {growth.old_blocks}, optimizer state {growth.optimizer_state}): loss"
        f" {signed(growth.delta_loss)}, logits {number(growth.delta_logits, 3)},"
        f" lost {duration(growth.lost_seconds)}"
    )


# What a run under a time budget ran on, and how fast each of its networks was.


def budget_section(subject: Subject) -> Section:
    """Return the record of a run under a time budget, as far as it has come."""
    run = subject.run
    # Folded from the log, so that a run that goes on has one too.
    record = None
    if run is not None and run.manifest.settings.time_budget_seconds is not None:
        record = budget_record(run.events())
    if record is None:
        return Section("budget", values=lambda: {"budget": None})
    hardware = " then ".join(record.hardware) or "unknown hardware"
    processes = f"{record.processes} x " if record.processes > 1 else ""
    speeds = record.speeds
    columns = [
        Column("depth", tuple("+".join(map(str, one.depth)) for one in speeds)),
        Column("image px", tuple(str(one.img_size) for one in speeds)),
        Column("steps", tuple(count(one.steps) for one in speeds), rank=2),
        Column("training", tuple(duration(one.train_seconds) for one in speeds), rank=1),
        Column("images/s", tuple(speed_text(one.images_per_second) for one in speeds)),
        Column("data wait", tuple(per_cent(one.data_wait_fraction) for one in speeds)),
        Column(
            "set by", tuple("loader" if one.loader_bound else "device" for one in speeds), "left"
        ),
    ]
    budget = duration(record.time_budget_seconds)
    return Section(
        "budget",
        (Line(f"{budget} on {processes}{hardware}"), Table.of(columns)),
        "Time budget",
        values=lambda: {"budget": record.model_dump(mode="json", by_alias=True)},
    )


# What a complete run came to.

Result = Mapping[str, Any]
"""What ``result.json`` holds; a file of an earlier version may lack some of it."""


def result_of(subject: Subject) -> Result | None:
    """Return the result of a complete run."""
    if subject.run is None or subject.run.result is None:
        return None
    return subject.run.result.model_dump(mode="json", by_alias=True)


def result_section(result: Result | None) -> Section:
    """Return the result as names and values."""
    parts = () if result is None else (Facts(tuple(result_rows(result)), "columns"),)
    return Section("result", parts, "Result", values=lambda: {"result": result})


def finished_line(result: Result) -> str:
    """Return a result in one short line."""
    texts = dict(result_rows(result))
    parts = [f"{name} {texts[name]}" for name in ("top-1 EMA", "top-1") if name in texts]
    parts += [f"in {texts['wall time']}"] if "wall time" in texts else []
    return f"finished: {', '.join([*parts, *filter(None, [result.get('run_id')])])}"


def finished_lines(result: Result) -> list[str]:
    """Return a result in a few lines: accuracy, then time, then work and what the full model would take."""
    texts = dict(result_rows(result))

    def line(head: str, *names: str) -> str:
        known = [f"{name} {texts[name]}" for name in names if name in texts]
        return f"{head}: {', '.join(known)}" if known else ""

    images, fraction = result.get("class_images") or (), result.get("largest_class_fraction")
    # Of balanced classes it is the same number twice.
    unbalanced = fraction is not None and is_unbalanced(fraction, sum(map(bool, images)))
    parts = ("training", "in supernets", "search", "lost to growth", "data wait", "evaluation")
    texts_of = [
        line("finished", "top-1 EMA", "top-1", "loss EMA", "loss", "validation images"),
        line("accuracy", "balanced EMA", "balanced", "largest class") if unbalanced else "",
        f"best EMA: {texts['best EMA']}" if "best EMA" in texts else "",
        line("time", "wall time", *(name for name in parts if texts.get(name) != duration(0.0))),
        line("work", "epochs", "image-epochs", "MACs", "peak memory", "device", "precision"),
        f"full model: {texts['full model']}" if "full model" in texts else "",
    ]
    return [text for text in texts_of if text]


def result_rows(result: Result) -> list[tuple[str, str]]:
    """Return (name, text) of what `result` holds of a result file; what it lacks is left out."""

    def text(key: str, show: Callable[[Any], str]) -> str:
        return "" if result.get(key) is None else show(result[key])

    def accuracy(value: float) -> str:
        images = result.get("num_validation_images")
        error = f" ± {sampling_error(value, images):.1f}" if images else ""
        return f"{value:.2f}{error} %"

    # What the full model was predicted to take, beside what the run took.
    full_model, seconds = "", result.get("full_model_seconds")
    if seconds is not None and result.get("full_model_epochs") is not None:
        taken, length = result["wall_seconds"], number(result["full_model_epochs"])
        full_model = (
            f"about {duration(seconds)} for {length} epochs (predicted from its steps here);"
        )
        full_model += f" this run {duration(taken)}"
        if taken > seconds:
            # Growth saves seconds of steps alone; a run of seconds is mostly all the rest.
            beside = duration(taken - result["train_seconds"] - result["data_wait_seconds"])
            full_model += (
                f", {beside} of it not for steps; what is so short gains nothing by growth"
            )
    early = ", after which the run was stopped early" if result.get("stopped_early") else ""
    rows = [
        ("top-1 EMA", text("top1_ema", accuracy)),
        ("top-1", text("top1", accuracy)),
        (
            "best EMA",
            text(
                "best_top1",
                lambda top1: (
                    f"{top1:.2f} % at epoch {number(result['best_epoch'])}"
                    f" (checkpoints/best.safetensors){early}"
                ),
            ),
        ),
        ("balanced EMA", text("balanced_top1_ema", lambda value: f"{value:.2f} %")),
        ("balanced", text("balanced_top1", lambda value: f"{value:.2f} %")),
        (
            "largest class",
            text("largest_class_fraction", lambda value: f"{100 * value:.1f} % of the images"),
        ),
        ("validation images", text("num_validation_images", count)),
        ("loss EMA", text("loss_ema", loss_text)),
        ("loss", text("loss", loss_text)),
        ("stopped early", "yes" if result.get("stopped_early") else ""),
        ("wall time", text("wall_seconds", duration)),
        ("training", text("train_seconds", duration)),
        ("in supernets", text("supernet_seconds", duration)),
        ("search", text("search_seconds", duration)),
        ("lost to growth", text("lost_seconds", duration)),
        ("data wait", text("data_wait_seconds", duration)),
        ("evaluation", text("eval_seconds", duration)),
        ("full model", full_model),
        ("epochs", text("epochs", number)),
        ("image-epochs", text("image_epochs", number)),
        ("MACs", text("macs", amount)),
        ("peak memory", text("peak_memory_bytes", mebibytes)),
        ("device", text("device", str)),
        ("precision", text("amp", str)),
    ]
    # A result of an earlier version lacks what was not recorded then.
    return [(name, value) for name, value in rows if value]
