"""Files of torch.save, read after a look at what they would build; nothing in them is executed.

``torch.load(weights_only=True)`` runs no foreign code, but it builds whatever a pickle asks for: 8 GB of
zeros out of twenty bytes, tensors that are none, keys whose hash takes for ever. So the pickle is read first,
one instruction after another, and only tensors and plain values get past that.
"""

from __future__ import annotations

import argparse
import os
import pickletools
import re
import struct
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import torch

from autoprog.openfiles import NotRegularFileError, open_regular
from supernet.build import machine_bytes

__all__ = ["UNREADABLE", "ForeignPickleError", "NotLoadedError", "load_torch"]

UNREADABLE = (  # what the readers of pickles and of torch raise for damaged and foreign files
    OSError,
    RuntimeError,
    EOFError,
    MemoryError,
    UnpicklingError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
    struct.error,
    zipfile.BadZipFile,
    NotImplementedError,
)

_MOST_INSTRUCTIONS = 2_500_000
"""Of a pickle; a run keeps a number of its checkpoint for each step that it timed."""
_MOST_PICKLE_BYTES = 64 * 2**20
_MOST_REPEATED = 20_000_000
"""Values that are built again because something refers to them twice; their hash, too, takes its time."""
_MOST_MEMBERS = 200_000
_DAMAGED = "damaged, or not a file of torch.save"
_TOO_LARGE = "too large for the memory that is free"
_PICKLES_OF_OLD_FILE = 5  # magic number, protocol, machine, the object, the keys of its storages


class NotLoadedError(ValueError):
    """A file that is not loaded; says in a few words why."""


class ForeignPickleError(NotLoadedError):
    """A pickle with more than tensors and plain values in it; ``names`` are the classes and functions."""

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__("more than tensors and plain values in it")
        self.names = names


def load_torch(path: Path) -> Any:
    """Return what a file of ``torch.save`` holds, its tensors on the CPU.

    Raises:
        NotLoadedError: If it is something else, is damaged, or holds more than tensors and plain values.
        OSError: If it cannot be read.
    """
    with open_regular(path) as file:
        try:
            _check(file)
            file.seek(0)
            # Namespace, as timm's train.py keeps its flags
            with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return _plain(torch.load(file, map_location="cpu", weights_only=True))
        except (NotLoadedError, NotRegularFileError):
            raise
        except UNREADABLE as error:
            if isinstance(error, OSError) and error.strerror:
                raise
            # Words of our own: torch's advise to load the file in spite of all.
            is_full = isinstance(error, MemoryError) or "allocate memory" in str(error)
            raise NotLoadedError(_TOO_LARGE if is_full else _DAMAGED) from None


def _plain(found: Any) -> Any:
    """Drop the attributes of ordered dictionaries: a pickle may give them some that hide their methods."""
    seen: set[int] = set()
    waiting = [found]
    while waiting:  # not by recursion: lists may be nested a million times
        value = waiting.pop()
        if id(value) in seen:
            continue
        if isinstance(value, OrderedDict):
            vars(value).clear()
        if isinstance(value, (dict, list, tuple)):
            seen.add(id(value))
            waiting += value.values() if isinstance(value, dict) else value
    return found


def _check(file: IO[bytes]) -> None:
    size = os.fstat(file.fileno()).st_size
    if size > machine_bytes() // 2:
        raise NotLoadedError(f"too large for the memory of this machine: {size / 2**30:.3g} GiB")
    is_zip = file.read(4) == b"PK\x03\x04"  # by this torch chooses between its two readers
    file.seek(0)
    if is_zip:
        _check_archive(file, size)
        return
    data, start = file.read(_MOST_PICKLE_BYTES), 0
    for _ in range(_PICKLES_OF_OLD_FILE):
        start = _check_pickle(data, start)


def _check_archive(file: IO[bytes], size: int) -> None:
    """Refuse an archive that unpacks to more than it is, and look at its pickle."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        names = {member.filename for member in members}
        if len(members) > _MOST_MEMBERS or len(names) < len(members):
            raise NotLoadedError("a zip archive with parts that have one name, or too many of them")
        is_packed = any(m.compress_type != zipfile.ZIP_STORED for m in members)
        if is_packed or sum(member.file_size for member in members) > size:
            raise NotLoadedError("a packed zip archive, which torch.save does not write")
        pickles = [m for m in members if m.filename.partition("/")[2] == "data.pkl"]
        if len(pickles) != 1 or pickles[0].file_size > _MOST_PICKLE_BYTES:
            raise NotLoadedError(_DAMAGED)
        _check_pickle(archive.read(pickles[0]), 0)


_ALLOWED = re.compile(
    r"collections\.(OrderedDict|Counter)|argparse\.Namespace|torch\.(Size|device)"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|parameter)|torch\.serialization\._get_layout"
    r"|torch\.(cuda\.)?(?!Typed|Untyped)[A-Z]\w*Storage"
    r"|torch\.(bfloat|float|double|half|int|uint|long|short|bool|complex)\w*"
)
_OLD_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # as protocol 2 writes them
_LONGEST_LINE = 512

_CODES = {one.name: ord(one.code) for one in pickletools.opcodes}
_SCALARS = {  # pushes a value; with so many bytes behind it
    _CODES["BINFLOAT"]: 8,
    _CODES["BININT"]: 4,
    _CODES["BININT1"]: 1,
    _CODES["BININT2"]: 2,
    _CODES["EMPTY_TUPLE"]: 0,
    _CODES["NEWFALSE"]: 0,
    _CODES["NEWTRUE"]: 0,
    _CODES["NONE"]: 0,
}
_TEXTS = {  # pushes a value; with so many bytes of its length behind it
    _CODES["BINUNICODE"]: 4,
    _CODES["LONG1"]: 1,
    _CODES["SHORT_BINSTRING"]: 1,
}
_EMPTY = {_CODES["EMPTY_DICT"], _CODES["EMPTY_LIST"], _CODES["EMPTY_SET"]}
_MEMO_BYTES = {
    _CODES["BINGET"]: 1,
    _CODES["BINPUT"]: 1,
    _CODES["LONG_BINGET"]: 4,
    _CODES["LONG_BINPUT"]: 4,
}
_GETS = {_CODES["BINGET"], _CODES["LONG_BINGET"]}
_MAKES = {  # takes so many values, pushes one
    _CODES["BINPERSID"]: 1,
    _CODES["NEWOBJ"]: 2,
    _CODES["REDUCE"]: 2,
    _CODES["TUPLE1"]: 1,
    _CODES["TUPLE2"]: 2,
    _CODES["TUPLE3"]: 3,
}
_CHANGES = {_CODES["APPEND"]: 1, _CODES["BUILD"]: 1, _CODES["SETITEM"]: 2}
"""Takes so many values and changes the one below them."""
_CHANGES_FROM_MARK = {_CODES["APPENDS"], _CODES["SETITEMS"]}
_PROTO, _STOP, _GLOBAL, _MARK, _TUPLE = (
    _CODES[name] for name in ("PROTO", "STOP", "GLOBAL", "MARK", "TUPLE")
)


def _check_pickle(data: bytes, start: int) -> int:
    """Follow the instructions of a pickle without building anything; return where it ends.

    A value is a list of one number: of how many values it is made, counting again those that it refers to.

    Raises:
        ForeignPickleError: If it names a class or function that is not allowed.
        NotLoadedError: If it is no such pickle, too long, or too much for its length.
        LookupError: If it is damaged.
    """
    place, repeated, foreign = start, 0, set()
    scalar = [1]
    stack: list[list[int]] = []
    below: list[list[list[int]]] = []
    memo: dict[int, list[int]] = {}
    for _ in range(_MOST_INSTRUCTIONS):
        code = data[place]
        place += 1
        if code in _SCALARS:
            stack.append(scalar)
            place += _SCALARS[code]
        elif code in _MEMO_BYTES:
            width = _MEMO_BYTES[code]
            key = int.from_bytes(data[place : place + width], "little")
            place += width
            if code in _GETS:
                stack.append(memo[key])
                repeated += memo[key][0]
            else:
                memo[key] = stack[-1]
        elif code in _TEXTS:
            width = _TEXTS[code]
            stack.append(scalar)
            place += width + int.from_bytes(data[place : place + width], "little")
        elif code in _EMPTY:
            stack.append([1])
        elif code == _MARK:
            below.append(stack)
            stack = []
        elif code in _MAKES:
            taken = [stack.pop() for _ in range(_MAKES[code])]
            stack.append([_size(taken)])
        elif code == _TUPLE:
            taken, stack = stack, below.pop()
            stack.append([_size(taken)])
        elif code in _CHANGES:
            taken = [stack.pop() for _ in range(_CHANGES[code])]
            _enlarge(stack[-1], taken, scalar)
        elif code in _CHANGES_FROM_MARK:
            taken, stack = stack, below.pop()
            _enlarge(stack[-1], taken, scalar)
        elif code == _GLOBAL:
            name, place = _global(data, place)
            stack.append(scalar)
            if not _ALLOWED.fullmatch(name):
                foreign.add(name)
        elif code == _PROTO:
            place += 1
        elif code == _STOP or foreign:
            break
        else:
            raise NotLoadedError("a pickle of another kind than torch.save writes")
        if repeated > _MOST_REPEATED:
            raise NotLoadedError("too much in it that refers to itself")
    else:
        raise NotLoadedError("too long a pickle")
    if foreign:
        raise ForeignPickleError(frozenset(foreign))
    return place


def _size(parts: list[list[int]]) -> int:
    return min(1 + sum(part[0] for part in parts), 2 * _MOST_REPEATED)


def _enlarge(target: list[int], parts: list[list[int]], scalar: list[int]) -> None:
    if target is scalar:
        raise NotLoadedError(_DAMAGED)
    target[0] = _size([target, *parts])


def _global(data: bytes, place: int) -> tuple[str, int]:
    """Return the dotted name of a class or function, and where it ends."""
    middle = data.index(b"\n", place, place + _LONGEST_LINE)
    end = data.index(b"\n", middle + 1, middle + _LONGEST_LINE)
    module, name = (data[a:b].decode() for a, b in ((place, middle), (middle + 1, end)))
    return f"{_OLD_MODULES.get(module, module)}.{name}", end + 1
