"""Files of torch.save, read after a look at what they would build; nothing in them is executed.

``torch.load(weights_only=True)`` runs no foreign code, but it builds whatever a pickle asks for: 8 GB of
zeros out of twenty bytes, tensors that are none, keys whose hash takes for ever. So the pickle is read first,
one instruction after another, and only tensors and plain values get past that.
"""

from __future__ import annotations

import argparse
import json
import os
import pickletools
import re
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import torch
from torch import Tensor, nn

from autoprog.accuracy import some
from autoprog.openfiles import NotRegularFileError, open_regular
from autoprog.printable import brief
from supernet.build import machine_bytes

__all__ = [
    "UNREADABLE",
    "ForeignPickleError",
    "NotLoadedError",
    "check_dense",
    "differs",
    "first_not_finite",
    "is_safetensors",
    "key_differences",
    "load_torch",
    "shown_key",
    "what_else_it_is",
    "why_it_is_not_loaded",
]


# --------------------------------------------------------------------------------------------------
# What a file is that is given as weights, by its first bytes; nothing of it is unpickled.


Refusal = tuple[str, str]
"""What a file is instead of weights, and what to do about it."""

_AGAIN = "copy or download it again"
_SAVE = "where you trust it, load it and save torch.save(model.state_dict(), FILE)"
_HEAD_BYTES = 4096
# What torch.save began with before 1.6.
_LEGACY_TORCH = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
_LONGEST_NAME = 60
_TENSORS = {  # by the function that builds them
    "torch._utils._rebuild_sparse_tensor": "sparse tensors",
    "torch._utils._rebuild_sparse_csr_tensor": "sparse tensors",
    "torch._utils._rebuild_qtensor": "quantised tensors",
    "torch._utils._rebuild_nested_tensor": "nested tensors",
    "torch._utils._rebuild_meta_tensor_no_storage": "tensors without values",
    "torch._utils._rebuild_wrapper_subclass": "tensors of another class",
    "torch._tensor._rebuild_from_type_v2": "tensors of another class",
}
_KINDS = {
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ\x00": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a rar archive",
    b"\x89HDF": "an HDF5 file, as Keras writes it",
    b"\x93NUMPY": "a numpy array",
    b"GGUF": "a GGUF file",
    b"\x89PNG": "an image (PNG)",
    b"\xff\xd8\xff": "an image (JPEG)",
    b"%PDF": "a PDF document",
}


_MAX_HEADER_BYTES = 100_000_000
"""What the safetensors library reads; a file whose header says more is none."""
_MAX_PARSED_BYTES = 16 * 2**20
"""Of a header, for which Python takes a hundred times its size; one of 10,000 tensors has a megabyte."""


def is_safetensors(path: Path) -> bool:
    """Return whether a file begins as safetensors do: with the length of a JSON object, and the object."""
    with open_regular(path) as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and _header_bytes(head) < _MAX_HEADER_BYTES


def what_else_it_is(path: Path) -> Refusal | None:
    """Return what a file is, and what to do about it, where its first bytes show that it holds no weights."""
    with open_regular(path) as file:
        head = file.read(_HEAD_BYTES)
    if not head.strip(b"\0"):
        return "an empty file" if not head else "a file of zeros", _AGAIN
    if head.startswith(b"version https://git-lfs"):
        return "a git-LFS pointer, not the file itself", "run git lfs pull"
    if is_safetensors(path):
        return _cut_safetensors(path)
    if head.startswith(b"PK"):
        return _other_zip(path)
    for magic, kind in _KINDS.items():
        if head.startswith(magic):
            hint = "unpack it and give the file in it" if "archive" in kind else _SAVE
            return kind, hint
    if head[257:262] == b"ustar":
        return "a tar archive", "unpack it and give the file in it"
    if head[:1] == b"\x80" and _LEGACY_TORCH not in head[:32]:
        return "a Python pickle that torch.save did not write", _SAVE
    if path.suffix == ".onnx":
        return "an ONNX program", "give the weights that it was made from"
    return _text(head)


def why_it_is_not_loaded(error: NotLoadedError) -> Refusal:
    """Return what keeps a file of torch.save from being loaded without unpickling."""
    if not isinstance(error, ForeignPickleError):
        return str(error), f"{_AGAIN}, or {_SAVE}"
    unsafe = sorted(name[:_LONGEST_NAME] for name in error.names)
    tensors = next((_TENSORS[name] for name in unsafe if name in _TENSORS), None)
    if tensors is not None:
        return f"a file of {tensors}", "save dense tensors of floating point numbers"
    usual = ("torch.", "builtins.", "_codecs.", "collections.")
    own = [name for name in unsafe if not name.startswith(usual)] or unsafe
    if any(name.startswith(("torch.nn.modules.", "timm.")) for name in unsafe):
        kind = next((n for n in (*own, *unsafe) if ".models." in n or ".modules." in n), own[0])
        return f"a whole pickled model ({kind})", _SAVE
    hint = "where you trust it, load it and save torch.save(checkpoint['state_dict'], FILE)"
    return f"a checkpoint with more than tensors in it, such as {some(own)}", hint


def _header_bytes(head: bytes) -> int:
    return int.from_bytes(head[:8], "little")


def _cut_safetensors(path: Path) -> Refusal | None:
    """Return how much is there of a file that is cut off; None of a whole one."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = _header_bytes(file.read(8))
        if length > size - 8:
            return "a safetensors file that is cut off in its header", _AGAIN
        if length > _MAX_PARSED_BYTES:
            return f"a safetensors file with a header of {length:,} bytes", _AGAIN
        text = file.read(length)
    try:
        header = json.loads(text)
        ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
        whole = 8 + length + max(map(int, ends), default=0)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError):
        return "a safetensors file with a damaged header", _AGAIN
    if size < whole:
        return f"a safetensors file that is cut off: {size:,} of {whole:,} bytes", _AGAIN
    return None


def _other_zip(path: Path) -> Refusal | None:
    """Return what a zip file is that torch.save did not write; None for one that it did."""
    if not zipfile.is_zipfile(path):
        return "a file that is cut off: the end of the zip archive is missing", _AGAIN
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name[:_LONGEST_NAME] for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "a damaged zip archive", _AGAIN
    parts = {name.partition("/")[2] for name in names}
    if "constants.pkl" in parts:
        return "a TorchScript program", "give the weights that it was made from"
    if "data.pkl" in parts:
        return None
    if "archive_format" in parts | set(names) or "serialized_exported_program.json" in names:
        return "a program of torch.export", "give the weights that it was made from"
    if names and all(name.endswith(".npy") for name in names):
        return "an archive of numpy arrays (.npz)", _SAVE
    held = f"with {some(names)} in it" if names else "with nothing in it"
    return f"a zip archive {held}", "unpack it and give the weights in it"


def _text(head: bytes) -> Refusal | None:
    """Return what a file of text is; None where it is none."""
    text = head.decode("utf-8-sig", errors="ignore" if len(head) == _HEAD_BYTES else "replace")
    words = text.strip()
    if "\ufffd" in text or any(ord(c) < 32 and c not in "\t\n\r\f" for c in text):
        return None
    start = words[:14].lower()
    if start.startswith(("<!doctype html", "<html", "<head", "<script", "<body")):
        return "a web page (HTML)", "download the file itself, not the page that shows it"
    if start.startswith("<"):
        return "an XML file", "download the file itself"
    if start.startswith(("{", "[")):
        return "a JSON file", "give the weights beside it"
    line = (words.splitlines() or [""])[0][:40]
    return f"a text file that begins with {line!r}", "give the file of the weights"


# --------------------------------------------------------------------------------------------------
# Tensors that are weights: dense floating point numbers, each with a place of its own in memory.


_FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_COUNTER = "num_batches_tracked"
"""The one whole number among weights: that of a batch norm."""
_MAX_DIMENSIONS = 8
_LONGEST_KEY = 80


def check_dense(state: Mapping[Any, Any]) -> None:
    """Refuse what cannot be the weights of a network.

    Raises:
        ValueError: With the first key and what is wrong with it.
    """
    for key, value in state.items():
        if not isinstance(key, str):
            raise ValueError(f"the names of tensors must be words, but one is {brief(key)}")
        problem = _problem(key, value)
        if problem:
            raise ValueError(
                f"{shown_key(key)} must be a dense tensor of floating point numbers, but {problem}"
            )


def differs(found: Any, own: Tensor) -> bool:
    """Return whether a value is no tensor of that shape, or whole numbers where the network has others."""
    if not isinstance(found, Tensor) or found.shape != own.shape:
        return True
    return found.is_floating_point() != own.is_floating_point()


def first_not_finite(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str | None:
    """Return the first key whose values are not finite as the network holds them (1e300 in float32)."""
    for key, tensor in own.items():
        if tensor.is_floating_point() and key in state:
            with torch.no_grad():
                if not torch.isfinite(state[key].to(tensor.dtype)).all():
                    return key
    return None


def key_differences(own: Mapping[str, Tensor], found: Mapping[str, Any]) -> str:
    """Return in words which tensors a network misses, does not know, or has in another shape; or nothing."""
    kinds = {
        "missing": [key for key in own if key not in found],
        "too many": [key for key in found if key not in own],
        "of another shape": [k for k in own if k in found and differs(found[k], own[k])],
    }
    return "; ".join(
        f"{len(keys)} {kind}, such as {shown_key(keys[0])}" for kind, keys in kinds.items() if keys
    )


def shown_key(key: str) -> str:
    """Return the name of a tensor short enough for a message."""
    return key if len(key) <= _LONGEST_KEY else f"{key[: _LONGEST_KEY - 1]}…"


def _problem(key: str, value: Any) -> str:
    """Return what keeps a value from being weights; nothing where it may be."""
    if type(value) not in (Tensor, nn.Parameter):  # a subclass may answer as it likes
        return f"it is a {type(value).__name__}"
    if value.is_nested:
        return "it is nested"
    if value.is_quantized:
        return "it is quantised"
    if value.layout != torch.strided:
        return f"it is {_word(value.layout)}"
    if value.device.type != "cpu":
        return f"it is on the device {value.device.type}"
    is_counter = value.dtype == torch.int64 and value.ndim == 0 and key.endswith(_COUNTER)
    if value.dtype not in _FLOATING and not is_counter:
        return f"it is of {_word(value.dtype)}"
    if value.ndim > _MAX_DIMENSIONS:
        return f"it has {value.ndim} dimensions"
    # Strides of 0 make a gigabyte of twenty bytes, which a copy would then really take.
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return f"it repeats few numbers as {value.numel():,}"
    if value.is_conj() or value.is_neg():
        return "it is a view of others"
    return ""


def _word(kind: torch.dtype | torch.layout) -> str:
    return str(kind).removeprefix("torch.")


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

_MAX_INSTRUCTIONS = 2_500_000
"""Of a pickle; a run keeps a number of its checkpoint for each step that it timed."""
_MAX_PICKLE_BYTES = 64 * 2**20
_MAX_REPEATED = 20_000_000
"""Values that are built again because something refers to them twice; their hash, too, takes its time."""
_MAX_MEMBERS = 200_000
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
                found = torch.load(file, map_location="cpu", weights_only=True)
            _drop_attributes(found)
            return found
        except (NotLoadedError, NotRegularFileError):
            raise
        except UNREADABLE as error:
            if isinstance(error, OSError) and error.strerror:
                raise
            # Words of our own: torch's advise to load the file in spite of all.
            is_full = isinstance(error, MemoryError) or "allocate memory" in str(error)
            raise NotLoadedError(_TOO_LARGE if is_full else _DAMAGED) from None


def _drop_attributes(found: Any) -> None:
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


def _check(file: IO[bytes]) -> None:
    """Refuse a file that unpacks to more than it is, and look at its pickles before anything is built."""
    size = os.fstat(file.fileno()).st_size
    if size > machine_bytes() // 2:
        raise NotLoadedError(f"too large for the memory of this machine: {size / 2**30:.3g} GiB")
    is_zip = file.read(4) == b"PK\x03\x04"  # by this torch chooses between its two readers
    file.seek(0)
    if not is_zip:
        data, start = file.read(_MAX_PICKLE_BYTES), 0
        for _ in range(_PICKLES_OF_OLD_FILE):
            start = _check_pickle(data, start)
        return
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        names = {member.filename for member in members}
        # Of two members with one name, this reader and torch's could each take another.
        if len(members) > _MAX_MEMBERS or len(names) < len(members):
            raise NotLoadedError("a zip archive with parts that have one name, or too many of them")
        is_packed = any(m.compress_type != zipfile.ZIP_STORED for m in members)
        if is_packed or sum(member.file_size for member in members) > size:
            raise NotLoadedError("a packed zip archive, which torch.save does not write")
        pickles = [m for m in members if m.filename.partition("/")[2] == "data.pkl"]
        if len(pickles) != 1 or pickles[0].file_size > _MAX_PICKLE_BYTES:
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
    for _ in range(_MAX_INSTRUCTIONS):
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
            middle = data.index(b"\n", place, place + _LONGEST_LINE)
            end = data.index(b"\n", middle + 1, middle + _LONGEST_LINE)
            module, name = data[place:middle].decode(), data[middle + 1 : end].decode()
            place = end + 1
            stack.append(scalar)
            dotted = f"{_OLD_MODULES.get(module, module)}.{name}"
            if not _ALLOWED.fullmatch(dotted):
                foreign.add(dotted)
        elif code == _PROTO:
            place += 1
        elif code == _STOP or foreign:
            break
        else:
            raise NotLoadedError("a pickle of another kind than torch.save writes")
        if repeated > _MAX_REPEATED:
            raise NotLoadedError("too much in it that refers to itself")
    else:
        raise NotLoadedError("too long a pickle")
    if foreign:
        raise ForeignPickleError(frozenset(foreign))
    return place


def _size(parts: list[list[int]]) -> int:
    return min(1 + sum(part[0] for part in parts), 2 * _MAX_REPEATED)


def _enlarge(target: list[int], parts: list[list[int]], scalar: list[int]) -> None:
    if target is scalar:
        raise NotLoadedError(_DAMAGED)
    target[0] = _size([target, *parts])
