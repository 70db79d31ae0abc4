"""The folder of decoded images: how its files are known, what they hold, and how they are removed.

Who reads a file holds a shared lock on it for as long as it is mapped, in every process that maps it, and who
builds it an exclusive one on the lock file beside it. So a file that nobody has locked is in nobody's way.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from autoprog.errors import ConfigError
from autoprog.files import json_object
from autoprog.safe_files import open_for_appending, open_regular

__all__ = [
    "FOOTER",
    "MAGIC",
    "MAX_FACTS_BYTES",
    "CacheFile",
    "cache_files",
    "cache_folder",
    "check_cache_folder",
    "file_lock",
    "is_in_use",
    "lock_of",
    "lock_shared",
    "new_part_of",
    "note_use",
    "remove",
    "remove_parts",
]


MAGIC = b"AUTOPRGI"
# Magic, version, CRC-32 of tables and facts, images, bytes of facts.
FOOTER = struct.Struct("<8sIIQQ")

# More than the reasons of 50,000 unreadable images take.
MAX_FACTS_BYTES = 2**24

# So much is read of each file of a list, of which there may be many.
_MAX_LISTED_BYTES = 2**20

_NAME = re.compile(r"(?P<part>training|validation)-[0-9a-f]{12}-(?P<px>[0-9]{1,9})px\.images")
_PART = re.compile(r"(?P<whole>.+\.images)(\.[0-9a-f]{16})?\.part")


@dataclass(frozen=True)
class CacheFile:
    """A file of decoded images.

    Attributes:
        path: The file; of an unfinished build the part that has been written.
        part: ``training`` or ``validation``; None where the name does not say.
        data: Where the images come from; None where the file does not say.
        short_px: The shorter side that larger images are reduced to; None where the name does not say.
        images: The number of images; None for an unfinished build.
        num_bytes: The size of the file.
        used: When it was built or last opened, in seconds since the epoch.
    """

    path: Path
    part: str | None
    data: str | None
    short_px: int | None
    images: int | None
    num_bytes: int
    used: float

    @property
    def is_unfinished(self) -> bool:
        """Return whether this is what a build wrote that has not ended, or was killed."""
        return self.images is None


def cache_folder(folder: str) -> Path:
    """Return the folder that ``--cache`` names; ``auto`` is the user's cache folder."""
    if folder != "auto":
        return Path(folder)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "autoprog"


def check_cache_folder(folder: str) -> None:
    """Check that ``--cache`` names a folder, or where one can be made.

    Raises:
        ConfigError: If it does not.
    """
    path = cache_folder(folder)
    nearest = next((one for one in (path, *path.parents) if os.path.lexists(one)), path)
    if "\0" in folder or not os.path.isdir(nearest):
        raise ConfigError("--cache", "", "must be a folder, or where one can be made", folder)
    if nearest != path and not os.access(nearest, os.W_OK | os.X_OK):
        problem = f"must be where a folder can be made, which {nearest} does not permit"
        raise ConfigError("--cache", "", problem, folder)


def new_part_of(path: Path) -> Path:
    """Return a name under which a file may be written until it is whole; nobody can have put a link there."""
    return path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")


def remove_parts(path: Path) -> None:
    """Remove what killed builds left of a file; to be called by whoever holds its lock."""
    for part in _parts_of(path):
        part.unlink(missing_ok=True)


def lock_of(path: Path) -> Path:
    """Return the lock file of whoever builds or removes a file."""
    return path.with_name(f"{path.name}.lock")


def cache_files(folder: Path) -> list[CacheFile]:
    """Return the cache's files right in a folder, by name; files of others, links and folders are left out.

    A finished file is known by its last bytes; an unfinished one, which has none, by its name and by the
    lock file beside it.

    Raises:
        OSError: If the folder cannot be read.
    """
    files = (_described(path) for path in sorted(folder.iterdir()))
    return [file for file in files if file is not None]


def is_in_use(file: CacheFile) -> bool:
    """Return whether a process reads or builds the file; nothing is written for it."""
    places = [lock_of(_whole(file.path)), *([] if file.is_unfinished else [file.path])]
    return any(map(_is_locked, places))


def remove(file: CacheFile) -> bool:
    """Remove a file and its lock file; return False where somebody reads or builds it.

    Raises:
        OSError: If it cannot be removed.
    """
    whole = _whole(file.path)
    with file_lock(lock_of(whole), wait=False) as is_mine:
        if not is_mine or (not file.is_unfinished and _is_locked(file.path)):
            return False
        file.path.unlink(missing_ok=True)
        if not whole.exists() and not _parts_of(whole):
            lock_of(whole).unlink(missing_ok=True)  # held, so whoever waits for it makes a new one
    return True


@contextmanager
def file_lock(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold a lock file exclusively, by a lock that ends with this process, however it ends.

    Gives True; False where `wait` is off and somebody else holds it.

    Raises:
        OSError: If the file cannot be made, or something else, such as a link or a pipe, is in its place.
    """
    while True:
        with open_for_appending(path) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            if os.fstat(file.fileno()).st_nlink:  # else it was removed while we waited
                yield True
                return


def lock_shared(file: IO[bytes]) -> bool:
    """Lock an open file against its removal, until it and all maps of it are closed.

    Returns:
        False if it has been removed meanwhile.
    """
    with suppress(OSError):  # a file system without locks
        fcntl.flock(file, fcntl.LOCK_SH)
    return os.fstat(file.fileno()).st_nlink > 0


def note_use(path: Path) -> None:
    """Make this moment the file's time of last use, where we may."""
    with suppress(OSError):
        os.utime(path, follow_symlinks=False)


def _described(path: Path) -> CacheFile | None:
    if path.suffix not in (".images", ".part"):
        return None
    try:
        with open_regular(path, follow_links=False) as file:
            status = os.fstat(file.fileno())
            facts = _facts(path, file, status.st_size)
    except OSError:
        return None
    if facts is None:
        return None
    name = _NAME.fullmatch(_whole(path).name)
    return CacheFile(
        path=path,
        part=name and name["part"],
        data=facts["origin"],
        short_px=int(name["px"]) if name else None,
        images=facts["images"],
        num_bytes=status.st_size,
        used=status.st_mtime,
    )


def _facts(path: Path, file: IO[bytes], size_bytes: int) -> dict[str, Any] | None:
    """Return what a file says of itself; None for a file that is none of the cache's."""
    if path.suffix == ".part":
        whole = _whole(path)
        is_ours = _NAME.fullmatch(whole.name) is not None and lock_of(whole).is_file()
        return {"origin": None, "images": None} if is_ours else None
    if size_bytes < FOOTER.size:
        return None
    file.seek(size_bytes - FOOTER.size)
    magic, _, _, images, facts_bytes = FOOTER.unpack(file.read(FOOTER.size))
    if magic != MAGIC:
        return None
    origin = None
    if facts_bytes <= min(size_bytes - FOOTER.size, _MAX_LISTED_BYTES):
        file.seek(size_bytes - FOOTER.size - facts_bytes)
        with suppress(ConfigError):  # of another version, or damaged, but ours
            origin = json_object(file.read(facts_bytes), str(path)).get("origin")
    return {"origin": origin if isinstance(origin, str) else None, "images": images}


def _is_locked(path: Path) -> bool:
    """Return whether somebody else holds a lock on a file."""
    try:
        with open_regular(path, follow_links=False) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no such file, or a file system without locks
        return False
    return False


def _whole(path: Path) -> Path:
    """Return the name of the finished file."""
    match = _PART.fullmatch(path.name)
    return path if match is None else path.with_name(match["whole"])


def _parts_of(path: Path) -> list[Path]:
    """Return what is there of unfinished builds of a file."""
    named = (one for one in path.parent.iterdir() if _PART.fullmatch(one.name))
    return [one for one in named if _whole(one) == path and one.is_file() and not one.is_symlink()]
