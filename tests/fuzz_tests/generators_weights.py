"""Weights of somebody else: pickles that act, headers that lie, tensors that are none, bombs of models."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fuzz_tests.corpus import ANY, REFUSED, Command, Draw, Kind, Place
from tests.fuzz_tests.specimens import SMALL
from tests.fuzz_tests.values import hostile, mutated, shown

__all__ = ["KINDS", "commands"]


class _Gadget:
    """Unpickling it calls something."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call, self.arguments


def _gadgets(place: Place) -> dict[str, Any]:
    import subprocess

    canary = place.canary / "CANARY"
    return {
        "os.system": _Gadget(os.system, place.touch),
        "exec": _Gadget(exec, place.code),
        "eval": _Gadget(eval, place.code.strip()),
        "Path.touch": _Gadget(Path.touch, canary),
        "open": _Gadget(open, str(canary), "w"),
        "Popen": _Gadget(subprocess.Popen, ["touch", str(canary)]),
        "__import__": _Gadget(__import__, "antigravity"),
        "os.rmdir": _Gadget(os.remove, str(place.victim / "keep.txt")),
    }


def _raw_pickles(place: Place) -> dict[str, bytes]:
    touch = place.touch.encode()
    return {
        "text opcodes": b"cos\nsystem\n(S'" + touch + b"'\ntR.",
        "inst": b"(S'" + touch + b"'\nios\nsystem\n.",
        "obj": b"(cos\nsystem\nS'" + touch + b"'\no.",
        "build": b"\x80\x02ctorch.nn.modules.module\nModule\n)\x81}(U\x05_callcos\nsystem\nub.",
        "ext": b"\x80\x02\x82\x01.",
        "memo bomb": b"\x80\x02" + b"]" + b"q\x00" + b"h\x00a" * 1000 + b".",
        "long int": b"\x80\x02\x8b\xff\xff\xff\x7f.",
        "deep": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
        "dup bomb": b"\x80\x02(" + b"]" + b"2" * 100_000 + b"t.",
        "bytearray": b"\x80\x05\x96\xff\xff\xff\xff\x00\x00\x00\x00.",
        "stack": b"\x80\x02.",
    }


def commands(path: str) -> list[tuple[list[str], tuple[str, ...]]]:
    few = ["--epochs=1", "-q"]
    return [
        (["evaluate", path, "--model=vit-mu", "--device=cpu", "--workers=0", "--threads=1"], ()),
        (["evaluate", path, "--device=cpu", "--workers=0", "--threads=1"], ()),
        (["train", "--schedule=constant", f"--initial-checkpoint={path}", *SMALL, *few], ("runs",)),
        (
            [
                "train",
                "--schedule=constant",
                f"--initial-checkpoint={path}",
                *SMALL[1:],
                "--dry-run",
            ],
            (),
        ),
        (["search", f"--initial-checkpoint={path}", *SMALL, "--dry-run"], ()),
        (
            [
                "train",
                "--schedule=constant",
                f"--initial-checkpoint={path}",
                *SMALL,
                "--fresh-head",
                *few,
            ],
            ("runs",),
        ),
    ]


def _pickles(draw: Draw, place: Place) -> Command:
    """Make pickles that act when they are loaded, in all forms that weights have."""
    import torch

    raw, gadgets = _raw_pickles(place), _gadgets(place)
    what = draw.turn([*raw, *gadgets])
    how = draw.turn(
        ["plain", "torch.save", "legacy", "in a state dict", "in a zip", "metadata", "in a run"]
    )
    protocol = draw.any([0, 1, 2, 3, 4, 5])
    body = raw[what] if what in raw else pickle.dumps(gadgets[what], protocol)
    state = torch.load(place.specimens.folder / "weights" / "vit.pth", weights_only=True)
    path = place.work / draw.any(["w.pth", "w.pt", "w.bin", "w.safetensors"])
    held: Any = gadgets.get(what, body)
    match how:
        case "plain":
            path.write_bytes(body)
        case "torch.save":
            torch.save(held, path, pickle_protocol=max(2, protocol))
        case "legacy":
            torch.save({"model": held}, path, _use_new_zipfile_serialization=False)
        case "in a state dict":
            torch.save({**state, "head.weight": held}, path)
        case "in a zip":
            file = io.BytesIO()
            torch.save(state, file)
            with zipfile.ZipFile(file) as found, zipfile.ZipFile(path, "w") as changed:
                for name in found.namelist():
                    changed.writestr(name, body if name.endswith("data.pkl") else found.read(name))
        case "metadata":
            torch.save({"state_dict": state, "args": held, "epoch": 1}, path)
        case "in a run":
            run = place.copy("stopped-train")
            target = draw.any(["last.pt", "final.safetensors", "best.safetensors"])
            (run / "checkpoints" / target).unlink(missing_ok=True)
            (run / "checkpoints" / target).write_bytes(body)
            words, writes = draw.any(
                [
                    (["train", "--resume", f"runs/{run.name}", "-q"], (f"runs/{run.name}",)),
                    (
                        ["export", f"runs/{run.name}", "--checkpoint=last", "--output=o.pth"],
                        ("o.pth", "o.pth.json", "o.pth.classes.txt"),
                    ),
                    (["evaluate", f"runs/{run.name}", "--checkpoint=best", "--workers=0"], ()),
                ]
            )
            return Command(words, f"{what} in {target} of a run", writes, ANY)
    words, writes = draw.any(commands(path.name))
    codes = REFUSED if how in ("plain", "torch.save", "in a zip") else ANY
    return Command(words, f"{what}, {how}, protocol {protocol}", writes, codes)


def _tensors(draw: Draw, place: Place) -> Command:
    """Make a state dict in which one tensor is of another type, layout, shape or value."""
    import torch

    state = dict(torch.load(place.specimens.folder / "weights" / "vit.pth", weights_only=True))
    name = draw.any(["head.weight", "head.bias", "pos_embed", "cls_token", *state])
    good = state[name]
    options: dict[str, Callable[[], Any]] = {
        "complex64": lambda: good.to(torch.complex64),
        "complex128": lambda: good.to(torch.complex128),
        "int64": lambda: good.to(torch.int64),
        "uint8": lambda: good.to(torch.uint8),
        "bool": lambda: good > 0,
        "float8": lambda: good.to(torch.float8_e4m3fn),
        "NaN": lambda: good * float("nan"),
        "one NaN": lambda: torch.where(
            torch.arange(good.numel()).reshape(good.shape) == 0, float("nan"), good
        ),
        "infinite": lambda: good * float("inf"),
        "huge": lambda: torch.full_like(good, 3e38),
        "sparse": lambda: good.to_sparse(),
        "sparse of a lie": lambda: torch.sparse_coo_tensor(
            torch.tensor([[2**40]]), torch.tensor([1.0]), (2**41,), check_invariants=False
        ),
        "quantised": lambda: torch.quantize_per_tensor(good, 0.1, 0, torch.qint8),
        "meta": lambda: torch.empty(good.shape, device="meta"),
        "huge meta": lambda: torch.empty((10**6, 10**6), device="meta"),
        "expanded": lambda: torch.zeros(1).expand(10**11),
        "expanded twice": lambda: torch.zeros(1, 1).expand(10**6, 10**6),
        "strided": lambda: torch.as_strided(torch.zeros(10), good.shape, [0] * good.ndim),
        "scalar": lambda: torch.tensor(1.0),
        "empty": lambda: torch.zeros(0),
        "no rows": lambda: torch.zeros(0, *good.shape[1:]),
        "one row more": lambda: torch.cat([good, good[:1]]) if good.ndim else good[None],
        "transposed": lambda: good.flatten().flip(0).reshape(good.shape[::-1]),
        "many dimensions": lambda: good.reshape(*[1] * 20, *good.shape),
        "parameter": lambda: torch.nn.Parameter(good),
        "list": lambda: good.tolist(),
        "number": lambda: 1.0,
        "text": lambda: "x" * 100_000,
        "none": lambda: None,
        "nested dict": lambda: {"a": {"b": good}},
        "jagged": lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
        "bfloat16": lambda: good.to(torch.bfloat16),
        "half": lambda: good.half(),
        "double": lambda: good.double(),
    }
    what = draw.turn(sorted(options))
    try:
        state[name] = options[what]()
    except (RuntimeError, NotImplementedError, TypeError):
        state[name] = torch.zeros(3, dtype=torch.int32)
    how = draw.turn(["plain", "nested", "renamed", "extra", "all"])
    if how == "renamed":
        state[draw.any(["\x1b]52;c;cHduZWQ=\x07", "[/]", "", "../x", "a" * 10_000])] = state.pop(
            name
        )
    elif how == "extra":
        state[f"blocks.{draw.any([4, 99, 10**9, -1])}.attn.qkv.weight"] = state[name]
    elif how == "all" and isinstance(state[name], torch.Tensor):
        state = dict.fromkeys(state, state[name])
    held: Any = {"model": {"model": state}} if how == "nested" else state
    path = place.work / "w.pth"
    try:
        torch.save(held, path)
    except (RuntimeError, NotImplementedError, AttributeError):
        torch.save({**state, name: None}, path)
    words, writes = draw.any(commands(path.name))
    return Command(words, f"{name}: {what} ({how})", writes, ANY)


def _safetensors(draw: Draw, place: Place) -> Command:
    """Make safetensors whose header is not true, or whose metadata describes another model."""
    content = (place.specimens.folder / "weights" / "vit.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    tensors = [name for name in header if name != "__metadata__"]
    name = draw.any(tensors)
    what = draw.turn(
        ["metadata"] * 3
        + ["kwargs"] * 5
        + ["dtype", "shape", "offsets", "length", "any", "cut", "keys"]
    )
    note = what
    if what == "metadata":
        key = draw.any([*header.get("__metadata__", {"timm": ""}), "timm", "classes", "kwargs"])
        value = hostile(draw, place)
        header.setdefault("__metadata__", {})[key] = (
            value if draw.any([True, False]) else _text(value)
        )
        note = f"metadata {key}: {shown(value)}"
    elif what == "kwargs":
        held = header.setdefault("__metadata__", {})
        changes = draw.any(
            [
                {"kwargs": '{"depth": 1000000000}'},
                {"kwargs": '{"embed_dim": 1000000, "num_heads": 1}'},
                {"kwargs": '{"img_size": 1000000}'},
                {"kwargs": '{"patch_size": 1}'},
                {"kwargs": '{"patch_size": 0}'},
                {"kwargs": '{"num_heads": 0}'},
                {"kwargs": '{"depth": -1}'},
                {"kwargs": '{"depth": 1e9}'},
                {"kwargs": '{"num_classes": 1000000000}'},
                {"kwargs": '{"mlp_ratio": 1e9}'},
                {"kwargs": '{"in_chans": 1000000}'},
                {"kwargs": f'{{"checkpoint_path": "{place.victim}/keep.txt"}}'},
                {"kwargs": '{"pretrained": true}'},
                {"kwargs": '{"pretrained_cfg": {"url": "https://127.0.0.1:9/x"}}'},
                {"kwargs": '{"pretrained_cfg_overlay": {"file": "/etc/passwd"}}'},
                {"kwargs": '{"scriptable": true, "exportable": true}'},
                {"kwargs": '{"norm_layer": "os.system", "embed_layer": "x"}'},
                {"kwargs": '{"cache_dir": "/tmp/x"}'},
                {"kwargs": "[" * 5000},
                {"kwargs": "[]"},
                {"kwargs": '{"depth": NaN}'},
                {"timm": "hf-hub:x/y", "kwargs": "{}"},
                {"timm": "hf_hub:x/y", "kwargs": "{}"},
                {"timm": "local-dir:/nowhere", "kwargs": "{}"},
                {"timm": f"local-dir:{place.victim}", "kwargs": "{}"},
                {"timm": "vit_giant_patch14_224", "kwargs": "{}"},
                {"timm": "resnet18", "kwargs": "{}"},
                {"timm": "\x1b]52;c;cHduZWQ=\x07", "kwargs": "{}"},
                {"timm": "", "kwargs": ""},
            ]
        )
        held.update(changes)
        note = f"metadata {changes}"
    elif what == "dtype":
        header[name]["dtype"] = draw.any(
            ["F64", "C64", "I64", "BOOL", "F8_E4M3", "U8", "X", "", 1, None]
        )
        note = f"dtype {header[name]['dtype']}"
    elif what == "shape":
        header[name]["shape"] = draw.any(
            [[10**9], [-1], [2**63, 2**63], [0], [], "x", [1] * 100, [2**32, 2**32]]
        )
        note = f"shape {shown(header[name]['shape'])}"
    elif what == "offsets":
        header[name]["data_offsets"] = draw.any(
            [[0, 2**63], [-1, 4], [8, 0], [0, 0], [], "x", [2**64, 2**64]]
        )
        note = f"offsets {header[name]['data_offsets']}"
    elif what == "any":
        header, note = mutated(draw, place, header)
    elif what == "keys":
        header[draw.any(["\x1b]52;c;cHduZWQ=\x07", "[/]", "../x", ""])] = header.pop(name)
        note = "a tensor has another name"
    try:
        text = json.dumps(header).encode("utf-8", "surrogatepass")
    except ValueError:
        text = b"{}"
    size = len(text)
    if what == "length":
        size = draw.any([0, 1, 2**63, 2**64 - 1, len(text) + 10**6, len(text) - 1, 99_999_999])
        note = f"header of {size}"
    data = struct.pack("<Q", size) + text + body
    if what == "cut":
        data = data[: draw.random.randrange(len(data))]
    path = place.file("w.safetensors", data)
    words, writes = draw.any(commands(path.name))
    return Command(words, note, writes, ANY)


def _text(value: Any) -> str:
    try:
        return value if isinstance(value, str) else json.dumps(value)
    except ValueError:
        return "9" * 5_000


def _archives(draw: Draw, place: Place) -> Command:
    """Make zips and other files that are no weights, and special files in their place."""
    import torch

    path = place.work / draw.any(["w.pth", "w.safetensors", "w.bin", "w"])
    good = (place.specimens.folder / "weights" / "vit.pth").read_bytes()
    what = draw.turn(
        [
            "empty zip",
            "zip bomb",
            "zip slip",
            "zip twice",
            "zip links",
            "cut",
            "bit flips",
            "random",
            "zeros",
            "pipe",
            "folder",
            "zero device",
            "link to itself",
            "sparse",
            "hf lies",
            "hf pickle",
            "classes lie",
            "description lies",
            "lfs",
            "huge record",
            "nested folder",
            "script",
        ]
    )
    match what:
        case "empty zip":
            zipfile.ZipFile(path, "w").close()
        case "zip bomb":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
                file.writestr("archive/data.pkl", b"\0" * 300_000_000)
                file.writestr("archive/version", "3")
        case "zip slip":
            with zipfile.ZipFile(path, "w") as file:
                file.writestr("../../victim/new.txt", "x")
                file.writestr("archive/data.pkl", b"\x80\x02}.")
        case "zip twice":
            with zipfile.ZipFile(path, "w") as file:
                for _ in range(3):
                    file.writestr("archive/data.pkl", b"\x80\x02}.")
        case "zip links":
            with zipfile.ZipFile(path, "w") as file:
                about = zipfile.ZipInfo("archive/data.pkl")
                about.external_attr = 0o120777 << 16
                file.writestr(about, "/etc/passwd")
        case "cut":
            path.write_bytes(good[: draw.random.randrange(len(good))])
        case "bit flips":
            changed = bytearray(good)
            for _ in range(draw.any([1, 50])):
                changed[draw.random.randrange(len(changed))] ^= 1 << draw.random.randrange(8)
            path.write_bytes(changed)
        case "random":
            path.write_bytes(draw.random.randbytes(5_000))
        case "zeros":
            path.write_bytes(b"\0" * 1_000_000)
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "zero device":
            path.symlink_to("/dev/zero")
        case "link to itself":
            path.symlink_to(path.name)
        case "sparse":
            with path.open("wb") as file:
                file.truncate(3 * 2**30 // 8)
        case "hf lies" | "hf pickle" | "nested folder":
            _hf_folder(draw, place, path, what)
        case "classes lie":
            path = _beside(draw, place, "classes.txt")
        case "description lies":
            path = _beside(draw, place, "json")
        case "lfs":
            path.write_bytes(
                b"version https://git-lfs.github.com/spec/v1\noid sha256:\x1b[31m\nsize 1\n"
            )
        case "huge record":
            torch.save({"a": torch.zeros(1).expand(3), "b": 10**300, "c": "x" * 10**6}, path)
        case "script":
            torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    words, writes = draw.any(commands(path.name))
    return Command(words, what, writes, ANY)


def _hf_folder(draw: Draw, place: Place, path: Path, what: str) -> None:
    import shutil

    shutil.copytree(place.specimens.folder / "weights" / "hf", path)
    if what == "hf pickle":
        (path / "model.safetensors").unlink()
        (path / "pytorch_model.bin").write_bytes(_raw_pickles(place)["text opcodes"])
    elif what == "nested folder":
        (path / "model.safetensors").unlink()
        (path / "model.safetensors").symlink_to(place.victim / "keep.txt")
    else:
        document, _ = mutated(draw, place, json.loads((path / "config.json").read_text()))
        (path / "config.json").write_text(_text(document))


def _beside(draw: Draw, place: Place, ending: str) -> Path:
    """Copy the exported weights; put something hostile into what lies beside them."""
    for name in ("vit.pth", "vit.pth.classes.txt", "vit.pth.json"):
        place.file(name, (place.specimens.folder / "weights" / name).read_bytes())
    target = place.work / f"vit.pth.{ending}"
    if ending == "json":
        document, _ = mutated(draw, place, json.loads(target.read_text()))
        target.write_text(_text(document))
    else:
        lines = draw.any(
            [["\x1b[31m"] * 10, ["x"] * 10, [""], ["a\x00b"] * 10, ["n" * 10**6] * 3, ["\x9b"] * 11]
        )
        target.write_text("\n".join(lines))
    return place.work / "vit.pth"


KINDS = [
    Kind("weights-pickles", _pickles, 133),
    Kind("weights-tensors", _tensors, 170),
    Kind("weights-safetensors", _safetensors, 165),
    Kind("weights-archives", _archives, 88),
]
