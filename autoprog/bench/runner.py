"""How a race is told: a table on a terminal, aligned text elsewhere, or one JSON object."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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

from autoprog.console import Console
from autoprog.data.batches import Batch
from autoprog.data.dataset import OpenedData
from autoprog.data.run_data import RunData, open_run_data
from autoprog.data.transforms import InputConfig
from autoprog.data.workers import resolve_workers
from autoprog.errors import ConfigError, RunError
from autoprog.outside import words_of_asks
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
from autoprog.settings import RunManifest, RunSettings
from autoprog.supervise import PROGRAM
from autoprog.train.device import Compute, resolve_compute
from autoprog.train.length import step_table, steps_per_epoch_of
from autoprog.train.model import transform_settings
from autoprog.train.phase import Phase, phases_of
from autoprog.train.run import Job, start_training
from autoprog.train.step import input_config_at
from autoprog.train.trainer import Trainer
from autoprog.ui.format import ascii_text, speed_text, subnet_text
from autoprog.ui.tables import Column, plain_table, rich_table
from supernet.config import SubnetConfig
from supernet.export import plain_network

__all__ = [
    "BARE",
    "BARE_EMA",
    "GOAL",
    "LOADED",
    "LOADED_UNCACHED",
    "RESIDENT",
    "WINDOW_BLOCKS",
    "BareLoop",
    "CellSpeed",
    "ResidentData",
    "RunnerArm",
    "RunnerSpeed",
    "ScriptSpeed",
    "as_json",
    "bare_loop",
    "check_script",
    "compare",
    "data_arguments",
    "distinct_phases",
    "measure_runner",
    "measure_script",
    "our_seconds",
    "print_report",
    "scratch_folder",
    "timm_arguments",
    "timm_seconds",
]


# --------------------------------------------------------------------------------------------------
# What is raced: the loop anyone would write by hand, and the runner on resident or loaded batches.


LEAD_IN_STEPS = 2
"""Steps before the clock starts in each block: the block before left the caches to others."""


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
        self.compute.synchronize()
        start = self.clock()
        self._train(steps)
        self.compute.synchronize()
        return self.clock() - start

    def _train(self, steps: int) -> None:
        for _ in range(steps):
            images, targets = self.batches[self.step % len(self.batches)]
            if self.mixup is not None:
                images, targets = self.mixup(images, targets)
            self._update(images, targets)
            self.step += 1
            if self.ema is not None:
                self.ema.update(self.model, step=self.step)

    def _update(self, images: Tensor, targets: Tensor) -> None:
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
    fused = {"fused": True} if stepper.optimizer.defaults.get("fused") else {}
    optimizer = create_optimizer_v2(
        model, opt=recipe.opt, lr=recipe.peak_lr, weight_decay=recipe.weight_decay, **fused
    )
    if trainer.settings.compile:
        for block in cast(Any, model).blocks:
            block.compile(dynamic=True)
    return BareLoop(
        model=model,
        optimizer=optimizer,
        loss=stepper.loss,
        mixup=stepper.mixup,
        recipe=recipe,
        compute=trainer.compute,
        batches=batches,
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
class RunnerArm:
    """The runner itself: the trainer carries out a phase of some steps, events and all.

    ``open_run_data`` opens the batches anew for each block and they are closed after it, so that no worker
    of this arm takes time from the others; the lead-in waits for all of them.
    """

    trainer: Trainer
    phase: Phase
    open_run_data: Callable[[], ResidentData | RunData]
    clock: Callable[[], float] = time.perf_counter

    def __call__(self, steps: int) -> float:
        """Train for some steps; return their seconds, with the progress events that fall to them."""
        trainer, own, run_data, started = self.trainer, self.trainer.data, self.open_run_data(), 0.0
        lead_in = LEAD_IN_STEPS + run_data.workers

        def note() -> None:
            nonlocal started
            trainer.compute.synchronize()
            started = self.clock()

        trainer.step = self._first_step(lead_in)
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

    def _first_step(self, lead_in: int) -> int:
        """Let the timed steps begin right after a progress event, so that they have their fraction of them."""
        every = self.trainer.settings.log_every_steps
        return -(-(self.trainer.step + lead_in) // every) * every - lead_in


# --------------------------------------------------------------------------------------------------
# How fast the runner is: against a hand-written loop, and with the loader against resident batches.


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
                seconds = paired_blocks(arms, rounds, block_steps, partial(tell, subnet))
                cells.append(compare(subnet, seconds, block_steps * settings.recipe.batch_size))
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
    table = step_table(trainer.recipe, schedule, trainer.data.num_images)
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
        data_cost=fraction_lost(seconds[LOADED], seconds[RESIDENT]),
        data_cost_uncached=None if uncached is None else fraction_lost(uncached, seconds[RESIDENT]),
    )


def _arms(trainer: Trainer, opened: OpenedData, phase: Phase) -> dict[str, TimedBlock]:
    settings = trainer.settings
    batches = _resident_batches(trainer, phase)
    trainer.stepper.regularise(phase, trainer.recipe, trainer.data.num_classes)
    arms: dict[str, TimedBlock] = {
        BARE: bare_loop(trainer, phase, batches),
        BARE_EMA: bare_loop(trainer, phase, batches, with_ema=True),
        RESIDENT: RunnerArm(trainer, phase, lambda: ResidentData(batches)),
        LOADED: _loaded(trainer, opened, phase, settings),
    }
    if settings.cache is not None:
        without = settings.model_copy(update={"cache": None})
        arms[LOADED_UNCACHED] = _loaded(trainer, opened, phase, without)
    return arms


def _loaded(trainer: Trainer, opened: OpenedData, phase: Phase, settings: RunSettings) -> RunnerArm:
    transform = transform_settings(trainer.stepper.model, trainer.recipe)
    pin_memory = trainer.compute.device.type == "cuda"

    def opens() -> RunData:
        return open_run_data(opened, transform, settings, pin_memory=pin_memory)

    return RunnerArm(trainer, phase, opens)


def _resident_batches(trainer: Trainer, phase: Phase) -> Sequence[Batch]:
    """Return augmented batches of a phase on the device."""
    px = trainer.stepper.model.spec.img_size
    cell = input_config_at(phase, trainer.recipe, px, trainer.settings.seed, phase.start_step)
    size = trainer.recipe.batch_size
    batches = trainer.data.batches(0, size, RESIDENT_BATCHES, lambda _: cell, held_out=False)
    device = trainer.compute.device
    return [(images.to(device), targets.to(device)) for images, targets in batches]


# --------------------------------------------------------------------------------------------------
# The runner against timm's own train.py: two programs on the same data, in turns, by their own
# logs.


WINDOW_BLOCKS = 3
"""Timed blocks of a turn, after one that is not timed."""

_POLL_SECONDS = 0.2
_LINE = re.compile(r"Train: 0 \[ *(\d+)/.*\(\s*[\d.]+s, +([\d.]+)/s\)")


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
    if steps <= (1 + WINDOW_BLOCKS) * block_steps:
        problem = f"must be below {steps / (1 + WINDOW_BLOCKS):g}, a quarter of an epoch"
        raise ConfigError("--block-steps", "", problem, block_steps)


def measure_script(
    script: Path, settings: RunSettings, opened: OpenedData, rounds: int, block_steps: int
) -> ScriptSpeed:
    """Run both programs on the full model in turns; each is ended after its timed steps.

    Args:
        script: timm's train.py.
        settings: Of a training run; the schedule is left out, since the script knows none.
        opened: Its data.
        rounds: Runs of each program.
        block_steps: Steps of a block; see :data:`WINDOW_BLOCKS`.

    Raises:
        RunError: If a program ends before its timed steps are done.
    """
    compute = resolve_compute(settings)
    arguments = timm_arguments(settings, opened, compute, block_steps)
    timed_steps = WINDOW_BLOCKS * block_steps
    seconds: dict[str, list[float]] = {"timm": [], "autoprog": []}
    for number in range(rounds):
        order = ("timm", "autoprog") if number % 2 == 0 else ("autoprog", "timm")
        for name in order:
            with tempfile.TemporaryDirectory(prefix="autoprog-bench-") as place:
                if name == "timm":
                    own = _run_timm(script, arguments, Path(place), settings, block_steps)
                else:
                    own = _run_own(settings, Path(place), block_steps)
            seconds[name].append(own)
    images = timed_steps * settings.recipe.batch_size
    return ScriptSpeed(
        timm_images_per_second=images / median(seconds["timm"]),
        autoprog_images_per_second=images / median(seconds["autoprog"]),
        ratio=speed_ratio(seconds["autoprog"], seconds["timm"]),
        rounds=rounds,
        timed_steps=timed_steps,
    )


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
    return words + _machine_arguments(settings, compute)


def data_arguments(place: Path) -> dict[str, object]:
    """Name the training images; timm finds class folders by their split and takes a tar by itself."""
    for name in ("train", "training"):
        if (place / name).is_dir():
            return {"data-dir": place, "train-split": name, "val-split": ""}
    return {"data-dir": next(iter(sorted(place.glob("train*.tar"))), place), "val-split": ""}


def _machine_arguments(settings: RunSettings, compute: Compute) -> list[str]:
    words = ["--pin-mem"] if compute.device.type == "cuda" else ["--no-prefetcher"]
    if compute.amp != "none":
        words += ["--amp", "--amp-dtype", compute.amp]
    return [*words, "--torchcompile"] if settings.compile else words


def timm_seconds(log: str, block_steps: int, batch_size: int) -> float | None:
    """Return the seconds of the timed steps by the log of timm's train.py; None until they are in it.

    A line has the number of its update, from 0, and the images a second since the first.
    """
    spent = {}
    for number, rate in _LINE.findall(log):
        spent[int(number)] = (int(number) + 1) * batch_size / float(rate)
    first, last = block_steps, (1 + WINDOW_BLOCKS) * block_steps
    return spent[last] - spent[first] if {first, last} <= set(spent) else None


def our_seconds(log: str, block_steps: int) -> float | None:
    """Return the seconds of the timed steps by an ``events.jsonl``; None until they are in it."""
    rows = [json.loads(line) for line in log.splitlines(keepends=True) if line.endswith("\n")]
    times = {row["step"]: row["time"] for row in rows if row["kind"] == "step_logged"}
    first, last = block_steps, (1 + WINDOW_BLOCKS) * block_steps
    if not {first, last} <= set(times):
        return None
    start, stop = (datetime.fromisoformat(times[step]) for step in (first, last))
    return (stop - start).total_seconds()


def _run_timm(
    script: Path, arguments: list[str], place: Path, settings: RunSettings, block_steps: int
) -> float:
    command = [sys.executable, str(script.resolve()), *arguments, "--output", str(place)]
    log, batch_size = place / "log.txt", settings.recipe.batch_size
    return _run(command, log, log, lambda text: timm_seconds(text, block_steps, batch_size))


def _run_own(settings: RunSettings, place: Path, block_steps: int) -> float:
    folder = _prepare(settings, place, block_steps)
    again = words_of_asks(settings, folder)
    command = [*PROGRAM, "train", "--quiet", "--resume", str(folder), *again]
    events = folder / "events.jsonl"
    return _run(command, place / "log.txt", events, lambda text: our_seconds(text, block_steps))


def _prepare(settings: RunSettings, place: Path, block_steps: int) -> Path:
    """Make the run folder of a constant schedule that has not begun yet."""
    changes = {
        "log_every_steps": block_steps,
        "schedule_from": "constant",
        "eval_every_epochs": 0.0,
    }
    recipe = settings.recipe
    manifest = RunManifest(
        run_id="own",
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
        argv=("bench",),
        versions={},
        settings=settings.model_copy(update=changes),
    )
    folder = RunFolder.create(place, manifest)
    spec = settings.model.spec()
    folder.write_schedule(constant(spec, recipe.epochs, recipe.strength, recipe.learning_rate))
    folder.close()
    return folder.path


def _run(
    command: list[str], output: Path, log: Path, seconds_in: Callable[[str], float | None]
) -> float:
    """Run a program until its log holds the timed steps; end it and all that it started."""
    package = str(Path(__file__).parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = str(torch.get_num_threads())
    own = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": threads}
    with output.open("w", encoding="utf-8") as file:
        program = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **own},
            start_new_session=True,
        )
        try:
            while (seconds := seconds_in(_text(log))) is None:
                if program.poll() is not None:
                    raise RunError(f"{command[1]} ended before it was timed: {_last_line(output)}")
                time.sleep(_POLL_SECONDS)
        finally:
            if program.poll() is None:
                os.killpg(program.pid, signal.SIGKILL)
            program.wait()
    return seconds


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _last_line(path: Path) -> str:
    lines = _text(path).strip().splitlines()
    return lines[-1] if lines else "it printed nothing"


GOAL = 0.98
"""What the runner should reach of the bare loop's speed."""


def as_json(speed: RunnerSpeed, script: ScriptSpeed | None) -> str:
    """Return one JSON object, with the numbers of the report in full."""
    body = {"schema": 1, **dataclasses.asdict(speed), "timm_script": None}
    body["cells"] = [_cell_body(cell) for cell in speed.cells]
    if script is not None:
        body["timm_script"] = dataclasses.asdict(script)
    return json.dumps(body, indent=1, allow_nan=False)


def _cell_body(cell: CellSpeed) -> dict[str, object]:
    subnet = {"depth": list(cell.subnet.depth), "img_size": cell.subnet.img_size}
    return {**dataclasses.asdict(cell), "subnet": subnet}


def print_report(console: Console, speed: RunnerSpeed, script: ScriptSpeed | None) -> None:
    """Print the rates of each cell, then what they come to."""
    for line in _head(speed):
        _print(console, line)
    for columns in (_rates(speed.cells), _comparisons(speed.cells)):
        _print(console, "")
        if console.is_terminal:
            console.print(rich_table(columns, console.width))
        else:
            for line in plain_table(columns):
                console.out(line, highlight=False)
    _print(console, "")
    for line in _foot(speed, script):
        _print(console, line)


def _print(console: Console, line: str) -> None:
    console.out(line if console.is_terminal else ascii_text(line), highlight=False)


def _head(speed: RunnerSpeed) -> list[str]:
    return [
        f"{speed.model}, batches of {speed.batch_size}, {speed.device}, precision {speed.amp},"
        f" {speed.threads} threads, {speed.workers} loader workers",
        f"medians of {speed.rounds} rounds; in each, every arm has one block of {speed.block_steps} steps",
    ]


def _rates(cells: Sequence[CellSpeed]) -> list[Column]:
    arms = [BARE, BARE_EMA, RESIDENT, LOADED, LOADED_UNCACHED]
    rates = [
        Column(arm, tuple(speed_text(cell.images_per_second[arm]) for cell in cells))
        for arm in arms
        if arm in cells[0].images_per_second
    ]
    return [_names("images/s", cells), *rates]


def _comparisons(cells: Sequence[CellSpeed]) -> list[Column]:
    uncached = [cell.data_cost_uncached for cell in cells if cell.data_cost_uncached is not None]
    return [
        _names("ratio", cells),
        Column("runner / bare", tuple(_ratio(cell.runner_to_bare) for cell in cells)),
        Column("runner / bare + EMA", tuple(_ratio(cell.runner_to_bare_ema) for cell in cells)),
        Column("data cost", tuple(_ratio(cell.data_cost) for cell in cells)),
        *([Column("data cost, no cache", tuple(map(_ratio, uncached)))] if uncached else []),
    ]


def _names(header: str, cells: Sequence[CellSpeed]) -> Column:
    return Column(header, tuple(subnet_text(cell.subnet) for cell in cells), justify="left")


def _ratio(value: Estimate) -> str:
    return f"{value.median:.3f} [{value.low:.3f}, {value.high:.3f}]"


def _foot(speed: RunnerSpeed, script: ScriptSpeed | None) -> list[str]:
    cell = speed.cells[-1]
    confidence = cell.runner_to_bare.confidence
    lines = [f"in brackets: {_sure(confidence)} of the median ratio of neighbouring blocks"]
    if script is not None:
        lines.append(
            f"timm's train.py {speed_text(script.timm_images_per_second)} images/s, autoprog train"
            f" {speed_text(script.autoprog_images_per_second)}: ratio {_ratio(script.ratio)}"
            f" ({script.rounds} rounds of {script.timed_steps} steps, {_sure(script.ratio.confidence)})"
        )
    return [*lines, f"goal: runner / bare at least {GOAL:g}: {_verdict(speed)}"]


def _sure(confidence: float) -> str:
    interval = f"{100 * confidence:.1f}% interval"
    return interval if confidence >= CONFIDENCE else f"whole range, a {interval},"


def _verdict(speed: RunnerSpeed) -> str:
    """Say in how many cells the goal is reached: surely, surely not, or undecided."""
    ratios = [cell.runner_to_bare for cell in speed.cells]
    reached = sum(ratio.low >= GOAL for ratio in ratios)
    missed = sum(ratio.high < GOAL for ratio in ratios)
    undecided = len(ratios) - reached - missed
    return (
        f"reached in {reached}, missed in {missed}, undecided in {undecided} of {len(ratios)} cells"
    )
