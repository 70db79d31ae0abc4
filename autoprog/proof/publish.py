"""A verification as it is published: every number and its curve, and no weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from autoprog.errors import ConfigError, RunError
from autoprog.jsonlines import read_rows
from autoprog.proof.verify import LOCK_FILE
from autoprog.runs import CURVE_FILE, effective_rows

__all__ = ["check_target", "publish"]

_COPIED = ("run.yaml", "schedule.yaml", "best.yaml", "decisions.jsonl", "costs.json", "result.json")
_CURVE = ("run_started", "progressed", "evaluated")


def check_target(folder: Path) -> None:
    """Refuse a folder that holds something else.

    Raises:
        ConfigError: If it is a file, or holds anything but what was published of a verification.
    """
    if folder.is_file():
        raise ConfigError("--publish", "", "must be a folder", str(folder))
    is_published = (folder / "verify.json").exists() and not (folder / LOCK_FILE).exists()
    if folder.is_dir() and any(folder.iterdir()) and not is_published:
        cure = "give a new one, or one published before"
        raise ConfigError("--publish", "", "must be empty", str(folder), cure)


def publish(verification: Path, target: Path) -> None:
    """Copy what a complete verification came to.

    Raises:
        RunError: If it cannot be written.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
        for old in target.glob("seed-*"):
            shutil.rmtree(old)
        for path in sorted(verification.glob("seed-*/*/result.json")):
            _publish_run(path.parent, target / path.parent.parent.name)
        for path in [*verification.glob("*.yaml"), verification / "verify.json"]:
            shutil.copyfile(path, target / path.name)
    except OSError as error:
        raise RunError(f"{target}: cannot be written: {error.strerror}") from None


def _publish_run(run: Path, target: Path) -> None:
    target.mkdir()
    for name in _COPIED:
        if (run / name).exists():
            shutil.copyfile(run / name, target / name)
    rows = effective_rows(read_rows(run / "events.jsonl"))
    lines = [json.dumps(row) + "\n" for row in rows if row["kind"] in _CURVE]
    (target / CURVE_FILE).write_text("".join(lines), encoding="utf-8")
