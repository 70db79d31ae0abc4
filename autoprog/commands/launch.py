"""Start or continue a run, show its events, and answer signals."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType

from rich.console import Console

from autoprog.commands.configure import Configured
from autoprog.commands.flags import NOT_FOR_RESUME
from autoprog.errors import ConfigError
from autoprog.events import Event
from autoprog.runs import RunFolder, load_run, new_run_id
from autoprog.schedule import GrowthSchedule
from autoprog.settings import RunManifest, RunSettings
from autoprog.train.feed import open_data
from autoprog.train.trainer import StopRequest
from autoprog.ui.display import make_display

__all__ = ["Configure", "carry_out", "open_run", "stop_on_signals"]

Configure = Callable[[argparse.Namespace], Configured]

_VERSIONED = ("autoprog", "torch", "timm", "optuna", "numpy")
_KEPT_ON_RESUME = {"command", "debug", "resume", "runs_dir", "quiet", "schedule"}


def open_run(args: argparse.Namespace, configure: Configure) -> tuple[Configured, RunFolder]:
    """Return what to run and its folder: a new one, or the one that ``--resume`` names.

    Nothing is written before everything given has been checked.

    Raises:
        ConfigError: If anything given is unknown, breaks a law, or does not go with ``--resume``.
        RunError: If the folder cannot be written or another process writes it.
    """
    if args.resume is None:
        return _create(args, configure(args))
    if args.resume != "auto":
        return _reopen(args, Path(args.resume))
    configured = configure(args)
    found = _unfinished(Path(args.runs_dir), configured.settings)
    if found is None:
        return _create(args, configured)
    return configured, RunFolder.reopen(found)


def carry_out(
    events: Iterator[Event],
    folder: RunFolder,
    console: Console,
    quiet: bool,
    schedule: GrowthSchedule | None,
) -> None:
    """Write and show all events of a run."""
    try:
        with make_display(console, quiet, schedule=schedule) as display:
            for event in events:
                folder.append(event)
                display.show(event)
    finally:
        folder.close()


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a request to stop after a checkpoint; a second one ends at once."""
    request = StopRequest()

    def note(number: int, _: FrameType | None) -> None:
        if request.signal_name is not None:
            sys.exit(128 + number)
        request.signal_name = signal.Signals(number).name

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _create(args: argparse.Namespace, configured: Configured) -> tuple[Configured, RunFolder]:
    settings, now = configured.settings, datetime.now()
    manifest = RunManifest(
        run_id=_free_id(Path(args.runs_dir), new_run_id(settings.kind, settings.model.model, now)),
        created=now.astimezone().isoformat(timespec="seconds"),
        argv=tuple(sys.argv),
        versions=_versions(),
        git=_git_state(),
        settings=settings,
    )
    folder = RunFolder.create(Path(args.runs_dir), manifest)
    if configured.schedule is not None:
        folder.write_schedule(configured.schedule)
    return configured, folder


def _free_id(runs_dir: Path, run_id: str) -> str:
    """Return the name, numbered where two runs start in the same second."""
    names = [run_id, *(f"{run_id}-{number}" for number in range(2, 100))]
    return next(name for name in names if not (runs_dir / name).exists())


def _reopen(args: argparse.Namespace, path: Path) -> tuple[Configured, RunFolder]:
    """Go on with a run by what its folder says."""
    run = load_run(path)
    settings = run.manifest.settings
    if settings.kind != args.command:
        cure = f"use autoprog {settings.kind} --resume {path}"
        raise ConfigError("--resume", "", f"must be a {args.command} run", str(path), cure)
    if run.result is not None:
        cure = f"see autoprog show {path}"
        raise ConfigError("--resume", "", "must be an unfinished run", str(path), cure)
    given = {name for name in vars(args) if name not in _KEPT_ON_RESUME}
    if wrong := sorted(given - NOT_FOR_RESUME):
        flag = "--" + wrong[0].replace("_", "-")
        cure = "leave it out, or start a new run"
        raise ConfigError(flag, "", "must not be given with --resume RUN", cure=cure)
    settings = settings.model_copy(update={name: getattr(args, name) for name in given})
    opened = open_data(settings.data)
    return Configured(settings, opened, run.schedule), RunFolder.reopen(path)


def _unfinished(runs_dir: Path, settings: RunSettings) -> Path | None:
    """Return the newest unfinished run with these settings."""
    folders = sorted((path.parent for path in runs_dir.glob("*/run.yaml")), reverse=True)
    for folder in folders:
        if not (folder / "result.json").exists():
            theirs = load_run(folder).manifest.settings
            if _same_run(theirs, settings):
                return folder
    return None


def _same_run(one: RunSettings, other: RunSettings) -> bool:
    return one.model_dump(exclude=NOT_FOR_RESUME) == other.model_dump(exclude=NOT_FOR_RESUME)


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _VERSIONED:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _git_state() -> dict[str, str | bool]:
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
