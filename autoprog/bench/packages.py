"""Whether the packages that the program needs are there; imports none of them, since one may be broken."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

__all__ = ["PACKAGES", "Finding", "check_packages"]

PACKAGES = {"torch": (2, 6), "timm": (1, 0, 31), "optuna": (5, 0), "rich": (13, 7)}
"""The lowest versions, as in setup.cfg."""


@dataclass(frozen=True)
class Finding:
    """One line of a check-up. ``hint`` is empty where all is well; a note is for the user to judge."""

    subject: str
    verdict: Literal["ok", "note", "slow", "wrong"]
    found: str
    hint: str = ""


def check_packages() -> Iterator[Finding]:
    """Compare installed versions with the lowest that the program needs."""
    yield Finding("python", "ok", platform.python_version())
    for name, least in PACKAGES.items():
        wanted = ".".join(map(str, least))
        hint = f"pip install '{name}>={wanted}'"
        try:
            found = version(name)
        except PackageNotFoundError:
            yield Finding(name, "wrong", "not installed", hint)
            continue
        numbers = found.partition("+")[0].split(".")  # "2.6.0+cpu" is version 2.6.0
        enough = tuple(int(part) for part in numbers if part.isdigit()) >= least
        yield Finding(name, "ok" if enough else "wrong", found, "" if enough else hint)
