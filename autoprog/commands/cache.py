"""``autoprog cache``: list the decoded images that ``--cache`` keeps, or remove them; imports no torch."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprog.bounds import Days, range_of
from autoprog.errors import ConfigError, RunError, suggest
from autoprog.printable import one_line, say

if TYPE_CHECKING:
    from autoprog.data.cache_folder import CacheFile
    from autoprog.ui.tables import Column

__all__ = ["add_flags", "run"]

_DAY_SECONDS = 86400.0
_LAST_SECONDS = datetime(9999, 12, 31, tzinfo=timezone.utc).timestamp()
_MIN_PLACE = 12
"""Characters of where images come from that a narrow terminal shows at the least."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what to do, and with which files."""
    parser.epilog = (
        "examples:\n"
        "  autoprog cache\n"
        "  autoprog cache --dir DIR --json\n"
        "  autoprog cache clear --older-than 30\n"
        "  autoprog cache clear training-….images\n"
        "  autoprog cache clear --all\n"
        "only files of decoded images are removed, and none that a run reads or builds\n"
    )
    _add_flags(parser, {"dir": None, "older_than": None, "all": False, "as_json": False})
    # A parser of its own, since argparse takes no NAME behind flags where another word came before
    # them.
    actions = parser.add_subparsers(dest="action", metavar="list|clear")
    for name, summary in (("list", "list the files (default)"), ("clear", "remove files")):
        sub = actions.add_parser(
            name, help=summary, formatter_class=parser.formatter_class, allow_abbrev=False
        )
        sub.add_argument("names", nargs="*", metavar="NAME", help="files, as the list names them")
        _add_flags(sub, {})
    parser.set_defaults(action="list", names=[])


def _add_flags(parser: argparse.ArgumentParser, defaults: Mapping[str, object]) -> None:
    def add(flag: str, dest: str, **options: Any) -> None:
        default = defaults.get(dest, argparse.SUPPRESS)
        parser.add_argument(flag, dest=dest, default=default, **options)

    add("--dir", "dir", metavar="DIR", help="the folder of --cache DIR (the user's cache folder)")
    old = "clear what no run has opened for so many days"
    add("--older-than", "older_than", type=range_of(Days), metavar="DAYS", help=old)
    add("--all", "all", action="store_true", help="clear every file")
    add("--json", "as_json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    from autoprog.data.cache_folder import cache_files, cache_folder

    _check(args)
    folder = cache_folder("auto" if args.dir is None else args.dir)
    if args.dir is not None and not folder.is_dir():
        raise ConfigError("--dir", "", "must be a folder", args.dir)
    try:
        files = cache_files(folder) if folder.is_dir() else []
    except OSError as error:
        raise RunError(f"{folder}: the folder cannot be read: {error.strerror}") from None
    if args.action == "list":
        _list(folder, files, args.as_json)
    else:
        _clear(folder, _chosen(args, folder, files), args.as_json)
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse flags that do not go together, before anything is looked at.

    Raises:
        ConfigError: If they do not, or it is not said what to clear.
    """
    given = args.names or args.all or args.older_than is not None
    if args.action == "list" and given:
        where = "NAME" if args.names else "--all" if args.all else "--older-than"
        raise ConfigError(where, "", "must be given with autoprog cache clear")
    if args.action == "clear" and not given:
        hint = "give a NAME, --older-than DAYS or --all"
        raise ConfigError("clear", "", "must be told which files", hint=hint)
    if args.all and (args.names or args.older_than is not None):
        raise ConfigError("--all", "", "must be given without a NAME and without --older-than")


def _chosen(args: argparse.Namespace, folder: Path, files: Sequence[CacheFile]) -> list[CacheFile]:
    """Return the files that are to be removed.

    Raises:
        ConfigError: If a name is none of them.
    """
    by_name = {file.path.name: file for file in files}
    chosen = list(files)
    if args.names:
        chosen = []
        for given in args.names:
            path = Path(given)
            known = by_name.get(path.name)
            if known is None or (path.name != given and path.parent.resolve() != folder.resolve()):
                problem = f"must be a file of decoded images in {folder}"
                hint = suggest(path.name, by_name, list_all=False) or "see autoprog cache"
                raise ConfigError("NAME", "", problem, given, hint)
            if known not in chosen:
                chosen.append(known)
    if args.older_than is not None:
        latest = time.time() - args.older_than * _DAY_SECONDS
        chosen = [file for file in chosen if file.used <= latest]
    return chosen


def _list(folder: Path, files: Sequence[CacheFile], as_json: bool) -> None:
    from autoprog.data.cache_folder import is_in_use

    in_use = [is_in_use(file) for file in files]
    if as_json:
        facts = [_facts(file) | {"in_use": used} for file, used in zip(files, in_use, strict=True)]
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


def _clear(folder: Path, files: Sequence[CacheFile], as_json: bool) -> None:
    """Remove the files one by one, and say so of each.

    Raises:
        RunError: If one of them cannot be removed; the others are.
    """
    from autoprog.data.cache_folder import remove

    removed: list[CacheFile] = []
    kept: list[CacheFile] = []
    failed: dict[str, str] = {}
    for file in files:
        try:
            (removed if remove(file) else kept).append(file)
        except OSError as error:
            failed[str(file.path)] = error.strerror or str(error)
    if as_json:
        names = {"removed": removed, "kept_in_use": kept}
        found: dict[str, Any] = {
            key: [one.path.name for one in ones] for key, ones in names.items()
        }
        say(json.dumps({"folder": str(folder), "bytes": _total(removed), **found}, indent=1))
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


def _facts(file: CacheFile) -> dict[str, Any]:
    return {
        "name": file.path.name,
        "path": str(file.path),
        "part": file.part,
        "data": file.data,
        "short_side_px": file.short_px,
        "images": file.images,
        "bytes": file.num_bytes,
        "last_used": _moment(file.used),
        "unused_seconds": round(max(0.0, time.time() - file.used), 1),
        "unfinished": file.is_unfinished,
    }


def _moment(seconds: float) -> str:
    """Return a time of a file, which may be any number on some file systems."""
    known = min(max(seconds, 0.0), _LAST_SECONDS)
    return datetime.fromtimestamp(known, timezone.utc).isoformat(timespec="seconds")


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
    places = tuple(_end_of(one_line(file.data or "-"), room) for file in files)
    up_to = Column("up to px", tuple(str(file.short_px or "-") for file in files), rank=1)
    return [columns[0], Column("data", places, "left"), up_to, *columns[1:]]


def _end_of(text: str, room: int | None) -> str:
    return text if room is None or len(text) <= room else f"…{text[1 - room :]}"


def _total(files: Sequence[CacheFile]) -> int:
    return sum(file.num_bytes for file in files)


def _count(files: Sequence[CacheFile]) -> str:
    return f"{len(files)} file{'' if len(files) == 1 else 's'}, {_size(_total(files))},"


def _size(num_bytes: int) -> str:
    from rich.filesize import decimal

    return decimal(num_bytes)
