"""Whether two runs came to the same end: weights bit for bit, schedules, decisions, accuracies."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autoprog.errors import ConfigError
from autoprog.files import read_yaml
from autoprog.runs import load_run

__all__ = ["compare_runs", "tensor_hashes"]

_RESULTS = ("top1", "top1_ema", "loss", "loss_ema", "epochs", "macs", "image_epochs")


def compare_runs(one: Path, other: Path, kind: str) -> dict[str, str]:
    """Return by artefact how the second run differs from the first: an empty text where it does not.

    Args:
        one: A finished run folder.
        other: Another one of the same command line.
        kind: ``train`` or ``search``.
    """
    readers: dict[str, Callable[[Path], Any]] = {
        "checkpoints/final.safetensors": tensor_hashes,
        "checkpoints/final_ema.safetensors": tensor_hashes,
        "schedule.yaml": _schedule,
        **({"best.yaml": _schedule, "decisions.jsonl": _winners} if kind == "search" else {}),
        "result.json": _accuracies,
    }
    return {name: _difference(one / name, other / name, read) for name, read in readers.items()}


def tensor_hashes(path: Path) -> dict[str, str]:
    """Return the type, the shape and a hash of the bits of each tensor of a safetensors file.

    Raises:
        ConfigError: If it is no such file.
    """
    data = path.read_bytes()
    try:
        (size,) = struct.unpack("<Q", data[:8])
        header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        return {name: _fingerprint(entry, body) for name, entry in sorted(entries.items())}
    except (struct.error, ValueError, KeyError, AttributeError, TypeError):
        raise ConfigError(str(path), "", "must be a safetensors file") from None


def _fingerprint(entry: dict[str, Any], body: bytes) -> str:
    begin, end = entry["data_offsets"]
    if not 0 <= begin <= end <= len(body):
        raise ValueError("cut short")
    bits = hashlib.sha256(body[begin:end]).hexdigest()
    return f"{entry['dtype']} {entry['shape']} {bits}"


def _schedule(path: Path) -> dict[str, Any]:
    """Return a schedule file without the name of the run that it came from."""
    found: dict[str, Any] = read_yaml(path)
    if "found_by" in found:
        found = {**found, "found_by": {**found["found_by"], "run": ""}}
    return found


def _winners(path: Path) -> dict[str, str]:
    decisions = load_run(path.parent).decisions
    return {f"decision {d.index}": f"{d.subnet} at step {d.step}" for d in decisions}


def _accuracies(path: Path) -> dict[str, float]:
    found = json.loads(path.read_text(encoding="utf-8"))
    return {name: found[name] for name in _RESULTS}


def _difference(one: Path, other: Path, read: Callable[[Path], Any]) -> str:
    missing = [str(path) for path in (one, other) if not path.is_file()]
    if missing:
        return f"{missing[0]} is missing"
    try:
        first, second = read(one), read(other)
    except ConfigError as error:
        return str(error)
    different = [key for key in {**first, **second} if first.get(key) != second.get(key)]
    if not different:
        return ""
    return f"{len(different)} of {len(first)} differ, such as {different[0]}"
