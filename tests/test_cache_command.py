"""The list of decoded images on disk, and what is removed of them: only what is ours and nobody uses."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoprog.cli import main
from autoprog.data.cache import ImageWriter, read_table
from autoprog.data.cache_folder import (
    FOOTER,
    MAGIC,
    cache_files,
    file_lock,
    lock_of,
    lock_shared,
    new_part_of,
)

Capture = pytest.CaptureFixture[str]
TRAIN, VAL = "training-0123456789ab-448px.images", "validation-ba9876543210-64px.images"


def written(path: Path, images: int = 3, origin: str = "/data/flowers/train") -> Path:
    """Write a file as a build does, with the lock file that it leaves."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock_of(path).touch()
    with ImageWriter(path) as writer:
        writer.add(np.zeros(images * 12, np.uint8), [(2, 2)] * images)
        writer.finish("digest", {}, too_large=False, origin=origin)
    return path


def by_hand(path: Path, facts: bytes, magic: bytes = MAGIC, version: int = 1) -> Path:
    path.write_bytes(facts + FOOTER.pack(magic, version, 0, 7, len(facts)))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    written(tmp_path / "cache" / TRAIN)
    written(tmp_path / "cache" / VAL, images=2, origin="/data/flowers/val")
    return tmp_path / "cache"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def cache(folder: Path, *words: object) -> int:
    return main(["list", "caches", *map(str, words), "--dir", str(folder)])


def as_json(capsys: Capture, folder: Path, *words: str) -> dict[str, Any]:
    assert cache(folder, *words, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_the_list_says_what_each_file_is_of(folder: Path, capsys: Capture) -> None:
    hour_ago = time.time() - 3600
    os.utime(folder / TRAIN, (hour_ago, hour_ago))
    found = as_json(capsys, folder)
    first, second = found["files"]
    assert first["unused_seconds"] == pytest.approx(3600, abs=60)
    del first["unused_seconds"], first["last_used"]
    assert first == {
        "name": TRAIN,
        "path": str(folder / TRAIN),
        "part": "training",
        "data": "/data/flowers/train",
        "short_side_px": 448,
        "images": 3,
        "bytes": (folder / TRAIN).stat().st_size,
        "unfinished": False,
        "in_use": False,
    }
    assert (second["name"], second["part"], second["images"]) == (VAL, "validation", 2)
    assert found["bytes"] == first["bytes"] + second["bytes"]
    assert cache(folder) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:4] == [TRAIN, "/data/flowers/train", "448", "3"]
    assert "\x1b" not in "".join(lines)
    assert lines[-1].startswith("2 files, ")


def test_a_list_writes_nothing(folder: Path, capsys: Capture) -> None:
    lock_of(folder / TRAIN).unlink()
    before = names(folder)
    folder.chmod(0o500)
    assert cache(folder) == 0
    folder.chmod(0o700)
    assert names(folder) == before


def test_an_empty_and_a_missing_folder(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(["list", "caches"]) == 0
    assert capsys.readouterr().out == f"0 files, 0 bytes, in {tmp_path}/autoprog\n"
    assert main(["list", "caches", "--remove", "--all"]) == 0
    assert not (tmp_path / "autoprog").exists()
    capsys.readouterr()
    assert cache(tmp_path / "none") == 2
    assert "--dir: must be a folder, but got" in capsys.readouterr().err


def test_everything_is_cleared_with_its_locks(folder: Path, capsys: Capture) -> None:
    assert cache(folder, "--remove", "--all") == 0
    assert names(folder) == set()
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in out[:2]] == [["removed", TRAIN], ["removed", VAL]]
    assert out[2].startswith("removed 2 files, ")


@pytest.mark.parametrize("by_path", [False, True])
def test_one_file_is_cleared_by_its_name(folder: Path, by_path: bool, capsys: Capture) -> None:
    assert cache(folder, "--remove", folder / VAL if by_path else VAL) == 0
    assert names(folder) == {TRAIN, f"{TRAIN}.lock"}


def test_flags_stand_before_or_after_names(folder: Path, capsys: Capture) -> None:
    place = ("--dir", str(folder))
    assert main(["list", "caches", *place, "--older-than", "0", "--remove", TRAIN]) == 0
    assert main(["list", "caches", "--remove", VAL, *place]) == 0
    assert names(folder) == set()


def test_a_wrong_name_removes_nothing(folder: Path, capsys: Capture) -> None:
    before = names(folder)
    assert cache(folder, "--remove", TRAIN, VAL.upper()) == 2
    assert f"did you mean '{VAL}'?" in capsys.readouterr().err
    assert cache(folder, "--remove", folder.parent / "elsewhere" / TRAIN) == 2
    assert cache(folder, "--remove", f"{TRAIN}.lock") == 2
    assert names(folder) == before


def test_what_has_not_been_used_for_long_is_cleared(folder: Path, capsys: Capture) -> None:
    for name, days in ((TRAIN, 31), (VAL, 29)):
        then = time.time() - days * 86400
        os.utime(folder / name, (then, then))
    assert as_json(capsys, folder, "--remove", VAL, "--older-than", "30")["removed"] == []
    found = as_json(capsys, folder, "--remove", "--older-than", "30")
    assert (found["removed"], found["kept_in_use"]) == ([TRAIN], [])
    assert names(folder) == {VAL, f"{VAL}.lock"}


def test_what_is_not_ours_is_never_removed(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    elsewhere = written(tmp_path / "elsewhere" / TRAIN)
    by_hand(folder / "training-aaaaaaaaaaaa-64px.images", b"{}", magic=b"AUTOPRG?")
    (folder / "training-bbbbbbbbbbbb-64px.images").write_bytes(b"short")
    (folder / "training-cccccccccccc-64px.images").write_bytes(b"")
    (folder / "training-dddddddddddd-64px.images").symlink_to(elsewhere)
    written(folder / "folder.images" / TRAIN)
    os.mkfifo(folder / "pipe.images")
    (folder / "notes.txt").write_bytes(FOOTER.pack(MAGIC, 1, 0, 0, 0))
    (folder / "training-eeeeeeeeeeee-64px.images.part").touch()  # no build has left its lock
    (folder / "mine.images.part").touch()
    (folder / "mine.images.lock").touch()
    foreign = names(folder) - {TRAIN, VAL, f"{TRAIN}.lock", f"{VAL}.lock"}
    assert len(foreign) == 10
    assert cache(folder, "--remove", "--all") == 0
    assert names(folder) == foreign
    assert elsewhere.exists()
    assert (folder / "folder.images" / TRAIN).exists()


@pytest.mark.parametrize("facts", [b'{"digest": "of an earlier version"}', b"{broken", b""])
def test_a_file_that_does_not_say_where_its_images_are_from_is_ours(
    tmp_path: Path, facts: bytes, capsys: Capture
) -> None:
    by_hand(tmp_path / TRAIN, facts, version=2)
    (file,) = cache_files(tmp_path)
    assert (file.data, file.images, file.short_px) == (None, 7, 448)
    assert cache(tmp_path) == 0
    assert cache(tmp_path, "--remove", TRAIN) == 0
    assert names(tmp_path) == set()


def test_a_file_that_is_mapped_is_kept_until_it_is_not(folder: Path, capsys: Capture) -> None:
    table = read_table(folder / TRAIN, "digest", 3)
    assert table is not None
    assert [file["in_use"] for file in as_json(capsys, folder)["files"]] == [True, False]
    found = as_json(capsys, folder, "--remove", "--all")
    assert (found["removed"], found["kept_in_use"]) == ([VAL], [TRAIN])
    assert cache(folder, "--remove", "--all") == 0
    assert f"kept {TRAIN} " in capsys.readouterr().out
    del table
    assert as_json(capsys, folder, "--remove", "--all")["removed"] == [TRAIN]


def test_a_file_that_another_process_maps_is_kept(folder: Path, capsys: Capture) -> None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def map_the_file() -> None:
        table = read_table(folder / TRAIN, "digest", 3)
        theirs.send(table is not None)
        theirs.recv()  # until it is killed

    child = context.Process(target=map_the_file, daemon=True)
    child.start()
    assert ours.recv()
    assert as_json(capsys, folder, "--remove", TRAIN)["kept_in_use"] == [TRAIN]
    child.kill()
    child.join(30)
    assert as_json(capsys, folder, "--remove", TRAIN)["removed"] == [TRAIN]


def test_what_is_being_built_is_kept_and_what_a_killed_build_left_is_not(
    folder: Path, capsys: Capture
) -> None:
    part = new_part_of(folder / TRAIN)
    part.write_bytes(b"half")
    with file_lock(lock_of(folder / TRAIN)) as is_mine:
        assert is_mine
        found = as_json(capsys, folder, "--remove", "--all")
        assert (found["removed"], found["kept_in_use"]) == ([VAL], [TRAIN, part.name])
    (_, unfinished) = as_json(capsys, folder)["files"]
    assert (unfinished["unfinished"], unfinished["images"]) == (True, None)
    assert cache(folder, "--remove", part.name) == 0
    assert names(folder) == {TRAIN, f"{TRAIN}.lock"}


def test_who_opens_a_file_that_is_removed_at_that_moment_has_none(folder: Path) -> None:
    with (folder / TRAIN).open("rb") as file:
        assert lock_shared(file)
        (folder / TRAIN).unlink()
        assert not lock_shared(file)


def test_who_waits_for_a_lock_file_that_is_removed_makes_a_new_one(tmp_path: Path) -> None:
    path, held = tmp_path / "a.lock", threading.Event()

    def wait() -> None:
        with file_lock(path) as is_mine, path.open("a") as now:
            if is_mine and os.fstat(now.fileno()).st_nlink == 1:
                held.set()

    with file_lock(path):
        with file_lock(path, wait=False) as is_mine:
            assert not is_mine
        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.1)  # so that it waits for the file that is removed now
        path.unlink()
    waiting.join(10)
    assert held.is_set()
    assert path.exists()


def test_a_folder_that_may_not_be_changed_is_an_error_of_one_line(
    folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    assert cache(folder, "--remove", VAL) == 1
    shown = capsys.readouterr()
    assert shown.err == f"autoprog: {folder / VAL}: cannot be removed: Permission denied\n"
    assert shown.out.startswith("removed 0 files")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--remove"], "--remove: must say which files; give a NAME, --older-than DAYS or --all"),
        (
            ["--all", "--remove", TRAIN],
            "--all: must be given without a NAME and without --older-than",
        ),
        (["--remove", "--all", "--older-than", "3"], "--all: must be given without a NAME and"),
        (["--all"], "--all: must be given together with --remove"),
        (["--older-than", "3"], "--older-than: must be given together with --remove"),
    ],
)
def test_what_is_no_request_is_refused(
    folder: Path, words: list[str], line: str, capsys: Capture
) -> None:
    before = names(folder)
    assert cache(folder, *words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"autoprog: {line}")
    assert names(folder) == before


@pytest.mark.parametrize(
    "facts",
    [
        b"[" * 10**5,
        b"9" * 10**5,
        b'{"origin": [1]}',
        b'{"origin": NaN}',
        b'{"origin": "\\u001b]0;x"}',
    ],
)
def test_a_list_of_hostile_files_is_a_list(tmp_path: Path, facts: bytes, capsys: Capture) -> None:
    by_hand(tmp_path / TRAIN, facts)
    by_hand(tmp_path / "\x1b]52;c;aGk=\x07\nb.images", b"{}")
    by_hand(tmp_path / "large.images", facts)
    (tmp_path / "large.images").write_bytes(FOOTER.pack(MAGIC, 1, 0, 2**64 - 1, 2**64 - 1))
    os.utime(tmp_path / "large.images", (0, 2**33))
    assert cache(tmp_path) == 0
    assert cache(tmp_path, "--json") == 0
    assert cache(tmp_path, "--remove", "--all") == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert all(letter >= " " or letter == "\n" for letter in shown.out)
    assert "␛]52;c;aGk=␇ b.images" in shown.out


@pytest.mark.parametrize("days", ["-1", "nan", "1e300"])
def test_days_are_a_number(folder: Path, days: str, capsys: Capture) -> None:
    before = names(folder)
    with pytest.raises(SystemExit) as ended:
        cache(folder, "--remove", "--older-than", days)
    assert ended.value.code == 2
    problem = "argument --older-than: must be a number from 0 to 100,000, but got"
    assert problem in capsys.readouterr().err
    assert names(folder) == before


def test_a_lock_file_that_is_a_link_is_left_alone(folder: Path, capsys: Capture) -> None:
    victim = folder.parent / "victim"
    victim.write_text("dear")
    lock_of(folder / TRAIN).unlink()
    lock_of(folder / TRAIN).symlink_to(victim)
    lock_of(folder / VAL).unlink()
    os.mkfifo(lock_of(folder / VAL))
    assert cache(folder) == 0
    assert cache(folder, "--remove", "--all") == 1
    said = capsys.readouterr().err
    assert said == (
        f"autoprog: {folder / TRAIN}: cannot be removed: a symbolic link;"
        f" {folder / VAL}: cannot be removed: a pipe\n"
    )
    assert victim.read_text() == "dear"
    assert names(folder) == {TRAIN, VAL, f"{TRAIN}.lock", f"{VAL}.lock"}


def test_the_command_imports_no_torch(folder: Path) -> None:
    place = f"'--dir', {str(folder)!r}"
    program = (
        "import sys; from autoprog.cli import main;"
        f"main(['list', 'caches', {place}]); main(['list', 'caches', '--remove', '--all', {place}]);"
        "assert not {'torch', 'numpy', 'timm'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
