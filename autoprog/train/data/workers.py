"""Worker processes: how many, and how one is set up."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any, Literal

import torch

from autoprog.train.cores import usable_cores

__all__ = ["as_is", "resolve_workers", "start_worker"]

_MOST_WORKERS = 8


def resolve_workers(
    workers: int | Literal["auto"],
    source: object,
    local_world_size: int = 1,
    has_accelerator: bool = False,
) -> int:
    """Return the number of loader workers of each process.

    ``auto`` means none for images held in memory, which cost about as much to augment as to pass
    between processes, unless an accelerator would wait for them meanwhile; and else one for each
    core this process may use, up to 8. All cores, even when there are two: with an accelerator the
    main process mostly waits for it, so a core kept free would starve it; without one the operating
    system shares the cores, and what the workers do would otherwise be done by the main process,
    in turn with the training.

    Args:
        workers: The setting.
        source: The training images.
        local_world_size: Training processes on this machine, which share its cores.
        has_accelerator: Whether this process leaves the training to a device.
    """
    if workers != "auto":
        return workers
    if getattr(source, "in_memory", False) and not has_accelerator:
        return 0
    return max(1, min(usable_cores() // local_world_size, _MOST_WORKERS))


def as_is(batch: Any) -> Any:
    """Return what the dataset made: whole batches need no collating."""
    return batch


def start_worker(_: int) -> None:
    """Set a new worker process up.

    One thread each, since there are as many workers as cores. The main process alone answers to
    signals, which often reach the whole group: it still takes a checkpoint, and the death of a
    worker would break into that. So interrupts are ignored, and of two requests to terminate the
    first, so that a worker can still be ended by its parent.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _ignore_once)


def _ignore_once(signal_number: int, _: FrameType | None) -> None:
    signal.signal(signal_number, signal.SIG_DFL)
