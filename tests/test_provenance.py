from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from autoprog.commands.record import git_state

GIT = (
    "git",
    "-c",
    "user.name=a",
    "-c",
    "user.email=a@example.org",
    "-c",
    "init.defaultBranch=main",
)


def git(folder: Path, *words: str) -> str:
    done = subprocess.run([*GIT, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init")
    (folder / "file").write_text("text\n")
    git(folder, "add", "file")
    git(folder, "commit", "-m", "first")
    monkeypatch.chdir(folder)
    return folder


def test_the_commit_is_told(repository: Path) -> None:
    assert git_state() == {"commit": git(repository, "rev-parse", "HEAD")}


def test_outside_git_nothing_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state() == {}


def test_a_repository_without_a_commit_has_none(repository: Path) -> None:
    git(repository, "checkout", "--orphan", "empty")
    assert git_state() == {}


def test_a_working_directory_cannot_make_git_run_its_programs(
    repository: Path, tmp_path: Path
) -> None:
    canary, program = tmp_path / "canary", tmp_path / "program.sh"
    program.write_text(f"#!/bin/sh\necho $0 >> {canary}\ncat\n")
    program.chmod(0o755)
    for key in (
        *("core.fsmonitor", "core.pager", "core.editor", "core.askPass", "core.sshCommand"),
        *("filter.evil.clean", "filter.evil.smudge", "filter.evil.process", "diff.external"),
        *("diff.evil.textconv", "credential.helper", "gpg.program", "pager.rev-parse"),
    ):
        git(repository, "config", key, str(program))
    git(repository, "config", "alias.rev-parse", f"!{program}")
    git(repository, "config", "core.hooksPath", str(tmp_path))
    for hook in ("post-index-change", "fsmonitor-watchman", "reference-transaction"):
        (tmp_path / hook).symlink_to(program)
        (repository / ".git" / "hooks" / hook).symlink_to(program)
    (repository / ".gitattributes").write_text("* filter=evil diff=evil\n")
    (repository / "file").write_text("changed\n")
    os.utime(repository / "file", (1, 1))
    head = (repository / ".git" / "refs" / "heads" / "main").read_text().strip()

    assert git_state() == {"commit": head}
    assert not canary.exists()

    subprocess.run(["git", "status", "--porcelain"], check=False, capture_output=True)
    assert canary.exists()  # so the trap works
