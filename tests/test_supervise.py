from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from autoprog.supervise import PROGRAM, program_in_processes

MODULES = ("torch", "numpy", "json", "argparse", "runpy", "timm", "sitecustomize", "autoprog")


@pytest.fixture
def hostile_folder(tmp_path: Path) -> Path:
    """Return a folder with modules that leave a file named canary when they are imported."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    for name in MODULES:
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\n")
    return folder


@pytest.mark.parametrize("num_processes", [1, 2])
def test_modules_of_the_working_directory_are_not_run(
    num_processes: int, hostile_folder: Path
) -> None:
    words = [*program_in_processes(num_processes), "--version"]
    done = subprocess.run(words, cwd=hostile_folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [done.stdout.splitlines()[0]] * num_processes
    assert done.stdout.startswith("autoprog ")
    assert not (hostile_folder.parent / "canary").exists()


def test_the_program_is_this_very_package(hostile_folder: Path) -> None:
    text = PROGRAM[2].replace("from autoprog.cli import main; sys.exit(main())", "import autoprog")
    shown = f"{text}; print(autoprog.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", shown],
        cwd=hostile_folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout.strip()) == Path(__file__).parents[1] / "autoprog" / "__init__.py"


def test_python_itself_would_run_them(hostile_folder: Path) -> None:
    words = [sys.executable, "-m", "autoprog", "--version"]
    subprocess.run(words, cwd=hostile_folder, capture_output=True, check=False)
    assert (hostile_folder.parent / "canary").exists()  # so the trap works
