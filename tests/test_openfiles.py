from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from autoprog.errors import ConfigError
from autoprog.files import append_row, cut_torn_tail, json_object, read_object, read_rows
from autoprog.openfiles import (
    NotRegularFileError,
    open_for_appending,
    open_regular,
    read_bytes,
    refuse_links,
    remove_temporary_files,
    replacing,
    write_atomically,
)


def put(kind: str, path: Path) -> None:
    """Put something that is no regular file at `path`."""
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    else:
        path.symlink_to("/dev/zero")


KINDS = ["a folder", "a pipe", "a socket", "a device"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_regular_file_is_never_waited_for(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the address of a socket is short
    path = Path("it")
    put(kind, path)
    for read in (open_regular, read_bytes):
        with pytest.raises(NotRegularFileError) as caught:
            read(path)
        assert caught.value.strerror == kind
    for read_it in (read_object, lambda path: list(read_rows(path))):
        with pytest.raises(ConfigError, match=f"must be a regular file, but it is {kind}"):
            read_it(path)
    for write in (open_for_appending, cut_torn_tail, lambda path: append_row(path, {})):
        with pytest.raises(NotRegularFileError):
            write(path)


def test_a_link_is_followed_for_reading_alone(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("theirs\n")
    link.symlink_to(target)
    assert read_bytes(link) == b"theirs\n"
    with pytest.raises(NotRegularFileError, match="a symbolic link"):
        open_regular(link, follow_links=False)
    with pytest.raises(NotRegularFileError, match="a symbolic link"):
        append_row(link, {"a": 1})
    assert target.read_text() == "theirs\n"
    write_atomically(link, "ours\n")
    assert target.read_text() == "theirs\n"
    assert not link.is_symlink()
    assert link.read_text() == "ours\n"


def test_a_link_to_nowhere_makes_no_file(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotRegularFileError):
        open_for_appending(tmp_path / "log")
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_is_read_up_to_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 2**20)
    assert len(read_bytes(path, 2**20)) == 2**20
    with pytest.raises(OSError, match=r"larger than 0\.5 MiB"):
        read_bytes(path, 2**19)


def test_a_replaced_file_has_the_permissions_of_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    before = os.umask(0o027)
    try:
        write_atomically(path, "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_nothing_is_left_of_a_file_that_could_not_be_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    block = replacing(path)
    block.__enter__().write(b"new")
    assert len(list(tmp_path.iterdir())) == 2
    block.__exit__(RuntimeError, RuntimeError(), None)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_links_among_known_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    (tmp_path / "other").symlink_to("a")
    refuse_links(tmp_path, ["a", "missing"])
    with pytest.raises(NotRegularFileError, match="a symbolic link"):
        refuse_links(tmp_path, ["a", "other"])


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    block = replacing(tmp_path / "run.yaml")
    block.__enter__()  # and never left
    assert len(list(tmp_path.iterdir())) == 1
    remove_temporary_files(tmp_path, ["other.yaml", "run.yaml"])
    assert list(tmp_path.iterdir()) == []


def test_only_our_own_temporary_files_are_removed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("")
    names = [
        ".run.yaml.0123abcd.tmp",
        ".run.yaml.tmp",
        ".other.0123abcd.tmp",
        "run.yaml.0123abcd.tmp",
    ]
    for name in names:
        (tmp_path / name).write_text("")
    (tmp_path / ".run.yaml.link1234.tmp").symlink_to(victim)
    (tmp_path / ".run.yaml.dirdir12.tmp").mkdir()
    remove_temporary_files(tmp_path, ["run.yaml"])
    left = {".run.yaml.link1234.tmp", ".run.yaml.dirdir12.tmp", "victim", *names[1:]}
    assert {entry.name for entry in tmp_path.iterdir()} == left


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": NaN}', "f: must hold finite numbers, but got NaN"),
        ('{"a": -Infinity}', "f: must hold finite numbers, but got -Infinity"),
        ("[" * 10**5, "f: must be a JSON object"),
        ('{"a":' * 10**5, "f: must be a JSON object"),
        ('{"a": ' + "9" * 10**5 + "}", "f: must be a JSON object"),
        ("[1]", "f: must be a JSON object"),
        ("", "f: must be a JSON object"),
    ],
)
def test_json_that_is_no_plain_object_is_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        json_object(text, "f")
    assert str(caught.value) == message


def test_a_row_without_end_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b'{"a": 1}\n{"b": "' + b"x" * 2**24 + b'"}\n')
    rows = read_rows(path)
    assert next(rows) == {"a": 1}
    with pytest.raises(ConfigError, match="line 2: must be a JSON object of at most 16 MiB"):
        next(rows)


def test_a_log_of_a_few_rows_is_read_up_to_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b'{"a": "' + b"x" * 2**22 + b'"}\n')
    assert len(list(read_rows(path, most=10))) == 1
    path.write_bytes(path.read_bytes() * 9)
    with pytest.raises(ConfigError, match="must have at most 32 MiB"):
        list(read_rows(path, most=10))
    with pytest.raises(ConfigError, match="must have at most 5 lines"):
        list(read_rows(path, most=5))
    assert len(list(read_rows(path))) == 9


@pytest.mark.parametrize("whole", [b"", b"{}\n", b"{}\n" * 50_000])
@pytest.mark.parametrize("torn", [b"", b"{", b"x" * 200_000])
def test_a_torn_tail_is_cut(whole: bytes, torn: bytes, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(whole + torn)
    cut_torn_tail(path)
    assert path.read_bytes() == whole


def test_a_log_is_never_given_a_number_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        append_row(tmp_path / "log", {"a": float("nan")})
