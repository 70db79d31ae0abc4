"""The linter, the formatter and the type checker find nothing to say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ("autoprog", "supernet", "search_spaces")


@pytest.mark.parametrize(
    "command",
    [
        ("ruff", "check", "--quiet", *PACKAGES, "tests"),
        ("ruff", "format", "--quiet", "--check", *PACKAGES, "tests"),
        ("mypy", "--no-error-summary"),
    ],
    ids=["lint", "format", "types"],
)
def test_a_checker_is_silent(command: tuple[str, ...], repository: Path) -> None:
    """Files and settings of mypy come from setup.cfg, those of ruff from pyproject.toml."""
    pytest.importorskip(command[0], reason=f"{command[0]} comes with the extra 'test'")
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"{' '.join(command)}\n{done.stdout}{done.stderr}", pytrace=False)
