"""The corpus: kinds of hostile cases, each made from a seed, and what one case is."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

__all__ = [
    "ANY",
    "REFUSED",
    "Case",
    "Command",
    "Draw",
    "Kind",
    "Place",
    "Specimens",
    "chosen_cases",
]

Item = TypeVar("Item")

ANY = frozenset({0, 1, 2, 130, 143})
"""Exit codes of a program that is in control of what happens."""
REFUSED = frozenset({1, 2})


@dataclass(frozen=True)
class Specimens:
    """Small real things that cases are made of; see `specimens.py`."""

    folder: Path

    def run(self, name: str) -> Path:
        """Return the run, verification or benchmark folder of a name."""
        (found,) = (self.folder / name).iterdir()
        return found


@dataclass(frozen=True)
class Place:
    """The folders of one case.

    ``work`` is the working directory, ``home`` the user's home, ``victim`` somebody else's folder, and there
    is another one in ``work``. Code of an attacker that is run leaves a file in ``canary``.
    """

    root: Path
    specimens: Specimens

    def __post_init__(self) -> None:
        for folder in (self.work, self.home, self.tmp, self.canary, self.judge):
            folder.mkdir(parents=True)
        for victim in (self.victim, self.work / "victim"):
            (victim / "docs").mkdir(parents=True)
            (victim / "keep.txt").write_text("kept\n")
            (victim / "keep.yaml").write_text("kept: 1\n")
            (victim / "docs" / "schedule.txt").write_text("kept\n")
            (victim / "docs" / "events.jsonl").write_text("{}\n")

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def tmp(self) -> Path:
        return self.root / "tmp"

    @property
    def victim(self) -> Path:
        return self.root / "victim"

    @property
    def canary(self) -> Path:
        return self.root / "canary"

    @property
    def judge(self) -> Path:
        """What the harness itself writes."""
        return self.root / "judge"

    @property
    def touch(self) -> str:
        """A shell command that leaves the canary."""
        return f"touch {self.canary}/CANARY"

    @property
    def script(self) -> Path:
        """A Python script that leaves the canary, made when asked for."""
        path = self.work / "evil.py"
        if not path.exists():
            path.write_text(self.code)
        return path

    @property
    def code(self) -> str:
        """A line of Python that leaves the canary."""
        return f"open({str(self.canary / 'CANARY')!r}, 'w').close()\n"

    def copy(self, name: str, to: str = "") -> Path:
        """Copy a specimen run to the folder of runs; return the copy."""
        found = self.specimens.run(name)
        return Path(shutil.copytree(found, self.work / (to or f"runs/{found.name}"), symlinks=True))

    def file(self, name: str, content: bytes | str) -> Path:
        """Write a file in the working directory."""
        path = self.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(
            content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
        )
        return path


@dataclass(frozen=True)
class Command:
    """A command line, and what it may do.

    Attributes:
        words: What stands after ``autoprog``.
        note: What is hostile about it, for whoever looks at a failure.
        writes: What it may write where it is not refused, as paths from the working directory.
        codes: The exit codes that are right.
        environment: Variables that are set, or with None unset.
        real_git: Whether git is the real one.
        anew: Whether a process of its own carries it out, as the console script starts it.
    """

    words: Sequence[str]
    note: str
    writes: Sequence[str] = ()
    codes: frozenset[int] = ANY
    environment: Mapping[str, str | None] = field(default_factory=dict)
    real_git: bool = False
    anew: bool = False


class Draw:
    """The decisions that make a case: alternately, so that a kind covers its lists, and by chance."""

    def __init__(self, seed: int, kind: str, index: int) -> None:
        self.random = random.Random(f"{seed}/{kind}/{index}")
        self._rest = index

    def turn(self, options: Sequence[Item]) -> Item:
        """Return one of the options; calls one after the other go through all combinations, case by case."""
        self._rest, which = divmod(self._rest, len(options))
        return options[which]

    def any(self, options: Sequence[Item]) -> Item:
        """Return one of the options by chance."""
        return self.random.choice(options)


@dataclass(frozen=True)
class Kind:
    """Cases of one subject: how one is made in its place, and how many are made in a whole run."""

    name: str
    make: Callable[[Draw, Place], Command]
    cases: int


@dataclass(frozen=True)
class Case:
    """One case of a kind, the same one for the same seed."""

    kind: Kind
    index: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.kind.name}-{self.index:04d}"

    def make(self, place: Place) -> Command:
        """Make the files of the case; return the command that meets them."""
        return self.kind.make(Draw(self.seed, self.kind.name, self.index), place)


def chosen_cases(kinds: Sequence[Kind], seed: int, number: int | None) -> list[Case]:
    """Return all cases, or about `number` of them, from every kind at least three and spread over each."""
    whole = sum(kind.cases for kind in kinds)
    chosen: list[Case] = []
    for kind in kinds:
        wanted = kind.cases if number is None else max(3, round(number * kind.cases / whole))
        if number is not None and wanted < kind.cases:
            # Spread by chance: steps of one width would meet the same option of each list again and again.
            indices = sorted(random.Random(f"{seed}/{kind.name}").sample(range(kind.cases), wanted))
        else:
            indices = list(range(wanted))
        chosen += [Case(kind, index, seed) for index in indices]
    return chosen
