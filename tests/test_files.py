from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field

from autoprog import files
from autoprog.errors import ConfigError
from autoprog.files import FileModel, dump_yaml, parse, parse_yaml, read_yaml


class Leaf(FileModel):
    width: int = Field(default=1, gt=0)
    other: int | None = None


class Tree(FileModel):
    kind: Literal["oak", "elm"] = "oak"
    leaf: Leaf = Leaf()
    leaves: tuple[Leaf, ...] = ()
    size: float | Leaf = 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "a.yaml: line 3: must be valid YAML, but key 'a' is given twice"),
        (
            "a:\n  - {b: 1, b: 2}\n",
            "a.yaml: line 2: must be valid YAML, but key 'b' is given twice",
        ),
        (
            "a: [1, 2\n",
            "a.yaml: line 2: must be valid YAML, but expected ',' or ']', but got '<stream end>'",
        ),
        ("a: 1\n---\nb: 2\n", "a.yaml: line 2: must be valid YAML, but but found another document"),
        ("? [a, b]\n: 1\n", "a.yaml: line 1: must be valid YAML, but found unhashable key"),
        (
            "a: !!int 5x\n",
            "a.yaml: must be valid YAML, but invalid literal for int() with base 10: '5x'",
        ),
        ("a: &x 1\nb: *x\n", "a.yaml: line 2: must be valid YAML, but aliases are not allowed"),
        ("a: &x [*x]\n", "a.yaml: line 1: must be valid YAML, but aliases are not allowed"),
        ("[" * 70, "a.yaml: line 1: must be valid YAML, but it is nested more than 64 levels deep"),
        (
            "{a: " * 9999,
            "a.yaml: line 1: must be valid YAML, but it is nested more than 64 levels deep",
        ),
        ("a: \x00\n", "a.yaml: must be valid YAML, but not YAML"),
    ],
)
def test_text_that_is_not_yaml_is_told_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "a.yaml")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['true']",
        "!!python/object/new:os.system ['true']",
        "!!python/name:os.system",
        "a: !!python/tuple [1, 2]",
        "a: !mine 3",
        "a: !!timestamp foo",
        "a: !!timestamp 2026-12-01",
        "a: !!set {b}",
        "a: !!omap [b: 1]",
        "a: !!pairs [b: 1]",
        "a: !!binary aGk=",
        "a: !!value b",
        "a: !!merge b",
        "!!set {a, b}",
    ],
)
def test_tags_that_would_build_objects_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="could not determine a constructor for the tag"):
        parse_yaml(text, "a.yaml")


def test_a_small_text_cannot_stand_for_a_huge_value() -> None:
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    with pytest.raises(
        ConfigError, match="line 2: must be valid YAML, but aliases are not allowed"
    ):
        parse_yaml("\n".join(["a0: &a0 x", *levels]), "a.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12:30", "12:30"),
        ("1:30.5", "1:30.5"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("1_000", "1_000"),
        ("2026-12-01", "2026-12-01"),
        ("<<", "<<"),
        ("=", "="),
        ("0b101", "0b101"),
        ("017", 17),
        ("0o17", 15),
        ("0xff", 255),
        ("1e3", 1000.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("null", None),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    found = parse_yaml(f"a: {text}\n", "a.yaml")["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text", ["1e3", "0o17", "on", "12:30", "1_000", "~", "", "null", "2026-12-01", "<<"]
)
def test_text_stays_text_whichever_version_of_yaml_reads_it(text: str) -> None:
    written = dump_yaml({"a": text})
    assert parse_yaml(written, "a.yaml") == {"a": text}
    assert written != f"a: {text}\n"  # quoted, for readers of YAML 1.1


def test_what_could_not_be_read_again_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"class {number}" for number in range(100)]
    assert parse_yaml(dump_yaml({"class_names": names}), "a.yaml") == {"class_names": names}
    monkeypatch.setattr(files, "_MAX_YAML_SIGNS", 50)
    with pytest.raises(ConfigError, match="must hold fewer values"):
        dump_yaml({"class_names": names})


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: 1\n" + "#" * (4 * 2**20))
    with pytest.raises(ConfigError, match="must be a readable file: larger than 4 MiB"):
        read_yaml(path)


@pytest.mark.parametrize(
    ("text", "shown"), [("", "None"), ("5", "5"), ("[1, 2]", "[1, 2]"), ("word", "'word'")]
)
def test_a_file_that_is_no_mapping_is_refused(text: str, shown: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Tree, parse_yaml(text, "a.yaml"), "a.yaml")
    assert str(caught.value) == f"a.yaml: must be a mapping of keys to values, but got {shown}"


def test_a_long_value_is_cut_to_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Tree, list(range(1000)), "a.yaml")
    assert len(str(caught.value)) < 130
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"name: \xff\xfe\n")
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert str(caught.value) == f"{path}: must be a readable file: not UTF-8 text"


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be a regular file, but it is a folder"):
        read_yaml(tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"lief": 1}, "lief: unknown key, but got 'lief'; did you mean 'leaf'?"),
        ({"leaf": {"widht": 1}}, "leaf.widht: unknown key, but got 'widht'; did you mean 'width'?"),
        (
            {"leaves": [{}, {"widht": 1}]},
            "leaves[1].widht: unknown key, but got 'widht'; did you mean 'width'?",
        ),
        ({"size": {"widht": 1}}, "size.widht: unknown key, but got 'widht'; did you mean 'width'?"),
        ({"xyz": 1}, "xyz: unknown key, but got 'xyz'; known: kind, leaf, leaves, size"),
        ({"kind": "ash"}, "kind: must be 'oak' or 'elm', but got 'ash'"),
        ({"leaf": {"width": 0}}, "leaf.width: must be greater than 0, but got 0"),
        ({"leaf": {"width": 1.5}}, "leaf.width: must be a whole number, but got 1.5"),
        ({"leaf": {"width": "wide"}}, "leaf.width: must be a whole number, but got 'wide'"),
        ({"size": {"width": 0}}, "size.width: must be greater than 0, but got 0"),
        ({"size": "big"}, "size: must be a number, but got 'big'"),
        ({"leaves": {}}, "leaves: must be a list, but got {}"),
    ],
)
def test_a_problem_is_told_by_its_path(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Tree, data, "a.yaml")
    assert str(caught.value) == f"a.yaml: {message}"


def test_an_unknown_key_is_told_before_the_problems_it_causes() -> None:
    with pytest.raises(ConfigError, match="unknown key"):
        parse(Tree, {"kind": "ash", "leaf": {"width": 0}, "leafs": 1}, "a.yaml")


def test_dumped_yaml_keeps_the_order_and_reads_back() -> None:
    value = {"b": [1, 2, 3], "a": {"z": "ü", "y": None}, "n": [{"x": 1e-06}, {"x": []}]}
    text = dump_yaml(value)
    assert text.splitlines()[:2] == ["b: [1, 2, 3]", "a:"]
    assert "ü" in text
    assert parse_yaml(text, "a.yaml") == value
