"""Data sets that somebody else made: one line or an unreadable image, in little time and memory."""

from __future__ import annotations

import os
import random
import resource
import signal
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from autoprog.data.cache import CacheSettings, open_cached
from autoprog.data.image_sources import FolderSource, TarSource, load_at_most
from autoprog.data.opening import open_data, open_evaluated_folder, open_part
from autoprog.data.progress import progress_on_stderr
from autoprog.data.transforms import TransformSettings, eval_transform
from autoprog.errors import AutoprogError, ConfigError, RunError
from autoprog.settings import DataSettings

from .hostile_data import (
    EPS,
    KINDS,
    READABLE_IMAGES,
    READABLE_TARS,
    REFUSED_TARS,
    UNREADABLE_IMAGES,
    damaged_image,
    damaged_tar,
    encoded,
    put,
)

MAX_BYTES = 800 * 2**20  # beside the 0.7 GB of torch and timm
MAX_SECONDS = 10


def answer_of_child(ask: Callable[[], str]) -> str:
    """Return what a function answers in a process with little time and memory."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS)  # ends the process
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            text = f"ok {ask()}"
        except AutoprogError as error:
            text = f"{type(error).__name__} {error}"
        except BaseException:
            text = f"traceback {traceback.format_exc()}"
        taken = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        if taken > MAX_BYTES:
            text = f"{taken >> 20} MiB; {text}"
        os.write(writer, text.encode()[:60_000])
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        answer = file.read().decode()
    status = os.waitpid(child, 0)[1]
    assert status == 0, f"ended with {status}"
    assert "\x1b" not in answer
    return answer


def checked(error: AutoprogError) -> str:
    """Return an error's text, which must be one printable line."""
    assert str(error).isprintable(), error
    return str(error)


def in_classes(folder: Path, data: bytes, name: str = "0.jpg") -> FolderSource:
    """Return a source of one such image and one that is whole."""
    for place, content in ((folder / "cat" / name, data), (folder / "dog" / "0.png", encoded())):
        place.parent.mkdir(parents=True)
        place.write_bytes(content)
    return FolderSource(folder)


@pytest.mark.parametrize("name", READABLE_IMAGES)
def test_images_that_only_look_dangerous_are_read(tmp_path: Path, name: str) -> None:
    source = in_classes(tmp_path, READABLE_IMAGES[name]())
    transform = eval_transform(224, TransformSettings())

    def read() -> str:
        load_at_most(source, 0, 448)
        return str(tuple(transform(source.load(0)[0]).shape))

    assert answer_of_child(read) == "ok (3, 224, 224)"


@pytest.mark.parametrize("name", UNREADABLE_IMAGES)
def test_images_that_take_too_much_are_unreadable(tmp_path: Path, name: str) -> None:
    build, said = UNREADABLE_IMAGES[name]
    source = in_classes(tmp_path, build())
    for read in (lambda: source.load(0), lambda: load_at_most(source, 0, 64)):
        text = answer_of_child(lambda read=read: str(read()))  # type: ignore[misc]
        assert text.startswith(f"RunError {tmp_path}/cat/0.jpg: image 0 cannot be read: "), text
        assert said in text
        assert "\n" not in text
        assert len(text) < 600


def test_no_image_starts_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("gs", "gswin64c"):
        (tools / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    for number, ending in enumerate(("jpg", "png", "tif", "eps")):
        folder = tmp_path / str(number)
        source = in_classes(folder, EPS, f"0.{ending}") if ending != "eps" else None
        if source is not None:
            with pytest.raises(RunError, match="not an image that Pillow reads"):
                source.load(0)
    assert not (tmp_path / "started").exists()


def test_an_image_file_that_is_huge_is_not_read(tmp_path: Path) -> None:
    source = in_classes(tmp_path, b"x")
    os.truncate(tmp_path / "cat" / "0.jpg", 2**40)
    assert "larger than 512 MiB" in answer_of_child(lambda: str(source.load(0)))


def test_damaged_images_are_read_or_unreadable(tmp_path: Path) -> None:
    source = in_classes(tmp_path, b"x")
    place = tmp_path / "cat" / "0.jpg"

    def read_many() -> str:
        rng = random.Random(0)
        for _ in range(400):
            place.write_bytes(damaged_image(rng))
            for read in (lambda: source.load(0), lambda: load_at_most(source, 0, 8)):
                try:
                    read()
                except RunError as error:
                    checked(error)
        return "all"

    assert answer_of_child(read_many) == "ok all"


def test_a_cache_leaves_out_images_that_take_too_much(tmp_path: Path) -> None:
    source = in_classes(tmp_path / "set", UNREADABLE_IMAGES["170,000,000 x 1"][0]())
    settings = CacheSettings(str(tmp_path / "cache"), 32, 0, 1, progress_on_stderr)
    cached = open_cached(source, "training", settings)
    with pytest.raises(RunError, match="more than the 67,108,864 pixels"):
        cached.load(0)
    assert cached.load(1)[0].size == (16, 16)


def write_tar(folder: Path, data: bytes) -> Path:
    path = folder / "train.tar"
    path.write_bytes(data)
    return path


def read_tar(path: Path) -> str:
    """Return how many images of a tar file are read, and how many are not."""
    source = open_part(path, "first")
    broken = 0
    for index in range(len(source)):
        try:
            source.load(index)
        except RunError as error:
            checked(error)
            broken += 1
    for one in getattr(source, "left_out", ()):
        assert str(one).isprintable(), one
    return f"{len(source) - broken} + {broken}"


@pytest.mark.parametrize("name", READABLE_TARS)
def test_what_is_no_image_in_a_tar_is_left_out(tmp_path: Path, name: str) -> None:
    path = write_tar(tmp_path, READABLE_TARS[name]())
    found = answer_of_child(lambda: read_tar(path))
    assert found.startswith("ok "), found
    assert int(found.split()[1]) >= 2, found


@pytest.mark.parametrize("name", REFUSED_TARS)
def test_tars_that_lie_are_refused(tmp_path: Path, name: str) -> None:
    path = write_tar(tmp_path, REFUSED_TARS[name]())
    found = answer_of_child(lambda: read_tar(path))
    assert found.startswith("ConfigError --data: "), found
    assert found.isprintable()
    assert len(found) < 600


def test_a_tar_of_a_pebibyte_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path, READABLE_TARS["links and devices"]())
    with path.open("r+b") as file:
        file.truncate(2**43)
    found = answer_of_child(lambda: read_tar(path))
    assert found.startswith(("ok 2", "ConfigError")), found


def test_damaged_tars_are_read_or_refused(tmp_path: Path) -> None:
    def read_many() -> str:
        rng = random.Random(0)
        for _ in range(400):
            path = write_tar(tmp_path, damaged_tar(rng))
            try:
                read_tar(path)
            except ConfigError as error:
                checked(error)
        return "all"

    assert answer_of_child(read_many) == "ok all"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "place", ["", "train", "val", "train.tar", "val.tar", "train/cat", "train/cat/0.png"]
)
def test_what_is_no_file_or_folder_is_never_waited_for(
    tmp_path: Path, kind: str, place: str
) -> None:
    root = tmp_path / "set"
    for part in ("train", "val"):
        if not place.startswith(part) or "/" in place:
            for name in ("cat", "dog", "emu"):
                if place not in ("", f"{part}/{name}"):
                    (root / part / name).mkdir(parents=True)
                    (root / part / name / "1.png").write_bytes(encoded())
    put(root / place if place else root, kind)

    def read() -> str:
        source = DataSettings(dir=str(root))
        for one in (source, DataSettings(dir=str(root), val_fraction=0.5)):
            try:
                open_data(one)
            except ConfigError as error:
                checked(error)
        open_evaluated_folder(root)
        return "read"

    assert answer_of_child(read).startswith(("ok", "ConfigError --data"))


@pytest.mark.parametrize("kind", ["pipe", "folder", "endless", "itself"])
def test_a_file_that_is_replaced_after_the_scan_is_unreadable(tmp_path: Path, kind: str) -> None:
    source = in_classes(tmp_path, encoded())
    (tmp_path / "cat" / "0.jpg").unlink()
    put(tmp_path / "cat" / "0.jpg", kind)
    assert answer_of_child(lambda: str(source.load(0))).startswith("RunError ")
    tar = TarSource(write_tar(tmp_path, READABLE_TARS["links and devices"]()))
    (tmp_path / "train.tar").unlink()
    put(tmp_path / "train.tar", kind)
    assert answer_of_child(lambda: str(tar.load(0))).startswith("RunError ")


def test_folders_that_link_to_each_other_are_read_a_few_times(tmp_path: Path) -> None:
    names = [f"c{number}" for number in range(12)]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(encoded())
        for other in names:
            (tmp_path / name / f"to-{other}").symlink_to(tmp_path / other)
    found = answer_of_child(lambda: str(len(FolderSource(tmp_path, "first"))))
    assert found.startswith("ok ")
    assert int(found.split()[1]) <= 12 * 8


def test_folders_a_thousand_deep_are_left_out(tmp_path: Path) -> None:
    in_classes(tmp_path, encoded(), "0.png")
    here = os.getcwd()
    os.chdir(tmp_path / "cat")
    try:
        for _ in range(600):  # deeper than a path can name
            os.mkdir("a folder")
            os.chdir("a folder")
    finally:
        os.chdir(here)
    assert answer_of_child(lambda: str(len(FolderSource(tmp_path, "first")))) == "ok 2"
    os.system(f"rm -rf {tmp_path}/cat")  # pytest cannot remove it


def test_names_of_any_kind_stay_one_printable_line(tmp_path: Path) -> None:
    names = [
        b"\x1b]52;c;\x07",
        b"\xff\xfe",
        b"a" * 255,
        "\u202e\u2028".encode(),
        b"\x9b31m",
        b"n\nn",
    ]
    raw = os.fsencode(tmp_path)
    for part in (b"train", b"val"):
        for name in names:
            os.makedirs(raw + b"/" + part + b"/" + name)
            with open(raw + b"/" + part + b"/" + name + b"/0.png", "wb") as file:
                file.write(encoded() if part == b"train" else b"broken")
            with open(raw + b"/" + part + b"/" + name + b"/" + name[:250] + b".\x1bx", "wb"):
                pass
    opened = open_data(DataSettings(dir=str(tmp_path)))
    assert all(line.isprintable() for line in opened.report.lines())
    for index in range(len(names)):
        with pytest.raises(RunError) as caught:
            opened.images[1].load(index)
        assert "\x1b" not in str(caught.value)
        assert "\n" not in str(caught.value)
    os.mkdir(raw + b"/train/" + b"\x1b[2J")
    with pytest.raises(ConfigError) as refused:
        open_data(DataSettings(dir=str(tmp_path)))
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("path", ["x" * 5000, "a\0b", "/dev/zero", "/proc/self/mem", ""])
def test_paths_that_are_no_folder_are_one_line(path: str) -> None:
    for ask in (
        lambda: open_data(DataSettings(dir=path)),
        lambda: open_data(DataSettings(dir=path, val_fraction=0.1)),
        lambda: open_data(DataSettings(dataset="torch/image_folder", data_dir=path)),
    ):
        with pytest.raises(ConfigError) as caught:
            ask()
        assert str(caught.value).isprintable()
