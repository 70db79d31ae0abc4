"""The search by trials: workers really train schedules, the best is chosen and trained at full length."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from autoprog.data.dataset import OpenedData
from autoprog.data.opening import open_data
from autoprog.errors import DivergedError, RunError, RunExistsError, RunLockedError
from autoprog.events import Evaluated, Event, TrialFinished, WarningRaised
from autoprog.pareto import pareto_front, pareto_knee
from autoprog.processes import WorkerFile, claim_worker
from autoprog.runfiles import check_run_files, remove_checkpoints, remove_unstarted
from autoprog.runs import RunFolder
from autoprog.schedule import FoundBy, load_schedule
from autoprog.search.controller import (
    LOST,
    RELEASED,
    Halving,
    OpenTrial,
    Plan,
    PrunedTrial,
    ReleasedTrial,
    SharedStudy,
    StopRule,
    TrialState,
    close_storage,
    create_sampler,
    open_storage,
    run_worker,
)
from autoprog.search.forecast import ScalingLaw
from autoprog.search.schedule_space import ScheduleSpace, schedule_space
from autoprog.search.worker_processes import WorkerDied, spawn_workers
from autoprog.settings import RunManifest, RunSettings, SearchSettings
from autoprog.stage import image_macs
from autoprog.supervise import PROGRAM
from autoprog.train.length import step_table
from autoprog.train.run import Job, start_training, train_schedule
from autoprog.train.step import scaled_batch_size
from autoprog.train.stop import InterruptedRunError, StopRequest
from autoprog.train.trainer import Trainer

__all__ = [
    "FinishedTrial",
    "TrialRunner",
    "Workforce",
    "check_storage",
    "join",
    "search_by_trials",
    "trial_settings",
    "within_budget",
    "worked_seconds",
]

_METRICS = ("loss", "seconds")

_RUNGS = Halving(first_step=40, reduction=2)
"""Where trials are compared, in per cent of their own cost: at 40 and at 80 the better half goes on."""
_RUNG_WINDOW = 12
"""Trials are compared where they have just passed a rung, since later they know more."""

_NUM_EVALUATIONS = 10
_LEARNING_EXPONENT = 0.2  # of the loss over the cost, as where a search has no curve to fit it to


@dataclass(frozen=True)
class Workforce:
    """How many workers to start, and the flags by which they carry out trials otherwise than the run says."""

    jobs: int = 1
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class FinishedTrial:
    """A trial that has values."""

    number: int
    loss: float
    seconds: float
    params: dict[str, object]


def search_by_trials(
    settings: RunSettings, folder: RunFolder, opened: OpenedData, workforce: Workforce, job: Job
) -> Iterator[Event]:
    """Let workers carry out the trials, choose a schedule, train along it; what is done stays done.

    Args:
        settings: Of the search.
        folder: The run folder; workers join it.
        opened: The whole data.
        workforce: Worker processes to start.
        job: How to stop.

    Raises:
        InterruptedRunError: If a stop was requested.
        RunError: If too few trials have come to an end.
    """
    search, best = _search_of(settings), folder.path / "best.yaml"
    shared = _open_study(settings, folder.path)
    if not best.exists():  # else this goes on with a run that has chosen already
        yield from _carry_out_trials(settings, folder, shared, workforce, job.stop)
        chosen, complaint = _choose(settings, folder, shared, opened)
        if complaint:
            yield WarningRaised(step=0, message=complaint)
        run, seed = folder.manifest.run_id, settings.seed
        found_by = FoundBy(run=run, rule=search.rule, seed=seed, trial=chosen.number)
        found = schedule_space(settings).schedule_of(chosen.params, found_by)
        folder.write_schedule(found, "best.yaml")
    schedule = load_schedule(best)
    folder.write_schedule(schedule)
    trainer = start_training(settings, folder, opened, schedule, job)
    # Before the first step; a checkpoint that is gone on from brings its own.
    trainer.ledger.seconds["search"] = worked_seconds(shared)
    yield from train_schedule(trainer, schedule)


def _carry_out_trials(
    settings: RunSettings,
    folder: RunFolder,
    shared: SharedStudy,
    workforce: Workforce,
    stop: StopRequest,
) -> Iterator[Event]:
    """Start the workers and yield an event for each trial that ends."""
    words = [*PROGRAM, "search", "--join", str(folder.path), *workforce.words]
    schedules, reported = schedule_space(settings), set[int]()
    for report in spawn_workers(folder.path, workforce.jobs, words, stop):
        if isinstance(report, WorkerDied):
            text = f"worker {report.number} died ({report.exit_code}): {report.last_line}"
            yield WarningRaised(step=0, message=text)
        for trial in shared.ended(TrialState.COMPLETE, TrialState.PRUNED):
            if trial.number not in reported:
                reported.add(trial.number)
                loss, seconds = trial.values or (None, None)  # a pruned one has none
                yield TrialFinished(
                    step=0,
                    number=trial.number,
                    pruned=trial.state is TrialState.PRUNED,
                    loss=loss,
                    seconds=seconds,
                    stages=schedules.stages_of(trial.params),
                )
    if stop.signal_name is not None:
        raise InterruptedRunError(stop.signal_name, str(folder.path))
    ended, wanted = shared.num_finished(), _search_of(settings).trials
    if wanted is not None and ended < wanted:  # a signal reached the workers and not this process
        again = shlex.quote(str(folder.path))
        hint = f"the workers were stopped; go on with --resume {again}"
        raise RunError(f"{folder.path}: {ended} of {wanted} trials have come to an end; {hint}")


def _choose(
    settings: RunSettings, folder: RunFolder, shared: SharedStudy, opened: OpenedData
) -> tuple[FinishedTrial, str]:
    """Return what the rule takes from the front of the trials, and what is to be said against it."""
    search, trials = _search_of(settings), shared.ended(TrialState.COMPLETE)
    finished = [FinishedTrial(t.number, t.values[0], t.values[1], dict(t.params)) for t in trials]
    if not finished:
        raise RunError(f"{folder.path}: no trial was trained to its end")
    on_front = pareto_front([t.seconds for t in finished], [t.loss for t in finished])
    front = [finished[index] for index in on_front]
    if search.budget_seconds is None:
        return front[pareto_knee([t.seconds for t in front], [t.loss for t in front])], ""
    images = len(open_data(trial_settings(settings).data).train)
    trial_fraction = search.proxy * images / len(opened.train)
    return within_budget(front, search.budget_seconds, trial_fraction)


def within_budget(
    front: Sequence[FinishedTrial], budget_seconds: float, trial_fraction: float
) -> tuple[FinishedTrial, str]:
    """Return the best whose full run takes no longer; else the cheapest, and what is to be said of that.

    Args:
        front: From the cheapest on.
        budget_seconds: For training the full run.
        trial_fraction: Of a full run that a trial takes, by epochs and images.
    """
    affordable = [one for one in front if one.seconds <= budget_seconds * trial_fraction]
    if affordable:
        return min(affordable, key=lambda one: one.loss), ""
    cheapest = front[0]
    needed = f"{cheapest.seconds / trial_fraction:.0f} s, the budget is {budget_seconds:.0f} s"
    return cheapest, f"no trial fits the budget: the cheapest, {cheapest.number}, needs {needed}"


def worked_seconds(shared: SharedStudy) -> float:
    """Return the seconds that workers spent on trials, all together.

    What a worker had done that died is not known: its trial was failed when somebody noticed.
    """
    trials = shared.study.get_trials(deepcopy=False)
    known = [t for t in trials if t.user_attrs.get(LOST, RELEASED) == RELEASED]
    return sum(t.duration.total_seconds() for t in known if t.duration is not None)


def join(settings: RunSettings, folder: Path, stop: StopRequest, number: int | None = None) -> None:
    """Work on the trials of a search that any process has begun, until there are enough.

    Args:
        settings: Of the search.
        folder: Its run folder.
        stop: Set by a signal.
        number: Of this worker, if whoever started it has claimed one.

    Raises:
        ConfigError: If a link or the like is in place of a file of the run folder.
        RunError: If trials fail in a row, or the storage does not answer.
    """
    check_run_files(folder)
    own = trial_settings(settings)
    runner = TrialRunner(own, open_data(own.data), schedule_space(settings), folder)
    file = WorkerFile(folder, claim_worker(folder) if number is None else number)
    rule = StopRule(trials=_search_of(settings).trials)
    run_worker(_open_study(settings, folder), runner, rule, file, stop, halving=_RUNGS)


def check_storage(settings: RunSettings) -> None:
    """Open and close the database of trials, if there is one, before anything else is written.

    Raises:
        ConfigError: If there is none at that address, or it cannot be used.
    """
    if settings.search is not None and settings.search.storage is not None:
        close_storage(open_storage(settings.search.storage))


def _open_study(settings: RunSettings, folder: Path) -> SharedStudy:
    search, schedules = _search_of(settings), schedule_space(settings)
    space = schedules.distributions()
    plan = Plan(f"{folder.name}/trials", _METRICS, space, schedules.first())
    # A trial is a training: few enough for generations a third of Optuna's 50.
    sampler = create_sampler(search.sampler, settings.seed, space, population=16)
    return SharedStudy.open(folder, plan, sampler, search.storage)


def trial_settings(settings: RunSettings) -> RunSettings:
    """Return the settings of a trial: fractions of epochs and images, some of these to evaluate on."""
    proxy, recipe = _search_of(settings).proxy, settings.recipe
    epochs = recipe.epochs * proxy
    fraction = settings.data.fraction * proxy
    changes = {
        "kind": "train",
        "search": None,
        "schedule_from": "trial",
        "recipe": recipe.model_copy(update={"epochs": epochs}),
        "data": settings.data.model_copy(update={"fraction": fraction, "on_held_out": True}),
        "eval_every_epochs": epochs / _NUM_EVALUATIONS,
        # Either would end trials at different points, which could not be compared.
        "patience": None,
        "time_budget_seconds": None,
        "on_divergence": "stop",  # a trial that diverges is pruned, not mended
    }
    return settings.model_copy(update=changes)


def _search_of(settings: RunSettings) -> SearchSettings:
    assert settings.search is not None, "a search has search settings"
    return settings.search


@dataclass(frozen=True)
class TrialRunner:
    """Trains the schedule of a trial in a run folder of its own, ``trials/<number>``.

    What an earlier worker left of the same trial is gone on with. Returns (loss, seconds): the averaged
    network's loss on images that are trained on in no trial, and the seconds of training.
    """

    settings: RunSettings
    opened: OpenedData
    schedules: ScheduleSpace
    folder: Path

    def __call__(self, params: Mapping[str, Any], trial: OpenTrial) -> tuple[float, float]:
        """Evaluate one trial.

        Raises:
            PrunedTrial: If others do better, or it diverges.
            ReleasedTrial: If a stop was requested, or others took this worker for dead; the next one goes on
                from a checkpoint.
        """
        schedule = self.schedules.schedule_of(params)
        folder = self._open(trial.origin)
        try:
            job = Job(_TrialStop(trial))
            trainer = start_training(self.settings, folder, self.opened, schedule, job)
            recipe, data, spec = trainer.recipe, trainer.data, trainer.stepper.model.spec
            total_macs = sum(
                segment.steps
                * scaled_batch_size(recipe, segment.training)
                * image_macs(spec, segment.subnet, segment.training, data.num_classes)
                for segment in step_table(recipe, schedule, data.num_images).segments
            )
            for event in train_schedule(trainer, schedule):
                folder.append(event)
                if isinstance(event, Evaluated):
                    _report(trial, trainer, event, total_macs)
        except InterruptedRunError:
            raise ReleasedTrial from None
        except DivergedError as error:
            trial.note("diverged", True)
            remove_checkpoints(folder.checkpoints)
            raise PrunedTrial(str(error)) from error
        except PrunedTrial:
            remove_checkpoints(folder.checkpoints)
            raise
        finally:
            folder.close()
        # Of a trial that has ended nothing is resumed, and a search of hundreds would fill the disk.
        remove_checkpoints(folder.checkpoints)
        last, seconds = trainer.last_evaluation, trainer.ledger.seconds
        assert last is not None, "a run ends with an evaluation"
        trial.note("top1_ema", last.top1_ema)
        return last.loss_ema, seconds["train"] + seconds["data_wait"] + seconds["lost"]

    def _open(self, number: int) -> RunFolder:
        """Return the folder of a trial, as an earlier worker left it or new.

        One that was taken for dead may still write in it, or something else be in its place; then the trial
        begins anew beside it.
        """
        parent, name, again = self.folder / "trials", f"{number:04d}", 1
        while True:
            with suppress(RunLockedError, RunExistsError):
                if (parent / name / "run.yaml").exists():
                    return RunFolder.reopen(parent / name)
                remove_unstarted(parent / name)
                now = datetime.now().astimezone().isoformat(timespec="seconds")
                return RunFolder.create(
                    parent,
                    RunManifest(
                        run_id=name, created=now, argv=(), versions={}, settings=self.settings
                    ),
                )
            again += 1
            name = f"{number:04d}-{again}"


class _TrialStop(StopRequest):
    """Stops the training of a trial whose worker is to stop, or whose result nobody waits for."""

    def __init__(self, trial: OpenTrial) -> None:
        self._trial = trial

    @property
    def signal_name(self) -> str | None:  # type: ignore[override]
        """Return a signal as soon as the worker is to stop."""
        return "SIGTERM" if self._trial.stop_requested or self._trial.is_lost else None


def _report(trial: OpenTrial, trainer: Trainer, event: Evaluated, total_macs: int) -> None:
    """Report a trial that is full and at a rung, by its loss and by what it will have cost."""
    # In multiply-accumulates, which are the same on every machine: seconds would prune by its load.
    percent = round(100 * trainer.macs / total_macs)
    rung = _RUNGS.rung_of(percent)
    # The loss of a small model says nothing yet about what growing will make of it.
    if rung is None or trainer.stepper.subnet != trainer.stepper.model.spec.full:
        return
    if percent - _RUNGS.first_step * _RUNGS.reduction**rung <= _RUNG_WINDOW:
        trial.report(percent, ScalingLaw(_LEARNING_EXPONENT).score(event.loss_ema, total_macs))
