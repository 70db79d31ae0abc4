"""Commands that messages name, ready to be copied into a shell."""

from __future__ import annotations

import shlex
from pathlib import Path

__all__ = ["command"]


def command(*words: str | Path) -> str:
    """Return ``autoprog WORDS``, quoted as a shell needs it: a path may hold spaces or ``$(…)``."""
    return shlex.join(["autoprog", *map(str, words)])
