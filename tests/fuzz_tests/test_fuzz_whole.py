"""The whole corpus of hostile cases, kind by kind; `run.py` runs it too, and prints a table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz_tests.corpus import Kind
from tests.fuzz_tests.run import KINDS


@pytest.fixture(scope="module")
def specimens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that the first kind fills for the others."""
    return tmp_path_factory.mktemp("fuzz") / "specimens"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_nothing_foreign_is_obeyed(
    repository: Path, tmp_path: Path, specimens: Path, kind: Kind
) -> None:
    found = tmp_path / "cases.json"
    program = repository / "tests" / "fuzz_tests" / "run.py"
    words = [sys.executable, str(program), f"--only={kind.name}", f"--json={found}"]
    words += [f"--specimens={specimens}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert found.exists(), done.stderr[-3_000:]
    rows = json.loads(found.read_text("utf-8"))
    assert len(rows) == kind.cases
    wrong = [(row["again"], row["note"], row["faults"]) for row in rows if row["faults"]]
    assert not wrong
