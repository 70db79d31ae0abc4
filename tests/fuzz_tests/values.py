"""Hostile values: what is put in place of a value that a file holds, and where in a document."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import yaml

from tests.fuzz_tests.corpus import Draw, Place

__all__ = [
    "ESCAPES",
    "hostile",
    "mutated",
    "numbers",
    "paths",
    "shown",
    "texts",
    "to_json",
    "to_yaml",
]

ESCAPES = (
    "\x1b]52;c;cHduZWQ=\x07",
    "\x1b[2J\x1b[31mred",
    "\x9b31mred",
    "\x1b]0;title\x07",
    "over\rwritten",
    "two\nlines",
    "nul\x00",
    "bell\x07\x08\x7f",
    "\x1bPdevice\x1b\\",
    "tab\tab",
)
"""Texts that a terminal would obey."""


def texts(place: Place) -> list[str]:
    """Return texts that are no names: paths, addresses, commands, markup, codes, and long ones."""
    touch, canary = place.touch, place.canary
    return [
        *ESCAPES,
        "",
        " ",
        ".",
        "..",
        "/",
        "~",
        "[/]",
        "[bold red]x[/bold]",
        "[link=file:///etc/passwd]x[/link]",
        "{0.__class__}%s%n",
        "<script>alert(1)</script>",
        "../../victim",
        "../victim/keep.yaml",
        "x/../../victim",
        "x/../victim",
        str(place.victim),
        f"{place.victim}/keep.txt",
        f"{place.victim}/docs",
        "/dev/zero",
        "/dev/stdin",
        "/proc/self/environ",
        "/proc/self/fd/0",
        "hf-hub:x/y",
        "hf_hub:timm/vit_tiny_patch16_224",
        "local-dir:/nowhere",
        "https://127.0.0.1:9/x.pth",
        "hf://x/y",
        "file:///etc/passwd",
        f"pipe:{touch}",
        f"pipe:touch${{IFS}}{canary}/CANARY",
        f"$({touch})",
        f"`{touch}`",
        f"; {touch};",
        f"| {touch}",
        f"x' ; {touch} ; '",
        f"sqlite:///{place.victim}/evil.db",
        "mysql://u:p@127.0.0.1:9/x",
        "redis://127.0.0.1:9/0",
        "nonesuch+driver://x",
        f"--timm-script={place.root}/work/evil.py",
        f"--runs-dir={place.victim}",
        f"--cache={place.victim}",
        "--debug",
        "-h",
        "nan",
        "1e999",
        "0x10",
        "12:30",
        "yes",
        "last",
        "auto",
        "cuda:99",
        "meta",
        "\u202egnp.exe",
        "\ufeff",
        "é" * 300,
        "x" * 5_000,
        "x" * 300_000,
        "__import__('os')",
        "vit_huge_patch14_224",
        "vit_tiny_patch16_224.augreg_in21k",
        "resnet18",
        "deit-s",
    ]


def numbers() -> list[Any]:
    """Return numbers at and far beyond what anything takes."""
    whole = [0, -1, 1, 2, 2**31, 2**63, 2**64, 10**6, 10**9, -(10**9), 10**30, 10**400]
    return [
        *whole,
        0.5,
        -0.5,
        -0.0,
        5e-324,
        1e300,
        -1e300,
        float("nan"),
        float("inf"),
        float("-inf"),
    ]


def containers() -> list[Any]:
    """Return lists and objects where none belong, or of other lengths."""
    deep: Any = 1
    for _ in range(60):
        deep = [deep]
    return [
        [],
        {},
        [[]],
        [None],
        [{}],
        {"": None},
        {"a": {"b": {}}},
        [10**9],
        [-1],
        [1, 1, 1],
        ["a", 1, None],
        [0] * 20_000,
        [10**9, 10**9],
        {"\x1b]52;c;cHduZWQ=\x07": 1},
        {"values": [10**9]},
        {"__class__": "os.system"},
        {str(key): key for key in range(2_000)},
        deep,
    ]


def hostile(draw: Draw, place: Place) -> Any:
    """Return a hostile value of any kind."""
    sort = draw.random.random()
    if sort < 0.4:
        return draw.any(texts(place))
    if sort < 0.7:
        return draw.any(numbers())
    if sort < 0.9:
        return draw.any(containers())
    return draw.any([None, True, False, *ESCAPES])


def paths(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where a document holds something, from the outside in; of a long list its first ones."""
    yield path
    if isinstance(document, dict):
        for key, value in document.items():
            yield from paths(value, (*path, key))
    elif isinstance(document, list):
        for index, value in enumerate(document[:5]):
            yield from paths(value, (*path, index))


def mutated(draw: Draw, place: Place, document: Any) -> tuple[Any, str]:
    """Return a document with something hostile in one place, and what that is in words."""
    changed = copy.deepcopy(document)
    places = list(paths(changed))
    path = draw.any(places)
    how = draw.any(["value"] * 7 + ["missing", "extra", "key", "twice"])
    value = hostile(draw, place)
    if not path:
        inside = changed
        if how == "value" or not isinstance(changed, dict):
            return value, f"the whole document is {shown(value)}"
        inside[draw.any(texts(place)[:30]) or "x"] = value
        return changed, f"an unknown key holds {shown(value)}"
    inside = changed
    for step in path[:-1]:
        inside = inside[step]
    last, where = path[-1], ".".join(map(str, path))
    if how == "missing":
        del inside[last]
        return changed, f"{where} is missing"
    if how == "extra" and isinstance(inside, dict):
        inside[draw.any(texts(place)[:60]) or "x"] = value
        return changed, f"an unknown key beside {where} holds {shown(value)}"
    if how == "key" and isinstance(inside, dict):
        inside[draw.any(texts(place)[:60])] = inside.pop(last)
        return changed, f"the key {where} has another name"
    if how == "twice" and isinstance(inside, list):
        inside.extend([copy.deepcopy(inside[last])] * draw.any([1, 1000]))
        return changed, f"{where} is there again and again"
    inside[last] = value
    return changed, f"{where} is {shown(value)}"


def shown(value: Any) -> str:
    """Return a value in a few characters."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"


def to_json(document: Any) -> str:
    """Return a document as JSON, NaN and infinity as Python writes them."""
    return json.dumps(document)


def to_yaml(document: Any) -> str:
    """Return a document as YAML."""
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return yaml.dump(document, Dumper=dumper, sort_keys=False, allow_unicode=False)
