"""Some hostile cases of every kind, in a process that has loaded everything once; see `run.py`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz_tests.run import KINDS

_CASES = 120

Row = dict[str, Any]


@pytest.fixture(scope="module")
def rows(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """Return how each case of the sample ended."""
    found = tmp_path_factory.mktemp("fuzz") / "cases.json"
    program = repository / "tests" / "fuzz_tests" / "run.py"
    words = [sys.executable, str(program), f"--cases={_CASES}", f"--json={found}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert found.exists(), done.stderr[-3_000:]
    return list(json.loads(found.read_text("utf-8")))


@pytest.mark.parametrize("kind", [kind.name for kind in KINDS])
def test_nothing_foreign_is_obeyed(rows: list[Row], kind: str) -> None:
    ours = [row for row in rows if row["case"].rpartition("-")[0] == kind]
    assert ours
    wrong = [(row["again"], row["note"], row["faults"]) for row in ours if row["faults"]]
    assert not wrong
