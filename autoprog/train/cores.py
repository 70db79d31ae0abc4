"""The processor cores of this process."""

from __future__ import annotations

import argparse
import os
import platform
import re
from contextlib import suppress
from pathlib import Path

from autoprog.bounds import Processes, range_of

__all__ = ["CORES_VARIABLE", "processor_name", "usable_cores"]


CORES_VARIABLE = "PYTHON_CPU_COUNT"
"""How many cores a process may use, whatever the machine has; Python 3.13 goes by it as well."""


def usable_cores() -> int:
    """Return the number of cores that this process may use: what the environment says, else its affinity."""
    given = os.environ.get(CORES_VARIABLE, "")
    with suppress(argparse.ArgumentTypeError):  # what is no number of cores says nothing
        return int(range_of(Processes)(given))
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the model of the processor as Linux tells it, elsewhere what Python knows."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1) if found else platform.processor() or platform.machine()
