"""All views of a subject, in the order in which they are printed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from rich.console import Group, RenderableType
from rich.console import Group as Stack
from rich.table import Table
from rich.text import Text

from autoprog.accuracy import is_unbalanced, sampling_error
from autoprog.events import Grown
from autoprog.runs import BudgetRecord, budget_record
from autoprog.schedule import Lengths, full_epochs_of
from autoprog.settings import DataSettings
from autoprog.ui.charts import curves_view
from autoprog.ui.format import (
    DIM,
    STATUS,
    WARNING,
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
from autoprog.ui.search_views import decision_view, fidelity_view, trials_view
from autoprog.ui.subject import Subject
from autoprog.ui.tables import Column, Fitted, flowing, panel, rich_table
from autoprog.ui.timeline import full_epochs, measured_speed_up, timeline
from supernet.cost import macs, parameters

__all__ = [
    "budget_columns",
    "budget_of",
    "budget_text",
    "budget_view",
    "data_text",
    "finished_line",
    "finished_lines",
    "growth_columns",
    "growth_text",
    "growth_view",
    "header_facts",
    "header_view",
    "lengths_of",
    "result_of",
    "result_rows",
    "result_view",
    "timeline_of",
    "views",
]


# --------------------------------------------------------------------------------------------------
# What is being shown and how it stands, in a few lines.


def header_view(subject: Subject) -> RenderableType:
    """Return the name, the state and the facts of a subject."""
    title = Text(no_wrap=True, overflow="ellipsis")
    if subject.status:
        mark, style = STATUS[subject.status]
        title.append(f"{mark} {subject.status}  ", style)
    title.append(subject.spec.name, "bold").append(f"  {subject.kind} {subject.name}")
    pairs = header_facts(subject)
    facts = Fitted(lambda width: flowing([_fact(*pair) for pair in pairs], width))
    warnings = [Text(f"! {message}", WARNING) for message in subject.state.warnings[-3:]]
    return Group(title, facts, *(Text(note, DIM) for note in subject.notes), *warnings)


def _fact(name: str, text: str) -> Text:
    return Text.assemble((f"{name} ", DIM), text)


def header_facts(subject: Subject) -> list[tuple[str, str]]:
    """Return (name, text) of the model, of where a run stands and of what it was started with."""
    spec, classes = subject.spec, subject.state.num_classes
    facts = [
        ("full", subnet_text(spec.full)),
        ("MACs", amount(macs(spec, spec.full, classes))),
        ("parameters", amount(parameters(spec, spec.depth, classes))),
    ]
    if subject.track is not None and subject.track.unit == "epoch":
        epochs = subject.track.total_steps / subject.track.steps_per_epoch
        facts.append(("epochs", number(epochs)))
    if subject.schedule is not None:
        facts.append(("learning rate", subject.schedule.lr.shape))
    return facts + _run_facts(subject)


def lengths_of(subject: Subject) -> Lengths | None:
    """Return the lengths of a plan or a run; None for what is only counted in steps, or has not begun."""
    run, state, track = subject.run, subject.state, subject.track
    if track is None or track.unit != "epoch":
        return None
    if run is None:
        return Lengths(
            schedule_epochs=track.total_steps / track.steps_per_epoch,
            full_epochs=full_epochs(track),
        )
    steps, per_epoch = state.step or None, max(1, state.steps_per_epoch)
    search, schedule = run.manifest.settings.search, subject.schedule
    trained = None if steps is None else steps / per_epoch
    if search is None or search.trials is not None:
        return Lengths(
            steps=steps,
            trained_epochs=trained,
            schedule_epochs=track.total_steps / track.steps_per_epoch,
            full_epochs=full_epochs(track),
        )
    return Lengths(
        named_epochs=run.manifest.settings.recipe.epochs,
        cost_fraction=search.cost_fraction,
        steps=steps,
        trained_epochs=trained,
        schedule_epochs=None if schedule is None else schedule.own_epochs(per_epoch),
        full_epochs=None if schedule is None else full_epochs_of(schedule, state.num_classes),
    )


def data_text(data: DataSettings) -> str:
    """Return where the images come from."""
    if data.embedded:
        return "embedded digits"
    return data.dataset or str(data.dir)


def _run_facts(subject: Subject) -> list[tuple[str, str]]:
    if subject.run is None:
        return []
    settings, state = subject.run.manifest.settings, subject.state
    facts = [
        ("data", data_text(settings.data)),
        ("recipe", settings.recipe_name),
        ("seed", str(settings.seed)),
    ]
    if settings.time_budget_seconds is not None:
        facts.append(("time budget", duration(settings.time_budget_seconds)))
    if subject.status == "measuring" and state.measuring is not None:
        told = state.measuring
        facts.append(("measured", f"{told.num_measured} of {told.num_subnets} subnets"))
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
    if subject.status in ("measuring", "training", "supernet"):
        facts.append(("left", duration(state.eta_seconds)))
    return facts


# --------------------------------------------------------------------------------------------------
# Growth events: what each changed, and what it cost.


def growth_columns(growths: Sequence[Grown]) -> list[Column]:
    """Return the table of growth events, in order."""
    return [
        Column("step", tuple(count(growth.step) for growth in growths)),
        Column("from", tuple(str(growth.before) for growth in growths), "left"),
        Column("to", tuple(str(growth.after) for growth in growths), "left"),
        Column("for", tuple(_purpose(growth) for growth in growths), "left", rank=6),
        Column("init", tuple(growth.init for growth in growths), "left", rank=1),
        Column("placement", tuple(growth.placement for growth in growths), "left", rank=5),
        Column("old blocks", tuple(growth.old_blocks for growth in growths), "left", rank=4),
        Column("optimizer", tuple(growth.optimizer_state for growth in growths), "left", rank=3),
        Column("Δloss", tuple(signed(growth.delta_loss) for growth in growths)),
        Column("‖Δlogits‖", tuple(number(growth.delta_logits, 3) for growth in growths), rank=2),
        Column("lost", tuple(duration(growth.lost_seconds) for growth in growths)),
    ]


def growth_text(growth: Grown) -> str:
    """Return a growth event in one line of ASCII."""
    return (
        f"grown from {growth.before} to {growth.after} by {growth.init} ({growth.placement}, old"
        f" blocks {growth.old_blocks}, optimizer state {growth.optimizer_state}): loss"
        f" {signed(growth.delta_loss)}, logits {number(growth.delta_logits, 3)}, lost {duration(growth.lost_seconds)}"
    )


def _purpose(growth: Grown) -> str:
    return "supernet" if growth.opens_supernet else "stage"


def growth_view(growths: Sequence[Grown]) -> RenderableType:
    """Return the table of growth events in its frame."""
    return panel(Fitted(lambda width: rich_table(growth_columns(growths), width)), "Growth")


# --------------------------------------------------------------------------------------------------
# What a run under a time budget ran on, and how fast each of its networks was.


def budget_of(subject: Subject) -> BudgetRecord | None:
    """Return the record of a run under a time budget, as far as it has come."""
    run = subject.run
    if run is None or run.manifest.settings.time_budget_seconds is None:
        return None
    return budget_record(run.events())


def budget_text(record: BudgetRecord) -> str:
    """Return the budget and the hardware in one line."""
    hardware = " then ".join(record.hardware) or "unknown hardware"
    processes = f"{record.processes} x " if record.processes > 1 else ""
    return f"{duration(record.time_budget_seconds)} on {processes}{hardware}"


def budget_columns(record: BudgetRecord) -> list[Column]:
    """Return the table of speeds by depth and image size."""
    speeds = record.speeds
    return [
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


def budget_view(record: BudgetRecord) -> RenderableType:
    """Return the budget and the table of speeds in their frame."""
    table = Fitted(lambda width: rich_table(budget_columns(record), width))
    return panel(Group(Text(budget_text(record)), table), "Time budget")


# --------------------------------------------------------------------------------------------------
# What a complete run came to.


TWO_COLUMNS_WIDTH = 72
LONGEST_TEXT = 24  # of two columns

_Tell = Callable[[Mapping[str, Any]], str]


def result_rows(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (name, text) of what `result` holds of a result file; what it lacks is left out."""
    rows = [(name, text(result)) for name, text in _ROWS]
    return [(name, text) for name, text in rows if text]


def finished_lines(result: Mapping[str, Any]) -> list[str]:
    """Return a result in a few lines: accuracy, then time, then work and what the full model would take."""
    texts = dict(result_rows(result))

    def line(head: str, *names: str) -> str:
        known = [f"{name} {texts[name]}" for name in names if name in texts]
        return f"{head}: {', '.join(known)}" if known else ""

    lines = [
        line("finished", "top-1 EMA", "top-1", "loss EMA", "loss", "validation images"),
        line("accuracy", "balanced EMA", "balanced", "largest class") if _matters(result) else "",
        f"best EMA: {texts['best EMA']}" if "best EMA" in texts else "",
        line("time", "wall time", *(name for name in _PARTS if texts.get(name) != duration(0.0))),
        line("work", "epochs", "image-epochs", "MACs", "peak memory", "device", "precision"),
        f"full model: {texts['full model']}" if "full model" in texts else "",
    ]
    return [text for text in lines if text]


def finished_line(result: Mapping[str, Any]) -> str:
    """Return a result in one short line."""
    texts = dict(result_rows(result))
    parts = [f"{name} {texts[name]}" for name in ("top-1 EMA", "top-1") if name in texts]
    parts += [f"in {texts['wall time']}"] if "wall time" in texts else []
    return f"finished: {', '.join([*parts, *filter(None, [result.get('run_id')])])}"


def _of(key: str, text: Callable[[Any], str]) -> _Tell:
    """Return what tells one value of a result; nothing where it is missing."""
    return lambda result: "" if result.get(key) is None else text(result[key])


def _accuracy(key: str) -> _Tell:
    def text(result: Mapping[str, Any]) -> str:
        value, images = result.get(key), result.get("num_validation_images")
        if value is None:
            return ""
        error = f" ± {sampling_error(value, images):.1f}" if images else ""
        return f"{value:.2f}{error} %"

    return text


def _best(result: Mapping[str, Any]) -> str:
    if result.get("best_top1") is None:
        return ""
    early = ", after which the run was stopped early" if result.get("stopped_early") else ""
    return (
        f"{result['best_top1']:.2f} % at epoch {number(result['best_epoch'])}"
        f" (checkpoints/best.safetensors){early}"
    )


def _full_model(result: Mapping[str, Any]) -> str:
    """Return what the full model was predicted to take, beside what the run took."""
    seconds, epochs = result.get("full_model_seconds"), result.get("full_model_epochs")
    if seconds is None or epochs is None:
        return ""
    taken = result["wall_seconds"]
    slower = ""
    if taken > seconds:
        beside = taken - result["train_seconds"] - result["data_wait_seconds"]
        slower = (
            f", {duration(beside)} of it not for steps; what is so short gains nothing by growth"
        )
    return (
        f"about {duration(seconds)} for {number(epochs)} epochs (predicted from its steps here);"
        f" this run {duration(taken)}{slower}"
    )


def _matters(result: Mapping[str, Any]) -> bool:
    """Tell whether balanced accuracy says more than top-1 does."""
    images, fraction = result.get("class_images") or (), result.get("largest_class_fraction")
    return fraction is not None and is_unbalanced(fraction, sum(map(bool, images)))


_PARTS = ("training", "in supernets", "search", "lost to growth", "data wait", "evaluation")
_ROWS: tuple[tuple[str, _Tell], ...] = (
    ("top-1 EMA", _accuracy("top1_ema")),
    ("top-1", _accuracy("top1")),
    ("best EMA", _best),
    ("balanced EMA", _of("balanced_top1_ema", lambda value: f"{value:.2f} %")),
    ("balanced", _of("balanced_top1", lambda value: f"{value:.2f} %")),
    (
        "largest class",
        _of("largest_class_fraction", lambda fraction: f"{100 * fraction:.1f} % of the images"),
    ),
    ("validation images", _of("num_validation_images", count)),
    ("loss EMA", _of("loss_ema", loss_text)),
    ("loss", _of("loss", loss_text)),
    ("stopped early", lambda result: "yes" if result.get("stopped_early") else ""),
    ("wall time", _of("wall_seconds", duration)),
    ("training", _of("train_seconds", duration)),
    ("in supernets", _of("supernet_seconds", duration)),
    ("search", _of("search_seconds", duration)),
    ("lost to growth", _of("lost_seconds", duration)),
    ("data wait", _of("data_wait_seconds", duration)),
    ("evaluation", _of("eval_seconds", duration)),
    ("full model", _full_model),
    ("epochs", _of("epochs", number)),
    ("image-epochs", _of("image_epochs", number)),
    ("MACs", _of("macs", amount)),
    ("peak memory", _of("peak_memory_bytes", mebibytes)),
    ("device", _of("device", str)),
    ("precision", _of("amp", str)),
)


def result_view(result: Mapping[str, Any]) -> RenderableType:
    """Return the result as names and values, in two columns where there is room."""
    return panel(Fitted(lambda width: _grid(result_rows(result), width)), "Result")


def _grid(rows: list[tuple[str, str]], width: int) -> RenderableType:
    """Return short texts in two columns where there is room, then the long ones, each on its line."""
    long = [row for row in rows if len(row[1]) > LONGEST_TEXT]
    short = [row for row in rows if row not in long]
    grid = Table.grid(padding=(0, 3, 0, 0))
    half = (len(short) + 1) // 2 if width >= TWO_COLUMNS_WIDTH else len(short)
    for left, right in zip_longest(short[:half], short[half:], fillvalue=("", "")):
        grid.add_row(*_cells(left), *_cells(right))
    below = Table.grid(padding=(0, 3, 0, 0))
    for row in long:
        below.add_row(*_cells(row))
    return Stack(grid, below) if long else grid


def _cells(row: tuple[str, str]) -> tuple[Text, Text]:
    name, text = row
    return Text(name, DIM), Text(text, "bold" if name.startswith("top-1") else "")


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
