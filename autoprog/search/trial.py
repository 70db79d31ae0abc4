"""One trial: a schedule is really trained, on a share of the data and of the epochs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from autoprog.effort import image_macs
from autoprog.errors import DivergedError, RunExistsError, RunLockedError
from autoprog.events import Evaluated
from autoprog.runfiles import remove_checkpoints, remove_unstarted
from autoprog.runs import RunFolder
from autoprog.schedule import GrowthSchedule
from autoprog.search.controller import Halving, OpenTrial, PrunedTrial, ReleasedTrial
from autoprog.search.rollout import LossLaw, score_of
from autoprog.search.schedules import ScheduleSpace
from autoprog.settings import RunManifest, RunSettings
from autoprog.train.data import OpenedData
from autoprog.train.engine import Job, start_training, step_table, train_schedule
from autoprog.train.regularise import scaled_batch_size
from autoprog.train.stop import InterruptedRunError, StopRequest
from autoprog.train.trainer import Trainer

__all__ = ["METRICS", "RUNGS", "TrialRunner", "schedule_space", "trial_settings"]

METRICS = ("loss", "seconds")
RUNGS = Halving(first_step=40, reduction=2)
"""Where trials are compared, in per cent of their own cost: at 40 and at 80 the better half goes on."""

_RUNG_WINDOW = 12
"""Trials are compared where they have just passed a rung, since later they know more."""

_EVALUATIONS = 10


def schedule_space(settings: RunSettings) -> ScheduleSpace:
    """Return the schedules that a search may try."""
    assert settings.search is not None, "a search has search settings"
    recipe = settings.recipe
    return ScheduleSpace(settings.search.space, recipe.strength, recipe.learning_rate)


def trial_settings(settings: RunSettings) -> RunSettings:
    """Return the settings of a trial: shares of epochs and images, some of these to evaluate on."""
    assert settings.search is not None, "a search has search settings"
    proxy, recipe = settings.search.proxy, settings.recipe
    epochs = recipe.epochs * proxy
    share = settings.data.share * proxy
    changes = {
        "kind": "train",
        "search": None,
        "schedule_from": "trial",
        "recipe": recipe.model_copy(update={"epochs": epochs}),
        "data": settings.data.model_copy(update={"share": share, "on_held_out": True}),
        "eval_every_epochs": epochs / _EVALUATIONS,
        "patience": None,
        "time_budget_seconds": None,
        "on_divergence": "stop",
    }
    return settings.model_copy(update=changes)


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
        stop = _TrialStop(trial)
        try:
            trainer = start_training(self.settings, folder, self.opened, schedule, Job(stop))
            total = _total_macs(trainer, schedule)
            for event in train_schedule(trainer, schedule):
                folder.append(event)
                if isinstance(event, Evaluated):
                    _report(trial, trainer, event, total)
        except InterruptedRunError:
            raise ReleasedTrial from None
        except DivergedError as error:
            trial.note("diverged", True)
            self._drop_weights(folder)
            raise PrunedTrial(str(error)) from error
        except PrunedTrial:
            self._drop_weights(folder)
            raise
        finally:
            folder.close()
        self._drop_weights(folder)
        last, seconds = trainer.last_evaluation, trainer.ledger.seconds
        assert last is not None, "a run ends with an evaluation"
        trial.note("top1_ema", last.top1_ema)
        return last.loss_ema, seconds["train"] + seconds["data_wait"] + seconds["lost"]

    def _open(self, number: int) -> RunFolder:
        """Return the folder of a trial, as an earlier worker left it or new.

        One that was taken for dead may still write in it, or something else be in its place; then the trial
        begins anew beside it.
        """
        name, again = f"{number:04d}", 1
        while True:
            with suppress(RunLockedError, RunExistsError):
                return self._open_as(name)
            again += 1
            name = f"{number:04d}-{again}"

    def _open_as(self, name: str) -> RunFolder:
        parent = self.folder / "trials"
        if (parent / name / "run.yaml").exists():
            return RunFolder.reopen(parent / name)
        manifest = RunManifest(
            run_id=name,
            created=datetime.now().astimezone().isoformat(timespec="seconds"),
            argv=(),
            versions={},
            settings=self.settings,
        )
        remove_unstarted(parent / name)
        return RunFolder.create(parent, manifest)

    def _drop_weights(self, folder: RunFolder) -> None:
        """Delete what only a resume needs; a search of hundreds of trials would fill the disk."""
        remove_checkpoints(folder.checkpoints)


class _TrialStop(StopRequest):
    """The wish of a trial's worker to stop, or the news that nobody waits for its result."""

    def __init__(self, trial: OpenTrial) -> None:
        self._trial = trial

    @property
    def signal_name(self) -> str | None:  # type: ignore[override]
        """Return a signal as soon as the worker is to stop."""
        return "SIGTERM" if self._trial.stop_requested or self._trial.is_lost else None


def _report(trial: OpenTrial, trainer: Trainer, event: Evaluated, total_macs: int) -> None:
    """Let others judge a trial that is full and at a rung, by its loss and by what it will have cost."""
    share = round(100 * trainer.macs / total_macs)
    rung = RUNGS.rung_of(share)
    if trainer.stepper.subnet != trainer.stepper.model.spec.full or rung is None:
        return
    if share - RUNGS.first_step * RUNGS.reduction**rung <= _RUNG_WINDOW:
        trial.report(share, score_of(LossLaw(_LEARNING), event.loss_ema, total_macs))


_LEARNING = 0.2


def _total_macs(trainer: Trainer, schedule: GrowthSchedule) -> int:
    """Return the multiply-accumulates of a whole training along a schedule."""
    recipe, feed = trainer.recipe, trainer.feed
    table, spec = step_table(recipe, schedule, feed.num_images), trainer.stepper.model.spec
    return sum(
        s.steps
        * scaled_batch_size(recipe, s.training)
        * image_macs(spec, s.subnet, s.training, feed.num_classes)
        for s in table.segments
    )
