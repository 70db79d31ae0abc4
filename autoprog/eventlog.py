"""``events.jsonl`` as a reader sees it, however long it is and whoever wrote it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import IO, Any

from autoprog import migration
from autoprog.errors import ConfigError
from autoprog.events import Event, decode
from autoprog.files import LONGEST_ROW_BYTES, json_object, read_lines

__all__ = [
    "MAX_PROGRESS",
    "WHOLE_BYTES",
    "Row",
    "RowCounter",
    "effective_rows",
    "event_of",
    "event_row",
    "picked",
    "read_chunk",
    "read_log",
]


Row = dict[str, Any]

WHOLE_BYTES = 1 << 22
"""A log up to this size is taken in row by row; of a longer one, progress is picked evenly."""
MAX_PROGRESS = 4096
CHUNK_BYTES = 1 << 23
_PROGRESS = (b'"kind": "step_logged"', b'"kind": "progressed"')  # as schema 2 and 1 call it

# Runs of 50,000 evaluations and searches of 20,000 trials are read; to draw more would take
# minutes.
_MAX_OFTEN = dict.fromkeys(
    ("step_logged", "evaluated", "checkpoint_saved", "warning_raised"), 50_000
)
_MAX_OFTEN["trial_finished"] = 20_000
_MAX_OFTEN["run_started"] = 1_000
_MAX_OF_OTHERS = 5_000
_MAX_BYTES = 64 * 2**20
_LONGEST_TIME = 40
# What says which rows a later attempt replays.
_OF_REPLAY = ("kind", "attempt", "step")


class RowCounter:
    """Counts what is read of one log, so that none takes all of the time or the memory.

    Args:
        where: Names the log in errors.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._rows: Counter[str] = Counter()
        self._num_bytes = 0

    def add(self, row: Row, num_bytes: int) -> None:
        """Count a row.

        Raises:
            ConfigError: If there are too many.
        """
        kind = row["kind"]
        self._rows[kind] += 1
        self._num_bytes += num_bytes
        most = _MAX_OFTEN.get(kind, _MAX_OF_OTHERS)
        if self._rows[kind] > most:
            raise ConfigError(self._where, "", f"must hold at most {most:,} events of a kind", kind)
        if self._num_bytes > _MAX_BYTES:
            problem = f"must hold at most {_MAX_BYTES / 2**20:g} MiB beside progress"
            raise ConfigError(self._where, "", problem)


def read_log(path: Path) -> list[Event]:
    """Return the events of a log that hold after all attempts, none of one that is missing.

    Raises:
        ConfigError: If it is no regular file, too large, or a whole line is no row of an event.
    """
    lines, where = read_lines(path), str(path)
    numbers: Iterable[int | None] = count(1)
    if path.exists() and (size := path.stat().st_size) > WHOLE_BYTES:
        lines, numbers = picked(lines, size // MAX_PROGRESS), iter(lambda: None, 0)
    counter = RowCounter(where)

    def rows() -> Iterator[Row]:
        for number, line in zip(numbers, lines, strict=False):
            row = event_row(line, where, "" if number is None else f"line {number}")
            counter.add(row, len(line))
            # Of a row its event alone is kept: other JSON may take 30 times the room of its text.
            yield {**{key: row[key] for key in _OF_REPLAY}, "event": event_of(row)}

    return [row["event"] for row in effective_rows(rows())]


def event_row(line: bytes, where: str, key: str = "") -> Row:
    """Return the row of a whole line.

    Raises:
        ConfigError: If it is no row of an event log.
    """
    row = migration.event(json_object(line, where, key))
    if not isinstance(row.get("kind"), str) or not all(
        type(row.get(name)) is int and 0 <= row[name] < 2**63 for name in ("attempt", "step")
    ):
        problem = "must be an event with its kind, and its attempt and step as whole numbers from 0"
        raise ConfigError(where, key, problem)
    time = row.get("time", "")
    if not isinstance(time, str) or len(time) > _LONGEST_TIME:
        problem = f"must be a text of at most {_LONGEST_TIME} letters"
        raise ConfigError(where, f"{key}: time" if key else "time", problem, time)
    return row


def event_of(row: Row) -> Event:
    """Return the event of a row of the log.

    Raises:
        ConfigError: If it is no event that this version of autoprog knows.
    """
    return decode({key: value for key, value in row.items() if key not in ("attempt", "time")})


def effective_rows(rows: Iterable[Row]) -> list[Row]:
    """Return the rows that hold after all attempts.

    An attempt that starts at step s goes on from the checkpoint of step s: rows that came after the
    ``checkpoint_saved`` row of that step are replayed and dropped; from step 0, all are. A crash may
    have lost that row; then the rows of later steps go. What trials before the training came to stays.
    """
    # One pass over a log of any length: checkpoints are found by their step, not by searching back.
    kept: list[Row] = []
    saved: list[tuple[int, int]] = []  # where in `kept` a checkpoint of which step is
    saved_at: defaultdict[int, list[int]] = defaultdict(list)  # where they are, by their step
    for row in rows:
        if row["kind"] == "run_started" and row["attempt"] > 0:
            step = row["step"]
            if saved_at[step]:
                start = saved_at[step][-1] + 1
            else:  # from the beginning, or a crash lost the row of the checkpoint
                later = (index for index, one in enumerate(kept) if one["step"] > step)
                start = next(later, len(kept)) if step else 0
            kept[start:] = [one for one in kept[start:] if one["kind"] == "trial_finished"]
            while saved and saved[-1][0] >= start:
                saved_at[saved.pop()[1]].pop()
        elif row["kind"] == "checkpoint_saved":
            saved.append((len(kept), row["step"]))
            saved_at[row["step"]].append(len(kept))
        kept.append(row)
    return kept


def picked(lines: Iterable[bytes], spacing_bytes: int) -> Iterator[bytes]:
    """Yield all lines but those of progress that follow another within `spacing_bytes`.

    The first and the last of each run of progress rows stay.
    """
    last, since = b"", spacing_bytes
    for line in lines:
        if not any(kind in line for kind in _PROGRESS):
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


def read_chunk(file: IO[bytes], where: str, offset: int) -> tuple[list[bytes], int]:
    """Return the next whole lines of a log from `offset` on and their length in bytes; none at its end.

    A half-written last line waits for the next call.

    Raises:
        ConfigError: If a line is too long to be one of ours.
    """
    file.seek(offset)
    data = file.read(CHUNK_BYTES)
    while b"\n" not in data and (more := file.read(CHUNK_BYTES)):
        data += more
        if len(data) > LONGEST_ROW_BYTES:
            problem = f"must hold no line of more than {LONGEST_ROW_BYTES / 2**20:g} MiB"
            raise ConfigError(where, "", problem)
    length = data.rfind(b"\n") + 1
    return data[:length].split(b"\n")[:-1], length
