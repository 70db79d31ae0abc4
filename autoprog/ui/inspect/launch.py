"""From the words of the command line to the program."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from os import environ
from pathlib import Path

from autoprog.errors import ConfigError
from autoprog.ui.inspect.app import POLL_SECONDS, InspectApp
from autoprog.ui.inspect.follow import Follower, PlanFollower, RunFollower
from autoprog.ui.inspect.listing import Listing
from autoprog.ui.subject import find_subject

__all__ = ["inspect", "make_app"]


def inspect(targets: Sequence[str], runs_dir: str) -> None:
    """Open the program in this terminal, until it is left.

    Args:
        targets: Run folders, folders of runs, schedule files and presets; the first one is open at once.
        runs_dir: Folder of the runs to choose from where none is named.

    Raises:
        ConfigError: If a target is none of these, or this is no terminal.
    """
    app = make_app(targets, runs_dir)
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or environ.get("TERM") == "dumb":
        cure = "autoprog show prints the same views anywhere"
        raise ConfigError("inspect", "", "must be run in a terminal", cure=cure)
    app.run()


def make_app(
    targets: Sequence[str], runs_dir: str, poll_seconds: float = POLL_SECONDS
) -> InspectApp:
    """Return the program for these targets, which reads what has changed every `poll_seconds`.

    Raises:
        ConfigError: If a target is nothing that can be looked at.
    """
    folders = [Path(target) for target in targets if _is_runs_folder(Path(target))]
    opened = [target for target in targets if Path(target) not in folders]
    followers = [_follower(target) for target in opened]
    named = [Path(target) for target in opened]
    if len(folders) > 1:
        raise ConfigError("inspect", "", "must have one folder of runs at most", str(folders[1]))
    if not folders and len(named) < 2:
        folders = [_beside(named, runs_dir)]
    listing = Listing(folders[0] if folders else None, named)
    return InspectApp(followers[0] if followers else None, listing, poll_seconds)


def _is_runs_folder(path: Path) -> bool:
    return path.is_dir() and not (path / "run.yaml").is_file() and any(path.glob("*/run.yaml"))


def _beside(named: Sequence[Path], runs_dir: str) -> Path:
    """Return the folder that holds the one run that is named, so that its neighbours are at hand."""
    return named[0].parent if named and named[0].is_dir() else Path(runs_dir)


def _follower(target: str) -> Follower:
    path = Path(target)
    if (path / "run.yaml").is_file():
        return RunFollower(path)
    return PlanFollower(target, find_subject(target, None, None, None, time.time()))
