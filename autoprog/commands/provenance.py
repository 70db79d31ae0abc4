"""What a run was made with: versions and the state of git."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess

__all__ = ["git_state", "versions"]

_VERSIONED = ("autoprog", "torch", "timm", "optuna", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of Python and of what decides a run's numbers."""
    found = {"python": platform.python_version()}
    for name in _VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def git_state() -> dict[str, str | bool]:
    """Return the commit of the working directory and whether it has changes; empty outside git."""
    try:
        commit = _git("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return {}


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()
