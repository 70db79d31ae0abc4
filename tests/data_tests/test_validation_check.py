"""Broken validation images are met before a run or cost it nothing; what readers warn of is a line each."""

from __future__ import annotations

import json
import shutil
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from autoprog.cli import main
from autoprog.commands import launch
from autoprog.data import decode, image_sources
from autoprog.data.cache import CacheSettings, open_cached
from autoprog.data.image_sources import FolderSource
from autoprog.data.loader import check_images
from autoprog.data.progress import progress_on_stderr
from autoprog.errors import ResumableError
from autoprog.recipe import Recipe
from autoprog.runs import load_run
from autoprog.train.checkpoint import load_newest

WORDS = ("train", "--schedule=constant", "--model=vit-mu", "--threads=1", "--epochs=1", "-q")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.RandomState(0)
    for part, each in (("train", 12), ("val", 20)):
        for name in ("ape", "cat"):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for number in range(each):
                pixels = rng.randint(0, 256, (20, 20, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / part / name / f"{number}.png")
    return tmp_path / "data"


def train(data: Path, *more: str) -> int:
    words = ("--batch-size=8", "--workers=0", f"--runs-dir={data.parent / 'runs'}")
    return main([*WORDS, *words, f"--data={data}", *more])


def the_run(data: Path) -> Path:
    (folder,) = (data.parent / "runs").iterdir()
    return folder


def broken(data: Path, name: str = "val/cat/7.png") -> Path:
    (data / name).write_bytes((data / name).read_bytes()[:300])
    return data / name


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_validation_image_is_told_before_anything_is_written(
    data: Path, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = broken(data)
    assert train(data, f"--workers={workers}", "--max-bad-images=100") == 2
    err = capsys.readouterr().err
    assert err.startswith(f"autoprog: --data: a validation image cannot be read: {path}: image 27")
    assert err.endswith("; repair or remove it\n")
    assert err.count("\n") == 1
    assert not (data.parent / "runs").exists()
    broken(data, "val/ape/3.png")
    assert train(data) == 2
    assert "2 validation images cannot be read, the first: " in capsys.readouterr().err


def test_one_that_breaks_later_costs_no_step(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = data.parent / "kept.png"
    shutil.copy(data / "val/cat/7.png", kept)
    path = broken(data)
    with monkeypatch.context() as patch:
        patch.setattr(launch, "check_validation_images", lambda *_: None)
        assert train(data) == 1
    run, err = the_run(data), capsys.readouterr().err
    assert f"a validation image cannot be read: {path}" in err
    assert err.endswith(f"; repair or remove it; then --resume {run}\n")
    state, _ = load_newest(run / "checkpoints")
    assert state is not None
    assert state["step"] == 3  # all of them: 24 images in batches of 8
    assert main(["train", "--resume", str(run), "-q"]) == 2
    assert capsys.readouterr().err.endswith(f"repair or remove it; then --resume {run}\n")
    shutil.copy(kept, path)
    assert main(["train", "--resume", str(run), "-q"]) == 0
    assert json.loads((run / "result.json").read_text())["epochs"] == 1.0
    # Once evaluated they have been read, and are not read again before a resume.
    assert any(event.kind == "evaluated" for event in load_run(run).events())


def test_a_check_ends_in_time_and_looks_everywhere(data: Path) -> None:
    source, ticks = FolderSource(data / "val"), count()
    whole = check_images(source, 0, 60.0, progress_on_stderr, lambda: 0.0)
    assert (whole.num_read, whole.unreadable) == (40, [])
    part = check_images(source, 0, 0.5, progress_on_stderr, lambda: float(next(ticks)))
    assert part.num_read in (8, 16)  # one chunk, wherever in the set


def test_a_cache_of_validation_images_says_what_they_are(data: Path, tmp_path: Path) -> None:
    broken(data)
    settings = CacheSettings(str(tmp_path / "cache"), 16, 0, 100, progress_on_stderr)
    with pytest.raises(ResumableError, match=r"^a validation image cannot be read: .*7.png"):
        open_cached(FolderSource(data / "val"), "validation", settings, exact=True)


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff"]
)
def test_messages_hold_no_names_of_python_objects(data: Path, content: bytes) -> None:
    (data / "val/ape/0.png").write_bytes(content)
    source = FolderSource(data / "val")
    ((index, reason),) = check_images(source, 0, 60, progress_on_stderr).unreadable
    assert index == 0
    assert "cannot be read: " in reason
    assert "object at" not in reason
    assert "<" not in reason


def test_an_image_beyond_what_pillow_opens_says_so(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (decode, image_sources):
        monkeypatch.setattr(module, "MAX_PIXELS", 200)  # the test images have 400
    (_, reason), *_ = check_images(FolderSource(data / "val"), 0, 60, progress_on_stderr).unreadable
    assert reason.endswith("more than the 200 pixels that are read; make it smaller")


@pytest.mark.parametrize("workers", [0, 2])
def test_what_pillow_warns_of_is_a_line_that_names_the_image(data: Path, workers: int) -> None:
    for number in (3, 5):
        image = Image.new("P", (20, 20))
        image.putpalette(list(range(256)) * 3)
        image.save(data / f"train/ape/{number}.png", transparency=bytes(range(256)))
    assert train(data, f"--workers={workers}") == 0
    warned = [e.message for e in load_run(the_run(data)).events() if e.kind == "warning_raised"]
    (line,) = [text for text in warned if "largest class" not in text]
    assert line.startswith(f"{data / 'train/ape'}/")
    assert "its reader warns: Palette images with Transparency" in line


def test_a_gradient_norm_of_zero_is_without_limit() -> None:
    asked: dict[str, Any] = {"clip_grad": 0}
    assert Recipe(**asked).clip_grad is None
