"""Random layouts of folders and tar files: no traceback, no hang, one labelling, a true report."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoprog.data.folders import is_hidden, printable_name
from autoprog.data.formats import image_endings

from .layouts import pack_parts, write_layout

PROGRAM = Path(__file__).with_name("layouts.py")


class Reader:
    """A process that reads layouts, with a hash seed of its own."""

    def __init__(self, hash_seed: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": str(hash_seed), "RANK": str(hash_seed)},
        )

    def ask(self, root: Path, fraction: float | None) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([str(root), fraction]) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the process died"
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def readers() -> Iterator[list[Reader]]:
    both = [Reader(1), Reader(2)]
    yield both
    for reader in both:
        reader.close()


def images_below(folder: Path) -> int:
    """Count by the plainest means what should be read: regular files with an image's ending."""
    count, pending = 0, [(folder, (os.path.realpath(folder),), 0)]
    while pending:
        here, above, depth = pending.pop()
        for path in here.iterdir():
            if is_hidden(path.name):
                continue
            real = os.path.realpath(path)
            if path.is_dir():
                if real not in above:
                    pending.append((path, (*above, real), depth + 1))
            elif path.is_file() and os.path.splitext(path.name)[1].lower() in image_endings():
                count += depth > 0  # not those beside the class folders
    return count


def part_of(root: Path, names: tuple[str, ...]) -> Path:
    found = [path for path in root.iterdir() if path.name.lower() in names and path.is_dir()]
    return found[0] if found else root


def check(root: Path, readers: list[Reader], fraction: float | None, is_packed: bool) -> bool:
    """Check one layout; return whether it was read rather than refused."""
    for reader in readers:
        reader.ask(root, fraction)
    one, other = (reader.answer() for reader in readers)
    assert one == other
    if "refused" in one:
        assert one["refused"].startswith("--"), one
        assert one["refused"].isprintable(), one
        return False
    for part in ("train", "val"):
        labels = one[part]["labels"]
        assert one["sizes"][part] == len(labels)
        for name, target in labels:
            assert one["classes"][target] in [
                printable_name(p) for p in name.replace(".tar:", "/").split("/")
            ], name
    assert all("\n" not in line for line in one["report"])
    if not is_packed:
        train = part_of(root, ("train", "training"))
        expected = images_below(train)
        num_train = len(one["train"]["labels"])
        if fraction is None:
            val = part_of(root, ("val", "validation", "valid"))
            assert (num_train, len(one["val"]["labels"])) == (expected, images_below(val))
        else:
            assert num_train + len(one["val"]["labels"]) == expected
    return True


def read_many(tmp_path: Path, readers: list[Reader], seeds: range) -> int:
    num_read = 0
    for seed in seeds:
        root, packed = tmp_path / f"d{seed}", tmp_path / f"t{seed}"
        root.mkdir()
        write_layout(root, seed)
        fraction = 0.4 if seed % 3 == 0 else None
        was_read = check(root, readers, fraction, is_packed=False)
        pack_parts(root, packed)
        if any(packed.iterdir()):
            check(packed, readers, fraction, is_packed=True)
        num_read += was_read
        for folder in (root, packed):
            shutil.rmtree(folder)
    return num_read


def test_random_layouts(tmp_path: Path, readers: list[Reader]) -> None:
    assert read_many(tmp_path, readers, range(60)) > 10


@pytest.mark.slow
def test_two_thousand_random_layouts(tmp_path: Path, readers: list[Reader]) -> None:
    assert read_many(tmp_path, readers, range(1000, 3000)) > 400
