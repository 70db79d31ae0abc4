"""From the words of the command line to the program."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from os import environ
from pathlib import Path

from autoprog.errors import ConfigError
from autoprog.locate import is_word, locate_run
from autoprog.ui.inspect.app import POLL_SECONDS, InspectApp
from autoprog.ui.inspect.follow import Follower, PlanFollower, RunFollower
from autoprog.ui.inspect.listing import Listing
from autoprog.ui.inspect.search_pane import Importances
from autoprog.ui.subject import find_subject

__all__ = ["inspect", "make_app"]

SCREENSHOT_POLL_SECONDS = 0.1


def inspect(
    targets: Sequence[str],
    runs_dir: str,
    importances: Importances | None = None,
    screenshots: Path | None = None,
    size: tuple[int, int] = (80, 24),
) -> list[Path]:
    """Open the program in this terminal, until it is left; or write pictures of its views.

    Args:
        targets: Run folders, folders of runs, schedule files and presets; the first one is open at once.
        runs_dir: Folder of the runs to choose from where none is named.
        importances: Computes parameter importances from a journal.
        screenshots: Folder for the pictures, which need no terminal.
        size: Their columns and rows.

    Returns:
        The pictures.

    Raises:
        ConfigError: If a target is none of these, or this is no terminal.
        RunError: If pictures cannot be made.
    """
    poll_seconds = POLL_SECONDS if screenshots is None else SCREENSHOT_POLL_SECONDS
    app = make_app(targets, runs_dir, poll_seconds, importances)
    if screenshots is not None:
        from autoprog.ui.inspect.screenshots import take_screenshots

        return take_screenshots(app, screenshots, size)
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or environ.get("TERM") == "dumb":
        cure = "autoprog show prints the same views anywhere"
        raise ConfigError("inspect", "", "must be run in a terminal", cure=cure)
    app.run()
    return []


def make_app(
    targets: Sequence[str],
    runs_dir: str,
    poll_seconds: float = POLL_SECONDS,
    importances: Importances | None = None,
) -> InspectApp:
    """Return the program for these targets, which reads what has changed every `poll_seconds`.

    Where two runs or more are named, they are marked from the start.

    Raises:
        ConfigError: If a target is nothing that can be looked at.
    """
    folders = [Path(target) for target in targets if _is_runs_folder(Path(target))]
    opened = [target for target in targets if Path(target) not in folders]
    opened = [str(locate_run(t, runs_dir)) if is_word(t, runs_dir) else t for t in opened]
    followers = [_follower(target) for target in opened]
    named = [Path(target) for target in opened]
    if len(folders) > 1:
        raise ConfigError("inspect", "", "must have one folder of runs at most", str(folders[1]))
    if not folders and len(named) < 2:
        folders = [_beside(named, runs_dir)]
    listing = Listing(folders[0] if folders else None, named)
    runs = [path for path in named if path.is_dir()]
    marked = runs if len(runs) > 1 else []
    return InspectApp(followers, listing, poll_seconds, marked, importances)


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
