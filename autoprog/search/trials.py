"""The search by trials: workers really train schedules, the best is chosen and trained at full length."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoprog.errors import RunError
from autoprog.events import Event, TrialTold, Warned
from autoprog.program import PROGRAM
from autoprog.runfiles import check_run_files
from autoprog.runs import RunFolder
from autoprog.schedule import FoundBy, GrowthSchedule, load_schedule
from autoprog.search.controller import (
    LOST,
    RELEASED,
    FrozenTrial,
    Plan,
    SharedStudy,
    StopRule,
    TrialState,
    close_storage,
    create_sampler,
    open_storage,
    run_worker,
)
from autoprog.search.spawn import Crew, WorkerDied, spawn_workers
from autoprog.search.tails import front_of, knee_of
from autoprog.search.trial import METRICS, RUNGS, TrialRunner, schedule_space, trial_settings
from autoprog.settings import RunSettings
from autoprog.train.data import OpenedData
from autoprog.train.engine import Job, start_training, train_schedule
from autoprog.train.feed import open_data
from autoprog.train.stop import InterruptedRunError, StopRequest
from autoprog.workers import WorkerFile, claim_worker

__all__ = ["Trialled", "Workforce", "check_storage", "join", "search_by_trials", "within"]

_STUDY = "trials"


@dataclass(frozen=True)
class Workforce:
    """How many workers to start, and the flags by which they carry out trials otherwise than the run says."""

    jobs: int = 1
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trialled:
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
    best = folder.path / "best.yaml"
    shared = _open(settings, folder.path)
    if not best.exists():
        yield from _carry_out_trials(settings, folder, shared, workforce, job.stop)
        chosen, complaint = _choose(settings, folder, shared, opened)
        if complaint:
            yield Warned(step=0, message=complaint)
        folder.write_schedule(_schedule_of(settings, folder, chosen), "best.yaml")
    schedule = load_schedule(best)
    folder.write_schedule(schedule)
    trainer = start_training(settings, folder, opened, schedule, job)
    trainer.ledger.seconds["search"] = _worked_seconds(shared)  # a checkpoint, if any, has its own
    yield from train_schedule(trainer, schedule)


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
    assert settings.search is not None, "a search has search settings"
    check_run_files(folder)
    own = trial_settings(settings)
    runner = TrialRunner(own, open_data(own.data), schedule_space(settings), folder)
    file = WorkerFile(folder, claim_worker(folder) if number is None else number)
    rule = StopRule(trials=settings.search.trials)
    run_worker(_open(settings, folder), runner, rule, file, stop, halving=RUNGS)


def check_storage(settings: RunSettings) -> None:
    """Open and close the database of trials, if there is one, before anything else is written.

    Raises:
        ConfigError: If there is none at that address, or it cannot be used.
    """
    if settings.search is not None and settings.search.storage is not None:
        close_storage(open_storage(settings.search.storage))


def _open(settings: RunSettings, folder: Path) -> SharedStudy:
    search, schedules = settings.search, schedule_space(settings)
    assert search is not None, "a search has search settings"
    space = schedules.distributions()
    plan = Plan(f"{folder.name}/{_STUDY}", METRICS, space, schedules.first())
    sampler = create_sampler(search.sampler, settings.seed, space, population=16)
    return SharedStudy.open(folder, plan, sampler, search.storage)


def _carry_out_trials(
    settings: RunSettings,
    folder: RunFolder,
    shared: SharedStudy,
    workforce: Workforce,
    stop: StopRequest,
) -> Iterator[Event]:
    """Start the workers and tell of each trial that ends."""
    words = [*PROGRAM, "search", "--join", str(folder.path), *workforce.words]
    told: set[int] = set()
    for report in spawn_workers(Crew(folder.path, workforce.jobs, lambda _: words), stop):
        if isinstance(report, WorkerDied):
            text = f"worker {report.number} died ({report.exit_code}): {report.last_words}"
            yield Warned(step=0, message=text)
        yield from _news(settings, shared, told)
    if stop.signal_name is not None:
        raise InterruptedRunError(stop.signal_name, str(folder.path))
    assert settings.search is not None, "a search has search settings"
    ended, wanted = shared.num_finished(), settings.search.trials
    if wanted is not None and ended < wanted:
        again = shlex.quote(str(folder.path))
        cure = f"the workers were stopped; go on with --resume {again}"
        raise RunError(f"{folder.path}: {ended} of {wanted} trials have come to an end; {cure}")


def _news(settings: RunSettings, shared: SharedStudy, told: set[int]) -> Iterator[TrialTold]:
    states = TrialState.COMPLETE, TrialState.PRUNED
    for trial in shared.ended(*states):
        if trial.number not in told:
            told.add(trial.number)
            yield _event_of(settings, trial)


def _event_of(settings: RunSettings, trial: FrozenTrial) -> TrialTold:
    schedules = schedule_space(settings)
    schedule, share, stages = schedules.schedule_of(trial.params), 0.0, []
    for stage in schedule.stages:
        resolved = schedule.resolve(1000, 1.0).at(min(999, round(1000 * share)))
        stages.append((share, resolved.subnet))
        share += float(stage.length)
    values = trial.values or [None, None]
    return TrialTold(
        step=0,
        number=trial.number,
        pruned=trial.state is TrialState.PRUNED,
        loss=values[0],
        seconds=values[1],
        stages=tuple(stages),
    )


def _finished(shared: SharedStudy) -> list[Trialled]:
    trials = shared.ended(TrialState.COMPLETE)
    return [Trialled(t.number, t.values[0], t.values[1], dict(t.params)) for t in trials]


def _choose(
    settings: RunSettings, folder: RunFolder, shared: SharedStudy, opened: OpenedData
) -> tuple[Trialled, str]:
    """Return what the rule takes from the front of the trials, and what is to be said against it."""
    search, finished = settings.search, _finished(shared)
    assert search is not None, "a search has search settings"
    if not finished:
        raise RunError(f"{folder.path}: no trial was trained to its end")
    front = front_of(finished)
    if search.budget_seconds is None:
        return knee_of(front), ""
    images = len(open_data(trial_settings(settings).data).train)
    share = search.proxy * images / len(opened.train)
    return within(front, search.budget_seconds, share)


def _schedule_of(settings: RunSettings, folder: RunFolder, chosen: Trialled) -> GrowthSchedule:
    assert settings.search is not None, "a search has search settings"
    rule, run = settings.search.rule, folder.manifest.run_id
    found_by = FoundBy(run=run, rule=rule, seed=settings.seed, trial=chosen.number)
    return schedule_space(settings).schedule_of(chosen.params, found_by)


def within(front: Sequence[Trialled], budget_seconds: float, share: float) -> tuple[Trialled, str]:
    """Return the best whose full run takes no longer; else the cheapest, and a word on that.

    Args:
        front: From the cheapest on.
        budget_seconds: For training the full run.
        share: Of a full run that a trial takes, by epochs and images.
    """
    affordable = [one for one in front if one.seconds <= budget_seconds * share]
    if affordable:
        return min(affordable, key=lambda one: one.loss), ""
    cheapest = front[0]
    needed = f"{cheapest.seconds / share:.0f} s, the budget is {budget_seconds:.0f} s"
    return cheapest, f"no trial fits the budget: the cheapest, {cheapest.number}, needs {needed}"


def _worked_seconds(shared: SharedStudy) -> float:
    """Return the seconds that workers spent on trials, all together.

    What a worker had done that died is not known: its trial was failed when somebody noticed.
    """
    trials = shared.study.get_trials(deepcopy=False)
    known = [t for t in trials if t.user_attrs.get(LOST, RELEASED) == RELEASED]
    return sum(t.duration.total_seconds() for t in known if t.duration is not None)
