"""Weights of others: what is no tensor of weights is refused in one line, without time or memory."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from autoprog.errors import AutoprogError, ConfigError
from autoprog.train import torch_files
from autoprog.train.model import build_model
from autoprog.train.torch_files import ForeignPickleError, NotLoadedError, load_torch
from autoprog.train.weights import loaded_network, read_weights
from supernet.export import plain_state_dict
from supernet.zoo import ZOO

SPEC = ZOO["vit-mu"]
HEAD = "head.weight"


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return plain_state_dict(build_model(SPEC, 5, 0))


def nan(head: Tensor) -> Tensor:
    return torch.full_like(head, torch.nan)


TENSORS: dict[str, Callable[[Tensor], Any]] = {
    "complex": lambda t: t.to(torch.complex64),
    "whole numbers": lambda t: t.to(torch.int64),
    "truth values": lambda t: t.to(torch.bool),
    "bytes": lambda t: t.to(torch.uint8),
    "float8": lambda t: t.to(torch.float8_e4m3fn),
    "not finite": nan,
    "infinite": lambda t: torch.full_like(t, torch.inf),
    "too large for float32": lambda t: torch.full_like(t, 1e300, dtype=torch.float64),
    "one number": lambda t: torch.tensor(1.0),
    "no rows": lambda t: t[:0],
}
ONLY_PICKLED: dict[str, Callable[[Tensor], Any]] = {
    "sparse": lambda t: t.to_sparse(),
    "sparse rows": lambda t: t.to_sparse_csr(),
    "quantised": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    "without values": lambda t: t.to("meta"),
    "nested": lambda t: torch.nested.nested_tensor([t, t]),
    "expanded": lambda t: torch.zeros(1).expand(10**12),
    "a list": lambda t: t.tolist(),
    "a text": lambda t: "weights",
    "nothing": lambda t: None,
}


def write_safetensors(path: Path, state: dict[str, Any]) -> Path:
    save_file(state, path)
    return path


def write_torch(path: Path, state: dict[str, Any]) -> Path:
    torch.save(state, path)
    return path


def write_inside(path: Path, state: dict[str, Any]) -> Path:
    torch.save({"epoch": 1, "state_dict": state}, path)
    return path


def write_checkpoint(path: Path, state: dict[str, Any]) -> Path:
    torch.save({"step": 3, "model": state, "emas": [state], "optimizer": {}}, path)
    return path


def write_hub(path: Path, state: dict[str, Any]) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"architecture": SPEC.timm}))
    torch.save(state, path / "pytorch_model.bin")
    return path


WRITERS = {
    "safetensors": write_safetensors,
    "torch": write_torch,
    "inside": write_inside,
    "checkpoint": write_checkpoint,
    "hub": write_hub,
}
CASES = [
    pytest.param(writer, make, id=f"{kind} {name}")
    for kind, writer in WRITERS.items()
    for name, make in {**TENSORS, **(ONLY_PICKLED if kind != "safetensors" else {})}.items()
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("write", "make"), CASES)
def test_what_is_no_weight_is_refused_in_one_line(
    tmp_path: Path, weights: dict[str, Tensor], write: Any, make: Any
) -> None:
    path = write(tmp_path / "w", {**weights, HEAD: make(weights[HEAD])})
    with pytest.raises(ConfigError) as caught:
        loaded_network(read_weights(path, averaged=True), SPEC, 5)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 600
    assert "\n" not in message


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floating_point_numbers_of_any_width_are_taken(
    tmp_path: Path, weights: dict[str, Tensor], write: Any, dtype: torch.dtype
) -> None:
    path = write(tmp_path / "w", {key: value.to(dtype) for key, value in weights.items()})
    model = loaded_network(read_weights(path, averaged=True), SPEC, 5)
    assert torch.equal(model.vit.head.weight, weights[HEAD].to(dtype).float())


def archive(path: Path, pickle: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    """Write what torch.save writes, with another pickle in it."""
    whole = io.BytesIO()
    torch.save({"w": torch.zeros(1)}, whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, pickle if name.endswith("data.pkl") else old.read(name))


def repeated_tuple() -> bytes:
    levels = b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(60))
    return b"\x80\x02}K\x01\x85q\x00" + levels + b"Ns."


PICKLES = {
    "gigabytes out of nothing": b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x70\x85R.",
    "a slow codec": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x08\x00\x00\x00punycode\x86R.",
    "code": b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00ls\x85R.",
    "a key with 2^60 parts": repeated_tuple(),
    "an empty stack": b"\x80\x02\x86.",
    "no end": b"\x80\x02}",
    "another protocol": b"\x80\x04\x8c\x01a.",
    "an old class": b"\x80\x02(iposix\nsystem\n.",
    "a name without an end": b"\x80\x02c" + b"a" * 100_000,
}


@pytest.mark.parametrize("pickle", PICKLES.values(), ids=PICKLES)
def test_a_hostile_pickle_is_never_built(tmp_path: Path, pickle: bytes) -> None:
    archive(tmp_path / "w.pt", pickle)
    with pytest.raises(NotLoadedError) as caught:
        load_torch(tmp_path / "w.pt")
    assert "load" not in str(caught.value).replace("loaded", "")
    with pytest.raises(ConfigError) as refused:
        read_weights(tmp_path / "w.pt", averaged=True)
    assert "still be loaded" not in str(refused.value)
    assert str(refused.value).isprintable()


def test_a_pickle_of_too_many_instructions_is_not_gone_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_files, "_MAX_INSTRUCTIONS", 2_000)  # of 2.5 million, which take 4 s
    archive(tmp_path / "w.pt", b"\x80\x02" + b"]" * 3_000 + b".")
    with pytest.raises(NotLoadedError, match="too long a pickle"):
        load_torch(tmp_path / "w.pt")


def test_a_packed_archive_is_refused(tmp_path: Path) -> None:
    archive(tmp_path / "w.pt", b"\x80\x02}.", zipfile.ZIP_DEFLATED)
    with pytest.raises(NotLoadedError, match="a packed zip archive"):
        load_torch(tmp_path / "w.pt")


def test_attributes_that_hide_methods_are_dropped(tmp_path: Path) -> None:
    hidden = b"X\x05\x00\x00\x00items"
    archive(tmp_path / "w.pt", b"\x80\x02ccollections\nOrderedDict\n)R}" + hidden + b"K\x01sb.")
    assert list(load_torch(tmp_path / "w.pt").items()) == []


def test_classes_are_named(tmp_path: Path) -> None:
    archive(tmp_path / "w.pt", PICKLES["code"])
    with pytest.raises(ForeignPickleError) as caught:
        load_torch(tmp_path / "w.pt")
    assert caught.value.names == {"posix.system"}


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors", "run/checkpoints/final_ema.safetensors"])
def test_a_pipe_in_place_of_weights_is_never_waited_for(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    given = tmp_path / "run" if "/" in name else path
    with pytest.raises(ConfigError, match="but it is a pipe"):
        read_weights(given, averaged=True)


HEADERS = {
    "10 GB": (10**10).to_bytes(8, "little") + b"{",
    "nested": (90_000).to_bytes(8, "little") + b'{"a":' + b"[" * 90_000,
    "a list": (4).to_bytes(8, "little") + b"{[]}",
    "offsets below 0": b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}',
    "offsets beyond the end": b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4000000000]}}',
    "huge offsets": b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,1e999]}}',
    "a huge shape": b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4]}}',
    "one key twice": b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
    b'"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_a_hostile_header_is_refused_in_one_line(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "w.safetensors"
    whole = header if header[0:1] != b"{" else len(header).to_bytes(8, "little") + header
    path.write_bytes(whole + bytes(8))
    with pytest.raises(ConfigError) as caught:
        read_weights(path, averaged=True)
    assert "\n" not in str(caught.value)


DESCRIPTIONS: dict[str, dict[str, Any]] = {
    "deep": {"depth": 10**9},
    "a file": {"checkpoint_path": "/etc/passwd"},
    "a cache": {"cache_dir": "/tmp"},
    "a configuration": {"pretrained_cfg": {"url": "http://127.0.0.1/"}},
    "an overlay": {"pretrained_cfg_overlay": {"file": "/etc/passwd"}},
    "a class": {"norm_layer": "nn.Identity"},
    "wide": {"embed_dim": 10**6},
    "of another type": {"depth": "12"},
    "true": {"depth": True},
    "not a number": {"mlp_ratio": float("nan")},
    "heads that do not divide": {"num_heads": 7},
    "too many patches": {"img_size": 4096, "patch_size": 1},
    "too many classes": {"num_classes": 10**9},
    "more than the memory": {"depth": 32, "embed_dim": 32_768, "num_heads": 512},
    "as its own name": {"timm_name": "x"},
}
NAMES = (
    *("hf-hub:timm/vit", "hf_hub:timm/vit", "local-dir:/tmp", "/tmp/vit", "../vit"),
    *("https://example.org/vit", "vit_tiny_patch16_224.no_such_tag/..", "resnet18", "\x1b[2Jvit"),
)


def built_as_described(path: Path) -> None:
    """Build what a file describes; a description in order may still be that of another network."""
    found = read_weights(path, averaged=True)
    if found.spec is None:
        raise ConfigError("--model", "", found.refused)
    loaded_network(found, found.spec, 5)


@pytest.mark.parametrize("source", ["metadata", "config.json", "beside"])
@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        *((SPEC.timm, kwargs) for kwargs in DESCRIPTIONS.values()),
        *((name, {}) for name in NAMES),
        *((SPEC.timm, kwargs) for kwargs in ([], "x", 3)),
    ],
)
def test_a_hostile_description_is_no_model(
    tmp_path: Path, weights: dict[str, Tensor], source: str, name: str, kwargs: Any
) -> None:
    path, about = tmp_path / "model.safetensors", {"timm": name, "kwargs": kwargs}
    metadata = {key: value if key == "timm" else json.dumps(value) for key, value in about.items()}
    save_file(weights, path, metadata=metadata if source == "metadata" else None)
    if source == "config.json":
        body = {"architecture": name, "model_args": kwargs}
        (tmp_path / "config.json").write_text(json.dumps(body))
        path = tmp_path
    if source == "beside":
        path.with_name(f"{path.name}.json").write_text(json.dumps(about))
    with pytest.raises(ConfigError) as caught:
        built_as_described(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()


def _in_little_memory(path: str, queue: Any) -> None:
    before = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (before + 2**29, resource.RLIM_INFINITY))
    try:
        file = read_weights(Path(path), averaged=True)
        loaded_network(file, file.spec or SPEC, 5)
        queue.put("taken")
    except AutoprogError as error:
        queue.put(str(error))


def test_a_small_file_that_describes_a_large_network_takes_no_memory(
    tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    kwargs = {"depth": 12, "embed_dim": 4096, "num_heads": 64}  # 9.7 GB
    metadata = {"timm": "vit_tiny_patch16_224", "kwargs": json.dumps(kwargs)}
    save_file(weights, tmp_path / "w.safetensors", metadata=metadata)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_little_memory, args=(str(tmp_path / "w.safetensors"), queue))
    child.start()
    message = queue.get(timeout=60)
    child.join(10)
    assert "must hold the weights of vit_tiny_patch16_224" in message
