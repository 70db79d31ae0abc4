"""What a new run records of itself: name, versions, commit, settings that hold anywhere, images."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import subprocess
import sys
from datetime import datetime
from pathlib import PurePath
from typing import TYPE_CHECKING

from autoprog.commands.flags import absolute
from autoprog.data.dataset import OpenedData
from autoprog.files import FileModel
from autoprog.settings import RecordedData, RunManifest, RunSettings

if TYPE_CHECKING:
    from autoprog.commands.configure import Configured

__all__ = [
    "absolute_paths",
    "git_state",
    "new_manifest",
    "new_run_id",
    "recorded_data",
    "with_absolute_paths",
]

_VERSIONED = ("autoprog", "torch", "timm", "optuna", "numpy")
_MAX_LETTERS = 40
"""Of a schedule's name in that of a folder, which file systems bound."""


def new_manifest(configured: Configured) -> RunManifest:
    """Return what ``run.yaml`` holds of a run that begins now."""
    settings, now = configured.settings, datetime.now()
    # What decides a run's numbers: another version of any of these may round otherwise.
    found = {"python": platform.python_version()}
    for name in _VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return RunManifest(
        run_id=new_run_id(settings.kind, settings.model.model, settings.schedule_from, now),
        created=now.astimezone().isoformat(timespec="seconds"),
        argv=("autoprog", *sys.argv[1:]),  # for people; nothing reads it back
        versions=found,
        git=git_state(),
        settings=with_absolute_paths(settings),  # a resume may start in another folder
        data=recorded_data(configured.opened),
    )


def new_run_id(kind: str, model: str, schedule_from: str | None, now: datetime) -> str:
    """Return the name of a run's folder, such as ``2026-11-22-143005-train-deit-s-linear``.

    Args:
        kind: ``train`` or ``search``.
        model: Short name, or that of timm.
        schedule_from: A preset, or the path of a schedule file, of which the stem counts; None for a search.
        now: When the run begins.
    """
    schedule = re.sub(r"\.ya?ml$", "", PurePath(schedule_from or "").name)
    words = (_plain(model), _plain(schedule)[:_MAX_LETTERS].strip("-."))
    return "-".join([f"{now:%Y-%m-%d-%H%M%S}", kind, *filter(None, words)])


def _plain(name: str) -> str:
    """Return a name without what a shell, a file system or ``scp`` takes for something else."""
    return re.sub(r"[^\w.]+", "-", name).strip("-.")


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


def recorded_data(opened: OpenedData) -> RecordedData:
    """Return what a run records of its images."""
    return RecordedData(
        class_names=opened.class_names,
        num_train_images=len(opened.train),
        num_val_images=len(opened.val),
        digests=dict(opened.digests),
    )


def with_absolute_paths(settings: RunSettings) -> RunSettings:
    """Return settings whose paths mean the same from every folder, as a run records them."""
    search = settings.search
    if search is not None:
        search = search.model_copy(update=absolute_paths(search, "costs_from"))
    changes = absolute_paths(settings, "initial_checkpoint", "cache")
    data = settings.data.model_copy(update=absolute_paths(settings.data, "dir", "data_dir"))
    return settings.model_copy(update={**changes, "data": data, "search": search})


def absolute_paths(values: FileModel, *names: str) -> dict[str, str]:
    """Return those of the fields that are paths, as paths that mean the same from every folder."""
    paths = {name: getattr(values, name) for name in names}
    return {k: absolute(path) for k, path in paths.items() if path not in (None, "auto")}
