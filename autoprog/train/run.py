"""One whole training run: a schedule in, events out, plain timm weights and a result at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from autoprog.accuracy import class_accuracies, no_better_than_a_class
from autoprog.budget_record import budget_record, write_record
from autoprog.data.dataset import OpenedData
from autoprog.data.run_data import Place, open_run_data
from autoprog.events import Event, RunFinished, RunStarted, WarningRaised
from autoprog.runs import Result, load_run
from autoprog.train.device import Compute, resolve_compute
from autoprog.train.initial_weights import load_initial
from autoprog.train.length import RunLength, nominal_epochs, step_table
from autoprog.train.meter import typical_seconds
from autoprog.train.model import build_model, evaluation_images, transform_settings
from autoprog.train.optim import (
    ElasticEma,
    create_optimizer,
    create_scheduler,
    time_constants_steps,
)
from autoprog.train.pace import BudgetPace, Pace, StepPace
from autoprog.train.phase import phases_of
from autoprog.train.ranks import ONE_PROCESS, Ranks
from autoprog.train.step import Stepper
from autoprog.train.stop import StopRequest
from autoprog.train.trainer import Rollbacks, Trainer
from autoprog.train.weights import saved_weights, write_files

if TYPE_CHECKING:
    from autoprog.data.dataset import OpenedData
    from autoprog.runs import RunFolder
    from autoprog.schedule import GrowthSchedule
    from autoprog.settings import RunSettings

__all__ = [
    "Job",
    "build_trainer",
    "finish",
    "start",
    "start_training",
    "train_schedule",
]


@dataclass(frozen=True)
class Job:
    """What carries out a run: the processes, how to stop them, and how often it was rolled back."""

    stop: StopRequest = field(default_factory=StopRequest)
    ranks: Ranks = ONE_PROCESS
    rollbacks: Rollbacks = field(default_factory=Rollbacks)


def start_training(
    settings: RunSettings,
    folder: RunFolder,
    opened: OpenedData,
    schedule: GrowthSchedule,
    job: Job,
) -> Trainer:
    """Return the trainer of a schedule, on the device that the settings name."""
    compute = resolve_compute(settings, job.ranks)
    table = step_table(settings.recipe, schedule, len(opened.train))
    length = RunLength(table.steps_per_epoch, table.total_steps)
    shape = schedule.lr.shape
    return build_trainer(settings, folder, opened, compute, length, shape, job, table.clock)


def build_trainer(
    settings: RunSettings,
    folder: RunFolder,
    opened: OpenedData,
    compute: Compute,
    length: RunLength,
    lr_shape: str,
    job: Job,
    clock: Callable[[int], float] = float,
    supernet_steps: int | None = None,
) -> Trainer:
    """Return a trainer at step 0: network, optimizer, averages and data, all drawn from the seed.

    ``clock`` is that of the learning rate, where it is not the step; ``supernet_steps`` the length of a
    supernet phase, in a run that has some.
    """
    recipe, ranks = settings.recipe, job.ranks
    model = build_model(
        settings.model.spec(), len(opened.class_names), settings.seed, settings.table_sizes
    )
    model.to(compute.device)
    transform = transform_settings(model, recipe)
    # Over the whole model: timm's grouping would skip parameters that a phase has frozen.
    optimizer = create_optimizer(model, recipe, compute.device)
    time_constants = time_constants_steps(
        recipe.ema_epochs, supernet_steps, length.steps_per_epoch, length.total_steps
    )
    pace: Pace = StepPace(clock)
    if settings.time_budget_seconds is not None:
        pace = BudgetPace(settings.time_budget_seconds, length.total_steps)
    stepper = Stepper(
        model=model,
        emas=tuple(ElasticEma(model, steps) for steps in time_constants),
        optimizer=optimizer,
        scheduler=create_scheduler(optimizer, recipe, lr_shape, length.total_steps),
        scaler=compute.scaler(),
        compute=compute,
        seed=settings.seed,
        micro_batches=recipe.grad_accum_steps,
        clip_grad=recipe.clip_grad,
        ranks=ranks,
        pace=pace,
    )
    if settings.compile:
        model.compile_blocks()  # after the averages were copied from it: those stay eager
    pin_memory = compute.device.type == "cuda"
    place = Place(ranks.rank, ranks.world_size, ranks.local_world_size)
    run_data = open_run_data(opened, transform, settings, pin_memory, place)
    metadata = {  # what every file of weights says of itself
        "timm": settings.model.timm,
        "kwargs": json.dumps(settings.model.spec().create_kwargs()),
        "num_classes": str(run_data.num_classes),
        "images": json.dumps(evaluation_images(model, recipe)),
    }
    if settings.data.has_names(run_data.class_names):
        metadata["class_names"] = json.dumps(run_data.class_names)
    return Trainer(
        settings=settings,
        folder=folder,
        data=run_data,
        stepper=stepper,
        load_initial=partial(load_initial, settings=settings, class_names=run_data.class_names),
        total_steps=length.total_steps,
        steps_per_epoch=length.steps_per_epoch,
        stop=job.stop,
        rollbacks=job.rollbacks,
        metadata=metadata,
    )


def train_schedule(trainer: Trainer, schedule: GrowthSchedule) -> Iterator[Event]:
    """Carry out a schedule from wherever the run folder's checkpoint stands, and finish the run.

    Raises:
        DivergedError: If a loss is not finite.
        InterruptedRunError: If a stop was requested.
    """
    phases = phases_of(step_table(trainer.recipe, schedule, trainer.data.num_images))
    try:
        yield from start(trainer)
        yield from trainer.measure_reserve()
        for phase in phases:
            yield from trainer.run(phase)
        yield from finish(trainer, schedule)
    finally:
        trainer.data.close()


def start(trainer: Trainer) -> Iterator[Event]:
    """Load the newest checkpoint, if any, and announce the run."""
    warnings = trainer.resume()
    settings, manifest = trainer.settings, trainer.folder.manifest
    yield RunStarted(
        step=trainer.step,
        run_id=manifest.run_id,
        run_kind=settings.kind,
        model=settings.model.model,
        total_steps=trainer.total_steps,
        steps_per_epoch=trainer.steps_per_epoch,
        epochs=nominal_epochs(trainer.recipe, trainer.data.num_images),
        num_images=trainer.data.num_images,
        device=str(trainer.compute.device),
        amp=trainer.compute.amp,
        seed=settings.seed,
        time_budget_seconds=settings.time_budget_seconds,
        cost_fraction=None if settings.search is None else settings.search.cost_fraction,
        world_size=trainer.ranks.world_size,
        hardware=trainer.compute.hardware(),
        num_classes=trainer.data.num_classes,
    )
    yield from warnings


def finish(trainer: Trainer, schedule: GrowthSchedule) -> Iterator[Event]:
    """Write the final weights and, last of all, the result that makes the run complete.

    Raises:
        RunError: If they cannot be written.
    """
    folder, is_main = trainer.folder, trainer.ranks.is_main
    if is_main:
        networks = {"final": trainer.stepper.model, "final_ema": trainer.stepper.emas[-1].module}
        files = saved_weights(networks, bool(trainer.settings.table_sizes))
        write_files(folder.checkpoints, files, trainer.metadata)
    result = _result(trainer, schedule)
    better = max(result.top1, result.top1_ema)
    warning = no_better_than_a_class(
        better, result.largest_class_fraction or 0.0, result.num_validation_images
    )
    if warning is not None and is_main:
        yield WarningRaised(step=trainer.step, message=warning)
    yield RunFinished(step=trainer.step, result=result.model_dump(mode="json", by_alias=True))
    if is_main and trainer.pace.budget_seconds is not None:
        # From the events of all attempts: this process has seen only the last one.
        record = budget_record(load_run(folder.path).events())
        assert record is not None, "the run has a budget"
        write_record(folder.path, record)
    folder.write_result(result)


def _result(trainer: Trainer, schedule: GrowthSchedule) -> Result:
    evaluation, ledger = trainer.last_evaluation, trainer.ledger
    assert evaluation is not None, "a run ends with an evaluation"
    settings, manifest = trainer.settings, trainer.folder.manifest
    by_class, best = trainer.by_class, trainer.best
    epochs = nominal_epochs(trainer.recipe, trainer.data.num_images)
    class_top1 = {
        key: class_accuracies(correct, by_class["images"])
        for key, correct in by_class.items()
        if key != "images"
    }
    is_constant = len(schedule.stages) == 1 and set(trainer.steps_by_subnet) == {
        settings.model.spec().full
    }
    full_seconds = None if is_constant else _full_model_seconds(trainer, epochs)
    return Result(
        run_id=manifest.run_id,
        kind=settings.kind,
        model=settings.model.model,
        top1=evaluation.top1,
        top1_ema=evaluation.top1_ema,
        loss=evaluation.loss,
        loss_ema=evaluation.loss_ema,
        epochs=trainer.epoch,
        wall_seconds=ledger.wall_seconds(),
        train_seconds=ledger.seconds["train"],
        supernet_seconds=ledger.seconds["supernet"],
        search_seconds=ledger.seconds["search"],
        lost_seconds=ledger.seconds["lost"],
        data_wait_seconds=ledger.seconds["data_wait"],
        eval_seconds=ledger.seconds["evaluate"],
        image_epochs=trainer.samples / trainer.data.num_images,
        macs=float(trainer.macs),
        peak_memory_bytes=trainer.compute.peak_memory_bytes(),
        seed=settings.seed,
        device=str(trainer.compute.device),
        amp=trainer.compute.amp,
        versions=manifest.versions,
        schedule=schedule.model_dump(mode="json", by_alias=True, exclude_defaults=True),
        num_validation_images=evaluation.num_images,
        largest_class_fraction=evaluation.largest_class_fraction,
        balanced_top1=evaluation.balanced_top1,
        balanced_top1_ema=evaluation.balanced_top1_ema,
        class_images=by_class.get("images"),
        class_top1=class_top1.get("correct"),
        class_top1_ema=class_top1.get("correct_ema"),
        best_top1=None if best is None else best.top1,
        best_step=None if best is None else best.step,
        best_epoch=None if best is None else best.epoch,
        stopped_early=trainer.stopped_early,
        full_model_epochs=None if full_seconds is None else epochs,
        full_model_seconds=full_seconds,
    )


def _full_model_seconds(trainer: Trainer, epochs: float) -> float | None:
    """Return what the full model would take for `epochs`, all charged, by the steps that it took at the end.

    Images come as slowly as they did in this run, and evaluations and checkpoints cost as much. None where
    the run has not timed plain steps of the full model, or goes by a time budget.
    """
    spec = trainer.stepper.model.spec
    seconds = typical_seconds(trainer.phase_seconds.get(spec.full, []))
    if seconds is None or not trainer.trains_plainly or trainer.pace.budget_seconds is not None:
        return None
    spent = trainer.ledger.seconds
    waiting = spent["data_wait"] / max(1, trainer.step)
    steps = epochs * trainer.steps_per_epoch
    return steps * (seconds + waiting) + spent["evaluate"] + spent["checkpoint"]
