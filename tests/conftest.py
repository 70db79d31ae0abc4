"""Values that many tests share. Threads are limited before any test imports torch."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from autoprog import safe_files
from autoprog.presets import constant
from autoprog.recipe import RECIPES
from autoprog.settings import DataSettings, RunManifest, RunSettings
from autoprog.stage import FullModel
from supernet.config import ModelSpec
from supernet.zoo import ZOO

os.environ.setdefault("OMP_NUM_THREADS", "1")


LONGEST_FILES = (
    "fuzz_tests/test_fuzz_quick.py",
    "golden/test_golden.py",
    "test_cli.py",
    "train_tests/test_trainer.py",
    "train_tests/test_ranks.py",
    "test_stress.py",
    "train_tests/test_compile.py",
    "test_bench_presets.py",
    "test_quality.py",
)
"""Files whose tests take 15 to 60 s together, in the order they are begun in."""


def pytest_configure(config: pytest.Config) -> None:
    """Let pytest-xdist hand files out in our order.

    Its own begins with the files of most tests and so ends with the fewest and longest ones: with `--dist
    loadfile` one process then waits while the other works on, for a minute where the fuzzer comes last.
    """
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files; the others keep their order."""
    places = {name: place for place, name in enumerate(LONGEST_FILES)}
    folder = Path(__file__).parent
    items.sort(key=lambda item: places.get(item.path.relative_to(folder).as_posix(), len(places)))


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).resolve().parent.parent


@pytest.fixture
def deit_s() -> ModelSpec:
    return ZOO["deit-s"]


@pytest.fixture
def vit_mu() -> ModelSpec:
    return ZOO["vit-mu"]


@pytest.fixture
def two_stages() -> ModelSpec:
    """A model in two stages."""
    return ZOO["volo-d1"]


@pytest.fixture
def manifest(vit_mu: ModelSpec) -> RunManifest:
    settings = RunSettings(
        kind="train",
        model=FullModel.of(vit_mu),
        data=DataSettings(),
        recipe_name="digits",
        recipe=RECIPES["digits"],
    )
    return RunManifest(
        run_id="2026-01-02-030405-train-vit-mu",
        created="2026-01-02T03:04:05+00:00",
        argv=("train", "--model", "vit-mu"),
        versions={"autoprog": "0.1.0"},
        settings=settings,
    )


@pytest.fixture
def schedule_text(vit_mu: ModelSpec) -> str:
    """A small schedule file."""
    return constant(vit_mu, 4, RECIPES["digits"].strength).to_yaml()


@pytest.fixture
def no_room_for(monkeypatch: pytest.MonkeyPatch) -> set[Path]:
    """Files that cannot be written as long as they are in this set: the disk is full."""
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    files: set[Path] = set()
    new_file, regular_descriptor = safe_files._new_file, safe_files._regular_descriptor

    def new_file_or_none(path: Path) -> tuple[int, Path]:
        if path in files:
            return os.open("/dev/full", os.O_WRONLY), safe_files._temporary_name(path)
        return new_file(path)

    def descriptor_or_none(path: Path, flags: int, follow_links: bool) -> int:
        is_full = path in files and flags & os.O_WRONLY
        return (
            os.open("/dev/full", flags)
            if is_full
            else regular_descriptor(path, flags, follow_links)
        )

    monkeypatch.setattr(safe_files, "_new_file", new_file_or_none)
    monkeypatch.setattr(safe_files, "_regular_descriptor", descriptor_or_none)
    return files
