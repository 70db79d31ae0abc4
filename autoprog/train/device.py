"""Where and in which precision a run computes."""

from __future__ import annotations

import os
import resource
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from autoprog.errors import ConfigError
from autoprog.train.ranks import ONE_PROCESS, Ranks

__all__ = ["Compute", "resolve_compute", "usable_cores"]

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


def resolve_compute(
    device: str, amp: str, threads: int | None, ranks: Ranks = ONE_PROCESS
) -> Compute:
    """Return what ``--device``, ``--amp`` and ``--threads`` mean on this machine.

    Several ranks on one machine take a GPU each, or share its cores. ``amp`` auto is bfloat16 on CUDA
    from compute capability 8.0 and on CPUs with AMX, float16 on older CUDA, and off elsewhere: without AMX,
    bfloat16 costs a CPU more in conversions than it saves.

    Raises:
        ConfigError: If the device is unknown or not there.
    """
    chosen = _resolve_device(device, ranks)
    if threads is None and not ranks.alone and chosen.type == "cpu":
        threads = max(1, usable_cores() // ranks.local_world_size)  # torchrun gives each rank one
    if threads is not None:
        torch.set_num_threads(threads)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    return Compute(chosen, _default_amp(chosen) if amp == "auto" else amp)


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _resolve_device(name: str, ranks: Ranks) -> torch.device:
    if name in ("auto", "cuda") and torch.cuda.is_available():
        return torch.device("cuda", ranks.local_rank)
    if name == "auto":
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        law = "must be auto, cpu, mps, cuda or cuda:N"
        raise ConfigError("--device", "", law, name) from None
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if not there.get(device.type, False):
        cure = "take --device auto"
        raise ConfigError("--device", "", "must be there on this machine", name, cure)
    if device.index is not None and not ranks.alone:
        law = f"must leave the number to the {ranks.world_size} processes of this run"
        raise ConfigError("--device", "", law, name, f"take --device {device.type}")
    return device


def _default_amp(device: torch.device) -> str:
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float16"
    if device.type == "cpu" and torch.cpu._is_amx_tile_supported():
        return "bfloat16"
    return "none"
