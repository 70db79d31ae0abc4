"""Weights in formats of others: loaded by timm's local-dir, and run by onnxruntime."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

from autoprog.cli import main
from autoprog.train import export
from autoprog.train.model import build_model
from supernet.config import SubnetConfig, TokenRule
from supernet.elastic import ElasticViT
from supernet.zoo import ZOO

Capture = pytest.CaptureFixture[str]
HERE = ("--device", "cpu", "--threads", "1", "--workers", "0")


def trained(runs: Path, model: str) -> Path:
    words = ("train", "--schedule", "constant", "--model", model, "--epochs", "0.1", "-q", *HERE)
    assert main([*words, "--crop-pct", "0.8", "--runs-dir", str(runs)]) == 0
    (run,) = runs.iterdir()
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("plain"), "vit-mu")


def images(side: int) -> Tensor:
    return torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(0))


def network(run: Path, model: str = "vit-mu", weights: str = "final_ema") -> ElasticViT:
    elastic = build_model(ZOO[model], 10, 0).eval()
    elastic.vit.load_state_dict(load_file(run / "checkpoints" / f"{weights}.safetensors"))
    return elastic


@pytest.mark.parametrize("weights", ["ema", "online"])
def test_timm_loads_the_folder_with_equal_logits(
    run: Path, tmp_path: Path, capsys: Capture, weights: str
) -> None:
    folder = tmp_path / "vit-mu v1.0"
    words = ("--format", "hf", "--weights", weights, "--output", str(folder))
    assert main(["export", str(run), *words]) == 0
    first, line, images_line = capsys.readouterr().out.splitlines()
    assert images_line.startswith("images: timm.data.create_transform(input_size=(3, 16, 16)")
    assert first == str(folder)
    assert line == f"load with: timm.create_model('local-dir:{folder}', pretrained=True)"
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    elastic = network(run, weights={"ema": "final_ema", "online": "final"}[weights])
    with torch.no_grad():
        logits = loaded(images(16))
        assert torch.equal(logits, elastic(images(16), ZOO["vit-mu"].full))
    assert logits.shape == (3, 10)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_the_folder_says_how_images_are_prepared(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    assert main(["export", str(run), "--format", "hf", "--output", str(folder)]) == 0
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True)
    data = timm.data.resolve_model_data_config(loaded)
    assert (tuple(data["input_size"]), data["crop_pct"]) == ((3, 16, 16), 0.8)
    assert tuple(data["mean"]) == tuple(network(run).vit.pretrained_cfg["mean"])


def test_a_model_that_timm_cannot_load_from_a_folder_is_refused(
    tmp_path: Path, capsys: Capture
) -> None:
    run, folder = trained(tmp_path / "runs", "vit-mu-local"), tmp_path / "folder"
    capsys.readouterr()
    assert main(["export", str(run), "--format", "hf", "--output", str(folder)]) == 2
    assert capsys.readouterr().err == (
        "autoprog: --format: must be weights: vit-mu-local is built by supernet.locality,"
        " but got 'hf'\n"
    )
    assert not folder.exists()


@pytest.mark.parametrize(("side", "rate"), [(16, 1.0), (12, 0.5)])
def test_onnxruntime_runs_a_cell_with_equal_logits(
    run: Path, tmp_path: Path, capsys: Capture, side: int, rate: float
) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime: Any = pytest.importorskip("onnxruntime")
    output = tmp_path / "cell.onnx"
    words = ("--format", "onnx", "--img-size", str(side), "--keep-rate", str(rate))
    assert main(["export", str(run), *words, "--output", str(output)]) == 0
    assert "onnxruntime.InferenceSession" in capsys.readouterr().out
    beside = [f"{output.name}{ending}" for ending in ("", ".classes.txt", ".json")]
    assert sorted(path.name for path in tmp_path.iterdir()) == beside
    session = onnxruntime.InferenceSession(str(output), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"images": images(side).numpy()})
    with torch.no_grad():
        elastic = network(run)(images(side), SubnetConfig(4, side, TokenRule(rate)))
    torch.testing.assert_close(torch.from_numpy(logits), elastic, atol=1e-5, rtol=1e-4)


def test_without_the_extra_the_refusal_names_it(
    run: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = {"onnxscript"}
    find = importlib.util.find_spec
    monkeypatch.setattr(export, "find_spec", lambda n: None if n in missing else find(n))
    words = ("--format", "onnx", "--output", str(tmp_path / "cell.onnx"))
    assert main(["export", str(run), *words]) == 2
    assert "pip install 'autoprog[onnx]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


REFUSED = {
    "a folder that is there": ("hf", ".", 2, "must be a new folder"),
    "a path below a file": ("hf", "/dev/null/folder", 2, "must lie in an existing folder"),
    "an ending": ("onnx", "cell.pth", 2, "must end in .onnx"),
    "a missing folder": ("onnx", "no/cell.onnx", 2, "must lie in an existing folder"),
}


@pytest.mark.parametrize(("kind", "output", "code", "problem"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_written_is_one_line(
    run: Path,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    output: str,
    code: int,
    problem: str,
) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxscript")
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(run), "--format", kind, "--output", output]) == code
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert problem in shown.err
    assert list(tmp_path.iterdir()) == []


def test_a_keep_rate_does_not_go_with_a_folder(run: Path, tmp_path: Path, capsys: Capture) -> None:
    words = ("--format", "hf", "--keep-rate", "0.5", "--output", str(tmp_path / "folder"))
    assert main(["export", str(run), *words]) == 2
    assert "--keep-rate: must go with --format torch-export or onnx" in capsys.readouterr().err
