"""The events of a run as they come in: each byte of the log is read once."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from autoprog.errors import ConfigError
from autoprog.eventlog import (
    MOST_PROGRESS,
    WHOLE_BYTES,
    Row,
    RowCounter,
    effective_rows,
    event_of,
    event_row,
    picked,
)
from autoprog.jsonlines import LONGEST_ROW_BYTES
from autoprog.openfiles import NotRegularFileError, open_regular
from autoprog.ui.state import RunState, fold

__all__ = ["EventLog", "open_log", "parse_rows"]

CHUNK_BYTES = 1 << 23


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
        self._counter = RowCounter(str(path))

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
        file = open_log(self._path)
        if file is None:
            self._forget()
            return False
        with file:
            return self._read_on(file)

    def _read_on(self, file: IO[bytes]) -> bool:
        size = os.fstat(file.fileno()).st_size
        if size < self._offset:
            self._forget()
        if not self._spacing_bytes and size - self._offset > WHOLE_BYTES:
            self._spacing_bytes = (size - self._offset) // MOST_PROGRESS
        lines, length = self._chunk(file)
        new = parse_rows(picked(lines, self._spacing_bytes), str(self._path), self._counter)
        self._take(new)
        self._offset += length
        if not length:
            self._spacing_bytes = 0
        return length > 0

    def _forget(self) -> None:
        self._rows, self._offset, self._spacing_bytes = [], 0, 0
        self._counter = RowCounter(str(self._path))
        self.state = self._start

    def _chunk(self, file: IO[bytes]) -> tuple[list[bytes], int]:
        """Return the next whole lines and their length in bytes."""
        file.seek(self._offset)
        data = file.read(CHUNK_BYTES)
        while b"\n" not in data and (more := file.read(CHUNK_BYTES)):
            data += more
            if len(data) > LONGEST_ROW_BYTES:
                law = f"must hold no line of more than {LONGEST_ROW_BYTES / 2**20:g} MiB"
                raise ConfigError(str(self._path), "", law)
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


def parse_rows(lines: Iterable[bytes], where: str, counter: RowCounter | None = None) -> list[Row]:
    """Return the rows of whole lines.

    Raises:
        ConfigError: If a line is no row of an event log.
    """
    counter = counter or RowCounter(where)
    rows: list[Row] = []
    for line in lines:
        rows.append(event_row(line, where))
        counter.add(rows[-1], len(line))
    return rows


def open_log(path: Path) -> IO[bytes] | None:
    """Open a log; None where it is not there yet.

    Raises:
        ConfigError: If it is no regular file.
    """
    try:
        return open_regular(path)
    except FileNotFoundError:
        return None
    except NotRegularFileError as error:
        law = f"must be a regular file, but it is {error.strerror}"
        raise ConfigError(str(path), "", law) from None


def _thinned(rows: list[Row]) -> list[Row]:
    """Return the rows without every second one of progress where there are too many of them."""
    progress = [index for index, row in enumerate(rows) if row["kind"] == "progressed"]
    if len(progress) <= 4 * MOST_PROGRESS:
        return rows
    gone = set(progress[1:-1:2])
    return [row for index, row in enumerate(rows) if index not in gone]
