"""Logs of JSON lines: appended by one process, read by any at any time, cut where a crash tore a line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autoprog.errors import ConfigError

__all__ = ["append_durably", "cut_torn_tail", "effective_rows", "read_json", "rows_of"]


def append_durably(path: Path, row: dict[str, Any]) -> None:
    """Append one row and wait until it is on disk."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the JSON rows of a log; a half-written last line is left out."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith("\n"):
                return
            yield _json_object(line, str(path), f"line {number}")


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object."""
    return _json_object(path.read_text(encoding="utf-8", errors="replace"), str(path), "")


def cut_torn_tail(path: Path) -> None:
    """Cut a half-written last line, if there is one."""
    if path.exists():
        data = path.read_bytes()
        end = data.rfind(b"\n") + 1
        if end != len(data):
            os.truncate(path, end)


def effective_rows(rows: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows that hold after all attempts.

    An attempt that starts at step s goes on from the checkpoint of step s: rows that came after the
    ``checkpoint_saved`` row of that step are replayed and dropped; from step 0, all are. A crash may
    have lost that row; then the rows of later steps go.
    """
    kept: list[dict[str, Any]] = []
    for row in rows:
        if row["kind"] == "run_started" and row["attempt"] > 0:
            del kept[_replay_start(kept, row["step"]) :]
        kept.append(row)
    return kept


def _replay_start(kept: list[dict[str, Any]], step: int) -> int:
    for index in range(len(kept) - 1, -1, -1):
        if kept[index]["kind"] == "checkpoint_saved" and kept[index]["step"] == step:
            return index + 1
    if step == 0:
        return 0
    later = (index for index, row in enumerate(kept) if row["step"] > step)
    return next(later, len(kept))


def _json_object(text: str, where: str, key: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise ConfigError(where, key, "must be a JSON object")
    return value
