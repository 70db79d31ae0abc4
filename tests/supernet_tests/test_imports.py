from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import supernet

ROOT = Path(supernet.__file__).parents[1]


@pytest.mark.parametrize("module", ["", ".config", ".zoo", ".cost", ".depthmap"])
def test_plain_arithmetic_needs_no_torch(module: str) -> None:
    code = f"import sys, supernet{module}; print(sorted({{'torch', 'timm', 'numpy'}} & set(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


def test_every_public_name_resolves_lazily() -> None:
    for name in supernet.__all__:
        found = getattr(supernet, name)
        assert getattr(found, "__name__", name) == name or name == "Slots"
    with pytest.raises(AttributeError, match="no attribute 'width'"):
        supernet.width  # noqa: B018
