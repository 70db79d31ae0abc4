"""What an install brings along, read from setup.cfg."""

from __future__ import annotations

import os
import re
from configparser import ConfigParser
from fnmatch import fnmatch
from pathlib import Path

import pytest

PACKAGES = ("autoprog", "supernet", "search_spaces")


@pytest.fixture
def setup(repository: Path) -> ConfigParser:
    parser = ConfigParser(interpolation=None)
    parser.read(repository / "setup.cfg", encoding="utf-8")
    return parser


def is_shipped(setup: ConfigParser, package: str) -> bool:
    patterns = setup["options.packages.find"]["include"].split()
    return any(fnmatch(package, pattern) for pattern in patterns)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_of_code_is_shipped(
    setup: ConfigParser, repository: Path, package: str
) -> None:
    folders = {path.parent for path in (repository / package).rglob("*.py")}
    names = [".".join(folder.relative_to(repository).parts) for folder in folders]
    assert names
    assert [name for name in names if not is_shipped(setup, name)] == []


@pytest.mark.parametrize("folder", ["tests", "tests.supernet_tests", "runs", "build"])
def test_nothing_else_is_shipped(setup: ConfigParser, folder: str) -> None:
    assert not is_shipped(setup, folder)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_data_file_is_shipped(setup: ConfigParser, repository: Path, package: str) -> None:
    shipped = setup["options.package_data"]
    others = [
        path
        for path in (repository / package).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    ]
    homes = {path: ".".join(path.parent.relative_to(repository).parts) for path in others}
    assert [
        path.name
        for path, home in homes.items()
        if not any(fnmatch(path.name, p) for p in shipped.get(home, "").split())
    ] == []


def test_the_changelog_has_an_entry_for_this_version(setup: ConfigParser, repository: Path) -> None:
    changelog = (repository / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(.+?)\]", changelog, re.MULTILINE)
    assert newest is not None
    assert newest.group(1) == setup["metadata"]["version"]


def test_the_licence_is_the_one_that_the_metadata_names(
    setup: ConfigParser, repository: Path
) -> None:
    text = (repository / setup["metadata"]["license_files"]).read_text(encoding="utf-8")
    assert setup["metadata"]["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0, January 2004" in text


def test_the_continuous_integration_script_can_be_run(repository: Path) -> None:
    assert os.access(repository / ".ci" / "run", os.X_OK)
