"""Logs of one JSON object a line: appended to disk, and read whatever a crash has left."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from autoprog.errors import ConfigError
from autoprog.files import read_text
from autoprog.openfiles import NotRegularFileError, open_for_appending, open_regular

__all__ = [
    "LONGEST_ROW_BYTES",
    "append_row",
    "cut_torn_tail",
    "json_object",
    "read_lines",
    "read_object",
    "read_rows",
]

_BLOCK_BYTES = 2**16

LONGEST_ROW_BYTES = 16 * 2**20
_MOST_VALUES = 300_000
_MOST_LOG_BYTES = 32 * 2**20
"""In one object: three lists with a number for each of 100,000 classes."""


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append a row and wait until it is on disk."""
    with open_for_appending(path) as file:
        file.write(json.dumps(row, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_rows(path: Path, most: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a log, none of one that is missing; a half-written last line is left out.

    Args:
        path: The log.
        most: The most rows that it may have; all of them together then have at most 32 MiB.

    Raises:
        ConfigError: If it is no regular file, too long, or any other line is no JSON object.
    """
    num_bytes = 0
    for number, line in enumerate(read_lines(path), 1):
        num_bytes += len(line)
        if most is not None and number > most:
            raise ConfigError(str(path), "", f"must have at most {most:,} lines")
        if most is not None and num_bytes > _MOST_LOG_BYTES:
            raise ConfigError(str(path), "", f"must have at most {_MOST_LOG_BYTES / 2**20:g} MiB")
        yield json_object(line, str(path), f"line {number}")


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield the whole lines of a log, none of one that is missing.

    Raises:
        ConfigError: If it is no regular file, or a line is too long.
    """
    try:
        file = open_regular(path)
    except FileNotFoundError:
        return
    except NotRegularFileError as error:
        law = f"must be a regular file, but it is {error.strerror}"
        raise ConfigError(str(path), "", law) from None
    except OSError as error:
        raise ConfigError(str(path), "", f"must be a readable file: {error.strerror}") from None
    with file:
        for number in itertools.count(1):
            line = file.readline(LONGEST_ROW_BYTES)
            if len(line) == LONGEST_ROW_BYTES:
                law = f"must be a JSON object of at most {LONGEST_ROW_BYTES / 2**20:g} MiB"
                raise ConfigError(str(path), f"line {number}", law)
            if not line.endswith(b"\n"):
                return
            yield line


def read_object(path: Path) -> dict[str, Any]:
    """Read a file of one JSON object.

    Raises:
        ConfigError: If it cannot be read or holds anything else.
    """
    return json_object(read_text(path), str(path))


def cut_torn_tail(path: Path) -> None:
    """Cut a half-written last line, so that the next row begins on a line of its own.

    Raises:
        OSError: If it is no regular file, or cannot be written.
    """
    with suppress(FileNotFoundError), open_regular(path, follow_links=False) as file:
        end = whole = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - _BLOCK_BYTES)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            end = start + found + 1 if found >= 0 else start
            if found >= 0:
                break
        if end != whole:
            os.truncate(path, end)


def json_object(text: str | bytes, where: str, key: str = "") -> dict[str, Any]:
    """Parse one JSON object.

    Args:
        text: UTF-8 where it is bytes; what is not is replaced.
        where: Names the file in errors.
        key: Names the place in it.

    Raises:
        ConfigError: If it is no JSON, no object, too large, nested too deep, or holds NaN or an infinity.
    """
    decoded = text if isinstance(text, str) else text.decode(errors="replace")
    if sum(map(decoded.count, ",[{")) > _MOST_VALUES:  # no value without one of these before it
        raise ConfigError(where, key, f"must hold at most {_MOST_VALUES:,} values")
    try:
        value = json.loads(decoded, parse_constant=_refuse_constant)
    except _NotANumberError as error:
        raise ConfigError(where, key, f"must hold finite numbers, but got {error}") from None
    except (ValueError, RecursionError):  # also an integer of thousands of digits
        value = None
    if not isinstance(value, dict):
        raise ConfigError(where, key, "must be a JSON object")
    return value


class _NotANumberError(ValueError):
    """``NaN`` or ``Infinity``, which Python writes and reads but JSON does not know."""


def _refuse_constant(name: str) -> None:
    raise _NotANumberError(name)
