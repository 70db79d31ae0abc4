"""What is to be shown: a run folder, a schedule file or a preset, read into one value."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from autoprog.curves import Curriculum
from autoprog.decisions import Decision
from autoprog.errors import ConfigError, suggest
from autoprog.fidelity import Fidelity, read_fidelity
from autoprog.laws import SHARES
from autoprog.locate import is_word, locate_run, runs_in
from autoprog.presets import PRESETS, preset
from autoprog.recipe import Recipe, resolve_recipe
from autoprog.runs import Run, load_run
from autoprog.schedule import GrowthSchedule, load_schedule
from autoprog.ui.state import RunState, fold
from autoprog.ui.track import Track, track_of_run, track_of_table
from autoprog.workers import WorkerSeen, read_workers
from supernet.config import ModelSpec
from supernet.zoo import ZOO, lookup

__all__ = [
    "NOMINAL_STEPS_PER_EPOCH",
    "STALE_SECONDS",
    "Subject",
    "find_subject",
    "run_start",
    "run_subject",
]

NOMINAL_STEPS_PER_EPOCH = 1000
STALE_SECONDS = 600.0
DEFAULT_MODEL = "deit-s"
DEFAULT_RECIPE = "deit"


@dataclass(frozen=True)
class Subject:
    """One thing to show; parts that it does not have are None or empty.

    ``status`` is starting, training, supernet, interrupted, complete or stale, and empty for a mere plan.
    ``epochs`` is the length of the run that the schedule is resolved for; None where that tells it.
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
    fidelity: Fidelity | None = None
    epochs: float | None = None
    workers: tuple[WorkerSeen, ...] = ()

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """Return the decisions that are on record."""
        return self.state.decisions if self.run is None else self.run.decisions


def find_subject(
    target: str,
    model: str | None,
    epochs: float | None,
    recipe: str | None,
    now: float,
    runs_dir: str = "runs",
) -> Subject:
    """Return what `target` names.

    Args:
        target: A run, as :func:`locate_run` takes it, path of a schedule file, or name of a preset.
        model: Short name of the model of a preset.
        epochs: Length of the run of a preset, or of a file in shares or with 'rest'.
        recipe: Recipe that gives a preset its length and strength.
        now: Seconds since the epoch, by which a silent run counts as stale.
        runs_dir: Where runs lie.

    Raises:
        ConfigError: If there is no such thing, or it breaks a law.
    """
    if epochs is not None and not 0 < epochs < math.inf:
        raise ConfigError("--epochs", "", "must be a finite number above 0", epochs)
    path = Path(target)
    if path.is_file():
        return _file_subject(path, epochs, recipe)
    if target in PRESETS and not (path / "run.yaml").is_file():
        return _preset_subject(target, model, epochs, recipe)
    if path.is_dir() or is_word(target, runs_dir):
        return _run_subject(locate_run(target, runs_dir), now)
    law = "must be a run folder, last, a schedule file or a preset"
    names = [*PRESETS, *(run.name for run in runs_in(Path(runs_dir)))]
    cure = suggest(path.name, names, list_all=False) or f"presets: {', '.join(sorted(PRESETS))}"
    raise ConfigError(target, "", law, cure=cure)


def _preset_subject(
    name: str, model: str | None, epochs: float | None, recipe_name: str | None
) -> Subject:
    spec = lookup(model or DEFAULT_MODEL)
    if spec is None:
        cure = f"{suggest(str(model), ZOO)}; for another timm model show a schedule file"
        raise ConfigError("--model", "", "must be a model that presets are drawn for", model, cure)
    recipe = resolve_recipe(recipe_name or DEFAULT_RECIPE)
    length = recipe.epochs if epochs is None else epochs
    schedule = preset(name, spec, length, recipe.strength, recipe.learning_rate)
    notes = () if model else (f"for {DEFAULT_MODEL}; --model NAME takes another",)
    return _plan(name, "preset", schedule, length, recipe.strength, notes)


def _file_subject(path: Path, epochs: float | None, recipe_name: str | None) -> Subject:
    schedule = load_schedule(path)
    recipe = None if recipe_name is None else resolve_recipe(recipe_name)
    strength = Curriculum() if recipe is None else recipe.strength
    notes: tuple[str, ...] = ()
    if epochs is None and _needs_epochs(schedule):
        epochs = (recipe or Recipe()).epochs
        notes = (f"drawn for {epochs:g} epochs; --epochs N takes another length",)
    return _plan(str(path), "schedule", schedule, epochs, strength, notes)


def _needs_epochs(schedule: GrowthSchedule) -> bool:
    return schedule.length_unit in SHARES or schedule.stages[-1].length == "rest"


def _plan(
    name: str,
    kind: str,
    schedule: GrowthSchedule,
    epochs: float | None,
    strength: Curriculum,
    notes: tuple[str, ...],
) -> Subject:
    return Subject(
        name=name,
        kind=kind,
        spec=schedule.full.spec(),
        schedule=schedule,
        track=_nominal_track(schedule, epochs, strength),
        strength=strength,
        notes=notes,
        epochs=epochs,
    )


def _nominal_track(schedule: GrowthSchedule, epochs: float | None, strength: Curriculum) -> Track:
    """Return the track of a plan for data of nobody knows which size."""
    table = schedule.resolve(NOMINAL_STEPS_PER_EPOCH, epochs)
    in_steps = schedule.length_unit == "steps" and epochs is None
    return track_of_table(
        schedule.full.spec(), table, strength, unit="step" if in_steps else "epoch"
    )


def run_start(run: Run) -> RunState:
    """Return the state of a run before its first event."""
    return RunState(schedule=run.best or run.schedule, spec=run.manifest.settings.model.spec())


def run_subject(run: Run, state: RunState, fidelity: Fidelity | None, now: float) -> Subject:
    """Return a run as its folder and its events tell it.

    Args:
        run: The folder.
        state: The fold of its events, from :func:`run_start` on.
        fidelity: What was found out about its estimates.
        now: Seconds since the epoch, by which a silent run counts as stale.
    """
    settings = run.manifest.settings
    schedule = run.best or run.schedule
    strength = settings.recipe.strength
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
        status=_status(run, state, now),
        fidelity=fidelity,
        epochs=settings.recipe.epochs,
        workers=tuple(read_workers(run.path)),
    )


def _run_subject(path: Path, now: float) -> Subject:
    run = load_run(path)
    return run_subject(run, fold(run.events(), run_start(run)), read_fidelity(path), now)


def _status(run: Run, state: RunState, now: float) -> str:
    """Return how a run stands; it is complete if and only if it has a result."""
    if run.result is not None:
        return "complete"
    if state.phase == "interrupted":
        return "interrupted"
    if now - _last_sign_of_life(run.path) > STALE_SECONDS:
        return "stale"
    return "training" if state.phase == "complete" else state.phase


def _last_sign_of_life(path: Path) -> float:
    files = (path / "events.jsonl", path / "run.yaml")
    return max(file.stat().st_mtime for file in files if file.exists())
