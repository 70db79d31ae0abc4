"""A verification whose runs are made by a stub, and the state of a folder tree."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.test_verify import Command, Fake, command, fake

__all__ = ["Verified", "command", "fake", "tree"]

SMALL = ("--model", "vit-mu", "--device", "cpu", "--workers", "0", "--threads", "1")
Verified = Callable[..., Path]


def tree(folder: Path) -> dict[str, str]:
    """Return every path below a folder with its content; links say where they lead."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        else:
            found[name] = path.read_text() if path.is_file() else ""
    return found


@pytest.fixture(scope="session")
def made() -> dict[tuple[str, ...], Path]:
    """Return copies of the folders that :func:`verified` has made, by the words that made them."""
    return {}


@pytest.fixture
def verified(
    command: Command,
    fake: Fake,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    made: dict[tuple[str, ...], Path],
) -> Verified:
    """Return what makes the folder ``V`` of a verification of two seeds, the first of which is done."""

    def make(*words: str) -> Path:
        given = words or ("--schedule", "linear")
        if given not in made:
            fake.codes["seed-1-candidate"] = 1
            assert command(*given, *SMALL, "--epochs", "2", "--seeds", "2")[0] == 1
            (folder,) = (path.parent for path in tmp_path.glob("runs/*/verify.json"))
            for run in folder.glob("seed-1-*/*"):
                run.rmdir()
            made[given] = tmp_path_factory.mktemp("made") / "V"
            folder.rename(made[given])
            (tmp_path / "runs").rmdir()
            fake.started.clear()
            fake.events.clear()
            fake.codes.clear()
        shutil.copytree(made[given], tmp_path / "V")
        return Path("V")

    return make
