"""``autoprog evaluate`` and programs of ``autoprog export``: one set of weights at many sizes and rates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from autoprog.cli import main
from autoprog.data.opening import open_data
from autoprog.data.run_data import open_run_data
from autoprog.runs import load_run
from autoprog.train.model import build_model, transform_settings
from supernet.config import SubnetConfig, TokenRule
from supernet.elastic import ElasticViT
from supernet.zoo import ZOO

HERE = ("--device", "cpu", "--threads", "1", "--workers", "0")
HALF = TokenRule(0.5, "class_attention", (1, 2, 3))


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


def network(run: Path) -> ElasticViT:
    model = build_model(ZOO["vit-mu"], 10, 0).eval()
    model.vit.load_state_dict(load_file(run / "checkpoints" / "final_ema.safetensors"))
    return model


def exit_code(words: list[str]) -> int:
    """Return what a command ends with, also where argparse ends it."""
    try:
        return main(words)
    except SystemExit as ended:
        return int(ended.code or 0)


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert exit_code(["evaluate", *map(str, words), *HERE]) == 2
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


def test_every_cell_is_the_forward_of_its_subnet_on_full_images(
    elastic_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = evaluated(capsys, elastic_run, "--grid", "--rounds", 0)
    settings, model = load_run(elastic_run).manifest.settings, network(elastic_run)
    run_data = open_run_data(
        open_data(settings.data), transform_settings(model, settings.recipe), settings, False
    )
    images, targets = (torch.cat(parts) for parts in zip(*run_data.validation(), strict=True))
    assert images.shape == (grid["num_images"], 3, 16, 16)
    for cell in grid["cells"]:
        rule = TokenRule(cell["keep_rate"], cell["by"], cell["at_blocks"])
        with torch.no_grad():
            logits = model(images, SubnetConfig(4, cell["img_size"], rule))
        top1 = 100 * (logits.argmax(1) == targets).double().mean().item()
        assert cell["top1"] == pytest.approx(top1, abs=0.3)  # one image of 360
        loss = torch.nn.functional.cross_entropy(logits, targets).item()
        assert cell["loss"] == pytest.approx(loss, rel=1e-4)


def test_random_tokens_are_drawn_alike_each_time(
    elastic_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--by", "random", "--keep-rates", 0.5, "--rounds", 0)
    first, second = (evaluated(capsys, elastic_run, *words) for _ in range(2))
    assert first == second
    assert first["cells"][0]["at_blocks"] == [0]


def test_given_sizes_and_rates_are_the_cells(
    elastic_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--img-sizes", 8, 16, "--keep-rates", 0.5, 1, "--rounds", 0)
    grid = evaluated(capsys, elastic_run, *words)
    cells = [(cell["img_size"], cell["keep_rate"]) for cell in grid["cells"]]
    assert cells == [(16, 1.0), (16, 0.5), (8, 1.0), (8, 0.5)]
    assert grid["cells"][1]["at_blocks"] == [1, 2, 3]


def test_without_a_terminal_it_is_aligned_text(
    elastic_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--keep-rates", "1", ".5", "--rounds", "2", "--batch-size", "16")
    assert main(["evaluate", str(elastic_run), *words, *HERE]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    head, _, names, full, pruned, *_ = shown.out.splitlines()
    assert "360 validation images (top-1 +- 3.2), batches of 16 on cpu" in head
    assert names.split() == ["px", "keep-rate", "MACs", "top-1", "%", "loss", "images/s", "front"]
    assert full.split()[:2] == ["16", "1"]
    assert pruned.split()[:2] == ["16", "0.5"]
    assert float(pruned.split()[6].replace(",", "")) > 0


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
        (("--keep-rates", 0), "--keep-rates: must be a number from 1e-06 to 1, but got '0'"),
        (("--img-sizes", 10), "--img-sizes: must be a multiple of the stride 4, but got 10"),
        (
            ("--keep-rates", 0.5, "--at-blocks", 2, 1),
            "--at-blocks: must be rising numbers from 0, but got [2, 1]",
        ),
        (("--model", "vit-xs"), "--model: must be left out: the run says it, but got 'vit-xs'"),
        (
            ("--batch-size", 0),
            "--batch-size: must be a whole number from 1 to 1,048,576, but got '0'",
        ),
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
    assert "w.pth: must hold weights, but it is a text file" in refused(
        capsys, weights, "--model", "vit-mu"
    )


def test_a_cell_is_exported_as_a_program(
    elastic_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "cell.pt2"
    words = ("--format", "torch-export", "--img-size", "12", "--keep-rate", "0.5")
    assert main(["export", str(elastic_run), *words, "--output", str(output)]) == 0
    assert "torch.export.load" in capsys.readouterr().out
    model, images = (
        network(elastic_run),
        torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(0)),
    )
    with torch.no_grad():
        elastic = model(images, SubnetConfig(4, 12, HALF))
        program = torch.export.load(output).module()(images)
    assert torch.allclose(program, elastic, atol=1e-5)


def test_a_state_dict_is_that_of_the_whole_network(
    elastic_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("export", str(elastic_run), "--keep-rate", "0.5", "--output", str(tmp_path / "w.pth"))
    assert main(list(words)) == 2
    assert "--keep-rate: must go with --format torch-export or onnx" in capsys.readouterr().err


EXPORT_REFUSED = {
    "an ending": (["w.pth", "--format", "torch-export"], "--output: must end in .pt2"),
    "a size of a state dict": (["w.pth", "--img-size", "8"], "--img-size: must go with --format"),
    "a size": (
        ["w.pt2", "--format", "torch-export", "--img-size", "32"],
        "--img-size: must be at most the full size 16, but got 32",
    ),
}


@pytest.mark.parametrize(("words", "message"), EXPORT_REFUSED.values(), ids=EXPORT_REFUSED)
def test_a_cell_that_cannot_be_exported_is_refused_in_one_line(
    elastic_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(elastic_run), "--output", *words]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


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


def write_two_classes(folder: Path) -> None:
    for name, value in (("cat", 30), ("dog", 200)):
        (folder / name).mkdir(parents=True)
        for number in range(10):
            picture = Image.new("RGB", (16, 16), (value, number, 90))
            picture.save(folder / name / f"{number}.png")


def test_a_run_without_a_val_part_is_evaluated_on_what_it_held_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_two_classes(tmp_path / "set")
    data = ["--data", str(tmp_path / "set"), "--workers", "0"]
    words = ["train", "--schedule", "constant", "--model", "vit-mu", "--epochs", "1", *data]
    words += ["--batch-size", "8", "--val-fraction", "0.2", "--runs-dir", str(tmp_path / "runs")]
    assert main([*words, "--quiet"]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    capsys.readouterr()
    for more in ([], data):
        assert main(["evaluate", str(run), "--json", *more]) == 0
        (row,) = json.loads(capsys.readouterr().out)["cells"]
        result = load_run(run).result
        assert result is not None
        assert row["loss"] == pytest.approx(result.loss_ema, abs=1e-4)


def test_the_best_weights_of_a_run_are_evaluated_and_exported(
    elastic_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = load_file(elastic_run / "checkpoints" / "best.safetensors")
    (cell,) = evaluated(capsys, elastic_run, "--checkpoint", "best", "--rounds", 0)["cells"]
    result = load_run(elastic_run).result
    assert result is not None
    assert result.best_top1 is not None
    assert cell["top1"] == pytest.approx(result.best_top1, abs=0.3)
    output = tmp_path / "best.safetensors"
    words = ["export", str(elastic_run), "--checkpoint", "best", "--output", str(output)]
    assert main(words) == 0
    found = load_file(output)
    assert all(torch.equal(found[name], best[name]) for name in best)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--checkpoint", "best", "--weights", "online"), "must be final or last for online"),
        (("--checkpoint", "best"), "must go with a run that has best.safetensors"),
    ],
)
def test_best_weights_that_are_not_there_are_refused(
    elastic_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str],
    problem: str,
) -> None:
    interrupted = tmp_path / "run"
    interrupted.mkdir()
    (interrupted / "run.yaml").write_bytes((elastic_run / "run.yaml").read_bytes())
    capsys.readouterr()
    target = elastic_run if "--weights" in words else interrupted
    assert problem in refused(capsys, target, *words)


def test_what_a_run_held_out_is_found_where_the_images_have_moved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_two_classes(tmp_path / "set")
    words = ["train", "--schedule", "constant", "--model", "vit-mu", "--epochs", "1", "--quiet"]
    words += ["--batch-size", "8", "--val-fraction", "0.2", "--runs-dir", str(tmp_path / "runs")]
    assert main([*words, "--workers", "0", "--data", str(tmp_path / "set")]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    (tmp_path / "set").rename(tmp_path / "moved")
    capsys.readouterr()
    moved = ("--data", str(tmp_path / "moved"))
    assert evaluated(capsys, run, *moved)["num_images"] == 4
    assert (
        main(["evaluate", str(run), *moved, "--val-fraction", "0.2", "--val-seed", "1", *HERE]) == 0
    )
    assert "it may have been trained on some" in capsys.readouterr().err
