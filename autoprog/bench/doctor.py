"""What would be slow or wrong on this machine beside its packages, each as a finding with a hint."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import torch

from autoprog.bench.packages import Finding
from autoprog.data.dataset import AnySource
from autoprog.data.loader import check_images
from autoprog.data.open_data import open_data
from autoprog.data.progress import progress_on_stderr
from autoprog.data.run_data import open_run_data
from autoprog.data.stream import StreamSource
from autoprog.data.transforms import TransformSettings
from autoprog.data.workers import resolve_workers
from autoprog.environment import usable_cores
from autoprog.errors import AutoprogError, ConfigError
from autoprog.recipe import RECIPES, default_recipe_name
from autoprog.settings import DataSettings, RunSettings
from autoprog.stage import FullModel
from autoprog.train.device import cpu_has_bfloat16, processor_name, resolve_compute
from autoprog.train.step import make_input_config
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


_MIN_FREE_BYTES = 2**30
"""About what two checkpoints of DeiT-S take: weights, moments and averages of 22 million parameters."""

LOADING_SECONDS = 1.5
READING_SECONDS = 30.0
"""Time limits of loading training images and of reading the images of each part."""
_MAX_BATCHES = 10_000  # more than the seconds allow
_MIN_SPEED = {"cuda": 1000, "mps": 300, "cpu": 50}
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
    if data.embedded:  # images that ship with scikit-learn are all fine
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
    if Path("/dev/nvidia0").exists():  # a driver's device, though torch has no CUDA
        hint = "install a build of torch for the CUDA version that nvidia-smi names"
        return Finding("device", "wrong", "cpu, though a GPU is there", hint)
    return Finding("device", "slow", "cpu", "fine for small models; large ones want a GPU")


def check_processor() -> Finding:
    """Name the processor and whether it computes in bfloat16, which pays from width 192 on."""
    level = torch.backends.cpu.get_cpu_capability()
    text = f"{processor_name()}, {level}{', bfloat16' if cpu_has_bfloat16() else ''}"
    if level == "DEFAULT":
        hint = "no vector instructions are used: check ATEN_CPU_CAPABILITY and the build of torch"
        return Finding("processor", "slow", text, hint)
    return Finding("processor", "ok", text)


def check_threads(cores: int, threads: int, environment: Mapping[str, str]) -> Finding:
    """Compare torch's threads with the cores that this process may use."""
    text = f"{threads} of torch, {cores} cores"
    if threads > cores:
        return Finding("threads", "slow", text, f"--threads {cores}: more threads than cores wait")
    # Fewer threads than cores are the default where cores are hyperthreads: only a variable is a slip.
    if threads < cores and "OMP_NUM_THREADS" in environment:
        hint = f"unset OMP_NUM_THREADS, or --threads {cores}"
        return Finding("threads", "slow", text, hint)
    return Finding("threads", "ok", text)


def check_disk(runs_dir: Path) -> Finding:
    """Check whether runs can be written, and how much room there is."""
    # The folder need not exist yet: what counts is the disk of the nearest one above it that does.
    there = next(
        path for path in (runs_dir.absolute(), *runs_dir.absolute().parents) if path.exists()
    )
    if not there.is_dir() or not os.access(there, os.W_OK):
        hint = "take --runs-dir DIR of a folder that you may write"
        return Finding("runs folder", "wrong", f"{there} cannot be written", hint)
    free = shutil.disk_usage(there).free
    text = f"{free / 2**30:.1f} GiB free in {there}"
    if free < _MIN_FREE_BYTES:
        hint = "make room, or take --runs-dir DIR on another disk"
        return Finding("runs folder", "wrong", text, hint)
    return Finding("runs folder", "ok", text)


def check_readable(
    part: Literal["training", "validation"], source: AnySource, seconds: float
) -> Iterator[Finding]:
    """Read the images of a part as training would; some from all over it where the time is too short."""
    # A stream is read in order and not by index, and what lies in memory has been read.
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
    text = f"{read}, {bad:,} cannot be read, such as {checked.unreadable[0].reason}"
    # A run skips a few bad images of its training part, and none of those that it is judged by.
    most = RunSettings.model_fields["max_bad_images"].default
    if part == "training" and bad <= most:
        yield Finding(subject, "note", f"{text}; a run skips up to --max-bad-images {most}")
    else:
        yield Finding(subject, "wrong", text, "repair or remove them")


def check_loading(data: DataSettings, seconds: float) -> Finding:
    """Load training images by the run's own loader, as DeiT-S at 224 px would (digits: at 64 px)."""
    try:
        opened = open_data(data)
        spec = ZOO["deit-s"] if not data.embedded else ZOO["deit-s"].with_img_size(64)
        name = default_recipe_name(len(opened.train), data.embedded)
        recipe = RECIPES[name].model_copy(update={"batch_size": 32})
        settings = RunSettings(
            kind="train", model=FullModel.of(spec), data=data, recipe_name=name, recipe=recipe
        )
        device = resolve_compute(settings).device.type
        transform = TransformSettings(scale=recipe.scale, ratio=recipe.ratio)
        run_data = open_run_data(opened, transform, settings, device == "cuda")
        config = make_input_config(recipe.strength, recipe, spec.img_size)
        try:
            batches = run_data.batches(0, 32, _MAX_BATCHES, lambda step: config, held_out=False)
            next(batches)  # waits until the loader processes have started, which is no rate
            begun, images = time.perf_counter(), 0
            for batch in batches:
                images += len(batch[0])
                if time.perf_counter() - begun > seconds:
                    break
            speed = images / (time.perf_counter() - begun)
            workers = run_data.workers
        finally:
            run_data.close()
    except AutoprogError as error:
        return _refused("loading", error)
    source = "the embedded digits" if data.dir is None else data.dir
    text = f"{speed:,.0f} images/s of {source}, {workers} worker processes"
    if speed < _MIN_SPEED[device]:
        hint = "take --cache, which keeps decoded images, or more --workers"
        return Finding("loading", "slow", text, hint)
    return Finding("loading", "ok", text)


def _refused(subject: str, error: AutoprogError) -> Finding:
    hint = error.hint if isinstance(error, ConfigError) else ""
    text = str(error).removesuffix(f"; {hint}")
    return Finding(subject, "wrong", text, hint or "see the layouts in docs/data.md")
