"""A verification as it is published: every number and its curve, and no weights."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from autoprog.errors import ConfigError, RunError
from autoprog.jsonlines import read_rows
from autoprog.openfiles import open_regular, replacing, write_atomically
from autoprog.proof.pairs import Verification
from autoprog.proof.rounds import run_folders
from autoprog.proof.verify import LOCK_FILE, load
from autoprog.runs import CURVE_FILE, effective_rows

__all__ = ["check_target", "publish"]

_COPIED = ("run.yaml", "schedule.yaml", "best.yaml", "decisions.jsonl", "costs.json", "result.json")
_CURVE = ("run_started", "progressed", "evaluated")


def check_target(folder: Path) -> None:
    """Refuse a folder that holds something else.

    Raises:
        ConfigError: If it is a file, or holds anything but what was published of a verification.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError("--publish", "", "must be a folder", str(folder))
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / "verify.json").exists() or (folder / LOCK_FILE).exists():
        cure = "give a new one, or one published before"
        raise ConfigError("--publish", "", "must be empty", str(folder), cure)
    published = load(folder)
    for name in ("verify.json", *published.plan.files()):
        if not _is_missing_or(stat.S_ISREG, folder / name):
            raise ConfigError("--publish", name, "must be a regular file", str(folder / name))
    for run in (folder / name for name in _run_names(published)):
        if not _is_missing_or(stat.S_ISDIR, run):
            raise ConfigError("--publish", run.name, "must be a folder", str(run))
        for path in sorted(run.iterdir()) if run.exists() else ():
            is_ours = path.name in (*_COPIED, CURVE_FILE)
            if not (is_ours and _is_missing_or(stat.S_ISREG, path)):
                law = "must hold nothing but what was published"
                raise ConfigError("--publish", run.name, law, path.name, "move it away")


def publish(verification: Path, target: Path) -> None:
    """Copy what a complete verification came to, in place of what was published into `target` before.

    Raises:
        ConfigError: If `target` holds anything else.
        RunError: If it cannot be written.
    """
    check_target(target)
    found = load(verification)
    try:
        target.mkdir(parents=True, exist_ok=True)
        if (target / "verify.json").exists():
            _remove_runs(target, load(target))
        for name in _run_names(found):
            for run in run_folders(verification / name):
                if (run / "result.json").exists():
                    _publish_run(run, target / name)
        for name in (*found.plan.files(), "verify.json"):
            _copy(verification / name, target / name)
    except OSError as error:
        where = error.filename or target
        raise RunError(f"{where}: cannot be published: {error.strerror}") from None


def _run_names(verification: Verification) -> Iterator[str]:
    """Yield the names of the folders that hold a run each."""
    for pair in verification.pairs:
        yield from (f"seed-{pair.seed}-{arm}" for arm in pair.order)


def _remove_runs(target: Path, published: Verification) -> None:
    """Remove the runs that were published into a folder, file by file."""
    for run in (target / name for name in _run_names(published)):
        for name in (*_COPIED, CURVE_FILE):
            (run / name).unlink(missing_ok=True)
        if run.exists():
            run.rmdir()


def _publish_run(run: Path, target: Path) -> None:
    target.mkdir()
    for name in _COPIED:
        if (run / name).exists():
            _copy(run / name, target / name)
    rows = effective_rows(read_rows(run / "events.jsonl"))
    lines = [json.dumps(row) + "\n" for row in rows if row["kind"] in _CURVE]
    write_atomically(target / CURVE_FILE, "".join(lines))


def _copy(source: Path, target: Path) -> None:
    """Copy a file; a link, which may lead to what nobody wants to publish, is an OSError."""
    with open_regular(source, follow_links=False) as file, replacing(target) as copy:
        shutil.copyfileobj(file, copy)


def _is_missing_or(is_kind: Callable[[int], bool], path: Path) -> bool:
    """Tell whether a path is of a kind, such as :func:`stat.S_ISREG`, and no link; or is missing."""
    try:
        return is_kind(path.lstat().st_mode)
    except FileNotFoundError:
        return True
