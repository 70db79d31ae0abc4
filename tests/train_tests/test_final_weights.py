"""What a run hands back is a plain timm checkpoint."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from autoprog.cli import main
from autoprog.presets import linear
from autoprog.train.evaluate import evaluate
from autoprog.train.phase import plain_choice
from supernet.zoo import ZOO

SPEC = ZOO["vit-mu"]


@pytest.fixture(scope="module")
def trained(module_bench: Any) -> tuple[Any, Any]:
    """Return the outcome of a run and its trainer, whose networks hold the final weights."""
    settings = module_bench.settings(module_bench.rich)
    schedule = linear(SPEC, 4, settings.recipe.strength)
    trainer = module_bench.trainer(settings, schedule)
    return module_bench.carry_out(trainer, schedule), trainer


@pytest.fixture
def images() -> Tensor:
    return torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def elastic_logits(trainer: Any, weights: str, images: Tensor) -> Tensor:
    averaged = weights == "final_ema"
    network = trainer.stepper.emas[-1].module if averaged else trainer.stepper.model
    with torch.no_grad():
        return network.eval()(images, SPEC.full)


@pytest.mark.parametrize("weights", ["final", "final_ema"])
def test_plain_timm_loads_the_final_weights_strictly(
    trained: tuple[Any, Any], images: Tensor, weights: str
) -> None:
    outcome, trainer = trained
    path = outcome.path / "checkpoints" / f"{weights}.safetensors"
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
    kwargs = json.loads(about["kwargs"])
    plain = timm.create_model(about["timm"], num_classes=int(about["num_classes"]), **kwargs)
    plain.load_state_dict(load_file(path), strict=True)
    with torch.no_grad():
        logits = plain.eval()(images)
    assert logits.shape == (8, 10)
    assert torch.equal(logits, elastic_logits(trainer, weights, images))


def test_online_and_averaged_weights_differ(trained: tuple[Any, Any], images: Tensor) -> None:
    _, trainer = trained
    online, averaged = (elastic_logits(trainer, name, images) for name in ("final", "final_ema"))
    assert not torch.allclose(online, averaged, atol=1e-4)


def test_the_result_is_the_accuracy_of_the_final_weights(trained: tuple[Any, Any]) -> None:
    outcome, trainer = trained
    networks = []
    for weights in ("final", "final_ema"):
        network = trainer.stepper.emas[-1].module
        network.vit.load_state_dict(
            load_file(outcome.path / "checkpoints" / f"{weights}.safetensors")
        )
        found = evaluate(
            (network,), trainer.data.validation(), plain_choice(SPEC.full), trainer.compute
        )
        networks += [(one.loss, one.top1) for one in found]
    result = outcome.result
    assert networks == [(result.loss, result.top1), (result.loss_ema, result.top1_ema)]


@pytest.mark.parametrize("ending", ["pth", "pt", "safetensors"])
@pytest.mark.parametrize("choice", ["ema", "online"])
def test_the_printed_line_builds_the_model(
    trained: tuple[Any, Any],
    images: Tensor,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    ending: str,
    choice: str,
) -> None:
    outcome, trainer = trained
    output = tmp_path / f"it's mine.{ending}"
    assert main(["export", str(outcome.path), "--output", str(output), "--weights", choice]) == 0
    first, line, *_ = capsys.readouterr().out.splitlines()
    assert first == str(output)
    names: dict[str, Any] = {"timm": timm}
    exec(line.replace("load with: ", "model = "), names)
    with torch.no_grad():
        logits = names["model"].eval()(images)
    weights = {"ema": "final_ema", "online": "final"}[choice]
    assert torch.equal(logits, elastic_logits(trainer, weights, images))
    beside = [f"{output.name}{ending}" for ending in ("", ".classes.txt", ".json")]
    assert sorted(path.name for path in tmp_path.iterdir()) == beside


def test_an_exported_pth_holds_nothing_but_tensors(
    trained: tuple[Any, Any], tmp_path: Path
) -> None:
    outcome, _ = trained
    output = tmp_path / "weights.pth"
    main(["export", str(outcome.path), "--output", str(output)])
    state = torch.load(output, weights_only=True)
    plain = timm.create_model(SPEC.timm, num_classes=10, **SPEC.create_kwargs())
    assert state.keys() == plain.state_dict().keys()
    assert {type(value) for value in state.values()} == {Tensor}


REFUSED = {
    "another ending": (["--output", "weights.onnx"], 2, "must end in .pth, .pt or .safetensors"),
    "a missing folder": (["--output", "no/such/weights.pth"], 2, "must lie in an existing folder"),
    "a missing folder of safetensors": (
        ["--output", "no/w.safetensors"],
        2,
        "must lie in an existing folder",
    ),
}


@pytest.mark.parametrize(("flags", "code", "problem"), REFUSED.values(), ids=REFUSED)
def test_an_export_that_cannot_be_written_is_one_line(
    trained: tuple[Any, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    code: int,
    problem: str,
) -> None:
    outcome, _ = trained
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(outcome.path), *flags]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert problem in shown.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, pickle.dumps([1])])
def test_damaged_weights_are_refused_in_one_line(
    trained: tuple[Any, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes,
) -> None:
    outcome, _ = trained
    path = outcome.path / "checkpoints" / "final.safetensors"
    whole = path.read_bytes()
    path.write_bytes(content)
    try:
        output = tmp_path / "weights.pth"
        flags = ["--weights", "online", "--output", str(output)]
        assert main(["export", str(outcome.path), *flags]) == 2
    finally:
        path.write_bytes(whole)
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1
    assert "final.safetensors: must hold weights, but it is" in shown.err
    assert not output.exists()


def test_an_unfinished_run_is_not_exported(
    bench: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = bench.folder(bench.settings())
    folder.close()
    assert main(["export", str(folder.path), "--output", str(tmp_path / "weights.pth")]) == 2
    assert capsys.readouterr().err == (
        f"autoprog: RUN: must be a finished run, but got {str(folder.path)!r};"
        " go on with --resume first\n"
    )
