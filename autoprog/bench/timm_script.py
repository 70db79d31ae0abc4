"""The runner against timm's own train.py: two programs on the same data, in turns, by their own logs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median

import torch

import autoprog
from autoprog.bench.statistics import Estimate, speed_ratio
from autoprog.errors import ConfigError, RunError
from autoprog.outside import words_of_asks
from autoprog.presets import constant
from autoprog.program import PROGRAM
from autoprog.runs import RunFolder
from autoprog.settings import RunManifest, RunSettings
from autoprog.train.data import OpenedData, resolve_workers
from autoprog.train.device import Compute, resolve_compute
from autoprog.train.engine import steps_per_epoch_of

__all__ = [
    "WINDOW_BLOCKS",
    "ScriptSpeed",
    "check_script",
    "data_arguments",
    "measure_script",
    "our_seconds",
    "timm_arguments",
    "timm_seconds",
]

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
        cure = "timm's script cannot read the embedded digits"
        raise ConfigError(flag, "", "must be given together with --data", cure=cure)
    steps = steps_per_epoch_of(len(opened.train), settings.recipe.batch_size)
    if steps <= (1 + WINDOW_BLOCKS) * block_steps:
        law = f"must be below {steps / (1 + WINDOW_BLOCKS):g}, a quarter of an epoch"
        raise ConfigError("--block-steps", "", law, block_steps)


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
    times = {row["step"]: row["time"] for row in rows if row["kind"] == "progressed"}
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
    package = str(Path(autoprog.__file__).parent.parent)
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
