"""What a file is that is given as weights, told from its bytes; nothing of it is unpickled."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

from autoprog.classes import some
from autoprog.openfiles import open_regular
from autoprog.train.torch_files import ForeignPickleError, NotLoadedError

__all__ = ["is_safetensors", "what_else_it_is", "why_it_is_not_loaded"]

Refusal = tuple[str, str]
"""What a file is instead of weights, and what to do about it."""

_AGAIN = "copy or download it again"
_SAVE = "where you trust it, load it and save torch.save(model.state_dict(), FILE)"
_HEAD_BYTES = 4096
_LEGACY_TORCH = (0x1950A86A20F9469CFC6C).to_bytes(
    10, "little"
)  # what torch.save began with before 1.6
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


_MOST_HEADER_BYTES = 100_000_000
"""What the safetensors library reads; a file whose header says more is none."""
_MOST_PARSED_BYTES = 16 * 2**20
"""Of a header, for which Python takes a hundred times its size; one of 10,000 tensors has a megabyte."""


def is_safetensors(path: Path) -> bool:
    """Tell whether a file begins as safetensors do: with the length of a JSON object, and the object."""
    with open_regular(path) as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and _header_bytes(head) < _MOST_HEADER_BYTES


def what_else_it_is(path: Path) -> Refusal | None:
    """Return what a file is, and what to do about it, where its first bytes tell that it holds no weights."""
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
            cure = "unpack it and give the file in it" if "archive" in kind else _SAVE
            return kind, cure
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
    cure = "where you trust it, load it and save torch.save(checkpoint['state_dict'], FILE)"
    return f"a checkpoint with more than tensors in it, such as {some(own)}", cure


def _header_bytes(head: bytes) -> int:
    return int.from_bytes(head[:8], "little")


def _cut_safetensors(path: Path) -> Refusal | None:
    """Return how much is there of a file that is cut off; None of a whole one."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = _header_bytes(file.read(8))
        if length > size - 8:
            return "a safetensors file that is cut off in its header", _AGAIN
        if length > _MOST_PARSED_BYTES:
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
