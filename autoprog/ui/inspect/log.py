"""The events of a run as they come in: each byte of the log is read once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from autoprog.errors import ConfigError
from autoprog.runs import effective_rows, event_of
from autoprog.ui.state import RunState, fold

__all__ = ["EventLog", "parse_rows", "picked"]

Row = dict[str, Any]

CHUNK_BYTES = 1 << 23
WHOLE_BYTES = 1 << 22
"""A backlog up to this size is taken in row by row; of a longer one, progress is picked evenly."""
MOST_PROGRESS = 4096
_PROGRESS = b'"kind": "progressed"'  # in a text of JSON a quote has a backslash before it


class EventLog:
    """Follows ``events.jsonl``; :attr:`state` is the fold of all rows that hold.

    Args:
        path: The log; it may not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start = self.state = RunState()
        self._rows: list[Row] = []
        self._offset = 0
        self._spacing_bytes = 0

    def begin(self, start: RunState) -> None:
        """Fold from another state before the first event, because more is known of the run."""
        if start != self._start:
            self._start = start
            self.state = fold(map(event_of, self._rows), start)

    def advance(self) -> bool:
        """Take in the next rows; return whether there are more.

        Raises:
            ConfigError: If a whole line is no event.
        """
        size = self._path.stat().st_size if self._path.exists() else 0
        if size < self._offset:
            self._forget()
        if not self._spacing_bytes and size - self._offset > WHOLE_BYTES:
            self._spacing_bytes = (size - self._offset) // MOST_PROGRESS
        lines, length = self._chunk()
        self._take(parse_rows(picked(lines, self._spacing_bytes), str(self._path)))
        self._offset += length
        if not length:
            self._spacing_bytes = 0
        return length > 0

    def _forget(self) -> None:
        self._rows, self._offset, self._spacing_bytes = [], 0, 0
        self.state = self._start

    def _chunk(self) -> tuple[list[bytes], int]:
        """Return the next whole lines and their length in bytes."""
        if not self._path.exists():
            return [], 0
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read(CHUNK_BYTES)
            while b"\n" not in data and (more := file.read(CHUNK_BYTES)):
                data += more
        length = data.rfind(b"\n") + 1
        return data[:length].split(b"\n")[:-1], length

    def _take(self, new: list[Row]) -> None:
        if any(row["kind"] == "run_started" and row["attempt"] > 0 for row in new):
            self._rows = effective_rows(iter([*self._rows, *new]))
            self.state = fold(map(event_of, self._rows), self._start)
        else:
            self.state = fold(map(event_of, new), self.state)
            self._rows += new
        self._rows = _thinned(self._rows)


def parse_rows(lines: Iterable[bytes], where: str) -> list[Row]:
    """Return the rows of whole lines.

    Raises:
        ConfigError: If a line is no row of an event log.
    """
    return [_row(line, where) for line in lines]


def picked(lines: Iterable[bytes], spacing_bytes: int) -> Iterator[bytes]:
    """Yield all lines but those of progress that follow another within `spacing_bytes`.

    The first and the last of each stretch of progress stay.
    """
    last, since = b"", spacing_bytes
    for line in lines:
        if _PROGRESS not in line:
            if last:
                yield last
            last, since = b"", spacing_bytes
            yield line
        elif since >= spacing_bytes:
            last, since = b"", 0
            yield line
        else:
            last = line
            since += len(line)
    if last:
        yield last


def _row(line: bytes, where: str) -> Row:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError):
        row = None
    if not isinstance(row, dict) or not {"kind", "attempt", "step"} <= row.keys():
        raise ConfigError(where, "", "must hold a JSON object of an event in every line")
    return row


def _thinned(rows: list[Row]) -> list[Row]:
    """Return the rows without every second one of progress where there are too many of them."""
    progress = [index for index, row in enumerate(rows) if row["kind"] == "progressed"]
    if len(progress) <= 4 * MOST_PROGRESS:
        return rows
    gone = set(progress[1:-1:2])
    return [row for index, row in enumerate(rows) if index not in gone]
