"""The completion scripts, as a shell uses them: no Python runs while it completes."""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from autoprog.cli import COMMANDS, main

Complete = Callable[..., list[str]]
BASH = shutil.which("bash")
PROGRAM = """\
source "$1"; shift
COMP_WORDS=(autoprog "$@")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_shtab_autoprog
printf '%s\\n' "${COMPREPLY[@]}"
"""


def script_of(shell: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["init", "completion", shell]) == 0
    return out.getvalue()


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "autoprog.bash"
    path.write_text(script_of("bash"), encoding="utf-8")
    return path


@pytest.fixture
def complete(script: Path, tmp_path: Path) -> Complete:
    """Return what bash completes the last of some words to, without any program to call."""
    if BASH is None:
        pytest.skip("bash is not installed")

    def ask(*words: str) -> list[str]:
        done = subprocess.run(
            [BASH, "--norc", "-c", PROGRAM, "bash", str(script), *words],
            cwd=tmp_path,
            env={"PATH": "/nowhere"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert "command not found" not in done.stderr
        return [line for line in done.stdout.splitlines() if line]

    return ask


def test_bash_completes_commands(complete: Complete) -> None:
    assert complete("se") == ["search"]
    assert set(COMMANDS) <= set(complete(""))


def test_bash_completes_flags_of_the_command(complete: Complete) -> None:
    assert complete("train", "--log-t") == ["--log-tensorboard"]
    assert complete("compare", "--log-t") == []
    assert complete("train", "--elastic", "--mod") == ["--model"]


def test_bash_completes_names_where_flags_take_them(complete: Complete) -> None:
    assert complete("search", "--model", "deit-t") == ["deit-ti", "deit-ti-local"]
    assert "vit_small_patch16_224" in complete("search", "--model", "vit_small_patch16")
    assert complete("train", "--schedule", "lin") == ["linear"]
    assert "patch-sampling:fixed" in complete("show", "patch-s")
    assert complete("search", "--space", "digi") == ["digits"]
    assert complete("train", "--recipe", "small") == ["small-data"]
    assert complete("search", "--rule", "ro") == ["rollout"]
    assert "adamw" in complete("train", "--opt", "adam")
    assert complete("init", "completion", "z") == ["zsh"]
    assert complete("init", "sched") == ["schedule"]
    assert complete("init", "schedule", "--from", "late") == ["late-jump"]


def test_bash_completes_files_and_folders(complete: Complete, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs.yaml").touch()
    assert sorted(complete("train", "--schedule", "run")) == ["runs", "runs.yaml"]
    assert sorted(complete("search", "--costs", "run")) == ["runs", "runs.yaml"]
    assert complete("train", "--resume", "run") == ["runs"]
    assert complete("compare", "runs", "run") == ["runs"]
    assert complete("train", "--seed", "run") == []


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_know_commands_flags_and_names(shell: str) -> None:
    text = script_of(shell)
    for word in ("search", "log-tensorboard", "deit-ti", "progressive-resizing", "digits"):
        assert word in text
    program = shutil.which(shell)
    if program is not None:
        subprocess.run([program, "-n"], input=text, text=True, check=True)


def test_an_unknown_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["init", "completion", "csh2"])
    assert stopped.value.code == 2
    assert "must be bash, zsh or tcsh, but got 'csh2'" in capsys.readouterr().err
