"""How fast the runner is: against a hand-written loop, and with the loader against resident batches."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from statistics import median

import torch

from autoprog.bench.arms import ResidentFeed, RunnerArm, bare_loop
from autoprog.bench.statistics import Arm, Estimate, share_lost, speed_ratio, take_turns
from autoprog.runs import RunFolder
from autoprog.schedule import GrowthSchedule
from autoprog.settings import RunManifest, RunSettings
from autoprog.train.data import Batch, OpenedData
from autoprog.train.engine import Job, start_training, step_table
from autoprog.train.feed import Feed, open_feed
from autoprog.train.model import transform_settings
from autoprog.train.phase import Phase, phases_of
from autoprog.train.regularise import cell_of, regularise
from autoprog.train.trainer import Trainer
from supernet.config import SubnetConfig

__all__ = [
    "BARE",
    "BARE_EMA",
    "LOADED",
    "LOADED_UNCACHED",
    "RESIDENT",
    "CellSpeed",
    "RunnerSpeed",
    "compare",
    "distinct_phases",
    "measure_runner",
    "scratch_folder",
]

BARE = "bare loop"
BARE_EMA = "bare loop + EMA"
RESIDENT = "runner"
LOADED = "runner + loader"
LOADED_UNCACHED = "runner + loader, no cache"

RESIDENT_BATCHES = 2


@dataclass(frozen=True)
class CellSpeed:
    """One subnet: images a second of each arm (median), and what they come to."""

    subnet: SubnetConfig
    images_per_second: dict[str, float]
    runner_to_bare: Estimate
    runner_to_bare_ema: Estimate
    data_cost: Estimate
    data_cost_uncached: Estimate | None = None


@dataclass(frozen=True)
class RunnerSpeed:
    """The runner's speed on this machine, cell by cell, and how it was measured."""

    model: str
    device: str
    amp: str
    threads: int
    workers: int
    batch_size: int
    rounds: int
    block_steps: int
    cells: tuple[CellSpeed, ...]


def measure_runner(
    settings: RunSettings,
    opened: OpenedData,
    schedule: GrowthSchedule,
    rounds: int,
    block_steps: int,
    tell: Callable[[SubnetConfig, int], None] = lambda subnet, number: None,
) -> RunnerSpeed:
    """Race the runner against hand-written loops in each cell of a schedule.

    Args:
        settings: Of a training run.
        opened: Its data.
        schedule: Its schedule.
        rounds: Blocks of each arm.
        block_steps: Timed steps of a block.
        tell: Hears the subnet and the number of each round before it begins; 0 is the warm-up.
    """
    settings = _undisturbed(settings)
    with scratch_folder(settings) as folder:
        trainer = start_training(settings, folder, opened, schedule, Job())
        try:
            phases = distinct_phases(schedule, trainer)
            cells = []
            for phase in phases:
                arms, subnet = _arms(trainer, opened, phase), phase.choices[0].subnet
                seconds = take_turns(arms, rounds, block_steps, partial(tell, subnet))
                cells.append(compare(subnet, seconds, block_steps * settings.recipe.batch_size))
        finally:
            trainer.feed.close()
    return RunnerSpeed(
        model=settings.model.model,
        device=str(trainer.compute.device),
        amp=trainer.compute.amp,
        threads=torch.get_num_threads(),
        workers=trainer.feed.workers,
        batch_size=settings.recipe.batch_size,
        rounds=rounds,
        block_steps=block_steps,
        cells=tuple(cells),
    )


def _undisturbed(settings: RunSettings) -> RunSettings:
    """Return settings under which nothing but steps and progress events happens in a block."""
    quiet = {
        "eval_every_epochs": 0.0,
        "time_budget_seconds": None,
        "checkpoint_minutes": float("inf"),
    }
    return settings.model_copy(update=quiet)


@contextmanager
def scratch_folder(settings: RunSettings) -> Iterator[RunFolder]:
    """Yield a run folder that is gone afterwards."""
    manifest = RunManifest(
        run_id="bench",
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
        argv=("bench",),
        versions={},
        settings=settings,
    )
    with tempfile.TemporaryDirectory(prefix="autoprog-bench-") as place:
        folder = RunFolder.create(Path(place), manifest)
        try:
            yield folder
        finally:
            folder.close()


def distinct_phases(schedule: GrowthSchedule, trainer: Trainer) -> list[Phase]:
    """Return the phases with the first and the last subnet and with those that stages begin with."""
    table = step_table(trainer.recipe, schedule, trainer.feed.num_images)
    phases = list(phases_of(table))
    of_subnet: dict[SubnetConfig, Phase] = {}
    for phase in [phase for phase in phases if phase.starts_stage] + phases[-1:]:
        alone = replace(phase, enter=None, starts_stage=False, ends_stage=False)
        of_subnet.setdefault(phase.choices[0].subnet, alone)
    return list(of_subnet.values())


def compare(subnet: SubnetConfig, seconds: dict[str, list[float]], block_images: int) -> CellSpeed:
    """Return what the seconds of paired blocks of `block_images` come to."""
    uncached = seconds.get(LOADED_UNCACHED)
    return CellSpeed(
        subnet=subnet,
        images_per_second={arm: block_images / median(own) for arm, own in seconds.items()},
        runner_to_bare=speed_ratio(seconds[RESIDENT], seconds[BARE]),
        runner_to_bare_ema=speed_ratio(seconds[RESIDENT], seconds[BARE_EMA]),
        data_cost=share_lost(seconds[LOADED], seconds[RESIDENT]),
        data_cost_uncached=None if uncached is None else share_lost(uncached, seconds[RESIDENT]),
    )


def _arms(trainer: Trainer, opened: OpenedData, phase: Phase) -> dict[str, Arm]:
    settings = trainer.settings
    batches = _resident_batches(trainer, phase)
    regularise(trainer.stepper, phase, trainer.recipe, trainer.feed.num_classes)
    arms: dict[str, Arm] = {
        BARE: bare_loop(trainer, phase, batches),
        BARE_EMA: bare_loop(trainer, phase, batches, with_ema=True),
        RESIDENT: RunnerArm(trainer, phase, lambda: ResidentFeed(batches)),
        LOADED: _loaded(trainer, opened, phase, settings),
    }
    if settings.cache is not None:
        without = settings.model_copy(update={"cache": None})
        arms[LOADED_UNCACHED] = _loaded(trainer, opened, phase, without)
    return arms


def _loaded(trainer: Trainer, opened: OpenedData, phase: Phase, settings: RunSettings) -> RunnerArm:
    transform = transform_settings(trainer.stepper.model, trainer.recipe)
    pin_memory = trainer.compute.device.type == "cuda"

    def opens() -> Feed:
        return open_feed(opened, transform, settings, pin_memory=pin_memory)

    return RunnerArm(trainer, phase, opens)


def _resident_batches(trainer: Trainer, phase: Phase) -> Sequence[Batch]:
    """Return augmented batches of a phase on the device."""
    px = trainer.stepper.model.spec.img_size
    cell = cell_of(phase, trainer.recipe, px, trainer.settings.seed, phase.start_step)
    size = trainer.recipe.batch_size
    batches = trainer.feed.batches(0, size, RESIDENT_BATCHES, lambda _: cell, held_out=False)
    device = trainer.compute.device
    return [(images.to(device), targets.to(device)) for images, targets in batches]
