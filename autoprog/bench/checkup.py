"""What would be slow or wrong on this machine beside its packages, each as a finding with a cure."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import torch

from autoprog.bench.packages import Finding
from autoprog.errors import AutoprogError, ConfigError
from autoprog.recipe import RECIPES, default_recipe_name
from autoprog.settings import DataSettings, RunSettings
from autoprog.stage import FullModel
from autoprog.train.cores import processor_name, usable_cores
from autoprog.train.data import (
    AnySource,
    OpenedData,
    StreamSource,
    TransformSettings,
    check_images,
    resolve_workers,
)
from autoprog.train.data.cache.progress import progress_on_stderr
from autoprog.train.device import cpu_has_bfloat16, resolve_compute
from autoprog.train.feed import open_data, open_feed
from autoprog.train.regularise import augmented_cell
from supernet.zoo import ZOO

__all__ = [
    "LOADING_SECONDS",
    "READING_SECONDS",
    "check_device",
    "check_disk",
    "check_loading",
    "check_processor",
    "check_readable",
    "check_threads",
    "findings",
]

_LEAST_FREE_BYTES = 2**30
"""About what two checkpoints of DeiT-S take: weights, moments and averages of 22 million parameters."""

LOADING_SECONDS = 1.5
READING_SECONDS = 30.0
"""For which the images of each part are read at most."""
_MOST_BATCHES = 10_000
_LEAST_SPEED = {"cuda": 1000, "mps": 300, "cpu": 50}
"""Images a second below which the loader rather than the device is likely to set the pace of DeiT-S."""


def findings(runs_dir: Path, data: DataSettings) -> Iterator[Finding]:
    """Yield what is found, quick checks first.

    Args:
        runs_dir: Where run folders would go; need not exist, and is not made.
        data: The images that are loaded.
    """
    yield check_device()
    yield check_processor()
    yield check_threads(usable_cores(), torch.get_num_threads(), os.environ)
    yield check_disk(runs_dir)
    if data.embedded:
        yield check_loading(data, LOADING_SECONDS)
        return
    try:
        opened = open_data(data)
    except AutoprogError as error:
        yield _refused("data", error)
        return
    yield Finding("data", "ok", opened.description)
    report = opened.report.lines()
    yield (
        Finding("classes", "ok", report[0])
        if opened.report.train.class_sizes
        else Finding("classes", "ok", f"{len(opened.class_names)}")
    )
    yield from (Finding("data", "note", line) for line in report[1:])
    yield from check_readable("training", opened.train, READING_SECONDS)
    yield from check_readable("validation", opened.val, READING_SECONDS)
    yield check_loading(data, LOADING_SECONDS)


def check_device() -> Finding:
    """Name what a run with ``--device auto`` computes on; a GPU that torch cannot use is wrong."""
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Finding("device", "ok", f"cuda: {', '.join(names)}")
    if torch.backends.mps.is_available():
        return Finding("device", "ok", "mps")
    if Path("/dev/nvidia0").exists():
        cure = "install a build of torch for the CUDA version that nvidia-smi names"
        return Finding("device", "wrong", "cpu, though a GPU is there", cure)
    return Finding("device", "slow", "cpu", "fine for small models; large ones want a GPU")


def check_processor() -> Finding:
    """Name the processor and whether it computes in bfloat16, which pays from width 192 on."""
    level = torch.backends.cpu.get_cpu_capability()
    found = f"{processor_name()}, {level}{', bfloat16' if cpu_has_bfloat16() else ''}"
    if level == "DEFAULT":
        cure = "no vector instructions are used: check ATEN_CPU_CAPABILITY and the build of torch"
        return Finding("processor", "slow", found, cure)
    return Finding("processor", "ok", found)


def check_threads(cores: int, threads: int, environment: Mapping[str, str]) -> Finding:
    """Compare torch's threads with the cores that this process may use."""
    found = f"{threads} of torch, {cores} cores"
    if threads > cores:
        return Finding("threads", "slow", found, f"--threads {cores}: more threads than cores wait")
    if threads < cores and "OMP_NUM_THREADS" in environment:
        cure = f"unset OMP_NUM_THREADS, or --threads {cores}"
        return Finding("threads", "slow", found, cure)
    return Finding("threads", "ok", found)


def check_disk(runs_dir: Path) -> Finding:
    """Tell whether runs can be written, and how much room there is."""
    there = next(
        path for path in (runs_dir.absolute(), *runs_dir.absolute().parents) if path.exists()
    )
    if not there.is_dir() or not os.access(there, os.W_OK):
        cure = "take --runs-dir DIR of a folder that you may write"
        return Finding("runs folder", "wrong", f"{there} cannot be written", cure)
    free = shutil.disk_usage(there).free
    found = f"{free / 2**30:.1f} GiB free in {there}"
    if free < _LEAST_FREE_BYTES:
        cure = "make room, or take --runs-dir DIR on another disk"
        return Finding("runs folder", "wrong", found, cure)
    return Finding("runs folder", "ok", found)


def check_readable(
    part: Literal["training", "validation"], source: AnySource, seconds: float
) -> Iterator[Finding]:
    """Read the images of a part as training would; some from all over it where the time is too short."""
    if isinstance(source, StreamSource) or source.in_memory:
        return
    checked = check_images(
        source, resolve_workers("auto", source), seconds, progress_on_stderr, part=part
    )
    subject = {"training": "train", "validation": "val"}[part]
    read = f"{checked.num_read:,} of {len(source):,} images read"
    if not checked.unreadable:
        yield Finding(subject, "ok", f"{read}, all fine")
        return
    bad = len(checked.unreadable)
    found = f"{read}, {bad:,} cannot be read, such as {checked.unreadable[0].reason}"
    most = RunSettings.model_fields["max_bad_images"].default
    if part == "training" and bad <= most:
        yield Finding(subject, "note", f"{found}; a run skips up to --max-bad-images {most}")
    else:
        yield Finding(subject, "wrong", found, "repair or remove them")


def check_loading(data: DataSettings, seconds: float) -> Finding:
    """Load training images by the run's own loader, as DeiT-S at 224 px would (digits: at 64 px)."""
    try:
        opened = open_data(data)
        speed, workers, device = _loading_speed(opened, data, seconds)
    except AutoprogError as error:
        return _refused("loading", error)
    found = f"{speed:,.0f} images/s of {_name_of(data)}, {workers} worker processes"
    if speed < _LEAST_SPEED[device]:
        cure = "take --cache, which keeps decoded images, or more --workers"
        return Finding("loading", "slow", found, cure)
    return Finding("loading", "ok", found)


def _refused(subject: str, error: AutoprogError) -> Finding:
    cure = error.cure if isinstance(error, ConfigError) else ""
    found = str(error).removesuffix(f"; {cure}")
    return Finding(subject, "wrong", found, cure or "see the layouts in docs/data.md")


def _loading_speed(
    opened: OpenedData, data: DataSettings, seconds: float
) -> tuple[float, int, str]:
    """Return images a second after the first batch, the loader processes, and the kind of device."""
    spec = ZOO["deit-s"] if not data.embedded else ZOO["deit-s"].with_img_size(64)
    name = default_recipe_name(len(opened.train), data.embedded)
    recipe = RECIPES[name].model_copy(update={"batch_size": 32})
    settings = RunSettings(
        kind="train", model=FullModel.of(spec), data=data, recipe_name=name, recipe=recipe
    )
    compute = resolve_compute(settings)
    transform = TransformSettings(scale=recipe.scale, ratio=recipe.ratio)
    feed = open_feed(opened, transform, settings, compute.device.type == "cuda")
    cell = augmented_cell(recipe.strength, recipe, spec.img_size)
    try:
        batches = feed.batches(0, 32, _MOST_BATCHES, lambda step: cell, held_out=False)
        next(batches)
        begun, images = time.perf_counter(), 0
        for batch in batches:
            images += len(batch[0])
            if time.perf_counter() - begun > seconds:
                break
        return images / (time.perf_counter() - begun), feed.workers, compute.device.type
    finally:
        feed.close()


def _name_of(data: DataSettings) -> str:
    return "the embedded digits" if data.dir is None else data.dir
