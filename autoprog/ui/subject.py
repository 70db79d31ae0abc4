"""What is to be shown: a run folder, a schedule file or a preset, read into one value."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from autoprog.decisions import Decision
from autoprog.errors import ConfigError, suggest
from autoprog.fidelity_report import FidelityReport, read_fidelity
from autoprog.files import read_rows
from autoprog.locate import is_word, locate_run, runs_in
from autoprog.presets import PRESETS, preset
from autoprog.processes import WorkerSeen, read_workers
from autoprog.recipe import Recipe, resolve_recipe
from autoprog.runs import CURVE_FILE, Run, load_run
from autoprog.schedule import FRACTION_UNITS, GrowthSchedule, load_schedule
from autoprog.stage import Curriculum
from autoprog.ui.format import number
from autoprog.ui.state import RunState, fold
from autoprog.ui.track import Track, track_of_run, track_of_table
from supernet.config import ModelSpec
from supernet.zoo import ZOO

__all__ = [
    "NOMINAL_STEPS_PER_EPOCH",
    "STALE_SECONDS",
    "UNKNOWN_CLASSES",
    "OtherRun",
    "Subject",
    "find_subject",
    "preset_beside",
    "run_start",
    "run_subject",
]

NOMINAL_STEPS_PER_EPOCH = 1000
STALE_SECONDS = 600.0  # without a sign; a killed process and a loader that hangs say nothing
UNKNOWN_CLASSES = RunState().num_classes
DEFAULT_MODEL = "deit-s"
DEFAULT_RECIPE = "deit"


@dataclass(frozen=True)
class OtherRun:
    """Another run whose top-1 is drawn beside that of the one that is shown."""

    name: str
    state: RunState


@dataclass(frozen=True)
class Subject:
    """One thing to show; parts that it does not have are None or empty.

    ``status`` is starting, training, supernet, interrupted, complete or stale, and empty for a mere plan.
    ``epochs`` is the length of the run that the schedule is resolved for; None where it says that itself.
    ``recipe`` is what it trains by: given, of the run, or of the run in whose folder a file lies.
    """

    name: str
    kind: str
    spec: ModelSpec
    schedule: GrowthSchedule | None
    track: Track | None
    strength: Curriculum = field(default_factory=Curriculum)
    run: Run | None = None
    state: RunState = field(default_factory=RunState)
    status: str = ""
    notes: tuple[str, ...] = ()
    fidelity: FidelityReport | None = None
    epochs: float | None = None
    workers: tuple[WorkerSeen, ...] = ()
    recipe_name: str = ""
    recipe: Recipe | None = None

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """Return the decisions that are on record."""
        return self.state.decisions if self.run is None else self.run.decisions


def find_subject(
    target: str,
    spec: ModelSpec | None,
    epochs: float | None,
    recipe: str | None,
    now: float,
    runs_dir: str = "runs",
) -> Subject:
    """Return what `target` names.

    Args:
        target: A run, as :func:`locate_run` takes it, path of a schedule file, or name of a preset.
        spec: Model of a preset.
        epochs: Length of the run of a preset, or of a file in fractions or with 'rest'.
        recipe: Recipe that gives a preset its length and strength.
        now: Seconds since the epoch, by which a silent run counts as stale.
        runs_dir: Where runs lie.

    Raises:
        ConfigError: If there is no such thing, or a file of it is wrong.
    """
    if epochs is not None and not 0 < epochs < math.inf:
        raise ConfigError("--epochs", "", "must be a finite number above 0", epochs)
    path = Path(target)
    # A file wins over a preset of its name, and a preset over a folder that is no run.
    if path.is_file():
        return _file_subject(path, epochs, recipe)
    if target in PRESETS and not (path / "run.yaml").is_file():
        notes = () if spec else (f"for {DEFAULT_MODEL}; --model NAME takes another",)
        recipe_name = recipe or DEFAULT_RECIPE
        known = resolve_recipe(recipe_name)
        length = known.epochs if epochs is None else epochs
        model = spec or ZOO[DEFAULT_MODEL]
        schedule = preset(target, model, length, known.strength, known.learning_rate)
        return _plan(target, "preset", schedule, length, known.strength, notes, recipe_name, known)
    if path.is_dir() or is_word(target, runs_dir):
        run = load_run(locate_run(target, runs_dir))
        state = fold(run.events(), run_start(run))
        return run_subject(run, state, read_fidelity(run.path), now)
    problem = "must be a run folder, last, a schedule file or a preset"
    names = [*PRESETS, *(run.name for run in runs_in(Path(runs_dir)))]
    hint = suggest(path.name, names, list_all=False) or f"presets: {', '.join(sorted(PRESETS))}"
    raise ConfigError(target, "", problem, hint=hint)


def preset_beside(
    name: str,
    beside: Subject,
    spec: ModelSpec | None = None,
    epochs: float | None = None,
    recipe_name: str | None = None,
) -> Subject:
    """Return a preset as it would train the model of another schedule.

    Args:
        name: Of the preset.
        beside: Gives the model with its image size, the length, and the recipe; where it names no recipe, the
            regularisation that it ends with.
        spec: Another model instead.
        epochs: Another length instead.
        recipe_name: Another recipe instead.
    """
    given = (spec, epochs, recipe_name)
    # Whoever gave a flag knows what the preset is drawn for.
    as_given = f", as {beside.name} has" if given == (None, None, None) else ""
    known = beside.recipe if recipe_name is None else resolve_recipe(recipe_name)
    name_known = beside.recipe_name if recipe_name is None else recipe_name
    recipe = Recipe() if known is None else known
    strength = recipe.strength
    if known is None and beside.schedule is not None:
        # The last stage trains the full model, so its regularisation is that of the recipe.
        strength = beside.schedule.stages[-1].curriculum.at(1.0)
    spec = beside.spec if spec is None else spec
    if epochs is None:
        track = beside.track
        epochs = recipe.epochs if track is None else track.total_steps / track.steps_per_epoch
    schedule = preset(name, spec, epochs, strength, recipe.learning_rate)
    of_recipe = f"recipe {name_known}" if name_known else "the regularisation at its end"
    drawn_for = f"{spec.name} at {spec.img_size} px, {number(epochs)} epochs and {of_recipe}"
    notes = (f"{name} is drawn for {drawn_for}{as_given}",)
    classes = beside.state.num_classes
    return _plan(name, "preset", schedule, epochs, strength, notes, name_known, known, classes)


def _file_subject(path: Path, epochs: float | None, recipe_name: str | None) -> Subject:
    schedule, classes = load_schedule(path), UNKNOWN_CLASSES
    recipe = None if recipe_name is None else resolve_recipe(recipe_name)
    if recipe is None and (path.parent / "run.yaml").is_file():
        settings = load_run(path.parent).manifest.settings
        recipe, recipe_name = settings.recipe, settings.recipe_name
        # As the first row of the log says it; what is published may have evaluations alone.
        logs = (path.parent / "events.jsonl", path.parent / CURVE_FILE)
        rows = chain.from_iterable(map(read_rows, logs))
        classes = next((row.get("num_classes", classes) for row in rows), classes)
    strength = Curriculum() if recipe is None else recipe.strength
    notes: tuple[str, ...] = ()
    is_relative = schedule.length_unit in FRACTION_UNITS or schedule.stages[-1].length == "rest"
    if epochs is None and is_relative:
        epochs = (recipe or Recipe()).epochs
        notes = (f"drawn for {epochs:g} epochs; --epochs N takes another length",)
    return _plan(
        str(path), "schedule", schedule, epochs, strength, notes, recipe_name or "", recipe, classes
    )


def _plan(
    name: str,
    kind: str,
    schedule: GrowthSchedule,
    epochs: float | None,
    strength: Curriculum,
    notes: tuple[str, ...],
    recipe_name: str,
    recipe: Recipe | None,
    num_classes: int = UNKNOWN_CLASSES,
) -> Subject:
    return Subject(
        name=name,
        kind=kind,
        spec=schedule.full.spec(),
        schedule=schedule,
        track=replace(_nominal_track(schedule, epochs, strength), num_classes=num_classes),
        strength=strength,
        state=RunState(num_classes=num_classes),
        notes=notes,
        epochs=epochs,
        recipe_name=recipe_name,
        recipe=recipe,
    )


def _nominal_track(schedule: GrowthSchedule, epochs: float | None, strength: Curriculum) -> Track:
    """Return the track of a plan for data of nobody knows which size."""
    table = schedule.resolve(NOMINAL_STEPS_PER_EPOCH, epochs)
    # Steps of a schedule are steps whatever the data; anything else is shown in epochs of unknown size.
    in_steps = schedule.length_unit == "steps" and epochs is None
    return track_of_table(
        schedule.full.spec(), table, strength, unit="step" if in_steps else "epoch"
    )


def run_start(run: Run) -> RunState:
    """Return the state of a run before its first event."""
    return RunState(schedule=run.best or run.schedule, spec=run.manifest.settings.model.spec())


def run_subject(run: Run, state: RunState, fidelity: FidelityReport | None, now: float) -> Subject:
    """Return a run as its folder and its events have it.

    Args:
        run: The folder.
        state: The fold of its events, from :func:`run_start` on.
        fidelity: What was found out about its estimates.
        now: Seconds since the epoch, by which a silent run counts as stale.
    """
    settings = run.manifest.settings
    files = (run.path / "events.jsonl", run.path / "run.yaml")
    # Between the last event and its result a run still writes: it is complete with the result alone.
    status: str = "training" if state.phase == "complete" else state.phase
    if run.result is not None:
        status = "complete"
    elif state.phase != "interrupted":
        last_sign = max(file.stat().st_mtime for file in files if file.exists())
        status = "stale" if now - last_sign > STALE_SECONDS else status
    schedule = run.best or run.schedule
    strength = settings.recipe.strength
    # The log is nearer to what happened than the plan, which a search has not even decided yet.
    track = track_of_run(state, strength)
    if track is None and schedule is not None:
        track = _nominal_track(schedule, settings.recipe.epochs, strength)
    return Subject(
        name=run.manifest.run_id,
        kind=settings.kind,
        spec=settings.model.spec(),
        schedule=schedule,
        track=track,
        strength=strength,
        run=run,
        state=state,
        status=status,
        fidelity=fidelity,
        epochs=settings.recipe.epochs,
        workers=tuple(read_workers(run.path)),
        recipe_name=settings.recipe_name,
        recipe=settings.recipe,
    )
