"""Hostile YAML: bombs, nests, tags, scalars of YAML 1.1, bytes that are no text, wrong values in keys."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from autoprog.files import parse_yaml
from tests.fuzz_tests.corpus import ANY, REFUSED, Command, Draw, Kind, Place
from tests.fuzz_tests.specimens import SMALL
from tests.fuzz_tests.values import ESCAPES, mutated, to_yaml

__all__ = ["GOOD_FILES", "KINDS", "commands"]

_BOMB = "\n".join(
    f"{letter}: &{letter} [{', '.join([f'*{before}'] * 9) if before else 'lol'}]"
    for before, letter in zip(["", *"abcdefgh"], "abcdefghi", strict=True)
)

SCHEDULE = """schema: 2
full: {model: vit-mu, timm: vit_tiny_patch16_224, depth: 4, img_size: 16, stride: 4, embed_dim: 24,
  num_heads: 2, overrides: {depth: 4, embed_dim: 24, num_heads: 2, patch_size: 4}}
length_unit: epochs
monotone: false
lr: {shape: cosine}
stages:
- {length: 0.25, depth: 2, img_size: 8, curriculum: {randaug: 4, drop_path: 0.0}}
- length: 0.25
  depth: 3
  img_size: {ramp: linear, from: 8, to: 16, every_epochs: 0.1}
  tokens: {keep_rate: 0.6, by: magnitude}
  grow: {init: ema, placement: interpolate, old_blocks: keep, optimizer_state: copy}
- length: 0.25
  depth: 4
  img_size: 16
  batch_scale: 2
  lr_scale: 1.4
  trainable: {every: 4, level: 2}
  shrink_by: fourier
- {length: 0.25, depth: 4, img_size: 16}
"""
SPACE = """schema: 2
model: vit-mu
axes:
  depth: {values: [2, 3, 4]}
  img_size: {values: [8, 12, 16]}
  keep_rate: {values: [0.6, 1.0], by: magnitude}
  randaug: {values: [0.5, 1.0]}
  batch_scale: {values: [2.0, 1.0]}
  init: [ema]
  placement: [interpolate]
decisions: {num_points: 4, supernet_fraction: 0.1, good_visits: 8, search_fraction: 0.03, max_candidates: 4,
  min_full_fraction: 0.15, continuation_trials: 20,
  grow: {init: ema, placement: interpolate, old_blocks: keep, optimizer_state: copy}}
"""
RECIPE = """epochs: 4
batch_size: 64
opt: adamw
lr: 0.001
weight_decay: 0.05
clip_grad: 1.0
sched: cosine
warmup_fraction: 0.1
mixup: 0.0
aa: rand-m9-mstd0.5
scale: [0.75, 1.0]
ratio: [0.9, 1.1]
interpolation: bicubic
crop_pct: 1.0
ema_epochs: 1.0
"""
GOOD_FILES = {"schedule": SCHEDULE, "space": SPACE, "recipe": RECIPE}

Text = Callable[[Draw, Place], bytes]


def commands(kind: str, path: str) -> list[tuple[list[str], tuple[str, ...]]]:
    """Return what meets a file of a kind: words, and what they may write."""
    small = list(SMALL)
    few = [*small, "--epochs=4"]
    return {
        "schedule": [
            (["show", path], ()),
            (["show", path, "--json"], ()),
            (["show", path, "--plain"], ()),
            (["show", path, "--svg=out.svg"], ("out.svg",)),
            (["show", path, "--html=out.html"], ("out.html",)),
            (["show", "linear", "--model=vit-mu", f"--diff={path}"], ()),
            (["train", f"--schedule={path}", *SMALL[1:], "--dry-run"], ()),
            (["train", f"--schedule={path}", *SMALL[1:], "-q"], ("runs",)),
            (["verify", f"--schedule={path}", *SMALL[1:], "--seeds=1"], ("runs",)),
        ],
        "space": [
            (["search", f"--space={path}", *few, "--dry-run"], ()),
            (["search", f"--space={path}", *few, "--trials=2", "--dry-run"], ()),
            (["bench", "costs", f"--space={path}", *few, "--profile-seconds=0.1"], ()),
        ],
        "recipe": [
            (["train", "--schedule=linear", f"--recipe={path}", *small, "--dry-run"], ()),
            (
                ["train", "--schedule=linear", f"--recipe={path}", *small, "--epochs=1", "-q"],
                ("runs",),
            ),
            (["search", f"--recipe={path}", *small, "--dry-run"], ()),
        ],
    }[kind]


def _texts(place: Place) -> Mapping[str, Callable[[Draw], str | bytes]]:
    """Return hostile values of a key as YAML text, by what they are."""
    touch, canary = place.touch, place.canary
    tags = {
        "apply": f"!!python/object/apply:os.system ['{touch}']",
        "apply-mapping": f"!!python/object/apply:subprocess.Popen {{args: [[touch, '{canary}/CANARY']]}}",
        "new": f"!!python/object/new:os.system ['{touch}']",
        "new-state": "!!python/object/new:type {args: [z, [], {extend: !!python/name:exec }],"
        f' listitems: "{place.code.strip()}"}}',
        "name": "!!python/name:os.system ''",
        "module": "!!python/module:antigravity ''",
        "tuple": "!!python/tuple [1, 2]",
        "local": "!evil {a: 1}",
        "verbatim": "!<tag:yaml.org,2002:python/object/apply:os.system> ['true']",
        "binary": "!!binary R0lGODlhDAAMAIQAAP",
        "set": "!!set {a, b}",
        "omap": "!!omap [a: 1]",
        "timestamp": "!!timestamp 2001-01-01",
        "float": "!!float abc",
        "int": "!!int '1_000'",
        "null": "!!null x",
    }
    scalars = [
        "12:30",
        "yes",
        "on",
        "off",
        "NO",
        "0o17",
        "017",
        "1_000",
        "0x1F",
        "0b11",
        "2001-01-01",
        ".inf",
        "-.inf",
        ".nan",
        "1e3",
        "~",
        "null",
        "1e999",
        "+1",
    ]
    bomb = _BOMB.replace("\n", ", ")
    found: dict[str, Callable[[Draw], str | bytes]] = {
        f"tag {name}": lambda draw, text=text: text for name, text in tags.items()
    }
    found |= {f"scalar {text}": lambda draw, text=text: text for text in scalars}
    found |= {
        "bomb of aliases": lambda draw: f"{{{bomb}}}",
        "alias to itself": lambda draw: "&me [*me]",
        "alias to its parent": lambda draw: "&up {down: *up}",
        "alias of a scalar": lambda draw: "[&one 1, *one]",
        "merge key": lambda draw: "{<<: {a: 1}, b: 2}",
        "merge bomb": lambda draw: "{x: &x {a: 1}, y: {<<: [*x, *x, *x]}}",
        "nest of brackets": lambda draw: "[" * (n := draw.any([70, 500, 5_000, 50_000])) + "]" * n,
        "open brackets": lambda draw: "[" * draw.any([70, 5_000, 100_000]),
        "nest of braces": lambda draw: "{a: " * (n := draw.any([70, 900, 9_000])) + "1" + "}" * n,
        "nest of dashes": lambda draw: "\n  " + "- " * draw.any([70, 900, 20_000]) + "x",
        "nest of questions": lambda draw: "\n  " + "? " * draw.any([70, 900, 20_000]) + "x",
        "list of many": lambda draw: "[" + "1, " * draw.any([10_000, 100_000]) + "1]",
        "object of many": lambda draw: "{" + ", ".join(f"k{i}: {i}" for i in range(20_000)) + "}",
        "long text": lambda draw: "x" * draw.any([10_000, 1_000_000, 3_000_000]),
        "long number": lambda draw: "9" * draw.any([400, 5_000, 100_000]),
        "long quoted": lambda draw: '"' + "\\x1b" * 10_000 + '"',
        "escape codes": lambda draw: json.dumps(draw.any(ESCAPES)),
        "escape codes in a key": lambda draw: "{" + json.dumps(draw.any(ESCAPES)) + ": 1}",
        "twice the same key": lambda draw: "{a: 1, a: 2}",
        "list as a key": lambda draw: "{[1, 2]: 3}",
        "object as a key": lambda draw: "{? {a: 1} : 3}",
        "number as a key": lambda draw: "{1: 2, null: 3, true: 4, 1.5: 6}",
        "unfinished quote": lambda draw: '"never ended',
        "block text": lambda draw: "|\n   text\n  less",
        "tab": lambda draw: "\n\t- x",
        "comment only": lambda draw: "# nothing",
        "directive": lambda draw: "\n%YAML 9.9\n---\nx",
        "bytes that are no text": lambda draw: b"\xff\xfe\x80\x9b31m",
        "nul": lambda draw: b"a\x00b",
        "C1 control": lambda draw: "\x9b31mred",
        "lone surrogate": lambda draw: '"\\ud800"',
        "byte order mark": lambda draw: "\ufeffx",
    }
    return found


def _whole_files(place: Place) -> Mapping[str, Callable[[Draw, str], bytes]]:
    """Return hostile files by what they are; each gets the text of a good one."""
    return {
        "empty": lambda draw, good: b"",
        "white space": lambda draw, good: b" \n\t\n",
        "megabytes of spaces": lambda draw, good: b" " * 6_000_000 + good.encode(),
        "megabytes of comments": lambda draw, good: b"# x\n" * 900_000 + good.encode(),
        "a list": lambda draw, good: b"[1, 2, 3]",
        "a text": lambda draw, good: b"hello",
        "a number": lambda draw, good: b"42",
        "null": lambda draw, good: b"null",
        "two documents": lambda draw, good: f"{good}---\n{good}".encode(),
        "many documents": lambda draw, good: b"---\nx\n" * 10_000,
        "random bytes": lambda draw, good: draw.random.randbytes(draw.any([10, 1_000, 100_000])),
        "utf-16": lambda draw, good: good.encode("utf-16"),
        "utf-32": lambda draw, good: good.encode("utf-32"),
        "byte order mark": lambda draw, good: b"\xef\xbb\xbf" + good.encode(),
        "carriage returns": lambda draw, good: good.replace("\n", "\r\n").encode(),
        "a line of megabytes": lambda draw, good: b"a: " + b"x" * 3_900_000,
        "many keys": lambda draw, good: "".join(f"k{i}: {i}\n" for i in range(60_000)).encode(),
        "cut": lambda draw, good: good.encode()[: draw.random.randrange(1, len(good))],
        "bit flips": lambda draw, good: _flipped(draw, good.encode()),
        "bomb": lambda draw, good: _BOMB.encode(),
        "tag on all": lambda draw, good: (
            f"!!python/object/apply:os.system ['{place.touch}']\n".encode()
        ),
        "brackets": lambda draw, good: b"[" * draw.any([100, 10_000, 1_000_000]),
        "escape codes for keys": lambda draw, good: "".join(
            f"{json.dumps(text)}: 1\n" for text in ESCAPES
        ).encode(),
        "json": lambda draw, good: json.dumps(parse_yaml(good, "good")).encode(),
    }


def _flipped(draw: Draw, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.any([1, 3, 20])):
        changed[draw.random.randrange(len(changed))] ^= 1 << draw.random.randrange(8)
    return bytes(changed)


def _in_a_key(draw: Draw, place: Place) -> Command:
    """Make a good file of which one value at the top, or one inside, is hostile YAML text."""
    options = _texts(place)
    what = draw.turn(sorted(options))
    kind = draw.turn(sorted(GOOD_FILES))
    value = options[what](draw)
    good: dict[str, Any] = parse_yaml(GOOD_FILES[kind], "good")
    key = draw.any([*good, "unknown", "schema"])
    parts = [
        f"{name}: {json.dumps(other)}\n".encode() for name, other in good.items() if name != key
    ]
    body = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
    if draw.random.random() < 0.3:
        body = b"[1, " + body + b"]"
    content = b"".join(parts) + f"{key}: ".encode() + body + b"\n"
    place.file("f.yaml", content)
    words, writes = draw.any(commands(kind, "f.yaml"))
    return Command(words, f"{kind}: {key}: {what}", writes, ANY)


def _whole(draw: Draw, place: Place) -> Command:
    """Make a file that is hostile as a whole."""
    options = _whole_files(place)
    what = draw.turn(sorted(options))
    kind = draw.turn(sorted(GOOD_FILES))
    place.file("f.yaml", options[what](draw, GOOD_FILES[kind]))
    words, writes = draw.any(commands(kind, "f.yaml"))
    return Command(words, f"{kind}: the file is {what}", writes, ANY)


def _values(draw: Draw, place: Place) -> Command:
    """Make a good file with a hostile value in one field, at any depth."""
    kind = draw.turn(sorted(GOOD_FILES))
    document, note = mutated(draw, place, parse_yaml(GOOD_FILES[kind], "good"))
    try:
        text = to_yaml(document)
    except (ValueError, UnicodeError):  # lone surrogates, numbers of too many digits
        text = json.dumps(str(document)[:100])
    place.file("f.yaml", text)
    words, writes = draw.any(commands(kind, "f.yaml"))
    return Command(words, f"{kind}: {note}", writes, ANY)


def _special_file(draw: Draw, place: Place) -> Command:
    """Make something in place of the file that no read comes to the end of, or that is no file."""
    path = place.work / "f.yaml"
    kind = draw.turn(sorted(GOOD_FILES))
    what = draw.turn(
        [
            "pipe",
            "folder",
            "link to itself",
            "zero",
            "link to nowhere",
            "sparse",
            "unreadable",
            "tty",
        ]
    )
    match what:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "link to itself":
            path.symlink_to(path)
        case "zero":
            path.symlink_to("/dev/zero")
        case "link to nowhere":
            path.symlink_to(place.root / "nowhere")
        case "sparse":
            with path.open("wb") as file:
                file.truncate(400 * 2**20)
        case "unreadable":
            path.symlink_to("/proc/self/mem")
        case "tty":
            path.symlink_to("/dev/tty")
    words, writes = draw.any(commands(kind, "f.yaml"))
    return Command(words, f"{kind}: in place of the file: {what}", writes, REFUSED)


KINDS = [
    Kind("yaml-key", _in_a_key, 240),
    Kind("yaml-file", _whole, 100),
    Kind("yaml-value", _values, 260),
    Kind("yaml-special", _special_file, 40),
]
