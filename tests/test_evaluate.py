"""``autoprog evaluate`` and programs of ``autoprog export``: one set of weights at many sizes and rates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from autoprog.cli import main
from autoprog.grid import EvaluatedCell, EvaluationGrid, cells_of, front
from autoprog.runs import load_run
from autoprog.train.model import build_model
from autoprog.ui.grid import grid_document, grid_text
from supernet.config import SubnetConfig, TokenRule
from supernet.zoo import ZOO

HERE = ("--device", "cpu", "--threads", "1", "--workers", "0")
FULL = SubnetConfig(4, 16)
RATES = [TokenRule(rate, "class_attention", (1, 2, 3)) for rate in (0.5, 0.7, 1.0)]


@pytest.fixture(scope="module")
def elastic_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("elastic")
    words = ("train", "--elastic", "--model", "vit-mu", "--epochs", "1", "-q", *HERE)
    assert main([*words, "--runs-dir", str(runs)]) == 0
    (run,) = runs.iterdir()
    return run


def evaluated(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    assert main(["evaluate", *map(str, words), "--json", *HERE]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main(["evaluate", *map(str, words), *HERE]) == 2
    return capsys.readouterr().err


def test_an_elastic_run_has_a_grid_of_what_it_trained(
    elastic_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = evaluated(capsys, elastic_run, "--grid", "--rounds", 1)
    cells = [(cell["img_size"], cell["keep_rate"]) for cell in grid["cells"]]
    assert cells == [(size, rate) for size in (16, 12, 8) for rate in (1.0, 0.7, 0.5)]
    assert {cell["by"] for cell in grid["cells"] if cell["keep_rate"] < 1} == {"class_attention"}
    macs = [cell["macs"] for cell in grid["cells"]]
    assert macs[0] == max(macs)
    assert macs[-1] == min(macs)
    assert all(cell["images_per_second"] > 0 for cell in grid["cells"])
    assert any(cell["on_front"] for cell in grid["cells"])


def test_the_full_cell_is_what_the_run_itself_found(
    elastic_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cell,) = evaluated(capsys, elastic_run, "--rounds", 0)["cells"]
    result = load_run(elastic_run).result
    assert result is not None
    assert cell["top1"] == pytest.approx(result.top1_ema, abs=0.3)
    assert cell["loss"] == pytest.approx(result.loss_ema, rel=1e-5)
    assert cell["images_per_second"] is None


def test_weights_of_a_file_need_a_model_and_give_the_same(
    elastic_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = elastic_run / "checkpoints" / "final.safetensors"
    weights = tmp_path / "bare.safetensors"
    save_file(load_file(source), weights)
    words = ("--rounds", 0, "--keep-rates", 1, 0.5, "--recipe", "digits")
    assert "--model: must be given" in refused(capsys, weights)
    bare = evaluated(capsys, weights, "--model", "vit-mu", *words)
    own = evaluated(capsys, elastic_run, "--weights", "online", "--by", "magnitude", *words[:-2])
    assert [cell["loss"] for cell in bare["cells"]] == [
        pytest.approx(cell["loss"]) for cell in own["cells"]
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--keep-rates", 0), "--keep-rates: must lie in (0, 1], but got 0.0"),
        (("--img-sizes", 10), "--img-sizes: must be a multiple of the stride 4, but got 10"),
        (("--img-sizes", 32), "--img-sizes: must be at most the full size 16, but got 32"),
        (
            ("--keep-rates", 0.5, "--at-blocks", 4),
            "--at-blocks: must be below the depth 4, but got 4",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    elastic_run: Path, capsys: pytest.CaptureFixture[str], words: tuple[object, ...], said: str
) -> None:
    assert said in refused(capsys, elastic_run, *words)


def test_weights_of_another_network_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "w.pth"
    torch.save({"head.weight": torch.zeros(10, 24)}, weights)
    assert "must hold the weights of vit-mu" in refused(capsys, weights, "--model", "vit-mu")
    weights.write_bytes(b"no weights")
    assert "must be a readable weights file" in refused(capsys, weights, "--model", "vit-mu")


def test_a_cell_is_exported_as_a_program(
    elastic_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "cell.pt2"
    words = ("--format", "torch-export", "--img-size", "12", "--keep-rate", "0.5")
    assert main(["export", str(elastic_run), *words, "--output", str(output)]) == 0
    assert "torch.export.load" in capsys.readouterr().out
    model = build_model(ZOO["vit-mu"], 10, 0).eval()
    model.vit.load_state_dict(load_file(elastic_run / "checkpoints" / "final_ema.safetensors"))
    images = torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        elastic = model(images, SubnetConfig(4, 12, RATES[0]))
        program = torch.export.load(output).module()(images)
    assert torch.allclose(program, elastic, atol=1e-5)


def test_a_state_dict_is_that_of_the_whole_network(
    elastic_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("export", str(elastic_run), "--keep-rate", "0.5", "--output", str(tmp_path / "w.pth"))
    assert main(list(words)) == 2
    assert "--keep-rate: must go with --format torch-export" in capsys.readouterr().err


def test_each_size_may_have_positions_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("train", "--elastic", "--pos-embed", "per-size", "--model", "vit-mu", "--epochs", "1")
    assert main([*words, "-q", *HERE, "--runs-dir", str(tmp_path)]) == 0
    (run,) = tmp_path.iterdir()
    plain = build_model(ZOO["vit-mu"], 10, 0)
    plain.vit.load_state_dict(load_file(run / "checkpoints/final_ema.safetensors"), strict=True)
    tables = load_file(run / "checkpoints/final_ema_tables.safetensors")
    assert {key: tuple(table.shape) for key, table in tables.items()} == {
        "pos_embed_list.8": (1, 5, 24),
        "pos_embed_list.12": (1, 10, 24),
    }
    capsys.readouterr()
    grid = evaluated(capsys, run, "--img-sizes", 16, 12, "--rounds", 0)
    losses = [cell["loss"] for cell in grid["cells"]]
    (run / "checkpoints/final_ema_tables.safetensors").write_bytes(
        (run / "checkpoints/final_tables.safetensors").read_bytes()
    )
    others = [
        c["loss"] for c in evaluated(capsys, run, "--img-sizes", 16, 12, "--rounds", 0)["cells"]
    ]
    assert others[0] == losses[0]
    assert others[1] != losses[1]


def test_positions_by_size_are_for_sandwich_steps(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("train", "--schedule", "constant", "--pos-embed", "per-size", "--model", "vit-mu")
    assert main([*words, *HERE]) == 2
    assert "--pos-embed: must be resampled" in capsys.readouterr().err


def test_cells_are_every_size_under_every_rule_once() -> None:
    cells = cells_of(FULL, [8, 16, 8], [*RATES, RATES[0]])
    assert [(c.img_size, c.tokens.keep_rate) for c in cells] == [
        (size, rate) for size in (16, 8) for rate in (1.0, 0.7, 0.5)
    ]


def cell(top1: float, macs: int) -> EvaluatedCell:
    return EvaluatedCell(FULL, top1, 1.0, macs)


def test_the_front_is_what_nothing_beats() -> None:
    cells = [cell(50, 100), cell(40, 50), cell(45, 120), cell(40, 60), cell(50, 100)]
    assert front(cells) == (True, True, False, False, True)


def test_a_grid_is_told_in_ascii_and_in_json() -> None:
    cells = (
        cell(50.0, 100),
        EvaluatedCell(SubnetConfig(4, 8, RATES[0]), 40.0, float("nan"), 50, 9.0),
    )
    grid = EvaluationGrid("vit-mu", "w.pth", "cpu", "none", 8, 360, cells)
    text = grid_text(grid)
    assert text.isascii()
    assert "tokens kept by class attention at block 1, 2, 3" in text
    document = grid_document(grid)
    assert document["cells"][1]["loss"] is None
    json.dumps(document, allow_nan=False)
