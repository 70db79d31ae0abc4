"""How fast the runner is: against a loop written by hand, with a loader, and against timm's train.py."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch
from timm.data import Mixup
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3, dispatch_clip_grad
from torch import Tensor, nn

import autoprog
from autoprog.bench.scratch import scratch_folder, scratch_manifest
from autoprog.console import Console
from autoprog.data.batches import Batch
from autoprog.data.dataset import OpenedData
from autoprog.data.run_data import RunData, open_run_data
from autoprog.data.transforms import InputConfig
from autoprog.data.workers import resolve_workers
from autoprog.errors import ConfigError, RunError
from autoprog.outside_access import words_of_asks
from autoprog.paired_timing import (
    CONFIDENCE,
    Estimate,
    TimedBlock,
    fraction_lost,
    paired_blocks,
    speed_ratio,
)
from autoprog.presets import constant
from autoprog.recipe import Recipe
from autoprog.runs import RunFolder
from autoprog.schedule import GrowthSchedule
from autoprog.settings import RunSettings
from autoprog.supervise import PROGRAM, Child, last_line
from autoprog.train.device import Compute, resolve_compute
from autoprog.train.model import transform_settings
from autoprog.train.phase import Phase, phases_of
from autoprog.train.run import Job, start_training
from autoprog.train.run_length import step_table, steps_per_epoch_of
from autoprog.train.step import input_config_at
from autoprog.train.trainer import Trainer
from autoprog.ui.format import speed_text, subnet_text
from autoprog.ui.render_rich import print_sections
from autoprog.ui.section import Part, Section, Table, lines
from autoprog.ui.tables import Column
from supernet.config import SubnetConfig
from supernet.export import plain_network

__all__ = [
    "BARE",
    "BARE_EMA",
    "GOAL",
    "LEAD_IN_STEPS",
    "LOADED",
    "LOADED_UNCACHED",
    "RESIDENT",
    "WINDOW_BLOCKS",
    "BareLoop",
    "ResidentData",
    "RunnerSpeed",
    "ScriptSpeed",
    "SubnetSpeed",
    "TimedRunner",
    "as_json",
    "autoprog_seconds",
    "bare_loop",
    "check_script",
    "data_arguments",
    "distinct_phases",
    "measure_runner",
    "measure_script",
    "print_report",
    "subnet_speed",
    "timm_arguments",
    "timm_seconds",
]

BARE = "bare loop"
BARE_EMA = "bare loop + EMA"
RESIDENT = "runner"
LOADED = "runner + loader"
LOADED_UNCACHED = "runner + loader, no cache"

GOAL = 0.98
"""What the runner should reach of the bare loop's speed."""
LEAD_IN_STEPS = 2
"""Steps before the clock starts in each block: the block before left the caches to other programs."""
WINDOW_BLOCKS = 3
"""Timed blocks of a run of a script, after one that is not timed."""

_RESIDENT_BATCHES = 2  # so that neighbouring steps see different images
_POLL_SECONDS = 0.2
# Train: 0 [  40/390 ( 11%)]  Loss: 2.12 (2.22)  Time: 1.992s,   64.27/s  (1.000s,  128.00/s)  LR: …
_LINE = re.compile(r"Train: 0 \[ *(\d+)/.*\(\s*[\d.]+s, +([\d.]+)/s\)")


@dataclass(frozen=True)
class SubnetSpeed:
    """One subnet: images a second of each program (median), and what they come to."""

    subnet: SubnetConfig
    images_per_second: dict[str, float]
    runner_to_bare: Estimate
    runner_to_bare_ema: Estimate
    data_cost: Estimate
    data_cost_uncached: Estimate | None = None


@dataclass(frozen=True)
class RunnerSpeed:
    """The runner's speed on this machine, subnet by subnet, and how it was measured."""

    model: str
    device: str
    amp: str
    threads: int
    workers: int
    batch_size: int
    rounds: int
    block_steps: int
    cells: tuple[SubnetSpeed, ...]


def measure_runner(
    settings: RunSettings,
    opened: OpenedData,
    schedule: GrowthSchedule,
    rounds: int,
    block_steps: int,
    on_round: Callable[[SubnetConfig, int], None] = lambda subnet, number: None,
) -> RunnerSpeed:
    """Time the runner against hand-written loops with each subnet of a schedule.

    Args:
        settings: Of a training run.
        opened: Its data.
        schedule: Its schedule.
        rounds: Blocks of each program.
        block_steps: Timed steps of a block.
        on_round: Called with the subnet and the number of each round before it begins; 0 is the warm-up.
    """
    # Nothing but steps and their progress events may happen in a block.
    undisturbed = {
        "eval_every_epochs": 0.0,
        "time_budget_seconds": None,
        "checkpoint_minutes": float("inf"),
    }
    settings = settings.model_copy(update=undisturbed)
    with scratch_folder(settings) as folder:
        trainer = start_training(settings, folder, opened, schedule, Job())
        try:
            speeds = []
            for phase in distinct_phases(schedule, trainer):
                blocks, subnet = _timed_blocks(trainer, opened, phase), phase.choices[0].subnet
                seconds = paired_blocks(blocks, rounds, block_steps, partial(on_round, subnet))
                images = block_steps * settings.recipe.batch_size
                speeds.append(subnet_speed(subnet, seconds, images))
        finally:
            trainer.data.close()
    return RunnerSpeed(
        model=settings.model.model,
        device=str(trainer.compute.device),
        amp=trainer.compute.amp,
        threads=torch.get_num_threads(),
        workers=trainer.data.workers,
        batch_size=settings.recipe.batch_size,
        rounds=rounds,
        block_steps=block_steps,
        cells=tuple(speeds),
    )


def distinct_phases(schedule: GrowthSchedule, trainer: Trainer) -> list[Phase]:
    """Return the phases with the first and the last subnet and with those that stages begin with."""
    table = step_table(trainer.recipe, schedule, trainer.data.num_images)
    phases = list(phases_of(table))
    of_subnet: dict[SubnetConfig, Phase] = {}
    for phase in [phase for phase in phases if phase.starts_stage] + phases[-1:]:
        # Neither growth nor an evaluation belongs to the pace of its steps.
        alone = replace(phase, change=None, starts_stage=False, ends_stage=False)
        of_subnet.setdefault(phase.choices[0].subnet, alone)
    return list(of_subnet.values())


def _timed_blocks(trainer: Trainer, opened: OpenedData, phase: Phase) -> dict[str, TimedBlock]:
    """Return the programs that are timed with the subnet of a phase."""
    settings, recipe, device = trainer.settings, trainer.recipe, trainer.compute.device
    px = trainer.stepper.model.spec.img_size
    config = input_config_at(phase, recipe, px, settings.seed, phase.start_step)
    batches = [
        (images.to(device), targets.to(device))
        for images, targets in trainer.data.batches(
            0, recipe.batch_size, _RESIDENT_BATCHES, lambda _: config, held_out=False
        )
    ]
    trainer.stepper.regularise(phase, recipe, trainer.data.num_classes)
    transform = transform_settings(trainer.stepper.model, recipe)

    def loaded(settings: RunSettings) -> TimedRunner:
        pin_memory = device.type == "cuda"
        return TimedRunner(
            trainer, phase, lambda: open_run_data(opened, transform, settings, pin_memory)
        )

    blocks: dict[str, TimedBlock] = {
        BARE: bare_loop(trainer, phase, batches),
        BARE_EMA: bare_loop(trainer, phase, batches, with_ema=True),
        RESIDENT: TimedRunner(trainer, phase, lambda: ResidentData(batches)),
        LOADED: loaded(settings),
    }
    if settings.cache is not None:
        blocks[LOADED_UNCACHED] = loaded(settings.model_copy(update={"cache": None}))
    return blocks


def subnet_speed(
    subnet: SubnetConfig, seconds: dict[str, list[float]], block_images: int
) -> SubnetSpeed:
    """Return what the seconds of paired blocks of `block_images` come to."""
    uncached = seconds.get(LOADED_UNCACHED)
    return SubnetSpeed(
        subnet=subnet,
        images_per_second={name: block_images / median(own) for name, own in seconds.items()},
        runner_to_bare=speed_ratio(seconds[RESIDENT], seconds[BARE]),
        runner_to_bare_ema=speed_ratio(seconds[RESIDENT], seconds[BARE_EMA]),
        data_cost=fraction_lost(seconds[LOADED], seconds[RESIDENT]),
        data_cost_uncached=None if uncached is None else fraction_lost(uncached, seconds[RESIDENT]),
    )


# What is timed: the loop that anyone would write by hand, and the runner on resident or loaded batches.


@dataclass
class BareLoop:
    """A hand-written training loop over resident batches. ``ema`` is timm's, or none."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: nn.Module
    mixup: Mixup | None
    recipe: Recipe
    compute: Compute
    batches: Sequence[Batch]
    ema: ModelEmaV3 | None = None
    clock: Callable[[], float] = time.perf_counter
    step: int = 0

    def __post_init__(self) -> None:
        self._scaler = self.compute.scaler()

    def __call__(self, steps: int) -> float:
        """Train for some steps; return their seconds."""
        self.model.train()
        self._train(LEAD_IN_STEPS)
        self.compute.synchronize()  # a GPU computes on while Python goes ahead
        start = self.clock()
        self._train(steps)
        self.compute.synchronize()
        return self.clock() - start

    def _train(self, steps: int) -> None:
        for _ in range(steps):
            images, targets = self.batches[self.step % len(self.batches)]
            if self.mixup is not None:
                images, targets = self.mixup(images, targets)
            self.update(images, targets)
            self.step += 1
            if self.ema is not None:
                self.ema.update(self.model, step=self.step)

    def update(self, images: Tensor, targets: Tensor) -> None:
        """Take one optimizer step on a batch."""
        parts = self.recipe.grad_accum_steps
        self.optimizer.zero_grad()
        for part, part_targets in zip(images.chunk(parts), targets.chunk(parts), strict=True):
            with self.compute.autocast():
                loss = self.loss(self.model(part), part_targets)
            self._scaler.scale(loss / parts if parts > 1 else loss).backward()
        if self.recipe.clip_grad is not None:
            self._scaler.unscale_(self.optimizer)
            dispatch_clip_grad(self.model.parameters(), self.recipe.clip_grad)
        self._scaler.step(self.optimizer)
        self._scaler.update()


def bare_loop(
    trainer: Trainer, phase: Phase, batches: Sequence[Batch], with_ema: bool = False
) -> BareLoop:
    """Return the hand-written loop that does what the runner does in a phase.

    Network, optimizer and its groups, precision, loss, mixing, drop-path, clipping and compilation are the
    runner's. The runner must be in the phase already.
    """
    recipe, stepper, rate = trainer.recipe, trainer.stepper, phase.curriculum.drop_path
    model = plain_network(
        stepper.model.spec,
        phase.choices[0].subnet,
        trainer.data.num_classes,
        drop_path_rate=recipe.drop_path if rate is None else cast(float, rate),
    ).to(trainer.compute.device)
    # The runner takes the fused optimizer where there is one, which is no merit of its loop.
    fused = {"fused": True} if stepper.optimizer.defaults.get("fused") else {}
    optimizer = create_optimizer_v2(
        model, opt=recipe.opt, lr=recipe.peak_lr, weight_decay=recipe.weight_decay, **fused
    )
    if trainer.settings.compile:
        for block in cast(Any, model).blocks:
            block.compile(dynamic=True)  # as the runner compiles them
    return BareLoop(
        model=model,
        optimizer=optimizer,
        loss=stepper.loss,
        mixup=stepper.mixup,
        recipe=recipe,
        compute=trainer.compute,
        batches=batches,
        # The average that timm's train.py keeps with --model-ema --model-ema-warmup.
        ema=ModelEmaV3(model, use_warmup=True) if with_ema else None,
    )


class ResidentData:
    """Batches that lie on the device already, again and again."""

    workers = 0

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = batches

    def batches(
        self,
        first_sample: int,
        batch_size: int,
        steps: int,
        config_at: Callable[[int], InputConfig],
        held_out: bool,
    ) -> Iterator[Batch]:
        """Return `steps` batches; see :class:`autoprog.data.run_data.RunData`."""
        return (self._batches[k % len(self._batches)] for k in range(steps))

    def close(self) -> None:
        """Do nothing."""


class _WatchedData:
    """The data of a run that notes when the first batch after the lead-in is asked for."""

    def __init__(
        self, run_data: Any, rest: RunData, lead_in: int, note: Callable[[], None]
    ) -> None:
        self._data, self._rest, self._lead_in, self._note = run_data, rest, lead_in, note

    def __getattr__(self, name: str) -> Any:  # whatever else a trainer asks of the data
        return getattr(self._rest, name)

    def batches(
        self,
        first_sample: int,
        batch_size: int,
        steps: int,
        config_at: Callable[[int], InputConfig],
        held_out: bool,
    ) -> Iterator[Batch]:
        batches = self._data.batches(first_sample, batch_size, steps, config_at, held_out)
        for number in range(steps):
            if number == self._lead_in:
                self._note()
            yield next(batches)


@dataclass
class TimedRunner:
    """The runner itself: the trainer carries out a phase of some steps, events and all.

    ``open_run_data`` opens the batches anew for each block and they are closed after it, so that no loader
    process of this program takes time from the others; the lead-in waits for all of them.
    """

    trainer: Trainer
    phase: Phase
    open_run_data: Callable[[], ResidentData | RunData]
    clock: Callable[[], float] = time.perf_counter

    def __call__(self, steps: int) -> float:
        """Train for some steps; return their seconds, with the progress events that fall to them."""
        trainer, own, run_data, started = self.trainer, self.trainer.data, self.open_run_data(), 0.0
        # Until each loader process has delivered once: starting them is no part of the pace.
        lead_in = LEAD_IN_STEPS + run_data.workers

        def note() -> None:
            nonlocal started
            trainer.compute.synchronize()
            started = self.clock()

        # The timed steps begin right after a progress event: so many steps hold no more events than in a run.
        every = trainer.settings.log_every_steps
        trainer.step = -(-(trainer.step + lead_in) // every) * every - lead_in
        trainer.data = cast(RunData, _WatchedData(run_data, own, lead_in, note))
        stop = trainer.step + lead_in + steps
        try:
            for _ in trainer.run(replace(self.phase, start_step=trainer.step, stop_step=stop)):
                pass
            trainer.compute.synchronize()
            return self.clock() - started
        finally:
            trainer.data = own
            run_data.close()


# The runner against timm's own train.py: two programs on the same data, by their own logs.


@dataclass(frozen=True)
class ScriptSpeed:
    """Images a second of both programs (medians) and how fast autoprog is in units of timm's."""

    timm_images_per_second: float
    autoprog_images_per_second: float
    ratio: Estimate
    rounds: int
    timed_steps: int


def check_script(script: Path, settings: RunSettings, opened: OpenedData, block_steps: int) -> None:
    """Check what can be known to fail.

    Raises:
        ConfigError: If there is no such script, or it cannot read this data.
    """
    flag = "--timm-script"
    if not script.is_file():
        raise ConfigError(flag, "", "must be timm's train.py", str(script))
    if settings.data.dir is None:
        hint = "timm's script cannot read the embedded digits"
        raise ConfigError(flag, "", "must be given together with --data", hint=hint)
    steps = steps_per_epoch_of(len(opened.train), settings.recipe.batch_size)
    if steps <= (1 + WINDOW_BLOCKS) * block_steps:  # timm's means begin anew with each epoch
        problem = f"must be below {steps / (1 + WINDOW_BLOCKS):g}, a quarter of an epoch"
        raise ConfigError("--block-steps", "", problem, block_steps)


def measure_script(
    script: Path, settings: RunSettings, opened: OpenedData, rounds: int, block_steps: int
) -> ScriptSpeed:
    """Run both programs on the full model, one after the other; each is ended after its timed steps.

    Args:
        script: timm's train.py.
        settings: Of a training run; the schedule is left out, since the script knows none.
        opened: Its data.
        rounds: Runs of each program.
        block_steps: Steps of a block; see :data:`WINDOW_BLOCKS`.

    Raises:
        RunError: If a program ends before its timed steps are done.
    """
    arguments = timm_arguments(settings, opened, resolve_compute(settings), block_steps)
    batch_size, timed_steps = settings.recipe.batch_size, WINDOW_BLOCKS * block_steps

    def run_timm(place: Path) -> float:
        words = [sys.executable, str(script.resolve()), *arguments, "--output", str(place)]
        log = place / "log.txt"  # its own output
        find = partial(timm_seconds, block_steps=block_steps, batch_size=batch_size)
        return _seconds_in_log(str(script.resolve()), words, log, log, find)

    def run_autoprog(place: Path) -> float:
        changes = {
            "log_every_steps": block_steps,
            "schedule_from": "constant",
            "eval_every_epochs": 0.0,
        }
        own, recipe = settings.model_copy(update=changes), settings.recipe
        # A run folder whose run has not begun yet: --resume takes settings that no flag has to say.
        folder = RunFolder.create(place, scratch_manifest(own))
        spec = settings.model.spec()
        folder.write_schedule(constant(spec, recipe.epochs, recipe.strength, recipe.learning_rate))
        folder.close()
        again = words_of_asks(settings, folder.path)
        words = [*PROGRAM, "train", "--quiet", "--resume", str(folder.path), *again]
        log, find = folder.path / "events.jsonl", partial(autoprog_seconds, block_steps=block_steps)
        return _seconds_in_log("autoprog train", words, place / "log.txt", log, find)

    programs = {"timm": run_timm, "autoprog": run_autoprog}
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(rounds):
        # What slows the machine down over a round falls on both programs alike.
        for name in list(programs)[:: 1 if number % 2 == 0 else -1]:
            with tempfile.TemporaryDirectory(prefix="autoprog-bench-") as place:
                seconds[name].append(programs[name](Path(place)))
    images = timed_steps * batch_size
    return ScriptSpeed(
        timm_images_per_second=images / median(seconds["timm"]),
        autoprog_images_per_second=images / median(seconds["autoprog"]),
        ratio=speed_ratio(seconds["autoprog"], seconds["timm"]),
        rounds=rounds,
        timed_steps=timed_steps,
    )


def _seconds_in_log(
    name: str, words: list[str], output: Path, log: Path, find: Callable[[str], float | None]
) -> float:
    """Run a program until `find` finds its seconds in its log; end it and all that it started."""
    package = str(Path(autoprog.__file__).parent.parent)
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = str(torch.get_num_threads())
    # Both programs import this very package's timm and torch, and get as many threads as this one.
    own = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": threads}
    with output.open("wb") as file:
        program = Child(words, file, env={**os.environ, **own})
        try:
            while True:
                # Asked before the log is read: what it wrote last must not be missed.
                has_ended = program.exit_code is not None
                text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
                seconds = find(text)
                if seconds is not None:
                    return seconds
                if has_ended:
                    raise RunError(f"{name} ended before it was timed: {last_line(output)}")
                time.sleep(_POLL_SECONDS)
        finally:
            program.kill()


def timm_arguments(
    settings: RunSettings, opened: OpenedData, compute: Compute, block_steps: int
) -> list[str]:
    """Return the arguments of timm's train.py that mean the same training as `settings`.

    The script has no evaluation, which costs it nothing, and timm's ordinary loader and optimizer.
    """
    recipe, spec = settings.recipe, settings.model.spec()
    kwargs = [f"{key}={value!r}" for key, value in spec.create_kwargs().items()]
    values: dict[str, object] = {
        **data_arguments(Path(str(settings.data.dir))),
        "model": spec.timm,
        "img-size": spec.img_size,
        "num-classes": len(opened.class_names),
        "device": compute.device.type,
        "batch-size": recipe.batch_size // recipe.grad_accum_steps,
        "grad-accum-steps": recipe.grad_accum_steps,
        "opt": recipe.opt,
        "lr": recipe.peak_lr,
        "weight-decay": recipe.weight_decay,
        "clip-grad": recipe.clip_grad,
        # The pace of a step depends neither on the length nor on the learning rate.
        "epochs": 1,
        "warmup-epochs": 0,
        "smoothing": recipe.smoothing,
        "mixup": recipe.mixup,
        "cutmix": recipe.cutmix,
        "aa": recipe.aa,
        "reprob": recipe.reprob,
        "remode": recipe.remode,
        "drop-path": recipe.drop_path,
        "hflip": recipe.hflip,
        "vflip": recipe.vflip,
        "color-jitter": recipe.color_jitter,
        "train-interpolation": recipe.interpolation,
        "workers": resolve_workers(settings.workers, opened.train),
        "seed": settings.seed,
        "log-interval": block_steps,
    }
    words = [
        word
        for key, value in values.items()
        if value is not None
        for word in (f"--{key}", str(value))
    ]
    words += ["--model-kwargs", *kwargs, "--model-ema", "--model-ema-warmup"]
    words += ["--scale", *map(str, recipe.scale), "--ratio", *map(str, recipe.ratio)]
    # timm's prefetcher works on CUDA streams alone.
    words += ["--pin-mem"] if compute.device.type == "cuda" else ["--no-prefetcher"]
    if compute.amp != "none":
        words += ["--amp", "--amp-dtype", compute.amp]
    return [*words, "--torchcompile"] if settings.compile else words


def data_arguments(place: Path) -> dict[str, object]:
    """Name the training images; timm finds class folders by their split and takes a tar by itself."""
    for name in ("train", "training"):
        if (place / name).is_dir():
            return {"data-dir": place, "train-split": name, "val-split": ""}
    return {"data-dir": next(iter(sorted(place.glob("train*.tar"))), place), "val-split": ""}


def timm_seconds(log: str, block_steps: int, batch_size: int) -> float | None:
    """Return the seconds of the timed steps by the log of timm's train.py; None until they are in it.

    A line has the number of its update, from 0, and the images a second since the first.
    """
    spent = {}
    for number, rate in _LINE.findall(log):
        spent[int(number)] = (int(number) + 1) * batch_size / float(rate)
    first, last = block_steps, (1 + WINDOW_BLOCKS) * block_steps
    return spent[last] - spent[first] if {first, last} <= set(spent) else None


def autoprog_seconds(log: str, block_steps: int) -> float | None:
    """Return the seconds of the timed steps by an ``events.jsonl``; None until they are in it."""
    rows = [json.loads(line) for line in log.splitlines(keepends=True) if line.endswith("\n")]
    times = {row["step"]: row["time"] for row in rows if row["kind"] == "step_logged"}
    first, last = block_steps, (1 + WINDOW_BLOCKS) * block_steps
    if not {first, last} <= set(times):
        return None
    start, stop = (datetime.fromisoformat(times[step]) for step in (first, last))
    return (stop - start).total_seconds()


# What is shown.


def as_json(speed: RunnerSpeed, script: ScriptSpeed | None) -> str:
    """Return one JSON object, with the numbers of the report in full."""
    cells = [
        {
            **dataclasses.asdict(one),
            "subnet": {"depth": list(one.subnet.depth), "img_size": one.subnet.img_size},
        }
        for one in speed.cells
    ]
    of_script = None if script is None else dataclasses.asdict(script)
    body = {"schema": 1, **dataclasses.asdict(speed), "timm_script": of_script, "cells": cells}
    return json.dumps(body, indent=1, allow_nan=False)


def print_report(console: Console, speed: RunnerSpeed, script: ScriptSpeed | None) -> None:
    """Print the rates of each subnet, then what they come to."""
    speeds = speed.cells
    names = tuple(subnet_text(one.subnet) for one in speeds)
    rates = [Column("images/s", names, justify="left")]
    for program in (BARE, BARE_EMA, RESIDENT, LOADED, LOADED_UNCACHED):
        if program in speeds[0].images_per_second:
            texts = [speed_text(one.images_per_second[program]) for one in speeds]
            rates.append(Column(program, tuple(texts)))
    uncached = [one.data_cost_uncached for one in speeds if one.data_cost_uncached is not None]
    ratios = [
        Column("ratio", names, justify="left"),
        Column("runner / bare", tuple(_ratio(one.runner_to_bare) for one in speeds)),
        Column("runner / bare + EMA", tuple(_ratio(one.runner_to_bare_ema) for one in speeds)),
        Column("data cost", tuple(_ratio(one.data_cost) for one in speeds)),
        *([Column("data cost, no cache", tuple(map(_ratio, uncached)))] if uncached else []),
    ]
    of_script = ""
    if script is not None:
        of_script = (
            f"timm's train.py {speed_text(script.timm_images_per_second)} images/s, autoprog train"
            f" {speed_text(script.autoprog_images_per_second)}: ratio {_ratio(script.ratio)}"
            f" ({script.rounds} rounds of {script.timed_steps} steps, {_sure(script.ratio.confidence)})"
        )
    # Surely reached, surely not, or undecided: by the ends of the interval and not by its middle.
    reached = sum(one.runner_to_bare.low >= GOAL for one in speeds)
    missed = sum(one.runner_to_bare.high < GOAL for one in speeds)
    verdict = f"reached in {reached}, missed in {missed}, undecided in"
    verdict += f" {len(speeds) - reached - missed} of {len(speeds)} subnets"
    parts: tuple[Part, ...] = (
        *lines(
            f"{speed.model}, batches of {speed.batch_size}, {speed.device}, precision {speed.amp},"
            f" {speed.threads} threads, {speed.workers} loader workers",
            f"medians of {speed.rounds} rounds; in each, every program has one block of"
            f" {speed.block_steps} steps",
        ),
        Table.of(rates),
        Table.of(ratios),
        *lines(
            f"in brackets: {_sure(speeds[-1].runner_to_bare.confidence)} of the median ratio of"
            " neighbouring blocks",
            of_script,
            f"goal: runner / bare at least {GOAL:g}: {verdict}",
        ),
    )
    print_sections(console, [Section("runner", parts)], plain=not console.is_terminal)


def _ratio(value: Estimate) -> str:
    return f"{value.median:.3f} [{value.low:.3f}, {value.high:.3f}]"


def _sure(confidence: float) -> str:
    interval = f"{100 * confidence:.1f}% interval"
    return interval if confidence >= CONFIDENCE else f"whole range, a {interval},"
