"""Where and in which precision a run computes."""

from __future__ import annotations

import ctypes
import platform
import re
import resource
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from autoprog.environment import usable_cores
from autoprog.errors import ConfigError
from autoprog.train.ranks import ONE_PROCESS, Ranks

if TYPE_CHECKING:
    from autoprog.settings import RunSettings

__all__ = [
    "Compute",
    "cpu_has_bfloat16",
    "is_out_of_memory",
    "processor_name",
    "resolve_compute",
]

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # of glibc's malloc.h

_BF16_WIDTH = 192
"""From this width on bfloat16 pays on CPUs that have it.

Measured with avx512_bf16, speed against float32: 1.00 at width 96, 1.20 at 192, 1.39 at 384.
"""

_PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """A device and a precision. ``amp`` is ``none``, ``bfloat16`` or ``float16``."""

    device: torch.device
    amp: str

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context that forward passes run in."""
        if self.amp == "none":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=_PRECISIONS[self.amp])

    def scaler(self) -> torch.amp.GradScaler:
        """Return a gradient scaler, which does nothing except for float16."""
        return torch.amp.GradScaler(self.device.type, enabled=self.amp == "float16")

    def seed(self, seed: int) -> None:
        """Seed the generators that a step draws from; torch.manual_seed asks every backend, for 0.15 ms."""
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)  # of the current device, which resolve_compute has set
        elif self.device.type == "mps":
            torch.mps.manual_seed(seed)

    def hardware(self) -> str:
        """Name what computes: the GPU, or the processor and the cores that this process may use."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"{processor_name()}, {usable_cores()} cores"

    def synchronize(self) -> None:
        """Wait until the device has done all its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def peak_memory_bytes(self) -> int:
        """Return the most memory in use so far: the device's on CUDA, else this process's."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether torch had no memory; on CPUs it raises a plain RuntimeError for that."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def resolve_compute(settings: RunSettings, ranks: Ranks = ONE_PROCESS) -> Compute:
    """Return what ``--device``, ``--amp`` and ``--threads`` mean on this machine, and set it up.

    Several ranks on one machine take a GPU each, or share its cores. ``amp`` auto is bfloat16 on CUDA
    from compute capability 8.0, float16 on older CUDA, bfloat16 on CPUs that compute in it for networks that
    gain by it, and off elsewhere.

    Raises:
        ConfigError: If the device is unknown or not there, or more is to be started than the cores can carry.
    """
    cores = usable_cores()
    # Beyond these numbers, starting the threads or loader processes is all that would be done.
    for flag, number, limit in (
        ("--threads", settings.threads, max(64, 4 * cores)),
        ("--workers", settings.workers, max(16, 8 * cores)),
    ):
        if isinstance(number, int) and number > limit:
            problem = f"must be at most {limit} on a machine with {cores} cores"
            raise ConfigError(flag, "", problem, number, "lower it, or leave it out")
    device, threads, amp = _resolve_device(settings.device, ranks), settings.threads, settings.amp
    if threads is None and not ranks.alone and device.type == "cpu":
        threads = max(1, cores // ranks.local_world_size)  # torchrun gives each rank one
    if threads is not None:
        torch.set_num_threads(threads)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    elif device.type == "cpu":
        _keep_freed_memory()
    if amp == "auto":
        amp = "none"
        if device.type == "cuda":  # Ampere and newer compute in bfloat16
            has_bfloat16 = torch.cuda.get_device_capability(device) >= (8, 0)
            amp = "bfloat16" if has_bfloat16 else "float16"
        elif device.type == "cpu" and settings.model.embed_dim >= _BF16_WIDTH:
            amp = "bfloat16" if cpu_has_bfloat16() else "none"
    return Compute(device, amp)


def _resolve_device(name: str, ranks: Ranks) -> torch.device:
    if name in ("auto", "cuda") and torch.cuda.is_available():
        if ranks.local_rank >= torch.cuda.device_count():
            problem = f"must be at most {torch.cuda.device_count()}, the GPUs of this machine"
            raise ConfigError("torchrun", "--nproc-per-node", problem, ranks.local_world_size)
        return torch.device("cuda", ranks.local_rank)
    if name == "auto":
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    # Not left to torch.device, which takes names such as "meta" and "xla", on which nothing is computed.
    if re.fullmatch(r"cpu(:0)?|mps|cuda(:[0-9]{1,2})?", name) is None:
        problem = "must be auto, cpu, mps, cuda or cuda:N"
        raise ConfigError("--device", "", problem, name)
    device = torch.device(name)
    is_there = {
        "cpu": True,
        "mps": torch.backends.mps.is_available(),
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
    }
    if not is_there[device.type]:
        hint = "take --device auto"
        raise ConfigError("--device", "", "must be there on this machine", name, hint)
    if device.index is not None and not ranks.alone:
        problem = f"must leave the number to the {ranks.world_size} processes of this run"
        raise ConfigError("--device", "", problem, name, f"take --device {device.type}")
    return device


def _keep_freed_memory() -> None:
    """Let glibc keep the memory that a step frees, instead of fetching it anew page by page.

    Measured on 2 cores for a ViT of width 96 at batch 128: steps are 1.11 to 1.26 times as fast, page faults
    a step fall from 18,000 and more to below 800, and the peak of memory rises by 1 %.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_TOP_PAD, 64 << 20)
    mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # glibc takes no more


def cpu_has_bfloat16() -> bool:
    """Return whether the processor computes in bfloat16."""
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the model of the processor as Linux gives it, elsewhere what Python knows."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1) if found else platform.processor() or platform.machine()
