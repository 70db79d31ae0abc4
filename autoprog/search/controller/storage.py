"""Where studies are kept: a journal file in the run folder, or any database that Optuna knows."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from optuna.exceptions import OptunaError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import SQLAlchemyError

from autoprog.errors import ConfigError, RunError
from autoprog.openfiles import open_for_appending
from autoprog.processes import FileLock

__all__ = ["STORAGE_ERRORS", "Journal", "close_storage", "open_journal", "open_storage", "sync"]


STORAGE_ERRORS = (
    OSError,
    SQLAlchemyError,
    OptunaError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    RuntimeError,
)
"""What Optuna raises where a database or a journal does not answer, or holds what it has not written."""

_SQLITE_TIMEOUT_SECONDS = (
    60  # for another writer: SQLite has one at a time, and waits for 5 s by default
)


def open_storage(where: Path | str) -> BaseStorage:
    """Open the journal at a path, or the database that a URL such as ``sqlite:///studies.db`` names.

    Its tables are made where it has none; let one process do that before others open it.

    Raises:
        ConfigError: If the URL is none, or no database answers there.
        RunError: If the journal cannot be read.
    """
    if isinstance(where, Path):
        return open_journal(where)
    scheme, _, rest = where.partition("://")
    is_sqlite = scheme.startswith("sqlite")
    if not rest or (is_sqlite and not rest.strip("/")) or ":memory:" in rest:
        hint = "such as sqlite:////data/studies.db or postgresql://user@host/studies"
        raise ConfigError("--storage", "", "must be the URL of a database", where, hint)
    options: dict[str, Any] = {"pool_pre_ping": True}
    if is_sqlite:
        options = {"connect_args": {"timeout": _SQLITE_TIMEOUT_SECONDS}}
    try:
        return RDBStorage(where, engine_kwargs=options)
    except ImportError:  # names the scheme alone: a URL may hold a password
        hint = "install one, such as psycopg for PostgreSQL or mysqlclient for MySQL"
        problem = "must be a database whose Python driver is installed"
        raise ConfigError("--storage", "", problem, f"{scheme}://…", hint) from None
    except STORAGE_ERRORS as error:
        reason = (str(getattr(error, "orig", None) or error).splitlines() or [""])[0]
        problem = f"must be the URL of a database that answers: {reason}"
        raise ConfigError("--storage", "", problem, f"{scheme}://…") from None


def open_journal(path: Path) -> Journal:
    """Open a journal file, or make it.

    Raises:
        RunError: If it cannot be opened, or is damaged in another place than its end.
    """
    try:
        return Journal(path)
    except OSError as error:
        raise RunError(f"{path}: the journal cannot be opened: {error.strerror}") from None
    except STORAGE_ERRORS as error:
        hint = "move it away; what was decided stays in decisions.jsonl"
        raise RunError(f"{path}: the journal is damaged ({error}); {hint}") from None


def close_storage(storage: BaseStorage) -> None:
    """Close the connections to a database."""
    if isinstance(storage, RDBStorage):
        storage.remove_session()
        storage.engine.dispose()


def sync(storage: BaseStorage) -> None:
    """Wait until all that was written is on disk; a database sees to that itself."""
    if isinstance(storage, Journal):
        storage.sync()


class Journal(JournalStorage):
    """Optuna's journal in a file that survives its writers.

    A line is with the kernel when an operation returns, and so survives any end of the process; on disk it is
    after :meth:`sync`. Any first part of a journal is a journal, so a power cut loses the last
    operations and nothing else. Optuna waits for the disk at each of the 14 or so lines of
    a trial of 12 parameters, 7 ms each where disks are slow.
    """

    def __init__(self, path: Path) -> None:
        self._file = _JournalFile(path)
        self._file.repair()
        super().__init__(self._file)

    def sync(self) -> None:
        """Wait until all lines are on disk."""
        self._file.sync()


class _JournalFile(JournalFileBackend):
    """The lines of a journal. A half-written last one, which Optuna cannot read past, never stays."""

    def __init__(self, path: Path) -> None:
        open_for_appending(path).close()  # Optuna would make the file through a link
        super().__init__(str(path))  # with Optuna's own lock, of which append_logs makes no use
        self._path, self._mutex = path, FileLock(path.with_name(f"{path.name}.lock"))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append one line an operation, whole or not at all, also where the disk is full."""
        lines = "".join(f"{json.dumps(log, separators=(',', ':'))}\n" for log in logs)
        with self._mutex, self._opened(os.O_RDWR | os.O_APPEND) as file:
            self._cut_torn_line(file)  # of another writer, which was killed
            _append(file, lines.encode())

    def repair(self) -> None:
        """Cut a half-written last line and keep it in a file with the suffix ``.bak``."""
        with self._mutex, self._opened(os.O_RDWR) as file:
            self._cut_torn_line(file)

    def sync(self) -> None:
        """Wait until the file is on disk."""
        with self._opened(os.O_RDONLY) as file:
            os.fsync(file)

    @contextmanager
    def _opened(self, flags: int) -> Iterator[int]:
        # Never through a link or into a pipe, which somebody may have put in its place meanwhile.
        file = os.open(self._path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            yield file
        finally:
            os.close(file)

    def _cut_torn_line(self, file: int) -> None:
        size = os.fstat(file).st_size
        if not size or os.pread(file, 1, size - 1) == b"\n":
            return
        data = self._path.read_bytes()
        end = data.rfind(b"\n") + 1
        # Before it is cut: a crash in between keeps the line twice instead of losing it.
        with open_for_appending(self._path.with_name(f"{self._path.name}.bak")) as bak:
            _append(bak.fileno(), data[end:] + b"\n")
        os.ftruncate(file, end)


def _append(file: int, data: bytes) -> None:
    """Write all of `data`, or leave the file as it was."""
    size = os.fstat(file).st_size
    try:
        while data:
            data = data[os.write(file, data) :]
    except OSError:
        with suppress(OSError):
            os.ftruncate(file, size)
        raise
