"""Whether the packages that the program needs are there; runs without any of them."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

__all__ = ["PACKAGES", "Finding", "check_packages"]

PACKAGES = {"torch": (2, 6), "timm": (1, 0, 31), "optuna": (5, 0), "rich": (13, 7)}
"""The least versions, as in setup.cfg."""


@dataclass(frozen=True)
class Finding:
    """One line of a check-up. ``cure`` is empty where all is well; a note is for the user to judge."""

    subject: str
    verdict: Literal["ok", "note", "slow", "wrong"]
    found: str
    cure: str = ""


def check_packages() -> Iterator[Finding]:
    """Compare installed versions with the least that the program needs."""
    yield Finding("python", "ok", platform.python_version())
    for name, least in PACKAGES.items():
        wanted = ".".join(map(str, least))
        cure = f"pip install '{name}>={wanted}'"
        try:
            found = version(name)
        except PackageNotFoundError:
            yield Finding(name, "wrong", "not installed", cure)
            continue
        enough = _numbers(found) >= least
        yield Finding(name, "ok" if enough else "wrong", found, "" if enough else cure)


def _numbers(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version, such as (2, 6, 0) for ``2.6.0+cpu``."""
    parts = text.partition("+")[0].split(".")
    return tuple(int(part) for part in parts if part.isdigit())
