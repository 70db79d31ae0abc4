"""Weights of files, whoever wrote them; nothing is unpickled but tensors."""

from __future__ import annotations

import argparse
import copy
import gzip
import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from autoprog.errors import ConfigError
from autoprog.train.model import build_model
from autoprog.train.weights import WeightsFile, check_fits, loaded_network, read_weights
from supernet.export import plain_state_dict
from supernet.zoo import ZOO

SPEC = ZOO["vit-mu"]


@pytest.fixture(scope="module")
def states() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the weights of two networks."""
    one, two = (plain_state_dict(build_model(SPEC, 5, seed)) for seed in (0, 1))
    return one, two


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_state_dict_is_read_as_it_is(tmp_path: Path, states: Any) -> None:
    path = tmp_path / "w.pth"
    torch.save(states[0], path)
    found = read_weights(path, averaged=True)
    assert equal(found.state, states[0])
    assert found.spec is None


@pytest.mark.parametrize("averaged", [True, False])
@pytest.mark.parametrize("names", [("state_dict", "state_dict_ema"), ("model", "model_ema")])
def test_checkpoints_of_timm_hold_both_networks(
    tmp_path: Path, states: Any, averaged: bool, names: tuple[str, str]
) -> None:
    path = tmp_path / "checkpoint.pth.tar"
    online = {f"module.{key}": value for key, value in states[0].items()}  # as DDP names them
    flags = argparse.Namespace(lr=0.1)
    torch.save({"epoch": 3, "args": flags, names[0]: online, names[1]: states[1]}, path)
    assert equal(read_weights(path, averaged).state, states[1 if averaged else 0])


def test_a_checkpoint_without_averages_gives_what_it_has(tmp_path: Path, states: Any) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": states[0], "epoch": 3}, path)
    assert equal(read_weights(path, averaged=True).state, states[0])


def test_a_safetensors_file_says_what_it_is_for(tmp_path: Path, states: Any) -> None:
    path = tmp_path / "w.safetensors"
    about = {"timm": SPEC.timm, "kwargs": '{"img_size": 16, "depth": 4}', "num_classes": "5"}
    save_file(states[0], path, metadata=about)
    found = read_weights(path, averaged=True)
    assert found.spec is not None
    assert (found.spec.timm, found.spec.img_size, found.spec.depth) == (SPEC.timm, 16, (4,))
    for kwargs in ("{}}", '{"dept": 4}', "[1]"):
        save_file(states[0], path, metadata={**about, "kwargs": kwargs})
        assert read_weights(path, averaged=True).spec is None


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("gone off",))


BAD: dict[str, Any] = {
    "empty": b"",
    "noise": b"\xff" * 100,
    "a pickle": pickle.dumps({"a": Bomb()}),
    "a torch file with code": {"a": Bomb()},
    "no tensors": {"a": 1},
    "a list": [torch.zeros(1)],
    "a tensor": torch.zeros(1),
    "nested": {"weights": {"a": torch.zeros(1)}},
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_what_holds_no_weights_is_refused_in_one_line_and_never_run(
    tmp_path: Path, content: Any, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"w.{ending}"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(
        ConfigError, match=r"w\..*: must hold (weights|tensors by name), but it "
    ) as caught:
        read_weights(path, averaged=True)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


def tar_of(path: Path, content: bytes) -> None:
    with tarfile.open(path, "w") as archive:
        about = tarfile.TarInfo("w.pth")
        about.size = len(content)
        archive.addfile(about, io.BytesIO(content))


def zip_of(path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "x")


def cut(path: Path, write: Callable[[Path], Any]) -> None:
    write(path)
    path.write_bytes(path.read_bytes()[:-40])


WEIGHTS = {"a": torch.zeros(100)}
SGD = torch.optim.SGD([torch.zeros(1, requires_grad=True)], momentum=0.9)
SAVE = r"torch\.save\(model\.state_dict\(\), FILE\)"
OTHERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a numpy metric": (
        lambda path: torch.save({"state_dict": WEIGHTS, "best": np.float64(1)}, path),
        r"a checkpoint with more than tensors in it, such as 'numpy.*checkpoint\['state_dict'\]",
    ),
    "a model": (
        lambda path: torch.save(torch.nn.Linear(2, 2), path),
        f"a whole pickled model .*{SAVE}",
    ),
    "a model of timm": (
        lambda path: torch.save(timm.create_model("vit_tiny_patch16_224", depth=1), path),
        f"a whole pickled model \\(timm\\.models\\.vision_transformer.*{SAVE}",
    ),
    "a model of an old torch": (
        lambda path: torch.save(torch.nn.Linear(2, 2), path, _use_new_zipfile_serialization=False),
        f"a whole pickled model \\(torch\\.nn\\.modules\\.linear\\.Linear.*{SAVE}",
    ),
    "an optimizer": (lambda path: torch.save(SGD.state_dict(), path), "the state of an optimizer"),
    "a checkpoint without weights": (
        lambda path: torch.save({"epoch": 3, "loss": 0.5}, path),
        "holds only 'epoch', 'loss'",
    ),
    "no entries": (lambda path: torch.save({}, path), "it holds nothing"),
    "a web page": (
        lambda path: path.write_text("\n<!DOCTYPE html>\n<html><body>Not found\n"),
        "a web page",
    ),
    "an XML file": (lambda path: path.write_text("<?xml version='1.0'?><Error/>"), "an XML file"),
    "a pointer": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "a git-LFS pointer, not the file itself; run git lfs pull",
    ),
    "an empty file": (lambda path: path.write_bytes(b""), "an empty file; copy or download"),
    "zeros": (lambda path: path.write_bytes(bytes(5000)), "a file of zeros"),
    "JSON": (lambda path: path.write_text('{"num_classes": 3}'), "a JSON file"),
    "long JSON": (lambda path: path.write_text("[" + "1, " * 5000 + "1]"), "a JSON file"),
    "text": (lambda path: path.write_text("\x1b[1mhällo\n"), r"is "),
    "YAML": (lambda path: path.write_text("schema: 1\n"), "text file that begins with 'schema: 1'"),
    "a tar": (lambda path: tar_of(path, b"x"), "a tar archive; unpack it"),
    "gzip": (lambda path: path.write_bytes(gzip.compress(b"x")), "a gzip archive; unpack it"),
    "a zip": (
        lambda path: zip_of(path, "a.txt", "b.txt"),
        "a zip archive with 'a.txt', 'b.txt' in",
    ),
    "an empty zip": (lambda path: zip_of(path), "a zip archive with nothing in it"),
    "numpy arrays": (lambda path: np.savez(path.open("wb"), a=np.zeros(2)), "numpy arrays"),
    "a numpy array": (lambda path: np.save(path.open("wb"), np.zeros(2)), "a numpy array"),
    "a torch file that is cut": (
        lambda path: cut(path, lambda p: torch.save(WEIGHTS, p)),
        "the end of the zip archive is mis",
    ),
    "safetensors that are cut": (
        lambda path: cut(path, lambda p: save_file(WEIGHTS, p)),
        r"cut off: 4\d\d of 4\d\d bytes",
    ),
    "safetensors without an end of the header": (
        lambda path: path.write_bytes((1000).to_bytes(8, "little") + b'{"a": 1'),
        "in its header",
    ),
    "a program": (
        lambda path: torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path),
        "a TorchScript program",
    ),
    "an exported program": (
        lambda path: torch.export.save(
            torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),)), path.open("wb")
        ),
        r"a program of torch\.export",
    ),
    "a pickle": (
        lambda path: path.write_bytes(pickle.dumps([1])),
        "pickle that torch.save did not",
    ),
    "an image": (lambda path: Image.new("RGB", (2, 2)).save(path, "png"), "an image"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize(("write", "what"), OTHERS.values(), ids=OTHERS)
def test_a_file_of_something_else_is_named(
    tmp_path: Path, write: Callable[[Path], Any], what: str, ending: str
) -> None:
    path = tmp_path / f"w.{ending}"
    write(path)
    with pytest.raises(ConfigError, match=what) as caught:
        read_weights(path, averaged=True)
    message = str(caught.value)
    assert "must hold " in message
    assert message.isprintable()
    assert len(message) - len(str(path)) < 260
    assert not message.endswith("…")


def test_weights_are_told_by_their_bytes_and_not_by_the_ending(tmp_path: Path, states: Any) -> None:
    save_file(states[0], tmp_path / "w.pth")
    torch.save(states[0], tmp_path / "w.safetensors")
    torch.save(states[0], tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("w.pth", "w.safetensors", "old.pth"):
        assert equal(read_weights(tmp_path / name, averaged=True).state, states[0])


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "net"])
def test_it_is_said_which_weights_were_taken(tmp_path: Path, states: Any, key: str) -> None:
    torch.save({key: states[0], "optimizer": {}}, tmp_path / "w.pth")
    found = read_weights(tmp_path / "w.pth", averaged=True)
    assert found.taken == f"online weights, {key!r} of w.pth"
    assert equal(found.state, states[0])


def test_a_folder_of_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"with config\.json and model\.safetensors; it holds 'a"):
        read_weights(tmp_path, averaged=True)


def test_a_folder_of_the_hub_names_model_and_classes(tmp_path: Path, states: Any) -> None:
    save_file(states[0], tmp_path / "model.safetensors")
    config = {
        "architecture": SPEC.timm,
        "model_args": {"depth": 4, "img_size": [16, 16], "num_classes": 5},
        "label_names": {"1": "b", "0": "a", "10": "e", "2": "c", "3": "d"},
        "pretrained_cfg": {"input_size": [3, 16, 16], "crop_pct": 0.7, "license": "mit"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = read_weights(tmp_path, averaged=True)
    assert found.spec is not None
    assert (found.spec.depth, found.spec.img_size) == ((4,), 16)
    assert found.class_names == ("a", "b", "c", "d", "e")
    assert found.images == {"img_size": 16, "crop_pct": 0.7}


def test_the_state_of_a_run_holds_both_networks(tmp_path: Path, states: Any) -> None:
    path = tmp_path / "last.pt"
    torch.save({"model": states[0], "emas": [states[0], states[1]], "optimizer": {}}, path)
    for averaged, state in ((False, states[0]), (True, states[1])):
        assert equal(read_weights(path, averaged).state, state)
    with pytest.raises(ConfigError, match="must be an existing weights file or a run folder"):
        read_weights(tmp_path / "none.pth", averaged=True)


def test_weights_of_another_network_are_named_in_one_line(states: Any) -> None:
    model, before = build_model(SPEC, 5, 2), None
    before = copy.deepcopy(model.state_dict())
    for change, problem in (
        (lambda s: s.pop("cls_token"), "1 missing, such as cls_token"),
        (lambda s: s.update(dist_token=torch.zeros(1)), "1 too many, such as dist_token"),
        (lambda s: s.update({"head.bias": torch.zeros(7)}), "1 of another shape, such as head.b"),
    ):
        state = dict(states[0])
        change(state)
        with pytest.raises(ConfigError, match=problem) as caught:
            check_fits(model, WeightsFile(Path("w.pth"), state, None))
        assert str(caught.value).endswith("at 16 px with 5 classes")
        assert equal(model.state_dict(), before)
    loaded = loaded_network(WeightsFile(Path("w.pth"), states[0], None), SPEC, 5)
    assert equal(plain_state_dict(loaded), states[0])
