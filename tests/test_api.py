from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import autoprog
from autoprog.errors import ConfigError


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys, autoprog; assert not {'torch', 'pydantic', 'rich'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there() -> None:
    for name in autoprog.__all__:
        assert getattr(autoprog, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'serch'"):
        autoprog.serch  # noqa: B018


def test_an_unknown_argument_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        autoprog.run_training("constant", model="vit-mu", epoch=1, runs_dir=tmp_path / "runs")
    assert "run_train: epoch: unknown argument; did you mean 'epochs'?" in str(refused.value)
    assert not (tmp_path / "runs").exists()


def test_a_value_that_a_flag_does_not_take_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="run_train: sched: must be one of cosine, wsd, constant, but got 'bogus'"
    ):
        autoprog.run_training("linear", model="vit-mu", sched="bogus")
