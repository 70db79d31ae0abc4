"""What a run is called, and what it was made with: versions and the commit."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import subprocess
from datetime import datetime
from pathlib import PurePath

__all__ = ["git_state", "new_run_id", "versions"]

_VERSIONED = ("autoprog", "torch", "timm", "optuna", "numpy")


_MOST_LETTERS = 40
"""Of a schedule's name in that of a folder, which file systems bound."""


def new_run_id(kind: str, model: str, schedule_from: str | None, now: datetime) -> str:
    """Return the name of a run's folder, such as ``2026-11-22-143005-train-deit-s-linear``.

    Args:
        kind: ``train`` or ``search``.
        model: Short name, or that of timm.
        schedule_from: A preset, or the path of a schedule file, of which the stem counts; None for a search.
        now: When the run begins.
    """
    schedule = re.sub(r"\.ya?ml$", "", PurePath(schedule_from or "").name)
    words = (_plain(model), _plain(schedule)[:_MOST_LETTERS].strip("-."))
    return "-".join([f"{now:%Y-%m-%d-%H%M%S}", kind, *filter(None, words)])


def _plain(name: str) -> str:
    """Return a name without what a shell, a file system or ``scp`` takes for something else."""
    return re.sub(r"[^\w.]+", "-", name).strip("-.")


def versions() -> dict[str, str]:
    """Return the versions of Python and of what decides a run's numbers."""
    found = {"python": platform.python_version()}
    for name in _VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def git_state() -> dict[str, str]:
    """Return the commit of the working directory; empty outside git.

    Not whether there are changes: ``git status`` runs programs that the configuration of a repository
    names (file-system monitors, clean filters), and the working directory may be somebody else's.
    """
    command = ("git", "rev-parse", "--verify", "--quiet", "HEAD")
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return {}
    commit = done.stdout.strip()
    return {"commit": commit} if re.fullmatch("[0-9a-f]{40,64}", commit) else {}
