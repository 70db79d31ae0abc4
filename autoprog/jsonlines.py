"""Logs of one JSON object a line: appended to disk, and read whatever a crash has left."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from autoprog.errors import ConfigError

__all__ = ["append_row", "cut_torn_tail", "read_object", "read_rows"]


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append a row and wait until it is on disk."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a log; a half-written last line is left out.

    Raises:
        ConfigError: If any other line is no JSON object.
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith("\n"):
                return
            yield _json_object(line, str(path), f"line {number}")


def read_object(path: Path) -> dict[str, Any]:
    """Read a file of one JSON object.

    Raises:
        ConfigError: If it holds anything else.
    """
    return _json_object(path.read_text(encoding="utf-8", errors="replace"), str(path), "")


def cut_torn_tail(path: Path) -> None:
    """Cut a half-written last line, so that the next row begins on a line of its own."""
    if path.exists():
        data = path.read_bytes()
        end = data.rfind(b"\n") + 1
        if end != len(data):
            os.truncate(path, end)


def _json_object(text: str, where: str, key: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise ConfigError(where, key, "must be a JSON object")
    return value
