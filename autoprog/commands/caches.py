"""``autoprog list caches``: the decoded images that ``--cache`` keeps on disk, listed or removed."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprog.bounds import Days, range_of
from autoprog.errors import ConfigError, RunError, suggest
from autoprog.printable import one_line, say

if TYPE_CHECKING:
    from autoprog.data.cache_folder import CacheFile
    from autoprog.ui.tables import Column

__all__ = ["add_cache_flags", "list_caches"]

_DAY_SECONDS = 86400.0
_LAST_SECONDS = datetime(9999, 12, 31, tzinfo=timezone.utc).timestamp()
_MIN_PLACE = 12
"""Characters of where images come from that a narrow terminal shows at the least."""


def add_cache_flags(parser: argparse.ArgumentParser) -> None:
    """Add of which folder, and what to remove of it."""
    parser.epilog = (
        "examples:\n"
        "  autoprog list caches\n"
        "  autoprog list caches --dir DIR --json\n"
        "  autoprog list caches --remove training-….images\n"
        "  autoprog list caches --remove --older-than 30\n"
        "  autoprog list caches --remove --all\n"
        "only files of decoded images are removed, and none that a run reads or builds\n"
    )
    parser.add_argument(
        "--dir", metavar="DIR", help="the folder of --cache DIR (default: the user's cache folder)"
    )
    parser.add_argument(
        "--remove", nargs="*", metavar="NAME", help="remove files, as the list names them"
    )
    parser.add_argument(
        "--older-than",
        type=range_of(Days),
        metavar="DAYS",
        help="remove what no run has opened for so many days",
    )
    parser.add_argument("--all", action="store_true", help="remove every file")
    parser.add_argument("--json", action="store_true", dest="as_json", help="one JSON object")


def list_caches(args: argparse.Namespace) -> None:
    """Print the files of decoded images, or remove those that are named.

    Raises:
        ConfigError: If flags do not go together, or a name is no file of decoded images.
        RunError: If the folder cannot be read, or a file cannot be removed.
    """
    from autoprog.data.cache_folder import cache_files, cache_folder

    selects = args.all or args.older_than is not None
    if args.remove is None and selects:
        flag = "--all" if args.all else "--older-than"
        raise ConfigError(flag, "", "must be given together with --remove")
    if args.remove == [] and not selects:  # a slip must not empty the folder
        hint = "give a NAME, --older-than DAYS or --all"
        raise ConfigError("--remove", "", "must say which files", hint=hint)
    if args.all and (args.remove or args.older_than is not None):
        raise ConfigError("--all", "", "must be given without a NAME and without --older-than")
    folder = cache_folder("auto" if args.dir is None else args.dir)
    if args.dir is not None and not folder.is_dir():
        raise ConfigError("--dir", "", "must be a folder", args.dir)
    try:
        files = cache_files(folder) if folder.is_dir() else []
    except OSError as error:
        raise RunError(f"{folder}: the folder cannot be read: {error.strerror}") from None
    if args.remove is None:
        _list(folder, files, args.as_json)
    else:
        _remove(folder, _chosen(args, folder, files), args.as_json)


def _chosen(args: argparse.Namespace, folder: Path, files: Sequence[CacheFile]) -> list[CacheFile]:
    """Return the files that are to be removed.

    Raises:
        ConfigError: If a name is none of them.
    """
    by_name = {file.path.name: file for file in files}
    chosen = list(files)
    if args.remove:
        chosen = []
        for given in args.remove:
            path = Path(given)
            known = by_name.get(path.name)
            if known is None or (path.name != given and path.parent.resolve() != folder.resolve()):
                problem = f"must be a file of decoded images in {folder}"
                hint = suggest(path.name, by_name, list_all=False) or "see autoprog list caches"
                raise ConfigError("--remove", "", problem, given, hint)
            if known not in chosen:
                chosen.append(known)
    if args.older_than is not None:
        # A run touches the files that it opens.
        latest = time.time() - args.older_than * _DAY_SECONDS
        chosen = [file for file in chosen if file.used <= latest]
    return chosen


def _list(folder: Path, files: Sequence[CacheFile], as_json: bool) -> None:
    from autoprog.data.cache_folder import is_in_use

    in_use = [is_in_use(file) for file in files]
    if as_json:
        facts = [
            {
                "name": file.path.name,
                "path": str(file.path),
                "part": file.part,
                "data": file.data,
                "short_side_px": file.short_px,
                "images": file.images,
                "bytes": file.num_bytes,
                # Some file systems keep times that no calendar has.
                "last_used": datetime.fromtimestamp(
                    min(max(file.used, 0.0), _LAST_SECONDS), timezone.utc
                ).isoformat(timespec="seconds"),
                "unused_seconds": round(max(0.0, time.time() - file.used), 1),
                "unfinished": file.is_unfinished,
                "in_use": used,
            }
            for file, used in zip(files, in_use, strict=True)
        ]
        whole = {"folder": str(folder), "bytes": _total(files), "files": facts}
        say(json.dumps(whole, indent=1))
        return
    from autoprog.console import Console
    from autoprog.ui.tables import plain_table, rich_table

    console = Console(highlight=False, markup=False, soft_wrap=True)
    if files and console.is_terminal:
        console.print(rich_table(_columns(files, in_use, console.width), console.width))
    elif files:
        say("\n".join(plain_table(_columns(files, in_use, None))))
    console.print(f"{_count(files)} in {one_line(str(folder))}")


def _remove(folder: Path, files: Sequence[CacheFile], as_json: bool) -> None:
    """Remove the files one by one, and say so of each.

    Raises:
        RunError: If one of them cannot be removed; the others are.
    """
    from autoprog.data.cache_folder import remove

    removed: list[CacheFile] = []
    kept: list[CacheFile] = []
    failed: dict[str, str] = {}
    for file in files:
        try:  # one that cannot be removed keeps none of the others
            (removed if remove(file) else kept).append(file)
        except OSError as error:
            failed[str(file.path)] = error.strerror or str(error)
    if as_json:
        names = {"removed": removed, "kept_in_use": kept}
        document: dict[str, Any] = {
            key: [one.path.name for one in ones] for key, ones in names.items()
        }
        say(json.dumps({"folder": str(folder), "bytes": _total(removed), **document}, indent=1))
    else:
        for file in removed:
            say(f"removed {one_line(file.path.name)} ({_size(file.num_bytes)})")
        for file in kept:
            say(f"kept {one_line(file.path.name)} ({_size(file.num_bytes)}): it is in use")
        say(f"removed {_count(removed)} from {one_line(str(folder))}")
    if failed:
        raise RunError(
            "; ".join(f"{path}: cannot be removed: {why}" for path, why in failed.items())
        )


def _columns(files: Sequence[CacheFile], in_use: Sequence[bool], width: int | None) -> list[Column]:
    """Return what the list shows; with a width the end of each place is what is left of it."""
    from autoprog.ui.format import count, duration
    from autoprog.ui.tables import GAP, Column, table_width

    now = time.time()
    state = [
        "in use" if used else "unfinished" if file.is_unfinished else ""
        for file, used in zip(files, in_use, strict=True)
    ]
    images = ["-" if file.images is None else count(file.images) for file in files]
    unused = [duration(max(0.0, now - file.used)) for file in files]
    columns = [
        Column("name", tuple(one_line(file.path.name) for file in files), "left"),
        Column("images", tuple(images)),
        Column("size", tuple(_size(file.num_bytes) for file in files)),
        Column("unused", tuple(unused)),
        *([Column("state", tuple(state), "left")] if any(state) else []),
    ]
    room = None if width is None else max(_MIN_PLACE, width - table_width(columns) - GAP)
    places = []
    for file in files:
        place = one_line(file.data or "-")
        # The end of a path says more than its beginning.
        is_long = room is not None and len(place) > room
        places.append(f"…{place[1 - room :]}" if room is not None and is_long else place)
    up_to = Column("up to px", tuple(str(file.short_px or "-") for file in files), rank=1)
    return [columns[0], Column("data", tuple(places), "left"), up_to, *columns[1:]]


def _total(files: Sequence[CacheFile]) -> int:
    return sum(file.num_bytes for file in files)


def _count(files: Sequence[CacheFile]) -> str:
    return f"{len(files)} file{'' if len(files) == 1 else 's'}, {_size(_total(files))},"


def _size(num_bytes: int) -> str:
    from rich.filesize import decimal

    return decimal(num_bytes)
