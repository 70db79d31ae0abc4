"""What is being shown and how it stands, in a few lines."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from autoprog.lengths import Lengths, full_epochs_of
from autoprog.settings import DataSettings
from autoprog.ui.fitted import Fitted, flowing
from autoprog.ui.palette import DIM, STATUS, WARNING
from autoprog.ui.subject import Subject
from autoprog.ui.track import full_epochs
from autoprog.ui.units import amount, duration, number, per_cent, steps_text, subnet_text
from supernet.cost import macs, parameters

__all__ = ["data_text", "header_facts", "header_view", "lengths_of"]


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
        time_share=search.time_share,
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
            ("done", per_cent(state.share_done)),
            ("trained", duration(state.train_seconds)),
        ]
    if subject.status in ("measuring", "training", "supernet"):
        facts.append(("left", duration(state.eta_seconds)))
    return facts
