"""Weights of files, whoever wrote them; nothing is unpickled but tensors."""

from __future__ import annotations

import argparse
import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from autoprog.errors import ConfigError
from autoprog.train.model import build_model
from autoprog.train.weights import WeightsFile, load_weights, read_weights
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
    for change, law in (
        (lambda s: s.pop("cls_token"), "1 missing, such as cls_token"),
        (lambda s: s.update(dist_token=torch.zeros(1)), "1 too many, such as dist_token"),
        (lambda s: s.update({"head.bias": torch.zeros(7)}), "1 of another shape, such as head.b"),
    ):
        state = dict(states[0])
        change(state)
        with pytest.raises(ConfigError, match=law) as caught:
            load_weights(model, WeightsFile(Path("w.pth"), state, None))
        assert str(caught.value).endswith("at 16 px with 5 classes")
        assert equal(model.state_dict(), before)
    load_weights(model, WeightsFile(Path("w.pth"), states[0], None))
    assert equal(plain_state_dict(model), states[0])
