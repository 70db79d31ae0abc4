"""Processes by a name that outlives them, so that another process can tell whether they are gone."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from autoprog.bounds import ProcessNumber, Ticks

__all__ = ["ProcessName", "is_gone", "is_here", "process_in", "this_process"]


@dataclass(frozen=True)
class ProcessName:
    """What names one process among all that ever ran.

    ``boot_id`` is of the boot of the machine and, since containers share it, of the process table.
    ``started`` is in clock ticks after the boot; a number is given again to a later process. Where the
    system does not tell them, both are empty, and a number that is in use counts as alive.
    """

    host: str
    boot_id: str
    pid: ProcessNumber
    started: Ticks


def process_in(fields: Any) -> ProcessName | None:
    """Return the process that a mapping from a file names; None if it names none."""
    if not isinstance(fields, Mapping):
        return None
    host, boot_id = fields.get("host"), fields.get("boot_id")
    pid, started = fields.get("pid"), fields.get("started")
    if not isinstance(host, str) or not isinstance(boot_id, str):
        return None
    if type(pid) is not int or type(started) is not int or pid < 1:
        return None
    return ProcessName(host, boot_id, pid, started)


def this_process() -> ProcessName:
    """Return the name of the calling process."""
    return _name_of(os.getpid())


def is_here(process: ProcessName) -> bool:
    """Tell whether a process would be seen from here: of this boot and process table."""
    here = this_process()
    if here.boot_id:
        return process.boot_id == here.boot_id
    return (process.host, process.boot_id) == (here.host, "")


def is_gone(process: ProcessName) -> bool:
    """Tell whether a process certainly runs no more; of one that would not be seen, nothing is certain."""
    if not is_here(process):
        return False  # not even after a reboot here: two machines may have one host name
    found = _state_and_start(process.pid)
    if found is None:
        return not _is_in_use(process.pid)
    state, started = found
    return state in ("Z", "X") or started != process.started  # a zombie only waits for its parent


@lru_cache(maxsize=4)
def _name_of(pid: int) -> ProcessName:
    """Return the name of a process of this machine; by number, since a fork has another one."""
    _, started = _state_and_start(pid) or ("", 0)
    return ProcessName(socket.gethostname(), _boot_id(), pid, started)


@lru_cache(maxsize=1)
def _boot_id() -> str:
    boot, table = "", ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        table = os.readlink("/proc/self/ns/pid")
    return f"{boot} {table}".strip()


def _state_and_start(pid: int) -> tuple[str, int] | None:
    """Return the state of a process and its start in ticks after the boot; None if nobody tells."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    state, *fields = stat[stat.rindex(")") + 2 :].split()
    return state, int(fields[18])


def _is_in_use(pid: int) -> bool:
    """Tell whether a number belongs to a process, also where the table hides those of other users."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):  # no process has such a number
        return False
    except PermissionError:
        pass
    return True
