"""Opening, replacing and removing files that somebody else may have put in place.

A run folder, a cache or a schedule may come from another person. So nothing here waits for a pipe, reads
without a bound, writes through a symbolic link, or removes what autoprog has not made.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO

__all__ = [
    "MAX_TEXT_BYTES",
    "NotRegularFileError",
    "check_replaceable",
    "folder_beside",
    "kind_of",
    "open_for_appending",
    "open_regular",
    "read_bytes",
    "refuse_links",
    "remove_temporary_files",
    "replacing",
    "write_all",
    "write_atomically",
]

MAX_TEXT_BYTES = 64 * 2**20
"""The most that is read of a text file at once; logs are read by the line."""

_KINDS = (
    (stat.S_ISREG, "a regular file"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_TEMPORARY_SUFFIX = ".tmp"
_RANDOM_LETTERS = 8


class NotRegularFileError(OSError):
    """Something else than a regular file, such as a folder or a pipe; ``strerror`` says what."""


def open_regular(path: Path, follow_links: bool = True) -> IO[bytes]:
    """Open a regular file for reading, without ever waiting for another process.

    Args:
        path: The file.
        follow_links: Whether `path` itself may be a symbolic link.

    Raises:
        NotRegularFileError: If it is a folder, a pipe, a device, a socket or, without `follow_links`, a link.
        OSError: If it cannot be opened.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe without a writer would wait
    return open(_regular_descriptor(path, flags, follow_links), "rb")


def open_for_appending(path: Path) -> IO[str]:
    """Open a UTF-8 text file to append to it, and make it if need be; never through a symbolic link.

    Raises:
        NotRegularFileError: If something else is in its place.
        OSError: If it cannot be opened.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
    return open(_regular_descriptor(path, flags, follow_links=False), "a", encoding="utf-8")


def read_bytes(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """Return the content of a regular file of at most `max_bytes`.

    Raises:
        NotRegularFileError: If it is no regular file.
        OSError: If it cannot be read, or is larger (``EFBIG``).
    """
    with open_regular(path) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, f"larger than {max_bytes / 2**20:g} MiB", str(path))
    return data


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Give a temporary file beside `path` that takes its place, flushed to disk, when the block ends.

    Its name is drawn anew each time, so nobody can have put a link there. Where the block raises, the
    file is removed and `path` stays as it was. A link at `path` is replaced, not followed, but for one to a
    device or a pipe, such as ``/dev/stdout``.

    Raises:
        NotRegularFileError: If a folder, a pipe, a device or a socket is in its place.
        OSError: If the file cannot be written or put in place.
    """
    check_replaceable(path)
    descriptor, temporary = _new_file(path)
    is_in_place = False
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            # Before the rename: after a power cut the name could stand for an empty file otherwise.
            os.fsync(file.fileno())
        temporary.replace(path)
        is_in_place = True
    finally:
        if not is_in_place:
            with suppress(OSError):
                temporary.unlink()


def write_atomically(path: Path, text: str) -> None:
    """Replace a file so that a crash leaves either the old text or the new.

    Raises:
        OSError: If it cannot be written.
    """
    write_all({path: text})


def write_all(texts: Mapping[Path, str]) -> None:
    """Replace several files, or none of them where one cannot be written.

    Raises:
        OSError: If one cannot be written.
    """
    with ExitStack() as stack:
        for path, text in texts.items():
            stack.enter_context(replacing(path)).write(text.encode(errors="replace"))


def check_replaceable(path: Path) -> None:
    """Refuse to replace what is no file, which a rename of a file onto it would do without a word.

    Raises:
        NotRegularFileError: If it is something else.
    """
    try:
        status = path.stat()
    except OSError:  # nothing is there, or a link to nowhere
        return
    # A link is replaced as such, whatever it leads to; the folder behind it stays.
    is_link_to_folder = stat.S_ISDIR(status.st_mode) and path.is_symlink()
    if not stat.S_ISREG(status.st_mode) and not is_link_to_folder:
        raise NotRegularFileError(errno.EINVAL, _kind_of(status), str(path))


def kind_of(path: Path) -> str | None:
    """Return in words what is at `path`, such as "a regular file" or "a symbolic link"; None for nothing."""
    try:
        return _kind_of(path.lstat())
    except (FileNotFoundError, NotADirectoryError):
        return None


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """Give a new folder beside `path`, on the same file system, that is removed when the block ends.

    Raises:
        OSError: If it cannot be made.
    """
    folder = _temporary_name(path)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def refuse_links(folder: Path, names: Iterable[str]) -> None:
    """Check that none of these entries of a folder is a symbolic link; those that are missing are fine.

    Raises:
        NotRegularFileError: With the first that is one.
    """
    for name in names:
        path = folder / name
        if path.is_symlink():
            raise NotRegularFileError(errno.ELOOP, "a symbolic link", str(path))


def remove_temporary_files(folder: Path, names: Iterable[str]) -> None:
    """Remove what :func:`replacing` left of these files where a process was killed.

    To be called by whoever holds the lock of the folder.

    Args:
        folder: Where the files are.
        names: Of the files, or patterns of names as the shell has them.
    """
    patterns = [f".{name}.{'[0-9a-f]' * _RANDOM_LETTERS}{_TEMPORARY_SUFFIX}" for name in names]
    for path in folder.iterdir():
        is_ours = any(fnmatchcase(path.name, pattern) for pattern in patterns)
        if is_ours and stat.S_ISREG(path.lstat().st_mode):
            path.unlink(missing_ok=True)


def _new_file(path: Path) -> tuple[int, Path]:
    """Make a file under a new name, as mkstemp does, but with the permissions that the umask leaves."""
    # O_EXCL and a random name: nobody can have put a link to another file there.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        temporary = _temporary_name(path)
        with suppress(FileExistsError):
            return os.open(temporary, flags, 0o666), temporary


def _temporary_name(path: Path) -> Path:
    random = secrets.token_hex(_RANDOM_LETTERS // 2)
    return path.with_name(f".{path.name}.{random}{_TEMPORARY_SUFFIX}")


def _regular_descriptor(path: Path, flags: int, follow_links: bool) -> int:
    if not follow_links:
        flags |= os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP and not follow_links:
            raise NotRegularFileError(errno.ELOOP, "a symbolic link", str(path)) from None
        if error.errno == errno.ENXIO:  # a socket, or a pipe that nobody reads
            raise NotRegularFileError(errno.ENXIO, _kind_of(os.lstat(path)), str(path)) from None
        if error.errno == errno.EISDIR:
            raise NotRegularFileError(errno.EISDIR, "a folder", str(path)) from None
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise NotRegularFileError(errno.EINVAL, _kind_of(status), str(path))
    return descriptor


def _kind_of(status: os.stat_result) -> str:
    return next((text for is_kind, text in _KINDS if is_kind(status.st_mode)), "something else")
