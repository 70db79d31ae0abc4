"""The search by trials: workers really train schedules, the best is chosen and trained at full length."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoprog.errors import RunError
from autoprog.events import Event, TrialTold, Warned
from autoprog.runs import RunFolder
from autoprog.schedule import FoundBy, GrowthSchedule, load_schedule
from autoprog.search.controller import (
    FrozenTrial,
    Plan,
    SharedStudy,
    StopRule,
    TrialState,
    create_sampler,
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

__all__ = ["join", "search_by_trials"]

_STUDY = "trials"


@dataclass(frozen=True)
class Trialled:
    """A trial that has values."""

    number: int
    loss: float
    seconds: float
    params: dict[str, object]


def search_by_trials(
    settings: RunSettings, folder: RunFolder, opened: OpenedData, jobs: int, job: Job
) -> Iterator[Event]:
    """Let workers carry out the trials, choose a schedule, train along it; what is done stays done.

    Args:
        settings: Of the search.
        folder: The run folder; workers join it.
        opened: The whole data.
        jobs: Worker processes to start.
        job: How to stop.

    Raises:
        InterruptedRunError: If a stop was requested.
        RunError: If no trial has come to an end.
    """
    best = folder.path / "best.yaml"
    shared = _open(settings, folder.path)
    if not best.exists():
        yield from _carry_out_trials(settings, folder, shared, jobs, job.stop)
        folder.write_schedule(_chosen(settings, folder, shared), "best.yaml")
    schedule = load_schedule(best)
    folder.write_schedule(schedule)
    trainer = start_training(settings, folder, opened, schedule, job)
    if trainer.step == 0:
        trainer.ledger.seconds["search"] += _worked_seconds(shared)
    yield from train_schedule(trainer, schedule)


def join(settings: RunSettings, folder: Path, stop: StopRequest) -> None:
    """Work on the trials of a search that any process has begun, until there are enough.

    Raises:
        RunError: If trials fail in a row, or the storage does not answer.
    """
    assert settings.search is not None, "a search has search settings"
    own = trial_settings(settings)
    runner = TrialRunner(own, open_data(own.data), schedule_space(settings), folder)
    file = WorkerFile(folder, claim_worker(folder))
    rule = StopRule(trials=settings.search.trials)
    run_worker(_open(settings, folder), runner, rule, file, stop, halving=RUNGS)


def _open(settings: RunSettings, folder: Path) -> SharedStudy:
    search, schedules = settings.search, schedule_space(settings)
    assert search is not None, "a search has search settings"
    space = schedules.distributions()
    plan = Plan(f"{folder.name}/{_STUDY}", METRICS, space, schedules.first())
    sampler = create_sampler(search.sampler, settings.seed, space, population=16)
    return SharedStudy.open(folder, plan, sampler, search.storage)


def _carry_out_trials(
    settings: RunSettings, folder: RunFolder, shared: SharedStudy, jobs: int, stop: StopRequest
) -> Iterator[Event]:
    """Start the workers and tell of each trial that ends."""
    words = [sys.executable, "-m", "autoprog", "search", "--join", str(folder.path)]
    told: set[int] = set()
    for report in spawn_workers(Crew(folder.path, jobs, lambda _: words), stop):
        if isinstance(report, WorkerDied):
            text = f"worker {report.number} died ({report.exit_code}): {report.last_words}"
            yield Warned(step=0, message=text)
        yield from _news(settings, shared, told)
    if stop.signal_name is not None:
        raise InterruptedRunError(stop.signal_name, str(folder.path))


def _news(settings: RunSettings, shared: SharedStudy, told: set[int]) -> Iterator[TrialTold]:
    states = (TrialState.COMPLETE, TrialState.PRUNED)
    for trial in shared.study.get_trials(deepcopy=False, states=states):
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
    trials = shared.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [Trialled(t.number, t.values[0], t.values[1], dict(t.params)) for t in trials]


def _chosen(settings: RunSettings, folder: RunFolder, shared: SharedStudy) -> GrowthSchedule:
    """Return the schedule that the rule takes from the front of the trials."""
    search, finished = settings.search, _finished(shared)
    assert search is not None, "a search has search settings"
    if not finished:
        raise RunError(f"{folder.path}: no trial came to its end")
    front = front_of(finished)
    chosen = knee_of(front)
    if search.budget_seconds is not None:
        chosen = _within(front, search.budget_seconds * search.proxy**2)
    found_by = FoundBy(
        run=folder.manifest.run_id, rule=search.rule, seed=settings.seed, trial=chosen.number
    )
    return schedule_space(settings).schedule_of(chosen.params, found_by)


def _within(front: Sequence[Trialled], seconds: float) -> Trialled:
    """Return the best that takes no longer, or the cheapest.

    A trial takes the square of the proxy's share of a full run: a share of the images and of the epochs.
    """
    affordable = [one for one in front if one.seconds <= seconds]
    return min(affordable, key=lambda one: one.loss) if affordable else front[0]


def _worked_seconds(shared: SharedStudy) -> float:
    """Return the seconds that workers spent on trials, all together."""
    spans = [trial.duration for trial in shared.study.get_trials(deepcopy=False)]
    return sum(span.total_seconds() for span in spans if span is not None)
