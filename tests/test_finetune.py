"""Variants and fine-tuning on the command line: what one run hands over, another starts from."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

import supernet.locality  # noqa: F401 - registers what is exported below
from autoprog.cli import main
from autoprog.runs import Run, load_run
from autoprog.stage import as_depth

HERE = ("--device", "cpu", "--threads", "1", "--workers", "0", "--amp", "none", "-q")


def run(folder: str, *words: object) -> Run:
    """Carry out a command line; return the run that it made."""
    assert main([str(word) for word in (*words, *HERE, "--runs-dir", folder)]) == 0
    (path,) = Path(folder).iterdir()
    return load_run(path)


def test_a_local_network_is_trained_exported_and_searched_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = ("--model", "vit-mu-local")
    first = run("first", "train", "--schedule", "linear", *model, "--epochs", 2)
    assert first.manifest.settings.model.timm == "local_vit_tiny_patch16_224"
    assert main(["export", str(first.path), "--output", "local.pth"]) == 0
    line = capsys.readouterr().out.splitlines()[-3].removeprefix("load with: ")
    statement, build = line.split("; ")
    assert statement == "import supernet.locality"
    vit = eval(build, {"timm": timm})
    assert vit(torch.randn(2, 3, 16, 16)).shape == (2, 10)

    given = ("--initial-checkpoint", first.path, "--layer-decay", 0.75)
    short = ("--epochs", 4, "--num-stages", 2, "--supernet-epochs", 1)
    second = run("second", "search", *model, *short, *given)
    assert second.manifest.settings.initial_checkpoint == str(first.path.absolute())
    assert second.manifest.settings.recipe.layer_decay == 0.75
    assert second.best is not None
    assert {as_depth(stage.depth) for stage in second.best.stages} == {(4,)}
    candidates = [one.subnet for decision in second.decisions for one in decision.candidates]
    assert {subnet.depth for subnet in candidates} == {(4,)}
    assert {subnet.img_size for subnet in candidates} == {8, 12, 16}
