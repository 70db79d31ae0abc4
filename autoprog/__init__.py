"""Automated progressive learning for Vision Transformers.

The names below load on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoprog.api import run_search, run_training
    from autoprog.runs import Run, load_run
    from autoprog.schedule import GrowthSchedule, load_schedule

__all__ = ["GrowthSchedule", "Run", "load_run", "load_schedule", "run_search", "run_training"]

_HOMES = {
    "GrowthSchedule": "autoprog.schedule",
    "Run": "autoprog.runs",
    "load_run": "autoprog.runs",
    "load_schedule": "autoprog.schedule",
    "run_search": "autoprog.api",
    "run_training": "autoprog.api",
}


def __getattr__(name: str) -> Any:
    """Import a public name where it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
